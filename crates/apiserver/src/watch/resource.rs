//! The cache of one resource: current objects, recent history, and a ring for every interest that somebody watches.
//!
//! An event is put only into the rings of those who may want it, so that its cost does not grow with the number of
//! watchers that do not. A ring is bounded; who falls behind it starts over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_machinery::resource::Resource;
use tokio::sync::watch;

use super::field_index::FieldIndices;
use super::object::{Cached, Entry};
use super::selection::Selection;

/// Events that a ring keeps at most.
const RING_EVENTS: usize = 2048;
/// Events that a ring keeps however large they are.
const RING_EVENTS_MIN: usize = 64;
/// Bytes of objects that the history of one resource keeps alive, beyond the smallest number of events.
const RING_BYTES: usize = 4 << 20;

/// A change to one object.
#[derive(Debug)]
pub struct Event {
    /// The revision of the change.
    pub revision: u64,
    /// The new state, or the last one at the revision of the deletion.
    pub object: Arc<Cached>,
    /// The state before; `None` when the object is new.
    pub previous: Option<Arc<Cached>>,
    /// Whether the object is gone.
    pub deleted: bool,
}

/// What a ring is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Interest {
    /// Everything.
    All,
    /// One namespace.
    Namespace(String),
    /// One object, by key.
    Object(String),
    /// One value of the selectable field at this place, such as the pods of a node.
    Field(usize, String),
}

/// Asked for a revision that the history no longer reaches back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOld {
    /// The revision asked for.
    pub asked: u64,
    /// The oldest one that can be watched from.
    pub oldest: u64,
}

#[derive(Debug, Default)]
struct Ring {
    /// Sequence number of the front event.
    first: u64,
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, event: Arc<Event>) -> Option<Arc<Event>> {
        self.bytes += event.object.bytes.len();
        self.events.push_back(event);
        let full = self.events.len() > RING_EVENTS
            || (self.bytes > RING_BYTES && self.events.len() > RING_EVENTS_MIN);
        if !full {
            return None;
        }
        let dropped = self.events.pop_front()?;
        self.bytes -= dropped.object.bytes.len();
        self.first += 1;
        Some(dropped)
    }

    fn next(&self) -> u64 {
        self.first + self.events.len() as u64
    }
}

#[derive(Debug)]
struct Channel {
    ring: Ring,
    wake: watch::Sender<u64>,
    watchers: usize,
}

#[derive(Debug, Default)]
struct Inner {
    objects: BTreeSet<Entry>,
    by_field: FieldIndices,
    history: Ring,
    /// Watching is possible from this revision on: the history holds every later event.
    oldest: u64,
    /// The newest change to this resource.
    changed: u64,
    /// Whether the cache is fed no longer.
    ended: bool,
    channels: BTreeMap<Interest, Channel>,
}

/// The cache of one resource.
#[derive(Debug)]
pub struct ResourceCache {
    resource: Arc<Resource>,
    inner: Mutex<Inner>,
}

impl ResourceCache {
    /// An empty cache.
    pub fn new(resource: Arc<Resource>) -> ResourceCache {
        ResourceCache { resource, inner: Mutex::default() }
    }

    /// The catalogue entry that this cache is of.
    pub fn resource(&self) -> &Arc<Resource> {
        &self.resource
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under this lock would be in a map's own code; what is there stays usable.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current state of an object.
    pub fn get(&self, key: &str) -> Option<Arc<Cached>> {
        self.lock().objects.get(key).map(|entry| entry.0.clone())
    }

    /// The revision of the newest change.
    pub fn changed_at(&self) -> u64 {
        self.lock().changed
    }

    /// The revision before which nothing can be watched.
    pub fn oldest(&self) -> u64 {
        self.lock().oldest
    }

    /// The selected objects in key order.
    pub fn list(&self, selection: &Selection) -> Vec<Arc<Cached>> {
        self.list_at(selection).0
    }

    /// The selected objects in key order, and the newest change that they include.
    pub fn list_at(&self, selection: &Selection) -> (Vec<Arc<Cached>>, u64) {
        let mut inner = self.lock();
        let changed = inner.changed;
        let found = inner.candidates(&self.resource, selection);
        drop(inner);
        (self.filter(selection, found), changed)
    }

    fn filter(&self, selection: &Selection, mut objects: Vec<Arc<Cached>>) -> Vec<Arc<Cached>> {
        if selection.is_filtered() {
            objects.retain(|object| selection.matches(&self.resource, object));
        }
        objects
    }

    /// Fills an empty cache with what the store listed at `revision`.
    pub(super) fn fill(&self, objects: Vec<Cached>, revision: u64) {
        let mut inner = self.lock();
        inner.oldest = revision;
        inner.changed = revision;
        inner.by_field.clear();
        inner.objects = objects.into_iter().map(|object| Entry(Arc::new(object))).collect();
    }

    /// Publishes what a listing at `revision` says that the cache does not know yet. Used after the watch on the store
    /// had to start over.
    pub(super) fn catch_up_with(&self, listed: BTreeMap<String, Cached>, revision: u64) {
        let gone: Vec<String> = {
            let inner = self.lock();
            let keys = inner.objects.iter().map(|entry| &*entry.0.key);
            keys.filter(|key| !listed.contains_key(*key)).map(str::to_owned).collect()
        };
        let mut changed: Vec<Cached> = listed
            .into_values()
            .filter(|object| self.get(&object.key).is_none_or(|old| old.revision != object.revision))
            .collect();
        changed.sort_by_key(|object| object.revision);
        for object in changed {
            self.put(object);
        }
        for key in gone {
            self.delete(&key, revision);
        }
    }

    /// Ends everybody's cursors: what the resource is has changed, or there is no such resource any more.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.ended = true;
        for channel in inner.channels.values() {
            channel.wake.send_replace(u64::MAX);
        }
    }

