//! A scripted kubelet: it keeps the API's side of a kubelet's bargain (registers, renews its Lease, brings pods through
//! their phases, lets go of deleted ones) without running anything. What it does, and when, a scenario can change.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::{self, Next};
use component::informer::{Informer, Selection};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// Between attempts to tell the API server something while it does not answer.
const RETRY: Duration = Duration::from_secs(5);

/// What a node has, and how its pods behave.
#[derive(Clone, Debug)]
pub struct NodeScript {
    /// The node's name.
    pub name: String,
    /// Capacity, as the Node object has it (`cpu`, `memory`, `pods`).
    pub capacity: BTreeMap<String, String>,
    /// Labels of the node.
    pub labels: BTreeMap<String, String>,
    /// How long a pod takes from being bound to being ready.
    pub start: Duration,
    /// How long a pod takes to end after it is told to.
    pub stop: Duration,
    /// Number of the node, for addresses.
    pub number: u8,
}

/// A running scripted kubelet. Dropping it is pulling the plug: nothing is said goodbye to.
pub struct ScriptedKubelet {
    alive: CancellationToken,
    behaviour: Arc<Mutex<Behaviour>>,
    queue: Queue<ObjectKey>,
}

/// What a scenario can change while pods run.
#[derive(Debug, Default)]
struct Behaviour {
    /// Pods that are not ready, by key.
    unready: BTreeMap<ObjectKey, ()>,
    /// How often a pod's container was made to crash.
    crashes: BTreeMap<ObjectKey, i32>,
    /// Addresses that were given out.
    addresses: u16,
}

#[derive(Clone)]
struct Kubelet {
    context: Context,
    script: NodeScript,
    pods: Informer<Pod>,
    behaviour: Arc<Mutex<Behaviour>>,
    /// When each pod was first seen, and first seen to be deleted, on the simulated clock.
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    bound: Option<tokio::time::Instant>,
    deleted: Option<tokio::time::Instant>,
}

/// Errors of the API are retried by the queue.
type Outcome = Result<Next, kube::Error>;

impl ScriptedKubelet {
    /// Starts a kubelet for a node. It ends with `context.shutdown`, or when it is dropped.
    pub fn start(mut context: Context, script: NodeScript) -> Self {
        let alive = context.shutdown.child_token();
        context.shutdown = alive.clone();
        let behaviour: Arc<Mutex<Behaviour>> = Arc::default();
        let selection = Selection { fields: Some(format!("spec.nodeName={}", script.name)), labels: None };
        let api = Api::all(context.client.clone());
        let pods = Informer::start(&context.tasks, alive.clone(), api, selection);
        let queue = Queue::new();
        let keys = queue.clone();
        pods.on_change(move |change: component::informer::Change<'_, Pod>| {
            keys.add(ObjectKey::of(&**change.latest()));
        });
        let kubelet = Kubelet {
            context: context.clone(),
            script,
            pods,
            behaviour: behaviour.clone(),
            seen: Arc::default(),
        };
        let heart = kubelet.clone();
        let beating = alive.clone();
        context.tasks.spawn(async move {
            beating.run_until_cancelled(heart.beat()).await;
        });
        controller::run(&context.tasks, alive.clone(), "scripted-kubelet", queue.clone(), 1, move |key| {
            let kubelet = kubelet.clone();
            async move { kubelet.sync(&key).await }
        });
        Self { alive, behaviour, queue }
    }

    /// Makes a pod ready or not.
    pub fn set_ready(&self, pod: &ObjectKey, ready: bool) {
        let mut behaviour = lock(&self.behaviour);
        if ready {
            behaviour.unready.remove(pod);
        } else {
            behaviour.unready.insert(pod.clone(), ());
        }
        self.queue.add(pod.clone());
    }

    /// Crashes a pod's container once; it runs again at once, with its restart count one higher.
    pub fn crash(&self, pod: &ObjectKey) {
        *lock(&self.behaviour).crashes.entry(pod.clone()).or_default() += 1;
        self.queue.add(pod.clone());
    }
}

