//! Custom resources: from a CustomResourceDefinition to catalogue entries, one for each version.
//!
//! Names, scope, subresources, columns and selectable fields are read at once. Schemas are large and many are never
//! used: what an object looks like, what its values may be and what its rules say are worked out when they are first
//! asked for. Whether a definition is valid, and whether its names are free, is not looked at here.

mod check;
mod formats;
mod judge;
mod objects;
mod openapi;
mod scheme;
mod structure;
mod versions;

use std::sync::Arc;

use api_machinery::field::{Errors, Path};
use api_machinery::resource::{
    Cell, Column, Defined, Resource, Rules, ScalePaths, Scope, Selectable, Storage, Subresources, Text,
    Verbs, drop_status, keep_status,
};
use bytes::Bytes;
use serde_json::Value;

pub use scheme::Scheme;
pub use versions::compare;

/// Why a value defines nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field is not there or has another type.
    #[error("{0}: missing or of the wrong type")]
    Missing(&'static str),
    /// No version is the one that is stored, or several are.
    #[error("spec.versions: must have exactly one version marked as storage version")]
    Storage,
}

/// What a CustomResourceDefinition defines.
#[derive(Clone, Debug)]
pub struct Definition {
    /// All versions, the preferred one first, served or not.
    pub versions: Vec<Version>,
    /// Which of them objects are stored in.
    storage: usize,
}

/// One version of a custom resource.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its catalogue entry; the name of the version is there.
    pub resource: Arc<Resource>,
    /// Whether clients may use it.
    pub served: bool,
    /// What clients that use it are warned of.
    pub deprecation: Option<String>,
}

impl Definition {
    /// The version in which objects are stored.
    pub fn storage(&self) -> &Version {
        &self.versions[self.storage]
    }

    /// The versions that clients may use, the preferred one first.
    pub fn served(&self) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(|version| version.served)
    }
}

/// Reads a definition that is known to be valid.
///
/// # Errors
/// It has not even the form of one.
pub fn define(definition: &Value) -> Result<Definition, Error> {
    read(definition, scheme::text)
}

/// The same for a definition that is stored as `text`, of which the schemas stay a part: they take no memory of their own.
///
/// # Errors
/// It has not even the form of one.
pub fn define_stored(definition: &Value, text: &Bytes) -> Result<Definition, Error> {
    let schemas = scheme::texts(text).unwrap_or_default();
    read(definition, |version| {
        let stored = schemas.iter().find(|(name, _)| version["name"] == name.as_str());
        stored.map_or_else(|| scheme::text(version), |(_, text)| text.clone())
    })
}

fn read(definition: &Value, text: impl Fn(&Value) -> Bytes) -> Result<Definition, Error> {
    let spec = &definition["spec"];
    let mut versions = Vec::new();
    for version in spec["versions"].as_array().ok_or(Error::Missing("spec.versions"))? {
        versions.push((version, entry(spec, version, text(version))?));
    }
    versions.sort_by(|(_, a), (_, b)| compare(&a.version, &b.version).reverse());
    let stored = |(version, _): &(&Value, Resource)| version["storage"] == Value::Bool(true);
    let storage = versions.iter().position(stored).ok_or(Error::Storage)?;
    if versions.iter().filter(|version| stored(version)).count() > 1 {
        return Err(Error::Storage);
    }
    let versions = versions.into_iter().map(|(version, resource)| Version {
        served: version["served"] == Value::Bool(true),
        deprecation: versions::deprecation(spec, version),
        resource: Arc::new(resource),
    });
    Ok(Definition { versions: versions.collect(), storage })
}

/// Checks a default of a part of a schema: it must be a value of that part, and nothing of it may be unknown there.
pub(crate) fn judge_default(schema: &Value, default: &Value, path: &Path<'_>, errors: &mut Errors) {
    let arena = structure::part(schema, crate::catalog().arena());
    let mut pruned = default.clone();
    if !api_machinery::structural::prune(&mut pruned, arena.view(structure::ROOT)).is_empty() {
        return errors.invalid(path, default.clone(), "must not have unknown fields");
    }
    let check = check::Check::read(schema);
    let mut wrong = Vec::new();
    judge::judge(&check, default, None, path, &mut wrong);
    errors.extend(wrong);
    objects::lists(&check, default, path, errors);
    objects::embedded(&check, default, path, errors);
    if errors.is_empty() {
        let rules = cel::rules::compile(schema, &Path::root(), &mut Errors::new());
        errors.extend(cel::rules::validate(&rules, default, None, path).errors.into_vec());
    }
}

fn text(from: &Value, field: &str, name: &'static str) -> Result<Text, Error> {
    let text = from[field].as_str().filter(|text| !text.is_empty());
    text.map(|text| Text::Owned(text.to_owned())).ok_or(Error::Missing(name))
}

fn texts(from: &Value) -> Vec<Text> {
    let words = from.as_array().into_iter().flatten().filter_map(Value::as_str);
    words.map(|word| Text::Owned(word.to_owned())).collect()
}

/// A text, or what it is when there is none.
fn text_or(from: &Value, otherwise: impl FnOnce() -> String) -> Text {
    let text = from.as_str().filter(|text| !text.is_empty());
    Text::Owned(text.map_or_else(otherwise, str::to_owned))
}

