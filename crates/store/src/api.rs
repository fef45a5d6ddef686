//! The contract of a store: revisions, compare-and-commit, gapless ordered watch, compaction.
//!
//! Knows neither objects nor disks. [`EmbeddedStore`](crate::EmbeddedStore) is one implementation,
//! [`EtcdStore`](crate::EtcdStore) another.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{BoxStream, Stream, StreamExt};

use crate::StoreError;

/// A point in the store's history. Every effective transaction gets the next one, and no number is ever given
/// twice. An empty store is at revision 1, so that 0 can mean "none" or "any".
pub type Revision = u64;

/// A key and what it holds at some revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The key.
    pub key: Arc<str>,
    /// The stored bytes.
    pub value: Bytes,
    /// The revision that wrote them.
    pub mod_revision: Revision,
}

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListOptions<'a> {
    /// Read the state at this revision; without it, the newest.
    pub at: Option<Revision>,
    /// At most this many items; 0 means all.
    pub limit: usize,
    /// Only keys after this one: the last key of the page before.
    pub after: Option<&'a str>,
}

/// One page of a list, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The revision whose state this is. Watch from here, or read the next page `at` it.
    pub revision: Revision,
    /// The items.
    pub items: Vec<Item>,
    /// Whether the limit cut the list short.
    pub more: bool,
    /// How many items the limit left out.
    pub remaining: u64,
}

/// What must hold for a transaction to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compare {
    /// The key exists and was last written by this revision.
    ModRevision(Revision),
    /// The key does not exist.
    Absent,
}

/// One change of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write the value.
    Put(Arc<str>, Bytes),
    /// Remove the key; without effect when it does not exist.
    Delete(Arc<str>),
}

impl Op {
    /// The key that it changes.
    pub fn key(&self) -> &Arc<str> {
        match self {
            Op::Put(key, _) | Op::Delete(key) => key,
        }
    }
}

/// A transaction: if every comparison holds then all changes happen, under one revision; otherwise nothing does.
///
/// ```
/// use store::{Compare, Txn};
/// let txn = Txn::new().when("/registry/pods/a/b", Compare::Absent).put("/registry/pods/a/b", "{}");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<(Arc<str>, Compare)>,
    /// The changes; each key at most once.
    pub ops: Vec<Op>,
}

impl Txn {
    /// A transaction that does nothing yet.
    pub fn new() -> Txn {
        Txn::default()
    }

    /// Adds a condition.
    pub fn when(mut self, key: impl Into<Arc<str>>, compare: Compare) -> Txn {
        self.compares.push((key.into(), compare));
        self
    }

    /// Adds a write.
    pub fn put(mut self, key: impl Into<Arc<str>>, value: impl Into<Bytes>) -> Txn {
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    /// Adds a removal.
    pub fn delete(mut self, key: impl Into<Arc<str>>) -> Txn {
        self.ops.push(Op::Delete(key.into()));
        self
    }
}

/// What became of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened and is durable.
    Committed {
        /// The revision it got; the current one if it changed nothing.
        revision: Revision,
    },
    /// A comparison did not hold, and nothing was changed.
    Conflict {
        /// The key of the first comparison that did not hold.
        key: Arc<str>,
        /// What that key holds now; `None` when it does not exist.
        current: Option<Item>,
    },
}

/// Whether a key was written or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Created or changed.
    Put,
    /// Removed.
    Delete,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision of the transaction.
    pub revision: Revision,
    /// The key.
    pub key: Arc<str>,
    /// What it holds now; `None` when it was removed.
    pub value: Option<Bytes>,
    /// What it held before; `None` when it is new.
    pub prev_value: Option<Bytes>,
    /// The revision that wrote `prev_value`; 0 when the key is new.
    pub prev_revision: Revision,
}

impl Event {
    /// Whether the key was written or removed.
    pub fn kind(&self) -> EventKind {
        if self.value.is_some() { EventKind::Put } else { EventKind::Delete }
    }
}

/// Whole transactions, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The events under the watched prefix; empty when others' changes only moved `revision`.
    pub events: Vec<Event>,
    /// The watcher has now seen everything up to and including this revision.
    pub revision: Revision,
}

/// A gapless, ordered series of changes. It is a cursor into shared history and queues nothing: one that falls
/// behind what is kept ends with [`StoreError::Compacted`]. Nothing follows an error.
///
/// Read it either by [`next_batch`](Watch::next_batch) or as a [`Stream`] of single events; both are cancel-safe.
pub struct Watch {
    batches: BoxStream<'static, Result<Batch, StoreError>>,
    pending: VecDeque<Event>,
    failed: bool,
}

impl Watch {
    /// A watch over batches that an implementation delivers.
    pub fn new(batches: impl Stream<Item = Result<Batch, StoreError>> + Send + 'static) -> Watch {
        Watch { batches: batches.boxed(), pending: VecDeque::new(), failed: false }
    }

    /// The next transactions, or only progress (no events, a newer revision).
    pub async fn next_batch(&mut self) -> Option<Result<Batch, StoreError>> {
        if !self.pending.is_empty() {
            let events: Vec<Event> = self.pending.drain(..).collect();
            let revision = events.last().map_or(0, |event| event.revision);
            return Some(Ok(Batch { events, revision }));
        }
        futures::future::poll_fn(|context| self.poll_batch(context)).await
    }

    /// The next single event.
    pub async fn next(&mut self) -> Option<Result<Event, StoreError>> {
        StreamExt::next(self).await
    }

    fn poll_batch(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Batch, StoreError>>> {
        if self.failed {
            return Poll::Ready(None);
        }
        let next = ready!(self.batches.poll_next_unpin(context));
        self.failed = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

impl Stream for Watch {
    type Item = Result<Event, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(self.poll_batch(context)) {
                Some(Ok(batch)) => self.pending = batch.events.into(),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watch").field("pending", &self.pending.len()).finish_non_exhaustive()
    }
}

/// A revisioned, watchable map from keys to bytes.
#[async_trait]
pub trait Store: Send + Sync {
    /// What a key holds now.
    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError>;

    /// The keys that begin with `prefix`, in order, a page at a time.
    async fn list(&self, prefix: &str, options: ListOptions<'_>) -> Result<Listing, StoreError>;

    /// Checks and changes, atomically. Answers once the change is durable. A caller that goes away
    /// does not undo it.
    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Every change under `prefix` with a revision greater than `after`, which must be at least the compacted
    /// revision and at most the current one. After a list, pass its revision.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// Forgets history before `revision`: from then on reads and watches from an earlier one are
    /// [`StoreError::Compacted`]. No effect if that is already so.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// The newest durable revision that is known here. A store that others write to as well may be further.
    fn current_revision(&self) -> Revision;

    /// A revision that is not older than any transaction which was acknowledged, to anybody, before this call.
    async fn newest_revision(&self) -> Result<Revision, StoreError> {
        Ok(self.current_revision())
    }

    /// Whether reads and writes work now, as far as that can be told without writing. Soon answered.
    async fn check(&self) -> Result<(), StoreError> {
        Ok(())
    }
}
