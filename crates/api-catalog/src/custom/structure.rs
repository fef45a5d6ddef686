//! What objects look like: the nodes that decoding, pruning, defaulting and applying walk, from a structural schema.
//!
//! Of values nothing but types is kept here.

use api_machinery::schema::{Arena, Field, Format, Kind, ListType, Node, NodeId, View};
use serde_json::Value;

/// The metadata of every object.
pub(super) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// The deepest schema that is looked at; below it everything is kept.
pub(super) const MAX_DEPTH: usize = 100;

/// The root of an arena that [`arena`] made.
pub(super) const ROOT: NodeId = NodeId(0);

/// The nodes of a schema, the root first. `built_in` has the schema of metadata.
pub(super) fn arena(schema: &Value, built_in: &Arena) -> Arena {
    nodes(schema, true, built_in)
}

/// The nodes of a part of a schema.
pub(super) fn part(schema: &Value, built_in: &Arena) -> Arena {
    nodes(schema, false, built_in)
}

fn nodes(schema: &Value, is_root: bool, built_in: &Arena) -> Arena {
    let mut arena = Arena::new();
    let root = arena.add(Node::of(Kind::Any));
    let mut writer = Writer { arena, built_in, metadata: None };
    let node = writer.read(schema, is_root, 0);
    writer.arena.set(root, node);
    writer.arena
}

/// Whether a flag such as `nullable` is set.
pub(super) fn flag(schema: &Value, name: &str) -> bool {
    schema[name] == Value::Bool(true)
}

struct Writer<'b> {
    arena: Arena,
    built_in: &'b Arena,
    metadata: Option<NodeId>,
}

