//! What the namespace of a deletion is told about it, and whether it may go. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::core::ObjectMeta;

/// The finalizer that stands for the content.
pub const FINALIZER: &str = "kubernetes";
/// The kind that goes first: what runs ends before what it relies on goes, its network policies above all.
pub const FIRST: &str = "pods";

/// What one pass over a namespace's content found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Group versions that could not be discovered.
    pub undiscovered: Vec<String>,
    /// What could not be deleted or listed, in the server's words.
    pub failures: Vec<String>,
    /// How many objects are left, by `plural.group`.
    pub remaining: BTreeMap<String, usize>,
    /// In how many of them each finalizer is left.
    pub finalizers: BTreeMap<String, usize>,
}

impl Content {
    /// Notes the objects of a kind that are left.
    pub fn remains<'a>(&mut self, kind: &str, objects: impl Iterator<Item = &'a ObjectMeta>) {
        let mut count = 0;
        for object in objects {
            count += 1;
            for finalizer in object.finalizers.iter().flatten() {
                *self.finalizers.entry(finalizer.clone()).or_default() += 1;
            }
        }
        if count > 0 {
            self.remaining.insert(kind.to_owned(), count);
        }
    }

    /// Whether everything was found and nothing is left.
    pub fn is_empty(&self) -> bool {
        self.undiscovered.is_empty() && self.failures.is_empty() && self.remaining.is_empty()
    }
}

/// Whether this controller has work with a namespace.
pub fn is_ours(namespace: &Namespace) -> bool {
    namespace.metadata.deletion_timestamp.is_some()
        && finalizers(namespace).iter().any(|name| name == FINALIZER)
}

/// The finalizers of the spec.
pub fn finalizers(namespace: &Namespace) -> &[String] {
    namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default()
}

/// The namespace without our finalizer.
pub fn finalized(namespace: &Namespace) -> Namespace {
    let mut finalized = namespace.clone();
    let spec = finalized.spec.get_or_insert_default();
    spec.finalizers.get_or_insert_default().retain(|name| name != FINALIZER);
    finalized
}

/// Type, status, reason and message of a condition.
type Said = (&'static str, bool, &'static str, String);

/// The conditions that describe a pass, or `None` if the namespace says so already.
pub fn conditions(
    namespace: &Namespace,
    content: &Content,
    now: Timestamp,
) -> Option<Vec<NamespaceCondition>> {
    let status = namespace.status.clone().unwrap_or_default();
    let before = status.conditions.unwrap_or_default();
    let mut after = before.clone();
    for (kind, set, reason, message) in said(content) {
        let status = if set { "True" } else { "False" };
        let known = after.iter_mut().find(|condition| condition.type_ == kind);
        let same_status = known.as_ref().is_some_and(|known| known.status == status);
        let since =
            known.as_ref().filter(|_| same_status).and_then(|known| known.last_transition_time.clone());
        let condition = NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or(Time(now))),
        };
        match known {
            Some(known) => *known = condition,
            None => after.push(condition),
        }
    }
    (after != before || status.phase.as_deref() != Some("Terminating")).then_some(after)
}

fn said(content: &Content) -> [Said; 5] {
    let listed = |counts: &BTreeMap<String, usize>, word: &str| {
        let parts: Vec<String> =
            counts.iter().map(|(name, count)| format!("{name} {word} {count} resource instances")).collect();
        parts.join(", ")
    };
    let discovery = match content.undiscovered.as_slice() {
        [] => (false, "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        failed => {
            let text =
                format!("Discovery failed for some groups, {} failing: {}", failed.len(), failed.join(", "));
            (true, "DiscoveryFailed", text)
        }
    };
    let deletion = match content.failures.as_slice() {
        [] => {
            let text = "All content successfully deleted, may be waiting on finalization";
            (false, "ContentDeleted", text.to_owned())
        }
        failed => {
            let (count, all) = (failed.len(), failed.join(", "));
            (
                true,
                "ContentDeletionFailed",
                format!("Failed to delete all resource types, {count} remaining: {all}"),
            )
        }
    };
    let remaining = match content.remaining.is_empty() {
        true => (false, "ContentRemoved", "All content successfully removed".to_owned()),
        false => {
            let all = listed(&content.remaining, "has");
            (true, "SomeResourcesRemain", format!("Some resources are remaining: {all}"))
        }
    };
    let finalizers = match content.finalizers.is_empty() {
        true => (false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned()),
        false => {
            let all = listed(&content.finalizers, "in");
            let text = format!("Some content in the namespace has finalizers remaining: {all}");
            (true, "SomeFinalizersRemain", text)
        }
    };
    // Group versions of our own discovery are always well formed.
    let parsing = (false, "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned());
    [
        ("NamespaceDeletionDiscoveryFailure", discovery),
        ("NamespaceDeletionGroupVersionParsingFailure", parsing),
        ("NamespaceDeletionContentFailure", deletion),
        ("NamespaceContentRemaining", remaining),
        ("NamespaceFinalizersRemaining", finalizers),
    ]
    .map(|(kind, (set, reason, message))| (kind, set, reason, message))
}
