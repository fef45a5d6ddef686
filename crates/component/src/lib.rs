//! What every control loop shares: a cache that follows the API (informer), a queue of keys, the loop itself, events,
//! leader election, the connection to an API server, and the small server that says how a component is.
//!
//! Deliberately absent: what a kind means (which ones there are to decode is listed in `api`), and any way around the API.

pub mod api;
mod cache;
pub mod connect;
pub mod controller;
pub mod events;
pub mod freshness;
pub mod health;
pub mod identity;
pub mod informer;
mod key;
pub mod kubeconfig;
pub mod lease;
pub mod queue;
pub mod tunnel;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use api::Api;
pub use key::ObjectKey;

/// What a component is handed to live on; nothing is ambient.
#[derive(Clone)]
pub struct Context {
    /// The API, as the component's own identity.
    pub client: kube::Client,
    /// The time, real or simulated.
    pub clock: Clock,
    /// Chance, seeded in simulations.
    pub entropy: Entropy,
    /// Owner of every task that the component starts.
    pub tasks: TaskTracker,
    /// Cancelled when the component shall end.
    pub shutdown: CancellationToken,
}
