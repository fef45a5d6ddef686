//! The controllers: each follows the API, decides what is missing, and writes that. One folder a controller: `mod.rs` says
//! what it reads, what it writes and how it is woken; `plan.rs` decides and is pure; `tests.rs` are tables of cases.
//!
//! Deliberately absent: calls between controllers (they meet at the API), and leader election: whoever calls [`run`] leads.

pub mod bootstrap_tokens;
pub mod certificates;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod garbage_collector;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replicaset;
pub mod root_ca;
pub mod service_account;
pub mod stateful_set;

mod answers;
mod claim;
mod expectations;
mod indices;
mod informers;
mod resources;
mod revisions;
mod services;
mod wiring;

use component::Context;

pub use indices::{ByLabel, ByOwner};
pub use informers::Informers;
pub use resources::Resources;

/// What the controllers need to know of the cluster.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The cluster's certificate authority in PEM, published into every namespace.
    pub root_ca: String,
    /// The pod ranges that nodes get a part of; without them, somebody else gives nodes theirs.
    pub node_ranges: Option<node_ipam::Allocations>,
    /// What signs approved certificates; without it, somebody else does.
    pub signer: Option<std::sync::Arc<certificates::Authority>>,
    /// The server's address as nodes that join see it, such as `https://192.0.2.1:6443`; without it, `cluster-info` is
    /// somebody else's to make.
    pub server: Option<String>,
}

/// Starts every controller on one shared cache per kind, and runs until `context.shutdown`.
pub async fn run(context: Context, config: Config) {
    let informers = Informers::start(&context);
    replicaset::start(&context, &informers);
    deployment::start(&context, &informers);
    stateful_set::start(&context, &informers);
    disruption::start(&context, &informers);
    endpointslice::start(&context, &informers);
    endpoints::start(&context, &informers);
    let resources = Resources::start(&context);
    garbage_collector::start(&context, &resources);
    namespace::start(&context, &informers, &resources);
    if let Some(allocations) = config.node_ranges {
        node_ipam::start(&context, &informers, allocations);
    }
    node_lifecycle::start(&context, &informers);
    pod_gc::start(&context, &informers);
    service_account::start(&context, &informers);
    root_ca::start(&context, &informers, &config.root_ca);
    certificates::approver::start(&context, &informers);
    certificates::cleaner::start(&context, &informers);
    if let Some(authority) = config.signer {
        certificates::signer::start(&context, &informers, authority);
    }
    let kubeconfig =
        config.server.map(|server| bootstrap_tokens::cluster_info::kubeconfig(&server, &config.root_ca));
    bootstrap_tokens::cluster_info::start(&context, &informers, kubeconfig);
    bootstrap_tokens::cleaner::start(&context, &informers);
    context.shutdown.cancelled().await;
}
