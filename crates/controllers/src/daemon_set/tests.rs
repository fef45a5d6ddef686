//! What a DaemonSet does next, as tables.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::plan::{Plan, World};
use super::pod::{self, Demand, Standing};
use super::rest::Rests;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a literal")
}

fn set(spec: &Value) -> DaemonSet {
    let whole = json!({
        "metadata": {"name": "agent", "namespace": "n", "uid": "set", "generation": 2},
        "spec": {
            "selector": {"matchLabels": {"app": "agent"}}, "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"app": "agent"}}, "spec": {"containers": []}},
        },
    });
    let whole = api_machinery::patch::merge::apply(&whole, &json!({"spec": spec}));
    serde_json::from_value(whole).expect("a DaemonSet")
}

/// `a` is a plain node; `a:NoSchedule` has a taint of that effect, `a/zone=1` a label.
fn nodes(text: &str) -> Vec<Arc<Node>> {
    let node = |word: &str| {
        let (word, label) = word.split_once('/').unwrap_or((word, ""));
        let (name, effect) = word.split_once(':').unwrap_or((word, ""));
        let taints =
            if effect.is_empty() { json!([]) } else { json!([{"key": "special", "effect": effect}]) };
        let labels = label.split_once('=').map_or(json!({}), |(key, value)| json!({ key: value }));
        let node = json!({"metadata": {"name": name, "labels": labels}, "spec": {"taints": taints}});
        Arc::new(serde_json::from_value(node).expect("a node"))
    };
    text.split_whitespace().map(node).collect()
}

/// `a1` is a healthy pod of the new template on node `a`; `o` of the old one, `u` unready, `d` being deleted, `f` failed,
/// `s` succeeded, `w` waits for its node.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let pod = |(index, word): (usize, &str)| {
        let marks = word.trim_start_matches(|letter: char| !letter.is_ascii_digit());
        let node = &word[..word.len() - marks.len()];
        let has = |mark: char| marks.contains(mark);
        let (ready, phase) = match marks {
            _ if has('f') => ("False", "Failed"),
            _ if has('s') => ("False", "Succeeded"),
            _ if has('u') => ("False", "Running"),
            _ => ("True", "Running"),
        };
        let at = |seconds: i64| api_machinery::clock::rfc3339(now() - SignedDuration::from_secs(seconds));
        let older = 100 - i64::try_from(index).expect("few");
        let mut pod = json!({
            "metadata": {"name": word, "creationTimestamp": at(older),
                "labels": {"controller-revision-hash": if has('o') { "old" } else { "new" }}},
            "spec": {"containers": []},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": at(5)}]},
        });
        if has('d') {
            pod["metadata"]["deletionTimestamp"] = at(1).into();
        }
        let field = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
        let required = json!({"nodeSelectorTerms": [{"matchFields": field}]});
        match has('w') {
            true => {
                pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
                    required;
            }
            false => pod["spec"]["nodeName"] = node.into(),
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    };
    text.split_whitespace().enumerate().map(pod).collect()
}

fn planned(set: &DaemonSet, there: &str, text: &str) -> Plan {
    let (nodes, pods) = (nodes(there), pods(text));
    World::new(set, &nodes, &pods, "new", now()).plan(|node| node == "resting")
}

