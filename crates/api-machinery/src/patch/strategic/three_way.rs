//! Client-side apply: the patch that kubectl computes from what it applied last, what it applies now and what is stored must
//! make of the stored object what its users expect.
//!
//! The patch is computed here as kubectl does, directives and all; what is expected is said without any patch.

use proptest::prelude::*;
use serde_json::json;

use super::tests::schema;
use super::*;

/// Which half of the patch is computed: deletions are found against what was applied last, the rest against what is stored.
#[derive(Clone, Copy, PartialEq)]
enum Half {
    Deletions,
    Delta,
}

fn three_way(last: &Value, wanted: &Value, stored: &Value) -> Value {
    let fields = |value: &Value| value.as_object().cloned().expect("an object");
    let schema = Some(schema());
    let view = schema.as_ref().map(|schema| schema.view());
    let mut patch = diff(&fields(last), &fields(wanted), view, false, Half::Deletions);
    join(&mut patch, diff(&fields(stored), &fields(wanted), view, false, Half::Delta), view);
    Value::Object(patch)
}

fn diff(old: &Fields, new: &Fields, schema: Option<View<'_>>, retain: bool, half: Half) -> Fields {
    let mut patch = Fields::new();
    for (key, value) in new {
        let inner = schema.and_then(|schema| schema.field(key));
        let strategy = inner.and_then(View::patch).cloned();
        match (old.get(key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => match &strategy {
                Some(strategy) if !strategy.merge && !strategy.retain_keys => {
                    if half == Half::Delta {
                        patch.insert(key.clone(), value.clone());
                    }
                }
                _ => {
                    let retain = strategy.is_some_and(|strategy| strategy.retain_keys);
                    let below = diff(old, new, inner, retain, half);
                    if !below.is_empty() {
                        patch.insert(key.clone(), below.into());
                    }
                }
            },
            (Some(Value::Array(old)), Value::Array(new)) if merges(inner) => {
                diff_lists(key, old, new, inner, half, &mut patch);
            }
            (old, new) => {
                if half == Half::Delta && old != Some(new) {
                    patch.insert(key.clone(), new.clone());
                }
            }
        }
    }
    if half == Half::Deletions {
        patch.extend(old.keys().filter(|key| !new.contains_key(*key)).map(|key| (key.clone(), Value::Null)));
    }
    let more = old.keys().any(|key| !new.contains_key(key));
    if retain && !new.is_empty() && (!patch.is_empty() || more) {
        patch.insert(RETAIN_KEYS.to_owned(), new.keys().cloned().collect());
    }
    patch
}

fn diff_lists(
    name: &str,
    old: &[Value],
    new: &[Value],
    schema: Option<View<'_>>,
    half: Half,
    patch: &mut Fields,
) {
    if old.is_empty() {
        if half == Half::Delta && !new.is_empty() {
            patch.insert(name.to_owned(), new.into());
        }
        return;
    }
    let key = merge_key(schema);
    let is = |a: &Value, b: &Value| identity(a, key) == identity(b, key);
    let gone: Vec<&Value> = old.iter().filter(|item| !new.iter().any(|other| is(item, other))).collect();
    let mut items = Vec::new();
    if key.is_empty() {
        if half == Half::Delta {
            items.extend(new.iter().filter(|item| !old.contains(item)).cloned());
        }
    } else {
        let retain = schema.and_then(View::patch).is_some_and(|strategy| strategy.retain_keys);
        for item in new {
            let Some(before) = old.iter().find(|other| is(item, other)) else {
                items.extend((half == Half::Delta).then(|| item.clone()));
                continue;
            };
            let (before, after) = (before.as_object().expect("an item"), item.as_object().expect("an item"));
            let mut below = diff(before, after, schema.and_then(View::items), retain, half);
            if !below.is_empty() {
                below.insert(key.to_owned(), item[key].clone());
                items.push(below.into());
            }
        }
    }
    let mut changed = !items.is_empty();
    if half == Half::Deletions && !gone.is_empty() {
        changed = true;
        if key.is_empty() {
            patch.insert(format!("{DELETE_FROM}{name}"), gone.into_iter().cloned().collect());
        } else {
            items.extend(gone.into_iter().map(|item| json!({key: item[key], "$patch": "delete"})));
        }
    }
    if !items.is_empty() {
        patch.insert(name.to_owned(), items.into());
    }
    let common: Vec<&Value> = old.iter().filter(|item| new.iter().any(|other| is(item, other))).collect();
    let same_order = common.len() == new.len() && common.iter().zip(new).all(|(a, b)| is(a, b));
    let unordered = if key.is_empty() { old != new } else { !same_order };
    if changed || (half == Half::Delta && unordered) {
        let only_key = |item: &Value| if key.is_empty() { item.clone() } else { json!({key: item[key]}) };
        patch.insert(format!("{ORDER_OF}{name}"), new.iter().map(only_key).collect());
    }
}

/// Joins the two halves of a patch.
fn join(patch: &mut Fields, other: Fields, schema: Option<View<'_>>) {
    for (key, value) in other {
        let inner = schema.and_then(|schema| schema.field(&key));
        match (patch.get_mut(&key), value) {
            (Some(Value::Object(mine)), Value::Object(theirs)) => join(mine, theirs, inner),
            (Some(Value::Array(mine)), Value::Array(theirs)) if !is_directive(&key) => {
                let name = merge_key(inner);
                for item in theirs {
                    let known = mine.iter_mut().find(|known| identity(known, name) == identity(&item, name));
                    match (known, item) {
                        (Some(Value::Object(mine)), Value::Object(theirs)) => {
                            join(mine, theirs, inner.and_then(View::items));
                        }
                        (Some(_), _) => {}
                        (None, item) => mine.push(item),
                    }
                }
            }
            (_, value) => drop(patch.insert(key, value)),
        }
    }
    // What is deleted comes last, the rest in the order that is asked for.
    let orders: Vec<(String, Vec<Value>)> = patch
        .iter()
        .filter_map(|(key, order)| Some((key.strip_prefix(ORDER_OF)?.to_owned(), order.as_array()?.clone())))
        .collect();
    for (name, order) in orders {
        let key = schema.and_then(|schema| schema.field(&name)).map_or("", |inner| merge_key(Some(inner)));
        if let Some(Value::Array(items)) = patch.get_mut(&name) {
            items.sort_by_key(|item| {
                let at = order.iter().position(|other| identity(other, key) == identity(item, key));
                at.unwrap_or(usize::MAX)
            });
        }
    }
}

/// What users expect: all that is wanted, nothing of what they no longer want, and what others added.
fn expected(last: &Value, wanted: &Value, stored: &Value, schema: Option<View<'_>>) -> Value {
    let strategy = schema.and_then(View::patch);
    match (wanted, stored) {
        (Value::Object(new), Value::Object(old)) => {
            if strategy.is_some_and(|strategy| !strategy.merge && !strategy.retain_keys) {
                return wanted.clone();
            }
            let alone = strategy.is_some_and(|strategy| strategy.retain_keys) && !new.is_empty();
            merged_fields(last, new, old, schema, alone)
        }
        (Value::Array(new), Value::Array(old)) if merges(schema) => {
            let (key, items) = (merge_key(schema), schema.and_then(View::items));
            let find = |list: &[Value], item: &Value| {
                list.iter().find(|other| identity(other, key) == identity(item, key)).cloned()
            };
            let last = last.as_array().map_or(&[][..], Vec::as_slice);
            let alone = strategy.is_some_and(|strategy| strategy.retain_keys);
            let mut all = BTreeMap::new();
            for item in old.iter().filter(|item| find(new, item).is_none() && find(last, item).is_none()) {
                all.insert(item[key].to_string() + &item.to_string(), item.clone());
            }
            for item in new {
                let merged = match (find(old, item), item) {
                    (Some(Value::Object(old)), Value::Object(new)) => {
                        merged_fields(&find(last, item).unwrap_or_default(), new, &old, items, alone)
                    }
                    _ => item.clone(),
                };
                all.insert(item[key].to_string() + &merged.to_string(), merged);
            }
            all.into_values().collect()
        }
        _ => wanted.clone(),
    }
}

fn merged_fields(last: &Value, new: &Fields, old: &Fields, schema: Option<View<'_>>, alone: bool) -> Value {
    let mut merged = old.clone();
    merged.retain(|key, _| new.contains_key(key) || (!alone && last.get(key).is_none()));
    for (key, value) in new {
        let inner = schema.and_then(|schema| schema.field(key));
        let before = old.get(key).map(|old| expected(&last[key], value, old, inner));
        merged.insert(key.clone(), before.unwrap_or_else(|| value.clone()));
    }
    merged.into()
}

/// Merged lists without their order.
fn unordered(value: &Value, schema: Option<View<'_>>) -> Value {
    match value {
        Value::Object(fields) => fields
            .iter()
            .map(|(key, value)| (key.clone(), unordered(value, schema.and_then(|schema| schema.field(key)))))
            .collect(),
        Value::Array(items) => {
            let mut items: Vec<Value> =
                items.iter().map(|item| unordered(item, schema.and_then(View::items))).collect();
            if merges(schema) {
                items.sort_by_key(Value::to_string);
            }
            items.into()
        }
        scalar => scalar.clone(),
    }
}

fn unique(items: Vec<Value>, key: &str) -> Value {
    let mut seen = BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(item[key].to_string())).collect()
}

