//! What objects look like: a compact arena of schema nodes that all kinds share.
//!
//! Serialisable, so that a build script can write it. Descriptions are kept apart ([`Descriptions`]), since only
//! OpenAPI documents need them. Says nothing about how values are checked; [`crate::structural`] does.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A node of an [`Arena`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeId(pub u32);

/// All nodes of a set of schemas. Build with [`Arena::add`] and [`Arena::define`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Arena {
    nodes: Vec<Node>,
    definitions: BTreeMap<String, NodeId>,
}

/// The JSON type of a value and what is inside it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// Anything at all; nothing in it is unknown or pruned.
    #[default]
    Any,
    /// An object with named fields, sorted by name.
    Object(Vec<Field>),
    /// An object with keys of the user's choice.
    Map(NodeId),
    /// A list.
    Array(NodeId),
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A whole number or a string, such as a port.
    IntOrString,
    /// A quantity, as a string or a number.
    Quantity,
    /// Another node, mostly a definition; attributes here add to those there.
    Ref(NodeId),
}

/// How strings and numbers are to be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are OpenAPI's own")]
pub enum Format {
    #[default]
    None,
    Int32,
    Int64,
    Double,
    Byte,
    DateTime,
    MicroTime,
    Duration,
}

impl Format {
    /// The word in OpenAPI.
    pub fn as_str(self) -> &'static str {
        match self {
            Format::None => "",
            Format::Int32 => "int32",
            Format::Int64 => "int64",
            Format::Double => "double",
            Format::Byte => "byte",
            Format::DateTime | Format::MicroTime => "date-time",
            Format::Duration => "duration",
        }
    }
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ListType {
    /// Replaced as a whole.
    #[default]
    Atomic,
    /// A set of scalars.
    Set,
    /// Items are known by `map_keys`.
    Map,
}

/// `x-kubernetes-patch-strategy` and its key. One that says nothing is `replace`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PatchStrategy {
    /// Lists are merged (by `merge_key`, or as a set of scalars) rather than replaced.
    #[serde(default, skip_serializing_if = "is_false")]
    pub merge: bool,
    /// Keys that a patch does not name are cleared first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub retain_keys: bool,
    /// The field that tells items apart; empty for scalars.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub merge_key: String,
}

/// One schema. Most have a kind and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// The type.
    pub kind: Kind,
    /// How to read it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub format: Format,
    /// Whether `null` is a value rather than absence.
    #[serde(default, skip_serializing_if = "is_false")]
    pub nullable: bool,
    /// Whether fields that the schema does not know are kept and not unknown.
    #[serde(default, skip_serializing_if = "is_false")]
    pub preserve_unknown: bool,
    /// What most nodes lack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<Box<Extra>>,
}

/// The rarer attributes of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Extra {
    /// What an absent field becomes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<Value>,
    /// The only values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub enumeration: Vec<Value>,
    /// How items are told apart.
    #[serde(default, skip_serializing_if = "is_default")]
    pub list_type: ListType,
    /// With [`ListType::Map`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub map_keys: Vec<String>,
    /// How strategic merge patches treat it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<PatchStrategy>,
    /// An object or map that is owned and applied as a whole: `x-kubernetes-map-type: atomic`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub map_atomic: bool,
    /// The opposite, for a field whose type is atomic elsewhere: `x-kubernetes-map-type: granular`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub map_granular: bool,
    /// An object that upstream's types hold by value: there even when nothing is in it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub always: bool,
}

/// A named field of an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Field {
    /// The JSON name.
    pub name: String,
    /// Its schema.
    pub node: NodeId,
    /// Whether it must be there.
    #[serde(default, skip_serializing_if = "is_false")]
    pub required: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Node {
    /// A node of this kind and no attributes.
    pub fn of(kind: Kind) -> Node {
        Node { kind, ..Node::default() }
    }

    /// The rarer attributes, for setting.
    pub fn extra_mut(&mut self) -> &mut Extra {
        self.extra.get_or_insert_default()
    }
}

impl Arena {
    /// No nodes yet.
    pub fn new() -> Arena {
        Arena::default()
    }

    /// Adds a node; the fields of objects are sorted.
    pub fn add(&mut self, mut node: Node) -> NodeId {
        if let Kind::Object(fields) = &mut node.kind {
            fields.sort_by(|a, b| a.name.cmp(&b.name));
        }
        self.nodes.push(node);
        NodeId(u32::try_from(self.nodes.len() - 1).expect("an arena holds fewer than 2^32 nodes"))
    }

