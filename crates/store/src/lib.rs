//! Revisioned, watchable bytes: what an API server needs of a store, and an embedded one that keeps it on a disk.
//!
//! Knows no objects. Every transaction has a revision of its own, revisions only grow and are never used twice, and a
//! transaction is acknowledged and shown to watchers only after it is on the disk.

mod api;
mod error;

pub use api::*;
pub use error::StoreError;
