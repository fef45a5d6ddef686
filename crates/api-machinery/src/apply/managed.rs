//! `metadata.managedFields`: who owns which fields, as it is stored and sent.
//!
//! Reading, writing, and the bound on how many updaters are told apart. What a write does to owners is [`super`]'s to say.

use std::borrow::Cow;
use std::cmp::Ordering;

use jiff::Timestamp;
use serde_json::Value;

use super::fields_v1::{self, FieldsError, quoted};
use super::set::FieldSet;
use crate::clock;

/// Entries that are read; no object has this many owners.
const MAX_ENTRIES: usize = 1000;
/// The longest name of a manager, as upstream has it.
const MAX_NAME_BYTES: usize = 128;
/// Updaters that are told apart; the oldest of more become one.
const MAX_UPDATERS: usize = 10;
/// The name of those that became one.
const OLDEST: &str = "ancient-changes";

/// How a manager came to own its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    /// By server-side apply: what it leaves out next time goes.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// A manager and its fields.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub manager: Cow<'a, str>,
    pub operation: Operation,
    /// The version in which the fields are named.
    pub api_version: Cow<'a, str>,
    /// When fields were last taken.
    pub time: Option<Timestamp>,
    pub subresource: Cow<'a, str>,
    pub fields: FieldSet<'a>,
}

