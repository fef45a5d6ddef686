//! Declared types from structural schemas, as custom resources have them: JSON under `openAPIV3Schema`.
//!
//! Sizes are what a request can hold where the schema sets no bound. Not exposed, as upstream: properties without a
//! type, and unknown fields of objects that keep them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value as Json, json};

use crate::types::{Field, ListKind, Object, Schema, Type, escape};

/// The largest request, in bytes.
pub const MAX_REQUEST: u64 = 3 * 1024 * 1024;
/// The deepest schema that is looked at.
const MAX_DEPTH: usize = 100;
/// Two quotes.
const MIN_STRING: u64 = 2;
/// A date, a duration or a time in quotes, at most.
const TIME: u64 = 32;
const DATE: u64 = 12;

/// The declared type of a schema, or nothing if expressions do not see it. Roots (`root`, or embedded resources) have
/// `apiVersion`, `kind`, `metadata.name` and `metadata.generateName` whether the schema says so or not.
pub fn declare(schema: &Json, root: bool) -> Option<Arc<Schema>> {
    at(schema, root, "object", 0).map(Arc::new)
}

fn at(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Schema> {
    if depth > MAX_DEPTH {
        return None;
    }
    if is(schema, "x-kubernetes-int-or-string") {
        return Some(sized(Type::Dyn, MAX_REQUEST - 2, 1));
    }
    match schema["type"].as_str()? {
        "array" => array(schema, name, depth),
        "object" => object(schema, root, name, depth),
        "string" => Some(string(schema)),
        "boolean" => Some(sized(Type::Bool, 0, 4)),
        "number" => Some(sized(Type::Double, 0, 1)),
        "integer" => Some(sized(Type::Int, 0, 1)),
        _ => None,
    }
}

fn is(schema: &Json, flag: &str) -> bool {
    schema[flag] == Json::Bool(true)
}

fn sized(ty: Type, max_elements: u64, min_size: u64) -> Schema {
    Schema { max_elements, min_size, ..Schema::of(ty) }
}

/// A bound that the schema sets; negative ones are none at all.
fn bound(schema: &Json, name: &str) -> Option<u64> {
    let value = &schema[name];
    value.as_u64().or_else(|| value.is_number().then_some(0))
}

fn embedded(schema: &Json) -> bool {
    is(schema, "x-kubernetes-embedded-resource")
}

fn array(schema: &Json, name: &str, depth: usize) -> Option<Schema> {
    let items = at(&schema["items"], embedded(&schema["items"]), &format!("{name}.@items"), depth + 1)?;
    let most = bound(schema, "maxItems").unwrap_or((MAX_REQUEST - 2) / (items.min_size + 1));
    let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
    let list = match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListKind::Set,
        Some("map") => ListKind::Map(keys.filter_map(Json::as_str).map(str::to_owned).collect()),
        _ => ListKind::Atomic,
    };
    let ty = Type::list(items.ty.clone());
    Some(Schema { ty, max_elements: most, min_size: 2, inner: Some(Arc::new(items)), list })
}

fn object(schema: &Json, root: bool, name: &str, depth: usize) -> Option<Schema> {
    let values = &schema["additionalProperties"];
    if values.is_object() {
        let inner = at(values, embedded(values), &format!("{name}.@values"), depth + 1)?;
        let most = bound(schema, "maxProperties").unwrap_or((MAX_REQUEST - 2) / (inner.min_size + 6));
        let ty = Type::map(Type::String, inner.ty.clone());
        return Some(Schema { inner: Some(Arc::new(inner)), ..sized(ty, most, 2) });
    }
    let mut properties: BTreeMap<&str, Cow<'_, Json>> = BTreeMap::new();
    for (property, inner) in schema["properties"].as_object().into_iter().flatten() {
        properties.insert(property, Cow::Borrowed(inner));
    }
    if root {
        add_identity(&mut properties);
    }
    let required = schema["required"].as_array().into_iter().flatten();
    let required: BTreeSet<&str> = required.filter_map(Json::as_str).collect();
    let mut object = Object { name: name.to_owned(), fields: BTreeMap::new() };
    let mut min_size = 2;
    for (property, inner) in &properties {
        let Some(field) = at(inner, embedded(inner), &format!("{name}.{property}"), depth + 1) else {
            continue;
        };
        if required.contains(property) && inner["default"].is_null() {
            min_size += property.len() as u64 + field.min_size + 4;
        }
        if let Some(escaped) = escape(property) {
            object.fields.insert(escaped, Field { json: (*property).to_owned(), schema: Arc::new(field) });
        }
    }
    Some(sized(Type::Object(Arc::new(object)), 0, min_size))
}

/// What every resource has.
fn add_identity(properties: &mut BTreeMap<&str, Cow<'_, Json>>) {
    properties.insert("apiVersion", Cow::Owned(json!({"type": "string"})));
    properties.insert("kind", Cow::Owned(json!({"type": "string"})));
    let declared = properties.get("metadata").map(|metadata| &metadata["properties"]);
    let mut metadata = serde_json::Map::new();
    for name in ["name", "generateName"] {
        let known = declared.map(|declared| &declared[name]).filter(|known| known.is_object());
        metadata.insert(name.to_owned(), known.cloned().unwrap_or(json!({"type": "string"})));
    }
    let metadata = json!({"type": "object", "properties": metadata});
    properties.insert("metadata", Cow::Owned(metadata));
}

