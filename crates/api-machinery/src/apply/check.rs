//! Whether an applied object fits its schema, in the words of upstream's typed objects.
//!
//! Stricter than decoding: what the schema does not know is refused, since nobody could own it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::typed::element_of;
use crate::decode::is_closed;
use crate::schema::{Kind, ListType, View};

/// What is wrong, as one text; `None` when nothing is.
pub(super) fn check(value: &Value, schema: View<'_>) -> Option<String> {
    let mut errors = Vec::new();
    walk(value, schema, &mut String::new(), &mut errors);
    match errors.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        several => Some(format!("errors:\n  {}", several.join("\n  "))),
    }
}

/// More errors than anybody reads.
const MOST: usize = 100;

fn walk(value: &Value, schema: View<'_>, path: &mut String, errors: &mut Vec<String>) {
    let here = path.len();
    let add = |path: &str, text: String, errors: &mut Vec<String>| {
        if errors.len() < MOST {
            errors.push(if path.is_empty() { text } else { format!("{path}: {text}") });
        }
    };
    match (schema.kind(), value) {
        (_, Value::Null) | (Kind::Any, _) => {}
        (Kind::Object(_) | Kind::Map(_), Value::Object(fields)) => {
            for (name, value) in fields {
                path.push('.');
                path.push_str(name);
                match schema.field(name) {
                    Some(inner) => walk(value, inner, path, errors),
                    None if is_closed(schema) => {
                        add(path, "field not declared in schema".to_owned(), errors);
                    }
                    None => {}
                }
                path.truncate(here);
            }
        }
        (Kind::Array(inner), Value::Array(items)) => {
            let inner = schema.arena.view(*inner);
            let keyed = schema.list_type() != ListType::Atomic;
            let mut seen = BTreeSet::new();
            for (index, item) in items.iter().enumerate() {
                if !keyed {
                    path.push_str(&format!("[{index}]"));
                } else {
                    match element_of(item, schema) {
                        Err(why) => {
                            add(path, format!("element {index}: {why}"), errors);
                            continue;
                        }
                        Ok(element) => {
                            let text = element.to_string();
                            if !seen.insert(element) {
                                add(path, format!("duplicate entries for key {text}"), errors);
                            }
                            path.push_str(&text);
                        }
                    }
                }
                walk(item, inner, path, errors);
                path.truncate(here);
            }
        }
        (kind, value) => {
            if let Some(text) = scalar(kind, value) {
                add(path, text, errors);
            }
        }
    }
}

/// What is wrong with a value of another type than the schema's.
fn scalar(kind: &Kind, value: &Value) -> Option<String> {
    let shown = match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    match (kind, value) {
        (Kind::String, Value::String(_))
        | (Kind::Integer | Kind::Number, Value::Number(_))
        | (Kind::Boolean, Value::Bool(_))
        | (Kind::IntOrString | Kind::Quantity, Value::String(_) | Value::Number(_)) => None,
        (Kind::String, _) => Some(format!("expected string, got &value.valueUnstructured{{Value:{shown}}}")),
        (Kind::Integer | Kind::Number, _) => {
            Some(format!("expected numeric (int or float), got {}", go_type(value)))
        }
        (Kind::Boolean, _) => Some(format!("expected boolean, got &{{{shown}}}")),
        (Kind::Array(_), _) => Some(format!("expected list, got &{{{shown}}}")),
        (Kind::Object(_) | Kind::Map(_), _) => Some(format!("expected map, got &{{{shown}}}")),
        _ => Some(format!("expected any scalar, got &{{{shown}}}")),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}
