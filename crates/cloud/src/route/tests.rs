//! Cases of the plan.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::plan::{Cidr, condition, plan};
use crate::provider::Route;

fn node(name: &str, machine: &str, cidr: &str) -> Arc<Node> {
    let spec = json!({"providerID": format!("aws:///z1/{machine}"), "podCIDR": cidr, "podCIDRs": [cidr, "fd00::/64"]});
    Arc::new(serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).expect("a node"))
}

fn route(machine: &str, cidr: &str, blackhole: bool) -> Route {
    Route { provider_id: format!("aws:///{machine}"), cidr: cidr.to_owned(), blackhole }
}

#[test]
fn missing_routes_are_made_and_those_of_nobody_go() {
    let nodes = [
        node("a", "i-a", "10.42.0.0/24"),
        node("b", "i-b", "10.42.1.0/24"),
        node("c", "i-c", "10.42.2.0/24"),
    ];
    let there = [
        route("i-a", "10.42.0.0/24", false),
        route("i-old", "10.42.1.0/24", false),
        route("i-c", "10.42.2.0/24", true),
        route("i-x", "10.42.9.0/24", false),
        route("i-y", "192.168.0.0/24", false),
        route("i-z", "10.0.0.0/8", false),
    ];
    let made = plan(&nodes, &there, Cidr::parse("10.42.0.0/16"));
    let missing: Vec<&str> =
        made.nodes.iter().flat_map(|(_, routes)| routes.iter().map(|r| r.cidr.as_str())).collect();
    assert_eq!(missing, ["10.42.1.0/24", "10.42.2.0/24"]);
    assert_eq!(made.delete, [route("i-x", "10.42.9.0/24", false)]);
    assert!(plan(&nodes, &there, None).delete.is_empty());
}

#[test]
fn nodes_without_machine_or_range_are_left_alone() {
    let bare: Node = serde_json::from_value(json!({"spec": {"podCIDR": "10.42.0.0/24"}})).expect("a node");
    assert!(plan(&[Arc::new(bare)], &[], None).nodes.is_empty());
}

#[test]
fn the_condition_is_written_when_it_changes() {
    let now = "2026-03-01T12:00:00Z".parse().expect("a literal");
    let mut it = Node::clone(&node("a", "i-a", "10.42.0.0/24"));
    let change = condition(&it, true, now).expect("a change");
    assert_eq!(change["status"]["conditions"][0]["reason"], "RouteCreated");
    it.status = serde_json::from_value(change["status"].clone()).expect("a status");
    assert_eq!(condition(&it, true, now), None);
    assert_eq!(condition(&it, false, now).expect("a change")["status"]["conditions"][0]["status"], "True");
}
