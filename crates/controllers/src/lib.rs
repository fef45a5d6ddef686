//! The controllers: each follows the API, decides what is missing, and writes that. One folder a controller: `mod.rs` says
//! what it reads, what it writes and how it is woken; `plan.rs` decides and is pure; `tests.rs` are tables of cases.
//!
//! Deliberately absent: calls between controllers (they meet at the API), and leader election: whoever calls [`run`] leads.

pub mod bootstrap_tokens;
pub mod certificates;
pub mod cluster_role_aggregation;
pub mod cron_job;
pub mod daemon_set;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod garbage_collector;
pub mod job;
pub mod namespace;
pub mod node_ipam;
pub mod node_lifecycle;
pub mod pod_gc;
pub mod replicaset;
pub mod resource_quota;
pub mod root_ca;
pub mod service_account;
pub mod stateful_set;
pub mod storage_migration;
pub mod ttl_after_finished;
pub mod volume_protection;

mod answers;
mod claim;
mod expectations;
mod indices;
mod informers;
mod pod_control;
mod resources;
mod revisions;
mod selection;
mod services;
mod wiring;

use component::Context;

pub use indices::{ByLabel, ByOwner};
pub use informers::Informers;
pub use resources::Resources;
pub use selection::{Selection, UnknownController};

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
    /// Which controllers run.
    pub controllers: Selection,
    /// How long nodes may be silent, and how fast they are emptied then.
    pub node_lifecycle: node_lifecycle::Policy,
}

/// Starts the controllers on one shared cache per kind, and runs until `context.shutdown`.
pub async fn run(context: Context, config: Config) {
    let informers = Informers::start(&context);
    let on = |name: &str| config.controllers.has(name);
    type Start = fn(&Context, &Informers);
    let simple: [(&str, Start); 20] = [
        ("replicaset-controller", replicaset::start),
        ("replicationcontroller-controller", replicaset::start_replication),
        ("daemonset-controller", daemon_set::start),
        ("job-controller", job::start),
        ("cronjob-controller", cron_job::start),
        ("ttl-after-finished-controller", ttl_after_finished::start),
        ("deployment-controller", deployment::start),
        ("statefulset-controller", stateful_set::start),
        ("disruption-controller", disruption::start),
        ("endpointslice-controller", endpointslice::start),
        ("endpoints-controller", endpoints::start),
        ("pod-garbage-collector-controller", pod_gc::start),
        ("clusterrole-aggregation-controller", cluster_role_aggregation::start),
        ("serviceaccount-controller", service_account::start),
        ("certificatesigningrequest-approving-controller", certificates::approver::start),
        ("certificatesigningrequest-cleaner-controller", certificates::cleaner::start),
        ("token-cleaner-controller", bootstrap_tokens::cleaner::start),
        ("persistentvolumeclaim-protection-controller", volume_protection::claims::start),
        ("persistentvolume-protection-controller", volume_protection::volumes::start),
        ("volumeattributesclass-protection-controller", volume_protection::classes::start),
    ];
    for (_, start) in simple.iter().filter(|(name, _)| on(name)) {
        start(&context, &informers);
    }
    let of_everything = [
        "garbage-collector-controller",
        "namespace-controller",
        "resourcequota-controller",
        "storage-version-migrator-controller",
    ];
    if of_everything.into_iter().any(on) {
        let resources = Resources::start(&context);
        if on("garbage-collector-controller") {
            garbage_collector::start(&context, &resources);
        }
        if on("namespace-controller") {
            namespace::start(&context, &informers, &resources);
        }
        if on("resourcequota-controller") {
            resource_quota::start(&context, &informers, &resources);
        }
        if on("storage-version-migrator-controller") {
            storage_migration::start(&context, &resources);
        }
    }
    if let Some(allocations) = config.node_ranges.filter(|_| on("node-ipam-controller")) {
        node_ipam::start(&context, &informers, allocations);
    }
    if on("node-lifecycle-controller") {
        node_lifecycle::start(&context, &informers, &config.node_lifecycle);
    }
    if on("root-ca-certificate-publisher-controller") {
        root_ca::start(&context, &informers, &config.root_ca);
    }
    if let Some(authority) = config.signer.filter(|_| on("certificatesigningrequest-signing-controller")) {
        certificates::signer::start(&context, &informers, authority);
    }
    if on("bootstrap-signer-controller") {
        let kubeconfig =
            config.server.map(|server| bootstrap_tokens::cluster_info::kubeconfig(&server, &config.root_ca));
        bootstrap_tokens::cluster_info::start(&context, &informers, kubeconfig);
    }
    context.shutdown.cancelled().await;
}
