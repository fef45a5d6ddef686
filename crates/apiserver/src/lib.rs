//! The API server: the one request path, from bytes in to bytes out, for every resource. Sole user of the store.
//!
//! It does not know any kind by name where the catalogue can say it, and no component reaches the store but
//! through it.

mod admission;
mod aggregation;
pub mod allocation;
mod authn;
mod authz;
pub mod bootstrap;
pub mod catalog;
pub mod config;
mod custom;
mod discovery;
pub mod egress;
mod events;
pub mod exchange;
pub mod gate;
pub mod kubelets;
pub mod limits;
pub mod metrics;
pub mod pki;
mod policy;
mod protobuf;
pub mod proxy;
mod references;
mod registry;
mod request;
mod reviews;
pub mod serve;
mod server;
mod servers;
mod table;
pub mod tokens;
pub mod types;
pub mod watch;
mod webhooks;
mod yaml;

pub use aggregation::ProxyClient;
pub use authn::front_proxy::RequestHeader;
pub use config::Config;
pub use server::{ApiServer, Dependencies, StartError};
