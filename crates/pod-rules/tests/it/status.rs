//! Readiness and availability.

use jiff::Timestamp;
use pod_rules::status;
use serde_json::json;

use crate::pod;

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

#[test]
fn ready_and_available() {
    let ready = pod(json!({"status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:10Z"}]}}));
    let undated = pod(json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}));
    let unready = pod(json!({"status": {"conditions": [
        {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:10Z"}]}}));
    assert!(status::is_ready(&ready) && status::is_ready(&undated) && !status::is_ready(&unready));
    assert_eq!(status::ready_since(&ready), Some(at("2026-01-01T00:00:10Z")));
    assert_eq!(status::ready_since(&unready), None);
    assert_eq!(status::available_at(&ready, 5), Some(at("2026-01-01T00:00:15Z")));
    assert_eq!(status::available_at(&unready, 5), None);
    let cases = [
        (&ready, 0, "2026-01-01T00:00:10Z", true),
        (&ready, 5, "2026-01-01T00:00:14Z", false),
        (&ready, 5, "2026-01-01T00:00:15Z", true),
        (&ready, -1, "2026-01-01T00:00:10Z", true),
        (&undated, 0, "2026-01-01T00:00:10Z", true),
        (&undated, 1, "2027-01-01T00:00:10Z", false),
        (&unready, 0, "2027-01-01T00:00:10Z", false),
    ];
    for (pod, seconds, now, expected) in cases {
        assert_eq!(status::is_available(pod, seconds, at(now)), expected, "{seconds} at {now}");
    }
}

#[test]
fn active_is_neither_ended_nor_being_deleted() {
    let cases = [
        (json!({}), false, true),
        (json!({"status": {"phase": "Running"}}), false, true),
        (json!({"status": {"phase": "Succeeded"}}), true, false),
        (json!({"status": {"phase": "Failed"}}), true, false),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:10Z"}}), false, false),
    ];
    for (value, terminal, active) in cases {
        let pod = pod(value.clone());
        assert_eq!((status::is_terminal(&pod), status::is_active(&pod)), (terminal, active), "{value}");
    }
}
