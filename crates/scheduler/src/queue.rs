//! Pods that wait for a node. Active ones are next, the highest priority first, then the oldest. One that was refused is
//! unschedulable until something happens that helps it, or for five minutes; one that failed, or was woken soon after it was
//! refused, backs off for one second, then two, up to ten; if there is room for it and no other pod is active, it need not
//! wait so long. One that is being bound or reported is taken: nobody else gets it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use component::ObjectKey;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::demand::Demand;
use crate::filter::Help;

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
    /// What happened meanwhile that helps it.
    Taken(Help),
}

#[derive(Debug)]
struct Entry {
    demand: Arc<Demand>,
    rank: Rank,
    place: Place,
    attempts: u32,
    attempted: Option<Instant>,
    /// Whether the last attempt ended with an error, not a refusal.
    failed: bool,
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
    /// Those that back off although there was room for them when they were woken.
    early: BTreeMap<Rank, ObjectKey>,
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
            let (place, old) = (entry.place, entry.rank);
            entry.rank.0 = priority;
            let rank = entry.rank;
            if place == Place::Active {
                self.active.remove(&old);
                self.active.insert(rank, key.clone());
            }
            self.early.remove(&old);
            self.wake_one(&key, now, Help::Room);
        }
    }

    fn insert(&mut self, key: ObjectKey, demand: Arc<Demand>) {
        self.arrivals += 1;
        let created =
            demand.pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
        let rank = (Reverse(demand.usage.priority), created, self.arrivals);
        self.active.insert(rank, key.clone());
        let entry = Entry { demand, rank, place: Place::Active, attempts: 0, attempted: None, failed: false };
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
            Place::Backoff(due) => {
                self.backoff.remove(&(due, key.clone()));
                self.early.remove(&entry.rank);
            }
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
        self.take_one(key, now)
    }

    /// As [`Queue::take`], of those that still back off but for which there is room. A pod for which there is none any more
    /// waits for its time.
    pub fn take_early(
        &mut self,
        now: Instant,
        mut fits: impl FnMut(&Demand) -> bool,
    ) -> Option<(ObjectKey, Arc<Demand>)> {
        while let Some((_, key)) = self.early.pop_first() {
            if self.pods.get(&key).is_some_and(|entry| fits(&entry.demand)) {
                return self.take_one(key, now);
            }
        }
        None
    }

    fn take_one(&mut self, key: ObjectKey, now: Instant) -> Option<(ObjectKey, Arc<Demand>)> {
        self.enter(&key, Place::Taken(Help::None));
        let entry = self.pods.get_mut(&key)?;
        entry.attempts += 1;
        entry.attempted = Some(now);
        entry.failed = false;
        Some((key, entry.demand.clone()))
    }

    /// A taken pod found no node.
    pub fn refused(&mut self, key: &ObjectKey, now: Instant) {
        let Some(Entry { place: Place::Taken(help), attempted, .. }) = self.pods.get(key) else { return };
        match help {
            Help::None => self.enter(key, Place::Unschedulable(attempted.unwrap_or(now) + FLUSH)),
            help => self.back_off(key, now, *help),
        }
    }

    /// A taken pod shall be tried again when it has backed off.
    pub fn failed(&mut self, key: &ObjectKey, now: Instant) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        if matches!(entry.place, Place::Taken(_)) {
            entry.failed = true;
            self.back_off(key, now, Help::None);
        }
    }

    /// Active, or first backing off.
    fn back_off(&mut self, key: &ObjectKey, now: Instant, help: Help) {
        let Some(entry) = self.pods.get(key) else { return };
        let (due, rank) = (entry.backed_off(now), entry.rank);
        if due <= now {
            return self.enter(key, Place::Active);
        }
        self.enter(key, Place::Backoff(due));
        if help == Help::Room {
            self.early.insert(rank, key.clone());
        }
    }

    fn wake_one(&mut self, key: &ObjectKey, now: Instant, help: Help) {
        let Some(entry) = self.pods.get_mut(key) else { return };
        match &mut entry.place {
            Place::Taken(known) => *known = help.max(*known),
            Place::Unschedulable(_) => self.back_off(key, now, help),
            Place::Backoff(_) if help == Help::Room && !entry.failed => {
                self.early.insert(entry.rank, key.clone());
            }
            Place::Backoff(_) | Place::Active => {}
        }
    }

    /// Something happened: every refused pod that it helps is tried again.
    pub fn wake(&mut self, now: Instant, helps: impl Fn(&Demand) -> Help) {
        let waiting = self.unschedulable.iter().chain(&self.backoff).map(|(_, key)| key).chain(&self.taken);
        let helped: Vec<(ObjectKey, Help)> = waiting
            .filter_map(|key| {
                let help = helps(&self.pods.get(key)?.demand);
                (help != Help::None).then(|| (key.clone(), help))
            })
            .collect();
        for (key, help) in helped {
            self.wake_one(&key, now, help);
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
