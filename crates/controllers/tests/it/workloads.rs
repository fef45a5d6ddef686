//! Deployments, ReplicaSets and endpoints from end to end, with caches that lag and controllers that die.

use std::time::Duration;

use api_machinery::entropy::Entropy;
use api_machinery::patch::merge;
use serde_json::{Value, json};

use crate::api::{Api, State};
use crate::machines::{BROKEN, Controllers, machines};

fn deployment(changes: &Value) -> Value {
    let deployment = json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 4,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": 60,
            "revisionHistoryLimit": 10,
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}},
        },
    });
    merge::apply(&deployment, changes)
}

fn version(version: Value) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"version": version}}}}})
}

fn is_active(pod: &&Value) -> bool {
    pod["metadata"]["deletionTimestamp"].is_null()
}

fn is_ready(pod: &&Value) -> bool {
    is_active(pod) && pod["status"]["conditions"][0]["status"] == "True"
}

fn active(state: &State) -> usize {
    state.of("pods").filter(is_active).count()
}

fn ready(state: &State) -> usize {
    state.of("pods").filter(is_ready).count()
}

fn condition(state: &State, kind: &str) -> Value {
    let Some(deployment) = state.of("deployments").next() else { return Value::Null };
    let conditions = deployment["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == kind).cloned().unwrap_or_default()
}

/// All pods are there and of one version, and the status says so.
fn is_complete(state: &State, replicas: usize, version: &Value) -> bool {
    let deployment = state.of("deployments").next().cloned().unwrap_or_default();
    let counts = ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"];
    let of_version = |pod: &&Value| pod["metadata"]["annotations"]["version"] == *version;
    state.of("pods").count() == replicas
        && state.of("pods").filter(is_ready).filter(of_version).count() == replicas
        && counts.iter().all(|count| deployment["status"][count] == replicas)
        && condition(state, "Progressing")["reason"] == "NewReplicaSetAvailable"
}

fn happened(state: &State, reason: &str, message: &str) -> bool {
    state.of("events").any(|event| {
        event["reason"] == reason && event["message"].as_str().is_some_and(|m| m.contains(message))
    })
}

/// A cluster with one node, a Service, and pods that come and go at the seed's pace.
fn cluster(seed: u64, tasks: &mut tokio::task::JoinSet<()>) -> Api {
    let api = Api::new(seed);
    let node =
        json!({"metadata": {"name": "n1", "uid": "n1", "labels": {"topology.kubernetes.io/zone": "east"}}});
    api.state().put(&("nodes".to_owned(), String::new(), "n1".to_owned()), node);
    let spec = json!({"selector": {"app": "web"}, "clusterIP": "10.43.0.9", "ports": [{"port": 80}]});
    api.state().make("services", json!({"metadata": {"name": "web"}, "spec": spec}));
    tasks.spawn(machines(api.clone(), Entropy::seeded(seed + 1000)));
    api
}

fn ready_endpoints(state: &State) -> usize {
    let slices =
        state.of("endpointslices").flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    slices.filter(|endpoint| endpoint["conditions"]["ready"] == true).count()
}

fn ready_addresses(state: &State) -> usize {
    let subsets =
        state.of("endpoints").flat_map(|endpoints| endpoints["subsets"].as_array().into_iter().flatten());
    subsets.flat_map(|subset| subset["addresses"].as_array().into_iter().flatten()).count()
}

#[tokio::test(start_paused = true)]
async fn a_deployment_becomes_pods_and_endpoints_and_heals() {
    for seed in 0..4 {
        let mut tasks = tokio::task::JoinSet::new();
        let api = cluster(seed, &mut tasks);
        api.state().check = Some(Box::new(|state| assert!(active(state) <= 4, "a pod was made twice")));
        let controllers = Controllers::start(&api);
        api.state().make("deployments", deployment(&json!({})));
        api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
        api.until("endpoints", |state| ready_endpoints(state) == 4 && ready_addresses(state) == 4).await;
        api.until("events", |state| {
            happened(state, "ScalingReplicaSet", "Scaled up replica set web-")
                && happened(state, "SuccessfulCreate", "Created pod: web-")
        })
        .await;
        let victim = api.state().of("pods").next().expect("a pod")["metadata"]["name"].clone();
        let key = ("pods".to_owned(), "default".to_owned(), victim.as_str().expect("named").to_owned());
        api.state().drop_object(&key);
        api.until("replaced", |state| state.of("pods").filter(is_ready).count() == 4).await;
        api.until("endpoints", |state| ready_endpoints(state) == 4 && ready_addresses(state) == 4).await;
        assert_eq!(api.state().of("endpointslices").count(), 1);
        controllers.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_keeps_its_bounds_and_goes_back_to_the_old_set() {
    for seed in 0..6 {
        let mut tasks = tokio::task::JoinSet::new();
        let api = cluster(seed, &mut tasks);
        let controllers = Controllers::start(&api);
        api.state().make("deployments", deployment(&json!({})));
        api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
        api.state().check = Some(Box::new(|state| {
            assert!(active(state) <= 5, "too many");
            assert!(ready(state) >= 4, "too few");
        }));
        for (change, revision) in [(json!("2"), "2"), (Value::Null, "3")] {
            assert!(api.state().patch("deployments", "web", &version(change.clone())).is_some());
            api.until("updated", |state| is_complete(state, 4, &change)).await;
            let deployment = api.state().of("deployments").next().cloned().expect("it");
            assert_eq!(deployment["metadata"]["annotations"]["deployment.kubernetes.io/revision"], revision);
        }
        assert_eq!(api.state().of("replicasets").count(), 2, "the first set was used again");
        controllers.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn controllers_that_die_and_come_back_keep_the_bounds() {
    for seed in 0..8 {
        let mut tasks = tokio::task::JoinSet::new();
        let api = cluster(seed, &mut tasks);
        let entropy = Entropy::seeded(seed);
        let mut controllers = Controllers::start(&api);
        api.state().make("deployments", deployment(&json!({})));
        api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
        api.state().check = Some(Box::new(|state| {
            assert!(active(state) <= 5, "too many");
            assert!(ready(state) >= 4, "too few");
        }));
        assert!(api.state().patch("deployments", "web", &version(json!("2"))).is_some());
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_millis(entropy.below(2500))).await;
            controllers.stop().await;
            controllers = Controllers::start(&api);
        }
        api.until("updated", |state| is_complete(state, 4, &json!("2"))).await;
        controllers.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn lost_requests_and_answers_change_nothing_in_the_end() {
    for seed in 0..6 {
        let mut tasks = tokio::task::JoinSet::new();
        let api = cluster(seed, &mut tasks);
        api.state().faults = 6;
        api.state().check =
            Some(Box::new(move |state| assert!(active(state) <= 4, "seed {seed}: a pod too many")));
        let controllers = Controllers::start(&api);
        api.state().make("deployments", deployment(&json!({})));
        api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
        let most = move |state: &State| assert!(active(state) <= 5, "seed {seed}: more than the surge");
        api.state().check = Some(Box::new(most));
        assert!(api.state().patch("deployments", "web", &version(json!("2"))).is_some());
        api.until("updated", |state| is_complete(state, 4, &json!("2"))).await;
        api.until("endpoints", |state| ready_endpoints(state) == 4 && ready_addresses(state) == 4).await;
        controllers.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_at_once_old_and_new_never_meet() {
    let mut tasks = tokio::task::JoinSet::new();
    let api = cluster(3, &mut tasks);
    let strategy = json!({"spec": {"strategy": {"type": "Recreate", "rollingUpdate": null}}});
    let controllers = Controllers::start(&api);
    api.state().make("deployments", deployment(&strategy));
    api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
    api.state().check = Some(Box::new(|state| {
        let new = state.of("pods").filter(|pod| pod["metadata"]["annotations"]["version"] == "2").count();
        assert!(new == 0 || new == state.of("pods").count(), "{new} new ones beside old ones");
    }));
    assert!(api.state().patch("deployments", "web", &version(json!("2"))).is_some());
    api.until("replaced", |state| is_complete(state, 4, &json!("2"))).await;
    controllers.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_update_that_does_not_start_is_told_and_taken_back() {
    let mut tasks = tokio::task::JoinSet::new();
    let api = cluster(5, &mut tasks);
    let controllers = Controllers::start(&api);
    api.state().make("deployments", deployment(&json!({})));
    api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
    api.state().check = Some(Box::new(|state| assert!(ready(state) >= 4, "the old ones serve")));
    let broken = |value: Value| json!({"spec": {"template": {"metadata": {"annotations": {BROKEN: value}}}}});
    let started = tokio::time::Instant::now();
    assert!(api.state().patch("deployments", "web", &broken(json!("yes"))).is_some());
    api.until("told", |state| condition(state, "Progressing")["reason"] == "ProgressDeadlineExceeded").await;
    assert!((60..80).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert!(api.state().patch("deployments", "web", &broken(Value::Null)).is_some());
    api.until("taken back", |state| is_complete(state, 4, &Value::Null)).await;
    controllers.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_quota_is_told_and_waited_for() {
    let mut tasks = tokio::task::JoinSet::new();
    let api = cluster(6, &mut tasks);
    api.state().quota = Some(2);
    let controllers = Controllers::start(&api);
    api.state().make("deployments", deployment(&json!({})));
    api.until("told", |state| condition(state, "ReplicaFailure")["reason"] == "FailedCreate").await;
    let failure = condition(&api.state(), "ReplicaFailure");
    assert_eq!(failure["message"], "pods is forbidden: exceeded quota");
    api.until("event", |state| happened(state, "FailedCreate", "Error creating: pods is forbidden")).await;
    api.state().quota = None;
    api.until("complete", |state| is_complete(state, 4, &Value::Null)).await;
    api.until("over", |state| condition(state, "ReplicaFailure").is_null()).await;
    controllers.stop().await;
}

#[tokio::test(start_paused = true)]
async fn pods_are_adopted_and_released_by_their_labels() {
    let mut tasks = tokio::task::JoinSet::new();
    let api = cluster(7, &mut tasks);
    let orphan =
        json!({"metadata": {"name": "orphan", "labels": {"app": "web"}}, "spec": {"containers": []}});
    api.state().make("pods", orphan);
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}});
    let spec = json!({"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    let controllers = Controllers::start(&api);
    api.state().make("replicasets", json!({"metadata": {"name": "set"}, "spec": spec}));
    let owner = |state: &State, name: &str| {
        let pod = state.of("pods").find(|pod| pod["metadata"]["name"] == name).cloned().unwrap_or_default();
        pod["metadata"]["ownerReferences"][0]["name"].clone()
    };
    api.until("adopted", |state| owner(state, "orphan") == "set" && state.of("pods").count() == 2).await;
    assert!(
        api.state().patch("pods", "orphan", &json!({"metadata": {"labels": {"app": "debug"}}})).is_some()
    );
    api.until("released", |state| owner(state, "orphan").is_null() && state.of("pods").count() == 3).await;
    api.until("counted", |state| state.of("replicasets").all(|set| set["status"]["readyReplicas"] == 2))
        .await;
    controllers.stop().await;
}
