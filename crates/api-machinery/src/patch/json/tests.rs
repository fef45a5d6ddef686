//! Cases, limits and a model of JSON patch.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn run(value: &Value, patch: &Value) -> Result<Value, String> {
    let patch = Patch::parse(patch.to_string()).map_err(|error| error.message().to_owned())?;
    patch.try_apply(value).map_err(|error| error.to_string())
}

#[test]
fn operations() {
    let cases = [
        (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
        (json!({"a": 1}), json!([{"op": "add", "path": "/a", "value": 2}]), json!({"a": 2})),
        (json!([1, 3]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2, 3])),
        (json!([1]), json!([{"op": "add", "path": "/-", "value": 2}]), json!([1, 2])),
        (json!([1, 2]), json!([{"op": "add", "path": "/-1", "value": 3}]), json!([1, 2, 3])),
        (json!([1, 2]), json!([{"op": "remove", "path": "/-1"}]), json!([1])),
        (json!({"a": {"b": 1}}), json!([{"op": "remove", "path": "/a/b"}]), json!({"a": {}})),
        (json!({"a": 1}), json!([{"op": "replace", "path": "/a", "value": null}]), json!({"a": null})),
        (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": [1]}]), json!([1])),
        (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), json!({"b": 1})),
        (json!([1, 2, 3]), json!([{"op": "move", "from": "/0", "path": "/2"}]), json!([2, 3, 1])),
        (json!({"a": [1]}), json!([{"op": "copy", "from": "/a", "path": "/b"}]), json!({"a": [1], "b": [1]})),
        (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1.0}]), json!({"a": 1})),
        (json!({"a": 1}), json!([{"op": "test", "path": "/b", "value": null}]), json!({"a": 1})),
        (
            json!({"a/b": 1, "m~n": 2}),
            json!([{"op": "remove", "path": "/a~1b"}, {"op": "remove", "path": "/m~0n"}]),
            json!({}),
        ),
        (json!({"": 1}), json!([{"op": "remove", "path": "/"}]), json!({})),
    ];
    for (value, patch, expected) in cases {
        assert_eq!(run(&value, &patch), Ok(expected), "{value} with {patch}");
    }
}

#[test]
fn errors() {
    let value = json!({"a": 1, "l": [1]});
    let cases = [
        (
            json!([{"op": "add", "path": "/x/y", "value": 1}]),
            "add operation does not apply: doc is missing path: \"/x/y\": missing value",
        ),
        (
            json!([{"op": "remove", "path": "/x"}]),
            "remove operation does not apply: doc is missing path: \"/x\": missing value",
        ),
        (
            json!([{"op": "replace", "path": "/x", "value": 1}]),
            "replace operation does not apply: doc is missing key: \"/x\": missing value",
        ),
        (
            json!([{"op": "move", "from": "/x", "path": "/y"}]),
            "move operation does not apply: doc is missing from path: \"/x\": missing value",
        ),
        (json!([{"op": "test", "path": "/a", "value": 2}]), "testing value /a failed: test failed"),
        (
            json!([{"op": "remove", "path": "/l/1"}]),
            "Unable to access invalid index: 1: invalid index referenced",
        ),
        (
            json!([{"op": "add", "path": "/l/x", "value": 1}]),
            "Unable to access invalid index: x: invalid index referenced",
        ),
        (json!([{"op": "burn", "path": "/a"}]), "error decoding patch: Unexpected kind: burn"),
        (
            json!([{"op": "add", "path": "a", "value": 1}]),
            "error decoding patch: operation needs a JSON pointer as \"path\"",
        ),
        (json!([{"op": "add", "path": "/a"}]), "error decoding patch: operation \"add\" needs a value"),
        (json!({"op": "add"}), "error decoding patch: a JSON patch is a list of operations"),
        (json!([1]), "error decoding patch: an operation is an object"),
    ];
    for (patch, expected) in cases {
        assert_eq!(run(&value, &patch).expect_err("does not apply"), expected, "{patch}");
    }
    let failed =
        Patch::parse(json!([{"op": "test", "path": "/a", "value": 2}]).to_string()).expect("is a patch");
    let failed = failed.apply(&value).expect_err("does not apply");
    assert_eq!(
        (failed.code(), failed.message()),
        (422, "the server rejected our request due to an error in our request")
    );
}

