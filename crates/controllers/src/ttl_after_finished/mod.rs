//! Deletes Jobs that have been over for as long as they say (`ttlSecondsAfterFinished`), with their pods.
//!
//! Reads Jobs and deletes them, each on condition that it is still the one, unchanged, that was looked at. Woken by Jobs, and
//! when the time of one has come.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};

use crate::Informers;
use crate::answers;
use crate::job;
use crate::wiring::{self, Cache};

const WORKERS: usize = 2;

struct Controller {
    client: kube::Client,
    clock: Clock,
    jobs: Informer<Job>,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.jobs);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        jobs: informers.jobs.clone(),
    });
    let caches: [&dyn Cache; 1] = [&informers.jobs];
    let work = ("ttl-after-finished", queue, WORKERS);
    wiring::run(context, work, &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

/// When a Job is to be deleted; `None` if it is not over, stays, or is being deleted already.
fn due(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = job::finished(job)?.last_transition_time.as_ref()?.0;
    finished.checked_add(SignedDuration::from_secs(i64::from(seconds))).ok()
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(job) = self.jobs.get(key) else { return Ok(Next::Done) };
        let Some(due) = due(&job) else { return Ok(Next::Done) };
        if let Ok(wait) = Duration::try_from(due.duration_since(self.clock.now()))
            && !wait.is_zero()
        {
            return Ok(Next::After(wait));
        }
        let preconditions = Preconditions {
            uid: job.metadata.uid.clone(),
            resource_version: job.metadata.resource_version.clone(),
        };
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Foreground),
            preconditions: Some(preconditions),
            ..DeleteParams::default()
        };
        let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &parameters).await {
            // Gone, or changed meanwhile, perhaps to live longer: that change queues it again.
            Err(error) if answers::is_not_found(&error) || answers::is_conflict(&error) => Ok(Next::Done),
            deleted => deleted.map(|()| Next::Done),
        }
    }
}
