//! The pod garbage collector: pods that no kubelet will ever let go of, and those that have ended and are too many.
//!
//! Reads Pods and Nodes; marks pods as failed and deletes them without grace. Woken by changes, and by the end of a
//! node's quarantine: a node that is gone may be one that is made anew.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::Next;
use component::informer::{Change, Index, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use pod_rules::status::{is_deleting, is_terminal, node_name};
use serde_json::json;
use tokio::time::Instant;

use crate::answers::is_not_found;
use crate::informers::Informers;
use crate::wiring::{self, Cache};

/// How long a node must be gone before its pods are.
const QUARANTINE: Duration = Duration::from_secs(40);
/// Keys that are worked on side by side.
const WORKERS: usize = 2;

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    /// How many pods have ended.
    Ended,
    /// A node that pods are assigned to.
    Node(String),
    /// A pod that is being deleted.
    Pod(ObjectKey),
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => formatter.write_str("ended pods"),
            Self::Node(name) => write!(formatter, "node {name}"),
            Self::Pod(key) => write!(formatter, "pod {key}"),
        }
    }
}

#[derive(Clone)]
struct Collector {
    context: Context,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    by_node: Index<Pod>,
    ended: Arc<Mutex<BTreeSet<plan::Ended>>>,
    /// When each node was first seen to be missing.
    missing: Arc<Mutex<BTreeMap<String, Instant>>>,
}

/// Starts the collector.
pub fn start(context: &Context, informers: &Informers) {
    let collector = Collector {
        context: context.clone(),
        pods: informers.pods.clone(),
        nodes: informers.nodes.clone(),
        by_node: informers.pods_by_node.clone(),
        ended: Arc::default(),
        missing: Arc::default(),
    };
    let queue: Queue<Key> = Queue::new();
    let (follower, keys) = (collector.clone(), queue.clone());
    informers.pods.on_change(move |change| follower.pod_changed(&change, &keys));
    let (follower, keys) = (collector.clone(), queue.clone());
    informers.nodes.on_change(move |change| follower.node_changed(&change, &keys));
    let caches: [&dyn Cache; 2] = [&informers.pods, &informers.nodes];
    wiring::run(
        context,
        ("pod-garbage-collector", queue, WORKERS),
        &caches,
        collector,
        |collector, key| async move { collector.reconcile(&key).await },
    );
}

impl Collector {
    fn pod_changed(&self, change: &Change<'_, Pod>, queue: &Queue<Key>) {
        let (before, after) =
            (change.old.and_then(|pod| plan::ended(pod)), change.new.and_then(|pod| plan::ended(pod)));
        if before != after {
            let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(before) = before {
                ended.remove(&before);
            }
            ended.extend(after);
            if ended.len() > plan::THRESHOLD {
                queue.add(Key::Ended);
            }
        }
        let Some(pod) = change.new else { return };
        let concerns = |pod: &Arc<Pod>| (is_deleting(pod), node_name(pod).to_owned());
        if change.old.map(concerns) == Some(concerns(pod)) {
            return;
        }
        let node = node_name(pod);
        if is_deleting(pod) {
            queue.add(Key::Pod(ObjectKey::of(&**pod)));
        }
        if !node.is_empty() && self.nodes.get(&ObjectKey::new("", node)).is_none() {
            queue.add(Key::Node(node.to_owned()));
        }
    }

    fn node_changed(&self, change: &Change<'_, Node>, queue: &Queue<Key>) {
        let name = ObjectKey::of(&**change.latest()).name;
        let out = |node: Option<&Arc<Node>>| node.is_some_and(|node| plan::is_out_of_service(node));
        if out(change.new) && !out(change.old) {
            for pod in self.by_node.get(&name) {
                queue.add(Key::Pod(ObjectKey::of(&*pod)));
            }
        }
        if change.old.is_none() || change.new.is_none() {
            queue.add(Key::Node(name));
        }
    }

    async fn reconcile(&self, key: &Key) -> kube::Result<Next> {
        match key {
            Key::Ended => self.thin_out().await,
            Key::Node(name) => self.node(name).await,
            Key::Pod(key) => self.pod(key).await,
        }
    }

    /// Deletes the pods that have ended and are too many.
    async fn thin_out(&self) -> kube::Result<Next> {
        let too_many = {
            let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
            plan::too_many(&ended, plan::THRESHOLD)
        };
        for key in too_many {
            // One that is gone already counts no longer; the cache will say so.
            if let Some(pod) = self.pods.get(&key).filter(|pod| plan::ended(pod).is_some()) {
                self.remove(&key, &pod, None).await?;
            }
        }
        Ok(Next::Done)
    }

    /// Deletes the pods of a node that is gone for good.
    async fn node(&self, name: &str) -> kube::Result<Next> {
        let pods = self.by_node.get(name);
        if self.nodes.get(&ObjectKey::new("", name)).is_some() || pods.is_empty() {
            self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
            return Ok(Next::Done);
        }
        let now = Instant::now();
        let since = {
            let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
            *missing.entry(name.to_owned()).or_insert(now)
        };
        if now < since + QUARANTINE {
            return Ok(Next::After(since + QUARANTINE - now));
        }
        // A cache that is behind must not cost a pod its life.
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        if nodes.get_opt(name).await?.is_some() {
            return Ok(Next::Done);
        }
        for key in pods.iter().map(|pod| ObjectKey::of(&**pod)) {
            // As it is now: every removal takes its time.
            if let Some(pod) = self.pods.get(&key).filter(|pod| node_name(pod) == name) {
                self.remove(&key, &pod, Some("PodGC: node no longer exists")).await?;
            }
        }
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(Next::Done)
    }

    /// Takes away a pod that is being deleted and that no kubelet will let go of.
    async fn pod(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        let node = self.nodes.get(&ObjectKey::new("", node_name(&pod)));
        match plan::forced(&pod, node.as_deref()) {
            None => Ok(Next::Done),
            Some(plan::Forced::OutOfService) => {
                let nodes: Api<Node> = Api::all(self.context.client.clone());
                let live = nodes.get_opt(node_name(&pod)).await?;
                if plan::forced(&pod, live.as_ref()).is_some() {
                    self.remove(key, &pod, None).await?;
                }
                Ok(Next::Done)
            }
            Some(plan::Forced::Unscheduled) => {
                self.remove(key, &pod, None).await?;
                Ok(Next::Done)
            }
        }
    }

    /// Marks a pod as failed unless it has ended by itself, and says why if there is something to say; then deletes it
    /// without grace, nobody being there who could use it.
    async fn remove(&self, key: &ObjectKey, pod: &Pod, disrupted: Option<&str>) -> kube::Result<()> {
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let mut preconditions = Preconditions {
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
        };
        if !is_terminal(pod) {
            let mut body = json!({
                "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
                "status": {"phase": "Failed"},
            });
            if let Some(message) = disrupted {
                body["status"]["conditions"] = json!([{
                    "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                    "message": message, "lastTransitionTime": Time(self.context.clock.now()),
                }]);
            }
            let patched = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await;
            match patched {
                Ok(patched) => preconditions.resource_version = patched.metadata.resource_version,
                Err(error) if is_not_found(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let parameters = DeleteParams::background().grace_period(0).preconditions(preconditions);
        match api.delete(&key.name, &parameters).await {
            Ok(_) => Ok(()),
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
