//! Cases and laws of strategic merge patch.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::schema::{Arena, Field, Kind, Node, NodeId, PatchStrategy, SchemaRef};

/// `containers` merge by name, `finalizers` as a set, `args` atomic, `ports` of a container by `port`; `strategy` is a
/// object whose keys are retained, as those of `volumes` are; `selector` a map that is replaced, `labels` one that is not,
/// `raw` anything.
pub(super) fn schema() -> SchemaRef {
    let mut arena = Arena::new();
    let field = |name: &str, node: NodeId| Field { name: name.to_owned(), node, required: false };
    let list = |arena: &mut Arena, item: NodeId, key: &str| {
        let mut node = Node::of(Kind::Array(item));
        node.extra_mut().patch =
            Some(PatchStrategy { merge: true, retain_keys: false, merge_key: key.to_owned() });
        arena.add(node)
    };
    let string = arena.add(Node::of(Kind::String));
    let integer = arena.add(Node::of(Kind::Integer));
    let any = arena.add(Node::of(Kind::Any));
    let port = arena.add(Node::of(Kind::Object(vec![field("port", integer), field("name", string)])));
    let ports = list(&mut arena, port, "port");
    let args = arena.add(Node::of(Kind::Array(string)));
    let container = arena.add(Node::of(Kind::Object(vec![
        field("name", string),
        field("image", string),
        field("args", args),
        field("ports", ports),
    ])));
    let containers = list(&mut arena, container, "name");
    let finalizers = list(&mut arena, string, "");
    let keyless = list(&mut arena, container, "");
    let labels = arena.add(Node::of(Kind::Map(string)));
    let mut strategy = Node::of(Kind::Object(vec![field("type", string), field("rolling", any)]));
    let retaining = |merge_key: &str| PatchStrategy {
        merge: !merge_key.is_empty(),
        retain_keys: true,
        merge_key: merge_key.to_owned(),
    };
    strategy.extra_mut().patch = Some(retaining(""));
    let strategy = arena.add(strategy);
    let mut volumes = Node::of(Kind::Array(container));
    volumes.extra_mut().patch = Some(retaining("name"));
    let volumes = arena.add(volumes);
    let mut selector = Node::of(Kind::Map(string));
    selector.extra_mut().patch = Some(PatchStrategy::default());
    let selector = arena.add(selector);
    let root = arena.add(Node::of(Kind::Object(vec![
        field("containers", containers),
        field("finalizers", finalizers),
        field("keyless", keyless),
        field("labels", labels),
        field("volumes", volumes),
        field("selector", selector),
        field("strategy", strategy),
        field("raw", any),
    ])));
    SchemaRef { arena: arena.into(), root }
}

fn run(value: &Value, patch: &Value) -> Result<Value, String> {
    try_apply(value, patch, schema().view()).map_err(|error| error.to_string())
}

fn check(cases: &[(Value, Value, Value)]) {
    for (value, patch, expected) in cases {
        assert_eq!(run(value, patch).as_ref(), Ok(expected), "{value} with {patch}");
    }
}

#[test]
fn objects_and_scalars() {
    check(&[
        (
            json!({"labels": {"a": "1", "b": "2"}}),
            json!({"labels": {"b": null, "c": "3"}}),
            json!({"labels": {"a": "1", "c": "3"}}),
        ),
        (json!({"labels": {"a": "1"}}), json!({"labels": null}), json!({})),
        (
            json!({}),
            json!({"labels": null, "strategy": {"type": "a", "rolling": null}}),
            json!({"strategy": {"type": "a"}}),
        ),
        (
            json!({"labels": {"a": "1"}}),
            json!({"labels": {"$patch": "replace", "b": "2"}}),
            json!({"labels": {"b": "2"}}),
        ),
        (json!({"labels": {"a": "1"}}), json!({"labels": {"$patch": "delete"}}), json!({"labels": {}})),
        (json!({"strategy": {"type": "a"}}), json!({"strategy": "x"}), json!({"strategy": "x"})),
        (
            json!({"selector": {"a": "1"}}),
            json!({"selector": {"b": "2", "c": null}}),
            json!({"selector": {"b": "2"}}),
        ),
        (json!({"raw": {"a": [1], "b": 1}}), json!({"raw": {"a": [2]}}), json!({"raw": {"a": [2], "b": 1}})),
    ]);
}

