//! Strategic merge patch: lists are merged by the keys that the schema names, and directives say what merging cannot.
//!
//! `$patch` (`replace`, `delete`), `$retainKeys`, `$deleteFromPrimitiveList/…` and `$setElementOrder/…` as upstream
//! has them. Items that are new to a list come before the server's own, as there, unless an order is given.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::schema::View;
use crate::status::ApiError;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER_OF: &str = "$setElementOrder/";

/// Why a patch does not apply; the text is upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// Patch or object is no object.
    #[error("invalid JSON document")]
    BadDocument,
    /// `$patch` says something else.
    #[error("unknown patch type {0} in map")]
    BadDirective(String),
    /// `$retainKeys` is no list, or the patch has keys that are not in it.
    #[error("invalid patch format of retainKeys")]
    BadRetainKeys,
    /// `$deleteFromPrimitiveList` is no list.
    #[error("invalid patch format of primitive list")]
    BadPrimitiveList,
    /// `$setElementOrder` is no list.
    #[error("invalid patch format of setElementOrder list")]
    BadElementOrder,
    /// The patch's items are not in the order that it asks for.
    #[error("The order in patch list:\n{patch}\n doesn't match $setElementOrder list:\n{order}\n")]
    OrderMismatch {
        /// The items of the patch.
        patch: String,
        /// The order that it asks for.
        order: String,
    },
    /// An item lacks the key that tells it from others.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item.
        item: String,
        /// The key.
        key: String,
    },
    /// A list of objects that the schema has no key for.
    #[error("cannot merge lists without merge key for {0}")]
    NoKeyDeclared(String),
    /// A list that is to be merged holds lists.
    #[error("lists of lists are not supported")]
    ListOfLists,
    /// A list holds objects and scalars.
    #[error("list element types are not identical")]
    MixedList,
    /// A list item says `$patch: merge`.
    #[error("merging lists cannot yet be specified in the patch")]
    MergeDirectiveInList,
}

impl From<PatchError> for ApiError {
    fn from(error: PatchError) -> ApiError {
        ApiError::bad_request(error.to_string())
    }
}

/// The value after the patch. Never nested deeper than the deeper of the two.
pub fn apply(value: &Value, patch: &Value, schema: View<'_>) -> Result<Value, ApiError> {
    try_apply(value, patch, schema).map_err(ApiError::from)
}

/// As [`apply`], with the error as it is.
pub fn try_apply(value: &Value, patch: &Value, schema: View<'_>) -> Result<Value, PatchError> {
    let (Value::Object(fields), Value::Object(changes)) = (value, patch) else {
        return Err(PatchError::BadDocument);
    };
    merge_object(fields.clone(), changes, Some(schema)).map(Value::Object)
}

type Fields = Map<String, Value>;

fn merge_object(mut fields: Fields, patch: &Fields, schema: Option<View<'_>>) -> Result<Fields, PatchError> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or("")) {
        Some("replace") => return Ok(without_directives(patch)),
        Some("delete") => return Ok(Fields::new()),
        Some("merge") | None => {}
        Some(_) => return Err(PatchError::BadDirective(patch[DIRECTIVE].to_string())),
    }
    retain_keys(&mut fields, patch)?;
    let mut ordered = BTreeSet::new();
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(ORDER_OF) {
            set_order(&mut fields, patch, name, order, schema)?;
            ordered.insert(name);
        }
    }
    for (key, change) in patch {
        if let Some(name) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut fields, name, change)?;
        } else if !is_directive(key) && !ordered.contains(key.as_str()) {
            merge_field(&mut fields, key, change, schema)?;
        }
    }
    Ok(fields)
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE || key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ORDER_OF)
}

fn merge_field(
    fields: &mut Fields,
    key: &str,
    change: &Value,
    schema: Option<View<'_>>,
) -> Result<(), PatchError> {
    if change.is_null() {
        fields.remove(key);
        return Ok(());
    }
    let inner = schema.and_then(|schema| schema.field(key));
    let merged = match (fields.remove(key), change) {
        (Some(Value::Object(old)), Value::Object(new)) if !replaces(inner) => {
            Value::Object(merge_object(old, new, inner)?)
        }
        (Some(Value::Array(old)), Value::Array(new)) if merges(inner) => {
            Value::Array(merge_list(old, new, key, inner)?)
        }
        (_, new) => clean(new),
    };
    fields.insert(key.to_owned(), merged);
    Ok(())
}

