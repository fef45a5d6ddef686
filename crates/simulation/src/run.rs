//! Carries a scenario out: every step through the API as its administrator, every condition on what is stored.

use std::time::Duration;

use component::ObjectKey;
use serde_json::Value;

use crate::cluster::{Cluster, ClusterError};
use crate::observer::{Observer, Watched};
use crate::scenario::{Condition, PodFault, Scenario, Step, labels};

/// How a run went that went well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Simulated time from beginning to end.
    pub simulated: Duration,
    /// Changes in the store, and the fingerprint of all of them with their times.
    pub trace: (u64, u64),
}

/// A step that did not do what the scenario says.
#[derive(Debug, thiserror::Error)]
#[error("seed {seed}, line {line}, at {at:?}: {what}")]
pub struct Failed {
    /// The seed that shows it.
    pub seed: u64,
    /// The line of the scenario.
    pub line: usize,
    /// Simulated time.
    pub at: Duration,
    /// What was expected and what was found.
    pub what: String,
}

/// Plural with group -> path of the collection and whether it is namespaced.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("pods", "Pod", "/api/v1", true),
    ("services", "Service", "/api/v1", true),
    ("replicationcontrollers", "ReplicationController", "/api/v1", true),
    ("configmaps", "ConfigMap", "/api/v1", true),
    ("nodes", "Node", "/api/v1", false),
    ("namespaces", "Namespace", "/api/v1", false),
    ("resourcequotas", "ResourceQuota", "/api/v1", true),
    ("persistentvolumes", "PersistentVolume", "/api/v1", false),
    ("persistentvolumeclaims", "PersistentVolumeClaim", "/api/v1", true),
    ("apps/deployments", "Deployment", "/apis/apps/v1", true),
    ("apps/replicasets", "ReplicaSet", "/apis/apps/v1", true),
    ("apps/statefulsets", "StatefulSet", "/apis/apps/v1", true),
    ("batch/cronjobs", "CronJob", "/apis/batch/v1", true),
    ("batch/jobs", "Job", "/apis/batch/v1", true),
    ("apps/daemonsets", "DaemonSet", "/apis/apps/v1", true),
    ("rbac.authorization.k8s.io/clusterroles", "ClusterRole", "/apis/rbac.authorization.k8s.io/v1", false),
    ("policy/poddisruptionbudgets", "PodDisruptionBudget", "/apis/policy/v1", true),
    ("storage.k8s.io/volumeattributesclasses", "VolumeAttributesClass", "/apis/storage.k8s.io/v1", false),
    ("scheduling.k8s.io/priorityclasses", "PriorityClass", "/apis/scheduling.k8s.io/v1", false),
];

/// Runs a scenario with one seed, from an empty cluster, on a runtime of its own.
pub fn run(scenario: &Scenario, seed: u64) -> Result<Report, Failed> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_time()
        .start_paused(true)
        .rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.build().expect("a runtime without I/O needs nothing that can be missing");
    runtime.block_on(async {
        let start = tokio::time::Instant::now();
        let failed = |line, what| Failed { seed, line, at: start.elapsed(), what };
        let cluster = Cluster::start(seed).await.map_err(|error| failed(0, error.to_string()))?;
        let mut run = Run { cluster, always: Vec::new() };
        for (line, step) in &scenario.steps {
            run.step(step).await.map_err(|what| failed(*line, what))?;
        }
        let trace = run.cluster.observe(Observer::trace);
        run.cluster.stop().await;
        Ok(Report { simulated: start.elapsed(), trace })
    })
}

struct Run {
    cluster: Cluster,
    always: Vec<Watched>,
}

