//! Filling in what a client left out: small helpers on mutable objects for defaulting.
//!
//! A field is left out when it is missing, null or (for texts) empty. Nothing here knows kinds; a value of the wrong
//! type is left as it is.

use serde_json::{Map, Value};

/// What a field gets when it was left out.
pub enum Fill {
    /// A text; replaces an empty one too.
    Text(&'static str),
    /// An integer; replaces nothing but absence.
    Int(i64),
    /// An integer; replaces 0 too, as for fields where Go cannot tell 0 from absent.
    NonZero(i64),
    /// A flag.
    Flag(bool),
    /// `{}`.
    Object,
}

/// Fills in the fields of one object.
pub fn fill(object: &mut Value, table: &[(&str, Fill)]) {
    let Some(map) = object.as_object_mut() else { return };
    for (field, value) in table {
        let current = map.get(*field).filter(|v| !v.is_null());
        let left_out = match (value, current) {
            (_, None) => true,
            (Fill::Text(_), Some(Value::String(s))) => s.is_empty(),
            (Fill::NonZero(_), Some(v)) => v.as_i64() == Some(0),
            _ => false,
        };
        if left_out {
            map.insert((*field).to_owned(), value.to_value());
        }
    }
}

impl Fill {
    fn to_value(&self) -> Value {
        match self {
            Fill::Text(text) => Value::from(*text),
            Fill::Int(number) | Fill::NonZero(number) => Value::from(*number),
            Fill::Flag(flag) => Value::from(*flag),
            Fill::Object => Value::Object(Map::new()),
        }
    }
}

/// The value of a field, if it is set.
pub fn get<'a>(object: &'a Value, field: &str) -> Option<&'a Value> {
    object.get(field).filter(|v| !v.is_null())
}

/// The text of a field; empty if it is not set.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or("")
}

/// The value at a way of fields, if it is set.
pub fn at<'a>(object: &'a Value, way: &[&str]) -> Option<&'a Value> {
    way.iter().try_fold(object, |value, field| get(value, field))
}

/// The same, to change it.
pub fn at_mut<'a>(object: &'a mut Value, way: &[&str]) -> Option<&'a mut Value> {
    way.iter().try_fold(object, |value, field| value.get_mut(*field).filter(|v| !v.is_null()))
}

/// The object at a way of fields, made where it is missing; none if something else is in the way.
pub fn object_at<'a>(object: &'a mut Value, way: &[&str]) -> Option<&'a mut Value> {
    let mut current = object;
    for field in way {
        let map = current.as_object_mut()?;
        let next = map.entry((*field).to_owned()).or_insert(Value::Null);
        if next.is_null() {
            *next = Value::Object(Map::new());
        }
        current = next;
    }
    current.is_object().then_some(current)
}

/// The elements of a list field, to change them.
pub fn each_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> + use<'a> {
    object.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

/// Sets a field of an object.
pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(map) = object.as_object_mut() {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that was left out.
pub fn set_if_absent(object: &mut Value, field: &str, value: impl Into<Value>) {
    if get(object, field).is_none() {
        set(object, field, value);
    }
}

/// Removes a field of an object.
pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.remove(field)
}

/// Puts `old`'s field in place of `new`'s, or removes it.
pub fn keep_old(new: &mut Value, old: &Value, field: &str) {
    match old.get(field) {
        Some(value) => set(new, field, value.clone()),
        None => drop(remove(new, field)),
    }
}