#[test]
fn limits() {
    let operation = json!({"op": "test", "path": "", "value": {}});
    let many = |count: usize| Value::from(vec![operation.clone(); count]).to_string();
    assert!(Patch::parse(many(MAX_OPERATIONS)).is_ok());
    let refused = Patch::parse(many(MAX_OPERATIONS + 1)).expect_err("has too many operations");
    assert_eq!(
        (refused.code(), refused.message()),
        (413, "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001")
    );
    // Doubles with each operation.
    let value = json!({"a": "x".repeat(1000)});
    let double: Vec<Value> =
        (0..40).map(|number| json!({"op": "copy", "from": "", "path": format!("/b{number}")})).collect();
    let error = run(&value, &Value::from(double)).expect_err("grows without end");
    assert!(error.starts_with("Unable to copy, the accumulated size increase of copy is "), "{error}");
}

#[test]
fn nesting_is_bounded() {
    let copies: Vec<Value> = (0..20).map(|_| json!({"op": "copy", "from": "", "path": "/a"})).collect();
    assert_eq!(run(&json!({}), &Value::from(copies.clone())).map(|value| height(&value)), Ok(21));
    let copies = vec![copies[0].clone(); MAX_DEPTH + 10];
    assert_eq!(run(&json!({}), &Value::from(copies)), Err("exceeded max depth".to_owned()));
    let wrap = [
        json!({"op": "add", "path": "/b", "value": {}}),
        json!({"op": "move", "from": "/a", "path": "/b/c"}),
        json!({"op": "move", "from": "/b", "path": "/a"}),
    ];
    let moves = std::iter::repeat_n(wrap, 1000).flatten().collect::<Vec<_>>();
    assert_eq!(run(&json!({"a": 1}), &Value::from(moves)), Err("exceeded max depth".to_owned()));
    let inside = json!([{"op": "move", "from": "/a", "path": "/a/b"}]);
    assert!(run(&json!({"a": {}}), &inside).is_err());
}

fn operation() -> impl Strategy<Value = Value> {
    let path = "(/[a-b0-1-]){0,3}";
    let value = prop_oneof![Just(json!(1)), Just(json!({"a": 1})), Just(json!([1, 2]))];
    (0..6usize, path, path, value).prop_map(|(kind, path, from, value)| match kind {
        0 => json!({"op": "add", "path": path, "value": value}),
        1 => json!({"op": "remove", "path": path}),
        2 => json!({"op": "replace", "path": path, "value": value}),
        3 => json!({"op": "move", "path": path, "from": from}),
        4 => json!({"op": "copy", "path": path, "from": from}),
        _ => json!({"op": "test", "path": path, "value": value}),
    })
}

/// What single operations are made of, said in the words of the RFC.
fn rewritten(operation: &Value, value: &Value) -> Option<Value> {
    let (path, from) = (operation["path"].as_str()?, operation["from"].as_str());
    let found = || value.pointer(from?).cloned();
    let negative = path.contains("-1") || from.is_some_and(|from| from.contains("-1"));
    if negative {
        return None;
    }
    Some(match operation["op"].as_str()? {
        "move" if from == Some(path) => {
            json!([{"op": "copy", "from": path, "path": path}, {"op": "remove", "path": path}, {"op": "add", "path": path, "value": found()?}])
        }
        "move" => json!([{"op": "remove", "path": from?}, {"op": "add", "path": path, "value": found()?}]),
        "copy" => json!([{"op": "add", "path": path, "value": found()?}]),
        "replace" if path.is_empty() => json!([{"op": "add", "path": path, "value": operation["value"]}]),
        "replace" => {
            json!([{"op": "remove", "path": path}, {"op": "add", "path": path, "value": operation["value"]}])
        }
        _ => return None,
    })
}

proptest! {
    #[test]
    fn derived_operations_are_what_they_derive_from(
        value in Just(json!({"a": {"a": [1, {"b": 2}], "b": 0}, "b": [[0], {"a": 1}]})),
        operations in prop::collection::vec(operation(), 1..6),
    ) {
        let mut value = value;
        for operation in operations {
            let whole = run(&value, &json!([operation]));
            let inside = operation["op"] == "move"
                && operation["path"].as_str().zip(operation["from"].as_str()).is_some_and(|(path, from)| path.starts_with(from));
            if let Some(steps) = rewritten(&operation, &value).filter(|_| !inside) {
                prop_assert_eq!(whole.clone().ok(), run(&value, &steps).ok(), "{}", operation);
            }
            value = whole.unwrap_or(value);
        }
    }

    #[test]
    fn a_failed_patch_changes_nothing_and_nothing_panics(
        operations in prop::collection::vec(operation(), 0..12), bytes in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let value = json!({"a": {"a": [1, {"b": 2}], "b": 0}, "b": [[0], {"a": 1}]});
        let before = value.clone();
        prop_assert!(run(&value, &Value::from(operations)).is_ok_and(|patched| height(&patched) <= MAX_DEPTH) || value == before);
        prop_assert!(Patch::parse(&bytes).is_ok_and(|patch| patch.len() < 40) || !bytes.starts_with(b"[]"));
    }
}
