//! The schema of a custom resource as OpenAPI documents have it.
//!
//! Version 2 cannot say all: upstream leaves out what makes kubectl of old refuse good objects, and so does this.

use serde_json::{Map, Value, json};

use super::structure::{MAX_DEPTH, OBJECT_META, flag};

/// What both versions of OpenAPI show of a schema, as it is.
const SHOWN: [&str; 24] = [
    "default",
    "description",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "pattern",
    "required",
    "title",
    "type",
    "uniqueItems",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-validations",
];

/// Shown where they are true.
const FLAGS: [&str; 4] = [
    "nullable",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
];

/// The schema of a resource. What it says of metadata is what is true of all objects.
pub(super) fn document(schema: &Value, v2: bool, reference: &mut dyn FnMut(&str) -> Value) -> Value {
    if !schema.is_object() || (v2 && flag(schema, "x-kubernetes-preserve-unknown-fields")) {
        return json!({"type": "object"});
    }
    let mut writer = Writer { v2, reference };
    let mut out = writer.schema(schema, 0);
    writer.identity(&mut out);
    Value::Object(out)
}

struct Writer<'r> {
    v2: bool,
    reference: &'r mut dyn FnMut(&str) -> Value,
}

impl Writer<'_> {
    fn schema(&mut self, schema: &Value, depth: usize) -> Map<String, Value> {
        let mut out = Map::new();
        let Some(fields) = schema.as_object().filter(|_| depth <= MAX_DEPTH) else { return out };
        for (name, value) in fields {
            let shown = SHOWN.contains(&name.as_str()) && !value.is_null();
            if shown || (FLAGS.contains(&name.as_str()) && *value == true) {
                out.insert(name.clone(), value.clone());
            }
        }
        if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
            let below = properties.iter().map(|(name, inner)| (name.clone(), self.below(inner, depth)));
            out.insert("properties".to_owned(), Value::Object(below.collect()));
        }
        for name in ["items", "additionalProperties", "not"] {
            match fields.get(name) {
                Some(inner @ Value::Object(_)) => out.insert(name.to_owned(), self.below(inner, depth)),
                Some(Value::Bool(flag)) => out.insert(name.to_owned(), (*flag).into()),
                _ => None,
            };
        }
        for name in ["allOf", "anyOf", "oneOf"] {
            if let Some(all) = fields.get(name).and_then(Value::as_array) {
                let below = all.iter().map(|inner| self.below(inner, depth)).collect();
                out.insert(name.to_owned(), Value::Array(below));
            }
        }
        let mixed = flag(schema, "x-kubernetes-int-or-string") && !out.contains_key("allOf");
        if mixed && !out.contains_key("anyOf") {
            out.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        if self.v2 {
            simplify(&mut out, schema);
        }
        if flag(schema, "x-kubernetes-embedded-resource") && !(self.v2 && is_open(schema)) {
            self.identity(&mut out);
            self.require_identity(&mut out);
        }
        out
    }

    fn below(&mut self, schema: &Value, depth: usize) -> Value {
        Value::Object(self.schema(schema, depth + 1))
    }

    /// What every object has.
    fn identity(&mut self, out: &mut Map<String, Value>) {
        let properties = out.entry("properties").or_insert_with(|| json!({}));
        let Some(properties) = properties.as_object_mut() else { return };
        for (name, what) in [
            ("apiVersion", "The version of the API in which this object is written."),
            ("kind", "The kind of this object."),
        ] {
            properties.insert(name.to_owned(), json!({"type": "string", "description": what}));
        }
        properties.insert("metadata".to_owned(), (self.reference)(OBJECT_META));
    }

    fn require_identity(&mut self, out: &mut Map<String, Value>) {
        let required = out.entry("required").or_insert_with(|| json!([]));
        let Some(required) = required.as_array_mut() else { return };
        for name in ["kind", "apiVersion"] {
            if !required.iter().any(|known| known == name) {
                required.push(name.into());
            }
        }
    }
}

fn is_open(schema: &Value) -> bool {
    flag(schema, "x-kubernetes-preserve-unknown-fields")
}

/// Leaves out what version 2 cannot say, and what kubectl misreads.
fn simplify(out: &mut Map<String, Value>, schema: &Value) {
    for name in ["allOf", "anyOf", "oneOf", "not", "nullable"] {
        out.remove(name);
    }
    let nullable = flag(schema, "nullable");
    if nullable || is_open(schema) {
        out.remove("items");
        out.remove("properties");
    }
    let ty = schema["type"].as_str().unwrap_or_default();
    let listless = ty == "array" && !out.contains_key("items");
    if nullable || listless || (is_open(schema) && ty == "object") {
        out.remove("type");
    }
    if flag(&schema["additionalProperties"], "nullable") {
        out.remove("required");
    }
    let optional =
        |name: &Value| name.as_str().is_some_and(|name| flag(&schema["properties"][name], "nullable"));
    if let Some(required) = out.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !optional(name));
        if required.is_empty() {
            out.remove("required");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(schema: &Value, v2: bool) -> Value {
        document(schema, v2, &mut |name| json!({"$ref": name}))
    }

    #[test]
    fn what_both_versions_show() {
        let schema = json!({"type": "object", "description": "d", "properties": {
            "spec": {"type": "object", "required": ["a", "b"], "x-kubernetes-preserve-unknown-fields": false, "properties": {
                "a": {"type": "string", "nullable": true, "pattern": "^a$"},
                "b": {"x-kubernetes-int-or-string": true},
                "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"d": {"type": "string"}}},
                "e": {"type": "integer", "oneOf": [{"minimum": 1}, {"maximum": 0}]},
            }},
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}},
        }});
        let v3 = written(&schema, false);
        assert_eq!(v3["properties"]["metadata"], json!({"$ref": OBJECT_META}));
        let spec = &v3["properties"]["spec"];
        assert_eq!(spec["required"], json!(["a", "b"]));
        assert_eq!(spec.get("x-kubernetes-preserve-unknown-fields"), None);
        assert_eq!(spec["properties"]["a"], json!({"type": "string", "nullable": true, "pattern": "^a$"}));
        assert_eq!(spec["properties"]["b"]["anyOf"], json!([{"type": "integer"}, {"type": "string"}]));
        assert_eq!(spec["properties"]["e"]["oneOf"][1], json!({"maximum": 0}));
        let v2 = written(&schema, true);
        let spec = &v2["properties"]["spec"];
        assert_eq!(spec["required"], json!(["b"]));
        let expected = json!({
            "a": {"pattern": "^a$"}, "b": {"x-kubernetes-int-or-string": true},
            "c": {"x-kubernetes-preserve-unknown-fields": true}, "e": {"type": "integer"},
        });
        assert_eq!(spec["properties"], expected);
    }

    #[test]
    fn what_is_open_or_embedded() {
        let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": {"type": "object"}}});
        assert_eq!(written(&open, true), json!({"type": "object"}));
        assert!(written(&open, false)["properties"]["spec"].is_object());
        assert_eq!(written(&Value::Null, false), json!({"type": "object"}));
        let embedded = json!({"type": "object", "properties": {"object": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "object"}}}}});
        let object = &written(&embedded, true)["properties"]["object"];
        assert_eq!(object["required"], json!(["kind", "apiVersion"]));
        assert_eq!(object["properties"]["metadata"], json!({"$ref": OBJECT_META}));
    }
}
