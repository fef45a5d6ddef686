//! The state in memory: every key's versions since the compacted revision, and the events between them.
//!
//! Pure data: it neither reads nor writes files, takes no locks and wakes nobody. Only durable transactions get here.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::StoreError;
use crate::api::{Batch, Event, Item, Op, Revision};

/// An empty store is at revision 1.
pub(crate) const FIRST: Revision = 1;

/// Memory that an event needs beside its key and value.
const EVENT_OVERHEAD: u64 = 160;

#[derive(Debug)]
struct Version {
    revision: Revision,
    /// `None`: the key was removed.
    value: Option<Bytes>,
}

/// The versions of one key. Most keys have one.
#[derive(Debug)]
struct Versions {
    latest: Version,
    /// Older ones, oldest first.
    older: VecDeque<Version>,
}

impl Versions {
    fn at(&self, revision: Revision) -> Option<&Version> {
        if self.latest.revision <= revision {
            return Some(&self.latest);
        }
        let newer = self.older.partition_point(|version| version.revision <= revision);
        newer.checked_sub(1).and_then(|position| self.older.get(position))
    }
}

/// The multi-version state.
#[derive(Debug)]
pub(crate) struct Index {
    keys: BTreeMap<Arc<str>, Versions>,
    /// In order of revision. Reaches back to `compacted`, or further while collection is held off.
    history: VecDeque<Event>,
    history_bytes: u64,
    revision: Revision,
    compacted: Revision,
}

/// A part of a page of a list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) items: Vec<Item>,
    /// How many keys were looked at, to bound the time that a reader holds the lock.
    pub(crate) visited: usize,
    /// Where to go on; `None` at the end of the prefix.
    pub(crate) next: Option<Arc<str>>,
}

impl Index {
    /// The state of a store that holds nothing and has forgotten everything before `revision`.
    pub(crate) fn new(revision: Revision) -> Index {
        Index {
            keys: BTreeMap::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            revision,
            compacted: revision,
        }
    }

    /// The state of a snapshot. Keys in order make a densely packed tree.
    pub(crate) fn restore(revision: Revision, items: Vec<Item>) -> Index {
        let keys = items.into_iter().map(|item| {
            let latest = Version { revision: item.mod_revision, value: Some(item.value) };
            (item.key, Versions { latest, older: VecDeque::new() })
        });
        Index { keys: keys.collect(), ..Index::new(revision) }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    pub(crate) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(crate) fn get(&self, key: &str) -> Option<Item> {
        let (key, versions) = self.keys.get_key_value(key)?;
        item(key, &versions.latest)
    }

    /// Performs a transaction, which gets the next revision. Operations have an effect and distinct keys.
    pub(crate) fn apply(&mut self, ops: Vec<Op>) {
        self.revision += 1;
        for op in ops {
            let (key, value) = match op {
                Op::Put(key, value) => (key, Some(value)),
                Op::Delete(key) => (key, None),
            };
            self.apply_one(key, value);
        }
    }

    fn apply_one(&mut self, key: Arc<str>, value: Option<Bytes>) {
        let version = Version { revision: self.revision, value: value.clone() };
        // One allocation of a key serves the index and all events.
        let known = self.keys.get_key_value(&key).map(|(known, _)| Arc::clone(known));
        let key = known.unwrap_or(key);
        let (prev_value, prev_revision) = match self.keys.get_mut(&key) {
            None => {
                self.keys.insert(Arc::clone(&key), Versions { latest: version, older: VecDeque::new() });
                (None, 0)
            }
            Some(versions) => {
                let previous = std::mem::replace(&mut versions.latest, version);
                let prev_value = previous.value.clone();
                let prev_revision = if prev_value.is_some() { previous.revision } else { 0 };
                versions.older.push_back(previous);
                (prev_value, prev_revision)
            }
        };
        let event = Event { revision: self.revision, key, value, prev_value, prev_revision };
        self.history_bytes += weight(&event);
        self.history.push_back(event);
    }

    /// Whether the state at this revision can be read, and everything after it be watched.
    pub(crate) fn readable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.compacted {
            return Err(StoreError::Compacted { asked: revision, oldest: self.compacted });
        }
        if revision > self.revision {
            return Err(StoreError::Future { asked: revision, current: self.revision });
        }
        Ok(())
    }

