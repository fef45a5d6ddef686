//! What a Deployment needs, as tables and as a rolling update that is played through in many orders.

mod bounds;
mod cases;
mod rollout;

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::plan::{self, Plan};

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a literal")
}

fn later(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

/// A Deployment of three with a surge of one and none missing, with some fields changed.
fn deployment(changes: Value) -> Deployment {
    let deployment = json!({
        "metadata": {"name": "web", "namespace": "n", "uid": "d", "generation": 1},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "web"}},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": 60,
            "revisionHistoryLimit": 1,
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "web:1"}]},
            },
        },
    });
    let changed = api_machinery::patch::merge::apply(&deployment, &changes);
    serde_json::from_value(changed).expect("a Deployment")
}

/// The change that makes another version of the template.
fn version(version: &str) -> Value {
    json!({"spec": {"template": {"metadata": {"annotations": {"version": version}}}}})
}

/// What the API and the ReplicaSet controller hold: plans are carried out here.
struct Cluster {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    made: u64,
}

impl Cluster {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: Vec::new(), made: 0 }
    }

    /// A Deployment that is rolled out completely.
    fn settled(deployment: Deployment) -> Self {
        let mut cluster = Self::new(deployment);
        cluster.settle(now());
        cluster
    }

    fn plan(&self, at: Timestamp) -> Plan {
        self.plan_with(&BTreeSet::new(), at)
    }

    fn plan_with(&self, with_pods: &BTreeSet<String>, at: Timestamp) -> Plan {
        let sets: Vec<Arc<ReplicaSet>> = self.sets.iter().cloned().map(Arc::new).collect();
        plan::plan(&self.deployment, &sets, with_pods, at)
    }

    fn step(&mut self, at: Timestamp) {
        self.carry_out(self.plan(at));
    }

    fn carry_out(&mut self, plan: Plan) {
        for (changed, _) in plan.updates {
            let set = self.sets.iter_mut().find(|set| set.metadata.uid == changed.metadata.uid);
            let set = set.expect("an update is of a set that exists");
            let generation = set.metadata.generation.unwrap_or(0) + i64::from(set.spec != changed.spec);
            *set = changed;
            set.metadata.generation = Some(generation);
        }
        for forgotten in plan.forget {
            self.sets.retain(|set| set.metadata.uid != forgotten.metadata.uid);
        }
        if let Some(mut set) = plan.create {
            self.made += 1;
            set.metadata.uid = Some(format!("set-{}", self.made));
            set.metadata.generation = Some(1);
            let at = later(i64::try_from(self.made).expect("few"));
            set.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at));
            self.sets.push(set);
        }
        self.deployment.status = Some(plan.status);
        if let Some(revision) = plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert(super::revision::REVISION.to_owned(), revision.to_string());
        }
    }

    /// Plays the ReplicaSet controller: every set has as many pods as it wants, of which `available(set)` are.
    fn follow(&mut self, available: impl Fn(&ReplicaSet) -> i32) {
        for set in &mut self.sets {
            let size = super::world::size(set);
            let available = available(set).min(size);
            let status = json!({
                "replicas": size, "readyReplicas": available, "availableReplicas": available,
                "terminatingReplicas": 0, "observedGeneration": set.metadata.generation,
            });
            set.status = Some(serde_json::from_value(status).expect("a status"));
        }
    }

    /// Plans, and lets every pod become available, until nothing is left to do.
    fn settle(&mut self, at: Timestamp) {
        for _ in 0..100 {
            self.follow(super::world::size);
            let plan = self.plan(at);
            if !writes(&self.deployment, &plan) {
                return;
            }
            self.carry_out(plan);
        }
        panic!("still writing after 100 rounds: {:#?}", self.plan(at));
    }

    fn change(&mut self, changes: Value) {
        let deployment = serde_json::to_value(&self.deployment).expect("JSON");
        let changed = api_machinery::patch::merge::apply(&deployment, &changes);
        self.deployment = serde_json::from_value(changed).expect("a Deployment");
        let generation = self.deployment.metadata.generation.unwrap_or(0) + 1;
        self.deployment.metadata.generation = Some(generation);
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(super::world::size).collect()
    }

    fn condition(&self, kind: &str) -> (String, String, String) {
        let conditions = self.deployment.status.as_ref().and_then(|status| status.conditions.as_deref());
        let found = conditions.unwrap_or_default().iter().find(|found| found.type_.as_deref() == Some(kind));
        let text = |text: Option<&String>| text.cloned().unwrap_or_default();
        let Some(found) = found else { return Default::default() };
        (text(found.status.as_ref()), text(found.reason.as_ref()), text(found.message.as_ref()))
    }

    fn reason(&self, kind: &str) -> String {
        self.condition(kind).1
    }
}

fn writes(deployment: &Deployment, plan: &Plan) -> bool {
    plan.create.is_some()
        || !plan.updates.is_empty()
        || !plan.forget.is_empty()
        || plan.revision.is_some()
        || plan::differs(deployment.status.as_ref(), &plan.status)
}
