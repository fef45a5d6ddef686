//! Tolerations against taints.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use pod_rules::taints;
use serde_json::{Value, json};

use crate::pod;

fn taint(key: &str, value: &str, effect: &str) -> Taint {
    serde_json::from_value(json!({"key": key, "value": value, "effect": effect})).expect("a taint")
}

#[test]
fn one_toleration_and_one_taint() {
    let found = taint("k", "5", "NoSchedule");
    let cases = [
        (json!({"operator": "Exists"}), true),
        (json!({"key": "k", "operator": "Exists"}), true),
        (json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false),
        (json!({"key": "k", "value": "5"}), true),
        (json!({"key": "k", "operator": "Equal", "value": "5", "effect": "NoSchedule"}), true),
        (json!({"key": "k", "value": "6"}), false),
        (json!({"key": "other", "value": "5"}), false),
        (json!({"key": "k", "operator": "Gt", "value": "4"}), true),
        (json!({"key": "k", "operator": "Gt", "value": "5"}), false),
        (json!({"key": "k", "operator": "Lt", "value": "6"}), true),
        (json!({"key": "k", "operator": "Lt", "value": "many"}), false),
        (json!({"key": "k", "operator": "Unheard", "value": "5"}), false),
    ];
    for (value, expected) in cases {
        let toleration: Toleration = serde_json::from_value(value.clone()).expect("a toleration");
        assert_eq!(taints::tolerates(&toleration, &found), expected, "{value}");
    }
}

#[test]
fn the_first_taint_of_the_asked_effects_that_is_not_tolerated() {
    let pod = pod(json!({"spec": {"containers": [], "tolerations": [{"key": "a", "operator": "Exists"}]}}));
    let all = [taint("a", "", "NoSchedule"), taint("b", "", "PreferNoSchedule"), taint("c", "", "NoExecute")];
    let key = |effects: &[&str]| taints::untolerated(&pod, &all, effects).map(|taint| taint.key.as_str());
    assert_eq!(key(&["NoSchedule"]), None);
    assert_eq!(key(&["NoSchedule", "NoExecute"]), Some("c"));
    assert_eq!(key(&["PreferNoSchedule"]), Some("b"));
}

#[test]
fn how_long_a_pod_may_stay() {
    let for_seconds =
        |key: &str, seconds: i64| json!({"key": key, "operator": "Exists", "tolerationSeconds": seconds});
    let forever = |key: &str| json!({"key": key, "operator": "Exists"});
    let cases: [(Value, Option<u64>); 6] = [
        (json!([]), Some(0)),
        (json!([forever("a"), forever("b")]), None),
        (json!([for_seconds("a", 300), forever("b")]), Some(300)),
        (json!([for_seconds("a", 300), for_seconds("b", 30)]), Some(30)),
        (json!([for_seconds("a", 300)]), Some(0)),
        (json!([for_seconds("a", -1), forever("b")]), Some(0)),
    ];
    let taints = [taint("a", "", "NoExecute"), taint("b", "", "NoExecute"), taint("c", "", "NoSchedule")];
    for (tolerations, expected) in cases {
        let pod = pod(json!({"spec": {"containers": [], "tolerations": tolerations}}));
        assert_eq!(taints::toleration_deadline(&pod, &taints), expected, "{tolerations}");
    }
    assert_eq!(taints::toleration_deadline(&pod(json!({})), &taints[2..]), None, "nothing evicts");
}
