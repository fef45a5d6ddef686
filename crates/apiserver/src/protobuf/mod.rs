//! Bodies in protobuf, as kubectl's typed commands and client-go send them: turned into the value that the same object in
//! JSON would be, by the schema of the kind and a table of field numbers.
//!
//! Nothing is generated and no kind is known by name. Answers are never written in it: every client that sends it
//! accepts JSON as well. A field without a number here is an error, since dropping it could lose what somebody set.

mod tags;
mod wire;

use std::cell::RefCell;

use api_machinery::clock::{rfc3339, rfc3339_micro};
use api_machinery::decode::{self, DecodeError, Held, MAX_DEPTH};
use api_machinery::resource::Resource;
use api_machinery::schema::{Format, Kind, View};
use api_machinery::status::ApiError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use self::tags::{Entry, MESSAGES};
use self::wire::{Malformed, Reader, Wire};

/// The media type.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";

/// Fields whose zero is a statement and not absence. Of all others, zero values are sent without anybody having set them.
const ZERO_COUNTS: [&str; 38] = [
    "activeDeadlineSeconds",
    "allocateLoadBalancerNodePorts",
    "allowPrivilegeEscalation",
    "attachRequired",
    "automountServiceAccountToken",
    "backoffLimit",
    "blockOwnerDeletion",
    "completions",
    "controller",
    "defaultMode",
    "enableServiceLinks",
    "failedJobsHistoryLimit",
    "fsGroup",
    "gracePeriodSeconds",
    "hostUsers",
    "immutable",
    "leaseTransitions",
    "mode",
    "optional",
    "orphanDependents",
    "parallelism",
    "priority",
    "privileged",
    "progressDeadlineSeconds",
    "readOnlyRootFilesystem",
    "ready",
    "replicas",
    "revisionHistoryLimit",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "shareProcessNamespace",
    "storageClassName",
    "successfulJobsHistoryLimit",
    "suspend",
    "terminationGracePeriodSeconds",
    "tolerationSeconds",
    "ttlSecondsAfterFinished",
];

/// The object in a body whose kind the path says.
pub fn object(bytes: &[u8], resource: &Resource) -> Result<Value, ApiError> {
    let envelope = Envelope::read(bytes)?;
    envelope.decode(&resource.definition, resource.schema.view())
}

/// The object in a body that says its kind itself, such as `DeleteOptions`.
pub fn any(bytes: &[u8]) -> Result<Value, ApiError> {
    let envelope = Envelope::read(bytes)?;
    let name = envelope.definition();
    let arena = api_catalog::catalog().arena();
    let id = arena.definition(&name).ok_or_else(|| {
        ApiError::bad_request(format!("no kind {:?} in version {:?}", envelope.kind, envelope.api_version))
    })?;
    envelope.decode(&name, arena.view(id))
}

/// `runtime.Unknown`: what a body says about its object.
#[derive(Debug, Default)]
struct Envelope<'a> {
    api_version: &'a str,
    kind: &'a str,
    raw: &'a [u8],
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Envelope<'a>, ApiError> {
        let bytes = bytes
            .strip_prefix(MAGIC)
            .ok_or_else(|| ApiError::bad_request("the body does not begin as Kubernetes protobuf does"))?;
        let mut envelope = Envelope::default();
        envelope.fill(bytes).map_err(bad)?;
        Ok(envelope)
    }

    fn fill(&mut self, bytes: &'a [u8]) -> Result<(), Malformed> {
        let mut reader = Reader::new(bytes);
        while let Some((number, wire)) = reader.next()? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => {
                    let mut meta = Reader::new(meta);
                    while let Some((number, wire)) = meta.next()? {
                        match (number, wire) {
                            (1, Wire::Bytes(text)) => self.api_version = wire::text(text)?,
                            (2, Wire::Bytes(text)) => self.kind = wire::text(text)?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => self.raw = raw,
                _ => {}
            }
        }
        Ok(())
    }

    /// The name of the definition of the kind that the envelope names.
    fn definition(&self) -> String {
        if self.kind == "DeleteOptions" {
            return "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions".to_owned();
        }
        let (group, version) = self.api_version.split_once('/').unwrap_or(("core", self.api_version));
        let group = group.split('.').next().unwrap_or_default();
        format!("io.k8s.api.{group}.{version}.{}", self.kind)
    }

    fn decode(&self, name: &str, schema: View<'_>) -> Result<Value, ApiError> {
        let mut fields = Map::new();
        for (key, text) in [("apiVersion", self.api_version), ("kind", self.kind)] {
            if !text.is_empty() {
                fields.insert(key.to_owned(), text.into());
            }
        }
        let held = RefCell::default();
        message(schema, name, self.raw, &mut fields, At { depth: 0, held: &held }).map_err(bad)?;
        Ok(Value::Object(fields))
    }
}

