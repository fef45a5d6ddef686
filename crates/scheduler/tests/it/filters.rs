//! Each filter, and what a refusal says.

use scheduler::decide::{Decision, decide};
use scheduler::preempt::{self, Budgets};
use serde_json::{Value, json};

use crate::{asking, columns, demand, place};

/// The reasons of the one node there is, or nothing if the pod fits.
fn reasons(node: &Value, pod: &Value) -> String {
    let mut columns = columns(&[("n", node.clone())]);
    place(
        &mut columns,
        "there",
        "n",
        &json!({"spec": {"containers": [{"name": "c",
        "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": "10.0.0.1"}],
        "resources": {"requests": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"}}}]}}),
    );
    let demand = demand(pod);
    match decide(&columns, &demand) {
        Decision::Assign(slots) => {
            assert_eq!(slots.len(), 1);
            String::new()
        }
        Decision::Refuse(refusal) => refusal.nodes[0].1.reasons(&demand).join(", "),
    }
}

#[test]
fn every_filter_says_no_in_upstreams_words() {
    let plain = json!({"status": {"allocatable": {"example.com/gpu": "2"}}});
    let taint = |effect: &str| json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let tolerating = |key: &str| json!({"spec": {"tolerations": [{"key": key, "operator": "Exists"}]}});
    let port = |ip: &str, port: i32, protocol: &str| {
        json!({"spec": {"containers": [{"name": "c", "ports": [
        {"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]}]}})
    };
    let pinned = |name: &str| {
        json!({"spec": {"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]}}}}})
    };
    let affinity = "node(s) didn't match Pod's node affinity/selector";
    let ports = "node(s) didn't have free ports for the requested pod ports";
    let cases = [
        (&plain, json!({}), ""),
        (&plain, asking(json!({"cpu": "3", "memory": "7Gi", "example.com/gpu": "1"})), ""),
        (&plain, asking(json!({"cpu": "3001m"})), "Insufficient cpu"),
        (&plain, asking(json!({"memory": "7169Mi"})), "Insufficient memory"),
        (&plain, asking(json!({"cpu": "5", "memory": "9Gi"})), "Insufficient cpu, Insufficient memory"),
        (&plain, asking(json!({"ephemeral-storage": "11Gi"})), "Insufficient ephemeral-storage"),
        (&plain, asking(json!({"example.com/gpu": "2"})), "Insufficient example.com/gpu"),
        (&plain, asking(json!({"example.com/fpga": "1"})), "Insufficient example.com/fpga"),
        (&json!({"status": {"allocatable": {"pods": "1"}}}), json!({}), "Too many pods"),
        (
            &json!({"status": {"allocatable": {"pods": "1", "cpu": "1"}}}),
            asking(json!({"cpu": "1"})),
            "Too many pods, Insufficient cpu",
        ),
        (&cordoned, json!({}), "node(s) were unschedulable"),
        (&cordoned, tolerating("node.kubernetes.io/unschedulable"), ""),
        (&taint("NoSchedule"), json!({}), "node(s) had untolerated taint(s)"),
        (&taint("NoExecute"), json!({}), "node(s) had untolerated taint(s)"),
        (&taint("PreferNoSchedule"), json!({}), ""),
        (&taint("NoSchedule"), tolerating("k"), ""),
        (&plain, json!({"spec": {"nodeSelector": {"disk": "ssd"}}}), affinity),
        (
            &json!({"metadata": {"labels": {"disk": "ssd"}}}),
            json!({"spec": {"nodeSelector": {"disk": "ssd"}}}),
            "",
        ),
        (&plain, pinned("n"), ""),
        (&plain, pinned("m"), "node(s) didn't satisfy plugin(s) [NodeAffinity]"),
        (&plain, port("", 80, "TCP"), ports),
        (&plain, port("10.0.0.1", 80, "TCP"), ports),
        (&plain, port("10.0.0.2", 80, "TCP"), ""),
        (&plain, port("", 80, "UDP"), ""),
        (&plain, port("", 81, "TCP"), ""),
        (
            &plain,
            json!({"spec": {"resourceClaims": [{"name": "gpu", "resourceClaimName": "card"}]}}),
            "cannot allocate all claims",
        ),
    ];
    for (node, pod, expected) in cases {
        assert_eq!(reasons(node, &pod), expected, "{pod} on {node}");
    }
}

fn message(nodes: &[(&str, Value)], pod: &Value) -> String {
    let mut columns = columns(nodes);
    place(&mut columns, "low", "low", &json!({"spec": {"priority": -5}}));
    let demand = demand(pod);
    match decide(&columns, &demand) {
        Decision::Assign(slots) => panic!("fits {slots:?}"),
        Decision::Refuse(refusal) => {
            let attempt = preempt::attempt(&mut columns, &demand, &refusal, &Budgets::new(), None);
            refusal.message(&demand, &attempt)
        }
    }
}

#[test]
fn a_refusal_counts_the_reasons_of_all_nodes() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let full = json!({"status": {"allocatable": {"pods": "0"}}});
    let big = asking(json!({"cpu": "4500m"}));
    let suffix = "no new claims to deallocate, preemption:";
    assert_eq!(message(&[], &json!({})), "no nodes available to schedule pods");
    assert_eq!(
        message(&[("a", json!({})), ("b", tainted.clone()), ("c", tainted.clone())], &big),
        format!(
            "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). {suffix} \
                 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
        )
    );
    assert_eq!(
        message(&[("a", full.clone()), ("b", tainted)], &json!({})),
        format!(
            "0/2 nodes are available: 1 Too many pods, 1 node(s) had untolerated taint(s). {suffix} \
                 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
                 1 Preemption is not helpful for scheduling."
        )
    );
    assert_eq!(
        message(&[("a", full.clone())], &json!({"spec": {"preemptionPolicy": "Never"}})),
        format!(
            "0/1 nodes are available: 1 Too many pods. {suffix} not eligible due to preemptionPolicy=Never."
        )
    );
    // Room for none is not made by one that goes; where it is, nothing more is said.
    let one = json!({"status": {"allocatable": {"pods": "1"}}});
    assert_eq!(message(&[("low", one)], &json!({})), "0/1 nodes are available: 1 Too many pods.");
    assert_eq!(
        message(&[("low", full)], &json!({})),
        format!(
            "0/1 nodes are available: 1 Too many pods. {suffix} 0/1 nodes are available: 1 Too many pods."
        )
    );
}
