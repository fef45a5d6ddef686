//! When a finalizer comes and goes, and who uses a claim.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::plan::{self, CLAIM, Step, VOLUME};

fn parsed<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

#[test]
fn the_finalizer_comes_to_what_lives_and_goes_from_what_is_deleted() {
    let deleted = "2026-01-01T00:00:00Z";
    let table = [
        (json!({}), Step::Add, json!([CLAIM])),
        (json!({"finalizers": ["a/b"]}), Step::Add, json!(["a/b", CLAIM])),
        (json!({"finalizers": [CLAIM]}), Step::Nothing, json!([CLAIM])),
        (json!({"finalizers": [CLAIM, "a/b"], "deletionTimestamp": deleted}), Step::Remove, json!(["a/b"])),
        (json!({"finalizers": ["a/b"], "deletionTimestamp": deleted}), Step::Nothing, json!(["a/b"])),
        (json!({"finalizers": [VOLUME], "deletionTimestamp": deleted}), Step::Nothing, json!([VOLUME])),
    ];
    for (metadata, want, left) in table {
        let claim: PersistentVolumeClaim = parsed(json!({"metadata": metadata.clone()}));
        let step = plan::step(&claim.metadata, CLAIM);
        assert_eq!(step, want, "{metadata}");
        let changed = plan::changed(&claim.metadata, CLAIM, step);
        assert_eq!(json!(changed.finalizers), left, "{metadata}");
    }
}

#[test]
fn a_pod_with_a_node_uses_the_claims_that_it_names() {
    let named = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "p-v"}}]);
    let ephemeral = json!([{"name": "v", "ephemeral": {}}]);
    let owner = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "1", "controller": true}]);
    let other = json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "2", "controller": true}]);
    let other_name = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "else"}}]);
    // Volumes, node, phase, namespace of the claim, owners of the claim.
    let table = [
        (&named, "n", "Running", "a", None, true),
        (&named, "n", "Succeeded", "a", None, true),
        (&named, "", "Pending", "a", None, false),
        (&named, "n", "Running", "b", None, false),
        (&other_name, "n", "Running", "a", None, false),
        (&ephemeral, "n", "Running", "a", Some(&owner), true),
        (&ephemeral, "n", "Running", "a", Some(&other), false),
        (&ephemeral, "n", "Running", "a", None, false),
    ];
    for (volumes, node, phase, namespace, owners, want) in table {
        let pod: Pod = parsed(json!({
            "metadata": {"name": "p", "namespace": "a", "uid": "1"}, "status": {"phase": phase},
            "spec": {"nodeName": node, "containers": [], "volumes": volumes},
        }));
        let claim: PersistentVolumeClaim =
            parsed(json!({"metadata": {"name": "p-v", "namespace": namespace, "ownerReferences": owners}}));
        assert_eq!(plan::uses(&pod, &claim), want, "{volumes} {node:?} {phase} {namespace} {owners:?}");
    }
}

#[test]
fn a_volume_is_in_use_while_it_is_bound() {
    for (phase, want) in [("Bound", true), ("Released", false), ("Available", false), ("Failed", false)] {
        let volume: PersistentVolume = parsed(json!({"metadata": {}, "status": {"phase": phase}}));
        assert_eq!(plan::is_bound(&volume), want, "{phase}");
    }
}

#[test]
fn a_class_is_in_use_by_what_has_it_wants_it_or_is_about_to_get_it() {
    let claim: PersistentVolumeClaim = parsed(json!({
        "metadata": {}, "spec": {"volumeAttributesClassName": "wanted"},
        "status": {"currentVolumeAttributesClassName": "has",
            "modifyVolumeStatus": {"status": "Pending", "targetVolumeAttributesClassName": "next"}},
    }));
    let named: Vec<String> = plan::attributes_of_claim(&claim).into_iter().collect();
    assert_eq!(named, ["has", "next", "wanted"]);
    let volume: PersistentVolume =
        parsed(json!({"metadata": {}, "spec": {"volumeAttributesClassName": "has"}}));
    assert_eq!(plan::attributes_of_volume(&volume).into_iter().collect::<Vec<_>>(), ["has"]);
    let none: PersistentVolume = parsed(json!({"metadata": {}, "spec": {"volumeAttributesClassName": ""}}));
    assert!(plan::attributes_of_volume(&none).is_empty());
}
