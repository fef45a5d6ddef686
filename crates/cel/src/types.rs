//! Types of expressions, and declared types of data: what a schema says about a value.
//!
//! A [`Type`] is what the checker reasons with. A [`Schema`] adds what values and costs need: how long a list or
//! string can be, what a JSON string stands for, which lists are sets or maps.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::parse::RESERVED;

/// The type of an expression.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are those of the language")]
pub enum Type {
    /// Anything: checked when it is evaluated.
    Dyn,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// The type of a type.
    Type(Arc<Type>),
    /// An object with named fields.
    Object(Arc<Object>),
    /// A type that only functions know.
    Opaque(&'static str),
    /// A type that is found by looking at how the expression is used.
    Param(u32),
}

impl Type {
    /// A list of this.
    pub fn list(items: Type) -> Type {
        Type::List(Arc::new(items))
    }

    /// A map.
    pub fn map(keys: Type, values: Type) -> Type {
        Type::Map(Arc::new(keys), Arc::new(values))
    }

    /// A value that may be absent.
    pub fn optional(inner: Type) -> Type {
        Type::Optional(Arc::new(inner))
    }

    /// Whether every value of it is as large as any other.
    pub(crate) fn is_scalar(&self) -> bool {
        use Type::{Bool, Double, Duration, Int, Timestamp, Uint};
        matches!(self, Bool | Int | Uint | Double | Timestamp | Duration)
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Type) -> bool {
        match (self, other) {
            (Type::List(a), Type::List(b))
            | (Type::Optional(a), Type::Optional(b))
            | (Type::Type(a), Type::Type(b)) => a == b,
            (Type::Map(a, b), Type::Map(c, d)) => a == c && b == d,
            (Type::Object(a), Type::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Type::Opaque(a), Type::Opaque(b)) => a == b,
            (Type::Param(a), Type::Param(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Eq for Type {}

impl fmt::Display for Type {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Dyn => out.write_str("dyn"),
            Type::Null => out.write_str("null"),
            Type::Bool => out.write_str("bool"),
            Type::Int => out.write_str("int"),
            Type::Uint => out.write_str("uint"),
            Type::Double => out.write_str("double"),
            Type::String => out.write_str("string"),
            Type::Bytes => out.write_str("bytes"),
            Type::Timestamp => out.write_str("timestamp"),
            Type::Duration => out.write_str("duration"),
            Type::List(items) => write!(out, "list({items})"),
            Type::Map(keys, values) => write!(out, "map({keys}, {values})"),
            Type::Optional(inner) => write!(out, "optional_type({inner})"),
            Type::Type(inner) => write!(out, "type({inner})"),
            Type::Object(object) => out.write_str(&object.name),
            Type::Opaque(name) => out.write_str(name),
            Type::Param(number) => write!(out, "T{number}"),
        }
    }
}

/// An object type and its fields by the names that expressions use.
#[derive(Clone, Debug, Default)]
pub struct Object {
    /// Tells types apart: two of one name are the same.
    pub name: String,
    /// By escaped name.
    pub fields: BTreeMap<String, Field>,
}

/// A field of an [`Object`].
#[derive(Clone, Debug)]
pub struct Field {
    /// The name in JSON.
    pub json: String,
    /// What it holds.
    pub schema: Arc<Schema>,
}

/// How the items of a list are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListKind {
    /// By position.
    #[default]
    Atomic,
    /// They are a set.
    Set,
    /// By these fields.
    Map(Vec<String>),
}

/// A declared type: a [`Type`] and what else is known of its values.
#[derive(Clone, Debug)]
pub struct Schema {
    /// The type in expressions.
    pub ty: Type,
    /// The most items, entries or bytes.
    pub max_elements: u64,
    /// The fewest bytes as JSON.
    pub min_size: u64,
    /// Items of a list, values of a map.
    pub inner: Option<Arc<Schema>>,
    /// With lists.
    pub list: ListKind,
}

impl Schema {
    /// A type of which nothing more is known.
    pub fn of(ty: Type) -> Schema {
        Schema { ty, max_elements: 0, min_size: 0, inner: None, list: ListKind::Atomic }
    }

    /// The field of an object, by the name that expressions use.
    pub fn field(&self, name: &str) -> Option<&Field> {
        match &self.ty {
            Type::Object(object) => object.fields.get(name),
            _ => None,
        }
    }
}

/// Words of the language; with those that it keeps for itself they cannot be field names in expressions.
const WORDS: &[&str] = &["true", "false", "null", "in"];

/// The name of a property in expressions, or nothing if it has none.
pub fn escape(name: &str) -> Option<String> {
    let mut characters = name.chars();
    let first = characters.next()?;
    let may_start = first.is_ascii_alphabetic() || "_.-/".contains(first);
    if !may_start || !name.chars().all(|c| c.is_ascii_alphanumeric() || "_.-/".contains(c)) {
        return None;
    }
    if WORDS.contains(&name) || RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let escaped = name.replace("__", "__underscores__");
    Some(escaped.replace('.', "__dot__").replace('-', "__dash__").replace('/', "__slash__"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_properties() {
        let cases = [
            ("plain", Some("plain")),
            ("a-b", Some("a__dash__b")),
            ("a.b/c", Some("a__dot__b__slash__c")),
            ("a__b", Some("a__underscores__b")),
            ("namespace", Some("__namespace__")),
            ("int", Some("int")),
            ("1a", None),
            ("a b", None),
            ("", None),
            ("é", None),
        ];
        for (name, expected) in cases {
            assert_eq!(escape(name).as_deref(), expected, "{name}");
        }
    }

    #[test]
    fn how_types_are_shown() {
        let map = Type::map(Type::String, Type::list(Type::optional(Type::Int)));
        assert_eq!(map.to_string(), "map(string, list(optional_type(int)))");
        assert_eq!(Type::Type(Arc::new(Type::Timestamp)).to_string(), "type(timestamp)");
    }
}
