//! What a node's silence and conditions mean: its conditions, its taints, and until when its pods may stay. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use pod_rules::status::{condition as pod_condition, is_ready as pod_is_ready};
use pod_rules::taints::{NO_EXECUTE, NO_SCHEDULE, toleration_deadline};

use super::policy::Policy;

/// The node is not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The node says nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition, status, and the taint that keeps pods away meanwhile.
const CONDITION_TAINTS: &[(&str, &str, &str)] = &[
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
/// The conditions that a kubelet reports, and that nobody knows of when it is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// The condition of a type.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

/// Whether the node says that it is ready.
pub fn is_ready(node: &Node) -> bool {
    condition(node, "Ready").is_some_and(|condition| condition.status == "True")
}

/// The node's taints.
pub fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// The taints that evict.
pub fn evicting(node: &Node) -> Vec<Taint> {
    taints(node).iter().filter(|taint| taint.effect == NO_EXECUTE).cloned().collect()
}

/// What a node's silence makes of its conditions.
#[derive(Clone, Debug, PartialEq)]
pub enum Health {
    /// It has been heard of lately enough; it is looked at again after this time.
    Alive(Duration),
    /// It is silent and its conditions say so.
    Silent,
    /// It is silent, and these must become its conditions.
    Lost(Vec<NodeCondition>),
}

/// Judges a node by how long nothing was heard of it, on our clock.
pub fn health(node: &Node, silence: Duration, policy: &Policy, now: Timestamp) -> Health {
    let has_reported = condition(node, "Ready").is_some();
    let grace = if has_reported { policy.grace } else { policy.startup_grace };
    if silence < grace {
        return Health::Alive(grace - silence);
    }
    let before = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let mut after = before.clone();
    for kind in REPORTED {
        match after.iter_mut().find(|condition| condition.type_ == kind) {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                "Unknown".clone_into(&mut known.status);
                known.reason = Some("NodeStatusUnknown".to_owned());
                known.message = Some("Kubelet stopped posting node status.".to_owned());
                known.last_transition_time = Some(Time(now));
            }
            None => after.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: Some(Time(now)),
            }),
        }
    }
    if after == before { Health::Silent } else { Health::Lost(after) }
}

/// Whether pods may be evicted from a node just now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// They may.
    Granted,
    /// Not yet; those that are tainted already stay so.
    Withheld,
    /// The trouble is not the node's: nothing is evicted, what was begun is taken back.
    Revoked,
}

/// The `NoExecute` taint that the node's state asks for.
fn evicting_key(node: &Node) -> Option<&'static str> {
    match condition(node, "Ready")?.status.as_str() {
        "False" => Some(NOT_READY),
        "Unknown" => Some(UNREACHABLE),
        _ => None,
    }
}

fn is_own(taint: &Taint, effect: &str) -> bool {
    taint.effect == effect && (taint.key == NOT_READY || taint.key == UNREACHABLE)
}

/// Whether evictions from this node would begin, and so need a permission.
pub fn begins_eviction(node: &Node) -> bool {
    evicting_key(node).is_some() && !taints(node).iter().any(|taint| is_own(taint, NO_EXECUTE))
}

/// The taints that the node should have; `None` if it has them. Those of others stay as they are, in their places.
pub fn wanted_taints(node: &Node, permission: Permission, now: Timestamp) -> Option<Vec<Taint>> {
    let mut wanted: Vec<(&str, &str)> =
        scheduling_keys(node).into_iter().map(|key| (key, NO_SCHEDULE)).collect();
    let evicting = evicting_key(node).filter(|_| match permission {
        Permission::Granted => true,
        Permission::Withheld => !begins_eviction(node),
        Permission::Revoked => false,
    });
    wanted.extend(evicting.map(|key| (key, NO_EXECUTE)));
    // A node that was not ready and now is silent has been in trouble since it was not ready.
    let since = taints(node)
        .iter()
        .filter(|taint| is_own(taint, NO_EXECUTE))
        .find_map(|taint| taint.time_added.clone());
    let managed = |taint: &Taint| match taint.effect.as_str() {
        NO_SCHEDULE => {
            taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| *key == taint.key)
        }
        _ => is_own(taint, NO_EXECUTE),
    };
    let mut after: Vec<Taint> = taints(node)
        .iter()
        .filter(|taint| !managed(taint) || wanted.contains(&(taint.key.as_str(), taint.effect.as_str())))
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !after.iter().any(|taint| taint.key == key && taint.effect == effect) {
            let carried = since.clone().filter(|_| effect == NO_EXECUTE);
            after.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                value: None,
                time_added: Some(carried.unwrap_or(Time(now))),
            });
        }
    }
    (after != taints(node)).then_some(after)
}

/// The keys of the taints that keep new pods away. A node that has not said anything yet is not ready.
fn scheduling_keys(node: &Node) -> Vec<&'static str> {
    let mut keys: Vec<&str> = CONDITION_TAINTS
        .iter()
        .filter(|(kind, status, _)| {
            condition(node, kind).is_some_and(|condition| condition.status == *status)
        })
        .map(|(_, _, key)| *key)
        .collect();
    if condition(node, "Ready").is_none() {
        keys.push(NOT_READY);
    }
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        keys.push(UNSCHEDULABLE);
    }
    keys
}

/// Whether a pod says that it is ready although its node is not. A pod that became ready after its node ceased to be is
/// the kubelet's to judge: it lives, and would say so again.
pub fn is_stale_ready(pod: &Pod, node: &Node) -> bool {
    let Some(trouble) = condition(node, "Ready").filter(|condition| condition.status != "True") else {
        return false;
    };
    if !pod_is_ready(pod) || pod.metadata.deletion_timestamp.is_some() {
        return false;
    }
    let pod_since = pod_condition(pod, "Ready").and_then(|condition| condition.last_transition_time.as_ref());
    match (pod_since, &trouble.last_transition_time) {
        (Some(pod), Some(node)) => pod.0 <= node.0,
        _ => true,
    }
}

/// When a pod must leave its node because of these taints; `None` is never. `first_seen` is when we saw that it has to
/// leave at all: taints of people do not say when they were added. Those of ours do, which survives a restart.
pub fn eviction(pod: &Pod, taints: &[Taint], first_seen: Timestamp) -> Option<Timestamp> {
    let scheduled =
        pod_condition(pod, "PodScheduled").and_then(|condition| condition.last_transition_time.as_ref());
    let arrived =
        scheduled.or(pod.metadata.creation_timestamp.as_ref()).map_or(Timestamp::MIN, |time| time.0);
    let deadline = |taint: &Taint| {
        let allowed = toleration_deadline(pod, std::slice::from_ref(taint))?;
        let added = taint.time_added.as_ref().map_or(first_seen, |time| time.0.max(arrived));
        let allowed = SignedDuration::from_secs(i64::try_from(allowed).unwrap_or(i64::MAX));
        Some(added.checked_add(allowed).unwrap_or(Timestamp::MAX))
    };
    taints.iter().filter(|taint| taint.effect == NO_EXECUTE).filter_map(deadline).min()
}
