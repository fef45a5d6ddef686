//! The stored form of an object, and the revision that is spliced into it on the way out.
//!
//! Stored bytes are compact JSON that always begin `{"metadata":{` and have no `resourceVersion`: the revision is
//! the store's, known only after the commit. Readers get prefix, revision and rest as three pieces, nothing copied.

use std::fmt;

use bytes::{Bytes, BytesMut};
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

/// How stored bytes begin.
pub const PREFIX: &str = "{\"metadata\":{";

/// Why a value has no stored form, or bytes are not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// Not an object, or one without metadata.
    #[error("an object needs metadata with at least one field")]
    NoMetadata,
    /// Not in stored form.
    #[error("stored bytes do not begin with {PREFIX}")]
    NotStored,
    /// Not JSON.
    #[error("stored bytes are not JSON: {0}")]
    NotJson(String),
}

/// The stored form: metadata first, the rest in order of name, no `resourceVersion`.
pub fn stored(object: &Value) -> Result<Bytes, EncodeError> {
    write(object, None)
}

/// The stored form with this JSON as `metadata.managedFields`, or without any when it is empty; what the object says of
/// them does not count.
pub fn stored_with(object: &Value, managed_fields: &str) -> Result<Bytes, EncodeError> {
    write(object, Some(managed_fields))
}

fn write(object: &Value, managed_fields: Option<&str>) -> Result<Bytes, EncodeError> {
    let fields = object.as_object().ok_or(EncodeError::NoMetadata)?;
    let metadata = fields.get("metadata").and_then(Value::as_object).ok_or(EncodeError::NoMetadata)?;
    let mut out = Vec::with_capacity(512 + managed_fields.map_or(0, str::len));
    out.extend_from_slice(b"{\"metadata\":{");
    let empty = out.len();
    let kept = |key: &str| key != "resourceVersion" && (managed_fields.is_none() || key != "managedFields");
    for (key, value) in metadata.iter().filter(|(key, _)| kept(key)) {
        if out.len() > empty {
            out.push(b',');
        }
        write_member(&mut out, key, value);
    }
    if out.len() == empty {
        return Err(EncodeError::NoMetadata);
    }
    if let Some(list) = managed_fields.filter(|list| !list.is_empty()) {
        out.extend_from_slice(b",\"managedFields\":");
        out.extend_from_slice(list.as_bytes());
    }
    out.push(b'}');
    for (key, value) in fields.iter().filter(|(key, _)| *key != "metadata") {
        out.push(b',');
        write_member(&mut out, key, value);
    }
    out.push(b'}');
    Ok(out.into())
}

fn write_member(out: &mut Vec<u8>, key: &str, value: &Value) {
    serde_json::to_writer(&mut *out, key).expect("writing a string to memory cannot fail");
    out.push(b':');
    serde_json::to_writer(out, value).expect("a Value has string keys and finite numbers");
}

/// The pieces of an object at a revision, to be streamed one after the other.
pub fn parts(stored: &Bytes, revision: u64) -> Result<[Bytes; 3], EncodeError> {
    if !stored.starts_with(PREFIX.as_bytes()) {
        return Err(EncodeError::NotStored);
    }
    Ok([stored.slice(..PREFIX.len()), revision_member(revision).into(), stored.slice(PREFIX.len()..)])
}

fn revision_member(revision: u64) -> String {
    format!("\"resourceVersion\":\"{revision}\",")
}

/// Appends the object at a revision to `out`.
pub fn splice_into(out: &mut BytesMut, stored: &[u8], revision: u64) -> Result<(), EncodeError> {
    let rest = stored.strip_prefix(PREFIX.as_bytes()).ok_or(EncodeError::NotStored)?;
    let member = revision_member(revision);
    out.reserve(stored.len() + member.len());
    out.extend_from_slice(PREFIX.as_bytes());
    out.extend_from_slice(member.as_bytes());
    out.extend_from_slice(rest);
    Ok(())
}

/// The `apiVersion` of an object in stored form, where it stands right behind the metadata: it does in what nobody has given
/// fields with names in front of it.
pub fn api_version(stored: &[u8]) -> Option<&str> {
    let metadata = stored.strip_prefix(&PREFIX.as_bytes()[..PREFIX.len() - 1])?;
    let mut values = serde_json::Deserializer::from_slice(metadata).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let rest = metadata[values.byte_offset()..].strip_prefix(b",\"apiVersion\":\"")?;
    let end = rest.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&rest[..end]).ok()
}

/// The object at a revision as one buffer.
pub fn splice_revision(stored: &[u8], revision: u64) -> Result<Bytes, EncodeError> {
    let mut out = BytesMut::new();
    splice_into(&mut out, stored, revision)?;
    Ok(out.freeze())
}

