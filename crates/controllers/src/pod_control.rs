//! Making and deleting the pods of an owner: in batches, told as events, and waited for before the owner is looked at again.

use std::sync::Arc;

use component::Api;
use component::events::{EventType, Recorder};
use component::{Context, ObjectKey};
use futures::future::join_all;
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::DeleteParams;

use crate::answers;
use crate::expectations::Expectations;

/// What kept a pass from making or deleting all that it should.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {message}")]
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub reason: &'static str,
    pub message: String,
}

/// Writes pods for the owners of one kind.
pub(crate) struct PodControl {
    client: kube::Client,
    events: Recorder,
    /// Writes of pods, by owner.
    pub writes: Expectations,
}

impl PodControl {
    /// `component` is who events are from.
    pub(crate) fn new(context: &Context, component: &'static str) -> Self {
        let events = Recorder::new(context, component, None);
        Self { client: context.client.clone(), events, writes: Expectations::default() }
    }

    /// Makes pods in batches that double: what the API refuses is refused once, not hundreds of times. In a namespace that
    /// is being deleted, none are made and nothing is wrong.
    pub(crate) async fn create(
        &self,
        key: &ObjectKey,
        owner: &ObjectReference,
        pods: &[Pod],
    ) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let (mut left, mut batch) = (pods, 1);
        while !left.is_empty() {
            let (now, later) = left.split_at(batch.min(left.len()));
            let mut failed = None;
            let mut pointless = false;
            for created in join_all(now.iter().map(|pod| self.writes.create(key, &api, pod))).await {
                match created {
                    Ok(pod) => {
                        let note = format!("Created pod: {}", pod.metadata.name.unwrap_or_default());
                        self.events.event(owner, EventType::Normal, "SuccessfulCreate", note);
                    }
                    Err(error) if answers::namespace_terminates(&error) => pointless = true,
                    Err(error) => {
                        let message = answers::message(&error);
                        let note = format!("Error creating: {message}");
                        self.events.event(owner, EventType::Warning, "FailedCreate", note);
                        failed = failed.or(Some(message));
                    }
                }
            }
            if let Some(message) = failed {
                return Err(Failure { reason: "FailedCreate", message });
            }
            if pointless {
                return Ok(());
            }
            (left, batch) = (later, batch * 2);
        }
        Ok(())
    }

    /// Deletes these very pods, all of them side by side.
    pub(crate) async fn delete(
        &self,
        key: &ObjectKey,
        owner: &ObjectReference,
        pods: &[Arc<Pod>],
    ) -> Result<(), Failure> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let gracefully = DeleteParams::default;
        let deletions = pods.iter().map(|pod| self.writes.delete(key, &api, &**pod, gracefully()));
        let mut failed = None;
        for (pod, deleted) in pods.iter().zip(join_all(deletions).await) {
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match deleted {
                Ok(()) => {
                    let note = format!("Deleted pod: {name}");
                    self.events.event(owner, EventType::Normal, "SuccessfulDelete", note);
                }
                Err(error) => {
                    let message = answers::message(&error);
                    let note = format!("Error deleting: {message}");
                    self.events.event(owner, EventType::Warning, "FailedDelete", note);
                    failed = failed.or(Some(message));
                }
            }
        }
        failed.map_or(Ok(()), |message| Err(Failure { reason: "FailedDelete", message }))
    }
}
