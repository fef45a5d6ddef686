//! What the status says from the beginning to the end.

use jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::plan::{self, Phase};

fn migration(value: Value) -> DynamicObject {
    serde_json::from_value(value).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_migration_runs_and_ends_once() {
    let mut object =
        migration(json!({"metadata": {"name": "m"}, "spec": {"resource": {"group": "a", "resource": "bs"}}}));
    assert_eq!(plan::wanted(&object), ("a", "bs"));
    let said = |object: &DynamicObject, phase: &Phase, now: &str| {
        let conditions = plan::conditions(object, phase, time(now));
        let words = ["type", "status", "message", "lastTransitionTime"];
        let line = |c: &Value| words.map(|word| c[word].as_str().unwrap_or("?").to_owned()).join(" ");
        (conditions.iter().map(line).collect::<Vec<_>>(), json!({"conditions": conditions}))
    };
    let (lines, status) = said(&object, &Phase::Running, "2026-01-01T00:00:00Z");
    assert_eq!(lines, ["Running True  2026-01-01T00:00:00Z"]);
    object.data["status"] = status;
    assert!(!plan::is_done(&object));
    let (lines, _) = said(&object, &Phase::Running, "2026-01-01T00:01:00Z");
    assert_eq!(lines, ["Running True  2026-01-01T00:00:00Z"], "a second pass changes nothing");
    let (lines, _) = said(&object, &Phase::Failed("no".to_owned()), "2026-01-01T00:02:00Z");
    assert_eq!(lines, ["Running False  2026-01-01T00:02:00Z", "Failed True no 2026-01-01T00:02:00Z"]);
    let (lines, status) = said(&object, &Phase::Succeeded, "2026-01-01T00:02:00Z");
    assert_eq!(lines, ["Running False  2026-01-01T00:02:00Z", "Succeeded True  2026-01-01T00:02:00Z"]);
    object.data["status"] = status;
    assert!(plan::is_done(&object));
}

#[test]
fn a_resource_may_come_a_little_later_than_its_migration() {
    let object = migration(json!({"metadata": {"name": "m", "creationTimestamp": "2026-01-01T00:00:00Z"}}));
    assert!(plan::may_appear(&object, time("2026-01-01T00:00:59Z")).is_some());
    assert!(plan::may_appear(&object, time("2026-01-01T00:01:00Z")).is_none());
}
