//! What a ReplicaSet needs: how many pods to make, which to delete, what its status is. Pure.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::selector::LabelSelector;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use pod_rules::status;

use crate::claim::{self, Claims};
use crate::pod_control::Failure;

/// Most pods that one pass makes or deletes.
pub(crate) const BURST: usize = 500;
/// How cheap a pod is to delete, relative to others of its set.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const REPLICA_FAILURE: &str = "ReplicaFailure";

/// Sorts the pods of the set's namespace. Pods that have ended or are ending are in no part: they are neither counted, nor
/// adopted, nor released.
pub(crate) fn claims(set: &ReplicaSet, selector: &LabelSelector, pods: &[Arc<Pod>]) -> Claims<Pod> {
    claim::sort(&set.metadata, selector, pods.iter().filter(|pod| status::is_active(pod)))
}

/// How many of the set's pods are being deleted and have not ended yet.
pub(crate) fn terminating(set: &ReplicaSet, pods: &[Arc<Pod>]) -> usize {
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let ending = |pod: &&Arc<Pod>| status::is_deleting(pod) && !status::is_terminal(pod);
    pods.iter().filter(ending).filter(|pod| claim::is_controlled_by(&pod.metadata, uid)).count()
}

/// What brings the set to its size.
#[derive(Debug, PartialEq)]
pub(crate) enum Scale {
    /// The size is right, or the set is being deleted.
    Nothing,
    /// Make this many pods.
    Create(usize),
    /// Delete these, in this order.
    Delete(Vec<Arc<Pod>>),
}

/// Compares the set's size with its pods. `related` gives the pods of all sets of the same owner: of pods that are
/// otherwise equal, those go first that share their node with most of them.
pub(crate) fn scale(
    set: &ReplicaSet,
    owned: Vec<Arc<Pod>>,
    related: impl FnOnce() -> Vec<Arc<Pod>>,
    now: Timestamp,
) -> Scale {
    if set.metadata.deletion_timestamp.is_some() {
        return Scale::Nothing;
    }
    let wanted = usize::try_from(replicas(set)).unwrap_or(0);
    match owned.len().cmp(&wanted) {
        Ordering::Equal => Scale::Nothing,
        Ordering::Less => Scale::Create((wanted - owned.len()).min(BURST)),
        Ordering::Greater => {
            let surplus = owned.len() - wanted;
            let related = related();
            let mut crowds: BTreeMap<&str, usize> = BTreeMap::new();
            for pod in related.iter().filter(|pod| status::is_active(pod)) {
                *crowds.entry(status::node_name(pod)).or_default() += 1;
            }
            let mut victims = deletion_order(owned, &crowds, now);
            victims.truncate(surplus.min(BURST));
            Scale::Delete(victims)
        }
    }
}

/// The size that a set is to have.
pub(crate) fn replicas(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

/// Sorts pods by how little is lost with them. `crowds` says how many related pods each node has.
pub(crate) fn deletion_order(
    mut pods: Vec<Arc<Pod>>,
    crowds: &BTreeMap<&str, usize>,
    now: Timestamp,
) -> Vec<Arc<Pod>> {
    pods.sort_by_cached_key(|pod| DeletionRank::of(pod, crowds, now));
    pods
}

/// The lower, the sooner a pod is deleted. Fields are in the order of their weight.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DeletionRank {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: Reverse<usize>,
    /// Ages count by their order of magnitude, so that victims spread over pods of about the same age.
    ready_for: Magnitude,
    restarts: Reverse<(i32, i32)>,
    age: Magnitude,
    uid: String,
}

/// A time span by powers of two; `None`, which is not known yet, is youngest.
type Magnitude = Option<u32>;

