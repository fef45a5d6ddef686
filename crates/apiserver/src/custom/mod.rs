//! Custom resources: what the definitions in the cluster mean for this server.
//!
//! A definition is in force once its condition `Established` says so, whichever server wrote that; from there on its
//! resources are catalogue entries as built-in ones are. What a definition's schema says is `api_catalog::custom`'s.

mod book;
mod conditions;
pub mod convert;
mod keeper;

use std::sync::Arc;

use api_catalog::custom::{Definition, define_stored};
use api_machinery::encode;
use api_machinery::resource::{Resource, Selectable};
use bytes::Bytes;
use serde_json::Value;

use crate::catalog::{Catalog, GroupResource};

use self::convert::Conversion;
pub use self::keeper::keep;

/// Where definitions are stored.
pub const DEFINITIONS: &str = "/registry/apiextensions.k8s.io/customresourcedefinitions/";

/// A definition in force.
#[derive(Debug)]
pub struct Custom {
    /// The definition's name, which is that of its resource with its group.
    pub name: Box<str>,
    /// What it defines.
    pub definition: Definition,
    /// The revision since which it says what it says of its objects. Those written later are as it wants them.
    pub since: u64,
    /// Whether its objects are being deleted, and itself with them: nothing new is made.
    pub terminating: bool,
    /// How its objects come from one version into another.
    pub conversion: Arc<Conversion>,
    /// What the cache of its objects is about: the stored version, with the fields by which any version selects.
    pub cached: Arc<Resource>,
    /// The hash of all that it says of its objects.
    digest: [u8; 32],
}

impl Custom {
    /// Reads a definition; `None` if it is not in force.
    fn read(name: &str, text: &Bytes, revision: u64, known: Option<&Custom>) -> Option<Custom> {
        let object = &encode::parse_unowned(text, revision).ok()?;
        if !is_true(object, "Established") {
            return None;
        }
        let mut effective = object["spec"].clone();
        // Where names are in conflict with others', those that were accepted before go on.
        effective["names"] = object["status"]["acceptedNames"].clone();
        let digest = digest(&effective);
        let terminating = is_true(object, "Terminating");
        if let Some(known) = known.filter(|known| known.digest == digest) {
            let (definition, cached) = (known.definition.clone(), known.cached.clone());
            let (since, conversion) = (known.since, known.conversion.clone());
            return Some(Custom {
                name: name.into(),
                definition,
                since,
                terminating,
                conversion,
                cached,
                digest,
            });
        }
        let definition = define_stored(&serde_json::json!({"spec": effective}), text);
        let definition = definition
            .inspect_err(|error| tracing::error!(name, %error, "a stored definition defines nothing"))
            .ok()?;
        let cached = cached(&definition);
        let conversion = Arc::new(Conversion::of(&effective["conversion"]));
        Some(Custom {
            name: name.into(),
            definition,
            since: revision,
            terminating,
            conversion,
            cached,
            digest,
        })
    }

    /// Where its objects are stored, with a slash at the end.
    pub fn prefix(&self) -> String {
        GroupResource::new(&self.cached.group, &self.cached.plural).prefix()
    }
}

/// What a write of a definition, or its end, changes.
pub struct Change {
    /// What is in force from here on.
    pub custom: Option<Arc<Custom>>,
    /// Whether its objects are to be read anew.
    pub reload: bool,
}

impl Change {
    /// Compares what was written under this name with what is in force.
    pub fn of(catalog: &Catalog, name: &str, written: Option<(&Bytes, u64)>) -> Option<Change> {
        let (plural, group) = name.split_once('.')?;
        let known = catalog.custom(group, plural);
        let read = |(bytes, revision): (&Bytes, u64)| {
            Custom::read(name, bytes, revision, known.map(|known| &**known))
        };
        match (known, written.and_then(read)) {
            (None, None) => None,
            (_, None) => Some(Change { custom: None, reload: false }),
            (Some(known), Some(new)) if known.digest == new.digest => {
                let changed = known.terminating != new.terminating;
                changed.then(|| Change { custom: Some(Arc::new(new)), reload: false })
            }
            (_, Some(new)) => Some(Change { custom: Some(Arc::new(new)), reload: true }),
        }
    }
}

/// Whether a definition's condition holds.
pub fn is_true(definition: &Value, condition: &str) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|one| one["type"] == condition).any(|one| one["status"] == "True")
}

fn digest(value: &Value) -> [u8; 32] {
    let digest = ring::digest::digest(&ring::digest::SHA256, value.to_string().as_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}

fn cached(definition: &Definition) -> Arc<Resource> {
    let stored = &definition.storage().resource;
    let all = definition.versions.iter().flat_map(|version| &version.resource.selectable);
    let known = |field: &&Selectable| !stored.selectable.iter().any(|known| known.field == field.field);
    let mut further: Vec<Selectable> = Vec::new();
    for field in all.filter(known) {
        if !further.iter().any(|known| known.field == field.field) {
            further.push(field.clone());
        }
    }
    if further.is_empty() {
        return stored.clone();
    }
    let mut resource = Resource::clone(stored);
    resource.selectable.extend(further);
    Arc::new(resource)
}
