//! TaintNodesByCondition: a new node takes no pods until it has said that it is ready.

use serde_json::json;

use super::{created, list_mut};
use crate::types::AdmissionRequest;

const KEY: &str = "node.kubernetes.io/not-ready";
const EFFECT: &str = "NoSchedule";

/// Adds the taint.
pub fn admit(request: &mut AdmissionRequest<'_>) {
    let Some(node) = created(request, "nodes") else { return };
    if !node["spec"].is_object() {
        node["spec"] = json!({});
    }
    let Some(taints) = list_mut(&mut node["spec"], "taints") else { return };
    if !taints.iter().any(|taint| taint["key"] == KEY && taint["effect"] == EFFECT) {
        taints.push(json!({"key": KEY, "effect": EFFECT}));
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Write, resource};
    use super::*;
    use crate::types::Operation;
    use api_machinery::resource::Scope;

    #[test]
    fn once() {
        let nodes = || resource("", "Node", "nodes", Scope::Cluster);
        let mut write =
            Write::new(Operation::Create, nodes(), "", Some(json!({"metadata": {"name": "n"}})), None);
        admit(&mut write.request());
        admit(&mut write.request());
        let node = write.object.expect("still there");
        assert_eq!(node["spec"]["taints"], json!([{"key": KEY, "effect": EFFECT}]));
        let mut write = Write::new(Operation::Update, nodes(), "", Some(json!({"spec": {}})), Some(node));
        admit(&mut write.request());
        assert_eq!(write.object, Some(json!({"spec": {}})));
    }
}