fn object() -> impl Strategy<Value = Value> {
    let text = || prop::sample::select(vec!["1", "2", "3"]).prop_map(Value::from);
    let port = (1..4i64, prop::option::of(text()))
        .prop_map(|(port, name)| with(json!({"port": port}), "name", name));
    let container = (
        prop::sample::select(vec!["a", "b", "c", "d"]),
        prop::option::of(text()),
        prop::option::of(prop::collection::vec(text(), 0..3).prop_map(Value::from)),
        prop::option::of(prop::collection::vec(port, 0..4).prop_map(|ports| unique(ports, "port"))),
    );
    let container = container.prop_map(|(name, image, args, ports)| {
        let item = with(with(json!({"name": name}), "image", image), "args", args);
        with(item, "ports", ports)
    });
    let volume = (prop::sample::select(vec!["u", "v"]), prop::sample::select(vec!["image", "args"]), text());
    let volume = volume.prop_map(|(name, source, value)| json!({"name": name, source: {"is": value}}));
    let map = || {
        prop::collection::btree_map("[a-c]", text(), 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    };
    let strategy = (text(), prop::option::of(map()));
    let strategy = strategy.prop_map(|(kind, rolling)| with(json!({"type": kind}), "rolling", rolling));
    let fields = (
        prop::option::of(prop::collection::vec(container, 0..4).prop_map(|items| unique(items, "name"))),
        prop::option::of(prop::collection::vec(volume, 0..3).prop_map(|items| unique(items, "name"))),
        prop::option::of(
            prop::collection::btree_set("[a-d]", 0..4).prop_map(|set| set.into_iter().collect()),
        ),
        prop::option::of(map()),
        prop::option::of(map()),
        prop::option::of(strategy),
    );
    fields.prop_map(|(containers, volumes, finalizers, labels, selector, strategy)| {
        let object = with(with(json!({}), "containers", containers), "volumes", volumes);
        let object = with(with(object, "finalizers", finalizers), "labels", labels);
        with(with(object, "selector", selector), "strategy", strategy)
    })
}

fn with(mut object: Value, field: &str, value: Option<Value>) -> Value {
    if let Some(value) = value {
        object[field] = value;
    }
    object
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn kubectls_patch_gives_what_its_users_expect(last in object(), wanted in object(), stored in object()) {
        let schema = schema();
        let view = schema.view();
        let patch = three_way(&last, &wanted, &stored);
        let done = try_apply(&stored, &patch, view);
        prop_assert!(done.is_ok(), "{done:?} of {patch}");
        let done = done.unwrap_or_default();
        let wish = expected(&last, &wanted, &stored, Some(view));
        prop_assert_eq!(unordered(&done, Some(view)), unordered(&wish, Some(view)), "by {}", patch);
        // What is wanted is there in the order in which it is wanted.
        let names = |object: &Value| -> Vec<Value> {
            object["containers"].as_array().into_iter().flatten().map(|item| item["name"].clone()).collect()
        };
        let order: Vec<Value> = names(&done).into_iter().filter(|name| names(&wanted).contains(name)).collect();
        prop_assert_eq!(order, names(&wanted), "by {}", patch);
        // And a second apply finds nothing to do.
        let again = three_way(&wanted, &wanted, &done);
        prop_assert_eq!(try_apply(&done, &again, view), Ok(done), "by {}", again);
    }
}
