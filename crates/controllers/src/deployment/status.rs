//! What a Deployment's status says: counts, and the conditions `Available`, `Progressing` and `ReplicaFailure` in
//! upstream's words, by which `kubectl rollout status` follows.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet, ReplicaSetStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::bounds::Bounds;

pub(crate) const AVAILABLE: &str = "Available";
pub(crate) const PROGRESSING: &str = "Progressing";
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";

pub(crate) const SET_CREATED: &str = "NewReplicaSetCreated";
pub(crate) const SET_FOUND: &str = "FoundNewReplicaSet";
pub(crate) const SET_NOT_CREATED: &str = "ReplicaSetCreateError";
pub(crate) const SET_UPDATED: &str = "ReplicaSetUpdated";
pub(crate) const SET_AVAILABLE: &str = "NewReplicaSetAvailable";
pub(crate) const TIMED_OUT: &str = "ProgressDeadlineExceeded";
pub(crate) const PAUSED: &str = "DeploymentPaused";
pub(crate) const RESUMED: &str = "DeploymentResumed";

/// The conditions of a Deployment while they are worked on.
#[derive(Clone, Debug)]
pub(crate) struct Conditions {
    list: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    /// Those that a Deployment has.
    pub(crate) fn of(deployment: &Deployment, now: Timestamp) -> Self {
        let list =
            deployment.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        // The API keeps whole seconds.
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        Self { list, now }
    }

    pub(crate) fn get(&self, kind: &str) -> Option<&DeploymentCondition> {
        self.list.iter().find(|condition| condition.type_.as_deref() == Some(kind))
    }

    pub(crate) fn reason(&self, kind: &str) -> &str {
        self.get(kind).and_then(|condition| condition.reason.as_deref()).unwrap_or("")
    }

    pub(crate) fn remove(&mut self, kind: &str) {
        self.list.retain(|condition| condition.type_.as_deref() != Some(kind));
    }

    /// Sets a condition, unless it says the same already.
    pub(crate) fn set(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let same = |condition: &DeploymentCondition| {
            condition.status.as_deref() == Some(status) && condition.reason.as_deref() == Some(reason)
        };
        if !self.get(kind).is_some_and(same) {
            self.renew(kind, status, reason, message);
        }
    }

    /// Sets a condition, and its time of update whatever it said before.
    fn renew(&mut self, kind: &str, status: &str, reason: &str, message: String) {
        let before = self.get(kind).filter(|condition| condition.status.as_deref() == Some(status));
        let since = before.and_then(|condition| condition.last_transition_time.clone());
        self.remove(kind);
        self.list.push(DeploymentCondition {
            type_: Some(kind.to_owned()),
            status: Some(status.to_owned()),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: since.or(Some(Time(self.now))),
            last_update_time: Some(Time(self.now)),
        });
    }

    pub(crate) fn into_list(self) -> Option<Vec<DeploymentCondition>> {
        (!self.list.is_empty()).then_some(self.list)
    }
}

/// The time within which a Deployment must make progress, if it has one.
pub(crate) fn deadline(deployment: &Deployment) -> Option<SignedDuration> {
    let seconds = deployment.spec.progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX)?;
    Some(SignedDuration::from_secs(i64::from(seconds)))
}

fn sum(sets: &[ReplicaSet], field: impl Fn(&ReplicaSetStatus) -> i32) -> i32 {
    sets.iter().filter_map(|set| set.status.as_ref()).map(field).sum()
}

/// The counts, without conditions. `new` is the index of the newest set.
pub(crate) fn counts(deployment: &Deployment, sets: &[ReplicaSet], new: Option<usize>) -> DeploymentStatus {
    let some = |number: i32| (number != 0).then_some(number);
    let available = sum(sets, |status| status.available_replicas.unwrap_or(0));
    let wanted: i32 = sets.iter().map(|set| set.spec.replicas.unwrap_or(0)).sum();
    let updated = new.map_or(0, |new| sum(&sets[new..=new], |status| status.replicas));
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sum(sets, |status| status.replicas)),
        updated_replicas: some(updated),
        ready_replicas: some(sum(sets, |status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some((wanted - available).max(0)),
        terminating_replicas: Some(sum(sets, |status| status.terminating_replicas.unwrap_or(0))),
        collision_count: deployment.status.as_ref().and_then(|status| status.collision_count),
        conditions: None,
    }
}

