//! What a ReplicaSet needs, as tables.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::plan::{self, Scale};
use crate::claim;
use crate::pod_control::Failure;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a literal")
}

fn ago(seconds: i64) -> String {
    api_machinery::clock::rfc3339(now() - SignedDuration::from_secs(seconds))
}

fn set(spec: Value) -> ReplicaSet {
    let mut whole = json!({
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web", "tier": "front"}}, "spec": {"containers": []}},
    });
    whole.as_object_mut().expect("an object").extend(spec.as_object().expect("an object").clone());
    let metadata = json!({"name": "web-1", "namespace": "n", "uid": "set", "generation": 4});
    serde_json::from_value(json!({"metadata": metadata, "spec": whole})).expect("a ReplicaSet")
}

/// A running pod of the set, ready for an hour, with some fields changed.
fn pod(name: &str, changes: Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {
            "name": name, "namespace": "n", "uid": name, "creationTimestamp": ago(7200),
            "labels": {"app": "web", "tier": "front"},
            "ownerReferences": [
                {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1", "uid": "set", "controller": true}
            ],
        },
        "spec": {"nodeName": "n1", "containers": []},
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": ago(3600)}],
        },
    });
    pod = api_machinery::patch::merge::apply(&pod, &changes);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

fn ready(status: &str, seconds: i64) -> Value {
    json!({"status": {"conditions": [{"type": "Ready", "status": status, "lastTransitionTime": ago(seconds)}]}})
}

