//! Which pods are assigned to a node, kept from the changes of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use component::ObjectKey;
use component::informer::Informer;
use k8s_openapi::api::core::v1::Pod;
use pod_rules::status::node_name;

/// The keys of pods by the name of their node. Cheaply cloned.
#[derive(Clone, Default)]
pub struct PodsByNode {
    pods: Arc<Mutex<BTreeMap<String, BTreeSet<ObjectKey>>>>,
}

impl PodsByNode {
    /// Follows the pods. Handlers that are registered later find the index up to date.
    pub fn follow(pods: &Informer<Pod>) -> Self {
        let index = Self::default();
        let followed = index.clone();
        pods.on_change(move |change| {
            let key = ObjectKey::of(&**change.latest());
            let node = |pod: Option<&Arc<Pod>>| pod.map(|pod| node_name(pod).to_owned()).unwrap_or_default();
            followed.moved(&key, &node(change.old), &node(change.new));
        });
        index
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, BTreeSet<ObjectKey>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pods of a node, in the order of their keys.
    pub fn on(&self, node: &str) -> Vec<ObjectKey> {
        self.pods().get(node).into_iter().flatten().cloned().collect()
    }

    fn moved(&self, key: &ObjectKey, from: &str, to: &str) {
        if from == to {
            return;
        }
        let mut pods = self.pods();
        if let Some(left) = pods.get_mut(from) {
            left.remove(key);
            if left.is_empty() {
                pods.remove(from);
            }
        }
        if !to.is_empty() {
            pods.entry(to.to_owned()).or_default().insert(key.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_at_their_node_and_forgotten_when_they_go() {
        let index = PodsByNode::default();
        let (a, b) = (ObjectKey::new("x", "a"), ObjectKey::new("x", "b"));
        index.moved(&a, "", "");
        index.moved(&a, "", "n1");
        index.moved(&b, "", "n1");
        assert_eq!(index.on("n1"), [a.clone(), b.clone()]);
        index.moved(&a, "n1", "");
        assert_eq!(index.on("n1"), std::slice::from_ref(&b));
        index.moved(&b, "n1", "n1");
        assert_eq!(index.on("n1"), std::slice::from_ref(&b));
        index.moved(&b, "n1", "");
        assert!(index.pods().is_empty());
    }
}
