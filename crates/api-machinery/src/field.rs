//! Errors about one field of an object, and the paths that name fields, worded as upstream words them.
//!
//! Paths borrow their parents and cost nothing until an error is written. What an answer to a client looks like is
//! [`crate::status`]'s to say.

use std::fmt;

use serde_json::Value;

/// The way to a field: `spec.containers[0].ports`, `metadata.labels[app]`.
#[derive(Clone, Copy, Debug)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Path<'a> {
    /// The object itself.
    pub const fn root() -> Path<'static> {
        Path { parent: None, step: Step::Root }
    }

    /// A field of the object itself; dots in the name are kept as they are.
    pub const fn new(name: &'a str) -> Path<'a> {
        Path { parent: None, step: Step::Child(name) }
    }

    /// A field of this one.
    pub fn child<'b>(&'b self, name: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Child(name) }
    }

    /// An item of this list.
    pub fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index) }
    }

    /// An entry of this map.
    pub fn key<'b>(&'b self, key: &'b str) -> Path<'b> {
        Path { parent: Some(self), step: Step::Key(key) }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Walked with a stack of our own: values may be nested deeper than a thread's stack.
        let mut steps = Vec::new();
        let mut cursor = Some(self);
        while let Some(path) = cursor {
            steps.push(path.step);
            cursor = path.parent;
        }
        let mut first = true;
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => continue,
                Step::Child(name) if first => out.write_str(name)?,
                Step::Child(name) => write!(out, ".{name}")?,
                Step::Index(index) => write!(out, "[{index}]")?,
                Step::Key(key) => write!(out, "[{key}]")?,
            }
            first = false;
        }
        Ok(())
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// Must be there.
    Required,
    /// Must be unique.
    Duplicate,
    /// Breaks a rule.
    Invalid,
    /// Not one of a fixed set.
    NotSupported,
    /// May not be set here.
    Forbidden,
    /// Too long.
    TooLong,
    /// Too many items.
    TooMany,
    /// Our fault.
    Internal,
    /// Has the wrong JSON type.
    TypeInvalid,
}

impl ErrorKind {
    /// The words in messages.
    pub fn as_str(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::Internal => "Internal error",
        }
    }

    /// The word in `details.causes[].reason`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::Internal => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One error about one field. `Display` is `spec.replicas: Invalid value: -1: must be …`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {}", self.body())]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// The path of the field.
    pub field: String,
    /// The value that was found, as it is shown; `None` where the kind shows none.
    pub value: Option<String>,
    /// What would be right.
    pub detail: String,
}

impl FieldError {
    /// An error of `kind`; the value is shown only by the kinds that show one.
    pub fn new(
        kind: ErrorKind,
        path: &Path<'_>,
        value: Option<&Value>,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError { kind, field: path.to_string(), value: value.map(shown), detail: detail.into() }
    }

    /// The message without the field, as `details.causes[].message` has it.
    pub fn body(&self) -> String {
        let mut text = self.kind.as_str().to_owned();
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

/// A value as messages show it: strings quoted as Go does, everything else as JSON.
fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => go_quote(text),
        other => other.to_string(),
    }
}

/// Go's `%q`.
pub fn go_quote(text: &str) -> String {
    use fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            control if (control as u32) < 0x20 || control as u32 == 0x7f => {
                write!(out, "\\x{:02x}", control as u32).expect("writing to a String cannot fail");
            }
            control if control.is_control() => {
                write!(out, "\\u{:04x}", control as u32).expect("writing to a String cannot fail");
            }
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}

/// Whether a letter shows as something: Go's `unicode.IsPrint`, as far as the standard library knows.
pub fn is_printable(letter: char) -> bool {
    if letter.is_ascii() {
        return (' '..='~').contains(&letter);
    }
    // Marks are escaped only where nothing precedes them.
    !letter.is_whitespace() && !format!("a{letter}").escape_debug().any(|escaped| escaped == '{')
}

/// Field errors as they are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(Vec<FieldError>);

impl Errors {
    /// None yet.
    pub fn new() -> Errors {
        Errors::default()
    }

    /// Adds an error.
    pub fn push(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// `Required value`.
    pub fn required(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::new(ErrorKind::Required, path, None, detail));
    }