    /// Replaces a node, for schemas that mention each other: add a placeholder, then set it.
    pub fn set(&mut self, id: NodeId, mut node: Node) {
        if let Kind::Object(fields) = &mut node.kind {
            fields.sort_by(|a, b| a.name.cmp(&b.name));
        }
        self.nodes[id.0 as usize] = node;
    }

    /// Changes a node in place, for facts that are known later.
    pub fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// Names a node, such as `io.k8s.api.apps.v1.Deployment`.
    pub fn define(&mut self, name: impl Into<String>, id: NodeId) {
        self.definitions.insert(name.into(), id);
    }

    /// A node by its name.
    pub fn definition(&self, name: &str) -> Option<NodeId> {
        self.definitions.get(name).copied()
    }

    /// All names, in order.
    pub fn definitions(&self) -> impl Iterator<Item = (&str, NodeId)> {
        self.definitions.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// The node itself, references not followed.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// How many nodes there are.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// A node to look at.
    pub fn view(&self, id: NodeId) -> View<'_> {
        View { arena: self, id }
    }

    /// Whether every reference leads somewhere and no chain of references is endless: what makes data from outside
    /// safe to walk.
    pub fn is_sound(&self) -> bool {
        let known = |id: &NodeId| (id.0 as usize) < self.nodes.len();
        let links = self.nodes.iter().all(|node| match &node.kind {
            Kind::Object(fields) => fields.iter().all(|field| known(&field.node)),
            Kind::Map(id) | Kind::Array(id) | Kind::Ref(id) => known(id),
            _ => true,
        });
        links
            && self.definitions.values().all(known)
            && (0..self.nodes.len()).all(|start| self.ref_ends(start))
    }

    fn ref_ends(&self, start: usize) -> bool {
        let mut at = start;
        for _ in 0..=self.nodes.len() {
            match &self.nodes[at].kind {
                Kind::Ref(next) => at = next.0 as usize,
                _ => return true,
            }
        }
        false
    }
}

/// A node together with its arena: what walkers carry.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// Where the node lives.
    pub arena: &'a Arena,
    /// The node.
    pub id: NodeId,
}

impl<'a> View<'a> {
    /// The node itself, references not followed.
    pub fn node(self) -> &'a Node {
        self.arena.node(self.id)
    }

    /// The first node that is not a reference.
    pub fn resolve(self) -> &'a Node {
        let mut node = self.node();
        while let Kind::Ref(id) = node.kind {
            node = self.arena.node(id);
        }
        node
    }

    /// The type, references followed.
    pub fn kind(self) -> &'a Kind {
        &self.resolve().kind
    }

    /// The nodes from this one along the references to the last: attributes of earlier ones win.
    fn chain(self) -> impl Iterator<Item = &'a Node> {
        let arena = self.arena;
        std::iter::successors(Some(self.node()), move |node| match node.kind {
            Kind::Ref(id) => Some(arena.node(id)),
            _ => None,
        })
    }

    fn extra<T>(self, get: impl Fn(&'a Extra) -> Option<T>) -> Option<T> {
        self.chain().filter_map(|node| node.extra.as_deref()).find_map(get)
    }

    /// What an absent field becomes.
    pub fn default(self) -> Option<&'a Value> {
        self.extra(|extra| extra.default.as_ref())
    }

    /// The only values; empty when any will do.
    pub fn enumeration(self) -> &'a [Value] {
        self.extra(|extra| (!extra.enumeration.is_empty()).then_some(&extra.enumeration[..])).unwrap_or(&[])
    }

    /// How strategic merge patches treat it.
    pub fn patch(self) -> Option<&'a PatchStrategy> {
        self.extra(|extra| extra.patch.as_ref())
    }

    /// How items are told apart.
    pub fn list_type(self) -> ListType {
        self.extra(|extra| (extra.list_type != ListType::Atomic).then_some(extra.list_type))
            .unwrap_or_default()
    }

    /// With [`ListType::Map`], the fields that tell items apart.
    pub fn map_keys(self) -> &'a [String] {
        self.extra(|extra| (!extra.map_keys.is_empty()).then_some(&extra.map_keys[..])).unwrap_or(&[])
    }

    /// Whether an object or map is owned and applied as a whole.
    pub fn map_atomic(self) -> bool {
        self.extra(|extra| (extra.map_atomic || extra.map_granular).then_some(extra.map_atomic))
            .unwrap_or_default()
    }

    /// Whether an object is there even when nothing is in it.
    pub fn always(self) -> bool {
        self.chain().filter_map(|node| node.extra.as_deref()).any(|extra| extra.always)
    }

    /// How to read strings and numbers.
    pub fn format(self) -> Format {
        self.chain().map(|node| node.format).find(|format| *format != Format::None).unwrap_or_default()
    }

    /// Whether `null` is a value.
    pub fn nullable(self) -> bool {
        self.chain().any(|node| node.nullable)
    }

    /// Whether unknown fields are kept.
    pub fn preserve_unknown(self) -> bool {
        self.chain().any(|node| node.preserve_unknown)
    }

    /// The named fields, if it is an object that has some.
    pub fn fields(self) -> &'a [Field] {
        match self.kind() {
            Kind::Object(fields) => fields,
            _ => &[],
        }
    }

    /// The schema of a field or of a map's entry.
    pub fn field(self, name: &str) -> Option<View<'a>> {
        match self.kind() {
            Kind::Object(fields) => fields
                .binary_search_by(|field| field.name.as_str().cmp(name))
                .ok()
                .map(|index| self.arena.view(fields[index].node)),
            Kind::Map(values) => Some(self.arena.view(*values)),
            _ => None,
        }
    }

    /// The schema of a list's items.
    pub fn items(self) -> Option<View<'a>> {
        match self.kind() {
            Kind::Array(items) => Some(self.arena.view(*items)),
            _ => None,
        }
    }
}

