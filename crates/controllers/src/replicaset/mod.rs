//! Keeps as many pods as a ReplicaSet asks for.
//!
//! Reads ReplicaSets and pods. Writes pods (creates, deletes, adopts, releases), the status of ReplicaSets, and events.
//! Woken by ReplicaSets, by the pods of a set, by pods that nobody controls, and when a ready pod becomes available. A pass
//! waits until the cache shows what the pass before it did, or may have done when the answer was lost, so that no pod is
//! made or deleted twice.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::SelectorError;
use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use futures::future::join_all;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::DeleteParams;
use pod_rules::labels;

use crate::Informers;
use crate::answers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::wiring::{self, Cache};
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
    pods_by_owner: ByOwner<Pod>,
    sets_by_owner: ByOwner<ReplicaSet>,
    /// Writes of pods, by set.
    pod_writes: Expectations,
    /// Writes of the sets themselves.
    set_writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.replica_sets);
    wiring::wake_by_dependents(&queue, &informers.replica_sets, &informers.pods, |set| &set.spec.selector);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        sets: informers.replica_sets.clone(),
        pods: informers.pods.clone(),
        pods_by_owner: informers.pods_by_owner.clone(),
        sets_by_owner: informers.replica_sets_by_owner.clone(),
        pod_writes: Expectations::default(),
        set_writes: Expectations::default(),
        events: Recorder::new(context, "replicaset-controller", None),
    });
    let caches: [&dyn Cache; 2] = [&informers.replica_sets, &informers.pods];
    wiring::run(context, ("replicaset", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
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
        let pods = self.pods_by_owner.claimable(&set.metadata);
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
        let scale = plan::scale(&set, owned.clone(), || self.related(&set), self.clock.now());
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
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let uid = |meta: &ObjectMeta| meta.uid.clone().unwrap_or_default();
        let mut uids = BTreeSet::from([uid(&set.metadata)]);
        if let Some(owner) = claim::controller_of(&set.metadata) {
            let siblings = self.sets_by_owner.controlled(&owner.uid);
            uids.extend(siblings.iter().map(|sibling| uid(&sibling.metadata)));
        }
        uids.iter().flat_map(|uid| self.pods_by_owner.controlled(uid)).collect()
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
        let (pod, about) = (plan::new_pod(set), reference(set));
        let (mut left, mut batch) = (count, 1);
        while left > 0 {
            let now = batch.min(left);
            let mut failed = None;
            let mut pointless = false;
            for created in join_all((0..now).map(|_| self.pod_writes.create(key, &api, &pod))).await {
                match created {
                    Ok(pod) => {
                        let note = format!("Created pod: {}", pod.metadata.name.unwrap_or_default());
                        self.events.event(&about, EventType::Normal, "SuccessfulCreate", note);
                    }
                    Err(error) if answers::namespace_terminates(&error) => pointless = true,
                    Err(error) => {
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
        let gracefully = DeleteParams::default;
        let deletions = victims.iter().map(|pod| self.pod_writes.delete(key, &api, &**pod, gracefully()));
        let mut failed = None;
        for (pod, deleted) in victims.iter().zip(join_all(deletions).await) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match deleted {
                Ok(()) => {
                    let note = format!("Deleted pod: {name}");
                    self.events.event(&about, EventType::Normal, "SuccessfulDelete", note);
                }
                Err(error) => {
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
        Ok(self.set_writes.write_status(key, &api, &changed).await?)
    }
}
