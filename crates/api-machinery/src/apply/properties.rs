//! What must hold for any objects and any managers.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::fields_v1;
use super::set::FieldSet;
use super::tests::{SCHEMA, put, put_applied, thing_of, write};
use super::*;

/// Specs that fit the schema of the tests, each field perhaps.
fn spec() -> impl Strategy<Value = Value> {
    let text = || prop::sample::select(vec!["a", "b", "c"]).prop_map(Value::from);
    let port =
        (1..3i64, prop::option::of(prop::sample::select(vec!["TCP", "UDP"]))).prop_map(|(port, protocol)| {
            let mut item = json!({"port": port});
            if let Some(protocol) = protocol {
                item["protocol"] = protocol.into();
            }
            item
        });
    let item = (
        text(),
        prop::option::of(text()),
        prop::option::of(prop::collection::vec(port, 0..3)),
        prop::option::of(prop::collection::vec(text(), 0..3)),
    );
    let item = item.prop_map(|(name, image, ports, args)| {
        let mut item = Map::from_iter([("name".to_owned(), name)]);
        let mut set =
            |key: &str, value: Option<Value>| item.extend(value.map(|value| (key.to_owned(), value)));
        set("image", image);
        set(
            "ports",
            ports.map(|ports| {
                unique(ports, |port| {
                    format!("{}{}", port["port"], port["protocol"].as_str().unwrap_or("TCP"))
                })
            }),
        );
        set("args", args.map(Value::from));
        Value::Object(item)
    });
    let map = || {
        prop::collection::btree_map("[a-c]", text(), 0..3)
            .prop_map(|map| Value::Object(map.into_iter().collect()))
    };
    let fields = (
        prop::option::of((0..3i64).prop_map(Value::from)),
        prop::option::of(
            prop::collection::vec(item, 0..4)
                .prop_map(|items| unique(items, |item| item["name"].to_string())),
        ),
        prop::option::of(map()),
        prop::option::of(prop::collection::vec(text(), 0..3).prop_map(Value::from)),
        prop::option::of((0..3i64).prop_map(|surge| json!({"surge": surge}))),
    );
    fields.prop_map(|(replicas, items, selector, words, strategy)| {
        let all = [
            ("replicas", replicas),
            ("items", items),
            ("selector", selector),
            ("words", words),
            ("strategy", strategy),
        ];
        all.into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value?)))
            .collect::<Map<_, _>>()
            .into()
    })
}

fn unique(items: Vec<Value>, key: impl Fn(&Value) -> String) -> Value {
    let mut seen = std::collections::BTreeSet::new();
    items.into_iter().filter(|item| seen.insert(key(item))).collect()
}

/// Anything that JSON can say, with keys that mean something to the schema now and then.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e20..1e20f64).prop_map(Value::from),
        "[a-c\"\\\\é.:]{0,3}".prop_map(Value::from),
    ];
    let key = prop_oneof![
        prop::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "items",
            "name",
            "ports",
            "port",
            "labels",
            "managedFields",
            "finalizers",
            "operation",
            "apiVersion",
            "fieldsType",
            "fieldsV1",
            "f:spec",
            "k:{\"name\":\"a\"}",
            "v:1",
            "i:0",
            ".",
        ])
        .prop_map(str::to_owned),
        "[a-c:.]{0,4}",
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(key.clone(), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    crate::meta::metadata_mut(&mut object).remove("managedFields");
    object
}

