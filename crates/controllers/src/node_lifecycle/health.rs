//! Follows whether nodes live, and writes what that means: conditions, taints, and pods that are not ready.
//!
//! Time is our own: what counts is when a Lease or a status was seen to change, not what a kubelet's clock said. While the
//! API server cannot be asked nobody can be heard, so no node is silent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::freshness::Freshness;
use component::informer::{Index, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use super::plan::{self, Health, Permission};
use super::policy::Policy;
use super::zones::{MISSED, Mode, Zones};
use crate::answers::{is_conflict, is_not_found};
use crate::informers::{Informers, NODE_LEASES};

/// When to ask again while the API server is away.
const AWAY: Duration = Duration::from_secs(10);

/// What was last heard of a node.
#[derive(Clone, Debug)]
struct Heard {
    lease: Option<MicroTime>,
    status: Option<Time>,
    at: Instant,
}

/// Keeps nodes' conditions and taints true.
#[derive(Clone)]
pub struct Monitor {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    by_node: Index<Pod>,
    heard: Arc<Mutex<BTreeMap<String, Heard>>>,
    /// The API server did not answer when it was last asked for a Lease.
    away: Arc<AtomicBool>,
    zones: Arc<Mutex<Zones>>,
    policy: Policy,
    /// Our own writes of nodes. With an older view an eviction would seem to begin twice.
    written: Arc<Freshness<String>>,
    queue: Queue<String>,
    recorder: Recorder,
}

impl Monitor {
    /// A monitor that has heard nothing yet.
    pub fn new(context: &Context, informers: &Informers, queue: &Queue<String>, policy: &Policy) -> Self {
        Self {
            context: context.clone(),
            nodes: informers.nodes.clone(),
            pods: informers.pods.clone(),
            by_node: informers.pods_by_node.clone(),
            heard: Arc::default(),
            away: Arc::default(),
            zones: Arc::new(Mutex::new(Zones::new(policy.clone()))),
            policy: policy.clone(),
            written: Arc::default(),
            queue: queue.clone(),
            recorder: Recorder::new(context, "node-controller", None),
        }
    }

    fn heard(&self) -> MutexGuard<'_, BTreeMap<String, Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn zones(&self) -> MutexGuard<'_, Zones> {
        self.zones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a node's Lease.
    pub fn see_lease(&self, name: &str, lease: Option<&Lease>) {
        let Some(renewed) =
            lease.and_then(|lease| lease.spec.as_ref()).and_then(|spec| spec.renew_time.clone())
        else {
            return;
        };
        let now = Instant::now();
        let mut heard = self.heard();
        let known =
            heard.entry(name.to_owned()).or_insert_with(|| Heard { lease: None, status: None, at: now });
        if known.lease.as_ref() != Some(&renewed) {
            known.lease = Some(renewed);
            known.at = now;
        }
    }

    /// Takes in a node's status.
    pub fn see_node(&self, name: &str, node: Option<&Node>) {
        match node {
            None => drop(self.heard().remove(name)),
            Some(node) => {
                let beat = plan::condition(node, "Ready").and_then(|ready| ready.last_heartbeat_time.clone());
                let now = Instant::now();
                let mut heard = self.heard();
                let known = heard.entry(name.to_owned()).or_insert_with(|| Heard {
                    lease: None,
                    status: None,
                    at: now,
                });
                if beat != known.status {
                    known.status = beat;
                    known.at = now;
                }
            }
        }
        self.see_zone(name, node);
    }

    /// Whether a node may be emptied depends on all others: if that changes, all are looked at.
    fn see_zone(&self, name: &str, node: Option<&Node>) {
        if self.zones().see(name, node, Instant::now()) {
            for node in self.nodes.list() {
                self.queue.add(ObjectKey::of(&*node).name);
            }
        }
    }

    fn silence(&self, name: &str) -> Duration {
        let now = Instant::now();
        self.heard().get(name).map_or(Duration::ZERO, |heard| now - heard.at)
    }

    /// The nodes that have missed renewals.
    fn silent(&self) -> BTreeSet<String> {
        let now = Instant::now();
        let heard = self.heard();
        let silent = heard.iter().filter(|(_, heard)| now - heard.at >= MISSED);
        silent.map(|(name, _)| name.clone()).collect()
    }

    /// Brings one node's conditions, taints and pods up to date.
    pub async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let Some(node) = self.nodes.get(&ObjectKey::new("", name)) else {
            self.written.forget(&name.to_owned());
            return Ok(Next::Done);
        };
        if !self.written.ready(&name.to_owned(), self.nodes.revision()) {
            return Ok(Next::Done);
        }
        if self.away.load(Ordering::Relaxed) && !self.hear(name).await? {
            return Ok(Next::After(AWAY));
        }
        let api: Api<Node> = Api::all(self.context.client.clone());
        let now = self.context.clock.now();
        let mut health = plan::health(&node, self.silence(name), &self.policy, now);
        if matches!(health, Health::Lost(_)) {
            if !self.hear(name).await? {
                return Ok(Next::After(AWAY));
            }
            health = plan::health(&node, self.silence(name), &self.policy, now);
        }
        let mut next = Next::Done;
        let mut current = (*node).clone();
        match health {
            Health::Alive(left) => next = Next::After(left),
            Health::Silent => {}
            Health::Lost(conditions) => {
                let body = json!({
                    "metadata": {"resourceVersion": node.metadata.resource_version},
                    "status": {"conditions": conditions},
                });
                current = match api.patch_status(name, &PatchParams::default(), &Patch::Merge(body)).await {
                    Ok(patched) => patched,
                    Err(error) if is_not_found(&error) => return Ok(Next::Done),
                    Err(error) => return Err(error),
                };
                self.written.note(name.to_owned(), current.metadata.resource_version.as_deref());
                self.see_zone(name, Some(&current));
            }
        }
        if plan::is_ready(&node) && !plan::is_ready(&current) {
            self.recorder.event(
                &reference(&current),
                EventType::Normal,
                "NodeNotReady",
                format!("Node {name} status is now: NodeNotReady"),
            );
        }
        next = next.or_sooner(self.taint(&api, name, &current).await?);
        self.mark_pods(name, &current).await?;
        Ok(next)
    }

    /// Asks the API server for the Lease: the cache may be behind, or nobody may have been able to renew. Says whether
    /// there was an answer. As long as there is none, and from when there is one again, every node has its whole grace.
    async fn hear(&self, name: &str) -> kube::Result<bool> {
        let leases: Api<Lease> = Api::namespaced(self.context.client.clone(), NODE_LEASES);
        let answered = match leases.get_opt(name).await {
            Ok(lease) => {
                self.see_lease(name, lease.as_ref());
                true
            }
            Err(kube::Error::Api(status)) if status.code < 500 && status.code != 429 => {
                return Err(kube::Error::Api(status));
            }
            Err(error) => {
                tracing::info!(node = name, %error, "the API server is away; nodes get their grace anew");
                false
            }
        };
        let was_away = self.away.swap(!answered, Ordering::Relaxed);
        if was_away || !answered {
            let now = Instant::now();
            for heard in self.heard().values_mut() {
                heard.at = now;
            }
        }
        Ok(answered)
    }

    async fn taint(&self, api: &Api<Node>, name: &str, node: &Node) -> kube::Result<Next> {
        let mut next = Next::Done;
        let permission = {
            let mut zones = self.zones();
            match zones.mode(name) {
                Mode::Lifted => Permission::Revoked,
                _ if !plan::begins_eviction(node) => Permission::Granted,
                _ => match zones.take(name, &self.silent(), Instant::now()) {
                    Ok(()) => Permission::Granted,
                    Err(wait) => {
                        next = wait.map_or(Next::Done, Next::After);
                        Permission::Withheld
                    }
                },
            }
        };
        let Some(taints) = plan::wanted_taints(node, permission, self.context.clock.now()) else {
            return Ok(next);
        };
        // Without any, a node has no list either.
        let taints = Some(taints).filter(|taints| !taints.is_empty());
        let body = json!({
            "metadata": {"resourceVersion": node.metadata.resource_version},
            "spec": {"taints": taints},
        });
        match api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await {
            Ok(patched) => {
                self.written.note(name.to_owned(), patched.metadata.resource_version.as_deref());
                Ok(next)
            }
            Err(error) if is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    /// Pods of a node that is not ready are not ready either, so that nobody sends them anything.
    async fn mark_pods(&self, name: &str, node: &Node) -> kube::Result<()> {
        if plan::is_ready(node) {
            return Ok(());
        }
        let keys = self.by_node.get(name).into_iter().map(|pod| ObjectKey::of(&*pod));
        // Each as it is when its turn comes.
        let stale = keys.filter_map(|key| self.pods.get(&key).map(|pod| (key, pod)));
        for (key, pod) in stale.filter(|(_, pod)| plan::is_stale_ready(pod, node)) {
            let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
            let body = json!({
                "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
                "status": {"conditions": [
                    {"type": "Ready", "status": "False", "lastTransitionTime": Time(self.context.clock.now())},
                ]},
            });
            match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await {
                Ok(_) => {
                    let object = reference(&*pod);
                    self.recorder.event(&object, EventType::Warning, "NodeNotReady", "Node is not ready");
                }
                // It has changed: that change wakes the node again.
                Err(error) if is_not_found(&error) || is_conflict(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
