//! The shape of a catalogue entry: all that the generic path needs to know about one resource.
//!
//! Built-in kinds and custom resources have the same type. What is particular to a kind is data, or one of the small
//! pure functions in [`Rules`]; there is no place here for a handler.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::field::Errors;
use crate::names;
use crate::schema::SchemaRef;
pub use crate::table::{Cell, Column};

/// Text that built-ins have as a literal and custom resources as their own.
pub type Text = Cow<'static, str>;

/// One resource in one version.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Empty for core.
    pub group: Text,
    /// Such as `v1`.
    pub version: Text,
    /// Such as `Deployment`.
    pub kind: Text,
    /// Such as `DeploymentList`.
    pub list_kind: Text,
    /// Such as `deployments`; the name in paths.
    pub plural: Text,
    /// Such as `deployment`.
    pub singular: Text,
    /// Such as `deploy`.
    pub short_names: Vec<Text>,
    /// Such as `all`.
    pub categories: Vec<Text>,
    /// Whether objects live in namespaces.
    pub scope: Scope,
    /// What may be done to the main resource.
    pub verbs: Verbs,
    /// Whether objects are kept at all.
    pub storage: Storage,
    /// What hangs below `/NAME/`.
    pub subresources: Subresources,
    /// Whether `metadata.generation` counts changes of anything but metadata and status.
    pub has_generation: bool,
    /// The columns of server-side tables, name first; age is a column like any other.
    pub columns: Vec<Column>,
    /// Fields for field selectors beyond `metadata.name` and `metadata.namespace`.
    pub selectable: Vec<Selectable>,
    /// What an object looks like.
    pub schema: SchemaRef,
    /// The name of the schema in OpenAPI documents, such as `io.k8s.api.apps.v1.Deployment`.
    pub definition: Text,
    /// What is truly the kind's own.
    pub rules: Rules,
    /// The group's preferred version comes first in discovery: higher is preferred.
    pub priority: i32,
    /// Set when the objects are another resource's, served in another form.
    pub view_of: Option<ViewOf>,
    /// What a definition in the cluster says of its objects beyond structure; `None` for built-in kinds.
    pub defined: Option<Arc<dyn Defined>>,
}

/// Rules that are data of a cluster and so can't be function pointers: what a CustomResourceDefinition says of values.
///
/// Unknown fields, defaults and types are the schema's, as for built-in kinds. Runs beside the kind's [`Rules`].
pub trait Defined: fmt::Debug + Send + Sync {
    /// Checks a new object, or the new state of one that was `old`, which what has not changed is not checked for again.
    fn validate(&self, new: &Value, old: Option<&Value>, errors: &mut Errors);

    /// The schema in OpenAPI, of version 2 or 3; `reference` makes a reference to another definition.
    fn openapi(&self, v2: bool, reference: &mut dyn FnMut(&str) -> Value) -> Value;
}

/// Where a resource's objects really are, such as core `events` for `events.k8s.io`.
///
/// A body is decoded and checked for unknown fields under the view's own schema, turned into the stored form, and from
/// there on is an object of the stored resource: its rules, its key, its watch. Answers are turned back.
#[derive(Clone, Copy, Debug)]
pub struct ViewOf {
    /// The stored resource's group.
    pub group: &'static str,
    /// The stored resource's version.
    pub version: &'static str,
    /// The stored resource's name in paths.
    pub plural: &'static str,
    /// Turns an object of the view into one of the stored resource, `apiVersion` included.
    pub to_stored: fn(&mut Value),
    /// The way back.
    pub from_stored: fn(&mut Value),
}

impl Resource {
    /// `v1` or `apps/v1`.
    pub fn api_version(&self) -> String {
        group_version(&self.group, &self.version)
    }

    /// `deployments.apps`, or `pods`.
    pub fn qualified_plural(&self) -> String {
        crate::status::qualified(&self.group, &self.plural)
    }

    /// Whether objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// The value of a field that selectors may name, or `None` if they may not. Absent fields are the entry's
    /// `absent` text, mostly empty.
    pub fn selectable_value<'a>(&'a self, object: &'a Value, field: &str) -> Option<Cow<'a, str>> {
        match field {
            "metadata.name" => Some(crate::meta::name(object).into()),
            "metadata.namespace" if self.namespaced() => Some(crate::meta::namespace(object).into()),
            _ => self.selectable.iter().find(|entry| entry.field == field).map(|entry| entry.value(object)),
        }
    }

    /// The names that field selectors may use.
    pub fn selectable_fields(&self) -> impl Iterator<Item = &str> {
        let namespace = self.namespaced().then_some("metadata.namespace");
        std::iter::once("metadata.name")
            .chain(namespace)
            .chain(self.selectable.iter().map(|entry| &*entry.field))
    }

