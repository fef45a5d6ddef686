//! Structural schemas: every field has one type, said in one place, so that what is unknown can be pruned and defaults can be
//! filled in.

use api_machinery::field::Errors;
use cel::Pattern;
use serde_json::{Value, json};

use crate::at::At;

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// What says more of a value that has its type elsewhere.
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Checks that a schema is structural.
pub fn validate(schema: &At, e: &mut Errors) {
    let mut wrong = Errors::new();
    invariants(schema, Level::Root, &mut wrong);
    completeness(schema, &mut wrong);
    let mut wrong = wrong.into_vec();
    wrong.sort_by_cached_key(ToString::to_string);
    e.extend(wrong);
}

fn flag(schema: &At, extension: &str) -> bool {
    schema.get(&format!("x-kubernetes-{extension}")).flag()
}

fn invariants(schema: &At, level: Level, e: &mut Errors) {
    let (kind, items, properties) = (schema.get("type"), schema.get("items"), schema.get("properties"));
    if kind.text() == "array" && !items.is_set() {
        items.required(e, "must be specified");
    }
    if items.object().is_some() {
        invariants(&items, Level::Item, e);
    }
    for (_, property) in properties.entries() {
        invariants(&property, Level::Field, e);
    }
    let values = schema.get("additionalProperties");
    if values.is_set() && level == Level::Root {
        values.forbidden(e, "must not be used at the root");
    }
    if values.object().is_some() {
        invariants(&values, Level::Field, e);
    }
    let keep = flag(schema, "preserve-unknown-fields");
    let (embedded, either) = (flag(schema, "embedded-resource"), flag(schema, "int-or-string"));
    for extension in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if either && schema.get(extension).flag() {
            schema.get(extension).invalid(e, "must be false if x-kubernetes-int-or-string is true");
        }
    }
    values_of(schema, exception(schema), level, e);
    type_is_said(schema, level, e);
    if embedded && values.is_set() {
        values.forbidden(e, "must not be used if x-kubernetes-embedded-resource is set");
    }
    if level == Level::Root || embedded {
        metadata(&properties, level, e);
    }
    if embedded && !keep && properties.len_of_map() == 0 {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without \
                      x-kubernetes-preserve-unknown-fields";
        properties.required(e, detail);
    }
}

fn type_is_said(schema: &At, level: Level, e: &mut Errors) {
    let kind = schema.get("type");
    if flag(schema, "embedded-resource") && kind.text() != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            kind.required(e, detail);
        } else {
            kind.invalid(e, detail);
        }
    } else if kind.is_empty() && !flag(schema, "int-or-string") && !flag(schema, "preserve-unknown-fields") {
        kind.required(
            e,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if level == Level::Root && !kind.is_empty() && kind.text() != "object" {
        kind.invalid(e, "must be object at the root");
    }
}

/// What all objects have can hardly be restricted.
fn metadata(properties: &At, level: Level, e: &mut Errors) {
    for (field, wanted) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let property = properties.key(field);
        if property.is_set() && property.get("type").text() != wanted {
            property.get("type").invalid_text(e, format!("must be {wanted}"));
        }
    }
    let metadata = properties.key("metadata");
    if level != Level::Root || !metadata.is_set() {
        return;
    }
    let said = metadata.object().into_iter().flatten();
    let more = said.clone().any(|(field, value)| {
        let harmless = matches!(field.as_str(), "type" | "default" | "properties");
        !harmless && !matches!(value, Value::Null | Value::Bool(false)) && value != ""
    });
    let names = metadata.get("properties");
    let others = names.entries().any(|(name, _)| !matches!(name, "name" | "generateName"));
    if more || others {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        metadata.forbidden(e, detail);
    }
}

/// Where the types of an integer or text may stand although they are said elsewhere.
#[derive(Clone, Copy, Default, PartialEq)]
enum Exception {
    #[default]
    None,
    AnyOf,
    FirstAllOf,
}

