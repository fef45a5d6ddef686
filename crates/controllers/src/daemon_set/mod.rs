//! Keeps a pod on every node that a DaemonSet is for.
//!
//! Reads DaemonSets, nodes, pods and ControllerRevisions. Writes pods (creates, deletes, adopts, releases), revisions, the
//! status of DaemonSets, and events. Woken by DaemonSets, by their pods, by pods that nobody controls, by nodes that come,
//! go, or change in what decides about pods, and when a ready pod becomes available or a node has rested.
//!
//! Deliberately absent: binding. A pod names its node in its affinity, and the scheduler brings it there.

mod plan;
mod pod;
mod rest;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::{LabelSelector, SelectorError};
use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use pod_rules::{labels, status};

use crate::Informers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::pod_control::{Failure, PodControl};
use crate::revisions::{Archive, History, Kept, REVISION_LABEL};
use crate::wiring::{self, Cache};
use plan::{Plan, World};
use rest::Rests;

const WORKERS: usize = 2;
const COMPONENT: &str = "daemonset-controller";

/// Why a set could not be reconciled now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Adopt(#[from] CannotAdopt),
    #[error("spec.selector: {0}")]
    Selector(#[from] SelectorError),
    #[error(transparent)]
    Pods(#[from] Failure),
}

struct Controller {
    client: kube::Client,
    clock: Clock,
    sets: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_owner: ByOwner<Pod>,
    control: PodControl,
    archive: Archive,
    /// Writes of the sets themselves.
    set_writes: Expectations,
    rests: Rests,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.daemon_sets);
    wiring::wake_by_dependents(&queue, &informers.daemon_sets, &informers.pods, |set, labels| {
        labels::selects(Some(&set.spec.selector), labels)
    });
    wake_by_nodes(&queue, informers);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        sets: informers.daemon_sets.clone(),
        nodes: informers.nodes.clone(),
        pods: informers.pods.clone(),
        pods_by_owner: informers.pods_by_owner.clone(),
        control: PodControl::new(context, COMPONENT),
        archive: Archive::new(context, informers, REVISION_LABEL),
        set_writes: Expectations::default(),
        rests: Rests::default(),
        events: Recorder::new(context, COMPONENT, None),
    });
    let caches: [&dyn Cache; 4] =
        [&informers.daemon_sets, &informers.nodes, &informers.pods, &informers.controller_revisions];
    wiring::run(context, ("daemonset", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

/// Queues every set when a node is no longer what it was to any of them.
fn wake_by_nodes(queue: &Queue<ObjectKey>, informers: &Informers) {
    let (keys, sets) = (queue.clone(), informers.daemon_sets.clone());
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let same = |old: &Node, new: &Node| {
            let taints = |node: &Node| node.spec.as_ref().and_then(|spec| spec.taints.clone());
            old.metadata.labels == new.metadata.labels && taints(old) == taints(new)
        };
        if let (Some(old), Some(new)) = (change.old, change.new)
            && same(old, new)
        {
            return;
        }
        sets.list().iter().for_each(|set| keys.add(ObjectKey::of(&**set)));
    });
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(key) else {
            self.control.writes.forget(key);
            self.set_writes.forget(key);
            self.archive.forget(key);
            return Ok(Next::Done);
        };
        let selector = labels::compile(Some(&set.spec.selector))?;
        if selector.is_empty() {
            return Ok(Next::Done);
        }
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        self.control.writes.resolve(key, &api, &selector.to_string(), uid).await?;
        let seen = self.pods.revision();
        let pods = self.pods_by_owner.claimable(&set.metadata);
        if !self.is_fresh(key, seen, &pods) {
            return Ok(NOT_SEEN);
        }
        let claims = claim::sort(&set.metadata, &selector, &pods);
        let wrote = |pod: &Pod| self.control.writes.wrote(key, pod);
        let sets = Api::namespaced(self.client.clone(), &key.namespace);
        let owned = claim::settle(&sets, &*set, &api, claims, wrote).await?;
        let Some(history) = self.history(key, &set, &selector).await? else { return Ok(Next::Done) };
        let nodes = self.nodes.list();
        let (hash, now) = (hash_of(&history), self.clock.now());
        let world = World::new(&set, &nodes, &owned, &hash, now);
        let plan = world.plan(|node| self.rests.until(uid, node, now).is_some());
        let acted = self.act(key, &set, &hash, &plan).await;
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        self.write_status(key, &set, world.status(collisions)).await?;
        acted?;
        let names = history.all.iter().filter(|revision| {
            let hash = revision.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL));
            hash.is_some_and(|hash| owned.iter().any(|pod| pod::hash(pod) == hash))
        });
        let mut used: BTreeSet<String> =
            names.filter_map(|revision| revision.metadata.name.clone()).collect();
        used.extend(history.newest.metadata.name.clone());
        self.archive.prune(key, &history, &used, set.spec.revision_history_limit.unwrap_or(10)).await?;
        Ok(self.next(uid, &owned, &world, now))
    }

    /// Whether the caches show all that was written for this set.
    fn is_fresh(&self, key: &ObjectKey, seen: u64, pods: &[Arc<Pod>]) -> bool {
        let alive = |uid: &str| {
            pods.iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid) && !status::is_deleting(pod))
        };
        self.control.writes.met(key, seen, alive)
            && self.set_writes.met(key, self.sets.revision(), |_| false)
            && self.archive.met(key)
    }

    /// The set's revisions, the newest made to hold its template; `None` when that has to be tried anew.
    async fn history(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        selector: &LabelSelector,
    ) -> Result<Option<History>, Error> {
        let told = set.status.clone().unwrap_or_default();
        let collisions = told.collision_count.unwrap_or(0);
        match self.archive.keep(key, set, selector, &set.spec.template, collisions).await? {
            Kept::History(history) => Ok(Some(history)),
            Kept::Ending => Ok(None),
            Kept::Collision => {
                let status = DaemonSetStatus { collision_count: Some(collisions + 1), ..told };
                self.write_status(key, set, status).await?;
                Ok(None)
            }
        }
    }

    async fn act(&self, key: &ObjectKey, set: &DaemonSet, hash: &str, plan: &Plan) -> Result<(), Failure> {
        let about = reference(set);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        for pod in &plan.ended {
            let (node, now) = (status::node_name(pod), self.clock.now());
            let place = format!("{} on node {node}", ObjectKey::of(&**pod));
            if status::phase(pod) == "Failed" {
                self.rests.failed(uid, node, now);
                let note = format!("Found failed daemon pod {place}, will try to kill it");
                self.events.event(&about, EventType::Warning, "FailedDaemonPod", note);
            } else {
                let note = format!("Found succeeded daemon pod {place}, will try to delete it");
                self.events.event(&about, EventType::Normal, "SucceededDaemonPod", note);
            }
        }
        let new: Vec<Pod> = plan.create.iter().map(|node| pod::new_pod(set, node, hash)).collect();
        let created = self.control.create(key, &about, &new).await;
        let deleted = self.control.delete(key, &about, &plan.delete).await;
        created.and(deleted)
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        status: DaemonSetStatus,
    ) -> Result<(), Error> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let changed = DaemonSet { status: Some(status), ..set.clone() };
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &key.namespace);
        self.set_writes.write_status(key, &api, &changed).await?;
        Ok(())
    }

    /// When to look again: when a pod becomes available, or the first node with a failed pod has rested.
    fn next(&self, uid: &str, pods: &[Arc<Pod>], world: &World<'_>, now: Timestamp) -> Next {
        let failed = pods.iter().filter(|pod| status::phase(pod) == "Failed" && !status::is_deleting(pod));
        let rested = failed.filter_map(|pod| self.rests.until(uid, status::node_name(pod), now)).min();
        let at = [rested, world.wake()].into_iter().flatten().min();
        let wait = at.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        wait.map_or(Next::Done, Next::After)
    }
}

/// The hash in the newest revision's name.
fn hash_of(history: &History) -> String {
    let labels = history.newest.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).cloned().unwrap_or_default()
}
