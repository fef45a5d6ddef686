//! Values of expressions. Data stays where it is: lists, maps and strings of an object are borrowed from its JSON,
//! together with what its schema says of them.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;

use crate::library::Opaque;
use crate::mutation::Message;
use crate::time::{Duration, Timestamp};
use crate::types::{ListKind, Schema, Type};

/// The value of an expression.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are those of the language")]
pub enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(Text<'a>),
    Bytes(Rc<[u8]>),
    Timestamp(Timestamp),
    Duration(Duration),
    List(List<'a>),
    Map(Map<'a>),
    Optional(Option<Rc<Value<'a>>>),
    Type(Rc<Type>),
    Opaque(Rc<Opaque<'a>>),
}

/// A string, borrowed where possible.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Part of the data or of the expression.
    Borrowed(&'a str),
    /// Made.
    Owned(Rc<str>),
}

impl Text<'_> {
    /// The characters.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Owned(text) => text,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Part of the data.
    Json(&'a [Json], Option<&'a Schema>),
    /// Made.
    Owned(Rc<Vec<Value<'a>>>),
}

/// A map, or an object with fields.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Part of the data.
    Json(&'a serde_json::Map<String, Json>, Option<&'a Schema>),
    /// Made.
    Owned(Rc<BTreeMap<Key<'a>, Value<'a>>>),
    /// Made of a type's fields.
    Message(Rc<Message<'a>>),
}

/// What maps are keyed by. Whole numbers are one kind of key, signed or not.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are those of the language")]
pub enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(Text<'a>),
}

impl Key<'_> {
    fn rank(&self) -> (u8, i128) {
        match self {
            Key::Bool(value) => (0, i128::from(*value)),
            Key::Int(value) => (1, i128::from(*value)),
            Key::Uint(value) => (1, i128::from(*value)),
            Key::String(_) => (2, 0),
        }
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Key<'_> {}

impl PartialOrd for Key<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Key::String(a), Key::String(b)) => a.as_str().cmp(b.as_str()),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl<'a> Key<'a> {
    /// A value as a key. A double that is whole finds the key that is that number.
    pub fn of(value: &Value<'a>) -> Option<Key<'a>> {
        Some(match value {
            Value::Bool(value) => Key::Bool(*value),
            Value::Int(value) => Key::Int(*value),
            Value::Uint(value) => Key::Uint(*value),
            Value::String(text) => Key::String(text.clone()),
            Value::Double(value) if value.fract() == 0.0 && value.abs() < 9.0e15 => Key::Int(*value as i64),
            _ => return None,
        })
    }

    /// As a value.
    pub fn value(&self) -> Value<'a> {
        match self {
            Key::Bool(value) => Value::Bool(*value),
            Key::Int(value) => Value::Int(*value),
            Key::Uint(value) => Value::Uint(*value),
            Key::String(text) => Value::String(text.clone()),
        }
    }
}

impl<'a> Value<'a> {
    /// A string that was made.
    pub fn text(text: impl Into<Rc<str>>) -> Value<'a> {
        Value::String(Text::Owned(text.into()))
    }

    /// A list that was made.
    pub fn list(items: Vec<Value<'a>>) -> Value<'a> {
        Value::List(List::Owned(Rc::new(items)))
    }

    /// Something that is there.
    pub fn some(value: Value<'a>) -> Value<'a> {
        Value::Optional(Some(Rc::new(value)))
    }

    /// JSON data under what its schema says, or as it is. What does not fit its schema is shown as it is.
    pub fn from_json(json: &'a Json, schema: Option<&'a Schema>) -> Value<'a> {
        let ty = schema.map(|schema| &schema.ty);
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (ty, number.as_i64()) {
                (Some(Type::Double), _) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
                (_, Some(value)) => Value::Int(value),
                (_, None) => Value::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => {
                ty.and_then(|ty| formatted(text, ty)).unwrap_or(Value::String(Text::Borrowed(text)))
            }
            Json::Array(items) => {
                Value::List(List::Json(items, schema.filter(|s| matches!(s.ty, Type::List(_)))))
            }
            Json::Object(entries) => Value::Map(Map::Json(
                entries,
                schema.filter(|s| matches!(s.ty, Type::Map(..) | Type::Object(_))),
            )),
        }
    }

    /// Its size as costs count it: characters, bytes, items, or one.
    pub fn size(&self) -> u64 {
        let size = match self {
            Value::String(text) => text.as_str().chars().count(),
            Value::Bytes(bytes) => bytes.len(),
            Value::List(list) => list.len(),
            Value::Map(map) => map.len(),
            Value::Optional(Some(inner)) => return inner.size(),
            Value::Opaque(opaque) => return opaque.size(),
            _ => 1,
        };
        size as u64
    }

    /// The type as far as the value itself tells.
    pub fn ty(&self) -> Type {
        match self {
            Value::Null => Type::Null,
            Value::Bool(_) => Type::Bool,
            Value::Int(_) => Type::Int,
            Value::Uint(_) => Type::Uint,
            Value::Double(_) => Type::Double,
            Value::String(_) => Type::String,
            Value::Bytes(_) => Type::Bytes,
            Value::Timestamp(_) => Type::Timestamp,
            Value::Duration(_) => Type::Duration,
            Value::List(_) => Type::list(Type::Dyn),
            Value::Map(Map::Json(_, Some(schema))) if matches!(schema.ty, Type::Object(_)) => {
                schema.ty.clone()
            }
            Value::Map(Map::Message(message)) => Type::Object(Arc::clone(&message.ty)),
            Value::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Value::Optional(_) => Type::optional(Type::Dyn),
            Value::Type(inner) => Type::Type(Rc::unwrap_or_clone(Rc::clone(inner)).into()),
            Value::Opaque(opaque) => opaque.ty(),
        }
    }
}

/// Strings of a format that expressions see as something else.
fn formatted<'a>(text: &str, ty: &Type) -> Option<Value<'a>> {
    match ty {
        Type::Bytes => STANDARD.decode(text).ok().map(|bytes| Value::Bytes(bytes.into())),
        Type::Duration => Duration::parse(text).map(Value::Duration),
        Type::Timestamp => {
            Timestamp::parse(text).or_else(|| Timestamp::parse_date(text)).map(Value::Timestamp)
        }
        _ => None,
    }
}

impl<'a> List<'a> {
    /// How many.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Owned(items) => items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One of them.
    pub fn get(&self, index: usize) -> Option<Value<'a>> {
        match self {
            List::Json(items, schema) => items.get(index).map(|item| Value::from_json(item, inner(*schema))),
            List::Owned(items) => items.get(index).cloned(),
        }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = Value<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// How items are told apart: part of the data knows that from its schema.
    pub fn kind(&self) -> &'a ListKind {
        match self {
            List::Json(_, Some(schema)) => &schema.list,
            _ => &ListKind::Atomic,
        }
    }
}

fn inner(schema: Option<&Schema>) -> Option<&Schema> {
    schema.and_then(|schema| schema.inner.as_deref())
}

impl<'a> Map<'a> {
    /// How many entries.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(entries, _) => entries.len(),
            Map::Owned(entries) => entries.len(),
            Map::Message(message) => message.fields.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key; of a field by the name that expressions use.
    pub fn get(&self, key: &Key<'a>) -> Option<Value<'a>> {
        match (self, key) {
            (Map::Json(..), Key::String(name)) => self.field(name.as_str()),
            (Map::Json(..), _) => None,
            (Map::Owned(entries), key) => entries.get(key).cloned(),
            (Map::Message(message), key) => message.fields.get(key).cloned(),
        }
    }

    /// The value of a field or of a key that is a string.
    pub fn field(&self, name: &str) -> Option<Value<'a>> {
        match self {
            Map::Owned(entries) => entries.get(&Key::String(Text::Borrowed(name)) as &Key<'_>).cloned(),
            Map::Message(message) => {
                message.fields.get(&Key::String(Text::Borrowed(name)) as &Key<'_>).cloned()
            }
            Map::Json(entries, Some(schema)) if matches!(schema.ty, Type::Object(_)) => {
                let field = schema.field(name)?;
                entries.get(&field.json).map(|value| Value::from_json(value, Some(&field.schema)))
            }
            Map::Json(entries, schema) => {
                entries.get(name).map(|value| Value::from_json(value, inner(*schema)))
            }
        }
    }

    /// All keys and values; of objects by the names in JSON, those that no schema knows included.
    pub fn iter(&self) -> Box<dyn Iterator<Item = (Key<'a>, Value<'a>)> + '_> {
        match self {
            Map::Owned(entries) => Box::new(entries.iter().map(|(key, value)| (key.clone(), value.clone()))),
            Map::Message(message) => {
                Box::new(message.fields.iter().map(|(key, value)| (key.clone(), value.clone())))
            }
            Map::Json(entries, schema) => Box::new(entries.iter().map(move |(name, value)| {
                let schema = match schema {
                    Some(schema) if matches!(schema.ty, Type::Object(_)) => crate::types::escape(name)
                        .and_then(|name| schema.field(&name))
                        .map(|field| &*field.schema),
                    other => inner(*other),
                };
                (Key::String(Text::Borrowed(name)), Value::from_json(value, schema))
            })),
        }
    }
}

/// Why an evaluation gave no value, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The values have types that the function does not take.
    #[error("no such overload")]
    NoOverload,
    /// A map or object does not have it.
    #[error("no such key: {0}")]
    NoKey(String),
    /// A variable that is not set.
    #[error("no such attribute(s): {0}")]
    NoAttribute(String),
    /// Whatever the function says.
    #[error("{0}")]
    Failed(Cow<'static, str>),
    /// More than may be spent.
    #[error("operation cancelled: actual cost limit exceeded")]
    CostExceeded,
}

impl EvalError {
    /// A failure with a reason of its own.
    pub fn failed(why: impl Into<Cow<'static, str>>) -> EvalError {
        EvalError::Failed(why.into())
    }
}
