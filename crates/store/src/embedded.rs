//! The store that is part of the process: opening it, reading it, and handing changes to its writer.
//!
//! Reads are answered from memory, which holds exactly what is durable. Nothing here touches the disk.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::api::{Item, ListOptions, Listing, Outcome, Revision, Store, Txn, Watch};
use crate::cipher::Cipher;
use crate::cursor::{self, Shared};
use crate::disk::{Disk, LockError};
use crate::options::{self, Options};
use crate::recovery::{self, Recovered, Recovery};
use crate::thread::WriterThread;
use crate::writer::Writer;
use crate::{StoreError, group};

/// How many keys are looked at under one hold of the lock.
const VISITS: usize = 4096;

/// A store on a disk that it has to itself. [`close`](EmbeddedStore::close) it to know that it has let go; dropping
/// it does the same but blocks.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    recovery: Recovery,
    changes: Changes,
}

enum Changes {
    Thread(WriterThread),
    Inline(Box<Mutex<Option<Writer>>>),
}

impl EmbeddedStore {
    /// Reads what the disk holds and takes it for this process. Blocks: call it before the work begins, or on a
    /// thread that may block.
    pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<EmbeddedStore, StoreError> {
        let cipher = Arc::new(Cipher::new(&options.encryption, options.random.clone())?);
        let lock = disk.lock().map_err(|error| match error {
            LockError::Held(holder) => StoreError::InUse(format!("{}{holder}", disk.describe(""))),
            LockError::Io(error) => StoreError::io(format!("locking {}", disk.describe("")), error),
        })?;
        let Recovered { index, log, report, snapshot_bytes } = recovery::recover(&disk, &cipher, &options)?;
        tracing::info!(
            revision = report.revision,
            replayed = report.replayed,
            "opened {}",
            disk.describe("")
        );
        let shared = Arc::new(Shared::new(index));
        let mode = options.mode;
        let mut writer = Writer::new(shared.clone(), disk, cipher, options, log, lock);
        writer.resume(report.snapshot, snapshot_bytes);
        let changes = match mode {
            options::Writer::Thread => Changes::Thread(WriterThread::start(writer)?),
            options::Writer::Inline => Changes::Inline(Box::new(Mutex::new(Some(writer)))),
        };
        Ok(EmbeddedStore { shared, recovery: report, changes })
    }

    /// What was found when the store was opened.
    pub fn recovery(&self) -> &Recovery {
        &self.recovery
    }

    /// The oldest revision that can be read and watched from.
    pub fn compacted_revision(&self) -> Revision {
        self.shared.read().compacted()
    }

    /// Finishes what was begun, ends all watches and lets go of the disk. Reads go on, changes do not.
    pub async fn close(&self) -> Result<(), StoreError> {
        match &self.changes {
            Changes::Thread(thread) => match thread.close() {
                Some(handle) => tokio::task::spawn_blocking(|| handle.join())
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .ok_or_else(|| StoreError::stopped("its writer failed")),
                None => Ok(()),
            },
            Changes::Inline(writer) => {
                if let Some(writer) = writer.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    writer.close();
                }
                Ok(())
            }
        }
    }

    fn inline<T>(
        writer: &Mutex<Option<Writer>>,
        change: impl FnOnce(&mut Writer) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        let writer = writer.as_mut().ok_or_else(|| StoreError::stopped("it is closed"))?;
        let result = change(writer);
        writer.upkeep();
        result
    }

    /// Reads piece by piece, so that the writer is never kept waiting for long.
    async fn list_at(
        &self,
        prefix: &str,
        options: &ListOptions<'_>,
        revision: Revision,
        visits: usize,
    ) -> Result<Listing, StoreError> {
        let limit = if options.limit == 0 { usize::MAX } else { options.limit };
        let mut items = Vec::new();
        let mut after: Option<Arc<str>> = options.after.map(Arc::from);
        while items.len() < limit {
            let page = {
                let index = self.shared.read();
                index.readable(revision)?;
                index.page(prefix, after.as_deref(), revision, limit - items.len(), visits)
            };
            items.extend(page.items);
            after = page.next;
            if after.is_none() {
                return Ok(Listing { revision, items, more: false, remaining: 0 });
            }
            tokio::task::yield_now().await;
        }
        let mut remaining = 0;
        while let Some(last) = after {
            let index = self.shared.read();
            index.readable(revision)?;
            let (count, next) = index.count(prefix, &last, revision, visits);
            remaining += count;
            after = next;
        }
        Ok(Listing { revision, items, more: remaining > 0, remaining })
    }
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        Ok(self.shared.read().get(key))
    }

    async fn list(&self, prefix: &str, options: ListOptions<'_>) -> Result<Listing, StoreError> {
        if let Some(revision) = options.at {
            return self.list_at(prefix, &options, revision, VISITS).await;
        }
        let mut visits = VISITS;
        loop {
            let newest = self.current_revision();
            match self.list_at(prefix, &options, newest, visits).await {
                // So much happened meanwhile that what was being read is history: begin anew, in larger pieces.
                Err(StoreError::Compacted { .. }) => visits = visits.saturating_mul(16),
                done => return done,
            }
        }
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        group::check(&txn)?;
        match &self.changes {
            Changes::Thread(thread) => thread.commit(txn).await,
            Changes::Inline(writer) => Self::inline(writer, |writer| {
                writer.commit(vec![txn]).pop().expect("an answer for each transaction")
            }),
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        cursor::watch(&self.shared, prefix, after)
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        match &self.changes {
            Changes::Thread(thread) => thread.compact(revision).await,
            Changes::Inline(writer) => Self::inline(writer, |writer| writer.compact(revision)),
        }
    }

    fn current_revision(&self) -> Revision {
        self.shared.read().revision()
    }
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("EmbeddedStore").field("recovery", &self.recovery).finish_non_exhaustive()
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        match &mut self.changes {
            Changes::Thread(thread) => {
                if let Some(handle) = thread.close()
                    && handle.join().is_err()
                {
                    tracing::error!("the store's writer panicked");
                }
            }
            Changes::Inline(writer) => {
                if let Some(writer) = writer.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
                    writer.close();
                }
            }
        }
    }
}