    /// `Invalid value: VALUE: DETAIL`.
    pub fn invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldError::new(ErrorKind::Invalid, path, Some(&value.into()), detail));
    }

    /// `Invalid value: VALUE: DETAIL` for a value of the wrong JSON type.
    pub fn type_invalid(&mut self, path: &Path<'_>, value: impl Into<Value>, detail: impl Into<String>) {
        self.push(FieldError::new(ErrorKind::TypeInvalid, path, Some(&value.into()), detail));
    }

    /// `Unsupported value: VALUE: supported values: "A", "B"`.
    pub fn not_supported(&mut self, path: &Path<'_>, value: impl Into<Value>, supported: &[&str]) {
        let detail = if supported.is_empty() {
            String::new()
        } else {
            let quoted: Vec<String> = supported.iter().map(|value| go_quote(value)).collect();
            format!("supported values: {}", quoted.join(", "))
        };
        self.push(FieldError::new(ErrorKind::NotSupported, path, Some(&value.into()), detail));
    }

    /// `Duplicate value: VALUE`.
    pub fn duplicate(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::new(ErrorKind::Duplicate, path, Some(&value.into()), ""));
    }

    /// `Not found: VALUE`.
    pub fn not_found(&mut self, path: &Path<'_>, value: impl Into<Value>) {
        self.push(FieldError::new(ErrorKind::NotFound, path, Some(&value.into()), ""));
    }

    /// `Forbidden: DETAIL`.
    pub fn forbidden(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::new(ErrorKind::Forbidden, path, None, detail));
    }

    /// `Too long: may not be more than N bytes`.
    pub fn too_long(&mut self, path: &Path<'_>, max_bytes: usize) {
        let detail = format!("may not be more than {max_bytes} bytes");
        self.push(FieldError::new(ErrorKind::TooLong, path, None, detail));
    }

    /// `Too many: ACTUAL: must have at most N items`.
    pub fn too_many(&mut self, path: &Path<'_>, actual: usize, max: usize) {
        let items = if max == 1 { "item" } else { "items" };
        let detail = format!("must have at most {max} {items}");
        self.push(FieldError::new(ErrorKind::TooMany, path, Some(&Value::from(actual)), detail));
    }

    /// `Internal error: DETAIL`.
    pub fn internal(&mut self, path: &Path<'_>, detail: impl Into<String>) {
        self.push(FieldError::new(ErrorKind::Internal, path, None, detail));
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many were found.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// In the order in which they were found.
    pub fn iter(&self) -> std::slice::Iter<'_, FieldError> {
        self.0.iter()
    }

    /// The list itself.
    pub fn into_vec(self) -> Vec<FieldError> {
        self.0
    }
}

impl Extend<FieldError> for Errors {
    fn extend<T: IntoIterator<Item = FieldError>>(&mut self, errors: T) {
        self.0.extend(errors);
    }
}

impl From<Errors> for Vec<FieldError> {
    fn from(errors: Errors) -> Vec<FieldError> {
        errors.0
    }
}

/// Several messages as one: the only one as it is, more as `[a, b]`, equal ones once.
pub fn aggregate<T: fmt::Display>(errors: &[T]) -> String {
    let mut seen = std::collections::BTreeSet::new();
    let texts: Vec<String> =
        errors.iter().map(ToString::to_string).filter(|text| seen.insert(text.clone())).collect();
    match texts.as_slice() {
        [only] => only.clone(),
        several => format!("[{}]", several.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let root = Path::root();
        let spec = root.child("spec");
        let containers = spec.child("containers");
        assert_eq!(containers.index(2).child("name").to_string(), "spec.containers[2].name");
        assert_eq!(Path::new("metadata").child("labels").key("a/b").to_string(), "metadata.labels[a/b]");
        assert_eq!(root.to_string(), "");
        assert_eq!(root.index(1).child("op").to_string(), "[1].op");
    }

    #[test]
    fn wording() {
        let spec = Path::new("spec");
        let mut errors = Errors::new();
        errors.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        errors.required(&spec.child("selector"), "");
        errors.not_supported(&spec.child("type"), "X", &["A", "B"]);
        errors.duplicate(&spec.child("ports").index(1), json!({"port": 80}));
        errors.forbidden(&spec, "may not be changed");
        errors.too_long(&spec, 5);
        errors.too_many(&spec, 9, 8);
        errors.not_found(&spec, "a\"b\n");
        errors.internal(&spec, "oops");
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.selector: Required value",
                "spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\"",
                "spec.ports[1]: Duplicate value: {\"port\":80}",
                "spec: Forbidden: may not be changed",
                "spec: Too long: may not be more than 5 bytes",
                "spec: Too many: 9: must have at most 8 items",
                "spec: Not found: \"a\\\"b\\n\"",
                "spec: Internal error: oops",
            ]
        );
        assert_eq!(aggregate(&texts[..1]), texts[0]);
        assert_eq!(aggregate(&["a", "b", "a"]), "[a, b]");
    }
}
