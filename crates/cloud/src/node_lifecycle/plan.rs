//! What to do about a node, given what the cloud says of its machine. Pure.

use k8s_openapi::api::core::v1::{Node, Taint};
use serde_json::{Value, json};

use crate::node::plan::{has_taint, is_uninitialized};

/// Marks a node whose machine is switched off.
pub(super) const SHUTDOWN: &str = "node.cloudprovider.kubernetes.io/shutdown";

/// What the cloud says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Machine {
    NotAsked,
    On,
    Off,
    Gone,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Action {
    Nothing,
    LookAgain,
    Delete,
    /// A merge patch that adds or removes the taint.
    Taint(Value),
}

pub(super) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether the node says, and is believed, that it works.
pub(super) fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether the cloud is asked about the node's machine: not before it has told what the node is.
pub(super) fn asks(node: &Node) -> bool {
    !is_ready(node) && !is_uninitialized(node) && node.metadata.deletion_timestamp.is_none()
}

/// What to do. `before`: the last answer said that the machine is gone.
pub(super) fn plan(node: &Node, machine: Machine, before: bool) -> Action {
    let tainted = has_taint(node, SHUTDOWN);
    match machine {
        Machine::Gone if before => Action::Delete,
        Machine::Gone => Action::LookAgain,
        Machine::Off if !tainted => {
            let mut all: Vec<Value> = taints(node).iter().map(|taint| json!(taint)).collect();
            all.push(json!({"key": SHUTDOWN, "effect": "NoSchedule"}));
            change(node, &all)
        }
        Machine::NotAsked | Machine::On if tainted => {
            let kept = taints(node).iter().filter(|taint| taint.key != SHUTDOWN);
            change(node, &kept.map(|taint| json!(taint)).collect::<Vec<_>>())
        }
        Machine::NotAsked => Action::Nothing,
        Machine::On | Machine::Off => Action::LookAgain,
    }
}

/// Applies only to the node as it was seen: it replaces the list of taints.
fn change(node: &Node, taints: &[Value]) -> Action {
    Action::Taint(json!({
        "metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints},
    }))
}
