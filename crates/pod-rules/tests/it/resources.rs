//! Requests, class of service and host ports.

use pod_rules::ports::{conflict, host_ports};
use pod_rules::qos::class;
use pod_rules::resources::{self, Resources};
use serde_json::{Value, json};

use crate::{node, pod};

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
}

fn sidecar(cpu: &str, memory: &str) -> Value {
    let mut container = asks(cpu, memory);
    container["restartPolicy"] = "Always".into();
    container
}

#[test]
fn a_pod_asks_for_the_most_it_needs_at_any_time() {
    const MI: i64 = 1 << 20;
    let two = json!([asks("100m", "100Mi"), asks("1", "1Mi")]);
    let cases = [
        ("nothing", json!({"containers": [{"name": "c"}]}), 0, 0),
        ("sum of containers", json!({"containers": two}), 1100, 101 * MI),
        (
            "a larger init container",
            json!({"containers": two, "initContainers": [asks("2", "1Mi")]}),
            2000,
            101 * MI,
        ),
        (
            "init containers run one by one",
            json!({"containers": two, "initContainers": [asks("700m", "1Mi"), asks("700m", "1Mi")]}),
            1100,
            101 * MI,
        ),
        (
            "a sidecar adds to containers",
            json!({"containers": two, "initContainers": [sidecar("500m", "1Mi")]}),
            1600,
            102 * MI,
        ),
        (
            "a sidecar adds to later init containers",
            json!({"containers": two, "initContainers": [asks("1200m", "1Mi"), sidecar("500m", "1Mi"), asks("1500m", "1Mi")]}),
            2000,
            102 * MI,
        ),
        ("overhead", json!({"containers": two, "overhead": {"cpu": "10m", "memory": "9Mi"}}), 1110, 110 * MI),
        (
            "the pod as a whole",
            json!({"containers": two, "resources": {"requests": {"cpu": "5"}}, "overhead": {"cpu": "1"}}),
            6000,
            101 * MI,
        ),
    ];
    for (what, spec, cpu, memory) in cases {
        let requests = resources::requests(&pod(json!({"spec": spec})));
        assert_eq!((requests.milli_cpu, requests.memory), (cpu, memory), "{what}");
    }
}

#[test]
fn a_container_that_asks_for_nothing_counts_a_little_in_comparisons() {
    let spec = json!({"containers": [{"name": "a"}, {"name": "b", "resources": {"requests": {"cpu": "1"}}}]});
    let counted = resources::nonzero_requests(&pod(json!({"spec": spec})));
    assert_eq!((counted.milli_cpu, counted.memory), (1100, 400 << 20));
}

#[test]
fn nodes_have_resources_and_room_for_pods() {
    let node = node(json!({"status": {"allocatable":
        {"cpu": "1.5", "memory": "1Ki", "ephemeral-storage": "2", "pods": "110", "example.com/gpu": "4"}}}));
    let expected = Resources {
        milli_cpu: 1500,
        memory: 1024,
        ephemeral_storage: 2,
        extended: [("example.com/gpu".to_owned(), 4)].into(),
    };
    assert_eq!(resources::allocatable(&node), expected);
    assert_eq!(resources::allowed_pods(&node), 110);
}

#[test]
fn what_is_taken_away_can_be_given_back() {
    let some = Resources { milli_cpu: 5, extended: [("a/b".to_owned(), 2)].into(), ..Resources::default() };
    let mut left = Resources::default();
    left.subtract(&some);
    assert_eq!(left.extended["a/b"], -2);
    left.add(&some);
    assert!(left.is_zero());
}

#[test]
fn classes_of_service() {
    let holder = |requests: Value, limits: Value| json!({"name": "c", "resources": {"requests": requests, "limits": limits}});
    let full = json!({"cpu": "1", "memory": "1Gi"});
    let cases = [
        (json!({"containers": [{"name": "c"}]}), "BestEffort"),
        (json!({"containers": [holder(json!({"cpu": "0"}), json!({}))]}), "BestEffort"),
        (json!({"containers": [holder(json!({"example.com/gpu": "1"}), json!({}))]}), "BestEffort"),
        (json!({"containers": [holder(json!({"cpu": "1"}), json!({}))]}), "Burstable"),
        (json!({"containers": [holder(full.clone(), full.clone())]}), "Guaranteed"),
        (
            json!({"containers": [holder(json!({"cpu": "1000m", "memory": "1024Mi"}), full.clone())]}),
            "Guaranteed",
        ),
        (json!({"containers": [holder(full.clone(), full.clone()), {"name": "d"}]}), "Burstable"),
        (
            json!({"containers": [holder(full.clone(), full.clone())], "initContainers": [{"name": "i"}]}),
            "Burstable",
        ),
        (json!({"containers": [holder(json!({"cpu": "1"}), json!({"cpu": "1"}))]}), "Burstable"),
        (json!({"containers": [holder(json!({"cpu": "500m", "memory": "1Gi"}), full.clone())]}), "Burstable"),
        (
            json!({"containers": [{"name": "c"}], "resources": {"requests": full, "limits": full}}),
            "Guaranteed",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(class(&pod(json!({"spec": spec}))).name(), expected, "{spec}");
    }
}

#[test]
fn host_ports_conflict_by_port_protocol_and_address() {
    let taking =
        |port: Value| host_ports(&pod(json!({"spec": {"containers": [{"name": "c", "ports": [port]}]}})));
    let any = json!({"containerPort": 80, "hostPort": 80});
    let cases = [
        (any.clone(), true),
        (json!({"containerPort": 1, "hostPort": 80, "protocol": "TCP", "hostIP": "10.0.0.1"}), true),
        (json!({"containerPort": 80, "hostPort": 80, "protocol": "UDP"}), false),
        (json!({"containerPort": 80, "hostPort": 81}), false),
        (json!({"containerPort": 80}), false),
    ];
    for (port, expected) in cases {
        assert_eq!(conflict(&taking(any.clone()), &taking(port.clone())), expected, "{port}");
    }
    let on = |address: &str| taking(json!({"containerPort": 80, "hostPort": 80, "hostIP": address}));
    assert!(!conflict(&on("10.0.0.1"), &on("10.0.0.2")));
    assert!(conflict(&on("10.0.0.1"), &on("10.0.0.1")));
}