    /// An object was written.
    pub(super) fn put(&self, object: Cached) {
        let object = Arc::new(object);
        let mut inner = self.lock();
        let previous = inner.objects.replace(Entry(object.clone())).map(|entry| entry.0);
        let event = Event { revision: object.revision, object, previous, deleted: false };
        inner.publish(&self.resource, event);
    }

    /// An object was deleted.
    pub(super) fn delete(&self, key: &str, revision: u64) {
        let mut inner = self.lock();
        let Some(previous) = inner.objects.take(key).map(|entry| entry.0) else { return };
        let object = Arc::new(previous.at(revision));
        inner.publish(&self.resource, Event { revision, object, previous: Some(previous), deleted: true });
    }

    /// Starts a cursor for a selection: at `from`, or at the present.
    pub fn subscribe(
        self: &Arc<Self>,
        selection: &Selection,
        from: Option<u64>,
    ) -> Result<Subscription, TooOld> {
        let interest = selection.interest(&self.resource);
        let mut inner = self.lock();
        let missed = match from {
            Some(from) if from < inner.oldest => return Err(TooOld { asked: from, oldest: inner.oldest }),
            Some(from) => {
                let start = inner.history.events.partition_point(|event| event.revision <= from);
                inner.history.events.range(start..).cloned().collect()
            }
            None => VecDeque::new(),
        };
        Ok(self.cursor(&mut inner, interest, missed))
    }

    /// The selected objects and a cursor that continues exactly after them.
    pub fn list_and_subscribe(self: &Arc<Self>, selection: &Selection) -> (Vec<Arc<Cached>>, Subscription) {
        let interest = selection.interest(&self.resource);
        let mut inner = self.lock();
        let found = inner.candidates(&self.resource, selection);
        let subscription = self.cursor(&mut inner, interest, VecDeque::new());
        drop(inner);
        (self.filter(selection, found), subscription)
    }

    fn cursor(
        self: &Arc<Self>,
        inner: &mut Inner,
        interest: Interest,
        missed: VecDeque<Arc<Event>>,
    ) -> Subscription {
        let channel = inner.channels.entry(interest.clone()).or_insert_with(|| Channel {
            ring: Ring::default(),
            wake: watch::Sender::new(0),
            watchers: 0,
        });
        channel.watchers += 1;
        let next = channel.ring.next();
        let wake = channel.wake.subscribe();
        Subscription { cache: self.clone(), interest, missed, next, wake, changed: inner.changed }
    }
}

impl Inner {
    /// Everything that the selection may select, in key order: as little else as can be told without looking.
    fn candidates(&mut self, resource: &Resource, selection: &Selection) -> Vec<Arc<Cached>> {
        let interest = selection.interest(resource);
        if let Interest::Object(key) = &interest {
            return self.objects.get(key.as_str()).map(|entry| entry.0.clone()).into_iter().collect();
        }
        let among = match &interest {
            Interest::Field(at, value) => self.by_field.find(resource, &self.objects, *at, value),
            _ => Some(&self.objects),
        };
        let prefix = selection.key_prefix();
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        among
            .into_iter()
            .flat_map(|entries| entries.range::<str, _>(from))
            .take_while(|entry| entry.0.key.starts_with(&prefix))
            .map(|entry| entry.0.clone())
            .collect()
    }

