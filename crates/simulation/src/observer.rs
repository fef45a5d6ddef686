//! Reads what is stored, as raw bytes, and judges conditions on it. Knows the store's keys and JSON, and deliberately
//! nothing of the API server, the scheduler or the controllers.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::laws::Laws;
use crate::scenario::{Condition, Operator, Test};

/// Where objects are stored whose folder is not named as scenarios name their kind: folder and kind.
const FOLDERS: &[(&str, &str)] = &[
    ("clusterroles", "rbac.authorization.k8s.io/clusterroles"),
    ("controllerrevisions", "apps/controllerrevisions"),
    ("controllers", "replicationcontrollers"),
    ("cronjobs", "batch/cronjobs"),
    ("daemonsets", "apps/daemonsets"),
    ("deployments", "apps/deployments"),
    ("endpointslices", "discovery.k8s.io/endpointslices"),
    ("jobs", "batch/jobs"),
    ("leases", "coordination.k8s.io/leases"),
    ("minions", "nodes"),
    ("poddisruptionbudgets", "policy/poddisruptionbudgets"),
    ("priorityclasses", "scheduling.k8s.io/priorityclasses"),
    ("replicasets", "apps/replicasets"),
    ("services/endpoints", "endpoints"),
    ("services/specs", "services"),
    ("statefulsets", "apps/statefulsets"),
    ("volumeattributesclasses", "storage.k8s.io/volumeattributesclasses"),
];

/// A key of the store, with the kind as scenarios name it.
fn by_kind(key: &str) -> Cow<'_, str> {
    let Some(rest) = key.strip_prefix("/registry/") else { return key.into() };
    let found = FOLDERS.iter().find_map(|(folder, kind)| {
        let below = rest.strip_prefix(folder).filter(|below| below.starts_with('/'))?;
        Some(format!("/registry/{kind}{below}"))
    });
    found.map_or(Cow::Borrowed(key), Cow::Owned)
}

/// All stored objects by key, kept up to date from the store's events.
#[derive(Debug, Default)]
pub struct Observer {
    objects: BTreeMap<String, Value>,
    /// A running fingerprint of everything that happened, and when.
    trace: u64,
    changes: u64,
    /// What must hold in every scenario.
    laws: Laws,
    /// Uids of the objects that existed at the last `mark`.
    marked: BTreeSet<String>,
    /// The key of the last change.
    last: String,
}