    /// The part of the object that a subresource of this name changes.
    pub fn part(&self, subresource: &str) -> Option<&'static Part> {
        self.rules.parts.iter().find(|part| part.name == subresource)
    }

    /// The subresource of this name, `status` and `scale` included.
    pub fn has_subresource(&self, name: &str) -> bool {
        match name {
            "status" => self.subresources.status,
            "scale" => self.subresources.scale.is_some(),
            _ => self.subresources.others.iter().any(|other| other.name == name),
        }
    }
}

/// `v1` or `apps/v1`.
pub fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Where objects live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// Whether objects are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Storage {
    /// In the store.
    Stored,
    /// Answered on create and forgotten, such as `SubjectAccessReview`.
    Review,
}

/// What can be done to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    /// All of them, in discovery's order.
    pub const ALL: [Verb; 8] = [
        Verb::Create,
        Verb::Delete,
        Verb::DeleteCollection,
        Verb::Get,
        Verb::List,
        Verb::Patch,
        Verb::Update,
        Verb::Watch,
    ];

    /// The word in discovery and in roles.
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Create => "create",
            Verb::Delete => "delete",
            Verb::DeleteCollection => "deletecollection",
            Verb::Get => "get",
            Verb::List => "list",
            Verb::Patch => "patch",
            Verb::Update => "update",
            Verb::Watch => "watch",
        }
    }
}

/// A set of verbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verbs(u8);

impl Verbs {
    /// All eight.
    pub const ALL: Verbs = Verbs(0xff);
    /// None.
    pub const NONE: Verbs = Verbs(0);
    /// What reviews can do.
    pub const CREATE: Verbs = Verbs::of(&[Verb::Create]);
    /// What `status` and `scale` can do.
    pub const GET_PATCH_UPDATE: Verbs = Verbs::of(&[Verb::Get, Verb::Patch, Verb::Update]);

    /// Exactly these.
    pub const fn of(verbs: &[Verb]) -> Verbs {
        let mut bits = 0;
        let mut index = 0;
        while index < verbs.len() {
            bits |= 1 << verbs[index] as u8;
            index += 1;
        }
        Verbs(bits)
    }

    /// Whether `verb` is among them.
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & (1 << verb as u8) != 0
    }

    /// In discovery's order.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

/// What hangs below `/NAME/`.
#[derive(Clone, Debug, Default)]
pub struct Subresources {
    /// `/status`, with its own strategy.
    pub status: bool,
    /// `/scale`.
    pub scale: Option<ScalePaths>,
    /// `/binding`, `/log`, `/token` and the like.
    pub others: Vec<Subresource>,
}

/// Where `autoscaling/v1 Scale` finds its fields, as JSON pointers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Such as `/spec/replicas`.
    pub spec_replicas: Text,
    /// Such as `/status/replicas`.
    pub status_replicas: Text,
    /// Such as `/spec/selector`: an object-form selector, or a plain map of labels.
    pub selector: Option<Text>,
}

/// A subresource that is neither `status` nor `scale`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    /// Such as `eviction`.
    pub name: Text,
    /// The group of its body, such as `policy`.
    pub group: Text,
    /// The version of its body.
    pub version: Text,
    /// The kind of its body, such as `Eviction`.
    pub kind: Text,
    /// What may be done to it.
    pub verbs: Verbs,
}

/// A field that field selectors may name.
#[derive(Clone, Debug)]
pub struct Selectable {
    /// Such as `spec.nodeName`.
    pub field: Text,
    /// Where it is, as JSON pointers: the first that holds something counts.
    pub pointers: Vec<Text>,
    /// What an absent field compares as: mostly empty.
    pub absent: Text,
}

impl Selectable {
    /// The field at the place that its name says, such as `status.phase` at `/status/phase`.
    pub fn plain(field: &'static str) -> Selectable {
        let pointer = format!("/{}", field.replace('.', "/"));
        Selectable { field: field.into(), pointers: vec![pointer.into()], absent: "".into() }
    }

    /// The value in `object` as text.
    pub fn value<'a>(&'a self, object: &'a Value) -> Cow<'a, str> {
        let found = self.pointers.iter().find_map(|pointer| match object.pointer(pointer) {
            Some(Value::String(text)) if !text.is_empty() => Some(Cow::Borrowed(text.as_str())),
            Some(Value::Bool(flag)) => Some(flag.to_string().into()),
            Some(Value::Number(number)) => Some(number.to_string().into()),
            _ => None,
        });
        found.unwrap_or(Cow::Borrowed(&*self.absent))
    }
}

/// What a deletion does to dependents when the request does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// Deleted in the background: the default.
    Background,
    /// Left behind: what a few old kinds do.
    Orphan,
}

/// Checks a name; with `prefix` a `generateName`, which may end in a dash. Returns messages without a path.
pub type NameRule = fn(name: &str, prefix: bool) -> Vec<String>;

