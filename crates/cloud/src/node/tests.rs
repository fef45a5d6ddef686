//! Cases of the plan.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::plan::{Plan, plan};
use crate::provider::InstanceMetadata;

fn node(value: Value) -> Node {
    serde_json::from_value(value).expect("a node")
}

fn metadata() -> InstanceMetadata {
    let pair = |kind: &str, address: &str| (kind.to_owned(), address.to_owned());
    InstanceMetadata {
        provider_id: "aws:///z1/i-1".to_owned(),
        addresses: vec![
            pair("InternalIP", "10.0.0.1"),
            pair("ExternalIP", "198.51.100.1"),
            pair("Hostname", "n1"),
        ],
        instance_type: "m5.large".to_owned(),
        zone: "z1".to_owned(),
        region: "z".to_owned(),
    }
}

#[test]
fn a_new_node_gets_everything_and_keeps_its_other_taints() {
    let new = node(json!({
        "metadata": {"name": "n1", "resourceVersion": "7"},
        "spec": {"taints": [
            {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"},
            {"key": "own", "effect": "NoSchedule"},
        ]},
    }));
    let made = plan(&new, &metadata()).expect("a plan");
    let addresses = json!([
        {"type": "InternalIP", "address": "10.0.0.1"},
        {"type": "ExternalIP", "address": "198.51.100.1"},
        {"type": "Hostname", "address": "n1"},
    ]);
    assert_eq!(made.status, Some(json!({"status": {"addresses": addresses}})));
    let change = made.node.expect("a change");
    assert_eq!(
        change["spec"],
        json!({"taints": [{"key": "own", "effect": "NoSchedule"}], "providerID": "aws:///z1/i-1"})
    );
    assert_eq!(change["metadata"]["resourceVersion"], "7");
    for (label, value) in [
        ("topology.kubernetes.io/zone", "z1"),
        ("topology.kubernetes.io/region", "z"),
        ("node.kubernetes.io/instance-type", "m5.large"),
        ("beta.kubernetes.io/instance-type", "m5.large"),
    ] {
        assert_eq!(change["metadata"]["labels"][label], value);
    }
}

#[test]
fn a_node_as_it_should_be_is_not_written() {
    let labels = json!({
        "node.kubernetes.io/instance-type": "m5.large", "beta.kubernetes.io/instance-type": "m5.large",
        "topology.kubernetes.io/zone": "z1", "failure-domain.beta.kubernetes.io/zone": "z1",
        "topology.kubernetes.io/region": "z", "failure-domain.beta.kubernetes.io/region": "z",
    });
    let mut it = node(json!({
        "metadata": {"name": "n1", "labels": labels},
        "spec": {"providerID": "aws:///z1/i-1"},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "10.0.0.1"}, {"type": "ExternalIP", "address": "198.51.100.1"},
            {"type": "Hostname", "address": "n1"},
        ]},
    }));
    assert_eq!(plan(&it, &metadata()).expect("a plan"), Plan::default());
    // Another provider ID is not ours to change.
    it.spec.get_or_insert_default().provider_id = Some("aws:///z1/i-2".to_owned());
    assert_eq!(plan(&it, &metadata()).expect("a plan"), Plan::default());
}

#[test]
fn the_address_that_the_kubelet_was_told_to_use_comes_first_or_is_missed() {
    let told = |address: &str| {
        node(
            json!({"metadata": {"name": "n1", "annotations": {"alpha.kubernetes.io/provided-node-ip": address}}}),
        )
    };
    let made = plan(&told("198.51.100.1"), &metadata()).expect("a plan").status.expect("addresses");
    assert_eq!(made["status"]["addresses"][0]["address"], "198.51.100.1");
    let error = plan(&told("192.0.2.1"), &metadata()).expect_err("refused");
    assert!(error.to_string().ends_with("matches ip: 192.0.2.1"), "{error}");
}