impl DeletionRank {
    fn of(pod: &Pod, crowds: &BTreeMap<&str, usize>, now: Timestamp) -> Self {
        let node = status::node_name(pod);
        let cost = pod.metadata.annotations.as_ref().and_then(|annotations| annotations.get(DELETION_COST));
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self {
            assigned: !node.is_empty(),
            phase: match status::phase(pod) {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            },
            ready: status::is_ready(pod),
            cost: cost.and_then(|cost| cost.parse().ok()).unwrap_or(0),
            crowd: Reverse(crowds.get(node).copied().unwrap_or(0)),
            ready_for: magnitude(status::ready_since(pod), now),
            restarts: Reverse(restarts(pod)),
            age: magnitude(created, now),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

fn magnitude(since: Option<Timestamp>, now: Timestamp) -> Magnitude {
    let nanoseconds = now.duration_since(since?).as_nanos();
    Some(u128::try_from(nanoseconds).ok().and_then(u128::checked_ilog2).map_or(0, |magnitude| magnitude + 1))
}

/// The most restarts of one container, and of one init container.
fn restarts(pod: &Pod) -> (i32, i32) {
    let Some(status) = &pod.status else { return (0, 0) };
    let most = |statuses: &Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        statuses.iter().flatten().map(|container| container.restart_count).max().unwrap_or(0)
    };
    (most(&status.container_statuses), most(&status.init_container_statuses))
}

/// A new pod of the set, which `owner` refers to; the server chooses the end of its name.
pub(crate) fn new_pod(set: &ReplicaSet, owner: OwnerReference) -> Pod {
    let template = template(set);
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
            namespace: set.metadata.namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn template(set: &ReplicaSet) -> PodTemplateSpec {
    set.spec.template.clone().unwrap_or_default()
}

/// The set's status, from its active pods as they were before this pass.
pub(crate) fn status_of(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    terminating: usize,
    failure: Option<&Failure>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let wait = min_ready_seconds(set);
    let labels = template(set).metadata.unwrap_or_default().labels.unwrap_or_default();
    let labeled = |pod: &Arc<Pod>| {
        let own = pod.metadata.labels.as_ref();
        labels.iter().all(|(key, value)| own.and_then(|own| own.get(key)) == Some(value))
    };
    let count = |test: &dyn Fn(&Arc<Pod>) -> bool| {
        number(owned.iter().filter(|pod| test(pod)).count()).filter(|n| *n > 0)
    };
    ReplicaSetStatus {
        replicas: number(owned.len()).unwrap_or(0),
        fully_labeled_replicas: count(&labeled),
        ready_replicas: count(&|pod| status::is_ready(pod)),
        available_replicas: count(&|pod| status::is_available(pod, wait, now)),
        terminating_replicas: number(terminating),
        observed_generation: set.metadata.generation,
        conditions: conditions(set, failure, now),
    }
}

fn number(count: usize) -> Option<i32> {
    Some(i32::try_from(count).unwrap_or(i32::MAX))
}

fn min_ready_seconds(set: &ReplicaSet) -> i32 {
    set.spec.min_ready_seconds.unwrap_or(0)
}

/// A failure is told once and stays told, as it was first, until a pass succeeds.
fn conditions(
    set: &ReplicaSet,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let told = conditions.iter().any(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE));
    match failure {
        Some(failure) if !told => conditions.push(ReplicaSetCondition {
            type_: Some(REPLICA_FAILURE.to_owned()),
            status: Some("True".to_owned()),
            reason: Some(failure.reason.to_owned()),
            message: Some(failure.message.clone()),
            last_transition_time: Some(Time(now)),
        }),
        None => conditions.retain(|condition| condition.type_.as_deref() != Some(REPLICA_FAILURE)),
        Some(_) => {}
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// Whether a status says something new. Zero and absent are the same.
pub(crate) fn differs(old: Option<&ReplicaSetStatus>, new: &ReplicaSetStatus) -> bool {
    let numbers = |status: &ReplicaSetStatus| {
        [
            status.replicas,
            status.fully_labeled_replicas.unwrap_or(0),
            status.ready_replicas.unwrap_or(0),
            status.available_replicas.unwrap_or(0),
            status.terminating_replicas.unwrap_or(-1),
        ]
    };
    old.is_none_or(|old| {
        numbers(old) != numbers(new)
            || old.observed_generation != new.observed_generation
            || old.conditions.as_deref().unwrap_or_default() != new.conditions.as_deref().unwrap_or_default()
    })
}

/// How long until the next pod that is ready becomes available; `None` when none is on its way.
pub(crate) fn until_available(
    set: &ReplicaSet,
    owned: &[Arc<Pod>],
    now: Timestamp,
) -> Option<SignedDuration> {
    let wait = min_ready_seconds(set);
    let times = owned.iter().filter_map(|pod| status::available_at(pod, wait));
    times.filter(|at| *at > now).min().map(|at| at.duration_since(now))
}