fn merges(schema: Option<View<'_>>) -> bool {
    schema.and_then(View::patch).is_some_and(|patch| patch.merge)
}

/// Whether an object is replaced and not merged.
fn replaces(schema: Option<View<'_>>) -> bool {
    schema.and_then(View::patch).is_some_and(|patch| !patch.merge && !patch.retain_keys)
}

/// The field that tells a list's items apart; empty for scalars and lists that are not merged.
fn merge_key<'a>(schema: Option<View<'a>>) -> &'a str {
    schema.and_then(View::patch).map_or("", |patch| patch.merge_key.as_str())
}

/// `$retainKeys`: all that the object may keep.
fn retain_keys(fields: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
    let Some(directive) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let keys = directive.as_array().ok_or(PatchError::BadRetainKeys)?;
    let keep: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let stray = patch
        .iter()
        .any(|(key, value)| !is_directive(key) && !value.is_null() && !keep.contains(key.as_str()));
    if stray {
        return Err(PatchError::BadRetainKeys);
    }
    fields.retain(|key, _| keep.contains(key.as_str()));
    Ok(())
}

/// `$deleteFromPrimitiveList/NAME`: scalars that go.
fn delete_from(fields: &mut Fields, name: &str, gone: &Value) -> Result<(), PatchError> {
    let gone = gone.as_array().ok_or(PatchError::BadPrimitiveList)?;
    let gone: BTreeSet<String> = gone.iter().map(Value::to_string).collect();
    if let Some(Value::Array(items)) = fields.get_mut(name) {
        items.retain(|item| !gone.contains(&item.to_string()));
    }
    Ok(())
}

/// `$setElementOrder/NAME`: merges the list of that name and puts it in order.
fn set_order(
    fields: &mut Fields,
    patch: &Fields,
    name: &str,
    order: &Value,
    schema: Option<View<'_>>,
) -> Result<(), PatchError> {
    let order = order.as_array().ok_or(PatchError::BadElementOrder)?;
    let inner = schema.and_then(|schema| schema.field(name));
    let key = merge_key(inner);
    let list = |value: Option<&Value>| match value {
        None => Ok(None),
        Some(Value::Array(items)) => Ok(Some(items.clone())),
        Some(Value::Null) => Ok(None),
        Some(_) => Err(PatchError::BadElementOrder),
    };
    let (old, new) = (list(fields.get(name))?, list(patch.get(name))?);
    if let Some(new) = &new {
        check_order(new, order, key)?;
    }
    let merged = match (&old, &new) {
        // The field itself goes when the patch says so.
        (_, None) if patch.get(name).is_some_and(Value::is_null) => {
            fields.remove(name);
            return Ok(());
        }
        (None, None) => return Ok(()),
        (Some(old), None) => old.clone(),
        (None, Some(new)) => clean_list(new),
        (Some(old), Some(new)) if merges(inner) => merge_list(old.clone(), new, name, inner)?,
        (Some(_), Some(new)) => clean_list(new),
    };
    let merged = in_order(merged, order, old.as_deref().unwrap_or(&[]), key)?;
    fields.insert(name.to_owned(), Value::Array(merged));
    Ok(())
}

/// The patch's own items must appear in the order that it asks for, and all of them.
fn check_order(patch: &[Value], order: &[Value], key: &str) -> Result<(), PatchError> {
    if patch.is_empty() || order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patch.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        let wanted = identity(item, key)?;
        loop {
            match rest.next() {
                Some(next) if identity(next, key)? == wanted => break,
                Some(_) => {}
                None => {
                    let (patch, order) = (Value::from(patch).to_string(), Value::from(order).to_string());
                    return Err(PatchError::OrderMismatch { patch, order });
                }
            }
        }
    }
    Ok(())
}

/// What tells an item from others: its merge key, or the scalar itself.
fn identity(item: &Value, key: &str) -> Result<String, PatchError> {
    if key.is_empty() {
        return Ok(item.to_string());
    }
    let found = item.as_object().and_then(|fields| fields.get(key));
    let missing = || PatchError::NoMergeKey { item: item.to_string(), key: key.to_owned() };
    found.map(Value::to_string).ok_or_else(missing)
}

fn positions(list: &[Value], key: &str) -> Result<BTreeMap<String, usize>, PatchError> {
    let mut positions = BTreeMap::new();
    for (position, item) in list.iter().enumerate() {
        positions.entry(identity(item, key)?).or_insert(position);
    }
    Ok(positions)
}