/// Sets `Available`.
pub(crate) fn availability(conditions: &mut Conditions, counts: &DeploymentStatus, bounds: Bounds) {
    if counts.available_replicas.unwrap_or(0) >= bounds.fewest() {
        let message = "Deployment has minimum availability.".to_owned();
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
}

/// Whether all pods are of the newest template and available, and the status knows the newest spec.
pub(crate) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.replicas.unwrap_or(1);
    status.updated_replicas.unwrap_or(0) == wanted
        && status.replicas.unwrap_or(0) == wanted
        && status.available_replicas.unwrap_or(0) == wanted
        && status.observed_generation >= deployment.metadata.generation
}

/// Whether there are more new pods, fewer old ones, or more that are ready or available than the status said before.
fn has_progressed(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let number = |number: Option<i32>| number.unwrap_or(0);
    let old = |status: &DeploymentStatus| number(status.replicas) - number(status.updated_replicas);
    number(after.updated_replicas) > number(before.updated_replicas)
        || old(after) < old(before)
        || number(after.ready_replicas) > number(before.ready_replicas)
        || number(after.available_replicas) > number(before.available_replicas)
}

/// When the deadline is over, counted from the last progress. `None` when no progress is waited for, or none any more.
fn ends(deployment: &Deployment, conditions: &Conditions) -> Option<Timestamp> {
    let deadline = deadline(deployment)?;
    let condition = conditions.get(PROGRESSING)?;
    if matches!(condition.reason.as_deref(), Some(SET_AVAILABLE | TIMED_OUT)) {
        return None;
    }
    condition.last_update_time.as_ref()?.0.checked_add(deadline).ok()
}

/// Sets `Progressing`. Returns when to look again for want of progress.
pub(crate) fn progress(
    conditions: &mut Conditions,
    deployment: &Deployment,
    counts: &DeploymentStatus,
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> Option<Timestamp> {
    if deadline(deployment).is_none() {
        conditions.remove(PROGRESSING);
        return None;
    }
    let all_new = counts.replicas == counts.updated_replicas;
    if all_new && conditions.reason(PROGRESSING) == SET_AVAILABLE {
        return None;
    }
    let nothing = DeploymentStatus::default();
    let before = deployment.status.as_ref().unwrap_or(&nothing);
    if is_complete(deployment, counts) {
        let message = format!("{} has successfully progressed.", subject(deployment, new));
        conditions.set(PROGRESSING, "True", SET_AVAILABLE, message);
    } else if has_progressed(before, counts) {
        let message = format!("{} is progressing.", subject(deployment, new));
        conditions.renew(PROGRESSING, "True", SET_UPDATED, message);
    } else if ends(deployment, conditions).is_some_and(|end| end < now) {
        let message = format!("{} has timed out progressing.", subject(deployment, new));
        conditions.set(PROGRESSING, "False", TIMED_OUT, message);
    }
    // Just after the end, when it is over for certain.
    ends(deployment, conditions).and_then(|end| end.checked_add(SignedDuration::from_secs(1)).ok())
}

fn subject(deployment: &Deployment, new: Option<&ReplicaSet>) -> String {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    match new {
        Some(set) => format!("ReplicaSet {:?}", name(&set.metadata.name)),
        None => format!("Deployment {:?}", name(&deployment.metadata.name)),
    }
}

/// Passes on what keeps a ReplicaSet from making pods: the newest one's trouble, or any other's if there is no newest.
pub(crate) fn failures(conditions: &mut Conditions, sets: &[ReplicaSet], new: Option<usize>) {
    let failure = |set: &ReplicaSet| {
        let conditions = set.status.as_ref()?.conditions.as_deref()?;
        conditions.iter().find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE)).cloned()
    };
    let found = match new {
        Some(new) => failure(&sets[new]),
        None => sets.iter().find_map(failure),
    };
    let Some(found) = found else { return conditions.remove(REPLICA_FAILURE) };
    let text = |text: Option<String>| text.unwrap_or_default();
    let (status, reason) = (text(found.status), text(found.reason));
    conditions.set(REPLICA_FAILURE, &status, &reason, text(found.message));
}
