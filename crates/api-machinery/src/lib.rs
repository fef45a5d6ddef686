//! Pure, kind-free mechanics of the Kubernetes API: what an object, a schema, a patch, a selector or an error is.
//!
//! Nothing here knows a kind, opens a socket, reads a clock or waits. Objects are `serde_json::Value` under a
//! [`schema`]; what is particular to one kind is data in a [`resource::Resource`], written by `api-catalog`.

pub mod apply;
pub mod clock;
pub mod correlate;
pub mod cron;
pub mod decode;
pub mod duration;
pub mod encode;
pub mod entropy;
pub mod field;
pub mod meta;
pub mod names;
pub mod negotiate;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod structural;
pub mod table;
pub mod tunnel;

/// The Kubernetes release whose API this is, and whose it is: what `/version` and nodes say.
pub const VERSION: &str = concat!("v1.37.1+skiff-", env!("CARGO_PKG_VERSION"));
