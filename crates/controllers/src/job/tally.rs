//! Counting: every pod of a Job that ended is counted once, whatever crashes in between. A pod that ended is first noted in
//! the status by its uid (`uncountedTerminatedPods`), then loses its finalizer, and when it has none any more the note
//! becomes a number. Pods that work for an index are counted by the index. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;
use pod_rules::status;

use super::indexes::{self, Indexes};
use super::pod;
use super::policy::{self, Verdict};

/// What a Job has come to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Counted for good.
    pub succeeded: i32,
    pub failed: i32,
    /// Noted, and not yet counted.
    pub noted: UncountedTerminatedPods,
    /// Indexes that are done; those of Jobs without indexes are empty.
    pub done: Indexes,
    /// Indexes that are not tried again.
    pub lost: Indexes,
    /// The first failure that is one of the whole Job, and why.
    pub fatal: Option<String>,
    /// Pods that ended and are still tracked.
    pub ended: Vec<Arc<Pod>>,
}

/// Whether a Job waits for deleted pods to end before it makes others.
pub(crate) fn waits_for_the_end(job: &Job) -> bool {
    job.spec.as_ref().is_some_and(|spec| {
        let otherwise = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.as_deref().unwrap_or(otherwise) == "Failed"
    })
}

/// Whether a pod has failed. One that is being deleted may never come to say so.
pub(crate) fn has_failed(job: &Job, pod: &Pod) -> bool {
    match status::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => status::is_deleting(pod) && !waits_for_the_end(job),
    }
}

/// The number of indexes, if the Job has any.
pub(crate) fn indexed(job: &Job) -> Option<i32> {
    let spec = job.spec.as_ref()?;
    (spec.completion_mode.as_deref() == Some("Indexed")).then(|| spec.completions.unwrap_or(0))
}

impl Tally {
    /// Counts on from what the status says.
    pub(crate) fn of(job: &Job, pods: &[Arc<Pod>]) -> Self {
        let told = job.status.clone().unwrap_or_default();
        let completions = indexed(job);
        let parse = |text: &Option<String>| {
            completions
                .map(|all| indexes::parse(text.as_deref().unwrap_or_default(), all))
                .unwrap_or_default()
        };
        let mut tally = Self {
            succeeded: told.succeeded.unwrap_or(0),
            failed: told.failed.unwrap_or(0),
            done: parse(&told.completed_indexes),
            lost: parse(&told.failed_indexes),
            ..Self::default()
        };
        let tracked = pods.iter().filter(|pod| pod::is_tracked(pod));
        let tracked: BTreeMap<&str, &Arc<Pod>> =
            tracked.map(|pod| (pod.metadata.uid.as_deref().unwrap_or_default(), pod)).collect();
        let before = told.uncounted_terminated_pods.unwrap_or_default();
        let settle = |uids: Option<Vec<String>>, count: &mut i32| -> Vec<String> {
            let (noted, counted): (Vec<_>, Vec<_>) =
                uids.unwrap_or_default().into_iter().partition(|uid| tracked.contains_key(uid.as_str()));
            *count = count.saturating_add(number(counted.len()));
            noted
        };
        let mut succeeded = settle(before.succeeded, &mut tally.succeeded);
        let mut failed = settle(before.failed, &mut tally.failed);
        for (uid, pod) in tracked {
            tally.count(job, uid, pod, completions, (&mut succeeded, &mut failed));
        }
        if completions.is_some() {
            tally.succeeded = number(tally.done.len());
        }
        let some = |uids: Vec<String>| (!uids.is_empty()).then_some(uids);
        tally.noted = UncountedTerminatedPods { succeeded: some(succeeded), failed: some(failed) };
        tally
    }

    fn count(
        &mut self,
        job: &Job,
        uid: &str,
        pod: &Arc<Pod>,
        completions: Option<i32>,
        (succeeded, failed): (&mut Vec<String>, &mut Vec<String>),
    ) {
        let known = |uids: &[String]| uids.iter().any(|known| known == uid);
        let index = pod::index(pod).filter(|index| completions.is_some_and(|all| *index < all));
        if status::phase(pod) == "Succeeded" {
            match (completions, index) {
                (Some(_), index) => self.done.extend(index),
                (None, _) if !known(succeeded) => succeeded.push(uid.to_owned()),
                (None, _) => {}
            }
            self.ended.push(pod.clone());
        } else if has_failed(job, pod) {
            let verdict = policy::judge(job, pod);
            let stray = completions.is_some() && index.is_none();
            if verdict != Verdict::Ignore && !stray && !known(failed) {
                failed.push(uid.to_owned());
            }
            let limit = job.spec.as_ref().and_then(|spec| spec.backoff_limit_per_index);
            if let (Some(limit), Some(index)) = (limit, index) {
                let times =
                    pod::Failures::of(pod).counted.saturating_add(i32::from(verdict != Verdict::Ignore));
                if verdict == Verdict::FailIndex || times > limit {
                    self.lost.insert(index);
                }
            }
            if let Verdict::FailJob(why) = verdict {
                self.fatal.get_or_insert(why);
            }
            self.ended.push(pod.clone());
        }
    }

    /// Successes, counted or noted.
    pub(crate) fn all_succeeded(&self) -> i32 {
        self.succeeded.saturating_add(number(self.noted.succeeded.iter().flatten().count()))
    }

    /// Failures, counted or noted.
    pub(crate) fn all_failed(&self) -> i32 {
        self.failed.saturating_add(number(self.noted.failed.iter().flatten().count()))
    }
}

pub(crate) fn number(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}
