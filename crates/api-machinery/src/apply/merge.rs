//! What an applied object makes of the stored one: it is merged in, and what its manager no longer states is taken out.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::set::{Element, FieldSet};
use super::typed::{Shape, child, element_of, elements, shape};
use crate::schema::View;

/// The live object with everything that the applied one states.
pub(super) fn merge(live: &Value, applied: &Value, schema: Option<View<'_>>) -> Value {
    if applied.is_null() {
        // Nothing is stated about what is inside, only that the rest is none.
        return if matches!(shape(schema, live), Shape::Leaf) { Value::Null } else { live.clone() };
    }
    match (shape(schema, applied), live, applied) {
        (Shape::Fields, Value::Object(live), Value::Object(applied)) => {
            let kept = live.iter().filter(|(name, _)| !applied.contains_key(*name));
            let mut merged: Map<String, Value> =
                kept.map(|(name, value)| (name.clone(), value.clone())).collect();
            for (name, value) in applied {
                let value = match live.get(name) {
                    Some(live) => merge(live, value, child(schema, name).0),
                    None => value.clone(),
                };
                merged.insert(name.clone(), value);
            }
            Value::Object(merged)
        }
        (Shape::Items, Value::Array(_), Value::Array(_)) => {
            let lists = schema.and_then(|view| Some((elements(live, view)?, elements(applied, view)?, view)));
            match lists {
                Some((live, applied, view)) => Value::Array(merge_items(&live, &applied, view.items())),
                None => applied.clone(),
            }
        }
        _ => applied.clone(),
    }
}

type Items<'a> = [(Element<'a>, &'a Value)];

/// Items of the applied list in its order; what only the live list has stays where it was between them.
fn merge_items(live: &Items<'_>, applied: &Items<'_>, schema: Option<View<'_>>) -> Vec<Value> {
    // An item that the live list has twice is replaced and not merged.
    let mut known: BTreeMap<&Element<'_>, Option<&Value>> = BTreeMap::new();
    for (element, item) in live {
        known.entry(element).and_modify(|item| *item = None).or_insert(Some(item));
    }
    let stated: BTreeMap<&Element<'_>, usize> =
        applied.iter().enumerate().map(|(at, (element, _))| (element, at)).collect();
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let mut next = 0;
    let take = |at: usize| {
        let (element, item) = &applied[at];
        match known.get(element) {
            Some(Some(live)) => merge(live, item, schema),
            _ => (*item).clone(),
        }
    };
    for (element, item) in live {
        match stated.get(element) {
            None => merged.push((*item).clone()),
            // All that is stated up to here; an item that was moved forward has been taken already.
            Some(at) => {
                while next <= *at {
                    merged.push(take(next));
                    next += 1;
                }
            }
        }
    }
    merged.extend((next..applied.len()).map(take));
    merged
}

/// Takes out what the manager stated last and does not state now, where nobody else owns it. `owned` is what all own now,
/// the new statement included.
pub(super) fn prune(value: &mut Value, last: &FieldSet<'_>, owned: &FieldSet<'_>, schema: Option<View<'_>>) {
    Pruner::default().walk(value, last, Some(owned), schema);
}

/// What is known of the place above.
#[derive(Clone, Copy, Default)]
struct Pruner {
    /// It, or one above it, was stated last.
    covered: bool,
    /// It, or one above it, has lost its last owner.
    dropped: bool,
}

impl Pruner {
    fn walk(
        self,
        value: &mut Value,
        last: &FieldSet<'_>,
        owned: Option<&FieldSet<'_>>,
        schema: Option<View<'_>>,
    ) {
        match (shape(schema, value), value, schema) {
            (Shape::Fields, Value::Object(fields), _) => {
                fields.retain(|name, value| {
                    let (inner, named) = child(schema, name);
                    let Some(last) = last.field(name) else { return true };
                    self.keeps(value, last, owned.and_then(|owned| owned.field(name)), named, inner)
                });
            }
            (Shape::Items, Value::Array(items), Some(view)) => {
                items.retain_mut(|item| {
                    let inner = view.items();
                    let place = element_of(item, view).ok().and_then(|element| {
                        Some((last.get(&element)?, owned.and_then(|owned| owned.get(&element))))
                    });
                    place.is_none_or(|(last, owned)| self.keeps(item, last, owned, false, inner))
                });
            }
            _ => {}
        }
    }

    /// Whether a place stays; what goes below it goes. An object that the schema names is there through what is in it.
    fn keeps(
        self,
        value: &mut Value,
        last: &FieldSet<'_>,
        owned: Option<&FieldSet<'_>>,
        named: bool,
        schema: Option<View<'_>>,
    ) -> bool {
        let within = |set: &FieldSet<'_>| set.member || (named && !set.is_empty());
        let was_stated = within(last);
        let covered = self.covered || was_stated;
        let dropped = self.dropped || (covered && !owned.is_some_and(within));
        if dropped && was_stated {
            return false;
        }
        let had_some = !is_empty(value);
        Pruner { covered, dropped }.walk(value, last, owned, schema);
        // What was emptied goes with what was in it.
        !(had_some && is_empty(value))
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}
