//! Cases of the plan.

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use super::plan::{Action, Machine, SHUTDOWN, asks, plan};

fn node(ready: &str, taints: &[&str]) -> Node {
    let taints: Vec<Value> = taints.iter().map(|key| json!({"key": key, "effect": "NoSchedule"})).collect();
    let value = json!({
        "metadata": {"name": "n1", "resourceVersion": "7"}, "spec": {"taints": taints},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    });
    serde_json::from_value(value).expect("a node")
}

#[test]
fn the_cloud_is_asked_about_nodes_that_are_not_ready_and_known_to_it() {
    let cases = [
        ("True", None, false),
        ("False", None, true),
        ("Unknown", None, true),
        ("Unknown", Some("node.cloudprovider.kubernetes.io/uninitialized"), false),
    ];
    for (ready, taint, expected) in cases {
        assert_eq!(asks(&node(ready, taint.as_slice())), expected, "{ready} {taint:?}");
    }
}

#[test]
fn a_machine_is_gone_when_it_is_said_twice() {
    let silent = node("Unknown", &[]);
    assert_eq!(plan(&silent, Machine::Gone, false), Action::LookAgain);
    assert_eq!(plan(&silent, Machine::Gone, true), Action::Delete);
    assert_eq!(plan(&silent, Machine::On, true), Action::LookAgain);
    assert_eq!(plan(&node("True", &[]), Machine::NotAsked, true), Action::Nothing);
}

#[test]
fn the_taint_comes_and_goes_and_others_stay() {
    let taints = |action| match action {
        Action::Taint(change) => {
            assert_eq!(change["metadata"]["resourceVersion"], "7");
            change["spec"]["taints"].clone()
        }
        other => panic!("{other:?}"),
    };
    let (own, off) =
        (json!({"key": "own", "effect": "NoSchedule"}), json!({"key": SHUTDOWN, "effect": "NoSchedule"}));
    assert_eq!(taints(plan(&node("Unknown", &["own"]), Machine::Off, false)), json!([own, off]));
    let marked = node("Unknown", &["own", SHUTDOWN]);
    assert_eq!(plan(&marked, Machine::Off, false), Action::LookAgain);
    assert_eq!(taints(plan(&marked, Machine::On, false)), json!([own]));
    assert_eq!(taints(plan(&node("True", &[SHUTDOWN]), Machine::NotAsked, false)), json!([]));
}