/// `+a` makes one for node `a`, `-a1` deletes.
fn told(plan: &Plan) -> String {
    let name = |pod: &Arc<Pod>| pod.metadata.name.clone().expect("named");
    let made = plan.create.iter().map(|node| format!("+{node}"));
    made.chain(plan.delete.iter().map(|pod| format!("-{}", name(pod)))).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_node_has_one() {
    let set = set(&json!({}));
    for (there, pods, expected) in [
        ("a b", "", "+a +b"),
        ("a b", "a1", "+b"),
        // The one that is going holds its place.
        ("a", "a1d", ""),
        // Of two the older stays.
        ("a", "a1 a2", "-a2"),
        ("a", "a1w a2", "-a1w"),
        ("a", "a1f", "-a1f"),
        ("a", "a1s a2", "-a1s"),
        ("resting", "resting1f", ""),
        ("resting", "resting1s", "-resting1s"),
        // A taint keeps new ones away, or all.
        ("a:NoSchedule", "", ""),
        ("a:NoSchedule", "a1", ""),
        ("a:NoExecute", "a1 a2d", "-a1"),
        // Its node is gone before it came there.
        ("a", "a1 b1w b2", "-b1w"),
    ] {
        assert_eq!(told(&planned(&set, there, pods)), expected, "{there}: {pods}");
    }
}

#[test]
fn a_set_that_is_deleted_does_nothing() {
    let mut set = set(&json!({}));
    set.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
    assert_eq!(planned(&set, "a b", "a1f"), Plan::default());
}

#[test]
fn old_ones_are_replaced_a_few_at_a_time() {
    let rolling = |most: Value| set(&json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": most}}}));
    for (most, pods, expected) in [
        (json!(1), "a1o b1o c1o", "-a1o"),
        (json!(2), "a1o b1o c1o", "-a1o -b1o"),
        (json!("50%"), "a1o b1o c1o", "-a1o -b1o"),
        (json!(1), "a1u b1o c1o", ""),
        (json!(1), "a1d b1o c1o", ""),
        // What does not serve is replaced first and costs nothing.
        (json!(1), "a1o b1ou c1o", "-b1ou -a1o"),
        (json!(1), "a1 b1 c1", ""),
    ] {
        assert_eq!(told(&planned(&rolling(most.clone()), "a b c", pods)), expected, "{most}: {pods}");
    }
    let on_delete = set(&json!({"updateStrategy": {"type": "OnDelete"}}));
    assert_eq!(told(&planned(&on_delete, "a b", "a1o b1o")), "");
}

#[test]
fn with_surge_the_new_one_comes_first() {
    let most = json!({"updateStrategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}});
    for (pods, expected) in [
        ("a1o b1o", "+a"),
        ("a1o a2u b1o", ""),
        ("a1o a2 b1o", "-a1o"),
        ("a1 b1o", "+b"),
        // One that does not serve may be joined at once.
        ("a1o b1ou", "+b +a"),
        ("a1ou a2u b1", "-a1ou"),
        ("a1o a2o a3 b1", "-a1o -a2o"),
    ] {
        assert_eq!(told(&planned(&set(&most), "a b", pods)), expected, "{pods}");
    }
}

#[test]
fn which_nodes_are_meant() {
    let selector = json!({"template": {"spec": {"nodeSelector": {"zone": "1"}}}});
    let tolerant = json!({"template": {"spec": {"tolerations": [{"key": "special", "operator": "Exists"}]}}});
    let named = json!({"template": {"spec": {"nodeName": "b"}}});
    for (spec, node, expected) in [
        (&json!({}), "a", Standing::Wanted),
        (&json!({}), "a:NoSchedule", Standing::Tolerated),
        (&json!({}), "a:NoExecute", Standing::Unwanted),
        (&json!({}), "a:PreferNoSchedule", Standing::Wanted),
        (&tolerant, "a:NoExecute", Standing::Wanted),
        (&selector, "a/zone=1", Standing::Wanted),
        (&selector, "a/zone=2", Standing::Unwanted),
        (&named, "a", Standing::Unwanted),
        (&named, "b", Standing::Wanted),
    ] {
        assert_eq!(Demand::of(&set(spec)).standing(&nodes(node)[0]), expected, "{spec} {node}");
    }
}

#[test]
fn a_new_pod_names_its_node_and_tolerates_trouble() {
    let set = set(&json!({"template": {"spec": {"hostNetwork": true, "affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]}}}}}}));
    let pod = pod::new_pod(&set, "a", "hash");
    assert_eq!((pod::node_of(&pod), pod::hash(&pod)), ("a", "hash"));
    let spec = pod.spec.expect("a spec");
    assert_eq!(spec.node_name, None, "the scheduler binds it");
    let keys: Vec<_> = spec.tolerations.iter().flatten().filter_map(|one| one.key.as_deref()).collect();
    assert_eq!(keys.len(), 7);
    assert!(keys.contains(&"node.kubernetes.io/network-unavailable"));
}

#[test]
fn the_status_counts_nodes() {
    let set = set(&json!({"minReadySeconds": 10}));
    let (nodes, pods) = (nodes("a b c d:NoExecute"), pods("a1 b1ou d1"));
    let world = World::new(&set, &nodes, &pods, "new", now());
    let status = world.status(0);
    let found = [
        status.desired_number_scheduled,
        status.current_number_scheduled,
        status.number_misscheduled,
        status.number_ready,
        status.number_available.unwrap_or(0),
        status.number_unavailable.unwrap_or(0),
        status.updated_number_scheduled.unwrap_or(0),
    ];
    assert_eq!(found, [3, 2, 1, 1, 0, 3, 1]);
    assert_eq!(world.wake(), Some(now() + SignedDuration::from_secs(5)));
}

#[test]
fn a_node_rests_longer_each_time() {
    let (rests, second) = (Rests::default(), SignedDuration::from_secs(1));
    assert_eq!(rests.until("set", "a", now()), None);
    rests.failed("set", "a", now());
    assert_eq!(rests.until("set", "a", now()), Some(now() + second));
    assert_eq!(rests.until("set", "b", now()), None);
    let later = now() + second;
    assert_eq!(rests.until("set", "a", later), None);
    rests.failed("set", "a", later);
    assert_eq!(rests.until("set", "a", later), Some(later + second * 2));
    let much_later = now() + SignedDuration::from_hours(1);
    rests.failed("set", "a", much_later);
    assert_eq!(rests.until("set", "a", much_later), Some(much_later + second));
}
