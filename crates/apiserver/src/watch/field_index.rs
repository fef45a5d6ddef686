//! Objects by the values of their selectable fields, so that a selector that names one value, such as the pods of a node,
//! costs what it finds and not what there is.
//!
//! An index is made when a selector first asks for its field and kept true from then on, until more has changed than making
//! it anew would cost without anybody asking. Labels have none: a selector of labels looks at every object of its namespace.

#![expect(clippy::mutable_key_type, reason = "entries are ordered by their keys, which never change")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_machinery::resource::Resource;

use super::object::{Cached, Entry};

/// Changes that an index outlives unasked, however few objects there are.
const LEAST_PATIENCE: usize = 1024;

/// The indices of one resource, by the place of their field.
#[derive(Debug, Default)]
pub(super) struct FieldIndices(BTreeMap<usize, FieldIndex>);

#[derive(Debug, Default)]
struct FieldIndex {
    by_value: BTreeMap<Box<str>, BTreeSet<Entry>>,
    /// Changes since somebody asked.
    unasked: usize,
}

impl FieldIndices {
    /// The objects whose field at place `at` has this value. `all` is what there is.
    pub(super) fn find(
        &mut self,
        resource: &Resource,
        all: &BTreeSet<Entry>,
        at: usize,
        value: &str,
    ) -> Option<&BTreeSet<Entry>> {
        let index = self.0.entry(at).or_insert_with(|| {
            let mut index = FieldIndex::default();
            for entry in all {
                index.insert(resource, at, &entry.0);
            }
            index
        });
        index.unasked = 0;
        index.by_value.get(value)
    }

    /// One object was `before` and is `now`. `total` is how many there are.
    pub(super) fn change(
        &mut self,
        resource: &Resource,
        total: usize,
        before: Option<&Arc<Cached>>,
        now: Option<&Arc<Cached>>,
    ) {
        let patience = LEAST_PATIENCE.max(2 * total);
        self.0.retain(|at, index| {
            index.unasked += 1;
            if index.unasked > patience {
                return false;
            }
            if let Some(before) = before {
                index.remove(resource, *at, before);
            }
            if let Some(now) = now {
                index.insert(resource, *at, now);
            }
            true
        });
    }

    /// Everything may be different.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl FieldIndex {
    fn insert(&mut self, resource: &Resource, at: usize, object: &Arc<Cached>) {
        let Some(value) = object.selected(resource).fields.get(at) else { return };
        let entry = Entry(object.clone());
        match self.by_value.get_mut(value) {
            Some(entries) => drop(entries.insert(entry)),
            None => drop(self.by_value.insert(value.clone(), BTreeSet::from([entry]))),
        }
    }

    fn remove(&mut self, resource: &Resource, at: usize, object: &Cached) {
        let Some(value) = object.selected(resource).fields.get(at) else { return };
        let Some(entries) = self.by_value.get_mut(value) else { return };
        entries.remove(&*object.key);
        if entries.is_empty() {
            self.by_value.remove(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_goes_that_nobody_asks_for() {
        let resource = crate::catalog::Catalog::built_in().find("", "v1", "pods").expect("pods").clone();
        let pod = |node: &str, revision| {
            let text =
                format!(r#"{{"metadata":{{"name":"p","namespace":"n"}},"spec":{{"nodeName":"{node}"}}}}"#);
            Arc::new(Cached::new("n/p", text.into(), revision))
        };
        let at =
            resource.selectable.iter().position(|field| field.field == "spec.nodeName").expect("a field");
        let mut indices = FieldIndices::default();
        let first = pod("a", 1);
        let all = BTreeSet::from([Entry(first.clone())]);
        let found = |indices: &mut FieldIndices, node: &str| {
            indices.find(&resource, &all, at, node).map_or(0, BTreeSet::len)
        };
        assert_eq!((found(&mut indices, "a"), found(&mut indices, "b")), (1, 0));
        let second = pod("b", 2);
        indices.change(&resource, 1, Some(&first), Some(&second));
        assert_eq!((found(&mut indices, "a"), found(&mut indices, "b")), (0, 1));
        for _ in 0..LEAST_PATIENCE {
            indices.change(&resource, 1, Some(&second), Some(&second));
        }
        assert_eq!(indices.0.len(), 1);
        indices.change(&resource, 1, Some(&second), None);
        assert_eq!(indices.0.len(), 0);
    }
}
