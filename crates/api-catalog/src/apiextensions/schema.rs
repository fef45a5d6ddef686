//! What a schema in a definition may say: what OpenAPI has and is not supported here, the extensions of Kubernetes, and
//! rules in CEL.
//!
//! Rules are compiled only where the schema is well-formed, since what they see follows from it.

use api_machinery::field::{Errors, Path};
use cel::rules;
use serde_json::Value;

use super::structural;
use crate::at::At;
use crate::custom;

/// JSON types as schemas name them.
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What the root may say when there is a `/status`, as upstream's inner form names it.
const AT_ROOT: &str = "Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength \
                       Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example \
                       XPreserveUnknownFields XValidations";
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// Checks `validation`, which holds the schema of `version`.
pub fn validate(validation: &At, version: &Value, e: &mut Errors) {
    let schema = validation.get("openAPIV3Schema");
    let Some(value) = schema.value() else { return };
    let mut wrong = Errors::new();
    if version["subresources"]["status"].is_object() {
        root_with_status(validation, &schema, &mut wrong);
    }
    if schema.get("nullable").flag() {
        schema.get("nullable").forbidden(&mut wrong, "nullable cannot be true at the root");
    }
    structural::validate(&schema, &mut wrong);
    if wrong.is_empty() {
        defaults(&schema, &mut wrong);
    }
    walk(&schema, Place { root: true, ..Place::default() }, &mut wrong);
    if wrong.is_empty() {
        rules::compile(value, &Path::new(&schema.path()), &mut wrong);
    }
    e.extend(wrong.into_vec());
}

fn root_with_status(validation: &At, schema: &At, e: &mut Errors) {
    let kind = schema.get("type");
    if kind.is_set() && kind.text() != "object" {
        let only = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return kind.invalid(e, only);
    }
    let inner = |field: &str| -> String {
        let extension = field.strip_prefix("x-kubernetes-").map(|rest| format!("X-{rest}"));
        let words = extension.unwrap_or_else(|| field.to_owned());
        words.split('-').map(|word| word[..1].to_uppercase() + &word[1..]).collect()
    };
    let mut fields = schema.object().into_iter().flatten().filter(|(_, value)| !is_zero(value));
    if fields.any(|(field, _)| !AT_ROOT.split_whitespace().any(|known| known == inner(field))) {
        let known: Vec<&str> = AT_ROOT.split_whitespace().collect();
        let detail = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            known.join(" ")
        );
        validation.get("openAPIV3Schema").invalid(e, detail);
    }
}

/// What Go has where nothing was said.
fn is_zero(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value == "" || value == 0
}

/// What is above a place of a schema.
#[derive(Clone, Copy, Default)]
struct Place<'a> {
    root: bool,
    /// Inside of what all objects have.
    metadata: bool,
    /// Why there may be no default.
    no_default: Option<&'a str>,
}

/// The schemas below a schema, with their places.
fn below<'a>(schema: &At<'_, 'a>, visit: &mut dyn FnMut(&At<'_, 'a>, &str)) {
    for field in ["items", "additionalProperties", "not"] {
        let inner = schema.get(field);
        if inner.object().is_some() {
            visit(&inner, field);
        }
    }
    for field in ["properties", "definitions", "dependencies"] {
        let all = schema.get(field);
        for (_, inner) in all.entries().filter(|(_, inner)| inner.object().is_some()) {
            visit(&inner, field);
        }
    }
    for field in ["items", "allOf", "oneOf", "anyOf"] {
        let all = schema.get(field);
        for inner in all.items() {
            visit(&inner, field);
        }
    }
}

fn walk(schema: &At, place: Place, e: &mut Errors) {
    unsupported(schema, place, e);
    extensions(schema, e);
    lists(schema, e);
    validations(schema, e);
    let embedded = schema.get("x-kubernetes-embedded-resource").flag();
    let properties = schema.get("properties");
    if properties.len_of_map() > 0 && schema.get("additionalProperties").is_set() {
        let more = schema.get("additionalProperties");
        if more.value() != Some(&Value::Bool(true)) {
            more.forbidden(e, "additionalProperties and properties are mutual exclusive");
        }
    }
    for (name, inner) in properties.entries() {
        let metadata = (place.root || embedded) && matches!(name, "metadata" | "kind" | "apiVersion");
        let reason = format!("in top-level {name}");
        let no_default = if metadata && place.root { Some(reason.as_str()) } else { place.no_default };
        walk(&inner, Place { root: false, metadata: place.metadata || metadata, no_default }, e);
    }
    below(schema, &mut |inner, field| {
        let map = place.metadata && field == "additionalProperties";
        let no_default = if map {
            Some("inside additionalProperties applying to object metadata")
        } else {
            place.no_default
        };
        if field != "properties" {
            walk(inner, Place { root: false, no_default, ..place }, e);
        }
    });
}

fn unsupported(schema: &At, place: Place, e: &mut Errors) {
    let kind = schema.get("type");
    if !kind.is_empty() && !TYPES.contains(&kind.text()) {
        kind.not_supported(e, &TYPES);
    }
    if let Some(reason) = place.no_default.filter(|_| schema.get("default").is_set()) {
        schema.get("default").forbidden(e, &format!("must not be set {reason}"));
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if !schema.get(field).is_empty() {
            schema.get(field).forbidden(e, &format!("{field} is not supported"));
        }
    }
    if kind.text() == "null" {
        kind.forbidden(e, "type cannot be set to null, use nullable as an alternative");
    }
    if !schema.get("items").array().is_empty() {
        schema.get("items").forbidden(e, "items must be a schema object and not an array");
    }
    if place.metadata && schema.get("x-kubernetes-embedded-resource").flag() {
        schema.get("x-kubernetes-embedded-resource").forbidden(e, "must not be used inside of resource meta");
    }
    if schema.get("uniqueItems").flag() {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        schema.get("uniqueItems").forbidden(e, why);
    }
}