/// An arena that several hold, and that may be built only when somebody looks into it: definitions are many, and few of
/// them are used.
#[derive(Clone)]
pub struct SharedArena(Held);

type Build = Box<dyn FnOnce() -> Arena + Send>;

#[derive(Clone)]
enum Held {
    Built(Arc<Arena>),
    Later(Arc<LazyLock<Arena, Build>>),
}

impl SharedArena {
    /// One that is built when it is first looked into.
    pub fn later(build: impl FnOnce() -> Arena + Send + 'static) -> SharedArena {
        SharedArena(Held::Later(Arc::new(LazyLock::new(Box::new(build)))))
    }

    /// Whether it is there already.
    pub fn is_built(&self) -> bool {
        match &self.0 {
            Held::Built(_) => true,
            Held::Later(arena) => LazyLock::get(arena).is_some(),
        }
    }
}

impl From<Arc<Arena>> for SharedArena {
    fn from(arena: Arc<Arena>) -> SharedArena {
        SharedArena(Held::Built(arena))
    }
}

impl From<Arena> for SharedArena {
    fn from(arena: Arena) -> SharedArena {
        Arc::new(arena).into()
    }
}

impl Deref for SharedArena {
    type Target = Arena;

    fn deref(&self) -> &Arena {
        match &self.0 {
            Held::Built(arena) => arena,
            Held::Later(arena) => arena,
        }
    }
}

impl fmt::Debug for SharedArena {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = if self.is_built() { self.len() } else { 0 };
        out.debug_struct("SharedArena").field("nodes", &nodes).finish()
    }
}

/// A root in a shared arena: the schema of one kind.
#[derive(Clone, Debug)]
pub struct SchemaRef {
    /// Where the nodes live.
    pub arena: SharedArena,
    /// The kind's own node.
    pub root: NodeId,
}

impl SchemaRef {
    /// A kind's schema by its definition's name.
    pub fn of(arena: &Arc<Arena>, definition: &str) -> Option<SchemaRef> {
        arena.definition(definition).map(|root| SchemaRef { arena: Arc::clone(arena).into(), root })
    }

    /// A schema that allows anything.
    pub fn any() -> SchemaRef {
        let mut arena = Arena::new();
        let root = arena.add(Node::of(Kind::Any));
        SchemaRef { arena: arena.into(), root }
    }

    /// To look at.
    pub fn view(&self) -> View<'_> {
        self.arena.view(self.root)
    }
}

/// Descriptions of nodes, for OpenAPI documents only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Descriptions(pub BTreeMap<NodeId, Cow<'static, str>>);

impl Descriptions {
    /// The description of a node, or nothing.
    pub fn get(&self, id: NodeId) -> &str {
        self.0.get(&id).map_or("", |text| text)
    }
}