impl Observer {
    /// Takes one change into account. `millis` is the simulated time.
    pub fn see(&mut self, millis: u128, revision: u64, key: &str, value: Option<&[u8]>) {
        self.changes += 1;
        let mut mix = |bytes: &[u8]| {
            for byte in bytes {
                self.trace = (self.trace ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        };
        mix(&millis.to_le_bytes());
        mix(&revision.to_le_bytes());
        mix(key.as_bytes());
        mix(value.unwrap_or(b"-"));
        let key = &*by_kind(key);
        key.clone_into(&mut self.last);
        // Allocations and the like are no objects; they count for the trace only.
        let object: Option<Value> = value.and_then(|bytes| serde_json::from_slice(bytes).ok());
        self.laws.see(key, object.as_ref());
        match object {
            Some(object) => drop(self.objects.insert(key.to_owned(), object)),
            None => drop(self.objects.remove(key)),
        }
    }

    /// The first law that was broken, in words.
    pub fn broken(&self) -> Option<&str> {
        self.laws.broken()
    }

    /// What exists now is not new from here on.
    pub fn mark(&mut self) {
        let uids = self.objects.values().filter_map(|object| object["metadata"]["uid"].as_str());
        self.marked = uids.map(str::to_owned).collect();
    }

    /// Whether the last change can have changed what a condition says.
    fn touched(&self, condition: &Condition) -> bool {
        let below = self.last.strip_prefix("/registry/").and_then(|key| key.strip_prefix(condition.kind()));
        below.is_some_and(|below| below.starts_with('/'))
    }

    /// A number that is the same for two runs in which the same things happened at the same times.
    pub fn trace(&self) -> (u64, u64) {
        (self.changes, self.trace)
    }

    /// The objects of a kind, in the order of their keys.
    pub fn of_kind<'a>(&'a self, kind: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let prefix = format!("/registry/{kind}/");
        self.objects
            .range(prefix.clone()..)
            .take_while(move |(key, _)| key.starts_with(&prefix))
            .map(|(key, object)| (key.as_str(), object))
    }

    /// An object of the default namespace, or without one.
    pub fn get(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects
            .get(&format!("/registry/{kind}/default/{name}"))
            .or_else(|| self.objects.get(&format!("/registry/{kind}/{name}")))
    }

    /// Objects of a kind that have all of these labels.
    pub fn labelled<'a>(
        &'a self,
        kind: &str,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = (&'a str, &'a Value)> {
        self.of_kind(kind).filter(move |(_, object)| has_labels(object, labels))
    }

    /// Whether a condition holds; the text says what was found.
    pub fn judge(&self, condition: &Condition) -> (bool, String) {
        match condition {
            Condition::Field { kind, name, test } => match self.get(kind, name) {
                Some(object) => {
                    let found = field(object, &test.path);
                    (holds(found, test), format!("{kind}/{name}{} is {}", test.path, text(found)))
                }
                None => (test.value == "null", format!("there is no {kind}/{name}")),
            },
            Condition::Count { operator, number, .. } => {
                verdict(*operator, *number, self.counted(condition).count())
            }
        }
    }

    /// The keys of the objects that a condition counts.
    fn counted<'a>(&'a self, condition: &'a Condition) -> impl Iterator<Item = &'a str> {
        let all = self.of_kind(condition.kind());
        all.filter(move |(_, object)| self.counts(condition, object)).map(|(key, _)| key)
    }

    /// Whether a condition counts an object of its kind.
    fn counts(&self, condition: &Condition, object: &Value) -> bool {
        let Condition::Count { labels, tests, new, .. } = condition else { return false };
        let known = || object["metadata"]["uid"].as_str().is_some_and(|uid| self.marked.contains(uid));
        has_labels(object, labels)
            && !(*new && known())
            && tests.iter().all(|test| holds(field(object, &test.path), test))
    }
}

fn has_labels(object: &Value, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| object["metadata"]["labels"][key] == value.as_str())
}

fn verdict(operator: Operator, number: usize, count: usize) -> (bool, String) {
    (ordered(operator, count.cmp(&number)), format!("there are {count}"))
}

/// A condition that is judged change by change: what it counts is kept, not counted anew among thousands.
#[derive(Debug)]
pub struct Watched {
    condition: Condition,
    counted: BTreeSet<String>,
}

impl Watched {
    /// Counts once.
    pub fn new(condition: Condition, observer: &Observer) -> Self {
        let counted = observer.counted(&condition).map(str::to_owned).collect();
        Self { condition, counted }
    }

    /// The condition.
    pub fn condition(&self) -> &Condition {
        &self.condition
    }

    /// Takes the observer's last change into account; returns whether it can have changed what the condition says.
    pub fn follow(&mut self, observer: &Observer) -> bool {
        let touched = observer.touched(&self.condition);
        if touched {
            let object = observer.objects.get(&observer.last);
            if object.is_some_and(|object| observer.counts(&self.condition, object)) {
                self.counted.insert(observer.last.clone());
            } else {
                self.counted.remove(&observer.last);
            }
        }
        touched
    }

    /// Whether the condition holds; the text says what was found.
    pub fn judge(&self, observer: &Observer) -> (bool, String) {
        match &self.condition {
            Condition::Field { .. } => observer.judge(&self.condition),
            Condition::Count { operator, number, .. } => verdict(*operator, *number, self.counted.len()),
        }
    }
}

