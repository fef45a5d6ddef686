//! What ReplicaSets remember of their Deployment in annotations: its revision, its size when they were last scaled, and
//! its own annotations. `kubectl rollout history` and `undo` read them.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::bounds::Bounds;

/// Which change of the template this is.
pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions that a set had before it was used again.
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// Annotations of a Deployment that say nothing about its sets.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
];
/// Longest history of revisions.
const HISTORY_LENGTH: usize = 2000;

type Annotations = BTreeMap<String, String>;

fn get<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The revision of a Deployment or ReplicaSet, 0 if it has none.
pub(crate) fn of(meta: &ObjectMeta) -> i64 {
    get(meta, REVISION).and_then(|revision| revision.parse().ok()).unwrap_or(0)
}

/// The size of the Deployment when the set was last scaled.
pub(crate) fn desired(set: &ReplicaSet) -> Option<i32> {
    get(&set.metadata, DESIRED)?.parse().ok()
}

/// The most pods that the Deployment allowed when the set was last scaled.
pub(crate) fn most(set: &ReplicaSet) -> Option<i32> {
    get(&set.metadata, MAX)?.parse().ok()
}

/// Notes the Deployment's size in a set.
pub(crate) fn note_size(set: &mut ReplicaSet, bounds: Bounds) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), bounds.replicas.to_string());
    annotations.insert(MAX.to_owned(), bounds.most().to_string());
}

/// Makes a set the Deployment's newest: copies annotations and raises its revision above all others.
pub(crate) fn note_newest(set: &mut ReplicaSet, deployment: &Deployment, newest_other: i64) {
    let before = of(&set.metadata);
    let annotations = set.metadata.annotations.get_or_insert_default();
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !NOT_COPIED.contains(&name.as_str()) {
            annotations.insert(name.clone(), value.clone());
        }
    }
    if before <= newest_other {
        annotations.insert(REVISION.to_owned(), (newest_other + 1).to_string());
        if before > 0 {
            remember(annotations, before);
        }
    }
    if annotations.is_empty() {
        set.metadata.annotations = None;
    }
}

/// Appends to the history, which forgets its oldest entries.
fn remember(annotations: &mut Annotations, revision: i64) {
    let mut history = match annotations.get(HISTORY).filter(|history| !history.is_empty()) {
        Some(history) => format!("{history},{revision}"),
        None => revision.to_string(),
    };
    while history.len() > HISTORY_LENGTH {
        match history.split_once(',') {
            Some((_, rest)) => history = rest.to_owned(),
            None => break,
        }
    }
    annotations.insert(HISTORY.to_owned(), history);
}
