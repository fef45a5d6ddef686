//! Keeps as many pods as a ReplicaSet asks for.
//!
//! Reads ReplicaSets and pods. Writes pods (creates, deletes, adopts, releases), the status of ReplicaSets, and events.
//! Woken by ReplicaSets, by the pods of a set, by pods that nobody controls, and when a ready pod becomes available. A pass
//! waits until the cache shows what the pass before it did, or may have done when the answer was lost, so that no pod is
//! made or deleted twice.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::SelectorError;
use component::controller::{self, Next};
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, PostParams, Preconditions};
use pod_rules::labels;

use crate::Informers;
use crate::answers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use plan::{Failure, Scale};

const WORKERS: usize = 4;

/// Why a set could not be reconciled now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Adopt(#[from] CannotAdopt),
    #[error("spec.selector: {0}")]
    Selector(#[from] SelectorError),
    #[error("{}: {}", .0.reason, .0.message)]
    Scale(Failure),
}

struct Controller {
    client: kube::Client,
    clock: Clock,
    sets: Informer<ReplicaSet>,
    pods: Informer<Pod>,
    /// Writes of pods, by set.
    pod_writes: Expectations,
    /// Writes of the sets themselves.
    set_writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    let (sets, pods) = (informers.replica_sets.clone(), informers.pods.clone());
    let keys = queue.clone();
    sets.on_change(move |change: Change<'_, ReplicaSet>| keys.add(ObjectKey::of(&**change.latest())));
    let (keys, known) = (queue.clone(), sets.clone());
    pods.on_change(move |change: Change<'_, Pod>| {
        for pod in [change.old, change.new].into_iter().flatten() {
            wake_owner(&keys, &known, pod, change.new.is_some());
        }
    });
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        sets,
        pods,
        pod_writes: Expectations::default(),
        set_writes: Expectations::default(),
        events: Recorder::new(context, "replicaset-controller", None),
    });
    let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
    let (sets, pods) = (informers.replica_sets.clone(), informers.pods.clone());
    let synced = async move {
        sets.synced().await;
        pods.synced().await;
    };
    answers::when(context, synced, move || {
        controller::run(&tasks, shutdown, "replicaset", queue, WORKERS, move |key| {
            let controller = controller.clone();
            async move { controller.reconcile(&key).await }
        });
    });
}

