//! Objects seen as what can be owned: the places that an object holds, and the places in which two of them differ.
//!
//! The schema says what is owned in pieces and what only as a whole: maps and objects field by field unless they are atomic,
//! lists item by item if items can be told apart. Values under no schema are owned by field, their lists as a whole.

use std::borrow::Cow;
use std::sync::LazyLock;

use serde_json::{Map, Value};

use super::set::{Element, FieldSet, compare_values, in_order};
use crate::field::go_quote;
use crate::schema::{Kind, ListType, View};

/// How the value of a place is owned.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shape {
    /// As a whole.
    Leaf,
    /// Field by field, or entry by entry.
    Fields,
    /// Item by item.
    Items,
}

/// How a value of this schema is owned.
pub(super) fn shape(schema: Option<View<'_>>, value: &Value) -> Shape {
    let Some(view) = schema else {
        return if value.is_object() { Shape::Fields } else { Shape::Leaf };
    };
    match (view.kind(), value) {
        (Kind::Object(_) | Kind::Map(_), Value::Object(_)) if !view.map_atomic() => Shape::Fields,
        (Kind::Any, Value::Object(_)) if view.preserve_unknown() => Shape::Fields,
        (Kind::Array(_), Value::Array(_)) if view.list_type() != ListType::Atomic => Shape::Items,
        _ => Shape::Leaf,
    }
}

/// The schema of a field; and whether the schema knows it by name.
pub(super) fn child<'s>(schema: Option<View<'s>>, name: &str) -> (Option<View<'s>>, bool) {
    let field = schema.and_then(|view| view.field(name));
    let named = field.is_some() && schema.is_some_and(|view| matches!(view.kind(), Kind::Object(_)));
    (field, named)
}

/// The places of an object that are owned as a whole and have parts.
pub(super) fn atomics(value: &Value, schema: View<'_>, path: &mut String, found: &mut Vec<String>) {
    let before = path.len();
    let is_atomic = match (schema.kind(), value) {
        (Kind::Object(_) | Kind::Map(_), Value::Object(_)) => schema.map_atomic(),
        (Kind::Array(_), Value::Array(_)) => schema.list_type() == ListType::Atomic,
        _ => false,
    };
    if is_atomic {
        found.push(path.clone());
    }
    match (schema.kind(), value) {
        (Kind::Object(_), Value::Object(fields)) => {
            for (name, value) in fields {
                if let Some(inner) = schema.field(name) {
                    path.push('.');
                    path.push_str(name);
                    atomics(value, inner, path, found);
                    path.truncate(before);
                }
            }
        }
        (Kind::Array(_), Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(inner) = schema.items() {
                    path.push_str(&format!("[{index}]"));
                    atomics(item, inner, path, found);
                    path.truncate(before);
                }
            }
        }
        _ => {}
    }
}

/// What tells an item of a list from others, or upstream's words for why nothing does.
pub(super) fn element_of<'a>(item: &'a Value, list: View<'a>) -> Result<Element<'a>, String> {
    if list.list_type() == ListType::Set {
        return match item {
            Value::Object(_) => {
                Err("associative list without keys has an element that's a map type".to_owned())
            }
            Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
            Value::Null => {
                Err("associative list without keys has an element that's an explicit null".to_owned())
            }
            scalar => Ok(Element::Value(Cow::Borrowed(scalar))),
        };
    }
    let fields = match item {
        Value::Object(fields) => fields,
        Value::Null => return Err("associative list with keys may not have a null element".to_owned()),
        _ => return Err("associative list with keys may not have non-map elements".to_owned()),
    };
    let items = list.items();
    let mut key = Vec::with_capacity(list.map_keys().len());
    for name in list.map_keys() {
        let default = || items.and_then(|items| items.field(name)).and_then(View::default);
        // One of several keys may be left out: that is a key of its own.
        if let Some(value) = fields.get(name).or_else(default) {
            key.push((Cow::Borrowed(name.as_str()), Cow::Borrowed(value)));
        }
    }
    if key.is_empty() {
        let names: Vec<String> = list.map_keys().iter().map(|name| go_quote(name)).collect();
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    key.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Element::Key(key))
}

/// The items of a list with what tells them apart, in the list's order; `None` where something cannot be told.
pub(super) fn elements<'a>(list: &'a Value, schema: View<'a>) -> Option<Vec<(Element<'a>, &'a Value)>> {
    let items = list.as_array().map_or(&[][..], Vec::as_slice);
    items.iter().map(|item| element_of(item, schema).ok().map(|element| (element, item))).collect()
}

/// All places that an applied object states.
pub(super) fn stated<'a>(value: &'a Value, schema: Option<View<'a>>) -> FieldSet<'a> {
    let mut set = FieldSet::default();
    match (shape(schema, value), value, schema) {
        (Shape::Fields, Value::Object(fields), _) => {
            for (name, value) in fields {
                let (inner, named) = child(schema, name);
                let mut below = stated(value, inner);
                // Of what the schema names, the place itself is stated by what is in it.
                below.member |= !named || value.is_null() || value.as_object().is_some_and(Map::is_empty);
                set.push(Element::Field(Cow::Borrowed(name)), below);
            }
        }
        (Shape::Items, _, Some(view)) => match elements(value, view) {
            Some(items) => {
                let places = items.into_iter().map(|(element, item)| {
                    let below = stated(item, view.items());
                    (element, FieldSet { member: true, ..below })
                });
                set.inner = in_order(places.collect());
            }
            None => set.member = true,
        },
        _ => set.member = true,
    }
    set
}

