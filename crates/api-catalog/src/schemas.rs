//! The schemas of the built-in kinds, made by `build.rs`: structure for the request path, descriptions for OpenAPI.
//!
//! Structure is read once into an arena that all kinds share; descriptions are decompressed on each call and not
//! kept, since only OpenAPI documents and `kubectl explain` need them.

use std::borrow::Cow;
use std::io::Read as _;
use std::sync::Arc;

use api_machinery::schema::{
    Arena, Descriptions, Field, Format, Kind, ListType, Node, NodeId, PatchStrategy,
};
use serde_json::Value;

const STRUCTURE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/structure.jsonl.z"));
const DESCRIPTIONS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptions.jsonl.z"));

const REFERENCE: &str = "#/definitions/";

/// Reads the structure of all definitions.
pub(crate) fn load() -> Arc<Arena> {
    let text = decompress(STRUCTURE);
    let mut arena = Arena::new();
    let lines: Vec<(&str, &str)> = text.lines().map(split_line).collect();
    // Definitions mention each other, so all have their places before the first is read.
    for (name, _) in &lines {
        let id = arena.add(Node::default());
        arena.define(*name, id);
    }
    for (name, schema) in lines {
        let schema: Value = serde_json::from_str(schema).expect("build.rs wrote JSON");
        let mut node = read(&mut arena, &schema);
        match name.rsplit('.').next() {
            Some("Quantity") => node.kind = Kind::Quantity,
            Some("MicroTime") => node.format = Format::MicroTime,
            _ => {}
        }
        let id = arena.definition(name).expect("defined above");
        arena.set(id, node);
    }
    Arc::new(arena)
}

/// Reads the descriptions of all definitions and their fields.
pub(crate) fn descriptions(arena: &Arena) -> Descriptions {
    let mut all = Descriptions::default();
    for line in decompress(DESCRIPTIONS).lines() {
        let (name, texts) = split_line(line);
        let Some(id) = arena.definition(name) else { continue };
        let texts: std::collections::BTreeMap<String, String> =
            serde_json::from_str(texts).expect("build.rs wrote JSON");
        for (field, text) in texts {
            let node = match field.as_str() {
                "" => Some(id),
                field => arena.view(id).fields().iter().find(|f| f.name == field).map(|f| f.node),
            };
            if let Some(node) = node {
                all.0.insert(node, Cow::Owned(text));
            }
        }
    }
    all
}

fn decompress(bytes: &[u8]) -> String {
    let mut text = String::new();
    flate2::read::DeflateDecoder::new(bytes).read_to_string(&mut text).expect("build.rs wrote it");
    text
}

/// A line is `["NAME",SCHEMA]`.
fn split_line(line: &str) -> (&str, &str) {
    let inner = line.strip_prefix("[\"").and_then(|l| l.strip_suffix(']'));
    inner.and_then(|l| l.split_once("\",")).expect("build.rs wrote pairs")
}

fn read(arena: &mut Arena, schema: &Value) -> Node {
    let mut node = Node::of(kind(arena, schema));
    node.format = match schema["format"].as_str().unwrap_or("") {
        "int32" => Format::Int32,
        "int64" => Format::Int64,
        "double" => Format::Double,
        "byte" => Format::Byte,
        "date-time" => Format::DateTime,
        _ => Format::None,
    };
    read_extra(&mut node, schema);
    node
}

fn add(arena: &mut Arena, schema: &Value) -> NodeId {
    let node = read(arena, schema);
    arena.add(node)
}

fn kind(arena: &mut Arena, schema: &Value) -> Kind {
    if let Some(target) = schema["$ref"].as_str().and_then(|r| r.strip_prefix(REFERENCE)) {
        return Kind::Ref(arena.definition(target).expect("build.rs wrote every definition"));
    }
    if schema["x-kubernetes-int-or-string"] == true {
        return Kind::IntOrString;
    }
    match schema["type"].as_str().unwrap_or("") {
        "string" => Kind::String,
        "integer" => Kind::Integer,
        "number" => Kind::Number,
        "boolean" => Kind::Boolean,
        "array" => Kind::Array(add(arena, &schema["items"])),
        "object" => object(arena, schema),
        _ => Kind::Any,
    }
}

fn object(arena: &mut Arena, schema: &Value) -> Kind {
    if let Some(properties) = schema["properties"].as_object() {
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or(&[]);
        let fields = properties.iter().map(|(name, property)| Field {
            name: name.clone(),
            node: add(arena, property),
            required: required.iter().any(|r| r == name),
        });
        return Kind::Object(fields.collect());
    }
    match &schema["additionalProperties"] {
        Value::Object(_) => Kind::Map(add(arena, &schema["additionalProperties"])),
        // Free-form, such as `RawExtension`.
        _ => Kind::Any,
    }
}

fn read_extra(node: &mut Node, schema: &Value) {
    if let Some(default) = schema.get("default") {
        node.extra_mut().default = Some(default.clone());
    }
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => node.extra_mut().list_type = ListType::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            let extra = node.extra_mut();
            extra.list_type = ListType::Map;
            extra.map_keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
        }
        _ => {}
    }
    match schema["x-kubernetes-map-type"].as_str() {
        Some("atomic") => node.extra_mut().map_atomic = true,
        Some("granular") => node.extra_mut().map_granular = true,
        _ => {}
    }
    if schema["x-always"] == true {
        node.extra_mut().always = true;
    }
    if let Some(strategy) = schema["x-kubernetes-patch-strategy"].as_str() {
        node.extra_mut().patch = Some(PatchStrategy {
            merge: strategy.split(',').any(|s| s == "merge"),
            retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
            merge_key: schema["x-kubernetes-patch-merge-key"].as_str().unwrap_or("").to_owned(),
        });
    }
}
