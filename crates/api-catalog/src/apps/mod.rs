//! `apps/v1`: the kinds that make pods from a template.

mod controller_revision;
mod daemon_set;
mod deployment;
pub(crate) mod replica_set;
mod stateful_set;

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::resource::{Resource, Rules};
use api_machinery::schema::Arena;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::core::pod;
use crate::entry::{Family, selectable, texts, with_scale, with_status};
use crate::fill::{object_at, set};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let apps = Family { arena, group: "apps", version: "v1", package: "io.k8s.api.apps.v1" };
    vec![
        controller_revision(&apps),
        daemon_set(&apps),
        deployment(&apps),
        replica_set(&apps),
        stateful_set(&apps),
    ]
}

fn controller_revision(apps: &Family) -> Resource {
    Resource {
        columns: controller_revision::table(),
        rules: Rules {
            validate: controller_revision::validate,
            validate_update: controller_revision::validate_update,
            ..Rules::default()
        },
        ..apps.kind("ControllerRevision", "controllerrevisions")
    }
}

fn daemon_set(apps: &Family) -> Resource {
    Resource {
        short_names: texts(&["ds"]),
        categories: texts(&["all"]),
        subresources: with_status(),
        has_generation: true,
        columns: daemon_set::table(),
        rules: Rules {
            default: daemon_set::default,
            validate: daemon_set::validate,
            validate_update: validate_selector_update,
            validate_status_update: |new, old, e| counts(new, old, &daemon_set::COUNTS, &[], "", e),
            prepare_create: daemon_set::prepare_create,
            ..Rules::default()
        },
        ..apps.kind("DaemonSet", "daemonsets")
    }
}

fn deployment(apps: &Family) -> Resource {
    Resource {
        short_names: texts(&["deploy"]),
        categories: texts(&["all"]),
        subresources: with_scale(),
        has_generation: true,
        columns: deployment::table(),
        rules: Rules {
            default: deployment::default,
            validate: deployment::validate,
            validate_update: validate_selector_update,
            validate_status_update: |new, old, e| {
                let of_replicas = ["updatedReplicas", "readyReplicas", "availableReplicas"];
                counts(new, old, &["replicas", "unavailableReplicas"], &of_replicas, "readyReplicas", e);
            },
            prepare_create: |object| set(object, "status", json!({})),
            ..Rules::default()
        },
        ..apps.kind("Deployment", "deployments")
    }
}

fn replica_set(apps: &Family) -> Resource {
    Resource {
        short_names: texts(&["rs"]),
        categories: texts(&["all"]),
        subresources: with_scale(),
        has_generation: true,
        columns: replica_set::table(),
        selectable: selectable(&["status.replicas"]),
        rules: Rules {
            default: replica_set::default,
            validate: replica_set::validate,
            validate_update: validate_selector_update,
            validate_status_update: replica_set::validate_status,
            prepare_create: empty_replica_status,
            ..Rules::default()
        },
        ..apps.kind("ReplicaSet", "replicasets")
    }
}

fn stateful_set(apps: &Family) -> Resource {
    Resource {
        short_names: texts(&["sts"]),
        categories: texts(&["all"]),
        subresources: with_scale(),
        has_generation: true,
        columns: stateful_set::table(),
        rules: Rules {
            default: stateful_set::default,
            validate: stateful_set::validate,
            validate_update: stateful_set::validate_update,
            validate_status_update: |new, old, e| {
                let of_replicas =
                    ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
                counts(new, old, &["replicas"], &of_replicas, "status.readyReplicas", e);
            },
            prepare_create: |object| set(object, "status", json!({"replicas": 0, "availableReplicas": 0})),
            ..Rules::default()
        },
        ..apps.kind("StatefulSet", "statefulsets")
    }
}

/// A new object has made nothing yet.
pub(crate) fn empty_replica_status(object: &mut Value) {
    set(object, "status", json!({"replicas": 0}));
}

/// The selector of an apps kind never changes.
pub(crate) fn validate_selector_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    check::immutable(&spec.get("selector"), &before.get("selector"), e);
}

/// Defaults of `spec.template`.
pub(crate) fn template_defaults(object: &mut Value) {
    if let Some(template) = object_at(object, &["spec", "template"]) {
        pod::defaults::template(template);
    }
}

/// A selector that is not empty and that the template's labels match, and the template itself.
pub(crate) fn selector_and_template(spec: &At, kind: &str, e: &mut Errors) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.is_set() {
        selector.required(e, "");
    } else {
        let before = e.len();
        check::label_selector(&selector, e);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            let of = if kind == "ReplicaSet" { "deployment".to_owned() } else { kind.to_lowercase() };
            selector.invalid_as(e, json!({}), format!("empty selector is invalid for {of}"));
        } else if e.len() == before {
            matches_template(&selector, &template, e);
        }
    }
    template_of_controller(&template, kind, e);
}

fn matches_template(selector: &At, template: &At, e: &mut Errors) {
    let Ok(parsed) = api_machinery::selector::LabelSelector::from_object(selector.value()) else { return };
    let metadata = template.get("metadata");
    let labels = metadata.get("labels");
    if !parsed.matches(labels.object()) {
        let shown = labels.value().cloned().unwrap_or_else(|| json!({}));
        labels.invalid_as(e, shown, "`selector` does not match template `labels`");
    }
}

/// A pod template under a controller that keeps pods: they always restart, and cannot have a deadline.
pub(crate) fn template_of_controller(template: &At, kind: &str, e: &mut Errors) {
    pod::validate::template(template, e);
    let spec = template.get("spec");
    let policy = spec.get("restartPolicy");
    check::one_of(&policy, &["Always"], e);
    let deadline = spec.get("activeDeadlineSeconds");
    if deadline.is_set() {
        deadline.forbidden(e, &format!("activeDeadlineSeconds in {kind} is not Supported"));
    }
}

/// Counts of a status: none below zero, those of replicas no more than there are, and fewer available than ready.
pub(crate) fn counts(
    new: &Value,
    old: &Value,
    all: &[&str],
    of_replicas: &[&str],
    ready: &str,
    e: &mut Errors,
) {
    let (root, before) = (At::root(new), At::root(old));
    let (status, was) = (root.get("status"), before.get("status"));
    let count = |field| status.get(field).int().unwrap_or(0);
    for field in all.iter().chain(of_replicas).chain(&["observedGeneration", "collisionCount"]) {
        check::not_negative(&status.get(field), e);
    }
    for field in of_replicas.iter().filter(|field| count(field) > count("replicas")) {
        status.get(field).invalid_as(e, count(field), "cannot be greater than status.replicas");
    }
    if !ready.is_empty() && count("availableReplicas") > count("readyReplicas") {
        status.get("availableReplicas").invalid(e, format!("cannot be greater than {ready}"));
    }
    let collisions = status.get("collisionCount");
    if count("collisionCount") < was.get("collisionCount").int().unwrap_or(0) {
        collisions.invalid_as(e, count("collisionCount"), "cannot be decremented");
    }
}
