//! The garbage collector: what its owners leave behind is deleted, before them (foreground), after them (background), or
//! let go (orphan).
//!
//! Reads the metadata of all kinds, and nothing else of them; deletes objects, and takes owner references and its own two
//! finalizers away. Woken by changes of the object, its owners or its dependents. An owner is gone only if the API server
//! says so when asked for it by name and uid: a cache that is behind can delay a deletion but not cause one.

mod act;
mod graph;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use component::Context;
use component::ObjectKey;
use component::events::Recorder;
use component::informer::Change;
use component::queue::Queue;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::resources::{Followed, Item, Metadata, Resources};
use crate::wiring;
use graph::Graph;

/// Objects that are looked at side by side.
const WORKERS: usize = 8;

#[derive(Clone)]
struct Collector {
    client: kube::Client,
    resources: Resources,
    graph: Arc<Mutex<Graph>>,
    queue: Queue<Item>,
    recorder: Recorder,
    /// Owners that are verified to be gone. A uid is never used again, so they stay gone.
    absent: Arc<Mutex<BTreeSet<(Item, String)>>>,
}

/// Starts the collector on the kinds that `resources` follows, now or later. It decides nothing before `resources` has
/// seen all objects of those that are followed now.
pub fn start(context: &Context, resources: &Resources) {
    let collector = Collector {
        client: context.client.clone(),
        resources: resources.clone(),
        graph: Arc::default(),
        queue: Queue::new(),
        recorder: Recorder::new(context, "garbage-collector-controller", None),
        absent: Arc::default(),
    };
    let listener = collector.clone();
    resources.on_kind(move |followed| listener.listen(followed));
    let queue = collector.queue.clone();
    wiring::run(
        context,
        ("garbage-collector", queue, WORKERS),
        &[resources],
        collector,
        |collector, item| async move { collector.reconcile(&item).await },
    );
}

impl Collector {
    fn graph(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn listen(&self, followed: &Arc<Followed>) {
        let (collector, kind) = (self.clone(), followed.name.clone());
        followed.objects.on_change(move |change| collector.changed(&kind, &change));
    }

    /// Keeps the graph and wakes whom a change concerns.
    fn changed(&self, kind: &Arc<str>, change: &Change<'_, Metadata>) {
        let item = Item { kind: kind.clone(), key: ObjectKey::of(&**change.latest()) };
        let old = change.old.map(|object| &object.metadata);
        let woken = self.graph().change(&item, old, change.new.map(|object| &object.metadata));
        if woken.owners {
            for reference in old.into_iter().flat_map(plan::owners) {
                if let Some(owner) = self.owner_item(reference, &item.key.namespace) {
                    self.queue.add(owner);
                }
            }
        }
        for dependent in woken.dependents {
            self.queue.add(dependent);
        }
        if woken.itself {
            self.queue.add(item);
        }
    }

    /// Where an owner is looked for; `None` if it cannot be.
    fn owner_item(&self, reference: &OwnerReference, namespace: &str) -> Option<Item> {
        let followed = self.resources.of_kind(&reference.api_version, &reference.kind)?;
        let namespace = if followed.kind.namespaced { namespace } else { "" };
        Some(Item { kind: followed.name.clone(), key: ObjectKey::new(namespace, &reference.name) })
    }
}