impl Entry<'_> {
    /// Whether two entries are the same manager's; an applier is one whatever version it speaks.
    pub fn is_same(&self, other: &Entry<'_>) -> bool {
        self.order(other).is_eq()
    }

    /// An order of managers.
    pub fn order(&self, other: &Entry<'_>) -> Ordering {
        let version = |entry: &Entry<'_>| match entry.operation {
            Operation::Apply => String::new(),
            Operation::Update => entry.api_version.to_string(),
        };
        self.manager
            .cmp(&other.manager)
            .then(self.operation.cmp(&other.operation))
            .then_with(|| version(self).cmp(&version(other)))
            .then_with(|| self.subresource.cmp(&other.subresource))
    }

    /// Whether it stands for several old updaters.
    fn is_bucket(&self) -> bool {
        self.manager == OLDEST && self.operation == Operation::Update && self.subresource.is_empty()
    }

    /// As conflicts name it: `"kubectl" with subresource "scale" using apps/v1`.
    pub fn shown(&self) -> String {
        let mut text = crate::field::go_quote(&self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {}", crate::field::go_quote(&self.subresource)));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Why `managedFields` cannot be read. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManagedError {
    /// Neither of the two words.
    #[error("operation must be `Apply` or `Update`")]
    Operation,
    /// Nobody knows in which version the fields are named.
    #[error("apiVersion must not be empty")]
    NoVersion,
    /// Nothing says how the fields are written.
    #[error("missing fieldsType in managed fields entry {0}")]
    NoType(usize),
    /// Fields in a way that is not known.
    #[error("invalid fieldsType {1:?} in managed fields entry {0}")]
    BadType(usize, String),
    /// More than can be told apart in time, or a name that is longer than any.
    #[error("too many managed fields entries, or the name of a manager is too long")]
    TooMuch,
    /// The fields themselves.
    #[error("error decoding set from raw json: {0}")]
    Fields(#[from] FieldsError),
}

/// All managers of an object.
#[derive(Clone, Debug, Default)]
pub(super) struct Managed<'a>(pub Vec<Entry<'a>>);

/// The list in an object's metadata.
pub(super) fn list_of(object: Option<&Value>) -> &[Value] {
    let list = object.and_then(|object| object.get("metadata")?.get("managedFields")?.as_array());
    list.map_or(&[], Vec::as_slice)
}

impl<'a> Managed<'a> {
    pub fn decode(list: &'a [Value]) -> Result<Managed<'a>, ManagedError> {
        let mut managed = Managed::default();
        if list.len() > MAX_ENTRIES {
            return Err(ManagedError::TooMuch);
        }
        for (at, entry) in list.iter().enumerate() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err(ManagedError::Operation),
            };
            if ["manager", "subresource"].iter().any(|field| text(field).len() > MAX_NAME_BYTES) {
                return Err(ManagedError::TooMuch);
            }
            if text("apiVersion").is_empty() {
                return Err(ManagedError::NoVersion);
            }
            match text("fieldsType") {
                "FieldsV1" => {}
                "" => return Err(ManagedError::NoType(at)),
                other => return Err(ManagedError::BadType(at, other.to_owned())),
            }
            let mut fields = match entry.get("fieldsV1") {
                None | Some(Value::Null) => FieldSet::default(),
                Some(fields) => fields_v1::decode(fields)?,
            };
            fields.member = false;
            let entry = Entry {
                manager: Cow::Borrowed(text("manager")),
                operation,
                api_version: Cow::Borrowed(text("apiVersion")),
                time: clock::parse(text("time")),
                subresource: Cow::Borrowed(text("subresource")),
                fields,
            };
            managed.0.retain(|known| !known.is_same(&entry));
            managed.0.push(entry);
        }
        Ok(managed)
    }

    /// As JSON: appliers first, then the longest unchanged; empty text when nobody owns anything.
    pub fn encode(mut self) -> String {
        if self.0.is_empty() {
            return String::new();
        }
        let seconds = |entry: &Entry<'_>| entry.time.map_or(0, Timestamp::as_second);
        self.0.sort_by(|a, b| {
            let order = a.operation.cmp(&b.operation).then_with(|| seconds(a).cmp(&seconds(b)));
            order.then_with(|| a.order(b)).then_with(|| a.api_version.cmp(&b.api_version))
        });
        let mut out = String::with_capacity(1024);
        for (at, entry) in self.0.iter().enumerate() {
            out.push(if at == 0 { '[' } else { ',' });
            out.push_str("{\"apiVersion\":");
            out.push_str(&quoted(&entry.api_version));
            out.push_str(",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
            fields_v1::encode(&entry.fields, &mut out);
            out.push_str(",\"manager\":");
            out.push_str(&quoted(&entry.manager));
            out.push_str(",\"operation\":\"");
            out.push_str(entry.operation.as_str());
            out.push('"');
            if !entry.subresource.is_empty() {
                out.push_str(",\"subresource\":");
                out.push_str(&quoted(&entry.subresource));
            }
            if let Some(time) = entry.time {
                out.push_str(",\"time\":\"");
                out.push_str(&clock::rfc3339(time));
                out.push('"');
            }
            out.push('}');
        }
        out.push(']');
        out
    }

    /// Bounds the number of updaters: the oldest of one version become one entry.
    pub fn cap(&mut self) {
        let mut updaters: Vec<usize> =
            (0..self.0.len()).filter(|at| self.0[*at].operation == Operation::Update).collect();
        if updaters.len() <= MAX_UPDATERS {
            return;
        }
        let seconds = |at: &usize| self.0[*at].time.map_or(0, Timestamp::as_second);
        updaters.sort_by(|a, b| seconds(a).cmp(&seconds(b)).then_with(|| self.0[*a].order(&self.0[*b])));
        let mut left = updaters.len();
        let mut firsts: Vec<usize> = Vec::new();
        let mut gone: Vec<usize> = Vec::new();
        for at in updaters {
            if left <= MAX_UPDATERS {
                break;
            }
            let like = |first: &usize| *first != at && self.0[*first].api_version == self.0[at].api_version;
            let bucket = (0..self.0.len()).filter(|other| self.0[*other].is_bucket()).find(like);
            let Some(first) = bucket.or_else(|| firsts.iter().copied().find(like)) else {
                firsts.push(at);
                continue;
            };
            let (fields, time) = (std::mem::take(&mut self.0[at].fields), self.0[at].time);
            let bucket = &mut self.0[first];
            bucket.fields.add(fields);
            bucket.time = time;
            bucket.manager = Cow::Borrowed(OLDEST);
            bucket.subresource = Cow::Borrowed("");
            gone.push(at);
            left -= 1;
        }
        let mut at = 0;
        self.0.retain(|_| {
            at += 1;
            !gone.contains(&(at - 1))
        });
    }
}
