//! The node IPAM controller: every node gets its part of the cluster's pod ranges in `spec.podCIDRs`, once and for good.
//!
//! Reads Nodes, writes their spec. Woken by nodes that come, go or have no range. One worker, for one memory of what is
//! taken: an assignment that may or may not have been written stays the node's own, and is written again. A decision is
//! made only when the first list is known in full, so that a controller that starts anew does not give away what is
//! taken.

mod plan;
mod range;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::Informers;
use crate::answers::{is_conflict, is_not_found};
use crate::wiring::{self, Cache};
pub use plan::{Allocations, RangesError, check_apart};
use plan::{Decision, ranges};
pub use range::{ParseRangeError, Range};

/// One, or two could give the same away.
const WORKERS: usize = 1;
/// When a node for which nothing was left is looked at again, if no node goes before.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// The bits of a node's share in version 4 and 6 that upstream gives by default.
pub const NODE_PREFIXES: (u8, u8) = (24, 64);

#[derive(Clone)]
struct Allocator {
    client: kube::Client,
    nodes: Informer<Node>,
    recorder: Recorder,
    allocations: Arc<Mutex<Allocations>>,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers, allocations: Allocations) {
    let allocator = Allocator {
        client: context.client.clone(),
        nodes: informers.nodes.clone(),
        recorder: Recorder::new(context, "cidrAllocator", None),
        allocations: Arc::new(Mutex::new(allocations)),
    };
    let queue: Queue<String> = Queue::new();
    let (keys, follower) = (queue.clone(), allocator.clone());
    informers.nodes.on_change(move |change| follower.changed(&change, &keys));
    let caches: [&dyn Cache; 1] = [&informers.nodes];
    wiring::run(context, ("node-ipam", queue, WORKERS), &caches, allocator, |allocator, key| async move {
        allocator.reconcile(&key).await
    });
}

impl Allocator {
    fn allocations(&self) -> MutexGuard<'_, Allocations> {
        self.allocations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self, change: &Change<'_, Node>, queue: &Queue<String>) {
        let name = ObjectKey::of(&**change.latest()).name;
        match change.new {
            Some(node) => {
                self.allocations().see(&name, node);
                let before = change.old.map(|node| ranges(node));
                if before.is_none_or(|before| before.is_empty() || before != ranges(node)) {
                    queue.add(name);
                }
            }
            None => {
                self.allocations().forget(&name);
                // Somebody may be waiting for what this node had.
                for node in self.nodes.list().iter().filter(|node| ranges(node).is_empty()) {
                    queue.add(ObjectKey::of(&**node).name);
                }
            }
        }
    }

    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let Some(node) = self.nodes.get(&ObjectKey::new("", name)) else { return Ok(Next::Done) };
        let decision = self.allocations().decide(name, &node);
        match decision {
            Decision::Settled => Ok(Next::Done),
            Decision::Overlap(other) => {
                let note = format!("podCIDR of node {name} overlaps that of node {other}");
                tracing::error!(name, other, "two nodes have the same pod addresses");
                self.warn(&node, "CIDRAssignmentFailed", note);
                Ok(Next::Done)
            }
            Decision::Exhausted => {
                tracing::warn!(node = name, "no pod range is left");
                self.warn(&node, "CIDRNotAvailable", format!("Node {name} status is now: CIDRNotAvailable"));
                Ok(Next::After(LOOK_AGAIN))
            }
            Decision::Assign(given) => self.write(name, &node, &given).await,
        }
    }

    async fn write(&self, name: &str, node: &Node, given: &[Range]) -> kube::Result<Next> {
        let texts: Vec<String> = given.iter().map(ToString::to_string).collect();
        // Only this very node, as it is known: a namesake that came after it is decided on its own.
        let patch = json!({
            "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
            "spec": {"podCIDR": texts.first(), "podCIDRs": texts},
        });
        let nodes: Api<Node> = Api::all(self.client.clone());
        match nodes.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Ok(_) => Ok(Next::Done),
            // The change that was not seen yet wakes this node again.
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Done),
            Err(error) => {
                let note = format!("Node {name} status is now: CIDRAssignmentFailed");
                self.warn(node, "CIDRAssignmentFailed", note);
                Err(error)
            }
        }
    }

    fn warn(&self, node: &Node, reason: &str, note: String) {
        let name = node.metadata.name.clone();
        // As kubelets do: an event of a node carries its name where the uid belongs.
        let object =
            ObjectReference { kind: Some("Node".to_owned()), uid: name.clone(), name, ..Default::default() };
        self.recorder.event(&object, EventType::Warning, reason, note);
    }
}