/// Where a second state of an object differs from the first.
#[derive(Debug, Default)]
pub(super) struct Difference<'a> {
    /// What only the second has.
    pub added: FieldSet<'a>,
    /// What both have, with different values.
    pub modified: FieldSet<'a>,
    /// What only the first has.
    pub removed: FieldSet<'a>,
}

static NO_FIELDS: LazyLock<Value> = LazyLock::new(|| Value::Object(Map::new()));
static NO_ITEMS: Value = Value::Array(Vec::new());

/// The difference of two states; no state at all is that of an object which is about to be made.
pub(super) fn difference<'a>(
    before: Option<&'a Value>,
    after: Option<&'a Value>,
    schema: View<'a>,
) -> Difference<'a> {
    Difference::of(before.or(Some(&NO_FIELDS)), after.or(Some(&NO_FIELDS)), Some(schema))
}

impl<'a> Difference<'a> {
    fn of(before: Option<&'a Value>, after: Option<&'a Value>, schema: Option<View<'a>>) -> Difference<'a> {
        let mut here = Difference::default();
        let Some(value) = after.or(before) else { return here };
        match (shape(schema, value), before, after) {
            (_, Some(before), Some(after)) if before == after => return here,
            (Shape::Fields, Some(Value::Object(_)) | None, Some(Value::Object(_)) | None) => {
                here.fields(before.and_then(Value::as_object), after.and_then(Value::as_object), schema);
            }
            (Shape::Items, Some(Value::Array(_)) | None, Some(Value::Array(_)) | None) => {
                let items = |list: Option<&'a Value>| match (list, schema) {
                    (Some(list), Some(view)) => elements(list, view),
                    _ => Some(Vec::new()),
                };
                match (items(before), items(after)) {
                    (Some(before), Some(after)) => here.items(before, after, schema.and_then(View::items)),
                    _ => return Difference::leaf(before.is_some(), after.is_some()),
                }
            }
            (_, Some(before), Some(after)) if compare_values(before, after).is_eq() => return here,
            (_, before, after) => return Difference::leaf(before.is_some(), after.is_some()),
        }
        here.added.member = before.is_none();
        here.removed.member = after.is_none();
        here
    }

    fn leaf(before: bool, after: bool) -> Difference<'a> {
        let mut here = Difference::default();
        here.added.member = !before;
        here.removed.member = !after;
        here.modified.member = before && after;
        here
    }

    fn push(&mut self, element: Element<'a>, below: Difference<'a>) {
        if !below.added.is_empty() {
            self.added.push(element.clone(), below.added);
        }
        if !below.modified.is_empty() {
            self.modified.push(element.clone(), below.modified);
        }
        self.removed.push(element, below.removed);
    }

    fn fields(
        &mut self,
        before: Option<&'a Map<String, Value>>,
        after: Option<&'a Map<String, Value>>,
        schema: Option<View<'a>>,
    ) {
        let both = before.is_some() && after.is_some();
        let mut left = before.into_iter().flatten().peekable();
        let mut right = after.into_iter().flatten().peekable();
        loop {
            let name = match (left.peek(), right.peek()) {
                (Some((a, _)), Some((b, _))) => (*a).min(*b),
                (Some((name, _)), None) | (None, Some((name, _))) => *name,
                (None, None) => return,
            };
            let mut before = left.next_if(|(known, _)| *known == name).map(|(_, value)| value);
            let mut after = right.next_if(|(known, _)| *known == name).map(|(_, value)| value);
            let (inner, _) = child(schema, name);
            // What is there even when it is empty is not added by what comes to be in it.
            let empty = if both { always_there(schema, inner, name) } else { None };
            before = before.or(empty);
            after = after.or(empty);
            self.push(Element::Field(Cow::Borrowed(name)), Difference::of(before, after, inner));
        }
    }

    fn items(
        &mut self,
        mut before: Vec<(Element<'a>, &'a Value)>,
        mut after: Vec<(Element<'a>, &'a Value)>,
        schema: Option<View<'a>>,
    ) {
        before.sort_by(|(a, _), (b, _)| a.cmp(b));
        after.sort_by(|(a, _), (b, _)| a.cmp(b));
        let (mut left, mut right) = (&before[..], &after[..]);
        loop {
            let element = match (left.first(), right.first()) {
                (Some((a, _)), Some((b, _))) => a.min(b),
                (Some((element, _)), None) | (None, Some((element, _))) => element,
                (None, None) => return,
            };
            let same = |list: &[(Element<'a>, &'a Value)]| {
                list.iter().take_while(|(known, _)| known == element).count()
            };
            let (lefts, rest_left) = left.split_at(same(left));
            let (rights, rest_right) = right.split_at(same(right));
            let below = match (lefts, rights) {
                ([] | [_], [] | [_]) => {
                    let one = |items: &[(Element<'a>, &'a Value)]| items.first().map(|(_, item)| *item);
                    Difference::of(one(lefts), one(rights), schema)
                }
                // Items that cannot be told apart are one thing.
                _ if lefts.iter().map(|(_, item)| item).eq(rights.iter().map(|(_, item)| item)) => {
                    Difference::default()
                }
                _ => Difference::leaf(!lefts.is_empty(), !rights.is_empty()),
            };
            self.push(element.clone(), below);
            (left, right) = (rest_left, rest_right);
        }
    }
}

/// The empty value of a field that is there even when nobody sets it: an object that is always there, or a required list.
fn always_there<'a>(schema: Option<View<'_>>, field: Option<View<'_>>, name: &str) -> Option<&'a Value> {
    let field = field?;
    match field.kind() {
        Kind::Object(_) if field.always() => Some(&NO_FIELDS),
        Kind::Array(_) if schema?.fields().iter().any(|known| known.required && known.name == name) => {
            Some(&NO_ITEMS)
        }
        _ => None,
    }
}
