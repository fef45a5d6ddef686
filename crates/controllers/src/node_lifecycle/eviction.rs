//! Pods leave nodes whose `NoExecute` taints they do not tolerate, or no longer: at their deadline, not before, and not at
//! all if the taint goes in time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::Informer;
use component::{Context, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use pod_rules::status::{is_deleting, node_name};
use serde_json::json;

use super::plan;
use crate::answers::{is_conflict, is_not_found};
use crate::informers::Informers;

/// A pod that has to leave: its uid, and when we first saw that it has to.
type Pending = (Option<String>, Timestamp);

/// Evicts pods.
#[derive(Clone)]
pub struct Evictor {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pending: Arc<Mutex<BTreeMap<ObjectKey, Pending>>>,
    recorder: Recorder,
}

impl Evictor {
    /// An evictor that has evicted nobody yet.
    pub fn new(context: &Context, informers: &Informers) -> Self {
        Self {
            context: context.clone(),
            nodes: informers.nodes.clone(),
            pods: informers.pods.clone(),
            pending: Arc::default(),
            recorder: Recorder::new(context, "taint-eviction-controller", None),
        }
    }

    fn pending(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Evicts one pod if its time has come, and says when that will be otherwise.
    pub async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let pod = self.pods.get(key).filter(|pod| !is_deleting(pod) && !node_name(pod).is_empty());
        let Some(pod) = pod else {
            self.pending().remove(key);
            return Ok(Next::Done);
        };
        let taints = self.nodes.get(&ObjectKey::new("", node_name(&pod))).map(|node| plan::evicting(&node));
        let now = self.context.clock.now();
        let first_seen = self.first_seen(key, &pod).unwrap_or(now);
        let Some(deadline) = plan::eviction(&pod, &taints.unwrap_or_default(), first_seen) else {
            self.cancel(key, &pod);
            return Ok(Next::Done);
        };
        self.pending().insert(key.clone(), (pod.metadata.uid.clone(), first_seen));
        let left = Duration::try_from(deadline.duration_since(now)).unwrap_or(Duration::ZERO);
        if !left.is_zero() {
            return Ok(Next::After(left));
        }
        self.evict(key, &pod, first_seen).await
    }

    fn first_seen(&self, key: &ObjectKey, pod: &Pod) -> Option<Timestamp> {
        let pending = self.pending();
        pending.get(key).filter(|(uid, _)| *uid == pod.metadata.uid).map(|(_, seen)| *seen)
    }

    fn cancel(&self, key: &ObjectKey, pod: &Pod) {
        let pending = self.pending().remove(key);
        if pending.is_some_and(|(uid, _)| uid == pod.metadata.uid) {
            let note = format!("Cancelling deletion of Pod {key}");
            self.recorder.event(&reference(pod), EventType::Normal, "TaintManagerEviction", note);
        }
    }

    /// Says why, then deletes. The node is asked for once more: a taint that is gone evicts nobody, even if our cache does
    /// not know yet.
    async fn evict(&self, key: &ObjectKey, pod: &Pod, first_seen: Timestamp) -> kube::Result<Next> {
        let nodes: Api<Node> = Api::all(self.context.client.clone());
        let live = nodes.get_opt(node_name(pod)).await?;
        let taints = live.as_ref().map(plan::evicting).unwrap_or_default();
        let now = self.context.clock.now();
        if plan::eviction(pod, &taints, first_seen).is_none_or(|deadline| deadline > now) {
            return Ok(Next::Done);
        }
        let api: Api<Pod> = Api::namespaced(self.context.client.clone(), &key.namespace);
        let body = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager",
            "message": "Taint manager: deleting due to NoExecute taint", "lastTransitionTime": Time(now),
        }]}});
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(body)).await {
            Ok(_) => {}
            Err(error) if is_not_found(&error) || is_conflict(&error) => return Ok(Next::Done),
            Err(error) => return Err(error),
        }
        let preconditions = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match api.delete(&key.name, &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => {
                let note = format!("Marking for deletion Pod {key}");
                self.recorder.event(&reference(pod), EventType::Normal, "TaintManagerEviction", note);
                Ok(Next::Done)
            }
            Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}
