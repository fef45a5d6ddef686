//! Bytes from a client -> a value: bounded in size and depth, with unknown and duplicate fields found on the way.
//!
//! With a schema, fields that it does not know never become part of the value, and `null` is absence unless the
//! schema says otherwise. What is done about the findings (refuse, warn, ignore) is [`crate::structural`]'s to say,
//! as is whether values have the right types.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::field::{Path, go_quote};
use crate::schema::{Kind, View};
use crate::status::ApiError;

/// The largest body of a request.
pub const MAX_BYTES: usize = 3 * 1024 * 1024;

/// The deepest nesting of a value, in a request and in the store. It bounds the stack of every walker.
pub const MAX_DEPTH: usize = 127;

/// The deepest nesting of YAML. Its parser takes 20 kB of stack for a level in a debug build, and a worker has 2 MiB.
const MAX_YAML_DEPTH: usize = 64;

/// About how many bytes the value of a body may take in memory: many times its own size, if it says little in each value.
const MAX_HELD: usize = 48 << 20;
/// An item of a list, which grows by doubling.
const ITEM: usize = 64;
/// A field of an object, in a node that is half empty.
const FIELD: usize = 112;
/// An object that is not empty.
const OBJECT: usize = 600;

/// How many unknown or duplicate fields are told.
const MAX_FINDINGS: usize = 100;

/// The two formats that bodies come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
}

/// A value and what was odd about its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decoded {
    /// What was read. Of duplicate fields the last counts.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`, in the order of the bytes, each once.
    pub findings: Vec<String>,
}

/// Why bytes are not a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More than [`MAX_BYTES`].
    #[error("limit is {MAX_BYTES}")]
    TooLarge,
    /// More than [`MAX_DEPTH`] levels.
    #[error("exceeded max depth")]
    TooDeep,
    /// More values than memory should hold.
    #[error("the body holds too many values")]
    TooMany,
    /// Not JSON or not YAML.
    #[error("{0}")]
    Malformed(String),
}

impl From<DecodeError> for ApiError {
    fn from(error: DecodeError) -> ApiError {
        match error {
            DecodeError::TooLarge => ApiError::body_too_large(MAX_BYTES),
            DecodeError::TooMany => ApiError::too_large(error),
            other => ApiError::bad_request(other.to_string()),
        }
    }
}

/// Reads a body. Without a schema every field is known and `null` is kept.
pub fn decode(format: Format, bytes: &[u8], schema: Option<View<'_>>) -> Result<Decoded, DecodeError> {
    match format {
        Format::Json => json(bytes, schema),
        Format::Yaml => yaml(bytes, schema),
    }
}

/// Reads JSON.
pub fn json(bytes: &[u8], schema: Option<View<'_>>) -> Result<Decoded, DecodeError> {
    if bytes.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge);
    }
    if brackets_too_deep(bytes) {
        return Err(DecodeError::TooDeep);
    }
    let findings = RefCell::default();
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let seed = Seed { path: Path::root(), schema, findings: &findings, depth: 0 };
    let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    let value = value.map_err(|error| match malformed(&error, error.is_eof()) {
        DecodeError::Malformed(text) if !error.is_eof() => {
            DecodeError::Malformed(format!("json parse error: {text}"))
        }
        other => other,
    });
    finish(value, findings)
}

/// Whether JSON opens more brackets than may be open at once. Looked at before anything else, since what is unknown is
/// skipped without being counted.
fn brackets_too_deep(bytes: &[u8]) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return true;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

const TOO_DEEP: &str = "exceeded max depth";
const TOO_MANY: &str = "too many values";

/// Our own findings come back as text of the reader's errors.
fn malformed(error: &dyn fmt::Display, is_eof: bool) -> DecodeError {
    let text = error.to_string();
    if text.contains(TOO_DEEP) {
        DecodeError::TooDeep
    } else if text.contains(TOO_MANY) {
        DecodeError::TooMany
    } else if is_eof {
        DecodeError::Malformed("unexpected end of JSON input".to_owned())
    } else {
        DecodeError::Malformed(text)
    }
}

/// Reads YAML: one document, few aliases. Most of what is called YAML is JSON, which is read as such.
pub fn yaml(bytes: &[u8], schema: Option<View<'_>>) -> Result<Decoded, DecodeError> {
    if bytes.len() > MAX_BYTES {
        return Err(DecodeError::TooLarge);
    }
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(decoded) = json(bytes, schema)
    {
        return Ok(decoded);
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| DecodeError::Malformed(format!("yaml: invalid UTF-8: {error}")))?;
    let findings = RefCell::default();
    let seed = Seed { path: Path::root(), schema, findings: &findings, depth: 0 };
    let read = serde_saphyr::with_deserializer_from_str_with_options(text, yaml_limits(), |reader| {
        seed.deserialize(reader)
    });
    let value = read.map_err(|error| match malformed(&error, false) {
        DecodeError::Malformed(text) => DecodeError::Malformed(format!("yaml: {text}")),
        other => other,
    });
    finish(value, findings)
}

/// Budgets that keep an alias bomb or three million brackets within milliseconds and a few megabytes.
fn yaml_limits() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_YAML_DEPTH,
            flow_nesting_limit: MAX_YAML_DEPTH,
            max_events: 1_000_000,
            max_nodes: 500_000,
            max_aliases: 1_000,
            max_anchors: 1_000,
            max_recorded_anchor_events: 20_000,
            max_recorded_anchor_bytes: 4 << 20,
            max_documents: 1,
            max_merge_keys: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 20_000,
            max_replay_stack_depth: 16,
            max_alias_expansions_per_anchor: 1_000,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::PassThrough,
        with_snippet: false,
    }
}

