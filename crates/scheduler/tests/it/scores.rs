//! Which of several nodes is best.

use scheduler::decide::{Decision, decide};
use serde_json::{Value, json};

use crate::{asking, columns, demand, place};

/// The best nodes among `a`, `b` and `c`.
fn best(nodes: [Value; 3], there: &[(&str, Value)], pod: &Value) -> Vec<String> {
    let [a, b, c] = nodes;
    let mut columns = columns(&[("a", a), ("b", b), ("c", c)]);
    for (position, (on, over)) in there.iter().enumerate() {
        place(&mut columns, &format!("there-{position}"), on, over);
    }
    match decide(&columns, &demand(pod)) {
        Decision::Assign(slots) => slots.into_iter().map(|slot| columns.name(slot).to_owned()).collect(),
        Decision::Refuse(refusal) => panic!("{refusal:?}"),
    }
}

#[test]
fn the_best_nodes() {
    let plain = || [json!({}), json!({}), json!({})];
    let soft = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let cpu = asking(json!({"cpu": "1"}));
    let even = asking(json!({"cpu": "1", "memory": "2Gi"}));
    let owned = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "owner", "controller": true}]}});
    let preferring = json!({"spec": {"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "preference": {"matchExpressions": [{"key": "fast", "operator": "Exists"}]}}]}}}});
    let fast = json!({"metadata": {"labels": {"fast": ""}}});
    let cases: Vec<(&str, Vec<String>, Vec<&str>)> = vec![
        ("equal nodes are equal", best(plain(), &[], &json!({})), vec!["a", "b", "c"]),
        ("the emptiest", best(plain(), &[("a", even.clone()), ("b", even.clone())], &even), vec!["c"]),
        (
            "pods that ask for nothing count too",
            best(plain(), &[("a", json!({})), ("c", json!({}))], &json!({})),
            vec!["b"],
        ),
        (
            "the balanced one",
            best(plain(), &[("a", cpu.clone()), ("b", asking(json!({"memory": "2Gi"}))), ("c", even)], &cpu),
            vec!["b"],
        ),
        ("no soft taint", best([soft.clone(), json!({}), soft], &[("b", cpu.clone())], &cpu), vec!["b"]),
        (
            "the preferred one",
            best([json!({}), fast, json!({})], &[("b", cpu.clone())], &preferring),
            vec!["b"],
        ),
        (
            "away from its siblings",
            best(plain(), &[("a", owned.clone()), ("b", owned.clone()), ("c", cpu)], &owned),
            vec!["c"],
        ),
    ];
    for (what, found, expected) in cases {
        assert_eq!(found, expected, "{what}");
    }
}
