//! Schemas of an arena as OpenAPI writes them, in either version.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use crate::resource::{Defined, Resource};
use crate::schema::{Arena, Descriptions, Extra, Format, Kind, ListType, Node, NodeId};

/// Which OpenAPI.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    V2,
    V3,
}

impl Style {
    fn reference(self, name: &str) -> Value {
        let prefix = if self == Style::V2 { "#/definitions/" } else { "#/components/schemas/" };
        json!({"$ref": format!("{prefix}{name}")})
    }
}

/// A reference to a definition, remembered so that the definition is written too.
pub(super) fn reference(name: &str, style: Style, wanted: &mut BTreeSet<String>) -> Value {
    wanted.insert(name.to_owned());
    style.reference(name)
}

/// All definitions that documents may need, by name.
pub(super) struct Catalogue<'a> {
    definitions: BTreeMap<&'a str, Definition<'a>>,
    names: Vec<BTreeMap<NodeId, &'a str>>,
    kinds: BTreeMap<&'a str, Vec<Value>>,
    /// What definitions in the cluster say of their resources; their arenas are not looked into, and so not built.
    defined: BTreeMap<&'a str, &'a dyn Defined>,
    /// Definitions of list kinds that no arena has: what an item is.
    lists: BTreeMap<String, (&'a str, Value)>,
    descriptions: &'a Descriptions,
}

#[derive(Clone, Copy)]
struct Definition<'a> {
    arena: &'a Arena,
    /// Which arena it is, in `names`.
    number: usize,
    node: NodeId,
}

impl<'a> Catalogue<'a> {
    pub(super) fn new(resources: &[&'a Resource], descriptions: &'a Descriptions) -> Catalogue<'a> {
        let mut arenas: Vec<&Arena> = Vec::new();
        let mut catalogue = Catalogue {
            definitions: BTreeMap::new(),
            names: Vec::new(),
            kinds: BTreeMap::new(),
            defined: BTreeMap::new(),
            lists: BTreeMap::new(),
            descriptions,
        };
        for resource in resources {
            catalogue.add_names(resource);
            if let Some(defined) = &resource.defined {
                catalogue.defined.insert(&resource.definition, &**defined);
                continue;
            }
            let number = arenas.iter().position(|arena| std::ptr::eq(*arena, &*resource.schema.arena));
            let number = number.unwrap_or_else(|| {
                arenas.push(&resource.schema.arena);
                catalogue.add_arena(&resource.schema.arena)
            });
            let root = Definition { arena: &resource.schema.arena, number, node: resource.schema.root };
            catalogue.definitions.insert(&resource.definition, root);
        }
        catalogue
    }

    fn add_names(&mut self, resource: &'a Resource) {
        let kind = |kind: &str| json!({"group": resource.group, "version": resource.version, "kind": kind});
        self.kinds.entry(&resource.definition).or_default().push(kind(&resource.kind));
        self.lists.insert(list_name(resource), (&resource.definition, kind(&resource.list_kind)));
    }

    fn add_arena(&mut self, arena: &'a Arena) -> usize {
        let number = self.names.len();
        self.names.push(arena.definitions().map(|(name, node)| (node, name)).collect());
        for (name, node) in arena.definitions() {
            self.definitions.entry(name).or_insert(Definition { arena, number, node });
        }
        number
    }

    /// Whether there is a definition of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.definitions.contains_key(name) || self.defined.contains_key(name)
    }

    /// The definition of a kind of the built-in API, if there is one.
    pub(super) fn of_kind(&self, group: &str, version: &str, kind: &str) -> Option<String> {
        let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
        Some(format!("io.k8s.api.{package}.{version}.{kind}")).filter(|name| self.has(name))
    }

    /// Writes the wanted definitions and all that they mention, in order of discovery; names come once.
    pub(super) fn each(&self, wanted: BTreeSet<String>, style: Style, mut write: impl FnMut(&str, Value)) {
        let mut queue: Vec<String> = wanted.iter().rev().cloned().collect();
        let mut seen = wanted;
        while let Some(name) = queue.pop() {
            let mut mentioned = BTreeSet::new();
            let schema = self.definition(&name, style, &mut mentioned);
            write(&name, schema);
            queue.extend(mentioned.into_iter().filter(|name| seen.insert(name.clone())));
        }
    }

    fn definition(&self, name: &str, style: Style, wanted: &mut BTreeSet<String>) -> Value {
        let lookup = (self.definitions.get(name), self.lists.get(name));
        let mut schema = match lookup {
            _ if let Some(defined) = self.defined.get(name) => {
                defined.openapi(style == Style::V2, &mut |name| reference(name, style, wanted))
            }
            (Some(found), _) => {
                let mut writer = Writer { catalogue: self, found, style, wanted };
                writer.schema(found.node, true)
            }
            (None, Some((item, _))) => self.list(item, style, wanted),
            (None, None) => json!({"type": "object"}),
        };
        let mut kinds = self.kinds.get(name).cloned().unwrap_or_default();
        kinds.extend(self.lists.get(name).map(|(_, kind)| kind.clone()));
        if let (Some(fields), false) = (schema.as_object_mut(), kinds.is_empty()) {
            fields.insert("x-kubernetes-group-version-kind".to_owned(), kinds.into());
        }
        schema
    }

    /// The list of a kind that has no definition of its own.
    fn list(&self, item: &str, style: Style, wanted: &mut BTreeSet<String>) -> Value {
        let mut properties = Map::new();
        properties.insert("apiVersion".to_owned(), json!({"type": "string"}));
        properties.insert("kind".to_owned(), json!({"type": "string"}));
        let items = reference(item, style, wanted);
        properties.insert("items".to_owned(), json!({"type": "array", "items": items}));
        let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
        if self.has(meta) {
            properties.insert("metadata".to_owned(), reference(meta, style, wanted));
        }
        json!({"type": "object", "required": ["items"], "properties": properties})
    }
}

