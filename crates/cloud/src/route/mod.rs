//! Routes in the cloud's network to the pods of each node.
//!
//! Reads Nodes and the cloud's routes; writes routes, and the condition `NetworkUnavailable` of nodes. Woken by nodes that
//! come, go, or get their pod ranges or provider ID; all routes are compared every few minutes, since clouds tell nobody.
//!
//! Deliberately absent: routes outside the cluster's range are never touched, and without `--cluster-cidr` none is deleted.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::Context;
use component::controller::{self, Next};
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};

use crate::Config;
use crate::answers::{Failure, Retries, is_not_found, when};
use crate::informers::Informers;
use crate::provider::{Provider, ProviderError};
use plan::Cidr;

/// All routes are compared this often.
const AGAIN: Duration = Duration::from_secs(300);

struct Controller {
    api: Api<Node>,
    nodes: Informer<Node>,
    provider: Arc<dyn Provider>,
    range: Option<Cidr>,
    clock: api_machinery::clock::Clock,
    retries: Retries,
    events: Recorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context, informers: &Informers, config: &Config) {
    // All routes are one key: they are listed at once.
    let queue: Queue<&'static str> = Queue::new();
    let keys = queue.clone();
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let concerns = |node: &Arc<Node>| (plan::routes_of(node), plan::is_available(node));
        if change.old.map(concerns) != change.new.map(concerns) {
            keys.add("routes");
        }
    });
    let controller = Arc::new(Controller {
        api: Api::all(context.client.clone()),
        nodes: informers.nodes.clone(),
        provider: config.provider.clone(),
        range: config.cluster_cidr.as_deref().and_then(Cidr::parse),
        clock: context.clock.clone(),
        retries: Retries::default(),
        events: Recorder::new(context, "route_controller", None),
    });
    let (tasks, shutdown, nodes) = (context.tasks.clone(), context.shutdown.clone(), informers.nodes.clone());
    when(context, async move { nodes.synced().await }, move || {
        controller::run(&tasks, shutdown, "route", queue, 1, move |key| {
            let controller = controller.clone();
            async move {
                let result = controller.reconcile().await;
                controller.retries.settle(key, result)
            }
        });
    });
}

impl Controller {
    async fn reconcile(&self) -> Result<Next, Failure> {
        let none = || ProviderError::Permanent("the provider has no routes".to_owned());
        let cloud = self.provider.routes().ok_or_else(none)?;
        let nodes = self.nodes.list();
        let plan = plan::plan(&nodes, &cloud.list().await?, self.range);
        // What one route lacks does not keep the others from being made.
        let mut failed: Option<ProviderError> = None;
        for route in &plan.delete {
            if let Err(error) = cloud.delete(route).await {
                failed = Some(error);
            }
        }
        for (node, routes) in &plan.nodes {
            let mut refused = None;
            for route in routes {
                if let Err(error) = cloud.create(route).await {
                    let note =
                        format!("Could not create route {} for node {}: {error}", route.cidr, name(node));
                    self.events.event(&reference(&**node), EventType::Warning, "FailedToCreateRoute", note);
                    refused = Some(error);
                }
            }
            self.mark(node, refused.is_none()).await?;
            failed = refused.or(failed);
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(Next::After(AGAIN)),
        }
    }

    /// Tells by the node's condition whether its pods can be reached.
    async fn mark(&self, node: &Node, available: bool) -> Result<(), Failure> {
        let Some(change) = plan::condition(node, available, self.clock.now()) else { return Ok(()) };
        match self.api.patch_status(name(node), &PatchParams::default(), &Patch::Strategic(change)).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}

fn name(node: &Node) -> &str {
    node.metadata.name.as_deref().unwrap_or_default()
}
