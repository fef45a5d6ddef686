//! Pods that wait for a node. Active ones are next, the highest priority first, then the oldest. One that was refused is
//! unschedulable until something happens that helps it, or for five minutes; one that failed, or was woken soon after it was
//! refused, backs off for one second, then two, up to ten. One that is being bound or reported is taken: nobody else gets it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use component::ObjectKey;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::demand::Demand;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A refused pod is tried again after this time, whatever happens.
const FLUSH: Duration = Duration::from_secs(300);

/// Order of the active pods.
type Rank = (Reverse<i32>, Timestamp, u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Instant),
    /// Until then at the latest.
    Unschedulable(Instant),
    /// Whether something happened meanwhile that helps it.
    Taken(bool),
}

#[derive(Debug)]
struct Entry {
    demand: Arc<Demand>,
    rank: Rank,
    place: Place,
    attempts: u32,
    attempted: Option<Instant>,
}

impl Entry {
    /// When the pod has backed off long enough.
    fn backed_off(&self, now: Instant) -> Instant {
        let doublings = self.attempts.saturating_sub(1).min(16);
        let delay = FIRST_BACKOFF.saturating_mul(1 << doublings).min(LAST_BACKOFF);
        self.attempted.map_or(now, |attempted| attempted + delay)
    }
}

/// All pods that wait.
#[derive(Debug, Default)]
pub struct Queue {
    pods: BTreeMap<ObjectKey, Entry>,
    active: BTreeMap<Rank, ObjectKey>,
    /// Those that back off and those that are unschedulable, by when they become active.
    backoff: BTreeSet<(Instant, ObjectKey)>,
    unschedulable: BTreeSet<(Instant, ObjectKey)>,
    taken: BTreeSet<ObjectKey>,
    arrivals: u64,
}

impl Queue {
    /// A pod came, or changed. What a change may help is tried again.
    pub fn offer(&mut self, key: ObjectKey, demand: Arc<Demand>, now: Instant) {
        let same = |known: &Entry| known.demand.uid() == demand.uid();
        if !self.pods.get(&key).is_some_and(same) {
            self.remove(&key);
            self.insert(key, demand);
            return;
        }
        let Some(entry) = self.pods.get_mut(&key) else { return };
        let changed = entry.demand.differs(&demand.pod);
        let priority = Reverse(demand.usage.priority);
        entry.demand = demand;
        if changed {
            let place = entry.place;
            if place == Place::Active {
                self.active.remove(&entry.rank);
            }
            entry.rank.0 = priority;
            if place == Place::Active {
                self.active.insert(entry.rank, key.clone());
            }
            self.wake_one(&key, now);
        }
    }

    fn insert(&mut self, key: ObjectKey, demand: Arc<Demand>) {
        self.arrivals += 1;
        let created =
            demand.pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let rank = (Reverse(demand.usage.priority), created, self.arrivals);
        self.active.insert(rank, key.clone());
        let entry = Entry { demand, rank, place: Place::Active, attempts: 0, attempted: None };
        self.pods.insert(key, entry);
    }

    /// A pod is gone, or needs no node any more.
    pub fn remove(&mut self, key: &ObjectKey) {
        if self.pods.contains_key(key) {
            self.leave(key);
            self.pods.remove(key);
        }
    }

    /// Takes a pod out of the list that it is in.
    fn leave(&mut self, key: &ObjectKey) {
        let Some(entry) = self.pods.get(key) else { return };
        match entry.place {
            Place::Active => drop(self.active.remove(&entry.rank)),
            Place::Backoff(due) => drop(self.backoff.remove(&(due, key.clone()))),
            Place::Unschedulable(due) => drop(self.unschedulable.remove(&(due, key.clone()))),
            Place::Taken(_) => drop(self.taken.remove(key)),
        }
    }

    fn enter(&mut self, key: &ObjectKey, place: Place) {
        self.leave(key);
        let Some(entry) = self.pods.get_mut(key) else { return };
        entry.place = place;
        match place {
            Place::Active => drop(self.active.insert(entry.rank, key.clone())),
            Place::Backoff(due) => drop(self.backoff.insert((due, key.clone()))),
            Place::Unschedulable(due) => drop(self.unschedulable.insert((due, key.clone()))),
            Place::Taken(_) => drop(self.taken.insert(key.clone())),
        }
    }

    /// What a waiting pod asks for.
    pub fn demand(&self, key: &ObjectKey) -> Option<&Arc<Demand>> {
        self.pods.get(key).map(|entry| &entry.demand)
    }

    /// The next pod, which is taken until [`Queue::refused`], [`Queue::failed`] or [`Queue::remove`].
    pub fn take(&mut self, now: Instant) -> Option<(ObjectKey, Arc<Demand>)> {
        let key = self.active.first_key_value()?.1.clone();
        self.enter(&key, Place::Taken(false));
        let entry = self.pods.get_mut(&key)?;
        entry.attempts += 1;
        entry.attempted = Some(now);
        Some((key, entry.demand.clone()))
    }

    /// A taken pod found no node.
    pub fn refused(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.pods.get(key) else { return };
        match entry.place {
            Place::Taken(true) => self.failed(key, now),
            Place::Taken(false) => {
                let due = entry.attempted.unwrap_or(now) + FLUSH;
                self.enter(key, Place::Unschedulable(due));
            }
            _ => {}
        }
    }

    /// A taken pod shall be tried again when it has backed off.
    pub fn failed(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.pods.get(key) else { return };
        if matches!(entry.place, Place::Taken(_)) {
            self.back_off(key, now);
        }
    }

    /// Active, or first backing off.
    fn back_off(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.pods.get(key) else { return };
        let due = entry.backed_off(now);
        self.enter(key, if due <= now { Place::Active } else { Place::Backoff(due) });
    }

    fn wake_one(&mut self, key: &ObjectKey, now: Instant) {
        match self.pods.get_mut(key) {
            Some(Entry { place: Place::Taken(woken), .. }) => *woken = true,
            Some(Entry { place: Place::Unschedulable(_), .. }) => self.back_off(key, now),
            _ => {}
        }
    }

    /// Something happened: every refused pod that it helps is tried again.
    pub fn wake(&mut self, now: Instant, helps: impl Fn(&Demand) -> bool) {
        let refused = self.unschedulable.iter().map(|(_, key)| key).chain(&self.taken);
        let helped: Vec<ObjectKey> = refused
            .filter(|key| self.pods.get(*key).is_some_and(|entry| helps(&entry.demand)))
            .cloned()
            .collect();
        for key in helped {
            self.wake_one(&key, now);
        }
    }

    /// Pods whose time has come become active.
    pub fn promote(&mut self, now: Instant) {
        while let Some((due, key)) = self.backoff.first().cloned()
            && due <= now
        {
            self.enter(&key, Place::Active);
        }
        while let Some((due, key)) = self.unschedulable.first().cloned()
            && due <= now
        {
            self.enter(&key, Place::Active);
        }
    }

    /// When [`Queue::promote`] has something to do.
    pub fn next_due(&self) -> Option<Instant> {
        let first = |set: &BTreeSet<(Instant, ObjectKey)>| set.first().map(|(due, _)| *due);
        [first(&self.backoff), first(&self.unschedulable)].into_iter().flatten().min()
    }

    /// How many pods are active, back off, are unschedulable, and are taken.
    pub fn lengths(&self) -> [usize; 4] {
        [self.active.len(), self.backoff.len(), self.unschedulable.len(), self.taken.len()]
    }
}
