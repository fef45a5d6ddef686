//! What a StatefulSet does next, as tables.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::identity;
use super::plan::{Action, Plan, Revisions, plan};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a literal")
}

fn set(spec: &Value) -> StatefulSet {
    let whole = json!({
        "metadata": {"name": "db", "namespace": "n", "uid": "set", "generation": 2},
        "spec": {
            "serviceName": "db", "replicas": 3, "podManagementPolicy": "OrderedReady",
            "selector": {"matchLabels": {"app": "db"}}, "updateStrategy": {"type": "RollingUpdate"},
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [],
                "volumes": [{"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        },
    });
    let whole = api_machinery::patch::merge::apply(&whole, &json!({"spec": spec}));
    serde_json::from_value(whole).expect("a StatefulSet")
}

/// `0` is a healthy pod of the new revision; `0o` of the old one, `0u` unready, `0d` being deleted, `0f` failed.
fn pods(text: &str) -> Vec<Arc<Pod>> {
    let pod = |word: &str| {
        let digits = word.trim_end_matches(char::is_alphabetic);
        let marks = &word[digits.len()..];
        let revision = if marks.contains('o') { "old" } else { "new" };
        let ready = if marks.contains('u') { "False" } else { "True" };
        let phase = if marks.contains('f') { "Failed" } else { "Running" };
        let since = api_machinery::clock::rfc3339(now() - SignedDuration::from_secs(5));
        let mut pod = json!({
            "metadata": {"name": format!("db-{digits}"), "labels": {"controller-revision-hash": revision}},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready, "lastTransitionTime": since}]},
        });
        if marks.contains('d') {
            pod["metadata"]["deletionTimestamp"] = since.into();
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    };
    text.split_whitespace().map(pod).collect()
}

fn planned(set: &StatefulSet, text: &str) -> Plan {
    let revisions = Revisions { current: "old".to_owned(), update: "new".to_owned(), collisions: 0 };
    plan(set, &revisions, &pods(text), now())
}

/// `+0new` makes, `-db-0` deletes; that pods are kept is not told.
fn told(plan: &Plan) -> String {
    let name = |pod: &Pod| pod.metadata.name.clone().expect("named");
    let words = plan.actions.iter().filter_map(|action| match action {
        Action::Create(ordinal, revision) => Some(format!("+{ordinal}{revision}")),
        Action::Delete(pod) | Action::Leave(_, pod) => Some(format!("-{}", name(pod))),
        Action::Keep(..) => None,
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn one_after_the_other() {
    let (partition, parallel) = (
        json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}),
        json!({"podManagementPolicy": "Parallel"}),
    );
    let two = json!({"podManagementPolicy": "Parallel", "updateStrategy": {"rollingUpdate": {"maxUnavailable": 2}}});
    let on_delete = json!({"updateStrategy": {"type": "OnDelete"}});
    let (fewer, slow) = (json!({"replicas": 1}), json!({"minReadySeconds": 10}));
    let start = json!({"ordinals": {"start": 5}});
    let table = [
        // Filling.
        (json!({}), "", "+0new"),
        (json!({}), "0", "+1new"),
        (json!({}), "0u", ""),
        (json!({}), "0d", ""),
        (json!({}), "0 2", "+1new"),
        (json!({}), "0f", "-db-0"),
        (json!({}), "0fd 1 2", ""),
        (slow.clone(), "0", ""),
        (start.clone(), "", "+5new"),
        (parallel.clone(), "", "+0new +1new +2new"),
        (parallel.clone(), "1ud", "+0new +2new"),
        // Scaling down, from the last one, and only while all is well.
        (fewer.clone(), "0 1 2", "-db-2"),
        (fewer.clone(), "0 1 2d", ""),
        (fewer.clone(), "0u 1 2", ""),
        (json!({"replicas": 1, "podManagementPolicy": "Parallel"}), "0 1 2", "-db-2 -db-1"),
        // Updating, from the last one.
        (json!({}), "0o 1o 2o", "-db-2"),
        (json!({}), "0o 1o 2", "-db-1"),
        (json!({}), "0o 1o 2u", ""),
        (json!({}), "0o 1o 2od", ""),
        (json!({}), "0 1 2", ""),
        (partition.clone(), "0o 1o 2o", "-db-2"),
        (partition.clone(), "0o 1o 2", ""),
        (partition.clone(), "0o", "+1old"),
        (partition, "0o 1o", "+2new"),
        (on_delete.clone(), "0o 1o 2o", ""),
        (on_delete, "0o 1o", "+2new"),
        (two.clone(), "0o 1o 2o", "-db-2 -db-1"),
        (two.clone(), "0o 1o 2u", "-db-1"),
        (two, "0o 1u 2u", ""),
        (parallel, "0ou 1o 2o", "-db-0"),
    ];
    for (spec, pods, expected) in table {
        assert_eq!(told(&planned(&set(&spec), pods)), expected, "{spec} {pods}");
    }
}

#[test]
fn what_is_told() {
    let status = planned(&set(&json!({})), "0o 1o 2u").status;
    assert_eq!((status.replicas, status.ready_replicas, status.available_replicas), (3, Some(2), Some(2)));
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(2), Some(1)));
    assert_eq!(status.current_revision.as_deref(), Some("old"));
    let status = planned(&set(&json!({})), "0 1 2").status;
    assert_eq!(status.current_revision.as_deref(), Some("new"), "the update is complete");
    assert_eq!((status.current_replicas, status.updated_replicas), (Some(3), Some(3)));
    let slow = planned(&set(&json!({"minReadySeconds": 10})), "0");
    assert_eq!(slow.wake, Some(now() + SignedDuration::from_secs(5)));
    assert_eq!((slow.status.ready_replicas, slow.status.available_replicas), (Some(1), Some(0)));
}

