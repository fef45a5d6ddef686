//! Building catalogue entries with few words: a family of kinds (one group and version) and what most have in common.

use std::sync::Arc;

use api_machinery::resource::{
    Cell, Column, Resource, Rules, ScalePaths, Scope, Selectable, Storage, Subresource, Subresources, Text,
    Verbs,
};
use api_machinery::schema::{Arena, SchemaRef};
use jiff::Timestamp;
use serde_json::Value;

/// The kinds of one group and version.
pub(crate) struct Family<'a> {
    pub arena: &'a Arc<Arena>,
    pub group: &'static str,
    pub version: &'static str,
    /// Where the definitions are, such as `io.k8s.api.apps.v1`.
    pub package: &'static str,
}

impl Family<'_> {
    /// A namespaced, stored kind with all verbs and nothing special.
    pub fn kind(&self, kind: &'static str, plural: &'static str) -> Resource {
        let definition = format!("{}.{kind}", self.package);
        let schema = SchemaRef::of(self.arena, &definition)
            .expect("build.rs writes the schema of every kind; the catalogue's tests walk them all");
        Resource {
            group: self.group.into(),
            version: self.version.into(),
            kind: kind.into(),
            list_kind: format!("{kind}List").into(),
            plural: plural.into(),
            singular: kind.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope: Scope::Namespaced,
            verbs: Verbs::ALL,
            storage: Storage::Stored,
            subresources: Subresources::default(),
            has_generation: false,
            columns: columns(&[("Age", "string", 0, Cell::Age)]),
            selectable: Vec::new(),
            schema,
            definition: definition.into(),
            rules: Rules::default(),
            priority: 0,
            view_of: None,
            defined: None,
        }
    }

    /// The same, without a namespace.
    pub fn cluster_kind(&self, kind: &'static str, plural: &'static str) -> Resource {
        Resource { scope: Scope::Cluster, ..self.kind(kind, plural) }
    }

    /// A kind that is answered and never stored.
    pub fn review(&self, kind: &'static str, plural: &'static str) -> Resource {
        Resource {
            scope: Scope::Cluster,
            verbs: Verbs::CREATE,
            storage: Storage::Review,
            rules: Rules { prepare_create: |_| {}, name: |_, _| Vec::new(), ..Rules::default() },
            ..self.kind(kind, plural)
        }
    }
}

pub(crate) fn texts(words: &[&'static str]) -> Vec<Text> {
    words.iter().map(|word| Text::Borrowed(word)).collect()
}

/// Columns after the name; heading, type, priority, content.
pub(crate) fn columns(rest: &[(&'static str, &'static str, i32, Cell)]) -> Vec<Column> {
    let name = column("Name", "string", "name", 0, Cell::Path(".metadata.name".into()));
    let rest =
        rest.iter().map(|(name, kind, priority, cell)| column(name, kind, "", *priority, cell.clone()));
    std::iter::once(name).chain(rest).collect()
}

fn column(name: &'static str, kind: &'static str, format: &'static str, priority: i32, cell: Cell) -> Column {
    Column {
        name: name.into(),
        kind: kind.into(),
        format: format.into(),
        description: "".into(),
        priority,
        cell,
    }
}

/// A computed cell.
pub(crate) const fn computed(cell: fn(&Value, Timestamp) -> Value) -> Cell {
    Cell::Fn(cell)
}

/// `/status` only.
pub(crate) fn with_status() -> Subresources {
    Subresources { status: true, ..Subresources::default() }
}

/// `/status` and `/scale` with replicas and selector where apps kinds have them.
pub(crate) fn with_scale() -> Subresources {
    Subresources {
        status: true,
        scale: Some(ScalePaths {
            spec_replicas: "/spec/replicas".into(),
            status_replicas: "/status/replicas".into(),
            selector: Some("/spec/selector".into()),
        }),
        others: Vec::new(),
    }
}

pub(crate) fn subresource(
    name: &'static str,
    (group, version, kind): (&'static str, &'static str, &'static str),
    verbs: Verbs,
) -> Subresource {
    Subresource { name: name.into(), group: group.into(), version: version.into(), kind: kind.into(), verbs }
}

/// Fields for selectors that are where their names say.
pub(crate) fn selectable(fields: &[&'static str]) -> Vec<Selectable> {
    fields.iter().map(|field| Selectable::plain(field)).collect()
}

/// The same for a flag: absent reads `false`.
pub(crate) fn selectable_flag(field: &'static str) -> Selectable {
    Selectable { absent: "false".into(), ..Selectable::plain(field) }
}
