//! Namespaces: their finalizer, phase and name label.

use api_machinery::field::Errors;
use api_machinery::{meta, names};
use serde_json::{Value, json};

use crate::at::At;
use crate::fill::{get, object_at, set, text};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";
const FINALIZER: &str = "kubernetes";

/// Every namespace can be selected by its name.
pub(crate) fn default(object: &mut Value) {
    let name = meta::name(object).to_owned();
    if !name.is_empty() && meta::label(object, NAME_LABEL) != Some(&name) {
        meta::set_label(object, NAME_LABEL, &name);
    }
}

pub(crate) fn prepare_create(object: &mut Value) {
    set(object, "status", json!({"phase": "Active"}));
    let Some(spec) = object_at(object, &["spec"]) else { return };
    let has = spec["finalizers"].as_array().is_some_and(|list| list.iter().any(|f| f == FINALIZER));
    if has {
        return;
    }
    match spec.get_mut("finalizers").and_then(Value::as_array_mut) {
        Some(list) => list.push(Value::from(FINALIZER)),
        None => set(spec, "finalizers", json!([FINALIZER])),
    }
}

/// Finalizers go through `/finalize`, the status through `/status`.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    api_machinery::resource::copy_field(new, old, "spec");
    api_machinery::resource::copy_field(new, old, "status");
}

pub(crate) fn prepare_status(new: &mut Value, old: &Value) {
    api_machinery::resource::copy_field(new, old, "spec");
}

pub(crate) fn validate(object: &Value, e: &mut Errors) {
    let root = At::root(object);
    let spec = root.get("spec");
    for finalizer in spec.get("finalizers").items() {
        let mut messages = names::is_qualified_name(finalizer.text());
        if messages.is_empty() && !finalizer.text().contains('/') && finalizer.text() != FINALIZER {
            messages.push("name is neither a standard finalizer name nor is it fully qualified".to_owned());
        }
        // Upstream names the list, not the item.
        for message in messages {
            spec.get("finalizers").invalid_as(e, finalizer.text(), message);
        }
    }
}

/// A namespace is terminating if and only if it is being deleted.
pub(crate) fn validate_status_update(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    let phase = status.get("phase");
    let deleting = get(&new["metadata"], "deletionTimestamp").is_some();
    match (deleting, text(&new["status"], "phase")) {
        (false, "Active" | "") | (true, "Terminating") => {}
        (true, _) => phase.invalid_text(e, "may only be 'Terminating' if `deletionTimestamp` is not empty"),
        (false, _) => phase.invalid_text(e, "may only be 'Active' if `deletionTimestamp` is empty"),
    }
}
