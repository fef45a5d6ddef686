//! Single decisions, and how they look to `kubectl rollout`.

use std::collections::BTreeSet;

use k8s_openapi::api::apps::v1::ReplicaSet;
use serde_json::json;

use super::super::{plan, revision, template};
use super::{Cluster, deployment, later, now, version, writes};

fn annotation(set: &ReplicaSet, name: &str) -> String {
    let annotations = set.metadata.annotations.as_ref();
    annotations.and_then(|annotations| annotations.get(name)).cloned().unwrap_or_default()
}

#[test]
fn a_new_deployment_gets_a_set_with_all_its_pods() {
    let last_applied = "kubectl.kubernetes.io/last-applied-configuration";
    let annotations = json!({last_applied: "{}", "kubernetes.io/change-cause": "first"});
    let deployment =
        deployment(json!({"metadata": {"annotations": annotations}, "spec": {"minReadySeconds": 5}}));
    let plan = Cluster::new(deployment.clone()).plan(now());
    let set = plan.create.as_ref().expect("a set");
    let hash = template::hash(&deployment.spec.template, None);
    assert_eq!(set.metadata.name, Some(format!("web-{hash}")));
    assert_eq!((set.spec.replicas, set.spec.min_ready_seconds), (Some(3), Some(5)));
    let labels = [("app".to_owned(), "web".to_owned()), ("pod-template-hash".to_owned(), hash)].into();
    assert_eq!(set.metadata.labels.as_ref(), Some(&labels));
    assert_eq!(set.spec.selector.match_labels.as_ref(), Some(&labels));
    let template = set.spec.template.as_ref().and_then(|template| template.metadata.as_ref());
    assert_eq!(template.and_then(|metadata| metadata.labels.as_ref()), Some(&labels));
    let table = [
        (revision::REVISION, "1"),
        ("deployment.kubernetes.io/desired-replicas", "3"),
        ("deployment.kubernetes.io/max-replicas", "4"),
        ("kubernetes.io/change-cause", "first"),
        (last_applied, ""),
    ];
    for (name, value) in table {
        assert_eq!(annotation(set, name), value, "{name}");
    }
    assert_eq!(plan.revision, Some(1));
    let mut cluster = Cluster::new(deployment);
    cluster.carry_out(plan);
    let name = cluster.sets[0].metadata.name.clone().expect("named");
    let created =
        ("True".to_owned(), "NewReplicaSetCreated".to_owned(), format!("Created new replica set {name:?}"));
    assert_eq!(cluster.condition("Progressing"), created);
    assert_eq!(cluster.reason("Available"), "MinimumReplicasUnavailable");
    cluster.settle(now());
    let done = format!("ReplicaSet {name:?} has successfully progressed.");
    assert_eq!(
        cluster.condition("Progressing"),
        ("True".to_owned(), "NewReplicaSetAvailable".to_owned(), done)
    );
    assert_eq!(cluster.reason("Available"), "MinimumReplicasAvailable");
    let status = cluster.deployment.status.as_ref().expect("a status");
    let counts = [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas];
    assert_eq!(counts, [Some(3); 4]);
    assert_eq!((status.unavailable_replicas, status.observed_generation), (None, Some(1)));
}

/// Cut off after each write of each plan: the end is the same, with one set per version.
#[test]
fn a_plan_that_is_cut_off_is_taken_up_again() {
    for cut in 0..4 {
        let mut cluster = Cluster::settled(deployment(json!({})));
        cluster.change(version("2"));
        for round in 0..60 {
            let mut plan = cluster.plan(now());
            let (status, annotations) =
                (cluster.deployment.status.clone(), cluster.deployment.metadata.annotations.clone());
            if round % 2 == 0 {
                if cut < 1 {
                    plan.updates.clear();
                }
                if cut < 2 {
                    plan.forget.clear();
                }
            }
            cluster.carry_out(plan);
            if round % 2 == 0 && cut < 3 {
                cluster.deployment.status = status;
                cluster.deployment.metadata.annotations = annotations;
            }
            cluster.follow(super::super::world::size);
        }
        assert_eq!(cluster.sizes(), [0, 3], "cut {cut}");
        assert_eq!(cluster.reason("Progressing"), "NewReplicaSetAvailable", "cut {cut}");
        assert!(!writes(&cluster.deployment, &cluster.plan(now())), "cut {cut}: at rest");
    }
}

#[test]
fn an_old_version_is_found_and_used_again() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    cluster.change(version("2"));
    cluster.settle(now());
    assert_eq!((cluster.sizes(), cluster.sets.len()), (vec![0, 3], 2));
    cluster.change(json!({"spec": {"template": {"metadata": {"annotations": null}}}}));
    cluster.step(now());
    assert_eq!(cluster.reason("Progressing"), "FoundNewReplicaSet");
    cluster.settle(now());
    assert_eq!(cluster.sizes(), [3, 0]);
    assert_eq!(annotation(&cluster.sets[0], revision::REVISION), "3");
    assert_eq!(annotation(&cluster.sets[0], "deployment.kubernetes.io/revision-history"), "1");
    assert_eq!(annotation(&cluster.sets[1], revision::REVISION), "2");
    assert_eq!(revision::of(&cluster.deployment.metadata), 3);
}

