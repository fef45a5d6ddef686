//! What an Endpoints object says, as tables.

use std::sync::Arc;

use api_machinery::patch::merge;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use serde_json::{Value, json};

use super::plan::{self, CAPACITY};

fn service(changes: Value) -> Service {
    let service = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "s", "labels": {"team": "a"}},
        "spec": {
            "selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "targetPort": 8080, "protocol": "TCP"}],
        },
    });
    serde_json::from_value(merge::apply(&service, &changes)).expect("a Service")
}

fn pod(name: &str, address: &str, changes: Value) -> Arc<Pod> {
    let pod = json!({
        "metadata": {"name": name, "namespace": "n", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [
            {"name": "c", "ports": [{"name": "web", "containerPort": 9090}]}
        ]},
        "status": {
            "phase": "Running", "podIP": address, "conditions": [{"type": "Ready", "status": "True"}],
        },
    });
    Arc::new(serde_json::from_value(merge::apply(&pod, &changes)).expect("a pod"))
}

fn unready() -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})
}

fn made(service: &Service, pods: &[Arc<Pod>]) -> Endpoints {
    let pods = crate::services::pods_of(service, pods);
    let made = plan::plan(service, &pods, None).expect("there is none yet");
    assert_eq!(plan::plan(service, &pods, Some(&made)), None, "what was written is not written again");
    made
}

/// Addresses of each subset, ready ones and others, with its ports.
fn shown(endpoints: &Endpoints) -> Value {
    let value = serde_json::to_value(endpoints).expect("JSON");
    let addresses = |subset: &Value, field: &str| {
        subset[field]
            .as_array()
            .into_iter()
            .flatten()
            .map(|address| address["ip"].clone())
            .collect::<Vec<_>>()
    };
    let ports = |subset: &Value| {
        subset["ports"].as_array().into_iter().flatten().map(|port| port["port"].clone()).collect::<Vec<_>>()
    };
    let subsets = value["subsets"].as_array().into_iter().flatten();
    subsets.map(|s| json!([addresses(s, "addresses"), addresses(s, "notReadyAddresses"), ports(s)])).collect()
}

#[test]
fn addresses_are_packed_by_readiness_and_ports() {
    let ending = json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}});
    let pods = [
        pod("b", "10.42.0.2", json!({})),
        pod("a", "10.42.0.1", json!({})),
        pod("c", "10.42.0.3", unready()),
        pod("d", "10.42.0.4", ending),
        pod("e", "10.42.0.5", json!({"status": {"phase": "Failed"}})),
        pod("f", "10.42.0.6", json!({"metadata": {"labels": {"app": "db"}}})),
    ];
    let by_name = json!([{"name": "one", "port": 80, "targetPort": "web"}, {"name": "two", "port": 81}]);
    let table = [
        (json!({}), json!([[["10.42.0.1", "10.42.0.2"], ["10.42.0.3"], [8080]]])),
        (
            json!({"spec": {"publishNotReadyAddresses": true}}),
            json!([[["10.42.0.1", "10.42.0.2", "10.42.0.3", "10.42.0.4"], [], [8080]]]),
        ),
        (
            json!({"spec": {"ports": by_name}}),
            json!([[["10.42.0.1", "10.42.0.2"], ["10.42.0.3"], [9090, 81]]]),
        ),
        (json!({"spec": {"ports": [{"port": 80, "targetPort": "none"}]}}), json!([])),
        (
            json!({"spec": {"clusterIP": "None", "ports": null}}),
            json!([[["10.42.0.1", "10.42.0.2"], ["10.42.0.3"], []]]),
        ),
        (json!({"spec": {"ipFamilies": ["IPv6"]}}), json!([])),
    ];
    for (changes, expected) in table {
        assert_eq!(shown(&made(&service(changes.clone()), &pods)), expected, "{changes}");
    }
}

#[test]
fn pods_that_disagree_on_a_port_are_in_different_subsets() {
    let other =
        json!({"spec": {"containers": [{"name": "c", "ports": [{"name": "web", "containerPort": 7070}]}]}});
    let service = service(json!({"spec": {"ports": [{"port": 80, "targetPort": "web"}]}}));
    let made = made(&service, &[pod("a", "10.42.0.1", json!({})), pod("b", "10.42.0.2", other)]);
    assert_eq!(shown(&made), json!([[["10.42.0.2"], [], [7070]], [["10.42.0.1"], [], [9090]]]));
}

#[test]
fn what_an_address_and_the_object_say() {
    let headless = service(json!({"spec": {"clusterIP": "None"}}));
    let named = json!({"spec": {"hostname": "db-0", "subdomain": "web"}});
    let made = serde_json::to_value(made(&headless, &[pod("a", "10.42.0.1", named)])).expect("JSON");
    let address = json!({
        "ip": "10.42.0.1", "hostname": "db-0", "nodeName": "n1",
        "targetRef": {"kind": "Pod", "namespace": "n", "name": "a", "uid": "a"},
    });
    assert_eq!(made["subsets"][0]["addresses"], json!([address]));
    assert_eq!(made["subsets"][0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
    let labels = json!({
        "team": "a", "endpoints.kubernetes.io/managed-by": "endpoint-controller",
        "service.kubernetes.io/headless": "",
    });
    assert_eq!(made["metadata"]["labels"], labels);
    assert_eq!((&made["metadata"]["name"], &made["metadata"]["namespace"]), (&json!("web"), &json!("n")));
}

#[test]
fn too_many_addresses_are_cut_off_and_that_is_said() {
    let pods: Vec<_> = (0..CAPACITY + 5)
        .map(|n| {
            pod(
                &format!("p{n:04}"),
                &format!("10.42.{}.{}", n / 250, n % 250),
                if n < 3 { unready() } else { json!({}) },
            )
        })
        .collect();
    let service = service(json!({}));
    let full = made(&service, &pods);
    let subset = &full.subsets.as_ref().expect("subsets")[0];
    assert_eq!(subset.addresses.as_ref().map(Vec::len), Some(CAPACITY), "those that are ready stay");
    assert_eq!(subset.not_ready_addresses, None);
    let annotation = |endpoints: &Endpoints| {
        endpoints
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(plan::OVER_CAPACITY))
            .cloned()
    };
    assert_eq!(annotation(&full).as_deref(), Some("truncated"));
    let fewer = plan::plan(&service, &pods[..10], Some(&full)).expect("a change");
    assert_eq!(annotation(&fewer), None);
}