/// What is truly a kind's own: small pure functions. All of them see whole objects.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Fills in defaults that the schema cannot say. Runs after schema defaults, on every write.
    pub default: fn(&mut Value),
    /// Checks a new object, or the new state of an updated one.
    pub validate: fn(&Value, &mut Errors),
    /// Checks what only a new object may not have; `validate` runs too.
    pub validate_create: fn(&Value, &mut Errors),
    /// Checks a change of the main resource; `validate` runs too.
    pub validate_update: fn(new: &Value, old: &Value, &mut Errors),
    /// Checks a change through `/status`.
    pub validate_status_update: fn(new: &Value, old: &Value, &mut Errors),
    /// Resets what clients may not set on create, such as status.
    pub prepare_create: fn(&mut Value),
    /// Resets what clients may not change on update, such as status.
    pub prepare_update: fn(new: &mut Value, old: &Value),
    /// Resets what clients may not change through `/status`, such as spec.
    pub prepare_status: fn(new: &mut Value, old: &Value),
    /// Warnings for the client about what is accepted but unwise.
    pub warnings: fn(new: &Value, old: Option<&Value>) -> Vec<String>,
    /// What names look like.
    pub name: NameRule,
    /// Whether PUT to a name that does not exist creates the object.
    pub allow_create_on_update: bool,
    /// Whether PUT without a `resourceVersion` overwrites.
    pub allow_unconditional_update: bool,
    /// How many seconds a deletion waits, given the request's `gracePeriodSeconds`; `None`: kinds that go at once.
    pub graceful_delete: Option<fn(object: &Value, requested: Option<i64>) -> i64>,
    /// What happens to dependents by default.
    pub propagation: Propagation,
    /// A finalizer that a deletion puts on an object, for those whose going leaves something to clear away.
    pub cleanup: Option<&'static str>,
    /// Subresources other than `status` through which a part of the object itself is changed, such as `approval`.
    pub parts: &'static [Part],
}

/// A subresource that shows the whole object and lets a part of it be changed.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// Its name in paths, such as `approval`; the catalogue entry lists it with the object's own kind.
    pub name: &'static str,
    /// Resets what clients may not change through it.
    pub prepare: fn(new: &mut Value, old: &Value),
    /// Checks a change through it.
    pub validate: fn(new: &Value, old: &Value, &mut Errors),
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            default: |_| {},
            validate: |_, _| {},
            validate_create: |_, _| {},
            validate_update: |_, _, _| {},
            validate_status_update: |_, _, _| {},
            prepare_create: drop_status,
            prepare_update: keep_status,
            prepare_status: keep_all_but_status,
            warnings: |_, _| Vec::new(),
            name: names::dns_subdomain_name,
            allow_create_on_update: false,
            allow_unconditional_update: true,
            graceful_delete: None,
            propagation: Propagation::Background,
            cleanup: None,
            parts: &[],
        }
    }
}

/// `prepare_create` of kinds whose status is written by controllers only.
pub fn drop_status(object: &mut Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
}

/// `prepare_update` of kinds with a `/status`: the stored status stays.
pub fn keep_status(new: &mut Value, old: &Value) {
    copy_field(new, old, "status");
}

/// `prepare_status`: everything but status and metadata stays; of metadata, what upstream lets `/status` change
/// (labels, annotations, finalizers and owner references) may change.
pub fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (Some(fields), Some(stored)) = (new.as_object_mut(), old.as_object()) else { return };
    fields.retain(|key, _| key == "status" || key == "metadata" || stored.contains_key(key));
    for (key, value) in stored {
        if key != "status" && key != "metadata" {
            fields.insert(key.clone(), value.clone());
        }
    }
}

/// Makes a top-level field of `new` what it is in `old`, absence included.
pub fn copy_field(new: &mut Value, old: &Value, field: &str) {
    let Some(fields) = new.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => fields.insert(field.to_owned(), value.clone()),
        None => fields.remove(field),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn verbs() {
        let words: Vec<&str> = Verbs::GET_PATCH_UPDATE.iter().map(Verb::as_str).collect();
        assert_eq!(words, ["get", "patch", "update"]);
        assert!(!Verbs::CREATE.contains(Verb::Watch));
        assert_eq!(Verbs::ALL.iter().count(), 8);
        assert_eq!(Verbs::of(&Verb::ALL), Verbs::ALL);
    }

    #[test]
    fn status_strategies() {
        let old = json!({"spec": {"a": 1}, "status": {"s": 1}, "data": 1});
        let mut new = json!({"spec": {"a": 2}, "status": {"s": 2}, "extra": 1});
        keep_status(&mut new, &old);
        assert_eq!(new, json!({"spec": {"a": 2}, "status": {"s": 1}, "extra": 1}));
        let mut new = json!({"metadata": {"labels": {}}, "spec": {"a": 2}, "status": {"s": 2}, "extra": 1});
        keep_all_but_status(&mut new, &old);
        assert_eq!(new, json!({"metadata": {"labels": {}}, "spec": {"a": 1}, "status": {"s": 2}, "data": 1}));
    }

    #[test]
    fn selectable_values() {
        let entry = Selectable { absent: "false".into(), ..Selectable::plain("spec.unschedulable") };
        assert_eq!(entry.value(&json!({"spec": {"unschedulable": true}})), "true");
        assert_eq!(entry.value(&json!({"spec": {}})), "false");
    }
}
