//! What an informer holds: objects by key, and indices over them that change in the same moment, so that whoever finds a
//! revision seen finds it in every index as well.
//!
//! Deliberately absent: locks and delivery, which are the informer's.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::ObjectKey;

type Values<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

/// The keys of objects by what they say of themselves.
struct Entries<K> {
    values: Values<K>,
    keys: BTreeMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Entries<K> {
    fn add(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            let Some(keys) = self.keys.get_mut(&value) else { continue };
            keys.remove(key);
            if keys.is_empty() {
                self.keys.remove(&value);
            }
        }
    }

    /// As `remove` and `add`, for the many changes that leave an object where it is.
    fn change(&mut self, key: &ObjectKey, old: &K, new: &K) {
        if (self.values)(old) != (self.values)(new) {
            self.remove(key, old);
            self.add(key, new);
        }
    }
}

pub(crate) struct Cache<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indices: Vec<Entries<K>>,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), indices: Vec::new() }
    }
}

impl<K> Cache<K> {
    pub(crate) fn objects(&self) -> &BTreeMap<ObjectKey, Arc<K>> {
        &self.objects
    }

    /// Puts an object in or takes it out; returns what was there.
    pub(crate) fn store(&mut self, key: ObjectKey, new: Option<Arc<K>>) -> Option<Arc<K>> {
        let old = self.objects.get(&key);
        for index in &mut self.indices {
            match (old, &new) {
                (Some(old), Some(new)) => index.change(&key, old, new),
                (Some(old), None) => index.remove(&key, old),
                (None, Some(new)) => index.add(&key, new),
                (None, None) => {}
            }
        }
        match new {
            Some(object) => self.objects.insert(key, object),
            None => self.objects.remove(&key),
        }
    }

    /// Keeps one more index from now on; returns its number.
    pub(crate) fn index(&mut self, values: Values<K>) -> usize {
        let mut entries = Entries { values, keys: BTreeMap::new() };
        for (key, object) in &self.objects {
            entries.add(key, object);
        }
        self.indices.push(entries);
        self.indices.len() - 1
    }

    /// The objects that an index has under a value, in the order of their keys.
    pub(crate) fn indexed(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        let keys = self.indices[index].keys.get(value).into_iter().flatten();
        keys.filter_map(|key| self.objects.get(key)).cloned().collect()
    }

    /// How many objects an index has under a value.
    pub(crate) fn count(&self, index: usize, value: &str) -> usize {
        self.indices[index].keys.get(value).map_or(0, BTreeSet::len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(cache: &Cache<Vec<&'static str>>, index: usize, value: &str) -> Vec<Vec<&'static str>> {
        cache.indexed(index, value).iter().map(|object| (**object).clone()).collect()
    }

    #[test]
    fn an_index_follows_what_comes_changes_and_goes() {
        let mut cache: Cache<Vec<&'static str>> = Cache::default();
        let (a, b) = (ObjectKey::new("x", "a"), ObjectKey::new("x", "b"));
        cache.store(b.clone(), Some(Arc::new(vec!["n1"])));
        let index = cache.index(Box::new(|words| words.iter().map(|word| (*word).to_owned()).collect()));
        assert_eq!(found(&cache, index, "n1"), [["n1"]], "what was there before the index");
        cache.store(a.clone(), Some(Arc::new(vec!["n1", "n2"])));
        assert_eq!(found(&cache, index, "n1"), [vec!["n1", "n2"], vec!["n1"]], "in the order of keys");
        cache.store(a.clone(), Some(Arc::new(vec!["n2"])));
        assert_eq!((cache.count(index, "n1"), found(&cache, index, "n2")), (1, vec![vec!["n2"]]));
        cache.store(a, None);
        cache.store(b, None);
        assert!(cache.indices[index].keys.is_empty(), "nothing is left behind");
    }
}
