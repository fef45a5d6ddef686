//! Nodes get from the cloud what they cannot know of themselves: provider ID, addresses, and labels for zone, region and
//! instance type. Then the taint goes that kept pods away until now.
//!
//! Reads Nodes and instances; writes nodes' `spec.providerID`, labels, taints and `status.addresses`. Woken by new nodes and
//! changes of that taint; addresses are compared again every few minutes, since clouds tell nobody.
//!
//! Deliberately absent: nodes whose kubelet does not wait for a cloud (no taint, no provider ID) are left alone.

pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::controller::{self, Next};
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};

use crate::Config;
use crate::answers::{Failure, Retries, is_not_found, when};
use crate::informers::Informers;
use crate::provider::{Instances, Provider, ProviderError};

const WORKERS: usize = 4;

struct Controller {
    api: Api<Node>,
    nodes: Informer<Node>,
    provider: Arc<dyn Provider>,
    again: Duration,
    retries: Retries,
    events: Recorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context, informers: &Informers, config: &Config) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let waits = |node: &Arc<Node>| plan::is_uninitialized(node);
        if change.new.is_some() && change.old.map(waits) != change.new.map(waits) {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let controller = Arc::new(Controller {
        api: Api::all(context.client.clone()),
        nodes: informers.nodes.clone(),
        provider: config.provider.clone(),
        again: config.node_status_update_frequency,
        retries: Retries::default(),
        events: Recorder::new(context, "cloud-node-controller", None),
    });
    let (tasks, shutdown, nodes) = (context.tasks.clone(), context.shutdown.clone(), informers.nodes.clone());
    when(context, async move { nodes.synced().await }, move || {
        controller::run(&tasks, shutdown, "cloud-node", queue, WORKERS, move |name: String| {
            let controller = controller.clone();
            async move {
                let result = controller.reconcile(&name).await;
                controller.retries.settle(&name, result)
            }
        });
    });
}

impl Controller {
    fn instances(&self) -> Result<&dyn Instances, ProviderError> {
        let none = || ProviderError::Permanent("the provider has no instances".to_owned());
        self.provider.instances().ok_or_else(none)
    }

    async fn reconcile(&self, name: &str) -> Result<Next, Failure> {
        let Some(node) = self.nodes.get(&ObjectKey::new("", name)) else { return Ok(Next::Done) };
        let waits = plan::is_uninitialized(&node);
        if node.metadata.deletion_timestamp.is_some() || (!waits && plan::provider_id(&node).is_none()) {
            return Ok(Next::Done);
        }
        let metadata = self.instances()?.metadata(&plan::node_ref(&node)).await;
        let metadata = match metadata {
            // It was initialized: whether it still exists is the lifecycle controller's question.
            Err(ProviderError::NotFound(_)) if !waits => return Ok(Next::After(self.again)),
            other => other?,
        };
        let plan = plan::plan(&node, &metadata)?;
        let parameters = PatchParams::default();
        if let Some(status) = &plan.status {
            match self.api.patch_status(name, &parameters, &Patch::Merge(status)).await {
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                other => other?,
            };
        }
        if let Some(node) = &plan.node {
            match self.api.patch(name, &parameters, &Patch::Merge(node)).await {
                Err(error) if is_not_found(&error) => return Ok(Next::Done),
                other => other?,
            };
        }
        if waits {
            self.events.event(&reference(&*node), EventType::Normal, "Synced", "Node synced successfully");
        }
        Ok(Next::After(self.again))
    }
}