fn restarted(count: i32) -> Value {
    json!({"status": {"containerStatuses": [
        {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": count}
    ]}})
}

#[test]
fn a_set_is_brought_to_its_size() {
    let pods = |count: usize| (0..count).map(|n| pod(&format!("p{n}"), json!({}))).collect::<Vec<_>>();
    let table = [
        (3, 0, Scale::Create(3)),
        (3, 2, Scale::Create(1)),
        (3, 3, Scale::Nothing),
        (0, 0, Scale::Nothing),
        (2000, 1, Scale::Create(plan::BURST)),
    ];
    for (replicas, have, expected) in table {
        let set = set(json!({"replicas": replicas}));
        assert_eq!(
            plan::scale(&set, pods(have), Vec::new, now()),
            expected,
            "{replicas} wanted, {have} there"
        );
    }
    let Scale::Delete(victims) = plan::scale(&set(json!({"replicas": 1})), pods(3), Vec::new, now()) else {
        panic!("two are too many");
    };
    assert_eq!(victims.len(), 2);
    let mut ending = set(json!({"replicas": 3}));
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    assert_eq!(
        plan::scale(&ending, Vec::new(), Vec::new, now()),
        Scale::Nothing,
        "a set that is being deleted"
    );
}

/// In each row the first pod goes before the second, whatever their uids say, in either order of the input.
#[test]
fn who_is_deleted_first() {
    let cost = |cost: &str| json!({"metadata": {"annotations": {"controller.kubernetes.io/pod-deletion-cost": cost}}});
    let table = [
        ("unassigned", json!({"spec": {"nodeName": null}}), json!({"status": {"phase": "Pending"}})),
        ("pending", json!({"status": {"phase": "Pending"}}), json!({"status": {"phase": "Unknown"}})),
        ("unknown", json!({"status": {"phase": "Unknown"}}), ready("False", 1)),
        ("not ready", ready("False", 3600), cost("-5")),
        ("cheap", cost("-5"), json!({})),
        ("costly last", json!({}), cost("10")),
        ("no number is no cost", cost("many"), cost("1")),
        ("crowded node", json!({"spec": {"nodeName": "n2"}}), json!({})),
        ("ready for a shorter time", ready("True", 60), ready("True", 7200)),
        ("restarted", restarted(3), restarted(1)),
        ("younger", json!({"metadata": {"creationTimestamp": ago(60)}}), json!({})),
    ];
    let related = [
        pod("other1", json!({"spec": {"nodeName": "n2"}})),
        pod("other2", json!({"spec": {"nodeName": "n2"}})),
        pod("other3", json!({"spec": {"nodeName": "n1"}})),
        pod("ended", json!({"status": {"phase": "Failed"}})),
        pod("ended too", json!({"status": {"phase": "Failed"}})),
    ];
    for (why, first, second) in table {
        for (one, two) in [("a", "b"), ("b", "a")] {
            let (first, second) = (pod(one, first.clone()), pod(two, second.clone()));
            let set = set(json!({"replicas": 1}));
            let expected = Scale::Delete(vec![first.clone()]);
            for owned in [vec![first.clone(), second.clone()], vec![second.clone(), first.clone()]] {
                assert_eq!(plan::scale(&set, owned, || related.to_vec(), now()), expected, "{why}");
            }
        }
    }
}

#[test]
fn status_counts_and_waits() {
    let set = set(json!({"replicas": 4, "minReadySeconds": 30}));
    let pods = [
        pod("available", json!({})),
        pod("young", ready("True", 10)),
        pod("younger", ready("True", 5)),
        pod("unready", ready("False", 100)),
        pod("relabelled", json!({"metadata": {"labels": {"tier": null}}})),
    ];
    let status = plan::status_of(&set, &pods, 2, None, now());
    let expected = ReplicaSetStatus {
        replicas: 5,
        fully_labeled_replicas: Some(4),
        ready_replicas: Some(4),
        available_replicas: Some(2),
        terminating_replicas: Some(2),
        observed_generation: Some(4),
        conditions: None,
    };
    assert_eq!(status, expected);
    assert_eq!(plan::until_available(&set, &pods, now()), Some(SignedDuration::from_secs(20)));
    assert_eq!(plan::until_available(&set, &pods[..1], now()), None);
    assert!(plan::differs(None, &status));
    assert!(!plan::differs(Some(&expected), &status));
}

#[test]
fn a_failure_is_told_until_it_is_over() {
    let mut set = set(json!({"replicas": 1}));
    let failure = Failure { reason: "FailedCreate", message: "exceeded quota".to_owned() };
    let first = plan::status_of(&set, &[], 0, Some(&failure), now());
    let condition = &first.conditions.as_ref().expect("conditions")[0];
    assert_eq!(condition.reason.as_deref(), Some("FailedCreate"));
    assert_eq!(condition.message.as_deref(), Some("exceeded quota"));
    set.status = Some(first.clone());
    let again = plan::status_of(&set, &[], 0, Some(&failure), now() + SignedDuration::from_secs(9));
    assert!(!plan::differs(Some(&first), &again), "no write for the same failure");
    assert_eq!(plan::status_of(&set, &[], 0, None, now()).conditions, None);
}

#[test]
fn whose_pods() {
    let set = set(json!({"replicas": 1}));
    let selector = pod_rules::labels::compile(Some(&set.spec.selector)).expect("a selector");
    let orphan = json!({"metadata": {"ownerReferences": null}});
    let pods = [
        pod("owned", json!({})),
        pod("orphan", orphan.clone()),
        pod("strayed", json!({"metadata": {"labels": {"app": "debug"}}})),
        pod("ended", json!({"status": {"phase": "Succeeded"}})),
        pod("ending", json!({"metadata": {"deletionTimestamp": ago(1)}})),
    ];
    let claims = plan::claims(&set, &selector, &pods);
    let names =
        |pods: &[Arc<Pod>]| pods.iter().filter_map(|pod| pod.metadata.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&claims.owned), ["owned"]);
    assert_eq!(names(&claims.adopt), ["orphan"]);
    assert_eq!(names(&claims.release), ["strayed"]);
    assert_eq!(plan::terminating(&set, &pods), 1);
}

#[test]
fn a_new_pod_is_the_template_and_knows_its_owner() {
    let set = set(json!({"replicas": 1}));
    let pod = plan::new_pod(&set, claim::owner_reference(&set));
    assert_eq!(pod.metadata.generate_name.as_deref(), Some("web-1-"));
    assert_eq!(pod.metadata.labels.as_ref().map(|labels| labels.len()), Some(2));
    let owner = &pod.metadata.owner_references.expect("an owner")[0];
    let found = (owner.kind.as_str(), owner.api_version.as_str(), owner.uid.as_str());
    assert_eq!(found, ("ReplicaSet", "apps/v1", "set"));
    assert_eq!((owner.controller, owner.block_owner_deletion), (Some(true), Some(true)));
}