#[test]
fn a_pod_has_its_name_and_its_claims() {
    let set = set(&json!({}));
    let pod = identity::pod(&set, &set.spec.template, "new", 1);
    let spec = pod.spec.as_ref().expect("a spec");
    assert_eq!((spec.hostname.as_deref(), spec.subdomain.as_deref()), (Some("db-1"), Some("db")));
    let volumes: Vec<_> = spec.volumes.iter().flatten().collect();
    let claim = volumes.iter().find_map(|volume| volume.persistent_volume_claim.as_ref());
    assert_eq!(claim.map(|claim| claim.claim_name.as_str()), Some("data-db-1"));
    assert_eq!(volumes.len(), 2, "the template's own volume of that name is replaced");
    assert_eq!(
        pod.metadata.labels.as_ref().map(|labels| labels["apps.kubernetes.io/pod-index"].as_str()),
        Some("1")
    );
    for (name, ordinal) in
        [("db-0", Some(0)), ("db-12", Some(12)), ("db-01", None), ("db-", None), ("db-x", None)]
    {
        assert_eq!(identity::ordinal(&set, name), ordinal, "{name}");
    }
}

#[test]
fn claims_go_with_whom_they_should() {
    let table = [
        // when deleted, when scaled, leaving -> kinds of the owners
        ("Retain", "Retain", false, None),
        ("Delete", "Retain", false, Some("StatefulSet")),
        ("Delete", "Retain", true, Some("StatefulSet")),
        ("Retain", "Delete", false, None),
        ("Retain", "Delete", true, Some("Pod")),
        ("Delete", "Delete", false, Some("StatefulSet")),
        ("Delete", "Delete", true, Some("Pod")),
    ];
    for (deleted, scaled, leaving, expected) in table {
        let policy = json!({"whenDeleted": deleted, "whenScaled": scaled});
        let set = set(&json!({"persistentVolumeClaimRetentionPolicy": policy}));
        let claim = identity::claims(&set, 2).remove(0).object;
        let mut pod = identity::pod(&set, &set.spec.template, "new", 2);
        pod.metadata.uid = Some("pod".to_owned());
        let owners = identity::owners(&set, &claim, Some(&pod), leaving);
        let kind = owners.as_ref().and_then(|owners| owners.first()).map(|owner| owner.kind.as_str());
        assert_eq!(kind, expected, "{deleted} {scaled} {leaving}");
        if let Some(owners) = owners {
            let mut told = claim.clone();
            told.metadata.owner_references = Some(owners);
            assert_eq!(identity::owners(&set, &told, Some(&pod), leaving), None, "once is enough");
        }
    }
}
