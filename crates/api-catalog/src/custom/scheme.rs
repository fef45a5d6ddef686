//! What one version says of its objects, kept as the text of its schema until somebody needs to know.

use std::borrow::Cow;
use std::sync::OnceLock;

use api_machinery::field::{ErrorKind, Errors, FieldError, Path};
use api_machinery::resource::ScalePaths;
use api_machinery::schema::{SchemaRef, SharedArena};
use bytes::Bytes;
use cel::rules::{self, Rules};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::check::Check;
use super::judge::judge;
use super::{objects, structure};

/// The schema of one version.
#[derive(Debug)]
pub struct Scheme {
    text: Bytes,
    scale: Option<ScalePaths>,
    compiled: OnceLock<Compiled>,
}

/// What values are held against, worked out together at the first object.
#[derive(Debug)]
struct Compiled {
    check: Check,
    rules: Rules,
}

impl Scheme {
    pub(super) fn of(text: Bytes, scale: Option<ScalePaths>) -> Scheme {
        Scheme { text, scale, compiled: OnceLock::new() }
    }

    /// What objects look like, worked out when it is first asked for.
    pub(super) fn structure(&self) -> SchemaRef {
        let text = self.text.clone();
        let arena = SharedArena::later(move || structure::arena(&schema(&text), crate::catalog().arena()));
        SchemaRef { arena, root: structure::ROOT }
    }

    /// The schema as it was written.
    pub(super) fn schema(&self) -> Value {
        schema(&self.text)
    }

    fn compiled(&self) -> &Compiled {
        self.compiled.get_or_init(|| {
            let schema = schema(&self.text);
            // What is wrong with a rule was said when the definition was written; it is not evaluated.
            let rules = rules::compile(&schema, &Path::root(), &mut Errors::new());
            Compiled { check: Check::read(&schema), rules }
        })
    }

    pub(super) fn check(&self, new: &Value, old: Option<&Value>, errors: &mut Errors) {
        let Compiled { check, rules } = self.compiled();
        let root = Path::root();
        let mut wrong = Vec::new();
        judge(check, new, old, &root, &mut wrong);
        errors.extend(wrong);
        if let Some(paths) = &self.scale {
            objects::scale(paths, new, errors);
        }
        objects::embedded(check, new, &root, errors);
        let mut twice = Errors::new();
        objects::lists(check, new, &root, &mut twice);
        if !twice.is_empty() {
            let mut before = Errors::new();
            if let Some(old) = old {
                objects::lists(check, old, &root, &mut before);
            }
            // A list that had duplicates may keep them.
            if before.is_empty() {
                errors.extend(twice.into_vec());
            }
        }
        if rules.is_empty() {
            return;
        }
        if errors.iter().any(|error| BLOCKING.contains(&error.kind)) {
            errors.push(FieldError {
                kind: ErrorKind::Invalid,
                field: "<nil>".to_owned(),
                value: Some("\"null\"".to_owned()),
                detail: UNCHECKED.to_owned(),
            });
            return;
        }
        errors.extend(rules::validate(rules, new, old, &root).errors.into_vec());
    }
}

/// Rules are not evaluated over what is not what they expect.
const BLOCKING: [ErrorKind; 5] = [
    ErrorKind::NotSupported,
    ErrorKind::Required,
    ErrorKind::TooLong,
    ErrorKind::TooMany,
    ErrorKind::TypeInvalid,
];
const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
                         errors to complete validation";

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
