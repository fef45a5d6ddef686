//! What an informer holds: objects by key, and indices over them that change in the same moment, so that whoever finds a
//! revision seen finds it in every index as well.
//!
//! Deliberately absent: locks and delivery, which are the informer's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ObjectKey;

type Values<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

/// Objects by what they say of themselves.
struct Entries<K> {
    values: Values<K>,
    objects: BTreeMap<String, BTreeMap<ObjectKey, Arc<K>>>,
}

impl<K> Entries<K> {
    fn add(&mut self, key: &ObjectKey, object: &Arc<K>) {
        for value in (self.values)(object) {
            self.objects.entry(value).or_default().insert(key.clone(), object.clone());
        }
    }

    fn remove(&mut self, key: &ObjectKey, object: &K) {
        for value in (self.values)(object) {
            let Some(objects) = self.objects.get_mut(&value) else { continue };
            objects.remove(key);
            if objects.is_empty() {
                self.objects.remove(&value);
            }
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
            if let Some(old) = old {
                index.remove(&key, old);
            }
            if let Some(new) = &new {
                index.add(&key, new);
            }
        }
        match new {
            Some(object) => self.objects.insert(key, object),
            None => self.objects.remove(&key),
        }
    }

    /// Keeps one more index from now on; returns its number.
    pub(crate) fn index(&mut self, values: Values<K>) -> usize {
        let mut entries = Entries { values, objects: BTreeMap::new() };
        for (key, object) in &self.objects {
            entries.add(key, object);
        }
        self.indices.push(entries);
        self.indices.len() - 1
    }

    /// The objects that an index has under a value, in the order of their keys.
    pub(crate) fn indexed(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        let objects = self.indices[index].objects.get(value);
        objects.into_iter().flat_map(BTreeMap::values).cloned().collect()
    }

    /// How many objects an index has under a value.
    pub(crate) fn count(&self, index: usize, value: &str) -> usize {
        self.indices[index].objects.get(value).map_or(0, BTreeMap::len)
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
        assert!(cache.indices[index].objects.is_empty(), "nothing is left behind");
    }
}
