//! The node lifecycle controller: nodes that fall silent are marked, tainted, and after a while emptied.
//!
//! Reads Nodes, their Leases and Pods; writes the conditions and taints of nodes and the condition `Ready` of their pods,
//! and deletes pods that do not tolerate a `NoExecute` taint (any longer). Two queues: nodes ([`health`]) and pods
//! ([`eviction`]), each with its own deadlines; nothing is looked at before something changes or a deadline comes.
//!
//! Deliberately absent: removing nodes (the cloud's business) and pods of nodes that are gone (pod GC's).

mod eviction;
mod health;
mod plan;
mod policy;
#[cfg(test)]
mod tests;
mod zones;

use std::sync::Arc;

use component::informer::Change;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Pod};
use pod_rules::status::{is_deleting, is_ready, node_name};
use pod_rules::taints::tolerations;

use crate::informers::Informers;
use crate::wiring::{self, Cache};
use eviction::Evictor;
use health::Monitor;

pub use policy::Policy;

/// Nodes, and pods, that are looked at side by side.
const WORKERS: usize = 4;

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers, policy: &Policy) {
    let nodes: Queue<String> = Queue::new();
    let pods: Queue<ObjectKey> = Queue::new();
    let monitor = Monitor::new(context, informers, &nodes, policy);
    let evictor = Evictor::new(context, informers);
    follow_nodes(informers, &monitor, &nodes, &pods);
    follow_leases(informers, &monitor, &nodes);
    follow_pods(informers, &nodes, &pods);

    let caches: [&dyn Cache; 3] = [&informers.nodes, &informers.node_leases, &informers.pods];
    wiring::run(context, ("node-lifecycle", nodes, WORKERS), &caches, monitor, |monitor, name| async move {
        monitor.reconcile(&name).await
    });
    wiring::run(context, ("taint-eviction", pods, WORKERS), &caches, evictor, |evictor, key| async move {
        evictor.reconcile(&key).await
    });
}

fn follow_nodes(informers: &Informers, monitor: &Monitor, nodes: &Queue<String>, pods: &Queue<ObjectKey>) {
    let (monitor, by_node) = (monitor.clone(), informers.pods_by_node.clone());
    let (nodes, pods) = (nodes.clone(), pods.clone());
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let name = ObjectKey::of(&**change.latest()).name;
        monitor.see_node(&name, change.new.map(|node| &**node));
        let evicting = |node: Option<&Arc<Node>>| node.map(|node| plan::evicting(node)).unwrap_or_default();
        if evicting(change.old) != evicting(change.new) {
            for pod in by_node.get(&name) {
                pods.add(ObjectKey::of(&*pod));
            }
        }
        nodes.add(name);
    });
}

fn follow_leases(informers: &Informers, monitor: &Monitor, nodes: &Queue<String>) {
    let (monitor, nodes) = (monitor.clone(), nodes.clone());
    informers.node_leases.on_change(move |change| {
        let name = ObjectKey::of(&**change.latest()).name;
        // A renewal only moves the node's deadline, which is found when it comes. The first Lease is news.
        monitor.see_lease(&name, change.new.map(|lease| &**lease));
        if change.old.is_none() {
            nodes.add(name);
        }
    });
}

fn follow_pods(informers: &Informers, nodes: &Queue<String>, pods: &Queue<ObjectKey>) {
    let (nodes, pods) = (nodes.clone(), pods.clone());
    informers.pods.on_change(move |change: Change<'_, Pod>| {
        let concerns = |pod: &Arc<Pod>| {
            let (uid, node) = (pod.metadata.uid.clone(), node_name(pod).to_owned());
            (uid, node, is_deleting(pod), tolerations(pod).to_vec())
        };
        if change.old.map(concerns) != change.new.map(concerns) {
            pods.add(ObjectKey::of(&**change.latest()));
        }
        // It may be one that says it is ready on a node that is not.
        if let Some(pod) =
            change.new.filter(|pod| is_ready(pod) && !change.old.is_some_and(|old| is_ready(old)))
        {
            nodes.add(node_name(pod).to_owned());
        }
    });
}
