//! The kubelet: the API above, a container runtime below.
//!
//! Everything that is promised about a pod is a pure function of its spec, what the runtime says, probe results and
//! the time (`lifecycle`). A worker a pod feeds that function and does what it says. State is rebuilt from the runtime
//! at start, so that a restart of the kubelet touches no container.

mod act;
pub mod archive;
mod changes;
pub mod config;
pub mod containerd;
mod hooks;
mod images;
mod kubelet;
pub mod lifecycle;
pub mod network;
mod node;
mod objects;
mod own_runtime;
mod pods;
pub mod podspec;
mod probes;
mod rotate;
pub mod runtime;
mod server;
mod shared;
mod tokens;
mod volumes;
mod worker;

pub use config::Config;
pub use kubelet::{Error, run};
pub use server::ServerError;
