//! The state that readers share with the writer, and watches as cursors into its history.
//!
//! A watcher has no queue of its own: it reads the common history from where it stands, and waits for the writer's
//! signal at its end. Waiters are woken in the order in which they began to wait, so that a simulation is repeatable.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::stream;
use tokio::sync::Notify;

use crate::StoreError;
use crate::api::{Batch, Revision, Watch};
use crate::index::Index;

/// How many events are looked at under one hold of the lock.
const VISITS: usize = 1024;

/// The durable state.
pub(crate) struct Shared {
    index: RwLock<Index>,
    changed: Notify,
    closed: AtomicBool,
}

impl Shared {
    pub(crate) fn new(index: Index) -> Shared {
        Shared { index: RwLock::new(index), changed: Notify::new(), closed: AtomicBool::new(false) }
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().expect("a panic in the middle of a change leaves nothing that can be served")
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().expect("a panic in the middle of a change leaves nothing that can be served")
    }

    /// Wakes the watchers.
    pub(crate) fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Watches end once they have seen everything.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed();
    }
}

struct Cursor {
    shared: Arc<Shared>,
    prefix: Box<str>,
    after: Revision,
}

/// A watch of everything under the prefix after a revision.
pub(crate) fn watch(shared: &Arc<Shared>, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
    shared.read().readable(after)?;
    let cursor = Cursor { shared: Arc::clone(shared), prefix: prefix.into(), after };
    Ok(Watch::new(stream::unfold(cursor, |mut cursor| async move {
        let next = cursor.next().await?;
        Some((next, cursor))
    })))
}

impl Cursor {
    async fn next(&mut self) -> Option<Result<Batch, StoreError>> {
        loop {
            // Registered before looking, so that no change is missed between looking and waiting.
            let mut changed = pin!(self.shared.changed.notified());
            changed.as_mut().enable();
            let closed = self.shared.closed.load(Ordering::Acquire);
            match self.look() {
                Ok(batch) if batch.revision == self.after => {}
                Ok(batch) => {
                    self.after = batch.revision;
                    return Some(Ok(batch));
                }
                Err(error) => return Some(Err(error)),
            }
            if closed {
                return None;
            }
            changed.await;
        }
    }

    fn look(&self) -> Result<Batch, StoreError> {
        let index = self.shared.read();
        index.readable(self.after)?;
        Ok(index.events(&self.prefix, self.after, VISITS))
    }
}
