//! Workers against a runtime in memory and an API in memory, on virtual time: hours take milliseconds, and every second
//! counts.

use std::path::{Path, PathBuf};

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Api;
use component::Context;
use component::events::Recorder;
use component::informer::{Informer, Selection};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::fake::{FakeRuntime, Script};
use super::*;
use crate::changes::{self, Health, Listener};
use crate::config::Config;
use crate::images::Images;
use crate::lifecycle::NodeFacts;
use crate::objects::Objects;
use crate::pods::{Pods, Workers, informer};
use crate::podspec::{ClusterFacts, NodeResources};
use crate::tokens::Tokens;

#[path = "../../tests/it/api.rs"]
#[expect(dead_code, reason = "shared with the integration tests, which use the rest")]
mod api;

struct NoMounts;

impl host::mount::Mounts for NoMounts {
    fn tmpfs(&self, _: &Path, _: Option<u64>) -> std::io::Result<()> {
        Ok(())
    }

    fn bind(&self, _: &Path, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    fn unmount(&self, _: &Path) -> std::io::Result<()> {
        Ok(())
    }

    fn under(&self, _: &Path) -> std::io::Result<Vec<PathBuf>> {
        Ok(Vec::new())
    }
}

struct Node {
    api: api::FakeApi,
    runtime: Arc<FakeRuntime>,
    context: Context,
    begun: tokio::time::Instant,
    _data: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let api = api::FakeApi::default();
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().expect("a time"));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let context = Context { client: api.client(), clock, entropy: Entropy::seeded(1), tasks, shutdown };
        let runtime = Arc::new(FakeRuntime::new(context.clock.clone(), context.tasks.clone()));
        let data = tempfile::tempdir().expect("a temporary directory");
        let node = Self { api, runtime, context, begun: tokio::time::Instant::now(), _data: data };
        node.start(&Config::new("node-1", node._data.path()));
        node
    }

    fn start(&self, config: &Config) {
        let (context, workers) = (&self.context, Workers::default());
        for directory in [config.pods_dir(), config.logs_dir()] {
            std::fs::create_dir_all(directory).expect("a directory");
        }
        let (one, all, notify) = (workers.clone(), workers.clone(), workers.clone());
        let listener = Listener {
            health: watch::Sender::new(Health::Down(String::new())),
            changed: Box::new(move |uid| one.raise(uid, Signal::Runtime)),
            back: Box::new(move || all.raise_all(Signal::RuntimeBack)),
        };
        context.tasks.spawn(changes::follow(context.clone(), self.runtime.clone(), listener));
        let everything = Api::all(context.client.clone());
        let services =
            Informer::start(&context.tasks, context.shutdown.clone(), everything, Selection::default());
        let shared = Shared {
            context: context.clone(),
            config: config.clone(),
            runtime: self.runtime.clone(),
            recorder: Recorder::new(context, "kubelet", None),
            objects: Objects::new(
                context.clone(),
                Arc::new(move |uid: &str| notify.raise(uid, Signal::Objects)),
            ),
            services,
            tokens: Tokens::default(),
            images: Images::default(),
            mounts: Arc::new(NoMounts),
            cgroups: None,
            cluster: ClusterFacts {
                domain: "cluster.local".to_owned(),
                dns_servers: Vec::new(),
                cgroup_root: "/k".to_owned(),
                cgroup_v2: false,
            },
            node: NodeFacts { addresses: vec!["192.0.2.1".to_owned()], runtime_name: "fake".to_owned() },
            resources: NodeResources::default(),
        };
        let pods = Pods::new(Arc::new(shared), informer(context, "node-1"), workers);
        context.tasks.spawn(pods.run());
    }

    /// Makes a pod with one container.
    fn pod(&self, more: Value, pod: Value) -> String {
        let mut container = json!({"name": "main", "image": "image:1", "imagePullPolicy": "IfNotPresent"});
        add(&mut container, more);
        let mut spec = json!({"nodeName": "node-1", "containers": [container]});
        add(&mut spec, pod);
        let path = "namespaces/default/pods/p".to_owned();
        self.api.put(&path, json!({"metadata": {"generation": 1, "uid": "u"}, "spec": spec}));
        path
    }

    async fn status(&self, path: &str, what: &str, check: impl Fn(&Value) -> bool) -> Value {
        let found = |pod: Option<&Value>| {
            pod.and_then(|pod| pod.get("status")).filter(|status| check(status)).cloned()
        };
        self.api.until(path, what, found).await
    }

    async fn gone(&self, path: &str) {
        self.api.until(path, "gone", |found| found.is_none().then_some(())).await;
    }

    /// Whole seconds since the test began.
    fn seconds(&self) -> u64 {
        self.begun.elapsed().as_secs()
    }

    fn events(&self, reason: &str) -> Vec<String> {
        let all = self.api.under("namespaces/default/events/");
        let fitting = all.iter().filter(|event| event["reason"] == reason);
        fitting.map(|event| event["message"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The different waiting reasons that the pod's container had, in order.
    fn reasons(&self, path: &str) -> Vec<String> {
        let mut reasons: Vec<String> = Vec::new();
        for pod in self.api.history(path) {
            let reason =
                pod.pointer("/status/containerStatuses/0/state/waiting/reason").and_then(Value::as_str);
            if let Some(reason) = reason.filter(|reason| reasons.last().is_none_or(|last| last != reason)) {
                reasons.push(reason.to_owned());
            }
        }
        reasons
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.context.shutdown.cancel();
    }
}

fn add(object: &mut Value, more: Value) {
    let Value::Object(fields) = more else { return };
    object.as_object_mut().expect("an object").extend(fields);
}

fn restarts(status: &Value) -> u64 {
    status.pointer("/containerStatuses/0/restartCount").and_then(Value::as_u64).unwrap_or(0)
}

fn is_ready(status: &Value) -> bool {
    status.pointer("/containerStatuses/0/ready") == Some(&json!(true))
}

fn seconds(calls: &[String]) -> Vec<u64> {
    calls.iter().map(|call| call.split(' ').next().expect("a time").parse().expect("a number")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_is_started_less_and_less_often() {
    let node = Node::new();
    node.runtime.set_script(Script { life: Some((Duration::from_secs(1), 1)), ..Script::default() });
    let path = node.pod(json!({}), json!({}));
    node.status(&path, "restarted ten times", |status| restarts(status) == 10).await;
    let starts = seconds(&node.runtime.calls("start"));
    let gaps: Vec<_> = starts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // Each lives one second; the first time it is started again at once.
    let expected = [1, 11, 21, 41, 81, 161, 301, 301, 301, 301];
    for (gap, expected) in gaps.iter().zip(expected) {
        assert!(*gap == expected || *gap == expected + 1, "{gaps:?}");
    }
    assert_eq!(node.events("BackOff").len(), 1, "told again and again, but as one event");
    assert!(node.runtime.calls("remove ").len() >= 7, "old containers are removed");
}

#[tokio::test(start_paused = true)]
async fn one_that_ran_for_ten_minutes_is_forgiven() {
    let node = Node::new();
    node.runtime.set_script(Script { life: Some((Duration::from_secs(601), 1)), ..Script::default() });
    let path = node.pod(json!({}), json!({}));
    node.status(&path, "restarted three times", |status| restarts(status) == 3).await;
    let starts = seconds(&node.runtime.calls("start"));
    assert!(starts.windows(2).all(|pair| (601..=602).contains(&(pair[1] - pair[0]))), "{starts:?}");
}

#[tokio::test(start_paused = true)]
async fn the_hook_and_the_stop_share_the_grace_period() {
    let node = Node::new();
    node.runtime.set_script(Script { stop: Duration::from_secs(100), ..Script::default() });
    let hook = json!({"lifecycle": {"preStop": {"sleep": {"seconds": 3}}}});
    let path = node.pod(hook, json!({"terminationGracePeriodSeconds": 10}));
    node.status(&path, "ready", is_ready).await;
    let begun = node.seconds();
    node.api.delete_pod(&path, 10);
    node.gone(&path).await;
    let took = node.seconds() - begun;
    assert!((10..=11).contains(&took), "{took}");
    assert!(node.runtime.calls("stop ")[0].ends_with("stop 7"), "{:?}", node.runtime.calls("stop "));
    assert_eq!(node.events("Killing"), ["Stopping container main"]);
    let last = node.api.history(&path).pop().expect("it was there");
    assert_eq!(last.pointer("/status/containerStatuses/0/state/terminated/exitCode"), Some(&json!(137)));
    assert_eq!(last.pointer("/status/phase"), Some(&json!("Failed")));
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_its_time_and_no_more() {
    let node = Node::new();
    let path = node.pod(json!({}), json!({"activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 1}));
    let begun = node.seconds();
    let over = node.status(&path, "failed", |status| status["phase"] == "Failed").await;
    assert!((59..=61).contains(&(node.seconds() - begun)));
    assert_eq!(over["reason"], "DeadlineExceeded");
    tokio::time::sleep(Duration::from_secs(100)).await;
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(node.events("DeadlineExceeded"), [message]);
    assert_eq!(node.events("Killing"), ["Stopping container main"]);
}

#[tokio::test(start_paused = true)]
async fn a_second_deletion_can_only_shorten_the_first() {
    let node = Node::new();
    node.runtime.set_script(Script { stop: Duration::from_secs(1000), ..Script::default() });
    let path = node.pod(json!({}), json!({}));
    node.status(&path, "ready", is_ready).await;
    let begun = node.seconds();
    node.api.delete_pod(&path, 300);
    tokio::time::sleep(Duration::from_secs(20)).await;
    node.api.delete_pod(&path, 30);
    node.gone(&path).await;
    let took = node.seconds() - begun;
    assert!((30..=31).contains(&took), "{took}: {:?}", node.runtime.calls("stop "));
    assert_eq!(node.events("Killing").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_probe_restarts_and_readiness_does_not() {
    let node = Node::new();
    let probe = |failures: u32| json!({"exec": {"command": ["check"]}, "periodSeconds": 5, "failureThreshold": failures});
    let path = node.pod(json!({"livenessProbe": probe(3), "readinessProbe": probe(1)}), json!({}));
    node.status(&path, "ready", is_ready).await;
    node.runtime.set_exec_code(1);
    let unready = node.status(&path, "not ready", |status| !is_ready(status)).await;
    assert_eq!(restarts(&unready), 0, "readiness costs no container its life");
    let begun = node.seconds();
    node.status(&path, "restarted", |status| restarts(status) == 1).await;
    assert!((9..=11).contains(&(node.seconds() - begun)), "the third failure counts");
    assert_eq!(node.events("Killing"), ["Container main failed liveness probe, will be restarted"]);
    assert!(node.events("Unhealthy").iter().any(|note| note.starts_with("Liveness probe failed")));
    node.runtime.set_exec_code(0);
    node.status(&path, "ready again", |status| is_ready(status) && restarts(status) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_startup_probe_holds_the_others_back() {
    let node = Node::new();
    node.runtime.set_exec_code(1);
    let probe = |word: &str, failures: u32| json!({"exec": {"command": [word]}, "periodSeconds": 1, "failureThreshold": failures});
    let probes = json!({"startupProbe": probe("up", 20), "livenessProbe": probe("alive", 1)});
    let path = node.pod(probes, json!({}));
    node.status(&path, "running", |status| status["phase"] == "Running").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(node.runtime.calls("exec alive").is_empty() && !node.runtime.calls("exec up").is_empty());
    node.runtime.set_exec_code(0);
    node.status(&path, "started", |status| {
        status.pointer("/containerStatuses/0/started") == Some(&json!(true))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!node.runtime.calls("exec alive").is_empty());
    let asked = node.runtime.calls("exec up").len();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(node.runtime.calls("exec up").len(), asked, "started is started");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_exist_is_asked_for_less_and_less_often() {
    let node = Node::new();
    let path = node.pod(json!({"image": "nothing:1"}), json!({}));
    tokio::time::sleep(Duration::from_secs(1500)).await;
    let pulls = seconds(&node.runtime.calls("pull"));
    let gaps: Vec<_> = pulls.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let expected = [10, 20, 40, 80, 160, 300, 300];
    assert!(gaps.len() >= expected.len(), "{gaps:?}");
    for (gap, expected) in gaps.iter().zip(expected) {
        assert!((expected..=expected + 1).contains(gap), "{gaps:?}");
    }
    let reasons = node.reasons(&path);
    assert_eq!(reasons[..3], ["ContainerCreating", "ErrImagePull", "ImagePullBackOff"]);
    assert_eq!(node.events("BackOff"), ["Back-off pulling image \"nothing:1\""]);
    assert!(node.events("Failed").contains(&"Error: ImagePullBackOff".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_is_away_is_waited_for() {
    let node = Node::new();
    let path = node.pod(
        json!({"livenessProbe": {"exec": {"command": ["check"]}, "failureThreshold": 1, "periodSeconds": 1}}),
        json!({}),
    );
    node.status(&path, "ready", is_ready).await;
    node.runtime.set_away(true);
    tokio::time::sleep(Duration::from_secs(600)).await;
    node.runtime.set_away(false);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let status = node.api.get(&path).expect("it is there")["status"].clone();
    assert_eq!(
        (restarts(&status), is_ready(&status)),
        (0, true),
        "probes that cannot be carried out say nothing"
    );
    assert_eq!(node.runtime.calls("sandbox").len(), 1);
    assert!(node.runtime.calls("stop").is_empty());
}

#[tokio::test(start_paused = true)]
async fn with_the_api_away_a_crash_is_healed_and_told_later() {
    let node = Node::new();
    node.runtime.set_script(Script { life: Some((Duration::from_secs(100), 1)), ..Script::default() });
    let path = node.pod(json!({}), json!({}));
    node.status(&path, "ready", is_ready).await;
    node.api.set_away(true);
    node.runtime.set_script(Script::default());
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(node.runtime.calls("start").len(), 2);
    assert_eq!(restarts(&node.api.get(&path).expect("it is there")["status"]), 0);
    node.api.set_away(false);
    node.status(&path, "told", |status| restarts(status) == 1 && is_ready(status)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_of_the_same_name_is_another_pod() {
    let node = Node::new();
    let path = node.pod(json!({}), json!({"terminationGracePeriodSeconds": 1}));
    node.status(&path, "ready", is_ready).await;
    node.api.delete_pod(&path, 0);
    let mut spec = json!({"nodeName": "node-1", "containers": [{"name": "main", "image": "image:1", "imagePullPolicy": "IfNotPresent"}]});
    spec["terminationGracePeriodSeconds"] = json!(1);
    node.api.put(&path, json!({"metadata": {"generation": 1, "uid": "other"}, "spec": spec}));
    let status = node.status(&path, "ready", is_ready).await;
    assert_eq!(restarts(&status), 0, "a life of its own");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node.runtime.calls("sandbox").len(), 2);
    assert_eq!(node.runtime.calls("remove sandbox").len(), 1, "the old one is gone");
    assert!(is_ready(&node.api.get(&path).expect("it is there")["status"]));
}
