//! Which pods go, and in which order.

use std::collections::BTreeSet;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::plan::{self, Forced};

fn pod(name: &str, value: Value) -> Pod {
    let mut pod = json!({"metadata": {"namespace": "x", "name": name}, "spec": {"containers": []}});
    for part in ["metadata", "spec", "status"] {
        for (field, value) in value[part].as_object().into_iter().flatten() {
            pod[part][field] = value.clone();
        }
    }
    serde_json::from_value(pod).unwrap()
}

#[test]
fn of_the_pods_that_have_ended_evicted_ones_go_first_and_then_the_oldest() {
    let created = |minute: u8, status: Value| json!({"metadata": {"creationTimestamp": format!("2026-01-01T00:{minute:02}:00Z")}, "status": status});
    let pods = [
        pod("old", created(1, json!({"phase": "Succeeded"}))),
        pod("running", created(0, json!({"phase": "Running"}))),
        pod("fresh", created(0, json!({}))),
        pod("failed", created(2, json!({"phase": "Failed"}))),
        pod("evicted", created(9, json!({"phase": "Failed", "reason": "Evicted"}))),
        pod("new", created(8, json!({"phase": "Succeeded"}))),
        pod(
            "going",
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": "Failed"}}),
        ),
    ];
    let ended: BTreeSet<plan::Ended> = pods.iter().filter_map(plan::ended).collect();
    let order = ["evicted", "old", "failed", "new"];
    for threshold in 0..=5 {
        let gone: Vec<ObjectKey> = order
            .iter()
            .take(4_usize.saturating_sub(threshold))
            .map(|name| ObjectKey::new("x", *name))
            .collect();
        assert_eq!(plan::too_many(&ended, threshold), gone, "{threshold}");
    }
}

#[test]
fn pods_are_taken_away_by_force_only_if_no_kubelet_can_let_go() {
    let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
    let node = |ready: &str, taint: &str| -> Node {
        let taints = json!([{"key": taint, "effect": "NoExecute"}]);
        serde_json::from_value(json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
                                      "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    };
    let out = "node.kubernetes.io/out-of-service";
    let bound = json!({"nodeName": "n"});
    // Metadata, spec, node; what happens.
    let cases = [
        (json!({}), json!({}), None, None),
        (deleted.clone(), json!({}), None, Some(Forced::Unscheduled)),
        (deleted.clone(), bound.clone(), None, None),
        (deleted.clone(), bound.clone(), Some(node("Unknown", "other")), None),
        (deleted.clone(), bound.clone(), Some(node("Unknown", out)), Some(Forced::OutOfService)),
        (deleted.clone(), bound.clone(), Some(node("False", out)), Some(Forced::OutOfService)),
        (deleted, bound.clone(), Some(node("True", out)), None),
        (json!({}), bound, Some(node("Unknown", out)), None),
    ];
    for (metadata, spec, node, expected) in cases {
        let pod = pod("a", json!({"metadata": metadata, "spec": spec}));
        assert_eq!(plan::forced(&pod, node.as_ref()), expected, "{metadata} {spec} {node:?}");
    }
}