#[test]
fn lists_of_objects() {
    let two =
        json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]});
    check(&[
        (
            two.clone(),
            json!({"containers": [{"name": "b", "image": "2"}]}),
            json!({"containers": [{"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "2"}]}),
        ),
        (
            two.clone(),
            json!({"containers": [{"name": "a", "args": ["y"]}]}),
            json!({"containers": [{"name": "a", "image": "1", "args": ["y"]}, {"name": "b", "image": "1"}]}),
        ),
        // What is new comes first, as upstream has it.
        (
            two.clone(),
            json!({"containers": [{"name": "c", "ports": null}]}),
            json!({"containers": [{"name": "c"}, {"name": "a", "image": "1", "args": ["x"]}, {"name": "b", "image": "1"}]}),
        ),
        (
            two.clone(),
            json!({"containers": [{"name": "a", "$patch": "delete"}]}),
            json!({"containers": [{"name": "b", "image": "1"}]}),
        ),
        (
            two.clone(),
            json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
            json!({"containers": [{"name": "c"}]}),
        ),
        (
            json!({}),
            json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b", "$retainKeys": ["name"]}]}),
            json!({"containers": [{"name": "b"}]}),
        ),
        (
            json!({"containers": [{"name": "a", "ports": [{"port": 1}, {"port": 2}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"port": 1, "$patch": "delete"}, {"port": 2, "name": "x"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"port": 2, "name": "x"}]}]}),
        ),
    ]);
}

#[test]
fn lists_of_scalars() {
    check(&[
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"finalizers": ["b", "c"]}),
            json!({"finalizers": ["a", "b", "c"]}),
        ),
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"]}),
            json!({"finalizers": ["b"]}),
        ),
        (json!({}), json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!({})),
        (
            json!({"finalizers": ["a", "b"]}),
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]}),
            json!({"finalizers": ["c", "b"]}),
        ),
    ]);
}

#[test]
fn order() {
    let three = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "server"}]});
    check(&[
        (
            three.clone(),
            json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
            json!({"containers": [{"name": "b"}, {"name": "a"}, {"name": "server"}]}),
        ),
        (
            three.clone(),
            json!({
                "$setElementOrder/containers": [{"name": "a"}, {"name": "new"}, {"name": "b"}],
                "containers": [{"name": "new", "image": "1"}],
            }),
            json!({"containers": [{"name": "a"}, {"name": "new", "image": "1"}, {"name": "b"}, {"name": "server"}]}),
        ),
        (
            three.clone(),
            json!({
                "$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "a", "$patch": "delete"}],
            }),
            json!({"containers": [{"name": "b"}, {"name": "server"}]}),
        ),
        (json!({}), json!({"$setElementOrder/containers": [{"name": "b"}]}), json!({})),
    ]);
    let mismatch = json!({
        "$setElementOrder/containers": [{"name": "a"}, {"name": "b"}],
        "containers": [{"name": "b"}, {"name": "a"}],
    });
    assert!(run(&three, &mismatch).expect_err("is out of order").starts_with("The order in patch list:"));
}

#[test]
fn retained_keys() {
    let old = json!({"strategy": {"type": "Rolling", "rolling": {"max": 1}}});
    check(&[(
        old.clone(),
        json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}),
        json!({"strategy": {"type": "Recreate"}}),
    )]);
    let stray = json!({"strategy": {"$retainKeys": ["type"], "rolling": {}}});
    assert_eq!(run(&old, &stray), Err("invalid patch format of retainKeys".to_owned()));
}