impl Writer<'_> {
    fn add(&mut self, schema: &Value, depth: usize) -> NodeId {
        let node = self.read(schema, false, depth);
        self.arena.add(node)
    }

    fn read(&mut self, schema: &Value, root: bool, depth: usize) -> Node {
        let mut node = Node::of(self.kind(schema, root, depth));
        node.nullable = flag(schema, "nullable");
        node.preserve_unknown =
            flag(schema, "x-kubernetes-preserve-unknown-fields") || node.kind == Kind::Any;
        node.format = match schema["format"].as_str() {
            Some("int32") => Format::Int32,
            Some("int64") => Format::Int64,
            Some("byte") => Format::Byte,
            Some("date-time") => Format::DateTime,
            _ => Format::None,
        };
        if !schema["default"].is_null() {
            node.extra_mut().default = Some(schema["default"].clone());
        }
        match schema["x-kubernetes-list-type"].as_str() {
            Some("set") => node.extra_mut().list_type = ListType::Set,
            Some("map") => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
                let keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
                let extra = node.extra_mut();
                extra.list_type = ListType::Map;
                extra.map_keys = keys;
            }
            _ => {}
        }
        if schema["x-kubernetes-map-type"] == "atomic" {
            node.extra_mut().map_atomic = true;
        }
        node
    }

    fn kind(&mut self, schema: &Value, root: bool, depth: usize) -> Kind {
        if depth > MAX_DEPTH {
            return Kind::Any;
        }
        if flag(schema, "x-kubernetes-int-or-string") {
            return Kind::IntOrString;
        }
        match schema["type"].as_str().unwrap_or_default() {
            "string" => Kind::String,
            "integer" => Kind::Integer,
            "number" => Kind::Number,
            "boolean" => Kind::Boolean,
            "array" => Kind::Array(self.add(&schema["items"], depth + 1)),
            "object" => self.object(schema, root, depth),
            _ if schema["properties"].is_object() => self.object(schema, root, depth),
            _ if schema["items"].is_object() => Kind::Array(self.add(&schema["items"], depth + 1)),
            _ => Kind::Any,
        }
    }

    fn object(&mut self, schema: &Value, root: bool, depth: usize) -> Kind {
        match &schema["additionalProperties"] {
            values @ Value::Object(_) => return Kind::Map(self.add(values, depth + 1)),
            // Whatever is in there has no fields that are known.
            Value::Bool(true) => return Kind::Map(self.arena.add(Node::of(Kind::Object(Vec::new())))),
            _ => {}
        }
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        let is_required = |name: &str| required.iter().any(|required| required == name);
        let resource = root || flag(schema, "x-kubernetes-embedded-resource");
        let mut fields = Vec::new();
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            if resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let node = self.add(inner, depth + 1);
            fields.push(Field { name: name.clone(), node, required: is_required(name) });
        }
        if resource {
            let text = self.arena.add(Node::of(Kind::String));
            let metadata = self.metadata();
            for (name, node) in [("apiVersion", text), ("kind", text), ("metadata", metadata)] {
                fields.push(Field { name: name.to_owned(), node, required: is_required(name) });
            }
        }
        Kind::Object(fields)
    }

    /// The schema of metadata, copied once.
    fn metadata(&mut self) -> NodeId {
        if let Some(known) = self.metadata {
            return known;
        }
        let built_in = self.built_in;
        let node = match built_in.definition(OBJECT_META) {
            Some(id) => self.copy(built_in.view(id)),
            None => self.arena.add(Node::of(Kind::Any)),
        };
        self.arena.define(OBJECT_META, node);
        let reference = self.arena.add(Node::of(Kind::Ref(node)));
        self.metadata = Some(reference);
        reference
    }

    /// Copies a schema that does not mention itself.
    fn copy(&mut self, from: View<'_>) -> NodeId {
        let below = |id: NodeId| from.arena.view(id);
        let kind = match &from.node().kind {
            Kind::Object(fields) => {
                let fields =
                    fields.iter().map(|field| Field { node: self.copy(below(field.node)), ..field.clone() });
                Kind::Object(fields.collect())
            }
            Kind::Map(id) => Kind::Map(self.copy(below(*id))),
            Kind::Array(id) => Kind::Array(self.copy(below(*id))),
            Kind::Ref(id) => Kind::Ref(self.copy(below(*id))),
            scalar => scalar.clone(),
        };
        self.arena.add(Node { kind, ..from.node().clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_machinery::decode;
    use api_machinery::structural::{apply_defaults, prune};
    use serde_json::json;

    fn built(schema: &Value) -> Arena {
        arena(schema, crate::catalog().arena())
    }

    fn pruned(schema: &Value, mut value: Value) -> (Value, Vec<String>) {
        let findings = prune(&mut value, built(schema).view(ROOT));
        (value, findings)
    }

    #[test]
    fn what_is_not_specified_is_pruned() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "a": {"type": "string"},
            "open": {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                "properties": {"closed": {"type": "object", "properties": {"b": {"type": "integer"}}}}},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"c": {"type": "string"}}}},
            "free": {"type": "object", "additionalProperties": true},
            "empty": {"type": "object"},
            "port": {"x-kubernetes-int-or-string": true},
        }}}});
        let (value, findings) = pruned(
            &schema,
            json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n", "x": 1}, "y": 1, "spec": {
                "a": "a", "z": 1, "open": {"u": {"v": 1}, "closed": {"b": 1, "w": 1}}, "any": {"q": [{"r": null}]},
                "map": {"k": {"c": "d", "e": 1}}, "free": {"n": 1, "o": {"p": 1}}, "empty": {"s": 1}, "port": "http",
            }}),
        );
        let expected = json!({"apiVersion": "v", "kind": "K", "metadata": {"name": "n"}, "spec": {
            "a": "a", "open": {"u": {"v": 1}, "closed": {"b": 1}}, "any": {"q": [{"r": null}]},
            "map": {"k": {"c": "d"}}, "free": {"n": 1, "o": {}}, "empty": {}, "port": "http",
        }});
        assert_eq!(value, expected);
        let unknown = [
            "metadata.x",
            "spec.empty.s",
            "spec.free.o.p",
            "spec.map.k.e",
            "spec.open.closed.w",
            "spec.z",
            "y",
        ];
        assert_eq!(findings, unknown.map(|path| format!("unknown field \"{path}\"")));
    }

    #[test]
    fn embedded_resources_have_metadata() {
        let schema = json!({"type": "object", "properties": {"spec": {
            "type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}});
        let (value, findings) = pruned(
            &schema,
            json!({"spec": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "b": 1}, "data": {"c": 1}}}),
        );
        let expected =
            json!({"spec": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "data": {"c": 1}}});
        assert_eq!((value, findings), (expected, vec!["unknown field \"spec.metadata.b\"".to_owned()]));
    }

    #[test]
    fn null_is_absence_unless_it_is_a_value() {
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "plain": {"type": "string"},
            "defaulted": {"type": "string", "default": "d"},
            "nullable": {"type": "string", "nullable": true, "default": "d"},
            "any": {"x-kubernetes-preserve-unknown-fields": true},
            "list": {"type": "array", "items": {"type": "string"}},
            "deep": {"type": "object", "default": {}, "properties": {"x": {"type": "integer", "default": 1}}},
        }}}});
        let text =
            br#"{"spec": {"plain": null, "defaulted": null, "nullable": null, "any": null, "list": [null]}}"#;
        let arena = built(&schema);
        let mut value = decode::json(text, Some(arena.view(ROOT))).expect("is JSON").value;
        apply_defaults(&mut value, arena.view(ROOT));
        let expected =
            json!({"spec": {"defaulted": "d", "nullable": null, "list": [null], "deep": {"x": 1}}});
        assert_eq!(value, expected);
    }

    #[test]
    fn lists_and_maps_are_what_the_schema_says() {
        let schema = json!({"type": "object", "properties": {
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
            "map": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "properties": {"k": {"type": "string"}}}},
            "atomic": {"type": "object", "x-kubernetes-map-type": "atomic", "additionalProperties": {"type": "string"}},
        }});
        let arena = built(&schema);
        let field = |name: &str| arena.view(ROOT).field(name).expect("is declared");
        assert_eq!(field("set").list_type(), ListType::Set);
        assert_eq!(
            (field("map").list_type(), field("map").map_keys()),
            (ListType::Map, &["k".to_owned()][..])
        );
        assert!(field("atomic").map_atomic());
        assert!(arena.is_sound());
    }
}
