//! `metadata` of objects: reading, writing, and upstream's checks of it.
//!
//! Names and namespaces of particular kinds are checked with the kind's own rule; nothing here knows a kind.

mod validation;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::clock;

pub use validation::{
    ANNOTATIONS_MAX_BYTES, validate_annotations, validate_embedded_meta, validate_immutable, validate_labels,
    validate_meta, validate_meta_update,
};

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|metadata| metadata.get(field)).and_then(Value::as_str).unwrap_or("")
}

fn map<'a>(object: &'a Value, field: &str) -> Option<&'a Map<String, Value>> {
    object.get("metadata")?.get(field)?.as_object()
}

/// `metadata`, if the object has it.
pub fn metadata(object: &Value) -> Option<&Map<String, Value>> {
    object.get("metadata")?.as_object()
}

/// `metadata`, created when missing; what is not an object becomes one.
pub fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    let fields = as_map(object);
    as_map(fields.entry("metadata").or_insert_with(|| Value::Object(Map::new())))
}

fn as_map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("was just made an object")
}

/// Drops what says nothing: upstream stores no empty labels, annotations, finalizers or owners.
pub fn drop_empty(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
        let empty = match metadata.get(field) {
            Some(Value::Object(entries)) => entries.is_empty(),
            Some(Value::Array(items)) => items.is_empty(),
            Some(Value::Null) => true,
            _ => false,
        };
        if empty {
            metadata.remove(field);
        }
    }
}

/// Writes the server's own times as it writes them: clients that have read them may send them back with a fraction.
pub fn whole_seconds(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    for field in ["creationTimestamp", "deletionTimestamp"] {
        if let Some(Value::String(text)) = metadata.get_mut(field)
            && let Some(time) = clock::parse(text)
        {
            *text = clock::rfc3339(time);
        }
    }
}

/// Sets or, when empty, removes a text field of `metadata`.
pub fn set_text(object: &mut Value, field: &str, value: &str) {
    let metadata = metadata_mut(object);
    if value.is_empty() {
        metadata.remove(field);
    } else {
        metadata.insert(field.to_owned(), value.into());
    }
}

/// `apiVersion`, or empty.
pub fn api_version(object: &Value) -> &str {
    object.get("apiVersion").and_then(Value::as_str).unwrap_or("")
}

/// `kind`, or empty.
pub fn kind(object: &Value) -> &str {
    object.get("kind").and_then(Value::as_str).unwrap_or("")
}

/// The name, or empty.
pub fn name(object: &Value) -> &str {
    text(object, "name")
}

/// Sets the name.
pub fn set_name(object: &mut Value, name: &str) {
    set_text(object, "name", name);
}

/// The prefix of a name to be made, or empty.
pub fn generate_name(object: &Value) -> &str {
    text(object, "generateName")
}

/// The namespace, or empty.
pub fn namespace(object: &Value) -> &str {
    text(object, "namespace")
}

/// Sets the namespace.
pub fn set_namespace(object: &mut Value, namespace: &str) {
    set_text(object, "namespace", namespace);
}

/// The uid, or empty.
pub fn uid(object: &Value) -> &str {
    text(object, "uid")
}

/// Sets the uid.
pub fn set_uid(object: &mut Value, uid: &str) {
    set_text(object, "uid", uid);
}

/// The resource version as text, or empty.
pub fn resource_version(object: &Value) -> &str {
    text(object, "resourceVersion")
}

/// Sets the resource version.
pub fn set_resource_version(object: &mut Value, revision: u64) {
    metadata_mut(object).insert("resourceVersion".to_owned(), revision.to_string().into());
}

/// The generation, or 0.
pub fn generation(object: &Value) -> i64 {
    object.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0)
}

/// Sets the generation.
pub fn set_generation(object: &mut Value, generation: i64) {
    metadata_mut(object).insert("generation".to_owned(), generation.into());
}

/// All labels.
pub fn labels(object: &Value) -> Option<&Map<String, Value>> {
    map(object, "labels")
}

/// One label.
pub fn label<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    labels(object)?.get(key)?.as_str()
}

/// Sets a label.
pub fn set_label(object: &mut Value, key: &str, value: &str) {
    set_entry(object, "labels", key, value);
}

/// All annotations.
pub fn annotations(object: &Value) -> Option<&Map<String, Value>> {
    map(object, "annotations")
}

/// One annotation.
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    annotations(object)?.get(key)?.as_str()
}

/// Sets an annotation.
pub fn set_annotation(object: &mut Value, key: &str, value: &str) {
    set_entry(object, "annotations", key, value);
}

fn set_entry(object: &mut Value, field: &str, key: &str, value: &str) {
    let entries = metadata_mut(object).entry(field).or_insert_with(|| Value::Object(Map::new()));
    as_map(entries).insert(key.to_owned(), value.into());
}

/// The finalizers, in order.
pub fn finalizers(object: &Value) -> Vec<&str> {
    let list = object.pointer("/metadata/finalizers").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Sets the finalizers; none at all removes the field.
pub fn set_finalizers<T: Into<Value>>(object: &mut Value, finalizers: Vec<T>) {
    let metadata = metadata_mut(object);
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".to_owned(), finalizers.into_iter().map(Into::into).collect());
    }
}

/// The owners.
pub fn owner_references(object: &Value) -> &[Value] {
    object.pointer("/metadata/ownerReferences").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The owner that manages the object, if one does.
pub fn controller(object: &Value) -> Option<&Value> {
    owner_references(object).iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

fn time(object: &Value, field: &str) -> Option<Timestamp> {
    crate::clock::parse(text(object, field))
}

/// When the object was created.
pub fn creation_timestamp(object: &Value) -> Option<Timestamp> {
    time(object, "creationTimestamp")
}

/// When the object is to be gone, if it is being deleted.
pub fn deletion_timestamp(object: &Value) -> Option<Timestamp> {
    time(object, "deletionTimestamp")
}

/// Whether the object is being deleted.
pub fn is_deleting(object: &Value) -> bool {
    !text(object, "deletionTimestamp").is_empty()
}

/// How long a deletion waits, if the object is being deleted.
pub fn deletion_grace_period_seconds(object: &Value) -> Option<i64> {
    object.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_says_nothing_is_dropped() {
        let table = [
            (json!({"metadata": {"name": "a", "labels": {}, "annotations": null}}), json!({"name": "a"})),
            (json!({"metadata": {"finalizers": [], "ownerReferences": []}}), json!({})),
            (
                json!({"metadata": {"labels": {"a": ""}, "finalizers": ["x/y"], "uid": ""}}),
                json!({"labels": {"a": ""}, "finalizers": ["x/y"], "uid": ""}),
            ),
        ];
        for (mut object, wanted) in table {
            drop_empty(&mut object);
            assert_eq!(object["metadata"], wanted);
        }
        let mut times = json!({"metadata": {"creationTimestamp": "2026-01-01T02:00:00.000+02:00", "deletionTimestamp": "soon"}});
        whole_seconds(&mut times);
        let wanted = json!({"creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "soon"});
        assert_eq!(times["metadata"], wanted);
        let mut none = json!({"kind": "Odd"});
        drop_empty(&mut none);
        assert_eq!(none, json!({"kind": "Odd"}));
    }
}