#[test]
fn errors() {
    let value = json!({"containers": [{"name": "a"}], "keyless": [{"name": "a"}], "finalizers": ["a"]});
    let cases = [
        (json!([]), "invalid JSON document"),
        (json!({"$patch": "burn"}), "unknown patch type \"burn\" in map"),
        (
            json!({"containers": [{"image": "1"}]}),
            "map: {\"image\":\"1\"} does not contain declared merge key: name",
        ),
        (
            json!({"containers": [{"$patch": "delete"}]}),
            "map: {\"$patch\":\"delete\"} does not contain declared merge key: name",
        ),
        (json!({"containers": ["x"]}), "list element types are not identical"),
        (json!({"keyless": [{"name": "b"}]}), "cannot merge lists without merge key for keyless"),
        (json!({"$setElementOrder/containers": 1}), "invalid patch format of setElementOrder list"),
        (json!({"$deleteFromPrimitiveList/finalizers": 1}), "invalid patch format of primitive list"),
        (json!({"strategy": {"$retainKeys": 1}, "finalizers": []}), ""),
    ];
    for (patch, expected) in cases {
        let got = run(&value, &patch).err().unwrap_or_default();
        assert_eq!(got, expected, "{patch}");
    }
    assert_eq!(apply(&value, &json!([]), schema().view()).expect_err("is no patch").code(), 400);
}

fn container() -> impl Strategy<Value = Value> {
    ("[a-d]", prop::option::of("[1-3]"), prop::option::of(prop::collection::vec("[xy]", 0..3))).prop_map(
        |(name, image, args)| {
            let mut fields = json!({"name": name});
            if let Some(image) = image {
                fields["image"] = image.into();
            }
            if let Some(args) = args {
                fields["args"] = args.into();
            }
            fields
        },
    )
}

fn object() -> impl Strategy<Value = Value> {
    let containers = prop::collection::vec(container(), 0..5).prop_map(|list| {
        let mut seen = BTreeSet::new();
        list.into_iter().filter(|item| seen.insert(item["name"].to_string())).collect::<Vec<_>>()
    });
    let finalizers = prop::collection::btree_set("[a-d]", 0..4);
    (containers, finalizers, prop::collection::btree_map("[a-c]", "[1-3]", 0..3)).prop_map(
        |(containers, finalizers, labels)| {
            json!({"containers": containers, "finalizers": finalizers, "labels": labels})
        },
    )
}

fn names(value: &Value) -> BTreeSet<String> {
    value["containers"].as_array().into_iter().flatten().map(|item| item["name"].to_string()).collect()
}

proptest! {
    #[test]
    fn twice_is_once(value in object(), patch in object()) {
        let once = run(&value, &patch).expect("is well formed");
        prop_assert_eq!(run(&once, &patch).map(|twice| names(&twice)), Ok(names(&once)));
        let union: BTreeSet<String> = names(&value).union(&names(&patch)).cloned().collect();
        prop_assert_eq!(names(&once), union);
    }

    #[test]
    fn nothing_changes_nothing_and_itself_is_kept(value in object()) {
        prop_assert_eq!(run(&value, &json!({})), Ok(value.clone()));
        prop_assert_eq!(run(&value, &value), Ok(value.clone()));
    }

    #[test]
    fn an_order_is_obeyed(value in object(), seed in any::<u64>()) {
        let mut wanted: Vec<Value> = value["containers"].as_array().cloned().unwrap_or_default();
        let entropy = crate::entropy::Entropy::seeded(seed);
        wanted.sort_by_cached_key(|_| entropy.u64());
        let order: Vec<Value> = wanted.iter().map(|item| json!({"name": item["name"]})).collect();
        let got = run(&value, &json!({"$setElementOrder/containers": order})).expect("is well formed");
        prop_assert_eq!(&got["containers"], &Value::from(wanted));
    }
}