    /// Items under the prefix after a key, as of a readable revision: at most `limit` items from `visits` keys.
    pub(crate) fn page(
        &self,
        prefix: &str,
        after: Option<&str>,
        at: Revision,
        limit: usize,
        visits: usize,
    ) -> Page {
        let begin = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut page = Page::default();
        let mut last: Option<&Arc<str>> = None;
        for (key, versions) in self.keys.range::<str, _>((begin, Bound::Unbounded)) {
            if !key.starts_with(prefix) {
                return page;
            }
            if page.items.len() == limit || page.visited == visits {
                page.next = last.cloned();
                return page;
            }
            page.visited += 1;
            page.items.extend(versions.at(at).and_then(|version| item(key, version)));
            last = Some(key);
        }
        page
    }

    /// Like [`page`](Index::page), but only counts, and without a limit of items.
    pub(crate) fn count(
        &self,
        prefix: &str,
        after: &str,
        at: Revision,
        visits: usize,
    ) -> (u64, Option<Arc<str>>) {
        let mut count = 0;
        let mut last = None;
        let range = self.keys.range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        for (visited, (key, versions)) in range.enumerate() {
            if !key.starts_with(prefix) {
                return (count, None);
            }
            if visited == visits {
                return (count, last);
            }
            count += u64::from(versions.at(at).is_some_and(|version| version.value.is_some()));
            last = Some(Arc::clone(key));
        }
        (count, None)
    }

    /// The transactions after a readable revision, whole ones, looking at about `visits` events.
    pub(crate) fn events(&self, prefix: &str, after: Revision, visits: usize) -> Batch {
        let begin = self.history.partition_point(|event| event.revision <= after);
        let mut batch = Batch { events: Vec::new(), revision: after };
        for (visited, event) in self.history.range(begin..).enumerate() {
            if visited >= visits && event.revision != batch.revision {
                return batch;
            }
            batch.revision = event.revision;
            if event.key.starts_with(prefix) {
                batch.events.push(event.clone());
            }
        }
        batch
    }

    /// The revision up to which history must be forgotten to keep within both limits.
    pub(crate) fn excess(&self, max_events: usize, max_bytes: u64) -> Option<Revision> {
        let mut events = self.history.len();
        let mut bytes = self.history_bytes;
        let mut until = None;
        for event in &self.history {
            if events <= max_events && bytes <= max_bytes {
                break;
            }
            events -= 1;
            bytes -= weight(event);
            until = Some(event.revision);
        }
        until
    }

    /// From now on nothing before this revision, which is not in the future, can be read.
    pub(crate) fn compact(&mut self, revision: Revision) {
        debug_assert!(revision <= self.revision, "compacted into the future");
        self.compacted = self.compacted.max(revision);
    }

    /// Frees what compaction made unreachable. The cost is that of the forgotten events.
    pub(crate) fn collect(&mut self) {
        while self.history.front().is_some_and(|event| event.revision <= self.compacted) {
            if let Some(event) = self.history.pop_front() {
                self.history_bytes -= weight(&event);
                self.forget_before(&event);
            }
        }
        if self.history.capacity() > 4096 && self.history.len() < self.history.capacity() / 4 {
            self.history.shrink_to(self.history.len() * 2);
        }
    }

    /// Drops the versions that nobody can see any more since this event is compacted.
    fn forget_before(&mut self, event: &Event) {
        let removed = event.value.is_none();
        let Some(versions) = self.keys.get_mut(&event.key) else { return };
        if removed && versions.latest.revision == event.revision {
            self.keys.remove(&event.key);
            return;
        }
        let dead = |version: &Version| version.revision < event.revision + u64::from(removed);
        while versions.older.front().is_some_and(dead) {
            versions.older.pop_front();
        }
        if versions.older.is_empty() {
            versions.older = VecDeque::new();
        }
    }
}

fn item(key: &Arc<str>, version: &Version) -> Option<Item> {
    let value = version.value.clone()?;
    Some(Item { key: Arc::clone(key), value, mod_revision: version.revision })
}