fn entry(spec: &Value, version: &Value, schema: Bytes) -> Result<Resource, Error> {
    let names = &spec["names"];
    let (group, name) = (text(spec, "group", "spec.group")?, text(version, "name", "spec.versions[*].name")?);
    let kind = text(names, "kind", "spec.names.kind")?;
    let subresources = subresources(&version["subresources"]);
    let scheme = Arc::new(Scheme::of(schema, subresources.scale.clone()));
    Ok(Resource {
        list_kind: text_or(&names["listKind"], || format!("{kind}List")),
        plural: text(names, "plural", "spec.names.plural")?,
        singular: text_or(&names["singular"], || kind.to_lowercase()),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        scope: if spec["scope"] == "Cluster" { Scope::Cluster } else { Scope::Namespaced },
        verbs: Verbs::ALL,
        storage: Storage::Stored,
        has_generation: true,
        columns: columns(&version["additionalPrinterColumns"]),
        selectable: selectable(&version["selectableFields"]),
        schema: scheme.structure(),
        definition: format!("{}.{name}.{kind}", reversed(&group)).into(),
        rules: rules(subresources.status),
        priority: 0,
        view_of: None,
        defined: Some(scheme),
        subresources,
        group,
        version: name,
        kind,
    })
}

/// `com.example` for `example.com`.
fn reversed(group: &str) -> String {
    group.rsplit('.').collect::<Vec<&str>>().join(".")
}

fn rules(status: bool) -> Rules {
    let common =
        Rules { prepare_status: keep_all_but_status, allow_unconditional_update: false, ..Rules::default() };
    match status {
        true => Rules { prepare_create: drop_status, prepare_update: keep_status, ..common },
        false => Rules { prepare_create: |_| {}, prepare_update: |_, _| {}, ..common },
    }
}

/// Through `/status` of a custom resource nothing else changes, not even labels.
fn keep_all_but_status(new: &mut Value, old: &Value) {
    let (Some(fields), Some(stored)) = (new.as_object_mut(), old.as_object()) else { return };
    let status = fields.remove("status");
    let owners =
        fields.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()?.remove("managedFields"));
    // The version that the request expects is compared later.
    let version =
        fields.get_mut("metadata").and_then(|metadata| metadata.as_object_mut()?.remove("resourceVersion"));
    fields.clone_from(stored);
    fields.remove("status");
    fields.extend(status.map(|status| ("status".to_owned(), status)));
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        for (field, value) in [("managedFields", owners), ("resourceVersion", version)] {
            metadata.remove(field);
            metadata.extend(value.map(|value| (field.to_owned(), value)));
        }
    }
}

fn subresources(declared: &Value) -> Subresources {
    let scale = &declared["scale"];
    let scale = scale.is_object().then(|| ScalePaths {
        spec_replicas: pointer(scale["specReplicasPath"].as_str().unwrap_or_default()),
        status_replicas: pointer(scale["statusReplicasPath"].as_str().unwrap_or_default()),
        selector: scale["labelSelectorPath"].as_str().filter(|path| !path.is_empty()).map(pointer),
    });
    Subresources { status: declared["status"].is_object(), scale, others: Vec::new() }
}

/// A simple path such as `.spec.replicas` as a JSON pointer.
fn pointer(path: &str) -> Text {
    let steps = path.split('.').filter(|step| !step.is_empty());
    steps.map(|step| format!("/{}", step.replace('~', "~0").replace('/', "~1"))).collect::<String>().into()
}

fn columns(declared: &Value) -> Vec<Column> {
    let column = |name: &Value, kind: &Value, format: &Value, rest: &Value, cell: Cell| Column {
        name: text_or(name, String::new),
        kind: text_or(kind, String::new),
        format: text_or(format, String::new),
        description: text_or(&rest["description"], String::new),
        priority: rest["priority"].as_i64().and_then(|priority| i32::try_from(priority).ok()).unwrap_or(0),
        cell,
    };
    let mut columns = crate::entry::columns(&[]);
    let declared = declared.as_array().filter(|declared| !declared.is_empty());
    let Some(declared) = declared else {
        return crate::entry::columns(&[("Age", "date", 0, Cell::Age)]);
    };
    columns.extend(declared.iter().map(|one| {
        let path = text_or(&one["jsonPath"], String::new);
        column(&one["name"], &one["type"], &one["format"], one, Cell::Path(path))
    }));
    columns
}

fn selectable(declared: &Value) -> Vec<Selectable> {
    let paths = declared.as_array().into_iter().flatten().filter_map(|field| field["jsonPath"].as_str());
    let entry = |path: &str| Selectable {
        field: path.trim_start_matches('.').to_owned().into(),
        pointers: vec![pointer(path)],
        absent: "".into(),
    };
    paths.map(entry).collect()
}

impl Defined for Scheme {
    fn validate(&self, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        self.check(new, old, errors);
    }

    fn openapi(&self, v2: bool, reference: &mut dyn FnMut(&str) -> Value) -> Value {
        openapi::document(&self.schema(), v2, reference)
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod values_tests;
