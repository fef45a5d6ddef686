//! What the status of a quota becomes, and what makes the controller look.

use k8s_openapi::api::core::v1::{Pod, ResourceQuota};
use pod_rules::amounts;
use pod_rules::quota::Quota;
use serde_json::{Value, json};

use super::plan;

fn quota(hard: Value, status: Value) -> (ResourceQuota, Quota) {
    let value = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}, "status": status});
    (serde_json::from_value(value.clone()).expect("a quota"), Quota::of(&value))
}

#[test]
fn statuses() {
    let one = json!({"pods": "5", "cpu": "2"});
    let table = [
        (
            one.clone(),
            json!({}),
            json!({"pods": "1", "cpu": "100m"}),
            json!({"hard": one, "used": {"pods": "1", "cpu": "100m"}}),
        ),
        (
            one.clone(),
            json!({"hard": one, "used": {"pods": "1", "cpu": "100m"}}),
            json!({"pods": "1", "cpu": "0.1"}),
            Value::Null,
        ),
        (
            one.clone(),
            json!({"hard": {"pods": "5"}, "used": {"pods": "1"}}),
            json!({"pods": "1", "cpu": "0"}),
            json!({"hard": one, "used": {"pods": "1", "cpu": "0"}}),
        ),
        // What is not limited any longer goes; what cannot be counted stays.
        (
            json!({"pods": "5", "count/x.example.com": "3"}),
            json!({"hard": one, "used": {"pods": "2", "cpu": "1", "count/x.example.com": "2"}}),
            json!({"pods": "1"}),
            json!({"hard": {"pods": "5", "count/x.example.com": "3"}, "used": {"pods": "1", "count/x.example.com": "2"}}),
        ),
        (json!({}), json!({}), json!({}), json!({"hard": {}, "used": {}})),
    ];
    for (hard, status, counted, want) in table {
        let (typed, parsed) = quota(hard, status);
        let found = plan::status(&typed, &parsed, amounts::read(Some(&counted)));
        assert_eq!(serde_json::to_value(found).expect("a status"), want, "{typed:?}");
    }
}

#[test]
fn what_was_never_counted() {
    let counted = json!({"hard": {"pods": "5"}, "used": {"pods": "0"}});
    for (hard, status, new) in [
        (json!({"pods": "5"}), json!({}), true),
        (json!({"pods": "5"}), counted.clone(), false),
        (json!({"pods": "6"}), counted, true),
        (json!({"pods": "5"}), json!({"hard": {"pods": "5"}}), true),
    ] {
        let (typed, _) = quota(hard, status);
        assert_eq!(plan::is_new(&typed), new, "{typed:?}");
    }
}

#[test]
fn pods_that_give_back() {
    let pod = |phase: &str, deleted: bool, generation: i64| -> Pod {
        let mut metadata = json!({"generation": generation});
        if deleted {
            metadata["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        serde_json::from_value(json!({"metadata": metadata, "status": {"phase": phase}})).expect("a pod")
    };
    let running = pod("Running", false, 1);
    for (old, new, want) in [
        (None, Some(running.clone()), false),
        (Some(running.clone()), None, true),
        (Some(pod("Pending", false, 1)), Some(running.clone()), false),
        (Some(running.clone()), Some(pod("Succeeded", false, 1)), true),
        (Some(running.clone()), Some(pod("Running", true, 1)), true),
        (Some(running), Some(pod("Running", false, 2)), true),
    ] {
        assert_eq!(plan::may_give_back(old.as_ref(), new.as_ref()), want, "{old:?} {new:?}");
    }
}
