//! Runs pods until enough of them have succeeded.
//!
//! Reads Jobs and pods. Writes pods (creates, deletes, adopts, releases, takes their finalizer away), the status of Jobs,
//! and events. Woken by Jobs, by their pods, by pods that nobody controls, and when a pause or a deadline is over.
//!
//! A pass either writes the status or does what follows from it, never both: pods are let go only when they are noted. Pods
//! of Jobs that are gone lose their finalizer here, too.

mod conditions;
mod indexes;
mod plan;
mod pod;
mod policy;
mod tally;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::SelectorError;
use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::{Index, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use futures::future::join_all;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::api::{Patch, PatchParams};
use pod_rules::{labels, status};
use serde_json::json;

use crate::Informers;
use crate::answers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::pod_control::{Failure, PodControl};
use crate::wiring::{self, Cache};
use plan::Plan;

pub(crate) use conditions::finished;

const WORKERS: usize = 4;
const COMPONENT: &str = "job-controller";

/// Why a Job could not be reconciled now.
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
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    pods_by_owner: ByOwner<Pod>,
    /// Tracked pods by namespace and name of the Job that controls them, whether that is there or not.
    tracked: Index<Pod>,
    control: PodControl,
    /// Writes of the Jobs themselves.
    job_writes: Expectations,
    events: Recorder,
}

fn selector(job: &Job) -> Option<&LabelSelector> {
    job.spec.as_ref()?.selector.as_ref()
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.jobs);
    wiring::wake_by_dependents(&queue, &informers.jobs, &informers.pods, |job, labels| {
        labels::selects(selector(job), labels)
    });
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        jobs: informers.jobs.clone(),
        pods: informers.pods.clone(),
        pods_by_owner: informers.pods_by_owner.clone(),
        tracked: tracked(&informers.pods),
        control: PodControl::new(context, COMPONENT),
        job_writes: Expectations::default(),
        events: Recorder::new(context, COMPONENT, None),
    });
    let caches: [&dyn Cache; 2] = [&informers.jobs, &informers.pods];
    wiring::run(context, ("job", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

fn tracked(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index(|pod| {
        let owner = claim::controller_of(&pod.metadata);
        let job = owner.filter(|owner| owner.kind == "Job" && pod::is_tracked(pod));
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        job.map(|job| ObjectKey::new(namespace, job.name.clone()).to_string()).into_iter().collect()
    })
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let job = self.jobs.get(key);
        self.let_go_of_strangers(key, job.as_deref()).await?;
        let Some(job) = job else {
            self.control.writes.forget(key);
            self.job_writes.forget(key);
            return Ok(Next::Done);
        };
        let selector = labels::compile(selector(&job))?;
        // One that selects nothing would never find its own pods.
        if job.spec.as_ref().is_none_or(|spec| spec.selector.is_none()) {
            return Ok(Next::Done);
        }
        let api = self.pods_api(key);
        let uid = job.metadata.uid.as_deref().unwrap_or_default();
        self.control.writes.resolve(key, &api, &selector.to_string(), uid).await?;
        let seen = self.pods.revision();
        let pods = self.pods_by_owner.claimable(&job.metadata);
        let alive = |uid: &str| {
            pods.iter().any(|pod| pod.metadata.uid.as_deref() == Some(uid) && !status::is_deleting(pod))
        };
        if !self.control.writes.met(key, seen, alive)
            || !self.job_writes.met(key, self.jobs.revision(), |_| false)
        {
            return Ok(NOT_SEEN);
        }
        let claims = claim::sort(&job.metadata, &selector, &pods);
        let wrote = |pod: &Pod| self.control.writes.wrote(key, pod);
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let finalizer = Some(pod::FINALIZER);
        let owned = claim::settle_with(&jobs, &*job, &api, claims, finalizer, wrote).await?;
        let now = self.clock.now();
        let plan = plan::plan(&job, &owned, now);
        if let Some(status) = plan.status.as_ref().filter(|status| job.status.as_ref() != Some(status)) {
            self.write_status(key, &jobs, &job, status.clone()).await?;
            return Ok(Next::Done);
        }
        self.act(key, &job, &plan).await?;
        let wait = plan.wake.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        Ok(wait.map_or(Next::Done, Next::After))
    }

    fn pods_api(&self, key: &ObjectKey) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &key.namespace)
    }

    /// Pods of an earlier Job of this name are nobody's to count.
    async fn let_go_of_strangers(&self, key: &ObjectKey, job: Option<&Job>) -> kube::Result<()> {
        let uid = job.and_then(|job| job.metadata.uid.as_deref());
        let tracked = self.tracked.get(&key.to_string());
        let strange = |pod: &&Arc<Pod>| {
            claim::controller_of(&pod.metadata).is_some_and(|owner| Some(owner.uid.as_str()) != uid)
        };
        self.let_go(key, tracked.iter().filter(strange)).await
    }

    /// Takes the finalizer of pods away, side by side.
    async fn let_go<'a>(
        &self,
        key: &ObjectKey,
        pods: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> kube::Result<()> {
        let api = self.pods_api(key);
        let patches = pods.filter(|pod| pod::is_tracked(pod)).map(|pod| async {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            let body = json!({"metadata": {
                "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [pod::FINALIZER],
            }});
            match api.patch(name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Ok(pod) => self.control.writes.wrote(key, &pod),
                // Gone, or another of that name by now: the watch will tell.
                Err(error) if answers::is_not_found(&error) || answers::is_conflict(&error) => {}
                Err(error) => return Err(error),
            }
            Ok(())
        });
        join_all(patches).await.into_iter().collect()
    }

    async fn act(&self, key: &ObjectKey, job: &Job, plan: &Plan) -> Result<(), Error> {
        let about = reference(job);
        self.let_go(key, plan.release.iter().chain(&plan.discard)).await?;
        self.control.delete(key, &about, &plan.discard).await?;
        self.control.delete(key, &about, &plan.delete).await?;
        let pods: Vec<Pod> = plan.create.iter().map(|place| pod::new_pod(job, *place)).collect();
        Ok(self.control.create(key, &about, &pods).await?)
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        jobs: &Api<Job>,
        job: &Job,
        status: JobStatus,
    ) -> kube::Result<()> {
        let changed = Job { status: Some(status), ..job.clone() };
        if self.job_writes.write_status(key, jobs, &changed).await? {
            self.tell(job, &changed);
        }
        Ok(())
    }

    /// Events for the conditions that are new.
    fn tell(&self, before: &Job, after: &Job) {
        let conditions =
            |job: &Job| job.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let known = conditions(before);
        for condition in conditions(after).iter().filter(|condition| !known.contains(condition)) {
            let reason = condition.reason.as_deref().unwrap_or_default();
            let message = condition.message.as_deref().unwrap_or_default();
            let (kind, reason, note) = match (condition.type_.as_str(), condition.status.as_str()) {
                ("Suspended", "True") => (EventType::Normal, "Suspended", message),
                ("Suspended", _) => (EventType::Normal, "Resumed", message),
                ("Complete", "True") => (EventType::Normal, "Completed", "Job completed"),
                ("Failed", "True") => (EventType::Warning, reason, message),
                _ => continue,
            };
            self.events.event(&reference(after), kind, reason, note);
        }
    }
}