#[test]
fn only_so_many_old_versions_are_remembered() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    for number in 2..6 {
        cluster.change(version(&number.to_string()));
        cluster.settle(now());
    }
    let revisions: Vec<i64> = cluster.sets.iter().map(|set| revision::of(&set.metadata)).collect();
    assert_eq!(revisions, [4, 5]);
    cluster.change(json!({"spec": {"revisionHistoryLimit": 0}}));
    cluster.sets[0].status.as_mut().expect("a status").replicas = 1;
    assert_eq!(cluster.plan(now()).forget.len(), 0, "a set with pods is kept");
    cluster.settle(now());
    assert_eq!(cluster.sets.len(), 1);
}

#[test]
fn scaling_follows_at_once_and_changes_nothing_else() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    for replicas in [5, 2, 0, 4] {
        cluster.change(json!({"spec": {"replicas": replicas}}));
        cluster.step(now());
        assert_eq!(cluster.sizes(), [replicas]);
        cluster.settle(now());
        assert_eq!(cluster.reason("Progressing"), "NewReplicaSetAvailable");
        let desired = annotation(&cluster.sets[0], "deployment.kubernetes.io/desired-replicas");
        assert!(replicas == 0 || desired == replicas.to_string(), "{desired}");
    }
    assert_eq!(revision::of(&cluster.deployment.metadata), 1);
}