/// The definition of a resource's list kind.
pub(super) fn list_name(resource: &Resource) -> String {
    match resource.definition.rsplit_once('.') {
        Some((package, _)) => format!("{package}.{}", resource.list_kind),
        None => resource.list_kind.to_string(),
    }
}

struct Writer<'w, 'a> {
    catalogue: &'w Catalogue<'a>,
    found: &'w Definition<'a>,
    style: Style,
    wanted: &'w mut BTreeSet<String>,
}

impl Writer<'_, '_> {
    fn schema(&mut self, id: NodeId, is_definition: bool) -> Value {
        let node = self.found.arena.node(id);
        let mut out = self.kind(node, is_definition);
        let description = if self.found.number == 0 { self.catalogue.descriptions.get(id) } else { "" };
        if !description.is_empty() {
            out.insert("description".to_owned(), description.into());
        }
        if let Some(extra) = &node.extra {
            attributes(&mut out, extra);
        }
        if node.nullable && self.style == Style::V3 {
            out.insert("nullable".to_owned(), true.into());
        }
        if node.preserve_unknown {
            out.insert("x-kubernetes-preserve-unknown-fields".to_owned(), true.into());
        }
        // In v3 nothing may stand beside a reference.
        if self.style == Style::V3
            && out.len() > 1
            && let Some(target) = out.remove("$ref")
        {
            out.insert("allOf".to_owned(), json!([{"$ref": target}]));
        }
        Value::Object(out)
    }

    fn kind(&mut self, node: &Node, is_definition: bool) -> Map<String, Value> {
        let mut out = Map::new();
        let mut set = |key: &str, value: Value| out.insert(key.to_owned(), value);
        match &node.kind {
            Kind::Any if is_definition => drop(set("type", "object".into())),
            Kind::Any => {}
            Kind::Object(fields) => {
                set("type", "object".into());
                let required: Vec<&str> =
                    fields.iter().filter(|field| field.required).map(|field| field.name.as_str()).collect();
                if !required.is_empty() {
                    set("required", required.into());
                }
                let properties: Map<String, Value> =
                    fields.iter().map(|field| (field.name.clone(), self.schema(field.node, false))).collect();
                if !properties.is_empty() {
                    set("properties", properties.into());
                }
            }
            Kind::Map(values) => {
                set("type", "object".into());
                set("additionalProperties", self.schema(*values, false));
            }
            Kind::Array(items) => {
                set("type", "array".into());
                set("items", self.schema(*items, false));
            }
            Kind::Ref(target) => match self.catalogue.names[self.found.number].get(target) {
                Some(name) => {
                    self.wanted.insert((*name).to_owned());
                    out = self.style.reference(name).as_object().cloned().unwrap_or_default();
                }
                None => out = self.kind(self.found.arena.node(*target), false),
            },
            scalar => out = self.scalar(scalar, node.format),
        }
        out
    }

    fn scalar(&self, kind: &Kind, format: Format) -> Map<String, Value> {
        let simple = |name: &str, format: &str| match format {
            "" => json!({"type": name}),
            format => json!({"type": name, "format": format}),
        };
        let schema = match (kind, self.style) {
            (Kind::Integer, _) => simple("integer", format.as_str()),
            (Kind::Number, _) => simple("number", format.as_str()),
            (Kind::Boolean, _) => simple("boolean", ""),
            (Kind::IntOrString, Style::V2) => simple("string", "int-or-string"),
            (Kind::IntOrString, Style::V3) => {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }
            (Kind::Quantity, Style::V3) => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            (_, _) => simple("string", format.as_str()),
        };
        schema.as_object().cloned().unwrap_or_default()
    }
}

fn attributes(out: &mut Map<String, Value>, extra: &Extra) {
    let mut set = |key: &str, value: Value| out.insert(key.to_owned(), value);
    if let Some(default) = &extra.default {
        set("default", default.clone());
    }
    if !extra.enumeration.is_empty() {
        set("enum", extra.enumeration.clone().into());
    }
    match extra.list_type {
        ListType::Atomic => {}
        ListType::Set => drop(set("x-kubernetes-list-type", "set".into())),
        ListType::Map => drop(set("x-kubernetes-list-type", "map".into())),
    }
    if !extra.map_keys.is_empty() {
        set("x-kubernetes-list-map-keys", extra.map_keys.clone().into());
    }
    match (extra.map_atomic, extra.map_granular) {
        (true, _) => drop(set("x-kubernetes-map-type", "atomic".into())),
        (false, true) => drop(set("x-kubernetes-map-type", "granular".into())),
        (false, false) => {}
    }
    if let Some(patch) = &extra.patch {
        let strategy = match (patch.merge, patch.retain_keys) {
            (true, true) => "merge,retainKeys",
            (true, false) => "merge",
            (false, true) => "retainKeys",
            (false, false) => "replace",
        };
        set("x-kubernetes-patch-strategy", strategy.into());
        if !patch.merge_key.is_empty() {
            set("x-kubernetes-patch-merge-key", patch.merge_key.as_str().into());
        }
    }
}
