//! Upstream's checks of `metadata`, on create and on update.

use serde_json::{Map, Value};

use super::{finalizers, generate_name, metadata, name, namespace, owner_references};
use crate::field::{Errors, Path};
use crate::names;
use crate::resource::NameRule;

/// The most that all annotations of an object may hold, keys and values together.
pub const ANNOTATIONS_MAX_BYTES: usize = 256 * 1024;

const IMMUTABLE: &str = "field is immutable";

/// Checks `metadata` of a new object, once its name has been made.
pub fn validate_meta(object: &Value, namespaced: bool, name_rule: NameRule, errors: &mut Errors) {
    let path = Path::new("metadata");
    let prefix = generate_name(object);
    if !prefix.is_empty() {
        for message in name_rule(prefix, true) {
            errors.invalid(&path.child("generateName"), prefix, message);
        }
    }
    let name = name(object);
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for message in name_rule(name, false) {
            errors.invalid(&path.child("name"), name, message);
        }
    }
    let namespace = namespace(object);
    match (namespaced, namespace) {
        (true, "") => errors.required(&path.child("namespace"), ""),
        (true, _) => {
            for message in names::is_dns1123_label(namespace) {
                errors.invalid(&path.child("namespace"), namespace, message);
            }
        }
        (false, "") => {}
        (false, _) => errors.forbidden(&path.child("namespace"), "not allowed on this type"),
    }
    validate_generation(object, &path, errors);
    validate_common(object, &path, errors);
    validate_finalizers(object, &path.child("finalizers"), errors);
}

/// Checks `metadata` of an object that is part of another one, at `place`: it needs no name.
pub fn validate_embedded_meta(object: &Value, place: &Path<'_>, errors: &mut Errors) {
    let path = place.child("metadata");
    for (field, text) in [("generateName", generate_name(object)), ("name", name(object))] {
        if !text.is_empty() {
            for message in names::path_segment_name(text, field == "generateName") {
                errors.invalid(&path.child(field), text, message);
            }
        }
    }
    let namespace = namespace(object);
    if !namespace.is_empty() {
        for message in names::is_dns1123_label(namespace) {
            errors.invalid(&path.child("namespace"), namespace, message);
        }
    }
    validate_generation(object, &path, errors);
    validate_common(object, &path, errors);
    validate_finalizers(object, &path.child("finalizers"), errors);
}

fn validate_generation(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let generation = super::generation(object);
    if generation < 0 {
        errors.invalid(&path.child("generation"), generation, "must be greater than or equal to 0");
    }
}

/// What is checked on create and on update alike.
fn validate_common(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(labels) = super::labels(object) {
        validate_labels(labels, &path.child("labels"), errors);
    }
    if let Some(annotations) = super::annotations(object) {
        validate_annotations(annotations, &path.child("annotations"), errors);
    }
    validate_owners(owner_references(object), &path.child("ownerReferences"), errors);
}

/// Checks a set of labels.
pub fn validate_labels(labels: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    for (key, value) in labels {
        for message in names::is_qualified_name(key) {
            errors.invalid(path, key.as_str(), message);
        }
        let value = value.as_str().unwrap_or("");
        for message in names::is_valid_label_value(value) {
            errors.invalid(path, value, message);
        }
    }
}

