//! Keeps pods with names, and claims that belong to the names.
//!
//! Reads StatefulSets, pods, ControllerRevisions and PersistentVolumeClaims. Writes pods (creates, deletes, adopts,
//! releases), claims (creates, gives owners), revisions, the status of StatefulSets, and events. Woken by StatefulSets, by
//! their pods, by pods that nobody controls, and when a ready pod becomes available.
//!
//! A name is held until its pod is really gone: a pod that is being deleted on a node that does not answer is not replaced.
//! Deliberately absent: deciding that it is gone; the pod garbage collector does for nodes that are out of service.

mod identity;
mod plan;
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
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams};
use pod_rules::{labels, status};

use crate::Informers;
use crate::answers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::revisions::{self, Archive, History, Kept};
use crate::wiring::{self, Cache};
use plan::{Action, Revisions};

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
    #[error("the revision {0} does not hold a template")]
    Revision(String),
}

struct Controller {
    client: kube::Client,
    clock: Clock,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    pods_by_owner: ByOwner<Pod>,
    archive: Archive,
    /// Writes of pods, by set.
    pod_writes: Expectations,
    /// Writes of the sets themselves.
    set_writes: Expectations,
    claim_writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.stateful_sets);
    wiring::wake_by_dependents(&queue, &informers.stateful_sets, &informers.pods, |set, labels| {
        labels::selects(Some(&set.spec.selector), labels)
    });
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        sets: informers.stateful_sets.clone(),
        pods: informers.pods.clone(),
        claims: informers.persistent_volume_claims.clone(),
        pods_by_owner: informers.pods_by_owner.clone(),
        archive: Archive::new(context, informers, "controller.kubernetes.io/hash"),
        pod_writes: Expectations::default(),
        set_writes: Expectations::default(),
        claim_writes: Expectations::default(),
        events: Recorder::new(context, "statefulset-controller", None),
    });
    let caches: [&dyn Cache; 4] = [
        &informers.stateful_sets,
        &informers.pods,
        &informers.controller_revisions,
        &informers.persistent_volume_claims,
    ];
    wiring::run(
        context,
        ("statefulset", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(key) else {
            let all = [&self.pod_writes, &self.set_writes, &self.claim_writes];
            all.into_iter().for_each(|writes| writes.forget(key));
            self.archive.forget(key);
            return Ok(Next::Done);
        };
        let selector = labels::compile(Some(&set.spec.selector))?;
        if selector.is_empty() {
            return Ok(Next::Done);
        }
        let api = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        self.pod_writes.resolve(key, &api, &selector.to_string(), uid).await?;
        let seen = self.pods.revision();
        let pods = self.pods_by_owner.claimable(&set.metadata);
        if !self.is_fresh(key, seen, &pods) {
            return Ok(NOT_SEEN);
        }
        let member = |pod: &&Arc<Pod>| {
            identity::ordinal(&set, pod.metadata.name.as_deref().unwrap_or_default()).is_some()
        };
        let claims = claim::sort(&set.metadata, &selector, pods.iter().filter(member));
        let wrote = |pod: &Pod| self.pod_writes.wrote(key, pod);
        let owned = claim::settle(&self.sets_api(key), &*set, &api, claims, wrote).await?;
        let Some((history, names)) = self.history(key, &set, &selector).await? else { return Ok(Next::Done) };
        let plan = plan::plan(&set, &names, &owned, self.clock.now());
        let mut done = Ok(());
        for action in plan.actions {
            if let Err(error) = self.act(key, &set, &history, action).await {
                done = Err(error);
                break;
            }
        }
        self.write_status(key, &set, plan.status).await?;
        done?;
        let mut used: BTreeSet<String> = owned.iter().map(|pod| identity::revision(pod).to_owned()).collect();
        used.extend([names.current, names.update]);
        let limit = set.spec.revision_history_limit.unwrap_or(10);
        self.archive.prune(key, &history, &used, limit).await?;
        let wait = plan.wake.and_then(|at| Duration::try_from(at.duration_since(self.clock.now())).ok());
        Ok(wait.map_or(Next::Done, Next::After))
    }

    fn sets_api(&self, key: &ObjectKey) -> Api<StatefulSet> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Whether the caches show all that was written for this set.
    fn is_fresh(&self, key: &ObjectKey, seen: u64, pods: &[Arc<Pod>]) -> bool {
        let alive = |uid: &str| {
            pods.iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid) && !status::is_deleting(pod))
        };
        self.pod_writes.met(key, seen, alive)
            && self.set_writes.met(key, self.sets.revision(), |_| false)
            && self.archive.met(key)
            && self.claim_writes.met(key, self.claims.revision(), |_| false)
    }

    /// The set's revisions, the newest made to hold its template; `None` when that has to be tried anew.
    async fn history(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        selector: &LabelSelector,
    ) -> Result<Option<(History, Revisions)>, Error> {
        let told = set.status.clone().unwrap_or_default();
        let collisions = told.collision_count.unwrap_or(0);
        let kept = self.archive.keep(key, set, selector, &set.spec.template, collisions).await?;
        let history = match kept {
            Kept::History(history) => history,
            Kept::Ending => return Ok(None),
            Kept::Collision => {
                let status = StatefulSetStatus { collision_count: Some(collisions + 1), ..told };
                self.write_status(key, set, status).await?;
                return Ok(None);
            }
        };
        let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
        let update = name(&history.newest);
        let known = |current: &String| history.all.iter().any(|revision| name(revision) == *current);
        let current = told.current_revision.filter(known).unwrap_or_else(|| update.clone());
        Ok(Some((history, Revisions { current, update, collisions })))
    }

    async fn act(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        history: &History,
        action: Action,
    ) -> Result<(), Error> {
        match action {
            Action::Create(ordinal, revision) => self.create(key, set, history, ordinal, &revision).await,
            Action::Keep(ordinal, pod) => self.claims_of(key, set, ordinal, Some(&pod), false).await,
            Action::Delete(pod) => self.delete(key, set, &pod).await,
            Action::Leave(ordinal, pod) => {
                self.claims_of(key, set, ordinal, Some(&pod), true).await?;
                self.delete(key, set, &pod).await
            }
        }
    }

    async fn create(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        history: &History,
        ordinal: i32,
        revision: &str,
    ) -> Result<(), Error> {
        self.claims_of(key, set, ordinal, None, false).await?;
        let held = history.all.iter().find(|one| one.metadata.name.as_deref() == Some(revision));
        let template = if Some(revision) == history.newest.metadata.name.as_deref() {
            Some(set.spec.template.clone())
        } else {
            held.and_then(|held| revisions::template(held))
        };
        let template = template.ok_or_else(|| Error::Revision(revision.to_owned()))?;
        let pod = identity::pod(set, &template, revision, ordinal);
        let name = pod.metadata.name.clone().unwrap_or_default();
        let what = format!("create Pod {name} in StatefulSet {}", identity::name(set));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match self.pod_writes.create(key, &api, &pod).await {
            Ok(_) => {
                self.tell(set, "SuccessfulCreate", format!("{what} successful"));
                Ok(())
            }
            Err(error) if answers::namespace_terminates(&error) => Ok(()),
            // Maybe the name is taken by somebody else.
            Err(error) => {
                self.warn(set, "FailedCreate", format!("{what} failed error: {}", answers::message(&error)));
                Err(error.into())
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let what = format!("delete Pod {name} in StatefulSet {}", identity::name(set));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match self.pod_writes.delete(key, &api, pod, DeleteParams::default()).await {
            Ok(()) => {
                self.tell(set, "SuccessfulDelete", format!("{what} successful"));
                Ok(())
            }
            // Another by now: the cache will show it.
            Err(error) if answers::is_conflict(&error) => Ok(()),
            Err(error) => {
                self.warn(set, "FailedDelete", format!("{what} failed error: {}", answers::message(&error)));
                Err(error.into())
            }
        }
    }

    /// Makes the claims of a pod that are missing, and gives those that are there the owners they should have.
    async fn claims_of(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        ordinal: i32,
        pod: Option<&Pod>,
        leaving: bool,
    ) -> Result<(), Error> {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for claim in identity::claims(set, ordinal) {
            let mut wanted = claim.object;
            let name = wanted.metadata.name.clone().unwrap_or_default();
            let Some(known) = self.claims.get(&ObjectKey::new(key.namespace.clone(), name.clone())) else {
                if leaving {
                    continue;
                }
                wanted.metadata.owner_references = identity::owners(set, &wanted, pod, leaving);
                match api.create(&PostParams::default(), &wanted).await {
                    Ok(created) => {
                        self.claim_writes.wrote(key, &created);
                        let (pod, set_name) =
                            (format!("{}-{ordinal}", identity::name(set)), identity::name(set));
                        let note = format!("create Claim {name} Pod {pod} in StatefulSet {set_name} success");
                        self.tell(set, "SuccessfulCreate", note);
                    }
                    Err(error) if answers::is_already_exists(&error) => {}
                    Err(error) => return Err(error.into()),
                }
                continue;
            };
            if let Some(owners) = identity::owners(set, &known, pod, leaving) {
                let mut changed = (*known).clone();
                changed.metadata.owner_references = Some(owners);
                let written = api.replace(&name, &PostParams::default(), &changed).await?;
                self.claim_writes.wrote(key, &written);
            }
        }
        Ok(())
    }

    fn tell(&self, set: &StatefulSet, reason: &str, note: String) {
        self.events.event(&reference(set), EventType::Normal, reason, note);
    }

    fn warn(&self, set: &StatefulSet, reason: &str, note: String) {
        self.events.event(&reference(set), EventType::Warning, reason, note);
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), Error> {
        if !plan::differs(set.status.as_ref(), &status) {
            return Ok(());
        }
        let changed = StatefulSet { status: Some(status), ..set.clone() };
        self.set_writes.write_status(key, &self.sets_api(key), &changed).await?;
        Ok(())
    }
}
