//! What budgets allow, as tables.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use serde_json::{Value, json};

use super::plan::{Guarded, Keeper, differs, plan};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a literal")
}

fn ago(seconds: i64) -> String {
    api_machinery::clock::rfc3339(now() - SignedDuration::from_secs(seconds))
}

fn budget(spec: &Value, status: &Value) -> PodDisruptionBudget {
    let metadata = json!({"name": "b", "namespace": "n", "generation": 3});
    let mut whole = json!({"metadata": metadata, "spec": spec});
    if !status.is_null() {
        whole["status"] = status.clone();
    }
    serde_json::from_value(whole).expect("a budget")
}

fn pod(name: &str, ready: bool, deleting: bool, keeper: Keeper) -> Guarded {
    let state = if ready { "True" } else { "False" };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "n"},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": state}]},
    });
    if deleting {
        pod["metadata"]["deletionTimestamp"] = ago(1).into();
    }
    Guarded { pod: Arc::new(serde_json::from_value(pod).expect("a pod")), keeper }
}

fn owned(size: i32) -> Keeper {
    Keeper::Owner("set".to_owned(), size)
}

/// `healthy` ready pods and `other` that are not, of an owner that wants `size`.
fn pods(healthy: usize, other: usize, size: i32) -> Vec<Guarded> {
    (0..healthy + other).map(|n| pod(&format!("p{n}"), n < healthy, false, owned(size))).collect()
}

#[test]
fn what_is_allowed() {
    let table = [
        // spec, healthy, not healthy, wanted by the owner -> expected, desired, allowed
        (json!({"minAvailable": 2}), 3, 0, 3, (3, 2, 1)),
        (json!({"minAvailable": 3}), 3, 0, 5, (3, 3, 0)),
        (json!({"minAvailable": 2}), 2, 2, 4, (4, 2, 0)),
        (json!({"minAvailable": "50%"}), 5, 0, 5, (5, 3, 2)),
        (json!({"minAvailable": "100%"}), 3, 0, 3, (3, 3, 0)),
        (json!({"minAvailable": "0%"}), 3, 0, 3, (3, 0, 3)),
        (json!({"maxUnavailable": 1}), 5, 0, 5, (5, 4, 1)),
        (json!({"maxUnavailable": 1}), 3, 0, 5, (5, 4, 0)),
        (json!({"maxUnavailable": "30%"}), 7, 0, 7, (7, 4, 3)),
        (json!({"maxUnavailable": "100%"}), 2, 0, 2, (2, 0, 2)),
        (json!({"maxUnavailable": 9}), 2, 0, 2, (2, 0, 2)),
        (json!({"minAvailable": 0}), 0, 0, 0, (0, 0, 0)),
        (json!({}), 2, 0, 2, (0, 0, 0)),
    ];
    for (spec, healthy, other, size, expected) in table {
        let plan = plan(&budget(&spec, &Value::Null), &pods(healthy, other, size), now());
        let status = &plan.status;
        let found = [status.expected_pods, status.desired_healthy, status.disruptions_allowed];
        assert_eq!(
            found,
            [expected.0, expected.1, expected.2].map(Some),
            "{spec} {healthy}+{other} of {size}"
        );
        assert_eq!(status.current_healthy, i32::try_from(healthy).ok());
        assert_eq!(status.observed_generation, Some(3));
        let condition = &status.conditions.as_ref().expect("one")[0];
        let reason = if expected.2 > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!(condition.reason, reason);
    }
}

#[test]
fn evictions_that_do_not_show_yet_count_until_they_are_late() {
    let status = |seconds: i64| {
        json!({"currentHealthy": 3, "desiredHealthy": 1, "disruptionsAllowed": 1, "expectedPods": 3,
               "disruptedPods": {"p0": ago(seconds)}})
    };
    let spec = json!({"minAvailable": 1});
    let fresh = plan(&budget(&spec, &status(30)), &pods(3, 0, 3), now());
    assert_eq!((fresh.status.current_healthy, fresh.status.disruptions_allowed), (Some(2), Some(1)));
    assert_eq!(fresh.recheck, Some(now() + SignedDuration::from_secs(90)));
    let late = plan(&budget(&spec, &status(120)), &pods(3, 0, 3), now());
    assert_eq!((late.status.current_healthy, late.not_deleted.len()), (Some(3), 1));
    assert_eq!((late.recheck, late.status.disrupted_pods), (None, None));
    let mut shown = pods(2, 0, 3);
    shown.push(pod("p9", true, true, owned(3)));
    shown[0] = pod("p0", true, true, owned(3));
    let shown = plan(&budget(&spec, &status(30)), &shown, now());
    assert_eq!((shown.status.current_healthy, shown.status.disrupted_pods), (Some(1), None));
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let spec = json!({"maxUnavailable": 1});
    let lost = [pod("p", true, false, Keeper::Unknown)];
    let told = plan(
        &budget(
            &spec,
            &json!({"currentHealthy": 4, "desiredHealthy": 1, "disruptionsAllowed": 3, "expectedPods": 4}),
        ),
        &lost,
        now(),
    );
    assert_eq!((told.status.disruptions_allowed, told.status.current_healthy), (Some(0), Some(4)));
    assert_eq!(told.failure.as_deref(), Some("found no controllers for pod \"p\""));
    assert_eq!(told.status.conditions.expect("one")[0].reason, "SyncFailed");
    let bare = [pod("p", true, false, Keeper::Nobody)];
    let told = plan(&budget(&spec, &Value::Null), &bare, now());
    assert!(told.unmanaged);
    assert_eq!((told.status.expected_pods, told.status.disruptions_allowed), (Some(0), Some(0)));
    let told = plan(&budget(&json!({"minAvailable": 1}), &Value::Null), &bare, now());
    assert!(!told.unmanaged, "a plain number needs no owner");
}

#[test]
fn nothing_new_is_not_written() {
    let spec = json!({"minAvailable": 1});
    let first = plan(&budget(&spec, &Value::Null), &pods(2, 0, 2), now());
    assert!(differs(None, &first.status));
    let known = serde_json::to_value(&first.status).expect("it has a form");
    let again = budget(&spec, &known);
    let later = plan(&again, &pods(2, 0, 2), now() + SignedDuration::from_secs(60));
    assert!(!differs(again.status.as_ref(), &later.status));
    let fewer = plan(&again, &pods(1, 1, 2), now());
    assert!(differs(again.status.as_ref(), &fewer.status));
}
