//! Writing a pod's status: only what changed, only while the object is the one that we mean, one write at a time, and
//! again when one failed. Conditions of others are left alone.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use serde_json::{Map, Value, json};

use crate::lifecycle::uid;
use crate::podspec::{name, namespace};
use crate::shared::Shared;

/// No answer within this time is no answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// What the API said to a write.
pub(super) enum Answer {
    Written(Box<Pod>),
    /// There is no such pod any more.
    Gone,
    Failed(String),
}

type Sending = Pin<Box<dyn Future<Output = Answer> + Send>>;

#[derive(Default)]
pub(super) struct Report {
    wanted: Option<PodStatus>,
    /// What was written last, and the version of the object since.
    written: Option<(PodStatus, Option<String>)>,
    sending: Option<(PodStatus, Sending)>,
    retry_at: Option<Timestamp>,
    failures: u32,
}

impl Report {
    /// Sees to it that the API shows this status.
    pub fn want(&mut self, shared: &Arc<Shared>, pod: &Arc<Pod>, status: PodStatus, now: Timestamp) {
        self.wanted = Some(status);
        if self.sending.is_some() || self.retry_at.is_some_and(|time| time > now) {
            return;
        }
        self.retry_at = None;
        let Some(patch) = self.pending(pod) else { return };
        let wanted = self.wanted.clone().unwrap_or_default();
        let (shared, pod) = (shared.clone(), pod.clone());
        self.sending = Some((wanted, Box::pin(async move { write(&shared, &pod, &patch).await })));
    }

    /// The patch that would bring the API up to date, if it is not.
    pub fn pending(&self, pod: &Pod) -> Option<Value> {
        let wanted = self.wanted.as_ref()?;
        // What the server keeps in another form would otherwise be written for ever.
        let same_as_written = self
            .written
            .as_ref()
            .is_some_and(|(written, version)| written == wanted && *version == pod.metadata.resource_version);
        if same_as_written { None } else { difference(pod, wanted) }
    }

    /// When a failed write is due again.
    pub fn retry_at(&self) -> Option<Timestamp> {
        self.retry_at
    }

    /// The last write failed.
    pub fn retry_after(&mut self, now: Timestamp) {
        self.failures += 1;
        let delay = RETRY.saturating_mul(1 << (self.failures - 1).min(8)).min(RETRY_LAST);
        self.retry_at = Some(now + delay);
    }

    /// The answer to the write that is under way; never, while there is none.
    pub async fn answered(&mut self) -> Answer {
        let Some((_, sending)) = &mut self.sending else { return std::future::pending().await };
        let answer = sending.await;
        let status = self.sending.take().map(|(status, _)| status).unwrap_or_default();
        if let Answer::Written(pod) = &answer {
            self.written = Some((status, pod.metadata.resource_version.clone()));
            self.failures = 0;
        }
        answer
    }
}

async fn write(shared: &Shared, pod: &Pod, patch: &Value) -> Answer {
    let api = Api::<Pod>::namespaced(shared.context.client.clone(), namespace(pod));
    let parameters = PatchParams::default();
    let patch = Patch::Strategic(patch);
    let call = api.patch_status(name(pod), &parameters, &patch);
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(Ok(answer)) => {
            tell_deadline(shared, pod, &answer);
            Answer::Written(Box::new(answer))
        }
        // Another pod may have the name by now: its uid is not ours to change.
        Ok(Err(kube::Error::Api(status))) if matches!(status.code, 404 | 409 | 422) => {
            if status.code == 404 || status.message.contains("uid") {
                Answer::Gone
            } else {
                Answer::Failed(status.message.clone())
            }
        }
        Ok(Err(error)) => Answer::Failed(error.to_string()),
        Err(_) => Answer::Failed("no answer".to_owned()),
    }
}

/// The end of a pod's time is an event too, the first time that its status says so.
fn tell_deadline(shared: &Shared, before: &Pod, after: &Pod) {
    const REASON: &str = "DeadlineExceeded";
    let says = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some(REASON);
    if says(after) && !says(before) {
        let message = after.status.as_ref().and_then(|status| status.message.clone());
        shared.pod_event(after, EventType::Normal, REASON, message.unwrap_or_default());
    }
}

/// Writes what is left to be said of a pod that is about to be deleted.
pub(super) async fn write_last(shared: &Shared, pod: &Pod, patch: Option<Value>) -> Result<(), String> {
    let Some(patch) = patch else { return Ok(()) };
    match write(shared, pod, &patch).await {
        Answer::Written(_) | Answer::Gone => Ok(()),
        Answer::Failed(error) => Err(error),
    }
}

/// Lists that the API merges by a key, so that they are patched item by item.
const MERGED: [(&str, &str); 3] = [("conditions", "type"), ("podIPs", "ip"), ("hostIPs", "ip")];

/// The strategic merge patch from the object's status to the wanted one; `None` when they are the same.
pub(super) fn difference(pod: &Pod, wanted: &PodStatus) -> Option<Value> {
    let object = |status: &PodStatus| match serde_json::to_value(status) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    let old = pod.status.as_ref().map(object).unwrap_or_default();
    let new = object(wanted);
    let mut changes = Map::new();
    for (field, value) in &new {
        let before = old.get(field);
        if before == Some(value) {
            continue;
        }
        let merged = MERGED.iter().find(|(list, _)| list == field);
        let change = merged.map_or_else(|| value.clone(), |(_, key)| items(before, value, key));
        changes.insert(field.clone(), change);
    }
    for field in old.keys().filter(|field| !new.contains_key(*field)) {
        changes.insert(field.clone(), Value::Null);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid(pod)}, "status": changes}))
}

/// Items that are new or different, and the removal of those that are gone.
fn items(old: Option<&Value>, new: &Value, key: &str) -> Value {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let (old, new) = (list(old), list(Some(new)));
    let gone = old.iter().filter(|item| !new.iter().any(|other| other.get(key) == item.get(key)));
    let gone = gone.map(|item| json!({"$patch": "delete", key: item.get(key)}));
    let changed = new.iter().filter(|item| !old.contains(item)).cloned();
    Value::Array(changed.chain(gone).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).expect("a status")
    }

    #[test]
    fn only_what_changed_is_written() {
        let metadata = serde_json::from_value(json!({"name": "a", "uid": "u"})).expect("metadata");
        let old = status(json!({
            "phase": "Pending", "reason": "Old",
            "conditions": [{"type": "Ready", "status": "False"}, {"type": "Other", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.1"}], "podIP": "10.0.0.1", "startTime": "2026-01-01T00:00:00Z",
        }));
        let new = status(json!({
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}, {"type": "Other", "status": "True"}],
            "podIPs": [{"ip": "10.0.0.2"}], "podIP": "10.0.0.2", "startTime": "2026-01-01T00:00:00Z",
        }));
        let pod = Pod { metadata, spec: None, status: Some(old.clone()) };
        assert_eq!(difference(&pod, &old), None);
        assert_eq!(
            difference(&pod, &new),
            Some(json!({"metadata": {"uid": "u"}, "status": {
                "phase": "Running", "reason": null,
                "conditions": [{"type": "Ready", "status": "True"}],
                "podIPs": [{"ip": "10.0.0.2"}, {"$patch": "delete", "ip": "10.0.0.1"}], "podIP": "10.0.0.2",
            }}))
        );
    }
}
