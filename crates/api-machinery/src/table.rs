//! Server-side tables: columns, their cells, rows, and ages as kubectl shows them.
//!
//! Which columns a kind has is the catalogue's to say. Cells find their values by simple JSON paths: fields, indices,
//! `[*]` and filters for equality; a path that cannot be understood finds nothing.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::meta;

/// One column of a table.
#[derive(Clone, Debug)]
pub struct Column {
    /// The heading.
    pub name: Cow<'static, str>,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub kind: Cow<'static, str>,
    /// `name` for the name column, mostly empty.
    pub format: Cow<'static, str>,
    /// For people.
    pub description: Cow<'static, str>,
    /// 0 is always shown, more only in wide output.
    pub priority: i32,
    /// Where the cells come from.
    pub cell: Cell,
}

/// Where a cell comes from.
#[derive(Clone, Debug)]
pub enum Cell {
    /// A simple JSON path such as `.spec.replicas` or `.status.conditions[?(@.type=="Ready")].status`.
    Path(Cow<'static, str>),
    /// The age of the object.
    Age,
    /// Anything else, computed.
    Fn(fn(&Value, Timestamp) -> Value),
}

/// What a row holds besides its cells: the `includeObject` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// The metadata; what a request that does not say gets.
    #[default]
    Metadata,
    /// The whole object.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter; empty is the default.
    pub fn parse(text: &str) -> Option<IncludeObject> {
        match text {
            "None" => Some(IncludeObject::None),
            "" | "Metadata" => Some(IncludeObject::Metadata),
            "Object" => Some(IncludeObject::Object),
            _ => None,
        }
    }
}

/// A whole `Table`. `version` is that of `meta.k8s.io`, `list_meta` the list's own metadata.
pub fn table<'a>(
    columns: &[Column],
    objects: impl IntoIterator<Item = &'a Value>,
    list_meta: Value,
    version: &str,
    include: IncludeObject,
    now: Timestamp,
) -> Value {
    let rows: Vec<Value> = objects.into_iter().map(|object| row(columns, object, include, now)).collect();
    json!({
        "kind": "Table", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": list_meta,
        "columnDefinitions": definitions(columns), "rows": rows,
    })
}

/// The `columnDefinitions` of a table.
pub fn definitions(columns: &[Column]) -> Value {
    let definition = |column: &Column| {
        json!({
            "name": column.name, "type": column.kind, "format": column.format,
            "description": column.description, "priority": column.priority,
        })
    };
    columns.iter().map(definition).collect()
}

/// One row.
pub fn row(columns: &[Column], object: &Value, include: IncludeObject, now: Timestamp) -> Value {
    let cells: Vec<Value> = columns.iter().map(|column| cell(column, object, now)).collect();
    let object = match include {
        IncludeObject::None => Value::Null,
        IncludeObject::Metadata => partial_metadata(object, "v1"),
        IncludeObject::Object => object.clone(),
    };
    json!({"cells": cells, "object": object})
}

/// One cell.
pub fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    match &column.cell {
        Cell::Age => age(object, now).into(),
        Cell::Fn(compute) => compute(object, now),
        Cell::Path(path) => shown(&find(object, path), &column.kind, now),
    }
}

/// What was found, as a cell of the column's type shows it.
fn shown(found: &[&Value], kind: &str, now: Timestamp) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    match (kind, first) {
        ("string", _) => {
            let texts: Vec<String> = found.iter().map(|value| plain(value)).collect();
            texts.join(",").into()
        }
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(whole) => whole.into(),
            // A whole number that was written with a fraction.
            None => number.as_f64().map_or(Value::Null, |number| Value::from(number as i64)),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => (*first).clone(),
        ("date", Value::String(text)) => match crate::clock::parse(text) {
            Some(then) => since(then, now).into(),
            None => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `PartialObjectMetadata` of an object.
pub fn partial_metadata(object: &Value, version: &str) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": format!("meta.k8s.io/{version}"), "metadata": metadata,
    })
}