/// The type must be this one, since something else says so.
fn must_be(schema: &At, wanted: &str, why: &str, e: &mut Errors) -> bool {
    let kind = schema.get("type");
    let detail = format!("must be {wanted} if {why} is specified");
    match kind.text() {
        text if text == wanted => return true,
        "" => kind.required(e, &detail),
        _ => kind.invalid(e, detail),
    }
    false
}

fn extensions(schema: &At, e: &mut Errors) {
    let keep = schema.get("x-kubernetes-preserve-unknown-fields");
    if keep.value() == Some(&Value::Bool(false)) {
        keep.invalid(e, "must be true or undefined");
    }
    let map = schema.get("x-kubernetes-map-type");
    if map.is_set() {
        must_be(schema, "object", "x-kubernetes-map-type", e);
        if !matches!(map.text(), "atomic" | "granular") {
            map.not_supported(e, &["atomic", "granular"]);
        }
    }
}

fn lists(schema: &At, e: &mut Errors) {
    let (list, keys, items) =
        (schema.get("x-kubernetes-list-type"), schema.get("x-kubernetes-list-map-keys"), schema.get("items"));
    let must_be_map = "must be map if x-kubernetes-list-map-keys is non-empty";
    if list.is_set() {
        let is_list = must_be(schema, "array", "x-kubernetes-list-type", e);
        if is_list && list.text() == "set" {
            set_items(&items, e);
        }
        if !matches!(list.text(), "atomic" | "set" | "map") {
            list.not_supported(e, &["atomic", "set", "map"]);
        }
        if !keys.is_empty() && list.text() != "map" {
            list.invalid(e, must_be_map);
        }
    } else if !keys.is_empty() {
        list.required(e, must_be_map);
    }
    if list.text() == "map" {
        keyed_items(&keys, &items, e);
    }
    if matches!(list.text(), "map" | "set") && items.get("nullable").flag() {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {}", list.text());
        items.get("nullable").forbidden(e, &detail);
    }
}

fn set_items(items: &At, e: &mut Errors) {
    let whole = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list, map) = (items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type"));
    match items.get("type").text() {
        "array" if list.is_set() && list.text() != "atomic" => list.invalid(e, whole),
        "object" if map.text() != "atomic" => map.invalid(e, whole),
        _ => {}
    }
}

fn keyed_items(keys: &At, items: &At, e: &mut Errors) {
    if keys.is_empty() {
        keys.required(e, "must not be empty if x-kubernetes-list-type is map");
    }
    if !items.is_set() {
        return items.required(e, "must have a schema if x-kubernetes-list-type is map");
    }
    let kind = items.get("type");
    if kind.text() != "object" {
        return kind.invalid_text(e, "must be object if parent array's x-kubernetes-list-type is map");
    }
    let (properties, required) = (items.get("properties"), items.get("required"));
    let mut seen = Vec::new();
    for key in keys.texts() {
        let property = properties.key(key);
        if !property.is_set() {
            keys.invalid(e, "entries must all be names of item properties");
        }
        if matches!(property.get("type").text(), "array" | "object") {
            let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            property.get("type").invalid_as(e, kind.text(), detail);
        }
        if seen.contains(&key) {
            keys.invalid(e, "must not contain duplicate entries");
        }
        seen.push(key);
        let known = required.texts().any(|name| name == key) || property.get("default").is_set();
        if property.is_set() && !known {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                          property";
            property.get("default").required(e, detail);
        }
        if property.get("nullable").flag() {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            property.get("nullable").forbidden(e, detail);
        }
    }
}

/// What surrounds rules; whether they compile is looked at when all else is right.
fn validations(schema: &At, e: &mut Errors) {
    let all = schema.get("x-kubernetes-validations");
    for rule in all.items() {
        let (source, message) = (rule.get("rule"), rule.get("message"));
        let breaks = |text: &str| text.trim().contains(['\n', '\r']);
        if source.text().trim().is_empty() {
            source.required(e, "rule is not specified");
        } else if !message.is_empty() && message.text().trim().is_empty() {
            message.invalid(e, "message must be non-empty if specified");
        } else if breaks(message.text()) {
            message.invalid(e, "message must not contain line breaks");
        } else if breaks(source.text()) && message.is_empty() {
            message.required(e, "message must be specified if rule contains line breaks");
        }
        let expression = rule.get("messageExpression");
        if !expression.is_empty() && expression.text().trim().is_empty() {
            expression.required(e, "messageExpression must be non-empty if specified");
        }
        let (reason, path) = (rule.get("reason"), rule.get("fieldPath"));
        if reason.is_set() && !REASONS.contains(&reason.text()) {
            reason.not_supported(e, &REASONS);
        }
        if !path.is_empty() && path.text().trim().is_empty() {
            path.invalid(e, "fieldPath must be non-empty if specified");
        }
        if path.text().contains(['\n', '\r']) {
            path.invalid(e, "fieldPath must not contain line breaks");
        }
    }
}

/// Defaults must be what their schema says, and hold nothing that it does not know.
fn defaults(schema: &At, e: &mut Errors) {
    let default = schema.get("default");
    if let (Some(schema), Some(value)) = (schema.value(), default.value()) {
        custom::judge_default(schema, value, &Path::new(&default.path()), e);
    }
    below(schema, &mut |inner, _| defaults(inner, e));
}