fn bad(error: Malformed) -> ApiError {
    ApiError::bad_request(format!("the body is not the protobuf of its kind: {error}"))
}

/// Where in a body, and what all that was read so far takes.
#[derive(Clone, Copy)]
struct At<'a> {
    depth: usize,
    held: &'a RefCell<Held>,
}

impl At<'_> {
    fn deeper(self) -> Self {
        At { depth: self.depth + 1, ..self }
    }
}

impl From<DecodeError> for Malformed {
    fn from(error: DecodeError) -> Malformed {
        Malformed(error.to_string())
    }
}

/// Reads the fields of a message into `out`.
fn message(
    schema: View<'_>,
    name: &str,
    bytes: &[u8],
    out: &mut Map<String, Value>,
    at: At<'_>,
) -> Result<(), Malformed> {
    if at.depth > MAX_DEPTH {
        return Err(DecodeError::TooDeep.into());
    }
    let numbers =
        MESSAGES.get(name).ok_or_else(|| Malformed(format!("the fields of {name} have no numbers")))?;
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match numbers.get(&number) {
            Some(Entry::Inline(inner)) => message(schema, inner, wire.bytes()?, out, at.deeper())?,
            Some(Entry::Field(field)) => {
                let Some(inner) = schema.field(field) else { continue };
                let required = schema.fields().iter().any(|known| known.name == *field && known.required);
                add(inner, field, required, wire, out, at)?;
            }
            None if wire.is_zero() => {}
            None => return Err(Malformed(format!("unknown field number {number} in {name}"))),
        }
    }
    Ok(())
}

/// Adds one occurrence of a field: of lists and maps there may be many.
fn add(
    schema: View<'_>,
    field: &str,
    required: bool,
    wire: Wire<'_>,
    out: &mut Map<String, Value>,
    at: At<'_>,
) -> Result<(), Malformed> {
    if matches!(schema.kind(), Kind::Array(_) | Kind::Map(_)) && !out.contains_key(field) {
        at.held.borrow_mut().field(field, out.len())?;
    }
    match schema.kind() {
        Kind::Array(items) => {
            let item = value(schema.arena.view(*items), wire, at)?.unwrap_or(Value::Null);
            if let Value::Array(list) = out.entry(field).or_insert_with(|| json!([])) {
                at.held.borrow_mut().item()?;
                list.push(item);
            }
        }
        Kind::Map(values) => {
            let (key, item) = entry(schema.arena.view(*values), wire.bytes()?, at)?;
            if let Value::Object(map) = out.entry(field).or_insert_with(|| json!({})) {
                at.held.borrow_mut().field(&key, map.len())?;
                map.insert(key, item);
            }
        }
        _ => {
            let zero = wire.is_zero() && !matches!(schema.kind(), Kind::Object(_));
            if zero && !required && !ZERO_COUNTS.contains(&field) {
                return Ok(());
            }
            if let Some(found) = value(schema, wire, at)? {
                at.held.borrow_mut().field(field, out.len())?;
                out.insert(field.to_owned(), found);
            }
        }
    }
    Ok(())
}

