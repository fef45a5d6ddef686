//! One revision of one object as the cache keeps it: bytes, and on demand a small index and a shared value.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use api_machinery::encode;
use api_machinery::resource::Resource;
use bytes::{Bytes, BytesMut};
use serde_json::Value;

/// What selectors look at.
#[derive(Debug, Default)]
pub struct Index {
    /// Labels in key order.
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the resource's selectable fields, in the order in which the resource declares them.
    pub fields: Box<[Box<str>]>,
}

impl Index {
    /// Reads the index off an object.
    pub fn of(resource: &Resource, object: &Value) -> Index {
        let mut labels: Vec<(Box<str>, Box<str>)> = object
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())))
            .collect();
        labels.sort();
        let fields = resource.selectable.iter().map(|field| field.value(object).into()).collect();
        Index { labels: labels.into(), fields }
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(name, _)| (**name).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }
}

/// One revision of one object.
#[derive(Debug)]
pub struct Cached {
    /// The key below the resource's prefix: `namespace/name` or `name`.
    pub key: Box<str>,
    /// The stored bytes, shared with the store.
    pub bytes: Bytes,
    /// The revision that goes out as `resourceVersion`.
    pub revision: u64,
    index: OnceLock<Box<Index>>,
    content: Mutex<Weak<Value>>,
}

impl Cached {
    /// An object as the store holds it.
    pub fn new(key: &str, bytes: Bytes, revision: u64) -> Cached {
        Cached { key: key.into(), bytes, revision, index: OnceLock::new(), content: Mutex::new(Weak::new()) }
    }

    /// The same state at another revision, which is what a deletion or a departure from a selector shows.
    pub fn at(&self, revision: u64) -> Cached {
        Cached::new(&self.key, self.bytes.clone(), revision)
    }

    /// The namespace, empty for cluster-scoped objects.
    pub fn namespace(&self) -> &str {
        self.key.split_once('/').map_or("", |(namespace, _)| namespace)
    }

    /// The name.
    pub fn name(&self) -> &str {
        self.key.split_once('/').map_or(&self.key, |(_, name)| name)
    }

    /// The index, built at the first selector that needs it.
    pub fn selected(&self, resource: &Resource) -> &Index {
        self.index.get_or_init(|| {
            Box::new(
                self.decode(encode::parse_unowned)
                    .map(|value| Index::of(resource, &value))
                    .unwrap_or_default(),
            )
        })
    }

    /// The object as a value with its `resourceVersion`, as clients see it.
    pub fn value(&self) -> Option<Arc<Value>> {
        self.decode(encode::parse).map(Arc::new)
    }

    /// The same without `managedFields`, shared for as long as anybody holds it: for those who neither change nor show it.
    pub fn content(&self) -> Option<Arc<Value>> {
        let mut held = self.content.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = held.upgrade() {
            return Some(value);
        }
        let value = Arc::new(self.decode(encode::parse_unowned)?);
        *held = Arc::downgrade(&value);
        Some(value)
    }

    /// Appends the JSON that clients see. Revision 0 is that of an object that was not stored.
    pub fn write_json(&self, out: &mut BytesMut) {
        if self.revision == 0 {
            out.extend_from_slice(&self.bytes);
            return;
        }
        if let Err(error) = encode::splice_into(out, &self.bytes, self.revision) {
            self.complain(&error);
            out.extend_from_slice(b"null");
        }
    }

    fn decode(&self, parse: fn(&[u8], u64) -> Result<Value, encode::EncodeError>) -> Option<Value> {
        let mut value = parse(&self.bytes, self.revision).inspect_err(|error| self.complain(error)).ok()?;
        if self.revision == 0 {
            api_machinery::meta::set_text(&mut value, "resourceVersion", "");
        }
        Some(value)
    }

    /// The store checks sums, so this is a bug, not damage.
    fn complain(&self, error: &encode::EncodeError) {
        tracing::error!(key = %self.key, revision = self.revision, %error, "a stored object does not decode");
    }
}

/// A cached object in a set ordered by key.
#[derive(Clone, Debug)]
pub(super) struct Entry(pub Arc<Cached>);

impl Borrow<str> for Entry {
    fn borrow(&self) -> &str {
        &self.0.key
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Entry) -> Ordering {
        self.0.key.cmp(&other.0.key)
    }
}