impl Drop for ScriptedKubelet {
    fn drop(&mut self) {
        self.alive.cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Kubelet {
    /// Registers, then renews the Lease and the node's status forever.
    async fn beat(&self) {
        loop {
            if let Err(error) = self.register().await {
                tracing::debug!(node = self.script.name, %error, "not registered; trying again");
            } else if let Err(error) = self.renew().await {
                tracing::debug!(node = self.script.name, %error, "lease not renewed; trying again");
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
        }
    }

    async fn register(&self) -> kube::Result<()> {
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        match nodes.get_opt(&self.script.name).await? {
            // Said already, and nobody has said otherwise since.
            Some(node) if is_told(&node) => return Ok(()),
            Some(_) => {}
            None => {
                let node = json!({
                    "metadata": {"name": self.script.name, "labels": self.labels()},
                });
                nodes.create(&PostParams::default(), &from(node)).await?;
            }
        }
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.context.clock.now());
        let status = json!({"status": {
            "capacity": self.script.capacity, "allocatable": self.script.capacity,
            "addresses": [{"type": "InternalIP", "address": format!("172.31.0.{}", self.script.number)},
                          {"type": "Hostname", "address": self.script.name}],
            "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady",
                            "message": "kubelet is posting ready status", "lastHeartbeatTime": now}],
        }});
        let patch = Patch::Strategic(status);
        nodes.patch_status(&self.script.name, &PatchParams::default(), &patch).await?;
        Ok(())
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.script.labels.clone();
        labels.insert("kubernetes.io/hostname".to_owned(), self.script.name.clone());
        labels.insert("kubernetes.io/os".to_owned(), "linux".to_owned());
        labels
    }

