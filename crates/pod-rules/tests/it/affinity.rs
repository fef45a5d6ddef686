//! Node selectors, node affinity and label selectors.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use pod_rules::{affinity, labels};
use serde_json::{Value, json};

use crate::{node, pod};

fn required(terms: Value) -> Value {
    json!({"containers": [], "affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

fn expression(key: &str, operator: &str, values: Value) -> Value {
    json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}])
}

#[test]
fn what_a_pod_requires_of_its_node() {
    let node = node(json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "size": "5"}}}));
    let field =
        |name: &str| json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]);
    let cases = [
        (json!({"containers": []}), true),
        (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), true),
        (json!({"containers": [], "nodeSelector": {"disk": "ssd", "size": "6"}}), false),
        (required(json!([])), false),
        (required(json!([{}])), false),
        (required(json!([{}, {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}])), true),
        (required(expression("disk", "In", json!(["hdd", "ssd"]))), true),
        (required(expression("disk", "In", json!(["hdd"]))), false),
        (required(expression("disk", "NotIn", json!(["hdd"]))), true),
        (required(expression("absent", "NotIn", json!(["hdd"]))), true),
        (required(expression("absent", "Exists", json!(null))), false),
        (required(expression("absent", "DoesNotExist", json!(null))), true),
        (required(expression("disk", "DoesNotExist", json!(null))), false),
        (required(expression("size", "Gt", json!(["4"]))), true),
        (required(expression("size", "Gt", json!(["5"]))), false),
        (required(expression("size", "Lt", json!(["6"]))), true),
        (required(expression("disk", "Lt", json!(["6"]))), false),
        (required(field("n")), true),
        (required(field("m")), false),
    ];
    for (spec, expected) in cases {
        assert_eq!(affinity::matches_required(&pod(json!({"spec": spec})), &node), expected, "{spec}");
    }
    assert_eq!(affinity::named_nodes(&pod(json!({"spec": required(field("n"))}))), Some(vec!["n"]));
    let labelled = required(expression("disk", "Exists", json!(null)));
    assert_eq!(affinity::named_nodes(&pod(json!({"spec": labelled}))), None);
}

#[test]
fn preferences_add_up() {
    let prefer = |key: &str, weight: i32| {
        json!({"weight": weight,
        "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}})
    };
    let pod = pod(json!({"spec": {"containers": [], "affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [prefer("a", 10), prefer("b", 5), prefer("c", 1),
            {"weight": 100, "preference": {}}]}}}}));
    assert!(affinity::has_preference(&pod));
    let node = node(json!({"metadata": {"labels": {"a": "", "c": ""}}}));
    assert_eq!(affinity::preference(&pod, &node), 11);
}

#[test]
fn label_selectors() {
    let cases = [
        (json!({}), true),
        (json!({"matchLabels": {"app": "x"}}), true),
        (json!({"matchLabels": {"app": "y"}}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["y"]}]}), true),
        (json!({"matchExpressions": [{"key": "tier", "operator": "Exists"}]}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "Near", "values": ["y"]}]}), false),
        (json!({"matchExpressions": [{"key": "app", "operator": "In", "values": []}]}), false),
    ];
    let found = labels::Labels::from([("app".to_owned(), "x".to_owned())]);
    for (value, expected) in cases {
        let selector: LabelSelector = serde_json::from_value(value.clone()).expect("a selector");
        assert_eq!(labels::selects(Some(&selector), Some(&found)), expected, "{value}");
    }
    assert!(!labels::selects(None, Some(&found)), "no selector selects nothing");
    assert!(labels::selects(Some(&LabelSelector::default()), None), "an empty one everything");
}