/// A Deployment of ten in the middle of an update, 8 old and 5 new: scaled, both change in proportion; and the update ends.
#[test]
fn scaling_in_the_middle_of_an_update_is_shared() {
    let strategy = json!({"rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}});
    let mut cluster = Cluster::settled(deployment(json!({"spec": {"replicas": 10, "strategy": strategy}})));
    cluster.change(version("2"));
    cluster.step(now());
    cluster.follow(|set| if annotation(set, revision::REVISION) == "1" { 10 } else { 0 });
    cluster.step(now());
    cluster.follow(|set| if annotation(set, revision::REVISION) == "1" { 10 } else { 0 });
    cluster.step(now());
    assert_eq!(cluster.sizes(), [8, 5]);
    cluster.change(json!({"spec": {"replicas": 15}}));
    cluster.step(now());
    assert_eq!(cluster.sizes(), [11, 7]);
    cluster.settle(now());
    assert_eq!(cluster.sizes(), [0, 15]);
}

#[test]
fn a_paused_deployment_stands_still_but_can_be_scaled() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    cluster.change(json!({"spec": {"paused": true}}));
    cluster.change(version("2"));
    cluster.settle(now());
    let paused = ("Unknown".to_owned(), "DeploymentPaused".to_owned(), "Deployment is paused".to_owned());
    assert_eq!(cluster.condition("Progressing"), paused);
    assert_eq!(cluster.sizes(), [3]);
    cluster.change(json!({"spec": {"replicas": 4}}));
    cluster.settle(now());
    assert_eq!(cluster.sizes(), [4]);
    cluster.change(json!({"spec": {"paused": false}}));
    let resumed = cluster.plan(now());
    assert!(resumed.create.is_some());
    cluster.settle(now());
    assert_eq!(cluster.sizes(), [0, 4]);
    assert_eq!(cluster.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn an_update_that_is_paused_keeps_what_it_has() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    cluster.change(version("2"));
    cluster.step(now());
    cluster.follow(|set| if annotation(set, revision::REVISION) == "1" { 3 } else { 0 });
    cluster.change(json!({"spec": {"paused": true}}));
    cluster.change(json!({"spec": {"template": {"metadata": {"annotations": null}}}}));
    cluster.settle(now());
    assert_eq!(cluster.sizes(), [3, 1]);
    cluster.change(json!({"spec": {"paused": false}}));
    cluster.settle(now());
    assert_eq!(cluster.sizes(), [3, 0]);
}

#[test]
fn replaced_at_once_the_old_end_before_the_new_begin() {
    let strategy = json!({"type": "Recreate", "rollingUpdate": null});
    let mut cluster = Cluster::settled(deployment(json!({"spec": {"strategy": strategy}})));
    assert_eq!(cluster.sizes(), [3]);
    cluster.change(version("2"));
    cluster.step(now());
    assert_eq!(cluster.sizes(), [0], "the old ones are told to end");
    assert!(cluster.plan(now()).create.is_none(), "the set still counts pods");
    cluster.follow(|_| 0);
    let uid = BTreeSet::from([cluster.sets[0].metadata.uid.clone().expect("a uid")]);
    assert!(cluster.plan_with(&uid, now()).create.is_none(), "a pod is still ending");
    cluster.step(now());
    assert_eq!(cluster.sizes(), [0, 3]);
    cluster.settle(now());
    assert_eq!(cluster.reason("Progressing"), "NewReplicaSetAvailable");
}

#[test]
fn want_of_progress_is_told_after_the_deadline() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    cluster.change(version("2"));
    let old_only = |set: &ReplicaSet| if annotation(set, revision::REVISION) == "1" { 3 } else { 0 };
    cluster.step(now());
    cluster.follow(old_only);
    cluster.step(later(10));
    assert_eq!(cluster.reason("Progressing"), "ReplicaSetUpdated", "one more pod of the new version");
    let waiting = cluster.plan(later(20));
    assert_eq!(waiting.wake, Some(later(10 + 60 + 1)));
    assert!(!writes(&cluster.deployment, &waiting), "nothing to write while it waits");
    cluster.step(later(71));
    let name = cluster.sets[1].metadata.name.clone().expect("named");
    let late = format!("ReplicaSet {name:?} has timed out progressing.");
    assert_eq!(
        cluster.condition("Progressing"),
        ("False".to_owned(), "ProgressDeadlineExceeded".to_owned(), late)
    );
    assert_eq!(cluster.plan(later(72)).wake, None);
    assert_eq!(cluster.reason("Available"), "MinimumReplicasAvailable", "the old ones serve");
    cluster.settle(later(80));
    assert_eq!(cluster.reason("Progressing"), "NewReplicaSetAvailable", "late is better than never");
    let mut patient = Cluster::settled(deployment(json!({"spec": {"progressDeadlineSeconds": i32::MAX}})));
    assert_eq!(patient.reason("Progressing"), "", "no deadline, no condition");
    patient.change(version("2"));
    assert_eq!(patient.plan(now()).wake, None);
}

#[test]
fn trouble_of_the_newest_set_is_passed_on() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    let status = cluster.sets[0].status.as_mut().expect("a status");
    let condition =
        json!({"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "quota"});
    status.conditions = Some(vec![serde_json::from_value(condition).expect("a condition")]);
    cluster.step(now());
    let expected = ("True".to_owned(), "FailedCreate".to_owned(), "quota".to_owned());
    assert_eq!(cluster.condition("ReplicaFailure"), expected);
    cluster.settle(now());
    assert_eq!(cluster.reason("ReplicaFailure"), "", "it is over");
}

#[test]
fn a_refused_or_taken_set_is_told() {
    let mut cluster = Cluster::new(deployment(json!({})));
    let set = cluster.plan(now()).create.expect("a set");
    cluster.deployment.status = Some(plan::refused(&cluster.deployment, &set, "no", now()));
    let (status, reason, message) = cluster.condition("Progressing");
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ReplicaSetCreateError"));
    assert_eq!(
        message,
        format!("Failed to create new replica set {:?}: no", set.metadata.name.as_deref().unwrap_or(""))
    );
    cluster.deployment.status = Some(plan::collided(&cluster.deployment));
    let other = cluster.plan(now()).create.expect("a set");
    assert_ne!(other.metadata.name, set.metadata.name);
}

#[test]
fn a_deployment_that_is_deleted_moves_nothing() {
    let mut cluster = Cluster::settled(deployment(json!({})));
    cluster.change(version("2"));
    cluster
        .change(json!({"metadata": {"deletionTimestamp": "2026-03-01T12:00:00Z"}, "spec": {"replicas": 9}}));
    let plan = cluster.plan(now());
    assert!(plan.create.is_none() && plan.updates.is_empty() && plan.forget.is_empty());
}

#[test]
fn templates_are_the_same_whatever_stands_for_nothing() {
    let base = deployment(json!({})).spec.template;
    let changed =
        |changes: serde_json::Value| deployment(json!({"spec": {"template": changes}})).spec.template;
    let same = [
        json!({"metadata": {"labels": {"pod-template-hash": "x"}}}),
        json!({"metadata": {"annotations": {}}}),
        json!({"spec": {"nodeSelector": {}, "volumes": []}}),
    ];
    for changes in same {
        let other = changed(changes.clone());
        assert!(template::same(&base, &other), "{changes}");
        assert_eq!(template::hash(&base, None), template::hash(&other, None), "{changes}");
    }
    let different = [
        json!({"metadata": {"labels": {"tier": "x"}}}),
        json!({"metadata": {"annotations": {"a": "b"}}}),
        json!({"spec": {"securityContext": {}}}),
        json!({"spec": {"containers": [{"name": "c", "image": "web:2"}]}}),
    ];
    for changes in different {
        let other = changed(changes.clone());
        assert!(!template::same(&base, &other), "{changes}");
        assert_ne!(template::hash(&base, None), template::hash(&other, None), "{changes}");
    }
    let hash = template::hash(&base, None);
    assert!(
        hash.len() == 10 && hash.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte)),
        "{hash}"
    );
    assert_ne!(hash, template::hash(&base, Some(1)));
}

#[test]
fn history_is_bounded() {
    let mut set = ReplicaSet::default();
    for other in 1..1000 {
        revision::note_newest(&mut set, &deployment(json!({})), other);
    }
    let history = annotation(&set, "deployment.kubernetes.io/revision-history");
    assert!(history.len() <= 2000 && history.ends_with(",998,999"), "{history}");
}
