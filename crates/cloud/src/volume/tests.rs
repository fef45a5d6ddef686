//! Cases of the plan.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_machinery::patch::merge;
use component::ObjectKey;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use serde_json::{Value, json};

use super::plan::{self, ClaimStep, Wanted};
use crate::provider::Volume;

const OURS: &str = "ebs.aws.skiff.dev";

fn claim(changes: &Value) -> PersistentVolumeClaim {
    let plain = json!({
        "metadata": {"namespace": "default", "name": "data", "uid": "u1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1500Mi"}}},
    });
    serde_json::from_value(merge::apply(&plain, changes)).expect("a claim")
}

fn class(changes: &Value) -> StorageClass {
    let plain = json!({"metadata": {"name": "ebs"}, "provisioner": OURS, "parameters": {"type": "gp3"}});
    serde_json::from_value(merge::apply(&plain, changes)).expect("a class")
}

#[test]
fn what_a_claim_needs() {
    let zone_of = |node: &str| (node == "n1").then(|| "z1".to_owned());
    let step = |changes: Value, of: &Value, node: Option<&str>| match plan::claim(
        &claim(&changes),
        Some(&class(of)),
        OURS,
        node,
        &zone_of,
    ) {
        Ok(ClaimStep::Provision(spec)) => format!("{} {}Gi {:?}", spec.name, spec.gibibytes, spec.zone),
        Ok(other) => format!("{other:?}"),
        Err(error) => error.to_string(),
    };
    let (now, later) = (json!({}), json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    let leaves = json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}});
    let selected = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "n1"}}});
    assert_eq!(step(json!({}), &now, None), "pvc-u1 2Gi None");
    assert_eq!(step(json!({}), &later, None), "Wait");
    assert_eq!(step(json!({}), &later, Some("n1")), "pvc-u1 2Gi Some(\"z1\")");
    assert_eq!(step(selected, &later, None), "pvc-u1 2Gi Some(\"z1\")");
    assert_eq!(step(json!({"spec": {"volumeName": "x"}}), &now, None), "Bound");
    assert_eq!(step(json!({}), &json!({"provisioner": "other"}), None), "Nothing");
    assert_eq!(step(leaves.clone(), &now, None), "Nothing");
    assert_eq!(
        step(merge::apply(&leaves, &json!({"metadata": {"finalizers": [OURS]}})), &now, None),
        "CleanUp"
    );
    assert_eq!(step(json!({"spec": {"selector": {}}}), &now, None), "claim Selector is not supported");
    let many = step(json!({"spec": {"accessModes": ["ReadWriteMany"]}}), &now, None);
    assert_eq!(many, "access mode ReadWriteMany is not supported: one node has a volume");
}

#[test]
fn the_volume_says_where_it_can_be_used_and_is_known_again() {
    let made = Volume { handle: "vol-1".to_owned(), gibibytes: 2, zone: "z1".to_owned() };
    let volume = plan::persistent_volume(&claim(&json!({})), &class(&json!({})), OURS, &made);
    let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
    assert_eq!(plan::handle(&volume, OURS), Some("vol-1"));
    assert_eq!(plan::handle(&volume, "other"), None);
    assert_eq!(plan::claim_of(&volume), ObjectKey::new("default", "data"));
    assert_eq!(plan::capacity(&volume), 2);
}

#[test]
fn one_node_at_a_time() {
    let there = |node: &str| -> Arc<VolumeAttachment> {
        let value =
            json!({"metadata": {"name": node}, "spec": {"attacher": OURS, "nodeName": node, "source": {}}});
        Arc::new(serde_json::from_value(value).expect("an attachment"))
    };
    let set = |names: &[&str]| -> BTreeSet<String> { names.iter().map(|name| (*name).to_owned()).collect() };
    let plan = |nodes: &[&str], attached: &[&str], mounted: &[&str]| {
        let attached: Vec<_> = attached.iter().map(|node| there(node)).collect();
        let Wanted { create, delete } = plan::wanted(&set(nodes), &attached, &set(mounted));
        (create, delete.into_iter().map(|key| key.name).collect::<Vec<_>>())
    };
    let (none, a, b) = (Vec::<String>::new(), "a".to_owned(), "b".to_owned());
    assert_eq!(plan(&["a"], &[], &[]), (Some(a.clone()), none.clone()));
    assert_eq!(plan(&["a"], &["a"], &[]), (None, none.clone()));
    assert_eq!(plan(&["b"], &["a"], &[]), (None, vec![a.clone()]), "not before it is detached there");
    assert_eq!(plan(&["b"], &["a"], &["a"]), (None, none.clone()), "it is still mounted");
    assert_eq!(plan(&[], &["a", "b"], &[]), (None, vec![a, b]));
}