impl Run {
    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Node(node) => self.cluster.add_node(node.clone()),
            Step::PowerOff(node) => self.cluster.power_off(node).map_err(words)?,
            Step::PowerOn(node) => self.cluster.power_on(node).map_err(words)?,
            Step::Partition(node) => self.cluster.partition(node, true).map_err(words)?,
            Step::Heal(node) => self.cluster.partition(node, false).map_err(words)?,
            Step::StopControlPlane => self.cluster.stop_control_plane().await.map_err(words)?,
            Step::StartControlPlane => self.cluster.start_control_plane().await.map_err(words)?,
            Step::Elect(what, count) => self.cluster.elect(what, *count).map_err(words)?,
            Step::KillLeader(what) => self.cluster.kill_leader(what).map_err(words)?,
            Step::StopLeader(what) => self.cluster.stop_leader(what).map_err(words)?,
            Step::Faults(faults) => self.cluster.set_faults(*faults),
            Step::Sabotage(sabotage) => self.cluster.sabotage(sabotage.clone()),
            Step::Drain(time, nodes) => self.drain(*time, nodes).await?,
            Step::Mark => self.cluster.mark(),
            Step::Apply(manifest, count) => {
                for number in 1..=*count {
                    self.apply(&manifest.replace("$N", &number.to_string())).await?;
                }
            }
            Step::Patch(kind, name, json) => self.patch(kind, name, json).await?,
            Step::Delete(kind, name, propagation) => self.delete(kind, name, propagation.as_deref()).await?,
            Step::DeleteFirst(kind, selector) => self.delete_first(kind, selector).await?,
            Step::Pods(fault, selector) => self.fault(*fault, selector)?,
            Step::Pass(time) => self.pass(*time).await?,
            Step::Restart(what) => self.cluster.restart(what).await.map_err(words)?,
            Step::Wait(time, condition) => self.wait(*time, condition).await?,
            Step::Always(condition) => self.always.push(self.watched(condition)),
            Step::Forget => self.always.clear(),
        }
        // A step takes in changes of its own, and `mark` changes what is new.
        let always = self.always.iter().map(|watched| self.watched(watched.condition())).collect();
        self.always = always;
        self.check(|_, _| true)
    }

    fn watched(&self, condition: &Condition) -> Watched {
        self.cluster.observe(|observer| Watched::new(condition.clone(), observer))
    }

    /// What must always hold, holds: of the scenario's conditions, those that are `due`.
    fn check(&mut self, mut due: impl FnMut(&mut Watched, &Observer) -> bool) -> Result<(), String> {
        let always = &mut self.always;
        self.cluster.observe(|observer| {
            if let Some(broken) = observer.broken() {
                return Err(format!("a law was broken: {broken}"));
            }
            for watched in always {
                let (holds, found) = if due(watched, observer) { watched.judge(observer) } else { continue };
                if !holds {
                    return Err(format!("must always hold: {:?}, but {found}", watched.condition()));
                }
            }
            Ok(())
        })
    }

    async fn wait(&mut self, time: Duration, condition: &Condition) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + time;
        let mut watched = self.watched(condition);
        let mut judged = self.cluster.observe(|observer| watched.judge(observer));
        while !judged.0 {
            if !self.change_before(deadline).await? {
                return Err(format!("not within {time:?}: {condition:?}; {}", judged.1));
            }
            if self.cluster.observe(|observer| watched.follow(observer)) {
                judged = self.cluster.observe(|observer| watched.judge(observer));
            }
        }
        Ok(())
    }

    /// Takes in the next change and checks what must always hold; `false` if none came in time.
    async fn change_before(&mut self, deadline: tokio::time::Instant) -> Result<bool, String> {
        let Ok(change) = tokio::time::timeout_at(deadline, self.cluster.changed()).await else {
            return Ok(false);
        };
        change.map_err(words)?;
        self.check(Watched::follow)?;
        Ok(true)
    }

    /// As `kubectl drain` does it: evicts at once whatever is there, again every few seconds while budgets refuse.
    async fn drain(&mut self, time: Duration, nodes: &[String]) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + time;
        for node in nodes {
            self.patch("nodes", node, r#"{"spec": {"unschedulable": true}}"#).await?;
        }
        loop {
            let left: Vec<(String, bool)> = self.cluster.observe(|observer| {
                let here = |pod: &Value| nodes.iter().any(|node| pod["spec"]["nodeName"] == node.as_str());
                let daemon = |pod: &Value| pod["metadata"]["ownerReferences"][0]["kind"] == "DaemonSet";
                let pods = observer.of_kind("pods").filter(|(_, pod)| here(pod) && !daemon(pod));
                pods.map(|(_, pod)| {
                    let meta = &pod["metadata"];
                    (
                        meta["name"].as_str().unwrap_or_default().to_owned(),
                        meta["deletionTimestamp"].is_null(),
                    )
                })
                .collect()
            });
            if left.is_empty() {
                return Ok(());
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(format!("not drained within {time:?}: {left:?}"));
            }
            let stay = left.iter().filter(|(_, stays)| *stays).map(|(name, _)| self.evict(name));
            for evicted in futures::future::join_all(stay).await {
                evicted?;
            }
            let pause = (tokio::time::Instant::now() + Duration::from_secs(5)).min(deadline);
            while self.change_before(pause).await? {}
        }
    }

    async fn evict(&self, name: &str) -> Result<(), String> {
        let eviction =
            serde_json::json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}});
        let path = format!("{}/eviction", path("pods", Some(name))?);
        match self.cluster.request("POST", &path, None, eviction.to_string().into_bytes()).await {
            Ok(()) | Err(ClusterError::Api { code: 404 | 429, .. }) => Ok(()),
            Err(error) => Err(format!("eviction of {name}: {error}")),
        }
    }

    async fn pass(&mut self, time: Duration) -> Result<(), String> {
        let deadline = tokio::time::Instant::now() + time;
        while self.change_before(deadline).await? {}
        Ok(())
    }

    async fn apply(&self, manifest: &str) -> Result<(), String> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(manifest).map_err(words)?;
        for document in documents {
            let kind = document["kind"].as_str().unwrap_or_default();
            let name = document["metadata"]["name"].as_str().unwrap_or_default();
            let (plural, ..) = *KINDS
                .iter()
                .find(|(_, known, ..)| *known == kind)
                .ok_or_else(|| format!("the scenario language does not know the kind {kind}"))?;
            let body = serde_json::to_vec(&document).map_err(words)?;
            match self.cluster.request("POST", &path(plural, None)?, None, body.clone()).await {
                Ok(()) => {}
                Err(ClusterError::Api { code: 409, .. }) => {
                    let path = path(plural, Some(name))?;
                    let kind = "application/merge-patch+json";
                    self.cluster.request("PATCH", &path, Some(kind), body).await.map_err(words)?;
                }
                Err(error) => return Err(format!("{kind} {name}: {error}")),
            }
        }
        Ok(())
    }

    async fn patch(&self, kind: &str, name: &str, json: &str) -> Result<(), String> {
        let content = Some("application/merge-patch+json");
        let path = path(kind, Some(name))?;
        self.cluster.request("PATCH", &path, content, json.as_bytes().to_vec()).await.map_err(words)
    }

    async fn delete(&self, kind: &str, name: &str, propagation: Option<&str>) -> Result<(), String> {
        let policy = match propagation {
            None => String::new(),
            Some("background") => "?propagationPolicy=Background".to_owned(),
            Some("foreground") => "?propagationPolicy=Foreground".to_owned(),
            Some("orphan") => "?propagationPolicy=Orphan".to_owned(),
            Some(other) => return Err(format!("no such propagation: {other}")),
        };
        let path = format!("{}{policy}", path(kind, Some(name))?);
        self.cluster.request("DELETE", &path, None, Vec::new()).await.map_err(words)
    }

    async fn delete_first(&self, kind: &str, selector: &str) -> Result<(), String> {
        let labels = labels(selector)?;
        let name = self.cluster.observe(|observer| {
            let first = observer.labelled(kind, &labels).next();
            first.and_then(|(_, object)| object["metadata"]["name"].as_str().map(str::to_owned))
        });
        let name = name.ok_or_else(|| format!("no {kind} with {selector}"))?;
        self.delete(kind, &name, None).await
    }

    fn fault(&self, fault: PodFault, selector: &str) -> Result<(), String> {
        let labels = labels(selector)?;
        let pods: Vec<(String, ObjectKey)> = self.cluster.observe(|observer| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            observer
                .labelled("pods", &labels)
                .map(|(_, pod)| {
                    let meta = &pod["metadata"];
                    (
                        text(&pod["spec"]["nodeName"]),
                        ObjectKey::new(text(&meta["namespace"]), text(&meta["name"])),
                    )
                })
                .collect()
        });
        for (node, pod) in pods {
            let Some(kubelet) = self.cluster.kubelet(&node) else { continue };
            match fault {
                PodFault::Crash => kubelet.crash(&pod),
                PodFault::Unready => kubelet.set_ready(&pod, false),
                PodFault::Ready => kubelet.set_ready(&pod, true),
            }
        }
        Ok(())
    }
}

/// Path of a collection, or of an object in it; namespaced ones are in `default`.
fn path(kind: &str, name: Option<&str>) -> Result<String, String> {
    let (_, _, root, namespaced) = KINDS
        .iter()
        .find(|(known, ..)| *known == kind)
        .ok_or_else(|| format!("the scenario language does not know {kind}"))?;
    let plural = kind.rsplit('/').next().unwrap_or(kind);
    let namespace = if *namespaced { "/namespaces/default" } else { "" };
    let name = name.map(|name| format!("/{name}")).unwrap_or_default();
    Ok(format!("{root}{namespace}/{plural}{name}"))
}

fn words(error: impl std::fmt::Display) -> String {
    error.to_string()
}
