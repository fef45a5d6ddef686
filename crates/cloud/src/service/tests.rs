//! Cases of the plan.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};

use super::plan::{FINALIZER, Step, concerns, plan, status_change, wants};
use crate::provider::{Ingress, LoadBalancerSpec};

fn service(changes: &Value) -> Service {
    let plain = json!({
        "metadata": {"namespace": "default", "name": "web", "uid": "u1", "finalizers": [FINALIZER]},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]},
        "status": {"loadBalancer": {"ingress": [{"hostname": "lb.example", "ipMode": "VIP"}]}},
    });
    serde_json::from_value(api_machinery::patch::merge::apply(&plain, changes)).expect("a service")
}

fn node(changes: &Value) -> Arc<Node> {
    let plain = json!({"metadata": {"name": "n1"}, "spec": {"providerID": "aws:///z/i-1"}});
    Arc::new(serde_json::from_value(api_machinery::patch::merge::apply(&plain, changes)).expect("a node"))
}

fn told(service: &Service, nodes: &[Arc<Node>]) -> LoadBalancerSpec {
    match plan(service, nodes, None) {
        Ok(Step::Ensure(spec)) => spec,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_wants_a_load_balancer_from_us() {
    let cases = [
        (json!({}), true, true),
        (json!({"spec": {"loadBalancerClass": "example.com/other"}}), false, false),
        (json!({"spec": {"type": "ClusterIP"}}), false, true),
        (json!({"spec": {"type": "ClusterIP"}, "metadata": {"finalizers": null}}), false, false),
        (json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}}), false, true),
        (
            json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z", "finalizers": null}}),
            false,
            false,
        ),
    ];
    for (changes, wanted, concerned) in cases {
        let service = service(&changes);
        assert_eq!((wants(&service), concerns(&service)), (wanted, concerned), "{changes}");
        if concerned && !wanted {
            assert_eq!(plan(&service, &[], None), Ok(Step::Delete));
        }
    }
}

#[test]
fn the_cloud_is_told_what_it_was_not_told_before() {
    let (plain, one) = (service(&json!({})), [node(&json!({}))]);
    let before = told(&plain, &one);
    assert_eq!(before.nodes.len(), 1);
    let step = |changes: Value, nodes: &[Arc<Node>]| match plan(&service(&changes), nodes, Some(&before)) {
        Ok(Step::Nothing) => "nothing",
        Ok(Step::Ensure(_)) => "ensure",
        Ok(Step::Update(_)) => "update",
        other => panic!("{other:?}"),
    };
    let two = [one[0].clone(), node(&json!({"metadata": {"name": "n2"}}))];
    let left_out = [node(
        &json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}}),
    )];
    let taint = json!([{"key": "node.cloudprovider.kubernetes.io/uninitialized", "effect": "NoSchedule"}]);
    let new = [one[0].clone(), node(&json!({"metadata": {"name": "n3"}, "spec": {"taints": taint}}))];
    assert_eq!(step(json!({}), &one), "nothing");
    assert_eq!(step(json!({}), &new), "nothing", "not before the cloud knows it");
    assert_eq!(step(json!({"metadata": {"labels": {"a": "b"}}}), &one), "nothing");
    assert_eq!(step(json!({}), &two), "update");
    assert_eq!(step(json!({}), &left_out), "update");
    assert_eq!(step(json!({"spec": {"ports": [{"port": 81, "nodePort": 30080}]}}), &one), "ensure");
    assert_eq!(step(json!({"spec": {"ports": [{"port": 81, "nodePort": 30080}]}}), &two), "ensure");
    assert_eq!(step(json!({"status": null}), &one), "ensure");
    assert_eq!(step(json!({"metadata": {"finalizers": null}}), &one), "ensure");
}

#[test]
fn health_checks_are_for_the_local_policy() {
    let port = |policy: &str| {
        let changes = json!({"spec": {"externalTrafficPolicy": policy, "healthCheckNodePort": 31000}});
        told(&service(&changes), &[]).health_check_port
    };
    assert_eq!((port("Local"), port("Cluster")), (Some(31000), None));
}

#[test]
fn what_cannot_be_served_is_said() {
    let refused = |changes: Value| plan(&service(&changes), &[], None).expect_err("refused").to_string();
    assert_eq!(refused(json!({"spec": {"ports": []}})), "no ports provided to load balancer");
    let without = json!({"spec": {"ports": [{"port": 80}]}});
    assert_eq!(refused(without), "port 80 has no node port");
}

#[test]
fn the_status_is_written_when_it_differs() {
    let name = |name: &str| Ingress { ip: None, hostname: Some(name.to_owned()) };
    let service = service(&json!({}));
    assert_eq!(status_change(&service, &[name("lb.example")]), None);
    let address = Ingress { ip: Some([192, 0, 2, 1].into()), hostname: None };
    let change = status_change(&service, &[address]).expect("a change");
    assert_eq!(change["status"]["loadBalancer"]["ingress"], json!([{"ip": "192.0.2.1", "ipMode": "VIP"}]));
    assert_eq!(
        status_change(&service, &[]).expect("a change")["status"]["loadBalancer"]["ingress"],
        Value::Null
    );
}
