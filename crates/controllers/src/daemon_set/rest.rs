//! Nodes whose pod failed rest before they get another: a kubelet that refuses a pod would otherwise be asked without end.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

const FIRST: SignedDuration = SignedDuration::from_secs(1);
const LONGEST: SignedDuration = SignedDuration::from_mins(15);

/// The set's uid and the name of the node.
type Place = (String, String);

#[derive(Clone, Copy, Debug)]
struct Rest {
    since: Timestamp,
    time: SignedDuration,
}

/// Who rests. Kept in memory only: a controller that starts anew tries once more.
#[derive(Debug, Default)]
pub(crate) struct Rests(Mutex<BTreeMap<Place, Rest>>);

impl Rests {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Place, Rest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until when a node rests; `None` if it does not now.
    pub(crate) fn until(&self, set: &str, node: &str, now: Timestamp) -> Option<Timestamp> {
        let rests = self.lock();
        let rest = rests.get(&(set.to_owned(), node.to_owned()))?;
        Some(rest.since + rest.time).filter(|until| *until > now)
    }

    /// A failed pod is being replaced: the next one has to wait, each time twice as long. A node that has behaved for long
    /// begins anew.
    pub(crate) fn failed(&self, set: &str, node: &str, now: Timestamp) {
        let mut rests = self.lock();
        rests.retain(|_, rest| now.duration_since(rest.since) <= LONGEST * 2);
        let place = (set.to_owned(), node.to_owned());
        let time = rests.get(&place).map_or(FIRST, |rest| (rest.time * 2).min(LONGEST));
        rests.insert(place, Rest { since: now, time });
    }
}
