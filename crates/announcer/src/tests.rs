//! Cases of the plan.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};

use crate::plan::plan;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);

fn service(changes: &Value) -> Arc<Service> {
    let plain = json!({
        "metadata": {
            "namespace": "default", "name": "web", "uid": "u1",
            "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
        },
        "spec": {"type": "LoadBalancer"},
        "status": {"loadBalancer": {"ingress": [{"ip": ADDRESS.to_string(), "ipMode": "VIP"}]}},
    });
    Arc::new(serde_json::from_value(api_machinery::patch::merge::apply(&plain, changes)).expect("a service"))
}

fn node(name: &str, changes: &Value) -> Arc<Node> {
    let plain = json!({
        "metadata": {"name": name},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    Arc::new(serde_json::from_value(api_machinery::patch::merge::apply(&plain, changes)).expect("a node"))
}

fn slices(endpoints: &Value) -> Vec<Arc<EndpointSlice>> {
    let slice = json!({"addressType": "IPv4", "metadata": {"name": "web-1"}, "endpoints": endpoints});
    vec![Arc::new(serde_json::from_value(slice).expect("a slice"))]
}

/// Who stands for the address, in line.
fn line(service: &Arc<Service>, endpoints: &Value, nodes: &[Arc<Node>]) -> Vec<String> {
    let mut line = Vec::new();
    for node in nodes {
        let own = node.metadata.name.clone().expect("a name");
        let of = |key: &ObjectKey| {
            assert_eq!(key, &ObjectKey::new("default", "web"));
            slices(endpoints)
        };
        let plan = plan(std::slice::from_ref(service), of, nodes, &own, |_| false);
        line.extend(plan.get(&ADDRESS).map(|candidacy| (candidacy.place, own)));
    }
    line.sort();
    assert!(line.iter().enumerate().all(|(place, (said, _))| place == *said), "{line:?}");
    line.into_iter().map(|(_, name)| name).collect()
}

fn nodes(names: &[&str]) -> Vec<Arc<Node>> {
    names.iter().map(|name| node(name, &json!({}))).collect()
}

#[test]
fn only_addresses_that_our_kind_of_controller_gave_are_announced() {
    let nodes = nodes(&["a"]);
    let ingress = |ingress: Value| json!({"status": {"loadBalancer": {"ingress": ingress}}});
    for (changes, announced) in [
        (json!({}), true),
        (ingress(json!([{"ip": "192.0.2.9"}])), true),
        (ingress(json!([{"hostname": "lb.example"}, {"ip": "fd00::1"}, {"ip": "192.0.2.9"}])), true),
        (ingress(json!([{"ip": "192.0.2.9", "ipMode": "Proxy"}])), false),
        (json!({"status": null}), false),
        (json!({"spec": {"type": "ClusterIP"}}), false),
        (json!({"spec": {"loadBalancerClass": "example.com/other"}}), false),
        (json!({"metadata": {"finalizers": ["example.com/other"]}}), false),
        (json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}}), false),
    ] {
        assert_eq!(!line(&service(&changes), &json!([]), &nodes).is_empty(), announced, "{changes}");
    }
    let taken = json!({"status": {"addresses": [{"type": "InternalIP", "address": ADDRESS.to_string()}]}});
    assert!(line(&service(&json!({})), &json!([]), &[node("a", &taken)]).is_empty(), "a node has it");
}

#[test]
fn three_nodes_stand_and_ready_ones_first() {
    let web = service(&json!({}));
    let all = nodes(&["a", "b", "c", "d", "e"]);
    let before = line(&web, &json!([]), &all);
    assert_eq!(before.len(), 3);
    // The first one is lost: the others stay, and one more stands.
    let mut lost = all.clone();
    let gone =
        lost.iter_mut().find(|node| node.metadata.name.as_ref() == Some(&before[0])).expect("it is there");
    *gone = node(&before[0], &json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}));
    let after = line(&web, &json!([]), &lost);
    assert_eq!(after[..2], before[1..]);
    assert!(after.len() == 3 && !after.contains(&before[0]), "{after:?}");
    // Nobody is ready: somebody stands all the same.
    let unready = json!({"status": {"conditions": []}});
    let silent: Vec<_> = ["a", "b"].iter().map(|name| node(name, &unready)).collect();
    assert_eq!(line(&web, &json!([]), &silent).len(), 2);
}

#[test]
fn who_answers_goes_on_while_he_may() {
    let (web, all) = (service(&json!({})), nodes(&["a", "b", "c", "d", "e"]));
    let standing = line(&web, &json!([]), &all);
    let other = ["a", "b", "c", "d", "e"].into_iter().find(|name| !standing.iter().any(|one| one == name));
    let other = other.expect("three of five stand");
    let stands = |nodes: &[Arc<Node>]| {
        let plan =
            plan(std::slice::from_ref(&web), |_| slices(&json!([])), nodes, other, |held| held == ADDRESS);
        plan.contains_key(&ADDRESS)
    };
    assert!(stands(&all));
    let without: Vec<_> =
        all.iter().filter(|node| node.metadata.name.as_deref() != Some(other)).cloned().collect();
    assert!(!stands(&without));
}

#[test]
fn nodes_may_be_left_out() {
    let label =
        json!({"metadata": {"labels": {"node.kubernetes.io/exclude-from-external-load-balancers": ""}}});
    let nodes = [node("a", &json!({})), node("b", &label)];
    assert_eq!(line(&service(&json!({})), &json!([]), &nodes), ["a"]);
}

#[test]
fn under_the_local_policy_nodes_with_endpoints_stand() {
    let local = service(&json!({"spec": {"externalTrafficPolicy": "Local"}}));
    let all = nodes(&["a", "b", "c"]);
    let endpoint = |node: &str, ready: bool, serving: bool| {
        json!({
            "addresses": ["10.42.0.1"], "nodeName": node,
            "conditions": {"ready": ready, "serving": serving, "terminating": !ready},
        })
    };
    for (endpoints, expected) in [
        (json!([]), vec![]),
        (json!([endpoint("b", true, true)]), vec!["b"]),
        (json!([endpoint("a", false, true), endpoint("b", true, true)]), vec!["b"]),
        (json!([endpoint("a", false, true), endpoint("b", false, false)]), vec!["a"]),
        (json!([{"addresses": ["10.42.0.1"], "nodeName": "c"}]), vec!["c"]),
    ] {
        assert_eq!(line(&local, &endpoints, &all), expected, "{endpoints}");
        assert_eq!(line(&service(&json!({})), &endpoints, &all).len(), 3, "the usual policy");
    }
}

#[test]
fn addresses_spread_over_nodes() {
    let nodes = nodes(&["a", "b", "c", "d"]);
    let mut first = BTreeSet::new();
    for last in 1..=40 {
        let address = Ipv4Addr::new(192, 0, 2, last);
        let ingress = json!({"status": {"loadBalancer": {"ingress": [{"ip": address.to_string()}]}}});
        let services = [service(&ingress)];
        for node in ["a", "b", "c", "d"] {
            let plan = plan(&services, |_| slices(&json!([])), &nodes, node, |_| false);
            first.extend(plan.get(&address).filter(|candidacy| candidacy.place == 0).map(|_| node));
        }
    }
    assert_eq!(first.len(), 4, "{first:?}");
}
