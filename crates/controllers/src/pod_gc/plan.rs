//! Which pods nobody will ever clean up. Pure.

use std::collections::BTreeSet;

use component::ObjectKey;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use pod_rules::status::{is_deleting, is_terminal, node_name, phase};

/// Pods that have ended and are kept (upstream's `--terminated-pod-gc-threshold`).
pub const THRESHOLD: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

/// A pod that has ended, in the order in which those go: evicted ones first, then by age.
pub type Ended = (bool, Timestamp, ObjectKey);

/// Where a pod stands in that order; `None` if it has not ended, or goes already.
pub fn ended(pod: &Pod) -> Option<Ended> {
    if !is_terminal(pod) || is_deleting(pod) {
        return None;
    }
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    let kept = !(phase(pod) == "Failed" && reason == Some("Evicted"));
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |time| time.0);
    Some((kept, created, ObjectKey::of(pod)))
}

/// The pods that are one too many.
pub fn too_many(ended: &BTreeSet<Ended>, threshold: usize) -> Vec<ObjectKey> {
    ended.iter().take(ended.len().saturating_sub(threshold)).map(|(_, _, key)| key.clone()).collect()
}

/// Why a pod that is being deleted is taken away by force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// It never had a node whose kubelet could let go of it.
    Unscheduled,
    /// Its node is declared to be out of service, and is not ready.
    OutOfService,
}

/// Judges a pod that is being deleted by its node, if that exists.
pub fn forced(pod: &Pod, node: Option<&Node>) -> Option<Forced> {
    if !is_deleting(pod) {
        return None;
    }
    if node_name(pod).is_empty() {
        return Some(Forced::Unscheduled);
    }
    node.filter(|node| is_out_of_service(node)).map(|_| Forced::OutOfService)
}

/// Whether people say that a node is out of service, and it does not say otherwise.
pub fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    !ready && taints.iter().any(|taint| taint.key == OUT_OF_SERVICE)
}
