//! JSON merge patch (RFC 7386): objects are merged, `null` removes, everything else replaces.

use serde_json::{Map, Value};

/// The value after the patch. Never nested deeper than the deeper of the two.
#[must_use]
pub fn apply(value: &Value, patch: &Value) -> Value {
    let mut result = value.clone();
    merge(&mut result, patch);
    result
}

fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(fields) = value else { return };
    for (key, change) in changes {
        if change.is_null() {
            fields.remove(key);
        } else {
            merge(fields.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn cases_of_the_rfc() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
            (json!({"a": "b"}), json!({"a": null}), json!({})),
            (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a": "b"}), json!(["c"]), json!(["c"])),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
            (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
            (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        ];
        for (value, patch, expected) in cases {
            assert_eq!(apply(&value, &patch), expected, "{value} with {patch}");
        }
    }

    /// The patch that leads from one value to another, as RFC 7386 describes it.
    fn difference(from: &Value, to: &Value) -> Value {
        let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
        let removed = from.keys().filter(|key| !to.contains_key(*key)).map(|key| (key.clone(), Value::Null));
        let changed = to.iter().filter(|(key, value)| from.get(*key) != Some(value)).map(|(key, value)| {
            (key.clone(), from.get(key).map_or_else(|| value.clone(), |old| difference(old, value)))
        });
        removed.chain(changed).collect()
    }

    pub(crate) fn value_without_null() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            (0..3).prop_map(Value::from),
            "[a-c]".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-d]", inner, 0..4)
                    .prop_map(|fields| fields.into_iter().collect::<Value>()),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_difference_leads_there(from in value_without_null(), to in value_without_null()) {
            prop_assert_eq!(apply(&from, &difference(&from, &to)), to);
        }

        #[test]
        fn twice_is_once(value in value_without_null(), patch in value_without_null()) {
            let once = apply(&value, &patch);
            prop_assert_eq!(apply(&once, &patch), once);
        }
    }
}