fn owned_by<'a>(object: &'a Value, manager: &str) -> FieldSet<'a> {
    let managed = Managed::decode(list_of(Some(object))).expect("what was written reads");
    managed.0.into_iter().find(|entry| entry.manager == manager).map(|entry| entry.fields).unwrap_or_default()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn apply_is_idempotent(live in spec(), applied in spec()) {
        let live = put(None, thing_of(live), &write("maker", 1));
        let applied = thing_of(applied);
        let once = put_applied(Some(&live), &applied, &write("me", 2), true).expect("forced");
        let twice = put_applied(Some(&once), &applied, &write("me", 3), false).expect("mine already");
        prop_assert_eq!(once, twice);
    }

    #[test]
    fn disjoint_appliers_commute(one in spec(), two in spec()) {
        // Each field is one's or the other's; the order of a list is whose was last.
        let mut two = two;
        for key in one.as_object().expect("an object").keys() {
            two.as_object_mut().expect("an object").remove(key);
        }
        let (one, two) = (thing_of(one), thing_of(two));
        let a = put_applied(None, &one, &write("one", 1), false).expect("free");
        let a = put_applied(Some(&a), &two, &write("two", 1), false).expect("disjoint");
        let b = put_applied(None, &two, &write("two", 1), false).expect("free");
        let b = put_applied(Some(&b), &one, &write("one", 1), false).expect("disjoint");
        prop_assert_eq!(a, b);
    }

    #[test]
    fn what_is_applied_is_there_and_owned(live in spec(), applied in spec()) {
        let live = put(None, thing_of(live), &write("maker", 1));
        let applied = thing_of(applied);
        let done = put_applied(Some(&live), &applied, &write("me", 2), true).expect("forced");
        let mut stated = typed::stated(&applied, Some(SCHEMA.view()));
        strip(&mut stated, Part::ButStatus);
        prop_assert_eq!(&owned_by(&done, "me"), &stated);
        // Applying again what is there changes nothing: the object holds all of it.
        let bare_live = bare(&done);
        prop_assert_eq!(merge::merge(&bare_live, &applied, Some(SCHEMA.view())), bare_live);
    }

    #[test]
    fn leaving_all_out_brings_back_what_was(live in spec(), applied in spec()) {
        // What others own stays, values included, if nothing of theirs was overruled.
        let live = put_applied(None, &thing_of(live), &write("other", 1), false).expect("free");
        if let Ok(both) = put_applied(Some(&live), &thing_of(applied), &write("me", 2), false) {
            let before = owned_by(&both, "other");
            let mut nothing = thing_of(json!({}));
            nothing.as_object_mut().expect("an object").remove("spec");
            let less = put_applied(Some(&both), &nothing, &write("me", 3), false).expect("mine");
            prop_assert_eq!(owned_by(&less, "me").is_empty(), true);
            prop_assert_eq!(&owned_by(&less, "other"), &before, "a co-owned field was lost");
            let found = difference(Some(&live), Some(&less), SCHEMA.view());
            let mut lost = found.removed;
            lost.add(found.modified);
            prop_assert_eq!(lost.intersection(&before).paths(), Vec::<String>::new());
        }
    }

    #[test]
    fn an_update_owns_exactly_its_difference(before in spec(), after in spec()) {
        let live = put_applied(None, &thing_of(before), &write("one", 1), false).expect("free");
        let mut new = thing_of(after);
        new["metadata"]["managedFields"] = live["metadata"].get("managedFields").cloned().unwrap_or_default();
        let done = put(Some(&live), new, &write("two", 2));
        if list_of(Some(&live)).is_empty() {
            return Ok(());
        }
        let (one, two) = (owned_by(&done, "one"), owned_by(&done, "two"));
        prop_assert!(one.intersection(&two).is_empty());
        let found = difference(Some(&live), Some(&done), SCHEMA.view());
        prop_assert!(one.intersection(&found.removed).is_empty());
    }

    #[test]
    fn sets_survive_being_written(value in spec()) {
        let object = thing_of(value);
        let set = typed::stated(&object, Some(SCHEMA.view()));
        let mut text = String::new();
        fields_v1::encode(&set, &mut text);
        let read: Value = serde_json::from_str(&text).expect("JSON");
        prop_assert_eq!(fields_v1::decode(&read), Ok(set));
    }

    #[test]
    fn nothing_panics(live in anything(), new in anything(), applied in anything(), set in anything()) {
        let tracked = track(Some(&live), &new, &write("a", 1));
        prop_assert!(tracked.json.is_empty() || serde_json::from_str::<Value>(&tracked.json).is_ok());
        track(None, &new, &write("a", 1));
        for force in [true, false] {
            if let Ok(done) = apply(Some(&live), &applied, &write("kubectl", 1), force) {
                prop_assert!(done.tracked.json.is_empty() || serde_json::from_str::<Value>(&done.tracked.json).is_ok());
            }
        }
        if let Ok(set) = fields_v1::decode(&set) {
            let mut text = String::new();
            fields_v1::encode(&set, &mut text);
            let read: Value = serde_json::from_str(&text).expect("JSON");
            let again = fields_v1::decode(&read).expect("what was written reads");
            prop_assert_eq!(again.inner, set.inner);
        }
    }
}
