//! `FieldsV1`: field sets as they are written in `managedFields`.
//!
//! An object whose keys are steps: `f:` a field, `k:` the key fields of an item, `v:` a member of a set, `i:` a position. What
//! is below a step is its value; `.` is the place itself, where something is below it too.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::set::{Element, FieldSet, in_order};

/// Why a value is no field set. The text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// A step without a letter and a colon.
    #[error("missing colon: {0}")]
    NoColon(String),
    /// A step too short to be one.
    #[error("key must be 2 characters long:")]
    TooShort,
    /// A step that is no JSON, or an index that is no number.
    #[error("parsing value: {0}")]
    BadValue(String),
    /// What is below a step must be an object.
    #[error("a field set must be an object")]
    NoObject,
}

/// Reads a field set. Steps of kinds that are not known here are left out, as upstream does.
pub fn decode(value: &Value) -> Result<FieldSet<'_>, FieldsError> {
    let Value::Object(steps) = value else { return Err(FieldsError::NoObject) };
    let mut places = Vec::with_capacity(steps.len());
    for (step, below) in steps.iter().filter(|(step, _)| *step != ".") {
        let Some(element) = element(step)? else { continue };
        let mut inner = decode(below)?;
        // Nothing below is the place itself.
        inner.member |= inner.inner.is_empty();
        places.push((element, inner));
    }
    Ok(FieldSet { member: steps.contains_key("."), inner: in_order(places) })
}

fn element(step: &str) -> Result<Option<Element<'_>>, FieldsError> {
    if step.len() < 2 {
        return Err(FieldsError::TooShort);
    }
    if step.as_bytes()[1] != b':' {
        return Err(FieldsError::NoColon(step.to_owned()));
    }
    let bad = |error: &dyn std::fmt::Display| FieldsError::BadValue(error.to_string());
    let (letter, rest) = (step.as_bytes()[0], step.get(2..).unwrap_or_default());
    Ok(Some(match letter {
        b'f' => Element::Field(Cow::Borrowed(rest)),
        b'i' => Element::Index(rest.parse().map_err(|error: std::num::ParseIntError| bad(&error))?),
        b'v' => Element::Value(Cow::Owned(serde_json::from_str(rest).map_err(|error| bad(&error))?)),
        b'k' => {
            let fields: Map<String, Value> = serde_json::from_str(rest).map_err(|error| bad(&error))?;
            let pairs = fields.into_iter().map(|(name, value)| (Cow::Owned(name), Cow::Owned(value)));
            Element::Key(pairs.collect())
        }
        _ => return Ok(None),
    }))
}

/// Writes a field set.
pub fn encode(set: &FieldSet<'_>, out: &mut String) {
    // At the top there is no place to be the set's own.
    write(set, false, &mut String::new(), out);
}

fn write(set: &FieldSet<'_>, itself: bool, scratch: &mut String, out: &mut String) {
    out.push('{');
    if itself {
        out.push_str("\".\":{}");
    }
    for (at, (element, inner)) in set.inner.iter().enumerate() {
        if at > 0 || itself {
            out.push(',');
        }
        write_step(element, scratch, out);
        out.push(':');
        write(inner, inner.member && !inner.inner.is_empty(), scratch, out);
    }
    out.push('}');
}

fn write_step(element: &Element<'_>, scratch: &mut String, out: &mut String) {
    match element {
        Element::Field(name) if name.bytes().all(|byte| byte >= 0x20 && byte != b'"' && byte != b'\\') => {
            out.push_str("\"f:");
            out.push_str(name);
            out.push('"');
        }
        Element::Field(name) => out.push_str(&quoted(&format!("f:{name}"))),
        Element::Index(index) => out.push_str(&format!("\"i:{index}\"")),
        Element::Value(value) => out.push_str(&quoted(&format!("v:{value}"))),
        Element::Key(fields) => {
            scratch.clear();
            scratch.push_str("k:{");
            for (at, (name, value)) in fields.iter().enumerate() {
                if at > 0 {
                    scratch.push(',');
                }
                scratch.push_str(&quoted(name));
                scratch.push(':');
                scratch.push_str(&value.to_string());
            }
            scratch.push('}');
            out.push_str(&quoted(scratch));
        }
    }
}

/// A text as JSON.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("writing a string to memory cannot fail")
}