    fn publish(&mut self, resource: &Resource, event: Event) {
        let now = (!event.deleted).then_some(&event.object);
        self.by_field.change(resource, self.objects.len(), event.previous.as_ref(), now);
        self.changed = event.revision;
        let event = Arc::new(event);
        if let Some(dropped) = self.history.push(event.clone()) {
            self.oldest = dropped.revision;
        }
        if self.channels.is_empty() {
            return;
        }
        self.deliver(&Interest::All, &event);
        self.deliver(&Interest::Object(event.object.key.to_string()), &event);
        if resource.namespaced() {
            self.deliver(&Interest::Namespace(event.object.namespace().to_owned()), &event);
        }
        for at in 0..resource.selectable.len() {
            let watched =
                self.channels.range(Interest::Field(at, String::new())..).next().is_some_and(
                    |(interest, _)| matches!(interest, Interest::Field(field, _) if *field == at),
                );
            if watched {
                self.deliver_by_field(resource, at, &event);
            }
        }
    }

    /// An event concerns the value that a field has, and the one that it had.
    fn deliver_by_field(&mut self, resource: &Resource, at: usize, event: &Arc<Event>) {
        let value = |object: &Cached| object.selected(resource).fields.get(at).map(|value| value.to_string());
        let now = value(&event.object);
        let before = event.previous.as_deref().and_then(value);
        if before != now
            && let Some(before) = before
        {
            self.deliver(&Interest::Field(at, before), event);
        }
        if let Some(now) = now {
            self.deliver(&Interest::Field(at, now), event);
        }
    }

    fn deliver(&mut self, interest: &Interest, event: &Arc<Event>) {
        if let Some(channel) = self.channels.get_mut(interest) {
            channel.ring.push(event.clone());
            channel.wake.send_replace(channel.ring.next());
        }
    }
}

/// What a cursor finds.
#[derive(Debug)]
pub enum Next {
    /// Events, oldest first; empty when there are none yet.
    Events(Vec<Arc<Event>>),
    /// The ring has moved past the cursor.
    Lost(TooOld),
    /// There will be no more.
    Ended,
}

/// A cursor.
#[derive(Debug)]
pub struct Subscription {
    cache: Arc<ResourceCache>,
    interest: Interest,
    missed: VecDeque<Arc<Event>>,
    next: u64,
    wake: watch::Receiver<u64>,
    changed: u64,
}

impl Subscription {
    /// Up to `most` further events of at most `bytes` together, or one that is larger.
    pub fn take(&mut self, most: usize, bytes: usize) -> Next {
        if !self.missed.is_empty() {
            let count = fitting(self.missed.iter(), most, bytes);
            return Next::Events(self.missed.drain(..count).collect());
        }
        let inner = self.cache.lock();
        let Some(channel) = inner.channels.get(&self.interest) else { return Next::Events(Vec::new()) };
        if inner.ended && self.next >= channel.ring.next() {
            return Next::Ended;
        }
        if self.next < channel.ring.first {
            let oldest = channel.ring.events.front().map_or(inner.changed, |event| event.revision);
            return Next::Lost(TooOld { asked: self.changed, oldest });
        }
        let start = usize::try_from(self.next - channel.ring.first).unwrap_or(usize::MAX);
        let waiting = channel.ring.events.iter().skip(start);
        let count = fitting(waiting.clone(), most, bytes);
        let events: Vec<_> = waiting.take(count).cloned().collect();
        self.next += events.len() as u64;
        if let Some(last) = events.last() {
            self.changed = last.revision;
        }
        Next::Events(events)
    }

    /// Waits until `take` may find something.
    pub async fn wait(&mut self) {
        // The sender lives in the channel, and the channel lives as long as this cursor.
        if self.wake.wait_for(|next| *next > self.next).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How many events from the first on are within both limits; one at least, if there is one.
fn fitting<'a>(events: impl Iterator<Item = &'a Arc<Event>>, most: usize, bytes: usize) -> usize {
    let mut total = 0;
    let sizes = events.take(most).map(|event| event.object.bytes.len());
    let within = sizes.enumerate().take_while(|(at, size)| {
        total += size;
        *at == 0 || total <= bytes
    });
    within.count()
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut inner = self.cache.lock();
        if let Some(channel) = inner.channels.get_mut(&self.interest) {
            channel.watchers -= 1;
            if channel.watchers == 0 {
                inner.channels.remove(&self.interest);
            }
        }
    }
}
