//! Rolls a Deployment out: a ReplicaSet for each version of its pod template, one scaled up while the others go down.
//!
//! Reads Deployments, ReplicaSets, and pods (only to know that all old ones have ended). Writes ReplicaSets (creates,
//! scales, annotates, adopts, releases, deletes), the status and the revision of Deployments, and events. Woken by
//! Deployments, their ReplicaSets, ReplicaSets that nobody controls, pods that end, and the deadline for progress.
//!
//! Deliberately absent: rolling back. `kubectl rollout undo` writes an old template into the Deployment; the ReplicaSet
//! that has it is found and used again.

mod bounds;
mod plan;
mod revision;
mod status;
mod template;
#[cfg(test)]
mod tests;
mod world;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::SelectorError;
use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use pod_rules::labels;
use serde_json::json;

use crate::Informers;
use crate::answers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::wiring::{self, Cache};
use bounds::Bounds;
use plan::Plan;

pub(crate) use template::{hash as template_hash, same as same_template};

const WORKERS: usize = 4;

/// Why a Deployment could not be reconciled now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Adopt(#[from] CannotAdopt),
    #[error("spec.selector: {0}")]
    Selector(#[from] SelectorError),
}

/// What became of the newest set's creation.
enum Created {
    /// It is there, as the plan wants it.
    Yes,
    /// Somebody, maybe an earlier pass, made it: it is in the API and will be in the cache.
    Before,
    /// Its name is taken by something else.
    Collided,
    /// The namespace is going.
    Pointless,
}

struct Controller {
    client: kube::Client,
    clock: Clock,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    sets_by_owner: ByOwner<ReplicaSet>,
    pods_by_owner: ByOwner<Pod>,
    /// Writes of ReplicaSets, by Deployment.
    set_writes: Expectations,
    /// Writes of the Deployments themselves.
    deployment_writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wake(&queue, informers);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        deployments: informers.deployments.clone(),
        sets: informers.replica_sets.clone(),
        sets_by_owner: informers.replica_sets_by_owner.clone(),
        pods_by_owner: informers.pods_by_owner.clone(),
        set_writes: Expectations::default(),
        deployment_writes: Expectations::default(),
        events: Recorder::new(context, "deployment-controller", None),
    });
    let caches: [&dyn Cache; 3] = [&informers.deployments, &informers.replica_sets, &informers.pods];
    wiring::run(context, ("deployment", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

fn wake(queue: &Queue<ObjectKey>, informers: &Informers) {
    let (deployments, sets) = (&informers.deployments, &informers.replica_sets);
    wiring::wake_by(queue, deployments);
    wiring::wake_by_dependents(queue, deployments, sets, |deployment, labels| {
        labels::selects(Some(&deployment.spec.selector), labels)
    });
    let (keys, sets) = (queue.clone(), sets.clone());
    informers.pods.on_change(move |change: Change<'_, Pod>| {
        let ended = |pod: &Arc<Pod>| pod_rules::status::is_terminal(pod);
        if change.new.is_some_and(|pod| !ended(pod)) || change.old.is_none_or(ended) {
            return;
        }
        let pod = change.latest();
        let Some(set) = claim::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet") else {
            return;
        };
        let key = ObjectKey::new(pod.metadata.namespace.clone().unwrap_or_default(), set.name.clone());
        if let Some(owner) = sets.get(&key).and_then(|set| owner(&set)) {
            keys.add(owner);
        }
    });
}