fn exception(schema: &At) -> Exception {
    let pattern = json!([{"type": "integer"}, {"type": "string"}]);
    let all = schema.get("allOf");
    if schema.get("anyOf").value() == Some(&pattern) {
        Exception::AnyOf
    } else if all.index(0).get("anyOf").value() == Some(&pattern) {
        Exception::FirstAllOf
    } else {
        Exception::None
    }
}

/// What a schema says of values beside their type.
fn values_of(schema: &At, exception: Exception, level: Level, e: &mut Errors) {
    for junctor in JUNCTORS {
        let all = schema.get(junctor);
        for (index, one) in all.items().enumerate() {
            match (exception, junctor, index) {
                (Exception::AnyOf, "anyOf", _) => {}
                (Exception::FirstAllOf, "allOf", 0) => nested(&one, Exception::AnyOf, level, e),
                _ => nested(&one, Exception::None, level, e),
            }
        }
    }
    let not = schema.get("not");
    if not.is_set() {
        nested(&not, Exception::None, level, e);
    }
    let pattern = schema.get("pattern");
    if let Err(why) = Pattern::new(pattern.text()) {
        pattern.invalid(e, format!("must be a valid regular expression, but isn't: {why}"));
    }
}

/// Fields that only the schema itself may have, and what those below are told.
const FORBIDDEN: [(&str, &str); 11] = [
    ("type", "must be empty to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
];

fn nested(schema: &At, exception: Exception, level: Level, e: &mut Errors) {
    values_of(schema, exception, level, e);
    for field in ["items", "additionalProperties"] {
        let inner = schema.get(field);
        if inner.object().is_some() {
            nested(&inner, Exception::None, level, e);
        }
    }
    let properties = schema.get("properties");
    for (name, property) in properties.entries() {
        nested(&property, Exception::None, Level::Field, e);
        if name == "metadata" {
            property.forbidden(e, "must not be specified in a nested context");
        }
    }
    for (field, detail) in FORBIDDEN {
        let said = schema.get(field);
        if !said.is_empty() && said.value() != Some(&Value::Bool(false)) {
            said.forbidden(e, detail);
        }
    }
    let values = schema.get("additionalProperties");
    if values.value().is_some_and(Value::is_boolean) {
        values.forbidden(e, "must be undefined to be structural");
    }
}

/// What is said of a field's values needs the field.
fn completeness(schema: &At, e: &mut Errors) {
    said_of(schema, Some(schema), schema, e);
    for field in ["items", "additionalProperties"] {
        let inner = schema.get(field);
        if inner.object().is_some() {
            completeness(&inner, e);
        }
    }
    let properties = schema.get("properties");
    for (_, property) in properties.entries() {
        completeness(&property, e);
    }
}

/// `said` speaks of the values of `schema`, whose place is `place`.
fn said_of(said: &At, schema: Option<&At>, place: &At, e: &mut Errors) {
    for junctor in JUNCTORS {
        let all = said.get(junctor);
        for one in all.items() {
            nested_said_of(&one, schema, place, e);
        }
    }
    let not = said.get("not");
    if not.is_set() {
        nested_said_of(&not, schema, place, e);
    }
}

fn nested_said_of(said: &At, schema: Option<&At>, place: &At, e: &mut Errors) {
    if schema.is_none() {
        return place.required(e, &format!("because it is defined in {}", said.path()));
    }
    said_of(said, schema, place, e);
    for field in ["items", "additionalProperties"] {
        let (inner, there) = (said.get(field), place.get(field));
        if inner.object().is_some() {
            nested_said_of(&inner, Some(&there).filter(|there| there.is_set()), &there, e);
        }
    }
    let (properties, known) = (said.get("properties"), place.get("properties"));
    let values = place.get("additionalProperties");
    for (name, inner) in properties.entries() {
        let property = known.key(name);
        if !property.is_set() && values.object().is_some() {
            nested_said_of(&inner, Some(&values), &values, e);
        } else {
            nested_said_of(&inner, Some(&property).filter(|there| there.is_set()), &property, e);
        }
    }
}
