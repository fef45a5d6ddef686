//! "Never act on a view older than your own last write": remembers, per key, the resourceVersion of the last write, and
//! says whether the cache has caught up. A reconciler that is told no returns [`crate::controller::Next::Done`]: the
//! change that it waits for queues the key again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The last writes of a reconciler.
#[derive(Debug)]
pub struct Freshness<T> {
    written: Mutex<BTreeMap<T, u64>>,
}

impl<T> Default for Freshness<T> {
    fn default() -> Self {
        Self { written: Mutex::new(BTreeMap::new()) }
    }
}

impl<T: Ord> Freshness<T> {
    fn written(&self) -> MutexGuard<'_, BTreeMap<T, u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write: the resourceVersion in the server's answer.
    pub fn note(&self, key: T, version: Option<&str>) {
        let Some(revision) = version.and_then(|version| version.parse::<u64>().ok()) else { return };
        let mut written = self.written();
        let last = written.entry(key).or_default();
        *last = revision.max(*last);
    }

    /// Whether a cache that has seen `revision` shows all writes for the key.
    pub fn ready(&self, key: &T, revision: u64) -> bool {
        let mut written = self.written();
        match written.get(key) {
            Some(last) if *last > revision => false,
            Some(_) => {
                written.remove(key);
                true
            }
            None => true,
        }
    }

    /// The key is gone for good.
    pub fn forget(&self, key: &T) {
        self.written().remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_waits_for_its_newest_write_and_others_do_not() {
        let freshness = Freshness::default();
        freshness.note("a", Some("7"));
        freshness.note("a", Some("5"));
        assert!(!freshness.ready(&"a", 6));
        assert!(freshness.ready(&"b", 0));
        assert!(freshness.ready(&"a", 7));
    }
}