fn string(schema: &Json) -> Schema {
    let length = bound(schema, "maxLength");
    match schema["format"].as_str() {
        Some("byte") => sized(Type::Bytes, length.unwrap_or(MAX_REQUEST - 2), MIN_STRING),
        Some("duration") => sized(Type::Duration, TIME, 3),
        Some("date") => sized(Type::Timestamp, DATE, DATE),
        Some("date-time") => sized(Type::Timestamp, TIME, 21),
        _ => {
            let words = schema["enum"].as_array().into_iter().flatten().filter_map(Json::as_str);
            let longest = words.map(|word| word.len() as u64).max();
            // Lengths count characters, requests count bytes.
            let most = length.map(|length| length.saturating_mul(4)).or(longest).unwrap_or(MAX_REQUEST - 2);
            sized(Type::String, most, MIN_STRING)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::Value;
    use crate::{Environment, PER_CALL_LIMIT, Variables};

    fn crd() -> Json {
        json!({"type": "object", "required": ["spec"], "properties": {"spec": {"type": "object", "properties": {
            "replicas": {"type": "integer"},
            "port": {"x-kubernetes-int-or-string": true},
            "my-name": {"type": "string", "maxLength": 10},
            "namespace": {"type": "string"},
            "until": {"type": "string", "format": "date-time"},
            "wait": {"type": "string", "format": "duration"},
            "data": {"type": "string", "format": "byte"},
            "names": {"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"},
            "ports": {"type": "array", "maxItems": 5, "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["p"],
                "items": {"type": "object", "properties": {"p": {"type": "integer"}, "v": {"type": "string"}}}},
            "labels": {"type": "object", "additionalProperties": {"type": "string", "maxLength": 5}},
            "anything": {"x-kubernetes-preserve-unknown-fields": true},
            "template": {"type": "object", "x-kubernetes-embedded-resource": true},
        }}}})
    }

    fn environment() -> Environment {
        Environment::new().with("self", declare(&crd(), true).expect("has a type"))
    }

    #[test]
    fn rules_see_what_schemas_say() {
        let object = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"name": "n", "uid": "u"}, "spec": {
            "replicas": 3, "port": "http", "my-name": "x", "namespace": "ns", "until": "2026-01-01T00:00:00Z",
            "wait": "5m", "data": "YWI=", "names": ["a", "b"], "labels": {"k": "v"},
            "ports": [{"p": 1, "v": "a"}, {"p": 2, "v": "b"}], "template": {"kind": "Pod", "metadata": {"name": "t"}},
        }});
        let rules = [
            "self.spec.replicas > 2 && self.metadata.name == 'n' && self.kind == 'A'",
            "self.spec.my__dash__name == 'x' && self.spec.__namespace__ == 'ns'",
            "self.spec.port == 'http' && type(self.spec.port) == string",
            "self.spec.until.getFullYear() == 2026 && self.spec.wait == duration('300s')",
            "self.spec.data == b'ab'",
            "self.spec.names == self.spec.names && self.spec.names + ['b', 'c'] == ['a', 'b', 'c']",
            "(self.spec.ports + self.spec.ports).size() == 2",
            "self.spec.template.kind == 'Pod' && self.spec.template.metadata.name == 't'",
            "self.spec.labels.all(k, self.spec.labels[k] == 'v')",
            "!has(self.spec.labels.nothing)",
        ];
        for rule in rules {
            let program = environment().compile(rule).unwrap_or_else(|error| panic!("{rule}: {error}"));
            let schema = declare(&crd(), true).expect("has a type");
            let variables = Variables(vec![("self", Value::from_json(&object, Some(&schema)))]);
            let evaluation = program.evaluate(&variables, PER_CALL_LIMIT);
            assert!(matches!(evaluation.result, Ok(Value::Bool(true))), "{rule}: {:?}", evaluation.result);
        }
    }

    #[test]
    fn sets_and_maps_of_items_have_no_order() {
        let schema = declare(&crd()["properties"]["spec"], false).expect("has a type");
        let program = Environment::new()
            .with("self", Arc::clone(&schema))
            .with("oldSelf", Arc::clone(&schema))
            .compile("self.names == oldSelf.names && self.ports == oldSelf.ports");
        let program = program.expect("is well typed");
        let new = json!({"names": ["a", "b"], "ports": [{"p": 1, "v": "a"}, {"p": 2}]});
        let old = json!({"names": ["b", "a"], "ports": [{"p": 2}, {"p": 1, "v": "a"}]});
        let variables = Variables(vec![
            ("self", Value::from_json(&new, Some(&schema))),
            ("oldSelf", Value::from_json(&old, Some(&schema))),
        ]);
        assert!(matches!(program.evaluate(&variables, PER_CALL_LIMIT).result, Ok(Value::Bool(true))));
    }

    #[test]
    fn what_is_not_declared_is_not_there() {
        let cases = [
            ("self.spec.anything == 1", "undefined field 'anything'"),
            ("self.spec.nothing == 1", "undefined field 'nothing'"),
            ("self.metadata.uid == 'u'", "undefined field 'uid'"),
            ("self.spec.replicas == 'x'", "found no matching overload for '_==_' applied to '(int, string)'"),
        ];
        for (rule, expected) in cases {
            let error = environment().compile(rule).map(|_| ()).expect_err(rule);
            assert_eq!(error.issues[0].message, expected, "{rule}");
        }
    }

    #[test]
    fn bounds_decide_what_a_rule_can_cost() {
        let most = |rule: &str| environment().compile(rule).expect("is well typed").estimated_cost().max;
        assert_eq!(most("self.spec.ports.all(x, x.p > 0)"), 3 + 1 + 5 * 6);
        assert_eq!(most("self.spec.my__dash__name.contains('abc')"), 3 + 4);
        assert!(most("self.spec.names.all(x, self.spec.names.all(y, x == y))") > 1_000_000_000);
    }
}