/// The Deployment that controls a set.
fn owner(set: &ReplicaSet) -> Option<ObjectKey> {
    let owner = claim::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(ObjectKey::new(set.metadata.namespace.clone().unwrap_or_default(), owner.name.clone()))
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(key) else {
            self.set_writes.forget(key);
            self.deployment_writes.forget(key);
            return Ok(Next::Done);
        };
        let selector = labels::compile(Some(&deployment.spec.selector))?;
        if selector.is_empty() {
            let note = "This deployment is selecting all pods. A non-empty selector is required.";
            self.events.event(&reference(&*deployment), EventType::Warning, "SelectingAll", note);
            return Ok(Next::Done);
        }
        let (owners, api) = (self.deployments_api(key), self.sets_api(key));
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        self.set_writes.resolve(key, &api, &selector.to_string(), uid).await?;
        let seen = self.sets.revision();
        let sets = self.sets_by_owner.claimable(&deployment.metadata);
        let alive = |uid: &str| {
            let is = |set: &Arc<ReplicaSet>| set.metadata.uid.as_deref() == Some(uid);
            sets.iter().any(|set| is(set) && set.metadata.deletion_timestamp.is_none())
        };
        let fresh = self.set_writes.met(key, seen, alive)
            && self.deployment_writes.met(key, self.deployments.revision(), |_| false);
        if !fresh {
            return Ok(NOT_SEEN);
        }
        let claims = claim::sort(&deployment.metadata, &selector, &sets);
        let wrote = |set: &ReplicaSet| self.set_writes.wrote(key, set);
        let sets = claim::settle(&owners, &*deployment, &api, claims, wrote).await?;
        let with_pods = self.with_pods(&deployment, &sets);
        let plan = plan::plan(&deployment, &sets, &with_pods, self.clock.now());
        self.carry_out(key, &deployment, plan).await
    }

    fn deployments_api(&self, key: &ObjectKey) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    fn sets_api(&self, key: &ObjectKey) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// The uids of sets that have pods which have not ended. Only a replacement at once asks.
    fn with_pods(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> BTreeSet<String> {
        if Bounds::of(deployment).rolling {
            return BTreeSet::new();
        }
        let uids = sets.iter().filter_map(|set| set.metadata.uid.clone());
        let runs = |pod: &Arc<Pod>| !pod_rules::status::is_terminal(pod);
        uids.filter(|uid| self.pods_by_owner.controlled(uid).iter().any(runs)).collect()
    }

    async fn carry_out(&self, key: &ObjectKey, deployment: &Deployment, plan: Plan) -> Result<Next, Error> {
        if let Some(set) = &plan.create {
            match self.create(key, deployment, set).await? {
                Created::Yes => {}
                Created::Before => return Ok(NOT_SEEN),
                Created::Pointless => return Ok(Next::Done),
                Created::Collided => {
                    self.write_status(key, deployment, plan::collided(deployment)).await?;
                    return Ok(Next::Done);
                }
            }
        }
        for (set, before) in &plan.updates {
            self.update(key, deployment, set, *before).await?;
        }
        for set in &plan.forget {
            self.delete(key, set).await?;
        }
        self.write_status(key, deployment, plan.status).await?;
        if let Some(revision) = plan.revision {
            self.write_revision(key, deployment, revision).await?;
        }
        let wait = plan.wake.map(|wake| wake.duration_since(self.clock.now()));
        Ok(wait.map_or(Next::Done, |wait| Next::After(Duration::try_from(wait).unwrap_or_default())))
    }

    async fn create(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        set: &ReplicaSet,
    ) -> Result<Created, Error> {
        let api = self.sets_api(key);
        let error = match self.set_writes.create(key, &api, set).await {
            Ok(_) => {
                self.tell_scaled(deployment, set, 0);
                return Ok(Created::Yes);
            }
            Err(error) => error,
        };
        if answers::namespace_terminates(&error) {
            return Ok(Created::Pointless);
        }
        if answers::is_already_exists(&error) {
            let name = set.metadata.name.as_deref().unwrap_or_default();
            let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
            let Some(live) = api.get_opt(name).await? else { return Err(error.into()) };
            let template = live.spec.template.as_ref();
            let ours = claim::is_controlled_by(&live.metadata, uid)
                && template.is_some_and(|template| template::same(template, &deployment.spec.template));
            if ours {
                self.set_writes.wrote(key, &live);
                return Ok(Created::Before);
            }
            return Ok(Created::Collided);
        }
        let why = answers::message(&error);
        let about = reference(deployment);
        self.events.event(&about, EventType::Warning, status::SET_NOT_CREATED, plan::refusal(set, &why));
        let status = plan::refused(deployment, set, &why, self.clock.now());
        self.write_status(key, deployment, status).await?;
        Err(error.into())
    }

    async fn update(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        set: &ReplicaSet,
        before: i32,
    ) -> Result<(), Error> {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let updated = self.sets_api(key).replace(name, &PostParams::default(), set).await?;
        self.set_writes.wrote(key, &updated);
        self.tell_scaled(deployment, set, before);
        Ok(())
    }

    fn tell_scaled(&self, deployment: &Deployment, set: &ReplicaSet, before: i32) {
        let (name, now) = (set.metadata.name.as_deref().unwrap_or_default(), world::size(set));
        if now != before {
            let way = if now > before { "up" } else { "down" };
            let note = format!("Scaled {way} replica set {name} from {before} to {now}");
            self.events.event(&reference(deployment), EventType::Normal, "ScalingReplicaSet", note);
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &ReplicaSet) -> Result<(), Error> {
        // Only as it was when it was found to be unused.
        let only = Preconditions { uid: None, resource_version: set.metadata.resource_version.clone() };
        let parameters = DeleteParams::background().preconditions(only);
        Ok(self.set_writes.delete(key, &self.sets_api(key), set, parameters).await?)
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        status: DeploymentStatus,
    ) -> Result<(), Error> {
        if !plan::differs(deployment.status.as_ref(), &status) {
            return Ok(());
        }
        let changed = Deployment { status: Some(status), ..deployment.clone() };
        self.deployment_writes.write_status(key, &self.deployments_api(key), &changed).await?;
        Ok(())
    }

    async fn write_revision(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        revision: i64,
    ) -> Result<(), Error> {
        let annotations = json!({revision::REVISION: revision.to_string()});
        let patch = json!({"metadata": {"uid": deployment.metadata.uid, "annotations": annotations}});
        match self.deployments_api(key).patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await
        {
            Ok(written) => self.deployment_writes.wrote(key, &written),
            Err(error) if answers::is_not_found(&error) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }
}