/// The object at a revision as a value.
pub fn parse(stored: &[u8], revision: u64) -> Result<Value, EncodeError> {
    let mut object: Value =
        serde_json::from_slice(stored).map_err(|error| EncodeError::NotJson(error.to_string()))?;
    crate::meta::set_resource_version(&mut object, revision);
    Ok(object)
}

/// The same without who owns which field: that is as much to read as the rest of most objects, and few ask.
pub fn parse_unowned(stored: &[u8], revision: u64) -> Result<Value, EncodeError> {
    let mut reader = serde_json::Deserializer::from_slice(stored);
    let object = Unowned::Object.deserialize(&mut reader);
    let mut object = object.map_err(|error| EncodeError::NotJson(error.to_string()))?;
    crate::meta::set_resource_version(&mut object, revision);
    Ok(object)
}

/// Reads an object, or its metadata.
#[derive(Clone, Copy, PartialEq)]
enum Unowned {
    Object,
    Metadata,
}

impl<'de> DeserializeSeed<'de> for Unowned {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Unowned {
    type Value = Value;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object with metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            match (self, key.as_str()) {
                (Unowned::Metadata, "managedFields") => drop(entries.next_value::<IgnoredAny>()?),
                (Unowned::Object, "metadata") => {
                    drop(fields.insert(key, entries.next_value_seed(Unowned::Metadata)?));
                }
                _ => drop(fields.insert(key, entries.next_value()?)),
            }
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn metadata_comes_first_and_the_revision_is_spliced_in() {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "resourceVersion": "3"}, "spec": {},
        });
        let bytes = stored(&object).expect("has metadata");
        assert_eq!(&bytes[..], br#"{"metadata":{"name":"a"},"apiVersion":"v1","kind":"Pod","spec":{}}"#);
        let whole = splice_revision(&bytes, 17).expect("is stored form");
        let mut expected = object;
        expected["metadata"]["resourceVersion"] = "17".into();
        assert_eq!(serde_json::from_slice::<Value>(&whole).expect("JSON"), expected);
        assert_eq!(parts(&bytes, 17).expect("is stored form").concat(), whole);
        assert_eq!(parse(&bytes, 17).expect("is stored form"), expected);
    }

    #[test]
    fn owners_are_written_as_they_are() {
        let object = json!({"metadata": {"name": "a", "managedFields": [{"manager": "old"}]}, "spec": {}});
        let with = |list| stored_with(&object, list).expect("has metadata");
        assert_eq!(&with("[1]")[..], br#"{"metadata":{"name":"a","managedFields":[1]},"spec":{}}"#);
        assert_eq!(&with("")[..], br#"{"metadata":{"name":"a"},"spec":{}}"#);
        let read = parse_unowned(&with("[{\"manager\":\"m\"}]"), 3);
        assert_eq!(read, Ok(json!({"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {}})));
        let elsewhere = json!({"metadata": {"name": "a"}, "spec": {"managedFields": [1]}});
        let read = parse_unowned(&stored(&elsewhere).expect("has metadata"), 3).expect("is stored form");
        assert_eq!(read["spec"], elsewhere["spec"]);
        assert!(matches!(parse_unowned(b"{\"metadata\":1}", 3), Err(EncodeError::NotJson(_))));
    }

    #[test]
    fn versions_are_read_behind_the_metadata() {
        for (object, found) in [
            (json!({"apiVersion": "a/v1", "kind": "K", "metadata": {"name": "a\"}"}}), Some("a/v1")),
            (
                json!({"kind": "K", "metadata": {"name": "a", "managedFields": [{"apiVersion": "b/v1"}]}}),
                None,
            ),
            (json!({"Alpha": 1, "apiVersion": "a/v1", "metadata": {"name": "a"}}), None),
        ] {
            assert_eq!(api_version(&stored(&object).expect("a stored form")), found);
        }
        for bytes in ["", "{\"metadata\":{", "{\"metadata\":{}", "{\"metadata\":{},\"apiVersion\":\"a", "[]"]
        {
            assert_eq!(api_version(bytes.as_bytes()), None, "{bytes}");
        }
    }

    #[test]
    fn what_has_no_stored_form() {
        for value in
            [json!(1), json!({}), json!({"metadata": {}}), json!({"metadata": {"resourceVersion": "1"}})]
        {
            assert_eq!(stored(&value), Err(EncodeError::NoMetadata));
        }
        assert_eq!(splice_revision(b"{\"a\":1}", 1), Err(EncodeError::NotStored));
        assert!(matches!(parse(b"{\"metadata\":{", 1), Err(EncodeError::NotJson(_))));
    }
}