    async fn renew(&self) -> kube::Result<()> {
        let leases: Api<Lease> = Api::namespaced(self.context.client.clone(), "kube-node-lease");
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime(self.context.clock.now());
        let spec = json!({"holderIdentity": self.script.name, "leaseDurationSeconds": 40, "renewTime": now});
        let patch = Patch::Merge(json!({"spec": &spec}));
        match leases.patch(&self.script.name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                let lease = json!({"metadata": {"name": self.script.name}, "spec": spec});
                leases.create(&PostParams::default(), &from(lease)).await.map(drop)
            }
            renewed => renewed.map(drop),
        }
    }

    /// Brings one pod one step further; while nobody answers, again and again without ever growing slow.
    async fn sync(&self, key: &ObjectKey) -> Outcome {
        match self.step(key).await {
            Err(kube::Error::Service(_)) => Ok(Next::After(RETRY)),
            outcome => outcome,
        }
    }

    async fn step(&self, key: &ObjectKey) -> Outcome {
        let Some(pod) = self.pods.get(key) else { return Ok(Next::Done) };
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let now = tokio::time::Instant::now();
        let seen = {
            let mut all = lock(&self.seen);
            let seen = all.entry(uid.clone()).or_default();
            seen.bound.get_or_insert(now);
            if pod.metadata.deletion_timestamp.is_some() {
                seen.deleted.get_or_insert(now);
            }
            *seen
        };
        if let Some(deleted) = seen.deleted {
            return self.stop(key, &pod, deleted + self.script.stop).await;
        }
        let ready_at = seen.bound.unwrap_or(now) + self.script.start;
        if now < ready_at {
            return Ok(Next::After(ready_at - now));
        }
        let Some(end) = End::of(&pod) else { return self.report(key, &pod).await };
        let ends_at = ready_at + end.after;
        if now < ends_at {
            self.report(key, &pod).await?;
            return Ok(Next::After(ends_at - now));
        }
        self.end(key, &pod, end.code).await
    }

    /// All containers have ended with this code, and none is started again.
    async fn end(&self, key: &ObjectKey, pod: &Pod, code: i32) -> Outcome {
        if pod_rules::status::is_terminal(pod) {
            return Ok(Next::Done);
        }
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.context.clock.now());
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let statuses: Vec<Value> = containers
            .iter()
            .map(|container| {
                let state = json!({"terminated": {"exitCode": code, "finishedAt": now, "startedAt": now}});
                json!({"name": container.name, "image": container.image, "imageID": "", "ready": false,
                       "restartCount": 0, "state": state})
            })
            .collect();
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": {
            "phase": if code == 0 { "Succeeded" } else { "Failed" },
            "conditions": [{"type": "Ready", "status": "False", "lastTransitionTime": now}],
            "containerStatuses": statuses,
        }}));
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        match pods.patch_status(&key.name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(Next::Done),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    async fn stop(&self, key: &ObjectKey, pod: &Pod, at: tokio::time::Instant) -> Outcome {
        let now = tokio::time::Instant::now();
        if now < at {
            return Ok(Next::After(at - now));
        }
        if pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()) != Some("Always") {
            self.end(key, pod, 143).await?;
        }
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams::default().grace_period(0).preconditions(preconditions);
        match pods.delete(&key.name, &parameters).await {
            Ok(_) => Ok(Next::Done),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    /// Writes the pod's status if it says something new.
    async fn report(&self, key: &ObjectKey, pod: &Pod) -> Outcome {
        let (ready, restarts) = {
            let behaviour = lock(&self.behaviour);
            (!behaviour.unready.contains_key(key), behaviour.crashes.get(key).copied().unwrap_or(0))
        };
        let known = pod.status.clone().unwrap_or_default();
        let address = match known.pod_ip {
            Some(address) => address,
            None => self.next_address(),
        };
        let was = |kind: &str| {
            let conditions = known.conditions.as_deref().unwrap_or_default();
            conditions
                .iter()
                .find(|condition| condition.type_ == kind)
                .map(|condition| condition.status == "True")
        };
        let told =
            known.container_statuses.as_ref().and_then(|all| all.first()).map(|first| first.restart_count);
        if was("Ready") == Some(ready) && told == Some(restarts) {
            return Ok(Next::Done);
        }
        let pods: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let patch = Patch::Strategic(self.status(pod, &address, ready, restarts));
        match pods.patch_status(&key.name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(Next::Done),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    fn next_address(&self) -> String {
        let mut behaviour = lock(&self.behaviour);
        behaviour.addresses += 1;
        let [high, low] = behaviour.addresses.to_be_bytes();
        format!("10.{}.{high}.{low}", self.script.number)
    }

    fn status(&self, pod: &Pod, address: &str, ready: bool, restarts: i32) -> Value {
        let now = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.context.clock.now());
        let truth = |value: bool| if value { "True" } else { "False" };
        let condition = |kind: &str, value: bool| json!({"type": kind, "status": truth(value), "lastTransitionTime": now});
        let containers = pod.spec.as_ref().map(|spec| spec.containers.as_slice()).unwrap_or_default();
        let statuses: Vec<Value> = containers
            .iter()
            .map(|container| {
                json!({"name": container.name, "image": container.image, "imageID": "", "ready": ready,
                       "started": true, "restartCount": restarts, "state": {"running": {"startedAt": now}}})
            })
            .collect();
        json!({"metadata": {"uid": pod.metadata.uid}, "status": {
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
            "hostIP": format!("172.31.0.{}", self.script.number), "startTime": now,
            "conditions": [condition("Initialized", true), condition("ContainersReady", ready), condition("Ready", ready)],
            "containerStatuses": statuses,
        }})
    }
}

/// How a pod ends by itself, by its annotations: `simulation/ends-after: 5s`, `simulation/exit: "1"`, and
/// `simulation/fails: "0,3"` for the indexes whose pods exit with that code; others succeed.
#[derive(Clone, Copy, Debug)]
struct End {
    after: Duration,
    code: i32,
}

impl End {
    fn of(pod: &Pod) -> Option<End> {
        let annotation = |key: &str| pod.metadata.annotations.as_ref()?.get(key).map(String::as_str);
        let after = crate::scenario::duration(annotation("simulation/ends-after")?).ok()?;
        let code = annotation("simulation/exit").and_then(|code| code.parse().ok()).unwrap_or(0);
        let index = annotation("batch.kubernetes.io/job-completion-index").unwrap_or_default();
        let fails = annotation("simulation/fails");
        let fails = fails.is_none_or(|indexes| indexes.split(',').any(|failing| failing == index));
        Some(End { after, code: if fails { code } else { 0 } })
    }
}

/// Whether the node is known to be ready.
fn is_told(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Our own JSON as a typed object.
fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the scripted kubelet writes well-formed objects")
}
