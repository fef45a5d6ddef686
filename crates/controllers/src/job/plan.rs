//! What a Job needs next: what its status is, which pods to make, to let go and to delete. Pure.
//!
//! The status comes first: what follows from it is only done when it is written (see [`super::tally`]).

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pod_rules::status;

use super::conditions::{self, End};
use super::indexes::{self, Indexes};
use super::pod::{self, Failures};
use super::policy::{self, Verdict};
use super::tally::{self, Tally, number};
use crate::replicaset::{BURST, deletion_order};

/// Who is meant by a Job's `managedBy` when it is this controller.
const OURS: &str = "kubernetes.io/job-controller";
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(10);
const LAST_BACKOFF: SignedDuration = SignedDuration::from_mins(10);

/// A pod to be made: the index that it works for, and what came before if that is limited by index.
pub(crate) type Place = Option<(i32, Option<Failures>)>;

/// What one pass does.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What the status is to be; nothing below is done before it is.
    pub status: Option<JobStatus>,
    /// Pods that are counted: their finalizer goes.
    pub release: Vec<Arc<Pod>>,
    /// Pods that are too many: deleted without being counted.
    pub discard: Vec<Arc<Pod>>,
    /// Pods that run although the Job is over: deleted, and counted like any other.
    pub delete: Vec<Arc<Pod>>,
    pub create: Vec<Place>,
    /// When to look again.
    pub wake: Option<Timestamp>,
}

struct World<'a> {
    job: &'a Job,
    spec: &'a JobSpec,
    /// Neither ended nor being deleted.
    active: Vec<Arc<Pod>>,
    /// Being deleted, and not ended.
    terminating: Vec<Arc<Pod>>,
    pods: &'a [Arc<Pod>],
    tally: Tally,
    now: Timestamp,
}

/// Compares a Job with its pods.
pub(crate) fn plan(job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let Some(spec) = job.spec.as_ref() else { return Plan::default() };
    let tracked = || pods.iter().filter(|pod| pod::is_tracked(pod)).cloned().collect();
    if spec.managed_by.as_deref().is_some_and(|manager| manager != OURS) {
        return Plan::default();
    }
    if conditions::finished(job).is_some() || job.metadata.deletion_timestamp.is_some() {
        return Plan { release: tracked(), ..Plan::default() };
    }
    let (active, rest): (Vec<_>, Vec<_>) = pods.iter().cloned().partition(|pod| status::is_active(pod));
    let terminating = rest.into_iter().filter(|pod| !status::is_terminal(pod)).collect();
    World { job, spec, active, terminating, pods, tally: Tally::of(job, pods), now }.plan()
}

