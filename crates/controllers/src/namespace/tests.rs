//! What the conditions say, and when a namespace is ours to empty.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Namespace;
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::plan::{self, Content};

fn namespace(value: Value) -> Namespace {
    serde_json::from_value(value).unwrap()
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn only_a_namespace_that_is_deleted_and_waits_for_us_is_ours() {
    let cases = [
        (json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]}}), false),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["kubernetes"]}}),
            true,
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"finalizers": ["x/y"]}}),
            false,
        ),
        (json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}), false),
    ];
    for (value, expected) in cases {
        assert_eq!(plan::is_ours(&namespace(value.clone())), expected, "{value}");
    }
    let both = namespace(json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes", "x/y"]}}));
    assert_eq!(plan::finalizers(&plan::finalized(&both)), ["x/y"], "those of others stay");
}

#[test]
fn the_conditions_say_what_is_left() {
    let held = ObjectMeta { finalizers: Some(vec!["x/y".to_owned()]), ..ObjectMeta::default() };
    let mut left = Content::default();
    left.remains("pods.", [&ObjectMeta::default(), &held].into_iter());
    left.remains("deployments.apps", [&held].into_iter());
    left.remains("secrets.", [].into_iter());
    let undiscovered = Content { undiscovered: vec!["b/v1".to_owned()], ..Content::default() };
    let failed = Content { failures: vec!["pods: no".to_owned()], ..Content::default() };
    // What was found; for each condition that is true its type, reason and message.
    type Said = &'static [(&'static str, &'static str, &'static str)];
    let cases: [(&Content, Said); 4] = [
        (&Content::default(), &[]),
        (
            &left,
            &[
                (
                    "NamespaceContentRemaining",
                    "SomeResourcesRemain",
                    "Some resources are remaining: deployments.apps has 1 resource instances, pods. has 2 resource instances",
                ),
                (
                    "NamespaceFinalizersRemaining",
                    "SomeFinalizersRemain",
                    "Some content in the namespace has finalizers remaining: x/y in 2 resource instances",
                ),
            ],
        ),
        (
            &undiscovered,
            &[(
                "NamespaceDeletionDiscoveryFailure",
                "DiscoveryFailed",
                "Discovery failed for some groups, 1 failing: b/v1",
            )],
        ),
        (
            &failed,
            &[(
                "NamespaceDeletionContentFailure",
                "ContentDeletionFailed",
                "Failed to delete all resource types, 1 remaining: pods: no",
            )],
        ),
    ];
    for (content, expected) in cases {
        assert_eq!(content.is_empty(), expected.is_empty());
        let said =
            plan::conditions(&namespace(json!({"metadata": {}})), content, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(said.len(), 5, "every condition is always there");
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let set: Vec<[String; 3]> = said
            .iter()
            .filter(|condition| condition.status == "True")
            .map(|said| [said.type_.clone(), text(&said.reason), text(&said.message)])
            .collect();
        let expected: Vec<[String; 3]> =
            expected.iter().map(|(a, b, c)| [a, b, c].map(|text| text.to_string())).collect();
        assert_eq!(set, expected, "{content:?}");
    }
}

#[test]
fn conditions_change_only_when_they_say_something_new() {
    let (first, later) = (time("2026-01-01T00:00:00Z"), time("2026-01-01T00:01:00Z"));
    let mut one = Content::default();
    one.remains("pods.", [&ObjectMeta::default()].into_iter());
    let mut two = Content::default();
    two.remains("pods.", [&ObjectMeta::default(), &ObjectMeta::default()].into_iter());
    let said = plan::conditions(&namespace(json!({"metadata": {}})), &two, first).unwrap();
    let told = namespace(json!({"metadata": {}, "status": {"phase": "Terminating", "conditions": said}}));
    assert_eq!(plan::conditions(&told, &two, later), None);
    // Another message, the same status since the same time.
    let changed = plan::conditions(&told, &one, later).unwrap();
    assert!(changed.iter().all(|condition| condition.last_transition_time.as_ref().unwrap().0 == first));
    let done = plan::conditions(&told, &Content::default(), later).unwrap();
    let moved: Vec<&str> = done
        .iter()
        .filter(|condition| condition.last_transition_time.as_ref().unwrap().0 == later)
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(moved, ["NamespaceContentRemaining"]);
}
