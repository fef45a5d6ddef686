//! Items of a list and what they were before: only lists whose items are known by keys tell.

use std::collections::BTreeMap;

use serde_json::Value;

/// The most comparisons that are made without an index.
const FEW: usize = 256;

/// The items that a list held before.
pub struct Earlier<'a> {
    keys: Vec<&'a str>,
    items: &'a [Value],
    index: Option<BTreeMap<String, &'a Value>>,
}

impl<'a> Earlier<'a> {
    /// Those of `old`, about which `times` questions will be asked. Without keys nothing can be told.
    pub fn new<K: AsRef<str>>(keys: &'a [K], old: Option<&'a Value>, times: usize) -> Earlier<'a> {
        let items = old.and_then(Value::as_array).filter(|_| !keys.is_empty()).map_or(&[][..], Vec::as_slice);
        let mut earlier = Earlier { keys: keys.iter().map(AsRef::as_ref).collect(), items, index: None };
        if items.len().saturating_mul(times) > FEW {
            // Of items with the same keys the first is meant, as without an index.
            let named = items.iter().rev().map(|item| (earlier.name(item), item));
            earlier.index = Some(named.collect());
        }
        earlier
    }

    fn name(&self, item: &Value) -> String {
        let values = self.keys.iter().map(|key| item.get(key).map(Value::to_string).unwrap_or_default());
        values.collect::<Vec<String>>().join("\n")
    }

    /// What this item was.
    pub fn of(&self, item: &Value) -> Option<&'a Value> {
        if self.items.is_empty() {
            return None;
        }
        match &self.index {
            Some(index) => index.get(&self.name(item)).copied(),
            None => {
                let same = |before: &&Value| self.keys.iter().all(|key| before.get(key) == item.get(key));
                self.items.iter().find(same)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn with_and_without_an_index() {
        let keys = ["a".to_owned(), "b".to_owned()];
        let old = json!([{"a": 1, "v": 1}, {"a": 1, "b": "x", "v": 2}, {"a": 1, "b": "x", "v": 3}, null]);
        for times in [1, 1000] {
            let earlier = Earlier::new(&keys, Some(&old), times);
            let found = |item: Value| earlier.of(&item).map(|old| old["v"].clone());
            assert_eq!(found(json!({"a": 1, "b": "x"})), Some(json!(2)), "{times}");
            assert_eq!(found(json!({"a": 1, "c": 1})), Some(json!(1)), "{times}");
            assert_eq!(found(json!({"a": "1"})), None, "{times}");
        }
        assert_eq!(Earlier::new::<&str>(&[], Some(&old), 1).of(&json!({"a": 1})), None);
        assert_eq!(Earlier::new(&keys, None, 1).of(&json!({"a": 1})), None);
    }
}
