//! Makes Jobs at the times that a CronJob says.
//!
//! Reads CronJobs and their Jobs. Writes Jobs (creates, deletes), the status of CronJobs, and events. Woken by CronJobs, by
//! their Jobs, and when the next time has come. Schedules without a time zone are in UTC.
//!
//! Deliberately absent: making up for every time that was missed. The last one counts, if it is not too late for it.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use kube::api::{DeleteParams, PropagationPolicy};

use crate::Informers;
use crate::answers;
use crate::claim;
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::wiring::{self, Cache};

const WORKERS: usize = 2;
const KIND: &str = "CronJob";

struct Controller {
    client: kube::Client,
    clock: Clock,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    jobs_by_owner: ByOwner<Job>,
    /// Writes of Jobs, by CronJob.
    job_writes: Expectations,
    /// Writes of the CronJobs themselves.
    cron_writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.cron_jobs);
    let keys = queue.clone();
    informers.jobs.on_change(move |change: Change<'_, Job>| {
        let meta = &change.latest().metadata;
        let owner = claim::controller_of(meta).filter(|owner| owner.kind == KIND);
        if let Some(owner) = owner {
            keys.add(ObjectKey::new(meta.namespace.clone().unwrap_or_default(), owner.name.clone()));
        }
    });
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        crons: informers.cron_jobs.clone(),
        jobs: informers.jobs.clone(),
        jobs_by_owner: informers.jobs_by_owner.clone(),
        job_writes: Expectations::default(),
        cron_writes: Expectations::default(),
        events: Recorder::new(context, "cronjob-controller", None),
    });
    let caches: [&dyn Cache; 2] = [&informers.cron_jobs, &informers.jobs];
    wiring::run(context, ("cronjob", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(cron) = self.crons.get(key) else {
            self.job_writes.forget(key);
            self.cron_writes.forget(key);
            return Ok(Next::Done);
        };
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        self.job_writes.resolve(key, &api, "", uid).await?;
        let seen = self.jobs.revision();
        let jobs = self.jobs_by_owner.controlled(uid);
        let alive = |uid: &str| {
            let staying = jobs.iter().filter(|job| job.metadata.deletion_timestamp.is_none());
            staying.into_iter().any(|job| job.metadata.uid.as_deref() == Some(uid))
        };
        if !self.job_writes.met(key, seen, alive)
            || !self.cron_writes.met(key, self.crons.revision(), |_| false)
        {
            return Ok(NOT_SEEN);
        }
        let now = self.clock.now();
        let plan = plan::plan(&cron, &jobs, now);
        for note in plan.notes {
            self.events.event(&reference(&*cron), note.kind, note.reason, note.text);
        }
        for job in &plan.delete {
            self.delete(key, &cron, &api, job).await?;
        }
        let mut status = plan.status;
        if let Some(job) = plan.create {
            match self.create(key, &cron, &api, &job).await? {
                Some(created) => status.active.get_or_insert_default().push(plan::entry(&created)),
                // The time stays due.
                None => return Ok(Next::Done),
            }
        }
        self.write_status(key, &cron, status).await?;
        let wait = plan.wake.and_then(|at| Duration::try_from(at.duration_since(now)).ok());
        Ok(wait.map_or(Next::Done, Next::After))
    }

    /// Makes a Job; `None` in a namespace that is being deleted.
    async fn create(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        api: &Api<Job>,
        job: &Job,
    ) -> kube::Result<Option<Job>> {
        match self.job_writes.create(key, api, job).await {
            Ok(created) => {
                let name = created.metadata.name.as_deref().unwrap_or_default();
                let note = format!("Created job {name}");
                self.events.event(&reference(cron), EventType::Normal, "SuccessfulCreate", note);
                Ok(Some(created))
            }
            Err(error) if answers::namespace_terminates(&error) => Ok(None),
            Err(error) => {
                let note = format!("Error creating job: {}", answers::message(&error));
                self.events.event(&reference(cron), EventType::Warning, "FailedCreate", note);
                Err(error)
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, cron: &CronJob, api: &Api<Job>, job: &Job) -> kube::Result<()> {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let background = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            ..DeleteParams::default()
        };
        match self.job_writes.delete(key, api, job, background).await {
            Ok(()) => {
                let note = format!("Deleted job {name}");
                self.events.event(&reference(cron), EventType::Normal, "SuccessfulDelete", note);
                Ok(())
            }
            Err(error) => {
                let note = format!("Deleted job: {}", answers::message(&error));
                self.events.event(&reference(cron), EventType::Warning, "FailedDelete", note);
                Err(error)
            }
        }
    }

    async fn write_status(&self, key: &ObjectKey, cron: &CronJob, status: CronJobStatus) -> kube::Result<()> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let changed = CronJob { status: Some(status), ..cron.clone() };
        let api: Api<CronJob> = Api::namespaced(self.client.clone(), &key.namespace);
        self.cron_writes.write_status(key, &api, &changed).await?;
        Ok(())
    }
}