fn finish(value: Result<Value, DecodeError>, findings: RefCell<Findings>) -> Result<Decoded, DecodeError> {
    let findings = findings.into_inner();
    value.map(|value| Decoded { value, findings: findings.list })
}

/// Whether a value is nested too deeply to be stored, such as after a patch.
pub fn is_too_deep(value: &Value) -> bool {
    fn deeper(value: &Value, left: usize) -> bool {
        match value {
            Value::Object(fields) => left == 0 || fields.values().any(|value| deeper(value, left - 1)),
            Value::Array(items) => left == 0 || items.iter().any(|value| deeper(value, left - 1)),
            _ => false,
        }
    }
    deeper(value, MAX_DEPTH)
}

/// About how many bytes a value that is being read takes in memory so far.
#[derive(Debug, Default)]
pub struct Held(usize);

impl Held {
    /// One more item of a list.
    ///
    /// # Errors
    /// That is too much.
    pub fn item(&mut self) -> Result<(), DecodeError> {
        self.charge(ITEM)
    }

    /// One more field of an object that has so many.
    ///
    /// # Errors
    /// That is too much.
    pub fn field(&mut self, key: &str, others: usize) -> Result<(), DecodeError> {
        self.charge(FIELD + key.len() + if others == 0 { OBJECT } else { 0 })
    }

    fn charge(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.0 += bytes;
        if self.0 > MAX_HELD { Err(DecodeError::TooMany) } else { Ok(()) }
    }
}

/// Messages about fields, each once, the bytes of text so far, and those of everything.
#[derive(Default)]
pub(crate) struct Findings {
    pub(crate) list: Vec<String>,
    seen: BTreeSet<String>,
    text_bytes: usize,
    held: Held,
}

impl Findings {
    pub(crate) fn unknown(&mut self, path: &Path<'_>) {
        self.add("unknown", path);
    }

    fn duplicate(&mut self, path: &Path<'_>) {
        self.add("duplicate", path);
    }

    /// Aliases must not make a value much larger than its bytes.
    fn charge<E: de::Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.text_bytes += bytes;
        if self.text_bytes > 2 * MAX_BYTES { Err(E::custom("aliases hold too much text")) } else { Ok(()) }
    }

    fn add(&mut self, what: &str, path: &Path<'_>) {
        if self.list.len() >= MAX_FINDINGS {
            return;
        }
        let message = format!("{what} field {}", go_quote(&path.to_string()));
        if self.seen.insert(message.clone()) {
            self.list.push(message);
        }
    }
}

/// Reads one value at one place.
struct Seed<'a> {
    path: Path<'a>,
    schema: Option<View<'a>>,
    findings: &'a RefCell<Findings>,
    depth: usize,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl Seed<'_> {
    fn deeper<E: de::Error>(&self) -> Result<usize, E> {
        if self.depth >= MAX_DEPTH { Err(E::custom(TOO_DEEP)) } else { Ok(self.depth + 1) }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        self.findings.borrow_mut().charge(value.len())?;
        Ok(value.into())
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        self.findings.borrow_mut().charge(value.len())?;
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        self.deserialize(reader)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let schema = self.schema.and_then(View::items);
        let mut list = Vec::new();
        loop {
            let path = self.path.index(list.len());
            let Some(item) =
                items.next_element_seed(Seed { path, schema, findings: self.findings, depth })?
            else {
                return Ok(Value::Array(list));
            };
            self.findings.borrow_mut().held.item().map_err(de::Error::custom)?;
            list.push(item);
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let depth = self.deeper()?;
        let mut fields = Map::new();
        while let Some(Key(key)) = entries.next_key()? {
            let path = self.path.child(&key);
            let schema = match (self.schema, self.schema.and_then(|schema| schema.field(&key))) {
                (Some(here), None) if is_closed(here) => {
                    entries.next_value::<de::IgnoredAny>()?;
                    self.findings.borrow_mut().unknown(&path);
                    continue;
                }
                (_, schema) => schema,
            };
            if fields.contains_key(&key) {
                self.findings.borrow_mut().duplicate(&path);
            }
            let seed = Seed { path, schema, findings: self.findings, depth };
            let value = entries.next_value_seed(seed)?;
            if value.is_null() && schema.is_some_and(null_is_absence) {
                fields.remove(&key);
            } else {
                self.findings.borrow_mut().held.field(&key, fields.len()).map_err(de::Error::custom)?;
                fields.insert(key, value);
            }
        }
        Ok(Value::Object(fields))
    }
}

/// Whether an object knows all its fields by name.
pub(crate) fn is_closed(schema: View<'_>) -> bool {
    matches!(schema.kind(), Kind::Object(_)) && !schema.preserve_unknown()
}

/// Whether `null` in a field means that the field is not there.
pub(crate) fn null_is_absence(schema: View<'_>) -> bool {
    // Free-form fields of built-in kinds may be anything; definitions say which may be null.
    !schema.nullable() && (*schema.kind() != Kind::Any || schema.preserve_unknown())
}

/// A field's name; YAML also has numbers and truth values there.
struct Key(String);

impl<'de> de::Deserialize<'de> for Key {
    fn deserialize<D: de::Deserializer<'de>>(reader: D) -> Result<Key, D::Error> {
        reader.deserialize_any(KeyVisitor).map(Key)
    }
}

struct KeyVisitor;

impl Visitor<'_> for KeyVisitor {
    type Value = String;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a field name")
    }

    fn visit_str<E>(self, value: &str) -> Result<String, E> {
        Ok(value.to_owned())
    }

    fn visit_string<E>(self, value: String) -> Result<String, E> {
        Ok(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_i64<E>(self, value: i64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<String, E> {
        Ok(value.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }
}

#[cfg(test)]
mod tests;
