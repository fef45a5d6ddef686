//! Words and numbers in table cells that several kinds share, written as kubectl's users know them.

use api_machinery::clock;
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
        Some(then) => duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// A number of seconds as people read it: two units at most, fewer the longer it is.
pub fn duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;
    const YEAR: i64 = 365 * DAY;
    let two = |big: i64, name: char, small: i64, small_name: char| match seconds % big / small {
        0 => format!("{}{name}", seconds / big),
        rest => format!("{}{name}{rest}{small_name}", seconds / big),
    };
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        120..600 => two(MINUTE, 'm', 1, 's'),
        600..10_800 => format!("{}m", seconds / MINUTE),
        10_800..28_800 => two(HOUR, 'h', MINUTE, 'm'),
        28_800..172_800 => format!("{}h", seconds / HOUR),
        172_800..691_200 => two(DAY, 'd', HOUR, 'h'),
        691_200..63_072_000 => format!("{}d", seconds / DAY),
        63_072_000..252_288_000 => two(YEAR, 'y', DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
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
