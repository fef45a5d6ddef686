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
pub(crate) fn selector_and_template(spec: &At, empty: &str, restart: &[&str], e: &mut Errors) {
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if !selector.is_set() {
        selector.required(e, "");
    } else {
        let before = e.len();
        check::label_selector(&selector, e);
        if selector.get("matchLabels").is_empty() && selector.get("matchExpressions").is_empty() {
            selector.invalid_as(e, json!({}), empty);
        } else if e.len() == before {
            matches_template(&selector, &template, e);
        }
    }
    template_of_controller(&template, restart, e);
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

/// A pod template under a controller: pods must restart as the controller needs, and cannot have a deadline.
pub(crate) fn template_of_controller(template: &At, restart: &[&str], e: &mut Errors) {
    pod::validate::template(template, e);
    let spec = template.get("spec");
    let policy = spec.get("restartPolicy");
    if !policy.is_empty() && !restart.contains(&policy.text()) {
        policy.not_supported(e, restart);
    }
    if restart == ["Always"] && spec.get("activeDeadlineSeconds").is_set() {
        spec.get("activeDeadlineSeconds")
            .forbidden(e, "activeDeadlineSeconds in ReplicaSet is not Supported");
    }
}
