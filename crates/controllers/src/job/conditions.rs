//! The conditions of a Job: how it stands, and whether and why it is over. Pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// How a Job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub success: bool,
    pub reason: String,
    pub message: String,
}

impl End {
    pub(crate) fn success(reason: &str, message: impl Into<String>) -> Self {
        Self { success: true, reason: reason.to_owned(), message: message.into() }
    }

    pub(crate) fn failure(reason: &str, message: impl Into<String>) -> Self {
        Self { success: false, reason: reason.to_owned(), message: message.into() }
    }

    /// The condition that says that it will end so, and the one that it has.
    pub(crate) fn conditions(&self) -> (&'static str, &'static str) {
        if self.success { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") }
    }

    /// What was decided before: it is not decided again.
    pub(crate) fn decided(conditions: &[JobCondition]) -> Option<Self> {
        let condition =
            conditions.iter().find(|it| is_true(it, "FailureTarget") || is_true(it, "SuccessCriteriaMet"))?;
        Some(Self {
            success: condition.type_ == "SuccessCriteriaMet",
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        })
    }
}

fn is_true(condition: &JobCondition, kind: &str) -> bool {
    condition.type_ == kind && condition.status == "True"
}

pub(crate) fn has(conditions: &[JobCondition], kind: &str) -> bool {
    conditions.iter().any(|condition| is_true(condition, kind))
}

/// The condition by which a Job is over, if it is.
pub(crate) fn finished(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|it| is_true(it, "Complete") || is_true(it, "Failed"))
}

/// Makes a condition say so. One that was never there need not be told to be false.
pub(crate) fn tell(
    conditions: &mut Vec<JobCondition>,
    kind: &str,
    status: &str,
    (reason, message): (&str, &str),
    now: Timestamp,
) {
    let new = JobCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|known| known.type_ == kind) {
        Some(known)
            if known.status == new.status && known.reason == new.reason && known.message == new.message => {}
        Some(known) => *known = new,
        None if status == "True" => conditions.push(new),
        None => {}
    }
}
