//! What is held against whole objects and lists beyond values: duplicates where items are told apart, objects inside of
//! objects, and what a scale reads.

use std::collections::BTreeMap;

use api_machinery::field::{ErrorKind, Errors, FieldError, Path, go_quote};
use api_machinery::meta::validate_embedded_meta;
use api_machinery::names;
use api_machinery::resource::ScalePaths;
use serde_json::{Map, Value};

use super::check::{Check, List};

/// The indices of items that are there already, each value once.
pub(super) fn duplicates<'a>(items: impl Iterator<Item = &'a Value>) -> impl Iterator<Item = usize> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    items.enumerate().filter_map(move |(index, item)| {
        let times = seen.entry(item.to_string()).or_default();
        *times += 1;
        (*times == 2).then_some(index)
    })
}

/// Sets and maps in which something is twice.
pub(super) fn lists(check: &Check, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if let Some(inner) = check.property(name) {
                    let known = check.values.is_none();
                    let path = if known { path.child(name) } else { path.key(name) };
                    lists(inner, value, &path, errors);
                }
            }
        }
        Value::Array(items) => {
            match check.list() {
                List::Atomic => {}
                List::Set => {
                    for index in duplicates(items.iter()) {
                        errors.duplicate(&path.index(index), items[index].clone());
                    }
                }
                List::Map(keys) => list_map(keys, items, path, errors),
            }
            if let Some(inner) = &check.items {
                for (index, item) in items.iter().enumerate() {
                    lists(inner, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn list_map(keys: &[Box<str>], items: &[Value], path: &Path<'_>, errors: &mut Errors) {
    if let Some(odd) = items.iter().position(|item| !item.is_object() && !item.is_null()) {
        let detail = "must be an object for an array of list-type map";
        errors.invalid(&path.index(odd), items[odd].clone(), detail);
        return;
    }
    let key = |item: &Value| {
        let named =
            keys.iter().filter_map(|key| item.get(&**key).map(|value| (key.to_string(), value.clone())));
        Value::Object(named.collect())
    };
    let named: Vec<Value> = items.iter().map(key).collect();
    for index in duplicates(named.iter()) {
        errors.duplicate(&path.index(index), named[index].clone());
    }
}

/// Objects inside of the object: of which kind they are, and their metadata.
pub(super) fn embedded(check: &Check, value: &Value, path: &Path<'_>, errors: &mut Errors) {
    match value {
        Value::Object(fields) => {
            if check.embedded {
                identity(fields, path, errors);
                validate_embedded_meta(value, path, errors);
            }
            for (name, value) in fields {
                if let Some(inner) = check.property(name) {
                    let path = if check.values.is_none() { path.child(name) } else { path.key(name) };
                    embedded(inner, value, &path, errors);
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(inner) = &check.items {
                    embedded(inner, item, &path.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn identity(fields: &Map<String, Value>, path: &Path<'_>, errors: &mut Errors) {
    for name in ["apiVersion", "kind"] {
        let at = path.child(name);
        match fields.get(name) {
            None => errors.required(&at, ""),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(&at, "", "must not be empty"),
            Some(Value::String(text)) if name == "kind" => {
                let wrong = names::is_dns1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let detail =
                        format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.invalid(&at, text.as_str(), detail);
                }
            }
            Some(Value::String(text)) => {
                if text.matches('/').count() > 1 {
                    let detail = format!("unexpected GroupVersion string: {text}");
                    errors.invalid(&at, text.as_str(), detail);
                }
            }
            Some(other) => errors.invalid(&at, other.clone(), "must be a string"),
        }
    }
}

/// What a scale reads must be what a scale can say.
pub(super) fn scale(paths: &ScalePaths, object: &Value, errors: &mut Errors) {
    for pointer in [&paths.spec_replicas, &paths.status_replicas] {
        let at = dotted(pointer);
        let wrong = match object.pointer(pointer) {
            None => continue,
            Some(value) => match value.as_i64() {
                Some(count) if count < 0 => {
                    (value.to_string(), "should be a non-negative integer".to_owned())
                }
                Some(count) if count > i64::from(i32::MAX) => {
                    (value.to_string(), format!("should be less than or equal to {}", i32::MAX))
                }
                Some(_) => continue,
                None => ("0".to_owned(), accessor(&at, value, "int64")),
            },
        };
        let (value, detail) = wrong;
        errors.push(FieldError { kind: ErrorKind::Invalid, field: at, value: Some(value), detail });
    }
    let selector = paths.selector.as_ref().and_then(|pointer| Some((pointer, object.pointer(pointer)?)));
    if let Some((pointer, value)) = selector
        && !value.is_string()
    {
        let at = dotted(pointer);
        let detail = accessor(&at, value, "string");
        errors.push(FieldError { kind: ErrorKind::Invalid, field: at, value: Some(go_quote("")), detail });
    }
}

fn dotted(pointer: &str) -> String {
    pointer.replace('/', ".").replace("~1", "/").replace("~0", "~")
}

fn accessor(path: &str, value: &Value, expected: &str) -> String {
    let (shown, ty) = match value {
        Value::Null => ("<nil>".to_owned(), "<nil>"),
        Value::Bool(flag) => (flag.to_string(), "bool"),
        Value::Number(number) if number.is_i64() => (number.to_string(), "int64"),
        Value::Number(number) => (number.to_string(), "float64"),
        Value::String(text) => (text.clone(), "string"),
        Value::Array(_) => (value.to_string(), "[]interface {}"),
        Value::Object(_) => (value.to_string(), "map[string]interface {}"),
    };
    format!("{path} accessor error: {shown} is of the type {ty}, expected {expected}")
}
