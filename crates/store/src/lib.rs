//! Revisioned, watchable bytes: what an API server needs of a store, an embedded one that keeps it on a disk, and one that
//! keeps it in etcd.
//!
//! Knows no objects. Every transaction has a revision of its own, revisions only grow and are never used twice, and a
//! transaction is acknowledged and shown to watchers only after it is on the disk.
//!
//! How the embedded one is made: `embedded` answers, `writer` (alone, on its `thread`) decides a `group` of
//! transactions, appends it to the `log` as one `frame` of `record`s and applies it to the `index`; `snapshot` lets the
//! log be forgotten; `recovery` reads everything back.

mod api;
mod cipher;
mod cursor;
mod disk;
mod embedded;
mod error;
mod etcd;
mod frame;
mod group;
mod index;
mod keys;
mod layout;
mod log;
mod options;
mod record;
mod recovery;
mod retention;
pub mod simdisk;
mod snapshot;
mod thread;
mod writer;

pub use api::*;
pub use cipher::{Encryption, EncryptionKey, Random, system_random};
pub use disk::{Disk, DiskFile, DiskLock, FileDisk, LockError};
pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use etcd::{EtcdOptions, EtcdStore, EtcdTls};
pub use options::{Monotonic, Options, Writer};
pub use recovery::{Recovery, TornTail};
pub use retention::Retention;
