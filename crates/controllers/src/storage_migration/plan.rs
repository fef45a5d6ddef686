//! What a migration's status says, and when it is over. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kube::core::DynamicObject;
use serde_json::{Value, json};

/// How long a resource that is not there may take to appear: it may be a custom one that was made with its migration.
const GRACE: SignedDuration = SignedDuration::from_mins(1);
/// How soon to look for it again.
const AGAIN: Duration = Duration::from_secs(5);

/// What came of a pass over the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every object is written.
    Complete,
    /// One could not be.
    Failed(String),
    /// Nobody wants it any more.
    Gone,
}

/// What is true of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    Running,
    Succeeded,
    Failed(String),
}

impl Phase {
    fn words(&self) -> (&'static str, &'static str, &str) {
        match self {
            Phase::Running => ("Running", "StorageVersionMigrationInProgress", ""),
            Phase::Succeeded => ("Succeeded", "StorageVersionMigrationSucceeded", ""),
            Phase::Failed(why) => ("Failed", "StorageVersionMigrationFailed", why),
        }
    }
}

/// Whether it has come to its end.
pub fn is_done(migration: &DynamicObject) -> bool {
    let conditions = migration.data["status"]["conditions"].as_array().into_iter().flatten();
    let mut ends = conditions.filter(|c| c["type"] == "Succeeded" || c["type"] == "Failed");
    ends.any(|condition| condition["status"] == "True")
}

/// The group and the plural of what is to be written.
pub fn wanted(migration: &DynamicObject) -> (&str, &str) {
    let resource = &migration.data["spec"]["resource"];
    (resource["group"].as_str().unwrap_or(""), resource["resource"].as_str().unwrap_or(""))
}

/// When to look again for a resource that is not there; nothing if it is not waited for.
pub fn may_appear(migration: &DynamicObject, now: Timestamp) -> Option<Duration> {
    let made = migration.metadata.creation_timestamp.as_ref()?.0;
    (now.duration_since(made) < GRACE).then_some(AGAIN)
}

/// The conditions of a migration of which this has become true: it alone, of those that are a migrator's.
pub fn conditions(migration: &DynamicObject, phase: &Phase, now: Timestamp) -> Vec<Value> {
    let (kind, reason, why) = phase.words();
    let known = migration.data["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut all: Vec<Value> = known.iter().filter(|condition| condition["type"] != kind).cloned().collect();
    let stamp = Value::from(api_machinery::clock::rfc3339(now));
    for condition in all.iter_mut().filter(|c| c["type"] == "Running" && c["status"] == "True") {
        condition["status"] = "False".into();
        condition["lastTransitionTime"] = stamp.clone();
    }
    let same = known.iter().find(|condition| condition["type"] == kind && condition["status"] == "True");
    let since = same.map_or(stamp, |condition| condition["lastTransitionTime"].clone());
    all.push(json!({"type": kind, "status": "True", "reason": reason, "message": why, "lastTransitionTime": since}));
    all
}