fn merge_list(
    old: Vec<Value>,
    patch: &[Value],
    name: &str,
    schema: Option<View<'_>>,
) -> Result<Vec<Value>, PatchError> {
    let Some(first) = old.first().or(patch.first()) else { return Ok(old) };
    let objects = first.is_object();
    if old.iter().chain(patch).any(|item| item.is_object() != objects) {
        return Err(PatchError::MixedList);
    }
    if first.is_array() {
        return Err(PatchError::ListOfLists);
    }
    if !objects {
        let server = old.clone();
        let mut seen = BTreeSet::new();
        let merged = old.into_iter().chain(patch.iter().cloned());
        let merged = merged.filter(|item| seen.insert(item.to_string())).collect();
        return in_order(merged, patch, &server, "");
    }
    let key = merge_key(schema);
    if key.is_empty() {
        return Err(PatchError::NoKeyDeclared(name.to_owned()));
    }
    merge_objects(old, patch, key, schema)
}

fn merge_objects(
    old: Vec<Value>,
    patch: &[Value],
    key: &str,
    schema: Option<View<'_>>,
) -> Result<Vec<Value>, PatchError> {
    let (mut replace, mut deleted, mut changes) = (false, BTreeSet::new(), Vec::new());
    for item in patch {
        match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or("")) {
            None => changes.push(item),
            Some("delete") => {
                deleted.insert(identity(item, key)?);
            }
            Some("replace") => replace = true,
            Some("merge") => return Err(PatchError::MergeDirectiveInList),
            Some(_) => return Err(PatchError::BadDirective(item[DIRECTIVE].to_string())),
        }
    }
    if replace {
        return Ok(changes.into_iter().map(clean).collect());
    }
    let mut merged = Vec::with_capacity(old.len());
    for item in old {
        if !deleted.contains(&identity(&item, key)?) {
            merged.push(item);
        }
    }
    let server = merged.clone();
    let mut known = positions(&merged, key)?;
    let items = schema.and_then(View::items);
    for change in &changes {
        let id = identity(change, key)?;
        match (known.get(&id), change) {
            (Some(position), Value::Object(change)) => {
                let old = merged[*position].as_object().cloned().unwrap_or_default();
                merged[*position] = Value::Object(merge_object(old, change, items)?);
            }
            _ => {
                known.insert(id, merged.len());
                merged.push(clean(change));
            }
        }
    }
    let order: Vec<Value> = changes.into_iter().cloned().collect();
    in_order(merged, &order, &server, key)
}

/// Puts a merged list in order: items that `order` names in that order, the others as the server had them; where the
/// two meet, a server's item comes first only if the server had both and in that order.
fn in_order(
    merged: Vec<Value>,
    order: &[Value],
    server: &[Value],
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    let (order, server) = (positions(order, key)?, positions(server, key)?);
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        let id = identity(&item, key)?;
        let at_server = server.get(&id).copied();
        match order.get(&id) {
            Some(position) => named.push((*position, at_server, item)),
            None => others.push((at_server.unwrap_or(usize::MAX), at_server, item)),
        }
    }
    named.sort_by_key(|(position, ..)| *position);
    others.sort_by_key(|(position, ..)| *position);
    let mut result = Vec::with_capacity(named.len() + others.len());
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    loop {
        let others_first = match (named.peek(), others.peek()) {
            (Some((_, Some(named), _)), Some((_, Some(other), _))) => other < named,
            (Some(_), _) => false,
            (None, Some(_)) => true,
            (None, None) => return Ok(result),
        };
        let next = if others_first { others.next() } else { named.next() };
        result.extend(next.map(|(_, _, item)| item));
    }
}

/// A value that is new to the object: without directives, and without nulls, which only remove.
fn clean(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(without_directives(fields)),
        Value::Array(items) => Value::Array(clean_list(items)),
        scalar => scalar.clone(),
    }
}

fn clean_list(items: &[Value]) -> Vec<Value> {
    let kept = items
        .iter()
        .filter(|item| !matches!(item.get(DIRECTIVE).and_then(Value::as_str), Some("delete" | "replace")));
    kept.map(clean).collect()
}

fn without_directives(fields: &Fields) -> Fields {
    let kept = fields.iter().filter(|(key, value)| !is_directive(key) && !value.is_null());
    kept.map(|(key, value)| (key.clone(), clean(value))).collect()
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod three_way;