/// How long an object has been there, or `<unknown>`.
pub fn age(object: &Value, now: Timestamp) -> String {
    meta::creation_timestamp(object).map_or_else(|| "<unknown>".to_owned(), |then| since(then, now))
}

/// How long ago that was.
pub fn since(then: Timestamp, now: Timestamp) -> String {
    human_duration(now.duration_since(then).as_secs())
}

/// A number of seconds for people: two units at most, and fewer the longer it is.
pub fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |large: i64, unit: &str, small: i64, smaller: &str| match small {
        0 => format!("{large}{unit}"),
        _ => format!("{large}{unit}{small}{smaller}"),
    };
    match () {
        // Clocks of machines may be two seconds apart.
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// All values that a simple JSON path leads to.
pub fn find<'a>(object: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut found = vec![object];
    let mut rest = path.trim().trim_start_matches('{').trim_end_matches('}').trim_start_matches('$');
    while !rest.is_empty() {
        let Some((step, after)) = Step::parse(rest) else { return Vec::new() };
        found = found.into_iter().flat_map(|value| step.follow(value)).collect();
        rest = after;
    }
    found
}

/// One step of a path.
enum Step<'a> {
    Field(Cow<'a, str>),
    Index(i64),
    All,
    Where { path: &'a str, wanted: &'a str, negated: bool },
}

impl<'a> Step<'a> {
    fn parse(text: &'a str) -> Option<(Step<'a>, &'a str)> {
        if let Some(inner) = text.strip_prefix("[?(@") {
            let (condition, after) = inner.split_once(")]")?;
            return Some((Step::condition(condition)?, after));
        }
        if let Some(inner) = text.strip_prefix("['") {
            let (name, after) = inner.split_once("']")?;
            return Some((Step::Field(name.replace("\\.", ".").into()), after));
        }
        if let Some(inner) = text.strip_prefix('[') {
            let (index, after) = inner.split_once(']')?;
            let step = if index == "*" { Step::All } else { Step::Index(index.parse().ok()?) };
            return Some((step, after));
        }
        let name = text.strip_prefix('.')?;
        let mut escaped = false;
        let end = name.find(|character| {
            let ends = !escaped && matches!(character, '.' | '[');
            escaped = !escaped && character == '\\';
            ends
        });
        let (name, after) = name.split_at(end.unwrap_or(name.len()));
        match name {
            "" => after.starts_with('[').then(|| Step::parse(after)).flatten(),
            "*" => Some((Step::All, after)),
            _ => Some((Step::Field(name.replace('\\', "").into()), after)),
        }
    }