/// One entry of a map: its key and value are fields 1 and 2.
fn entry(values: View<'_>, bytes: &[u8], at: At<'_>) -> Result<(String, Value), Malformed> {
    let (mut key, mut item) = (String::new(), None);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, values.kind()) {
            (1, _) => key = wire::text(wire.bytes()?)?.to_owned(),
            // Lists in maps are wrapped in a message.
            (2, Kind::Array(_)) => {
                let mut list = Map::from_iter([("items".to_owned(), json!([]))]);
                let mut inner = Reader::new(wire.bytes()?);
                while let Some((_, wire)) = inner.next()? {
                    add(values, "items", true, wire, &mut list, at.deeper())?;
                }
                item = list.remove("items");
            }
            (2, _) => item = value(values, wire, at.deeper())?,
            _ => {}
        }
    }
    let absent = || match values.kind() {
        Kind::Object(_) | Kind::Map(_) => json!({}),
        Kind::Array(_) => json!([]),
        _ => json!(""),
    };
    Ok((key, item.unwrap_or_else(absent)))
}

/// A single value; `None` is a time that was not set.
fn value(schema: View<'_>, wire: Wire<'_>, at: At<'_>) -> Result<Option<Value>, Malformed> {
    Ok(Some(match schema.kind() {
        Kind::String => match schema.format() {
            Format::Byte => STANDARD.encode(wire.bytes()?).into(),
            Format::DateTime => return time(wire.bytes()?, rfc3339),
            Format::MicroTime => return time(wire.bytes()?, rfc3339_micro),
            _ => wire::text(wire.bytes()?)?.into(),
        },
        Kind::Integer => wire.integer()?.into(),
        Kind::Boolean => (wire.integer()? != 0).into(),
        Kind::Number => json!(wire.double()?),
        Kind::Quantity => match first(wire.bytes()?)? {
            Some(text) => wire::text(text.bytes()?)?.into(),
            None => "0".into(),
        },
        Kind::IntOrString => int_or_string(wire.bytes()?)?,
        // Free-form JSON travels as bytes in a message of its own.
        Kind::Any => match first(wire.bytes()?)? {
            Some(raw) => {
                let decoded = decode::json(raw.bytes()?, None);
                decoded.map_err(|error| Malformed(error.to_string()))?.value
            }
            None => return Ok(None),
        },
        Kind::Object(_) => {
            let name =
                tags::definition(schema).ok_or_else(|| Malformed("a message without a name".to_owned()))?;
            let mut fields = Map::new();
            message(schema, name, wire.bytes()?, &mut fields, at.deeper())?;
            Value::Object(fields)
        }
        Kind::Array(_) | Kind::Map(_) | Kind::Ref(_) => {
            return Err(Malformed("a list inside a list".to_owned()));
        }
    }))
}

/// Field 1 of a message that has no other of interest.
fn first(bytes: &[u8]) -> Result<Option<Wire<'_>>, Malformed> {
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            return Ok(Some(wire));
        }
    }
    Ok(None)
}

fn time(bytes: &[u8], write: fn(Timestamp) -> String) -> Result<Option<Value>, Malformed> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = wire.integer()?,
            2 => nanos = i32::try_from(wire.integer()?).map_err(|_| Malformed("nanoseconds".to_owned()))?,
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, nanos).map_err(|error| Malformed(error.to_string()))?;
    Ok(Some(write(time).into()))
}

fn int_or_string(bytes: &[u8]) -> Result<Value, Malformed> {
    let (mut is_text, mut number, mut text) = (false, 0, "");
    let mut reader = Reader::new(bytes);
    while let Some((field, wire)) = reader.next()? {
        match field {
            1 => is_text = wire.integer()? == 1,
            2 => number = wire.integer()?,
            3 => text = wire::text(wire.bytes()?)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

#[cfg(test)]
mod tests;
