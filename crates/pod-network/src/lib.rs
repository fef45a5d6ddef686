//! The pod network between nodes: Node objects become a plan (pure), and the difference to what the kernel holds is
//! applied. What others delete is put back; what a removed node needed is taken away.
//!
//! Deliberately absent: addresses of pods and the bridge of one node (the kubelet's), and all translation (the proxy's).

pub mod difference;
pub mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::Context;
use component::informer::{Informer, Selection};
use host::links::{self, LinkError, Monitor, Underlay};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use plan::{DEVICE, MAC_ANNOTATION, PROTOCOL};
pub use plan::{Mode, pod_mtu};

/// Changes are gathered this long before they are applied together.
const GATHER: Duration = Duration::from_millis(20);
/// How soon a failed application is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the network needs to know of its node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// How packets get to other nodes.
    pub mode: Mode,
    /// The link by which they do.
    pub underlay: Underlay,
}

/// Why the network cannot go on. A single failed application is retried, not returned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Links cannot be watched.
    #[error(transparent)]
    Monitor(#[from] LinkError),
}

/// Runs until shutdown; routes and device stay, since pods go on. `context` may read all nodes, `own` may annotate this
/// one.
///
/// # Errors
/// See [`Error`].
pub async fn run(context: Context, own: kube::Client, config: Config) -> Result<(), Error> {
    let nodes: Informer<Node> = Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::all(context.client.clone()),
        Selection::default(),
    );
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    nodes.on_change(move |_| notify.notify_one());
    let mut monitor = Monitor::start()?;
    let synced = context.shutdown.run_until_cancelled(nodes.synced()).await;
    if synced.is_none() {
        return Ok(());
    }
    let network = Network { nodes, own: Api::all(own), config };
    loop {
        let retry = network.reconcile().await.then(|| Instant::now() + RETRY);
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            () = changed.notified() => {}
            seen = monitor.changed() => seen?,
            () = until(retry) => {}
        }
        tokio::time::sleep(GATHER).await;
    }
}

struct Network {
    nodes: Informer<Node>,
    own: Api<Node>,
    config: Config,
}

impl Network {
    /// Makes the kernel and our own Node say what they should; whether that has to be tried again.
    async fn reconcile(&self) -> bool {
        let nodes = self.nodes.list();
        let Config { node_name, mode, underlay } = &self.config;
        let plan = plan::plan(nodes.iter().map(|node| &**node), node_name, *mode, underlay);
        let applied = apply(&plan).await;
        if let Err(error) = &applied {
            tracing::warn!(%error, "the pod network was not brought up to date; trying again");
        }
        // Others send here only when we are ready to receive.
        applied.is_err()
            || !self.publish(&nodes, plan.device.as_ref().map(|device| device.mac.as_str())).await
    }

    async fn publish(&self, nodes: &[Arc<Node>], mac: Option<&str>) -> bool {
        let name = self.config.node_name.as_str();
        let Some(node) = nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name)) else {
            return true;
        };
        let said = node.metadata.annotations.as_ref().and_then(|all| all.get(MAC_ANNOTATION));
        if said.map(String::as_str) == mac {
            return true;
        }
        let patch = json!({"metadata": {"annotations": {MAC_ANNOTATION: mac}}});
        let written = self.own.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
        if let Err(error) = &written {
            tracing::debug!(%error, "the node does not say yet how its pods are reached");
        }
        written.is_ok()
    }
}

/// Applies a plan.
///
/// # Errors
/// The kernel cannot be read, or refuses.
pub async fn apply(plan: &plan::Plan) -> Result<(), LinkError> {
    let held = links::holdings(DEVICE, PROTOCOL).await?;
    let lines = difference::difference(plan, &held);
    if !lines.is_empty() {
        tracing::debug!(?lines, "changing the pod network");
    }
    let links = links::ip(&lines.ip).await;
    links::bridge(&lines.bridge).await.and(links)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
