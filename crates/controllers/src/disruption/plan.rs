//! What a PodDisruptionBudget's status is: how many of its pods are healthy, must be, and may go. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod_rules::status;

/// How long an evicted pod may take until its deletion shows; then it counts as one that stays.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// Who keeps the number of a pod's kind up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Keeper {
    /// Nobody does.
    Nobody,
    /// Somebody whom we do not know, or who has gone.
    Unknown,
    /// The owner with this uid, which wants this many.
    Owner(String, i32),
}

/// A pod that the budget guards.
#[derive(Clone, Debug)]
pub(crate) struct Guarded {
    pub pod: Arc<Pod>,
    pub keeper: Keeper,
}

/// What one pass does.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub status: PodDisruptionBudgetStatus,
    /// When an eviction that does not show has to be given up.
    pub recheck: Option<Timestamp>,
    /// Pods whose number nobody keeps, although the budget is relative to it.
    pub unmanaged: bool,
    /// Pods that were to be deleted and were not.
    pub not_deleted: Vec<Arc<Pod>>,
    /// Why nothing is allowed for the time being.
    pub failure: Option<String>,
}

/// Judges a budget by its pods.
pub(crate) fn plan(budget: &PodDisruptionBudget, pods: &[Guarded], now: Timestamp) -> Plan {
    let (disrupted, recheck, not_deleted) = disrupted(budget, pods, now);
    let (numbers, unmanaged) = match numbers(budget, pods) {
        Ok(found) => found,
        Err(failure) => return failed(budget, failure, now),
    };
    let healthy = pods.iter().filter(|guarded| {
        let pod = &guarded.pod;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !status::is_deleting(pod) && !disrupted.contains_key(name) && status::is_ready(pod)
    });
    let healthy = whole(healthy.count());
    let spare = healthy.saturating_sub(numbers.desired);
    let allowed = if numbers.expected <= 0 { 0 } else { spare.max(0) };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    let status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(numbers.desired),
        expected_pods: Some(numbers.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: Some(conditions(budget, allowed > 0, reason, "", now)),
    };
    Plan { status, recheck, unmanaged, not_deleted, failure: None }
}

/// As it was, but nothing may go: what cannot be counted is not safe.
fn failed(budget: &PodDisruptionBudget, failure: String, now: Timestamp) -> Plan {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    status.observed_generation = budget.metadata.generation;
    status.conditions = Some(conditions(budget, false, "SyncFailed", &failure, now));
    Plan { status, recheck: None, unmanaged: false, not_deleted: Vec::new(), failure: Some(failure) }
}

#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    expected: i32,
    desired: i32,
}

/// How many pods there should be and how many of them must be healthy; and whether some do not count.
fn numbers(budget: &PodDisruptionBudget, pods: &[Guarded]) -> Result<(Numbers, bool), String> {
    let spec = budget.spec.clone().unwrap_or_default();
    match (spec.max_unavailable, spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = wanted(pods)?;
            let most = resolve(&most, expected)?;
            Ok((Numbers { expected, desired: expected.saturating_sub(most).max(0) }, unmanaged))
        }
        (None, Some(IntOrString::Int(desired))) => {
            Ok((Numbers { expected: whole(pods.len()), desired }, false))
        }
        (None, Some(share)) => {
            let (expected, unmanaged) = wanted(pods)?;
            Ok((Numbers { expected, desired: resolve(&share, expected)? }, unmanaged))
        }
        (None, None) => Ok((Numbers { expected: 0, desired: 0 }, false)),
    }
}

/// The sum of what the owners of the pods want.
fn wanted(pods: &[Guarded]) -> Result<(i32, bool), String> {
    let mut owners: BTreeMap<&str, i32> = BTreeMap::new();
    let mut unmanaged = false;
    for guarded in pods {
        match &guarded.keeper {
            Keeper::Nobody => unmanaged = true,
            Keeper::Unknown => {
                let name = guarded.pod.metadata.name.as_deref().unwrap_or_default();
                return Err(format!("found no controllers for pod {name:?}"));
            }
            Keeper::Owner(uid, replicas) => drop(owners.insert(uid, *replicas)),
        }
    }
    Ok((owners.values().fold(0_i32, |sum, replicas| sum.saturating_add(*replicas)), unmanaged))
}

/// A number, or a percentage of `whole`, rounded up.
fn resolve(value: &IntOrString, whole: i32) -> Result<i32, String> {
    match value {
        IntOrString::Int(number) => Ok(*number),
        IntOrString::String(text) => {
            let percent: Option<i64> = text.strip_suffix('%').and_then(|number| number.parse().ok());
            let percent = percent.ok_or_else(|| format!("invalid value for IntOrString: {text:?}"))?;
            let up = (percent.saturating_mul(i64::from(whole)).saturating_add(99)).div_euclid(100);
            Ok(i32::try_from(up).unwrap_or(i32::MAX))
        }
    }
}

type Disrupted = (BTreeMap<String, Time>, Option<Timestamp>, Vec<Arc<Pod>>);

/// The evictions that have been allowed and do not show yet, the next of them to give up, and those that are.
fn disrupted(budget: &PodDisruptionBudget, pods: &[Guarded], now: Timestamp) -> Disrupted {
    let told = budget.status.as_ref().and_then(|status| status.disrupted_pods.as_ref());
    let (mut open, mut recheck, mut not_deleted) = (BTreeMap::new(), None::<Timestamp>, Vec::new());
    for pod in pods.iter().map(|guarded| &guarded.pod).filter(|pod| !status::is_deleting(pod)) {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(time) = told.and_then(|told| told.get(name)) else { continue };
        let until = time.0.saturating_add(DELETION_TIMEOUT).unwrap_or(Timestamp::MAX);
        if until <= now {
            not_deleted.push(pod.clone());
        } else {
            recheck = Some(recheck.map_or(until, |recheck| recheck.min(until)));
            open.insert(name.to_owned(), time.clone());
        }
    }
    (open, recheck, not_deleted)
}

fn conditions(
    budget: &PodDisruptionBudget,
    allowed: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> Vec<Condition> {
    let mut all = budget.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let state = if allowed { "True" } else { "False" };
    let old = all.iter().find(|condition| condition.type_ == ALLOWED);
    let since =
        old.filter(|old| old.status == state).map_or(Time(now), |old| old.last_transition_time.clone());
    let condition = Condition {
        type_: ALLOWED.to_owned(),
        status: state.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: budget.metadata.generation,
        last_transition_time: since,
    };
    match all.iter_mut().find(|condition| condition.type_ == ALLOWED) {
        Some(old) => *old = condition,
        None => all.push(condition),
    }
    all
}

fn whole(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Whether a status says something new.
pub(crate) fn differs(old: Option<&PodDisruptionBudgetStatus>, new: &PodDisruptionBudgetStatus) -> bool {
    let pods = |status: &PodDisruptionBudgetStatus| status.disrupted_pods.clone().unwrap_or_default();
    old.is_none_or(|old| {
        pods(old) != pods(new)
            || PodDisruptionBudgetStatus { disrupted_pods: None, ..old.clone() }
                != PodDisruptionBudgetStatus { disrupted_pods: None, ..new.clone() }
    })
}