fn weight(event: &Event) -> u64 {
    let value = event.value.as_ref().map_or(0, Bytes::len);
    EVENT_OVERHEAD + (event.key.len() + value) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Op {
        Op::Put(key.into(), Bytes::copy_from_slice(value.as_bytes()))
    }

    /// Revisions 2 to 6.
    fn sample() -> Index {
        let mut index = Index::new(FIRST);
        index.apply(vec![put("/a/1", "one")]);
        index.apply(vec![put("/a/2", "two"), put("/b/1", "other")]);
        index.apply(vec![put("/a/1", "uno")]);
        index.apply(vec![Op::Delete("/a/2".into())]);
        index.apply(vec![put("/a/2", "due")]);
        index
    }

    fn state(index: &Index, at: Revision) -> Vec<String> {
        let page = index.page("/a/", None, at, usize::MAX, usize::MAX);
        let text = |item: &Item| format!("{}={}@{}", item.key, item.value.escape_ascii(), item.mod_revision);
        page.items.iter().map(text).collect()
    }

    #[test]
    fn each_revision_has_its_state() {
        let index = sample();
        assert_eq!(state(&index, 1), [""; 0]);
        assert_eq!(state(&index, 3), ["/a/1=one@2", "/a/2=two@3"]);
        assert_eq!(state(&index, 4), ["/a/1=uno@4", "/a/2=two@3"]);
        assert_eq!(state(&index, 5), ["/a/1=uno@4"]);
        assert_eq!(state(&index, 6), ["/a/1=uno@4", "/a/2=due@6"]);
    }

    #[test]
    fn compaction_changes_no_state_that_can_be_read_and_frees_the_rest() {
        for compacted in 1..=6 {
            let mut index = sample();
            let before: Vec<_> = (compacted..=6).map(|at| state(&index, at)).collect();
            index.compact(compacted);
            index.collect();
            let after: Vec<_> = (compacted..=6).map(|at| state(&index, at)).collect();
            assert_eq!(before, after, "compacted at {compacted}");
            assert!(index.readable(compacted - 1).is_err() && index.readable(compacted).is_ok());
            assert!(index.history.iter().all(|event| event.revision > compacted));
        }
        let mut index = sample();
        index.apply(vec![Op::Delete("/a/1".into())]);
        index.compact(7);
        index.collect();
        assert!(!index.keys.contains_key("/a/1"), "a removed key is gone");
        assert!(index.keys.values().all(|versions| versions.older.is_empty()));
        assert_eq!(index.history_bytes, 0);
    }

    #[test]
    fn events_are_whole_transactions_with_what_was_before() {
        let index = sample();
        let batch = index.events("/", 1, 2);
        assert_eq!((batch.events.len(), batch.revision), (3, 3), "a transaction is not split");
        let batch = index.events("/a/2", 3, usize::MAX);
        let kinds: Vec<_> = batch
            .events
            .iter()
            .map(|event| (event.revision, event.value.clone(), event.prev_value.clone(), event.prev_revision))
            .collect();
        assert_eq!(kinds, [(5, None, Some("two".into()), 3), (6, Some("due".into()), None, 0)]);
        assert_eq!(
            index.events("/b/", 3, 1),
            Batch { events: vec![], revision: 4 },
            "progress without events"
        );
    }

    #[test]
    fn pages_stop_at_limits_and_go_on_where_they_stopped() {
        let index = sample();
        let page = index.page("/a/", None, 6, 1, usize::MAX);
        assert_eq!(page.items.len(), 1);
        let rest = index.page("/a/", page.next.as_deref(), 6, 9, usize::MAX);
        assert_eq!((rest.items.len(), rest.next), (1, None));
        assert_eq!(index.count("/a/", "/a/1", 6, usize::MAX), (1, None));
        assert_eq!(index.count("/", "/a/1", 6, 1), (1, Some("/a/2".into())));
    }

    #[test]
    fn excess_is_what_must_go_to_keep_the_limits() {
        let index = sample();
        assert_eq!(index.excess(6, u64::MAX), None);
        assert_eq!(index.excess(5, u64::MAX), Some(2));
        assert_eq!(index.excess(0, u64::MAX), Some(6));
        assert_eq!(index.excess(usize::MAX, 0), Some(6));
    }
}
