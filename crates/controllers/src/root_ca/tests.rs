//! When the ConfigMap is made, put right, or left alone.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use serde_json::{Value, json};

use super::plan::{Action, plan};

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_config_map_is_made_and_kept_right() {
    let namespace: Namespace = parsed(json!({"metadata": {"name": "a"}}));
    let Action::Create(made) = plan(Some(&namespace), None, "PEM") else { panic!("must be made") };
    assert_eq!(made.metadata.name.as_deref(), Some("kube-root-ca.crt"));
    assert_eq!(made.data.as_ref().unwrap()["ca.crt"], "PEM");
    assert_eq!(plan(Some(&namespace), Some(&made), "PEM"), Action::Nothing);

    // What others did to it, and whether they keep their annotation.
    let spoiled = [
        json!({"data": {"ca.crt": "other"}}),
        json!({"data": {"ca.crt": "PEM", "more": "x"}}),
        json!({"data": {"ca.crt": "PEM"}, "binaryData": {"b": "AA=="}}),
        json!({}),
        json!({"metadata": {"annotations": {"mine": "yes"}}, "data": {"ca.crt": "PEM"}}),
    ];
    for spoil in spoiled {
        let known: ConfigMap = parsed(spoil.clone());
        let Action::Repair(repaired) = plan(Some(&namespace), Some(&known), "PEM") else { panic!("{spoil}") };
        assert_eq!((&repaired.data, &repaired.binary_data), (&made.data, &None), "{spoil}");
        let kept = repaired.metadata.annotations.as_ref().and_then(|all| all.get("mine")).is_some();
        assert_eq!(kept, spoil.pointer("/metadata/annotations/mine").is_some(), "{spoil}");
    }
}

#[test]
fn a_namespace_that_goes_gets_nothing() {
    let deleted: Namespace =
        parsed(json!({"metadata": {"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z"}}));
    assert_eq!(plan(Some(&deleted), None, "PEM"), Action::Nothing);
    assert_eq!(plan(None, None, "PEM"), Action::Nothing);
}

#[test]
fn an_annotation_of_others_is_not_fought_over() {
    let namespace: Namespace = parsed(json!({"metadata": {"name": "a"}}));
    let known: ConfigMap = parsed(json!({
        "metadata": {"annotations": {"kubernetes.io/description": "in our words"}}, "data": {"ca.crt": "PEM"},
    }));
    assert_eq!(plan(Some(&namespace), Some(&known), "PEM"), Action::Nothing);
}