    fn condition(text: &'a str) -> Option<Step<'a>> {
        let negated = text.contains("!=");
        let (path, wanted) = text.split_once(if negated { "!=" } else { "==" })?;
        let wanted = wanted.trim().trim_matches(|quote| matches!(quote, '"' | '\''));
        Some(Step::Where { path: path.trim(), wanted, negated })
    }

    fn follow<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        match self {
            Step::Field(name) => value.get(&**name).filter(|value| !value.is_null()).into_iter().collect(),
            Step::Index(index) => {
                let items = value.as_array().map_or(&[][..], Vec::as_slice);
                let back = index.checked_neg().and_then(|back| usize::try_from(back).ok());
                let at = usize::try_from(*index).ok().or_else(|| items.len().checked_sub(back?));
                at.and_then(|at| items.get(at)).into_iter().collect()
            }
            Step::All => match value {
                Value::Array(items) => items.iter().collect(),
                Value::Object(fields) => fields.values().collect(),
                _ => Vec::new(),
            },
            Step::Where { path, wanted, negated } => {
                let items = value.as_array().into_iter().flatten();
                let equal =
                    |item: &Value| find(item, path).first().is_some_and(|found| plain(found) == *wanted);
                items.filter(|item| equal(item) != *negated).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let (minute, hour, day) = (60, 3600, 86400);
        let cases = [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (2 * minute, "2m"),
            (2 * minute + 5, "2m5s"),
            (10 * minute + 5, "10m"),
            (179 * minute, "179m"),
            (3 * hour, "3h"),
            (3 * hour + 5 * minute + 1, "3h5m"),
            (8 * hour + 5 * minute, "8h"),
            (47 * hour, "47h"),
            (2 * day, "2d"),
            (2 * day + 3 * hour, "2d3h"),
            (8 * day + 3 * hour, "8d"),
            (729 * day, "729d"),
            (730 * day, "2y"),
            (731 * day, "2y1d"),
            (8 * 365 * day + 40 * day, "8y"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human_duration(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn paths() {
        let object = json!({
            "metadata": {"labels": {"a.b/c": "x"}},
            "spec": {"replicas": 3, "list": [{"name": "a", "n": 1}, {"name": "b", "n": 2}], "none": null},
        });
        let cases = [
            (".spec.replicas", json!([3])),
            ("{.spec.replicas}", json!([3])),
            ("$.spec.replicas", json!([3])),
            (".spec.list[1].name", json!(["b"])),
            (".spec.list[-1].name", json!(["b"])),
            (".spec.list[*].name", json!(["a", "b"])),
            (".spec.list[?(@.name==\"b\")].n", json!([2])),
            (".spec.list[?(@.name != 'b')].n", json!([1])),
            (".metadata.labels.a\\.b/c", json!(["x"])),
            (".metadata.labels['a\\.b/c']", json!(["x"])),
            (".spec.absent.deep", json!([])),
            (".spec.none", json!([])),
            (".spec.list[9].name", json!([])),
            (".spec.list[", json!([])),
            ("spec", json!([])),
            ("", json!([object])),
        ];
        for (path, expected) in cases {
            assert_eq!(json!(find(&object, path)), expected, "{path}");
        }
    }

    #[test]
    fn tables() {
        let column = |name: &'static str, kind: &'static str, cell: Cell| Column {
            name: name.into(),
            kind: kind.into(),
            format: "".into(),
            description: "".into(),
            priority: 0,
            cell,
        };
        let path = |path: &'static str| Cell::Path(path.into());
        let columns = [
            column("Name", "string", path(".metadata.name")),
            column("Ready", "integer", path(".status.ready")),
            column("Ports", "string", path(".spec.ports[*]")),
            column("Since", "date", path(".status.since")),
            column(
                "Double",
                "integer",
                Cell::Fn(|object, _| json!(object["status"]["ready"].as_i64().unwrap_or(0) * 2)),
            ),
            column("Age", "string", Cell::Age),
        ];
        let object = json!({
            "metadata": {"name": "a", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"ports": [1, "x"]}, "status": {"ready": 2, "since": "2026-01-01T00:00:30Z"},
        });
        let now: Timestamp = "2026-01-01T00:05:00Z".parse().expect("a literal");
        let bare = json!({"metadata": {"name": "b"}});
        let all = table(
            &columns,
            [&object, &bare],
            json!({"resourceVersion": "7"}),
            "v1",
            IncludeObject::Metadata,
            now,
        );
        assert_eq!(all["kind"], "Table");
        assert_eq!(
            all["columnDefinitions"][1],
            json!({"name": "Ready", "type": "integer", "format": "", "description": "", "priority": 0})
        );
        assert_eq!(all["rows"][0]["cells"], json!(["a", 2, "1,x", "4m30s", 4, "5m"]));
        assert_eq!(all["rows"][1]["cells"], json!(["b", null, null, null, 0, "<unknown>"]));
        assert_eq!(all["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(row(&columns, &bare, IncludeObject::None, now)["object"], Value::Null);
        assert_eq!(row(&columns, &bare, IncludeObject::Object, now)["object"], bare);
        assert_eq!(IncludeObject::parse("object"), None);
    }
}