/// Checks a set of annotations. Their keys may have upper-case prefixes.
pub fn validate_annotations(annotations: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in annotations {
        for message in names::is_qualified_name(&key.to_lowercase()) {
            errors.invalid(path, key.as_str(), message);
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_MAX_BYTES {
        errors.too_long(path, ANNOTATIONS_MAX_BYTES);
    }
}

fn validate_owners(owners: &[Value], path: &Path<'_>, errors: &mut Errors) {
    let mut first = None;
    for owner in owners {
        let text = |field: &str| owner.get(field).and_then(Value::as_str).unwrap_or("");
        let version = text("apiVersion").rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            errors.invalid(&path.child("apiVersion"), text("apiVersion"), "version must not be empty");
        }
        for field in ["kind", "name", "uid"] {
            if text(field).is_empty() {
                errors.invalid(&path.child(field), "", "must not be empty");
            }
        }
        if (text("apiVersion"), text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.invalid(path, owner.clone(), detail);
        }
        if owner.get("controller") == Some(&Value::Bool(true)) {
            let this = format!("{}/{}", text("kind"), text("name"));
            match &first {
                None => first = Some(this),
                Some(first) => {
                    let detail = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.invalid(path, owners.to_vec(), detail);
                }
            }
        }
    }
}

fn validate_finalizers(object: &Value, path: &Path<'_>, errors: &mut Errors) {
    let list = finalizers(object);
    for finalizer in &list {
        for message in names::is_qualified_name(finalizer) {
            errors.invalid(path, *finalizer, message);
        }
    }
    let (orphan, foreground) = ("orphan", "foregroundDeletion");
    if list.contains(&orphan) && list.contains(&foreground) {
        let detail = format!("finalizer {orphan} and {foreground} cannot be both set");
        errors.invalid(path, list, detail);
    }
}

/// Checks `metadata` of an updated object against the stored one.
pub fn validate_meta_update(new: &Value, old: &Value, errors: &mut Errors) {
    let path = Path::new("metadata");
    if super::is_deleting(old) {
        let before = finalizers(old);
        let mut added: Vec<&str> =
            finalizers(new).into_iter().filter(|finalizer| !before.contains(finalizer)).collect();
        added.sort_unstable();
        added.dedup();
        if !added.is_empty() {
            let quoted: Vec<String> = added.iter().map(|name| crate::field::go_quote(name)).collect();
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                quoted.join(", ")
            );
            errors.forbidden(&path.child("finalizers"), detail);
        }
    }
    if super::resource_version(new).is_empty() {
        errors.invalid(&path.child("resourceVersion"), "", "must be specified for an update");
    }
    if super::generation(new) < super::generation(old) {
        errors.invalid(&path.child("generation"), super::generation(new), "must not be decremented");
    }
    let fixed =
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];
    for field in fixed {
        validate_immutable(member(new, field), member(old, field), &path.child(field), errors);
    }
    validate_common(new, &path, errors);
}

fn member<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    metadata(object).and_then(|metadata| metadata.get(field)).filter(|value| !value.is_null())
}

/// `field is immutable` when the two differ; absent and null are the same.
pub fn validate_immutable(new: Option<&Value>, old: Option<&Value>, path: &Path<'_>, errors: &mut Errors) {
    let (new, old) = (new.filter(|value| !value.is_null()), old.filter(|value| !value.is_null()));
    if new != old {
        errors.invalid(path, new.cloned().unwrap_or(Value::Null), IMMUTABLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn on_create(object: &Value, namespaced: bool) -> Vec<String> {
        let mut errors = Errors::new();
        validate_meta(object, namespaced, names::dns_subdomain_name, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    fn on_update(new: &Value, old: &Value) -> Vec<String> {
        let mut errors = Errors::new();
        validate_meta_update(new, old, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn fine_objects_pass() {
        let object = json!({"metadata": {
            "name": "a", "namespace": "b", "labels": {"x.y/a": "b"}, "annotations": {"X.Y/a": "anything at all"},
            "finalizers": ["x.y/z"],
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "A", "name": "b", "uid": "c", "controller": true}],
        }});
        assert_eq!(on_create(&object, true), Vec::<String>::new());
    }

    #[test]
    fn errors_on_create() {
        assert_eq!(
            on_create(&json!({"metadata": {}}), true),
            [
                "metadata.name: Required value: name or generateName is required",
                "metadata.namespace: Required value",
            ]
        );
        assert_eq!(
            on_create(&json!({"metadata": {"name": "a", "namespace": "b"}}), false),
            ["metadata.namespace: Forbidden: not allowed on this type"]
        );
        let big = "x".repeat(ANNOTATIONS_MAX_BYTES);
        assert_eq!(
            on_create(&json!({"metadata": {"name": "a", "annotations": {"k": big}}}), false),
            ["metadata.annotations: Too long: may not be more than 262144 bytes"]
        );
        let controller =
            json!({"apiVersion": "v1", "kind": "A", "name": "b", "uid": "c", "controller": true});
        let two = json!({"metadata": {"name": "a", "ownerReferences": [controller, controller]}});
        assert!(on_create(&two, false)[0].contains("references for A/b and A/b"));
        let both = json!({"metadata": {"name": "a", "finalizers": ["orphan", "foregroundDeletion"]}});
        assert_eq!(
            on_create(&both, false),
            ["metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: \
              finalizer orphan and foregroundDeletion cannot be both set"]
        );
    }

    #[test]
    fn errors_on_update() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let new =
            json!({"metadata": {"name": "a", "uid": "2", "finalizers": ["x/y"], "resourceVersion": "1"}});
        assert_eq!(
            on_update(&new, &old),
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, \
                 found new finalizers []string{\"x/y\"}",
                "metadata.uid: Invalid value: \"2\": field is immutable",
                "metadata.deletionTimestamp: Invalid value: null: field is immutable",
            ]
        );
    }
}
