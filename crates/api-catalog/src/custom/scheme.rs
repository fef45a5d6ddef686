//! What one version says of its objects, kept as the text of its schema until somebody needs to know.

use std::borrow::Cow;
use std::sync::OnceLock;

use api_machinery::field::Errors;
use api_machinery::schema::{SchemaRef, SharedArena};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::structure;

/// The schema of one version.
#[derive(Debug)]
pub struct Scheme {
    text: Bytes,
    compiled: OnceLock<Compiled>,
}

#[derive(Debug)]
struct Compiled {}

impl Scheme {
    pub(super) fn of(text: Bytes) -> Scheme {
        Scheme { text, compiled: OnceLock::new() }
    }

    /// What objects look like, worked out when it is first asked for.
    pub(super) fn structure(&self) -> SchemaRef {
        let text = self.text.clone();
        let arena = SharedArena::later(move || structure::arena(&schema(&text), crate::catalog().arena()));
        SchemaRef { arena, root: structure::ROOT }
    }

    pub(super) fn check(&self, _new: &Value, _old: Option<&Value>, _errors: &mut Errors) {
        self.compiled.get_or_init(|| Compiled {});
    }
}

/// The schema as a value. Without one nothing is known of objects but that they are objects.
fn schema(text: &[u8]) -> Value {
    serde_json::from_slice(text).unwrap_or_default()
}

/// The text of a version's schema.
pub(super) fn text(version: &Value) -> Bytes {
    version["schema"]["openAPIV3Schema"].to_string().into()
}

/// Where in a stored definition the schemas are: by version, as parts of the definition's own text.
pub(super) fn texts(definition: &Bytes) -> Option<Vec<(String, Bytes)>> {
    let read: Stored<'_> = serde_json::from_slice(definition).ok()?;
    let text = |schema: &RawValue| definition.slice_ref(schema.get().as_bytes());
    let versions = read.spec.versions.into_iter();
    Some(versions.map(|version| (version.name.into_owned(), text(version.schema.open_api))).collect())
}

#[derive(Deserialize)]
struct Stored<'a> {
    #[serde(borrow)]
    spec: StoredSpec<'a>,
}

#[derive(Deserialize)]
struct StoredSpec<'a> {
    #[serde(borrow)]
    versions: Vec<StoredVersion<'a>>,
}

#[derive(Deserialize)]
struct StoredVersion<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    schema: StoredSchema<'a>,
}

#[derive(Deserialize)]
struct StoredSchema<'a> {
    #[serde(borrow, rename = "openAPIV3Schema")]
    open_api: &'a RawValue,
}