/// Queues the set that controls a pod; or, of a pod that nobody controls, every set that might adopt it.
fn wake_owner(keys: &Queue<ObjectKey>, sets: &Informer<ReplicaSet>, pod: &Pod, exists: bool) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    match claim::controller_of(&pod.metadata) {
        Some(owner) if owner.kind == "ReplicaSet" => keys.add(ObjectKey::new(namespace, owner.name.clone())),
        None if exists => {
            for set in sets.in_namespace(&namespace) {
                if labels::selects(Some(&set.spec.selector), pod.metadata.labels.as_ref()) {
                    keys.add(ObjectKey::of(&*set));
                }
            }
        }
        Some(_) | None => {}
    }
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(key) else {
            self.pod_writes.forget(key);
            self.set_writes.forget(key);
            return Ok(Next::Done);
        };
        let selector = labels::compile(Some(&set.spec.selector))?;
        let pods_api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        self.pod_writes.resolve(key, &pods_api, &selector.to_string(), uid).await?;
        let seen = self.pods.revision();
        let pods = self.pods.in_namespace(&key.namespace);
        let alive = |uid: &str| {
            pods.iter()
                .any(|pod| pod.metadata.uid.as_deref() == Some(uid) && pod_rules::status::is_active(pod))
        };
        if !self.pod_writes.met(key, seen, alive)
            || !self.set_writes.met(key, self.sets.revision(), |_| false)
        {
            return Ok(NOT_SEEN);
        }
        let claims = plan::claims(&set, &selector, &pods);
        let sets = Api::namespaced(self.client.clone(), &key.namespace);
        let wrote = |pod: &Pod| self.pod_writes.wrote(key, pod);
        let owned = claim::settle(&sets, &*set, &pods_api, claims, wrote).await?;
        let related = self.related(&set, &pods);
        let scale = plan::scale(&set, owned.clone(), &related, self.clock.now());
        let scaled = self.scale(key, &set, scale).await;
        let terminating = plan::terminating(&set, &pods);
        let now = self.clock.now();
        let status = plan::status_of(&set, &owned, terminating, scaled.as_ref().err(), now);
        self.write_status(key, &set, status).await?;
        scaled.map_err(Error::Scale)?;
        let wait = plan::until_available(&set, &owned, now).and_then(|wait| Duration::try_from(wait).ok());
        Ok(wait.map_or(Next::Done, Next::After))
    }

    /// The pods of every set that has the same owner, this one's included.
    fn related(&self, set: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
        let own = set.metadata.uid.as_deref().unwrap_or_default();
        let mut uids = vec![own.to_owned()];
        if let Some(owner) = claim::controller_of(&set.metadata) {
            let siblings = self.sets.in_namespace(set.metadata.namespace.as_deref().unwrap_or_default());
            let siblings =
                siblings.iter().filter(|other| claim::is_controlled_by(&other.metadata, &owner.uid));
            uids.extend(siblings.filter_map(|other| other.metadata.uid.clone()));
        }
        let of_one = |pod: &&Arc<Pod>| {
            claim::controller_of(&pod.metadata).is_some_and(|owner| uids.contains(&owner.uid))
        };
        pods.iter().filter(of_one).cloned().collect()
    }

    async fn scale(&self, key: &ObjectKey, set: &ReplicaSet, scale: Scale) -> Result<(), Failure> {
        match scale {
            Scale::Nothing => Ok(()),
            Scale::Create(count) => self.create(key, set, count).await,
            Scale::Delete(victims) => self.delete(key, set, victims).await,
        }
    }

    /// Makes pods in batches that double: what the API refuses is refused once, not hundreds of times.
    async fn create(&self, key: &ObjectKey, set: &ReplicaSet, count: usize) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let (pod, about, parameters) = (plan::new_pod(set), reference(set), PostParams::default());
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let mut failed = None;
            let mut pointless = false;
            for created in join_all((0..now).map(|_| api.create(&parameters, &pod))).await {
                match created {
                    Ok(pod) => {
                        self.pod_writes.wrote(key, &pod);
                        let note = format!("Created pod: {}", pod.metadata.name.unwrap_or_default());
                        self.events.event(&about, EventType::Normal, "SuccessfulCreate", note);
                    }
                    Err(error) if answers::namespace_terminates(&error) => pointless = true,
                    Err(error) => {
                        self.pod_writes.not_created(key, &error);
                        let message = answers::message(&error);
                        let note = format!("Error creating: {message}");
                        self.events.event(&about, EventType::Warning, "FailedCreate", note);
                        failed = failed.or(Some(message));
                    }
                }
            }
            if let Some(message) = failed {
                return Err(Failure { reason: "FailedCreate", message });
            }
            if pointless {
                return Ok(());
            }
            left -= now;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &ReplicaSet, victims: Vec<Arc<Pod>>) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let about = reference(set);
        let deletions = victims.iter().map(|pod| {
            let only = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
            let parameters = DeleteParams::default().preconditions(only);
            let api = &api;
            async move { api.delete(pod.metadata.name.as_deref().unwrap_or_default(), &parameters).await }
        });
        let mut failed = None;
        for (pod, deleted) in victims.iter().zip(join_all(deletions).await) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            match deleted {
                Ok(_) => {
                    self.pod_writes.deleted_uid(key, uid);
                    let note = format!("Deleted pod: {name}");
                    self.events.event(&about, EventType::Normal, "SuccessfulDelete", note);
                }
                // Somebody else was faster; the cache will show it.
                Err(error) if answers::is_not_found(&error) => self.pod_writes.deleted_uid(key, uid),
                Err(error) => {
                    self.pod_writes.not_deleted(key, name, uid, &error);
                    let message = answers::message(&error);
                    let note = format!("Error deleting: {message}");
                    self.events.event(&about, EventType::Warning, "FailedDelete", note);
                    failed = failed.or(Some(message));
                }
            }
        }
        failed.map_or(Ok(()), |message| Err(Failure { reason: "FailedDelete", message }))
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        status: ReplicaSetStatus,
    ) -> Result<(), Error> {
        if !plan::differs(set.status.as_ref(), &status) {
            return Ok(());
        }
        let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = ReplicaSet { status: Some(status), ..set.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => self.set_writes.wrote(key, &written),
            Err(error) if answers::is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
