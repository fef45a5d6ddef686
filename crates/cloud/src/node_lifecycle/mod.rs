//! Nodes whose machine is gone are deleted; nodes whose machine is switched off are tainted.
//!
//! Reads Nodes and instances; deletes nodes, and writes the taint `node.cloudprovider.kubernetes.io/shutdown`. Woken when a
//! node's readiness changes; while it is not ready its machine is looked at every few seconds, since clouds tell nobody.
//!
//! A cloud's word that a machine is gone is believed when it is said twice, one period apart: a node that is deleted
//! takes its pods with it.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::{self, Next};
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use tokio::time::Instant;

use crate::Config;
use crate::answers::{Failure, Retries, is_not_found, when};
use crate::informers::Informers;
use crate::node::plan::node_ref;
use crate::provider::Provider;
use plan::{Action, Machine};

const WORKERS: usize = 4;

struct Controller {
    api: Api<Node>,
    nodes: Informer<Node>,
    provider: Arc<dyn Provider>,
    period: Duration,
    /// Nodes, by UID, whose machine is said to be gone, and since when.
    missing: Mutex<BTreeMap<String, Instant>>,
    retries: Retries,
    events: Recorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context, informers: &Informers, config: &Config) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let concerns = |node: &Arc<Node>| (plan::is_ready(node), plan::taints(node).to_vec());
        if change.old.map(concerns) != change.new.map(concerns) {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let controller = Arc::new(Controller {
        api: Api::all(context.client.clone()),
        nodes: informers.nodes.clone(),
        provider: config.provider.clone(),
        period: config.node_monitor_period,
        missing: Mutex::default(),
        retries: Retries::default(),
        events: Recorder::new(context, "cloud-node-lifecycle-controller", None),
    });
    let (tasks, shutdown, nodes) = (context.tasks.clone(), context.shutdown.clone(), informers.nodes.clone());
    when(context, async move { nodes.synced().await }, move || {
        controller::run(&tasks, shutdown, "cloud-node-lifecycle", queue, WORKERS, move |name: String| {
            let controller = controller.clone();
            async move {
                let result = controller.reconcile(&name).await;
                controller.retries.settle(&name, result)
            }
        });
    });
}

impl Controller {
    fn missing(&self) -> MutexGuard<'_, BTreeMap<String, Instant>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn reconcile(&self, name: &str) -> Result<Next, Failure> {
        let Some(node) = self.nodes.get(&ObjectKey::new("", name)) else { return Ok(Next::Done) };
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let machine = if plan::asks(&node) { self.look(&node).await? } else { Machine::NotAsked };
        let before = match machine {
            Machine::Gone => {
                let since = *self.missing().entry(uid.clone()).or_insert_with(Instant::now);
                since.elapsed() >= self.period
            }
            _ => {
                self.missing().remove(&uid);
                false
            }
        };
        match plan::plan(&node, machine, before) {
            Action::Nothing => Ok(Next::Done),
            Action::LookAgain => Ok(Next::After(self.period)),
            Action::Delete => {
                self.delete(&node, name).await?;
                self.missing().remove(&uid);
                Ok(Next::Done)
            }
            Action::Taint(change) => {
                match self.api.patch(name, &PatchParams::default(), &Patch::Merge(&change)).await {
                    Err(error) if is_not_found(&error) => {}
                    other => drop(other?),
                }
                Ok(if machine == Machine::NotAsked { Next::Done } else { Next::After(self.period) })
            }
        }
    }

    async fn look(&self, node: &Node) -> Result<Machine, Failure> {
        let Some(instances) = self.provider.instances() else { return Ok(Machine::NotAsked) };
        let node = node_ref(node);
        if !instances.exists(&node).await? {
            return Ok(Machine::Gone);
        }
        Ok(if instances.is_shut_down(&node).await? { Machine::Off } else { Machine::On })
    }

    async fn delete(&self, node: &Node, name: &str) -> Result<(), Failure> {
        let note = format!("Deleting node {name} because it does not exist in the cloud provider");
        self.events.event(&reference(node), EventType::Normal, "DeletingNode", note);
        // Not a namesake that has come meanwhile.
        let only = Preconditions { uid: node.metadata.uid.clone(), resource_version: None };
        match self.api.delete(name, &DeleteParams::default().preconditions(only)).await {
            Err(error) if !is_not_found(&error) => Err(error.into()),
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