impl World<'_> {
    fn plan(self) -> Plan {
        let told = self.job.status.as_ref().and_then(|told| told.conditions.clone()).unwrap_or_default();
        let end = End::decided(&told).or_else(|| self.end());
        let mut plan = Plan { release: self.release(end.is_some()), ..Plan::default() };
        if end.is_some() {
            plan.delete = self.active.iter().take(BURST).cloned().collect();
        } else {
            self.scale(&mut plan);
            let deadline = self.deadline().filter(|at| *at > self.now);
            plan.wake = [plan.wake, deadline].into_iter().flatten().min();
        }
        plan.status = Some(self.status(told, end));
        plan
    }

    fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether and how the Job is over, apart from pods that still run.
    fn end(&self) -> Option<End> {
        let tally = &self.tally;
        if let Some(why) = &tally.fatal {
            return Some(End::failure("PodFailurePolicy", why.as_str()));
        }
        if tally.all_failed() > self.spec.backoff_limit.unwrap_or(6) || self.restarts_too_often() {
            let message = "Job has reached the specified backoff limit";
            return Some(End::failure("BackoffLimitExceeded", message));
        }
        if self.deadline().is_some_and(|at| at <= self.now) {
            let message = "Job was active longer than specified deadline";
            return Some(End::failure("DeadlineExceeded", message));
        }
        if let Some(completions) = tally::indexed(self.job)
            && let Some(end) = self.end_by_index(completions)
        {
            return Some(end);
        }
        let succeeded = tally.all_succeeded();
        let enough = self.spec.completions.map_or(succeeded > 0, |wanted| succeeded >= wanted);
        let message = "Reached expected number of succeeded pods";
        (enough && self.active.is_empty()).then(|| End::success("CompletionsReached", message))
    }

    fn end_by_index(&self, completions: i32) -> Option<End> {
        let Tally { done, lost, .. } = &self.tally;
        if self.spec.max_failed_indexes.is_some_and(|most| number(lost.len()) > most) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(End::failure("MaxFailedIndexesExceeded", message));
        }
        if !lost.is_empty() && number(done.union(lost).count()) >= completions {
            return Some(End::failure("FailedIndexes", "Job has failed indexes"));
        }
        let rule = policy::success(self.job, done, completions)?;
        Some(End::success("SuccessPolicy", format!("Matched rules at index {rule}")))
    }

    /// Containers that are started again in their pod count as failures.
    fn restarts_too_often(&self) -> bool {
        let template = self.spec.template.spec.as_ref();
        if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
            return false;
        }
        let running = self.pods.iter().filter(|pod| matches!(status::phase(pod), "Running" | "Pending"));
        let restarts = running.map(|pod| pod::restarts(pod)).fold(0, i32::saturating_add);
        restarts > 0 && restarts >= self.spec.backoff_limit.unwrap_or(6)
    }

    /// When the Job has been active for too long.
    fn deadline(&self) -> Option<Timestamp> {
        let seconds = self.spec.active_deadline_seconds.filter(|_| !self.is_suspended())?;
        let started = self.job.status.as_ref()?.start_time.as_ref()?.0;
        Some(started.saturating_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX))
    }

    /// Pods that ended and need no tracking any more. Where failures are limited by index, the last failed pod of one
    /// stays until another has taken over its count.
    fn release(&self, over: bool) -> Vec<Arc<Pod>> {
        let holds = |pod: &Pod| {
            let by_index = !over && self.spec.backoff_limit_per_index.is_some();
            let index = pod::index(pod).filter(|index| {
                by_index && !self.tally.done.contains(index) && !self.tally.lost.contains(index)
            });
            index.is_some_and(|index| {
                let last = self.last_failed(index);
                let replaced = self.active.iter().any(|active| pod::index(active) == Some(index));
                !replaced && last.is_some_and(|last| last.metadata.uid == pod.metadata.uid)
            })
        };
        self.tally.ended.iter().filter(|pod| !holds(pod)).cloned().collect()
    }

    /// The pod of an index that failed last, among those that are tracked.
    fn last_failed(&self, index: i32) -> Option<&Arc<Pod>> {
        let failed = self
            .tally
            .ended
            .iter()
            .filter(|pod| pod::index(pod) == Some(index) && status::phase(pod) != "Succeeded");
        failed.max_by_key(|pod| (Failures::of(pod).all(), pod::ended_at(pod), pod.metadata.uid.clone()))
    }

    /// Makes pods or deletes them, so that as many run as should.
    fn scale(&self, plan: &mut Plan) {
        let wanted = self.wanted();
        let mut surplus = self.misplaced();
        let keep: Vec<_> = self
            .active
            .iter()
            .filter(|pod| !surplus.iter().any(|one| Arc::ptr_eq(one, pod)))
            .cloned()
            .collect();
        match keep.len().cmp(&wanted) {
            Ordering::Greater => {
                let crowds = BTreeMap::new();
                let extra = keep.len() - wanted;
                surplus.extend(deletion_order(keep, &crowds, self.now).into_iter().take(extra));
            }
            Ordering::Less if surplus.is_empty() => self.grow(wanted - keep.len(), plan),
            Ordering::Less | Ordering::Equal => {}
        }
        surplus.truncate(BURST);
        plan.discard = surplus;
    }

    /// How many pods should run now.
    fn wanted(&self) -> usize {
        if self.is_suspended() {
            return 0;
        }
        let parallel = self.spec.parallelism.unwrap_or(1);
        let succeeded = self.tally.all_succeeded();
        let wanted = match self.spec.completions {
            None if succeeded > 0 => number(self.active.len()).min(parallel),
            None => parallel,
            Some(completions) => completions.saturating_sub(succeeded).min(parallel),
        };
        usize::try_from(wanted).unwrap_or(0)
    }

    /// Active pods of indexes that another has, that are done or lost, or that are none.
    fn misplaced(&self) -> Vec<Arc<Pod>> {
        let Some(completions) = tally::indexed(self.job) else { return Vec::new() };
        let mut seen = Indexes::new();
        let useless = |pod: &&Arc<Pod>| {
            pod::index(pod).is_none_or(|index| {
                let over = self.tally.done.contains(&index) || self.tally.lost.contains(&index);
                index >= completions || over || !seen.insert(index)
            })
        };
        let mut oldest: Vec<&Arc<Pod>> = self.active.iter().collect();
        oldest.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        oldest.into_iter().filter(useless).cloned().collect()
    }

    fn grow(&self, missing: usize, plan: &mut Plan) {
        let waits = tally::waits_for_the_end(self.job);
        let missing = if waits { missing.saturating_sub(self.terminating.len()) } else { missing };
        let by_index = self.spec.backoff_limit_per_index.is_some();
        if !by_index && let Some(until) = self.backoff() {
            plan.wake = Some(until);
            return;
        }
        let Some(completions) = tally::indexed(self.job) else {
            plan.create = vec![None; missing.min(BURST)];
            return;
        };
        let on_their_way = self.terminating.iter().filter(|_| waits);
        let taken: Indexes =
            self.active.iter().chain(on_their_way).filter_map(|pod| pod::index(pod)).collect();
        let free = (0..completions).filter(|index| {
            let Tally { done, lost, .. } = &self.tally;
            !(done.contains(index) || lost.contains(index) || taken.contains(index))
        });
        for index in free {
            if plan.create.len() >= missing.min(BURST) {
                return;
            }
            let last = self.last_failed(index).filter(|_| by_index);
            match last.and_then(|last| self.backoff_of(last)) {
                Some(until) => plan.wake = Some(plan.wake.map_or(until, |known| known.min(until))),
                None => plan.create.push(Some((index, by_index.then(|| self.failures_after(last))))),
            }
        }
    }

    /// What a pod that follows another one starts with.
    fn failures_after(&self, last: Option<&Arc<Pod>>) -> Failures {
        let Some(last) = last else { return Failures::default() };
        let before = Failures::of(last);
        match policy::judge(self.job, last) {
            Verdict::Ignore => Failures { ignored: before.ignored.saturating_add(1), ..before },
            _ => Failures { counted: before.counted.saturating_add(1), ..before },
        }
    }

    /// Until when no pod is made, after failures in a row: longer each time.
    fn backoff(&self) -> Option<Timestamp> {
        let ended = |failed: bool| {
            let pods = self.pods.iter().filter(move |pod| match failed {
                // One that was discarded did not fail.
                true => {
                    tally::has_failed(self.job, pod) && (pod::is_tracked(pod) || !status::is_deleting(pod))
                }
                false => status::phase(pod) == "Succeeded",
            });
            pods.filter_map(|pod| pod::ended_at(pod))
        };
        let success = ended(false).max();
        let failures: Vec<_> = ended(true).filter(|at| success.is_none_or(|success| *at > success)).collect();
        let last = *failures.iter().max()?;
        Some(after(last, number(failures.len()))).filter(|until| *until > self.now)
    }

    /// The same for one index, by its last failed pod.
    fn backoff_of(&self, last: &Pod) -> Option<Timestamp> {
        let times = Failures::of(last).all().saturating_add(1);
        Some(after(pod::ended_at(last)?, times)).filter(|until| *until > self.now)
    }

    fn status(
        &self,
        mut told: Vec<k8s_openapi::api::batch::v1::JobCondition>,
        end: Option<End>,
    ) -> JobStatus {
        let before = self.job.status.clone().unwrap_or_default();
        let mut start_time = before.start_time;
        let now = self.now;
        if end.is_none() && self.is_suspended() {
            conditions::tell(&mut told, "Suspended", "True", ("JobSuspended", "Job suspended"), now);
        } else if conditions::has(&told, "Suspended") && end.is_none() {
            conditions::tell(&mut told, "Suspended", "False", ("JobResumed", "Job resumed"), now);
            start_time = Some(Time(now));
        }
        if start_time.is_none() && !self.is_suspended() {
            start_time = Some(Time(now));
        }
        let Tally { noted, done, lost, .. } = &self.tally;
        let uncounted = noted.succeeded.is_some() || noted.failed.is_some() || !self.tally.ended.is_empty();
        let mut completion_time = before.completion_time;
        if let Some(end) = &end {
            let (coming, over) = end.conditions();
            let why = (end.reason.as_str(), end.message.as_str());
            conditions::tell(&mut told, coming, "True", why, now);
            if !uncounted && self.active.is_empty() && self.terminating.is_empty() {
                conditions::tell(&mut told, over, "True", why, now);
                completion_time = completion_time.or_else(|| end.success.then_some(Time(now)));
            }
        }
        let some = |count: i32| (count > 0).then_some(count);
        let is_indexed = tally::indexed(self.job).is_some();
        let by_index = is_indexed && self.spec.backoff_limit_per_index.is_some();
        let text = |indexes: &Indexes| Some(indexes::print(indexes));
        JobStatus {
            active: some(number(self.active.len())),
            ready: Some(number(self.active.iter().filter(|pod| status::is_ready(pod)).count())),
            terminating: Some(number(self.terminating.len())),
            succeeded: some(self.tally.succeeded),
            failed: some(self.tally.failed),
            completed_indexes: text(done).filter(|text| is_indexed && !text.is_empty()),
            failed_indexes: text(lost).filter(|_| by_index),
            conditions: (!told.is_empty()).then_some(told),
            start_time,
            completion_time,
            uncounted_terminated_pods: Some(noted.clone()),
        }
    }
}

/// The time of a failure and the pause that follows so many of them.
fn after(failure: Timestamp, times: i32) -> Timestamp {
    let doublings = u32::try_from(times.saturating_sub(1)).unwrap_or(0).min(16);
    let pause = FIRST_BACKOFF.checked_mul(1 << doublings).unwrap_or(LAST_BACKOFF).min(LAST_BACKOFF);
    failure.saturating_add(pause).unwrap_or(Timestamp::MAX)
}
