//! The API server: the one request path, from bytes in to bytes out, for every resource. Sole user of the store.
//!
//! It does not know any kind by name where the catalogue can say it, and no component reaches the store but
//! through it.

pub mod types;
