//! Words and numbers in table cells that several kinds share, written as kubectl's users know them.

use api_machinery::{clock, table};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::fill::text;

/// What stands for nothing.
pub const NONE: &str = "<none>";

/// A text, or `<none>`.
pub fn or_none(text: &str) -> Value {
    Value::from(if text.is_empty() { NONE } else { text })
}

/// Texts with commas between, or `<none>`.
pub fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    or_none(&texts.collect::<Vec<_>>().join(","))
}

/// Labels as `a=b,c=d`, or `<none>`.
pub fn labels(labels: &Value) -> Value {
    let pairs: Vec<String> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    or_none(&pairs.join(","))
}

/// A label selector in its string form, `<none>` when empty or absent.
pub fn selector(selector: &Value) -> Value {
    let mut terms: Vec<String> = Vec::new();
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        terms.push(format!("{key}={}", value.as_str().unwrap_or("")));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = text(expression, "key");
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match text(expression, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        });
    }
    terms.sort();
    or_none(&terms.join(","))
}

/// Names of a pod spec's containers.
pub fn container_names(spec: &Value) -> Value {
    Value::from(container_texts(spec, "name"))
}

/// Images of a pod spec's containers.
pub fn images(spec: &Value) -> Value {
    Value::from(container_texts(spec, "image"))
}

fn container_texts(spec: &Value, field: &str) -> String {
    let containers = spec["containers"].as_array().into_iter().flatten();
    containers.map(|c| text(c, field)).collect::<Vec<_>>().join(",")
}

/// A number of `status` or `spec`; 0 if absent.
pub fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// How long ago a time was, or `<unknown>`.
pub fn since(time: &Value, now: Timestamp) -> String {
    match time.as_str().and_then(clock::parse) {
        Some(then) => table::since(then, now),
        None => "<unknown>".to_owned(),
    }
}

/// How many entries the maps have together.
pub fn entries<'a>(maps: impl IntoIterator<Item = &'a Value>) -> usize {
    maps.into_iter().filter_map(Value::as_object).map(Map::len).sum()
}

/// Access modes in short, such as `RWO,ROX`.
pub fn access_modes(modes: &Value) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |mode: &str| modes.as_array().into_iter().flatten().any(|m| m == mode);
    SHORT.iter().filter(|(mode, _)| has(mode)).map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}