/// `.status.conditions[type=Ready].status`, `.spec.containers.0.image`
fn field<'a>(object: &'a Value, path: &str) -> &'a Value {
    let mut value = object;
    for step in path.split('.').filter(|step| !step.is_empty()) {
        let (name, pick) = match step.split_once('[') {
            Some((name, pick)) => (name, pick.strip_suffix(']')),
            None => (step, None),
        };
        value = match name.parse::<usize>() {
            Ok(index) => &value[index],
            Err(_) => &value[name],
        };
        if let Some((key, wanted)) = pick.and_then(|pick| pick.split_once('=')) {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            value = items.iter().find(|item| item[key] == wanted).unwrap_or(&Value::Null);
        }
    }
    value
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn holds(value: &Value, test: &Test) -> bool {
    let found = text(value);
    match (test.operator, value.as_f64(), test.value.parse::<f64>()) {
        (Operator::Contains, ..) => found.contains(&test.value),
        (operator, Some(found), Ok(wanted)) => {
            found.partial_cmp(&wanted).is_some_and(|order| ordered(operator, order))
        }
        // A counter that is zero is not written.
        (operator, None, Ok(wanted)) if value.is_null() => {
            0.0_f64.partial_cmp(&wanted).is_some_and(|order| ordered(operator, order))
        }
        (operator, ..) => ordered(operator, found.cmp(&test.value)),
    }
}

fn ordered(operator: Operator, order: Ordering) -> bool {
    match operator {
        Operator::Equal => order == Ordering::Equal,
        Operator::Unequal => order != Ordering::Equal,
        Operator::AtLeast => order != Ordering::Less,
        Operator::AtMost => order != Ordering::Greater,
        Operator::Contains => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_judged_on_what_is_stored() {
        let mut observer = Observer::default();
        let pod = |node: &str, ready: &str| {
            format!(
                r#"{{"metadata":{{"labels":{{"app":"web"}}}},"spec":{{"nodeName":"{node}"}},
                       "status":{{"conditions":[{{"type":"Ready","status":"{ready}"}}]}}}}"#
            )
        };
        observer.see(0, 1, "/registry/pods/default/a", Some(pod("n1", "True").as_bytes()));
        observer.see(0, 2, "/registry/pods/default/b", Some(pod("n2", "False").as_bytes()));
        let judge = |line: &str| {
            let scenario: crate::scenario::Scenario = format!("always {line}").parse().unwrap();
            let crate::scenario::Step::Always(condition) = &scenario.steps[0].1 else { panic!() };
            observer.judge(condition).0
        };
        assert!(judge("count pods app=web is = 2"));
        assert!(judge("count pods app=web where .spec.nodeName != n1 is = 1"));
        assert!(judge("count pods where .status.conditions[type=Ready].status = True is = 1"));
        assert!(judge("get pods a .spec.nodeName = n1"));
        assert!(judge("get pods a .status.restarts = 0"), "a counter that is not written is zero");
        assert!(judge("get pods gone .spec = null"));
        assert!(!judge("count pods app=other is >= 1"));
    }

    #[test]
    fn what_is_followed_is_what_would_be_counted_anew() {
        let condition = "always count pods app=web where .spec.nodeName = n1 is = 1";
        let scenario: crate::scenario::Scenario = condition.parse().unwrap();
        let crate::scenario::Step::Always(condition) = &scenario.steps[0].1 else { panic!() };
        let mut observer = Observer::default();
        let mut watched = Watched::new(condition.clone(), &observer);
        let pod = |node: &str| {
            format!(r#"{{"metadata":{{"labels":{{"app":"web"}}}},"spec":{{"nodeName":"{node}"}}}}"#)
        };
        let story = [("a", Some("n2")), ("a", Some("n1")), ("b", Some("n1")), ("a", None), ("b", Some("n2"))];
        for (revision, (name, node)) in (1..).zip(story) {
            let stored = node.map(pod);
            let key = format!("/registry/pods/default/{name}");
            observer.see(0, revision, &key, stored.as_ref().map(String::as_bytes));
            assert!(watched.follow(&observer));
            assert_eq!(watched.judge(&observer), observer.judge(condition), "after {name} at {node:?}");
        }
        observer.see(0, 9, "/registry/minions/n1", Some(b"{}"));
        assert!(!watched.follow(&observer), "a node is no pod");
    }
}
