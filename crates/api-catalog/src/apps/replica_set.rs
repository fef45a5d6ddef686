//! ReplicaSets, and the older ReplicationControllers.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, get, object_at, set};
use crate::print::{container_names, images, number};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Desired", "integer", 0, computed(|r, _| Value::from(number(&r["spec"]["replicas"])))),
        ("Current", "integer", 0, computed(|r, _| Value::from(number(&r["status"]["replicas"])))),
        ("Ready", "integer", 0, computed(|r, _| Value::from(number(&r["status"]["readyReplicas"])))),
        ("Age", "string", 0, Cell::Age),
        ("Containers", "string", 1, computed(|r, _| container_names(&r["spec"]["template"]["spec"]))),
        ("Images", "string", 1, computed(|r, _| images(&r["spec"]["template"]["spec"]))),
        ("Selector", "string", 1, computed(|r, _| selector(&r["spec"]["selector"]))),
    ])
}

fn selector(selector: &Value) -> Value {
    match get(selector, "matchLabels").or(get(selector, "matchExpressions")) {
        Some(_) => crate::print::selector(selector),
        None => crate::print::labels(selector),
    }
}

pub(crate) fn default(set: &mut Value) {
    super::template_defaults(set);
    if let Some(spec) = object_at(set, &["spec"]) {
        fill(spec, &[("replicas", Fill::Int(1))]);
    }
}

pub(crate) fn validate(set: &Value, e: &mut Errors) {
    let root = At::root(set);
    let spec = root.get("spec");
    check::not_negative(&spec.get("replicas"), e);
    check::not_negative(&spec.get("minReadySeconds"), e);
    super::selector_and_template(&spec, "ReplicaSet", e);
}

pub(crate) fn validate_status(new: &Value, old: &Value, e: &mut Errors) {
    let of_replicas = ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    super::counts(new, old, &["replicas"], &of_replicas, "readyReplicas", e);
}

/// A replication controller's selector is its template's labels, and its labels too, if it has none.
pub(crate) fn controller_defaults(controller: &mut Value) {
    super::template_defaults(controller);
    let labels = controller.pointer("/spec/template/metadata/labels").filter(|l| l.is_object()).cloned();
    if let (Some(labels), Some(spec)) = (labels, object_at(controller, &["spec"])) {
        if spec["selector"].as_object().is_none_or(|s| s.is_empty()) {
            set(spec, "selector", labels.clone());
        }
        if controller["metadata"]["labels"].as_object().is_none_or(|l| l.is_empty())
            && let Some(metadata) = object_at(controller, &["metadata"])
        {
            set(metadata, "labels", labels);
        }
    }
    if let Some(spec) = object_at(controller, &["spec"]) {
        fill(spec, &[("replicas", Fill::Int(1))]);
    }
}

pub(crate) fn validate_controller(controller: &Value, e: &mut Errors) {
    let root = At::root(controller);
    let spec = root.get("spec");
    check::not_negative(&spec.get("replicas"), e);
    check::not_negative(&spec.get("minReadySeconds"), e);
    let (selector, template) = (spec.get("selector"), spec.get("template"));
    if selector.must_be_set(e) {
        let metadata = template.get("metadata");
        let labels = metadata.get("labels");
        let matches = selector.entries().all(|(key, value)| labels.key(key).text() == value.text());
        if template.is_set() && !matches {
            labels.invalid(e, "`selector` does not match template `labels`");
        }
    }
    if !template.is_set() {
        return template.required(e, "");
    }
    super::template_of_controller(&template, "ReplicationController", e);
}
