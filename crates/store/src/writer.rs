//! The one writer: makes groups of transactions durable, forgets old history, has snapshots written.
//!
//! Runs wherever it is called: on a thread of its own, or within a commit in a simulation. It never retries a failed
//! sync: after one, nothing is written any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use crate::StoreError;
use crate::api::{Op, Outcome, Revision, Txn};
use crate::cipher::Cipher;
use crate::cursor::Shared;
use crate::disk::{Disk, DiskLock};
use crate::frame::FrameBuffer;
use crate::group::Group;
use crate::log::Log;
use crate::options::Options;
use crate::recovery;
use crate::retention::Marks;
use crate::snapshot::{self, Failure};
use crate::thread::Message;

/// How many keys a snapshot reads under one hold of the lock.
const SNAPSHOT_VISITS: usize = 1024;

/// The writer's state.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    disk: Arc<dyn Disk>,
    cipher: Arc<Cipher>,
    log: Log,
    frame: FrameBuffer,
    options: Options,
    marks: Marks,
    /// Why nothing is written any more.
    stopped: Option<StoreError>,
    last_snapshot: Option<Revision>,
    last_snapshot_bytes: u64,
    /// After a failed snapshot: so much of the log must be superfluous before the next try.
    next_try: u64,
    running: Option<Running>,
    /// Where a snapshot's thread reports; without it, snapshots are written at once.
    reports: Option<mpsc::WeakSender<Message>>,
    /// Dropped last, when all files are closed.
    _lock: Box<dyn DiskLock>,
}

/// A snapshot that is being written on a thread.
struct Running {
    revision: Revision,
    cancelled: Arc<AtomicBool>,
    /// Set when there is a result to fetch.
    done: Arc<AtomicBool>,
    thread: JoinHandle<Result<u64, Failure>>,
}

impl Writer {
    pub(crate) fn new(
        shared: Arc<Shared>,
        disk: Arc<dyn Disk>,
        cipher: Arc<Cipher>,
        options: Options,
        log: Log,
        lock: Box<dyn DiskLock>,
    ) -> Writer {
        Writer {
            shared,
            disk,
            cipher,
            log,
            frame: FrameBuffer::new(),
            options,
            marks: Marks::default(),
            stopped: None,
            last_snapshot: None,
            last_snapshot_bytes: 0,
            next_try: 0,
            running: None,
            reports: None,
            _lock: lock,
        }
    }

    /// Goes on from the snapshot that was found, and brings what was recovered within its bounds.
    pub(crate) fn resume(&mut self, snapshot: Option<Revision>, bytes: u64) {
        self.last_snapshot = snapshot;
        self.last_snapshot_bytes = bytes;
        self.upkeep();
    }

    /// From now on snapshots are written on threads that report there.
    pub(crate) fn report_to(&mut self, reports: mpsc::WeakSender<Message>) {
        self.reports = Some(reports);
    }

    /// Carries out a group of transactions; an answer for each. Whatever is answered is durable.
    pub(crate) fn commit(&mut self, group: Vec<Txn>) -> Vec<Result<Outcome, StoreError>> {
        let number = group.len();
        if let Some(stopped) = &self.stopped {
            return vec![Err(stopped.clone()); number];
        }
        let (first, effects, answers) = self.decide(group);
        if effects.is_empty() {
            return answers;
        }
        let count = u32::try_from(effects.len()).expect("groups are small");
        let mut appended = self.log.append(&mut self.frame, first, count);
        // A snapshot takes no room from writes: it can be made later.
        if matches!(appended, Err(StoreError::DiskFull(_))) && self.give_up_snapshot() {
            appended = self.log.append(&mut self.frame, first, count);
        }
        match appended {
            Ok(()) => {
                let mut index = self.shared.write();
                effects.into_iter().for_each(|ops| index.apply(ops));
                drop(index);
                self.shared.changed();
                answers
            }
            Err(error) => {
                let error = self.failed(error);
                vec![Err(error); number]
            }
        }
    }

    fn decide(&mut self, group: Vec<Txn>) -> (Revision, Vec<Vec<Op>>, Vec<Result<Outcome, StoreError>>) {
        self.frame.clear();
        let index = self.shared.read();
        let mut decided = Group::new(&index, &self.cipher);
        let answers = group.into_iter().map(|txn| decided.add(txn, self.frame.payload())).collect();
        (index.revision() + 1, decided.into_effects(), answers)
    }

    /// Takes note of an error after which, unless it is a full disk, nothing may be written.
    fn failed(&mut self, error: StoreError) -> StoreError {
        let stopped = match error {
            StoreError::DiskFull(_) => return error,
            StoreError::Stopped(_) => error,
            other => StoreError::stopped(other.to_string()),
        };
        tracing::error!(error = %stopped, "no more writes until the store is opened again");
        self.stopped.get_or_insert(stopped).clone()
    }

    /// Forgets history before a revision.
    pub(crate) fn compact(&mut self, revision: Revision) -> Result<(), StoreError> {
        let mut index = self.shared.write();
        if revision > index.revision() {
            return Err(StoreError::Future { asked: revision, current: index.revision() });
        }
        index.compact(revision);
        drop(index);
        self.shared.changed();
        Ok(())
    }

    /// What is due after every change: history beyond its bounds goes, and perhaps a snapshot is begun.
    pub(crate) fn upkeep(&mut self) {
        self.snapshot_ended();
        let retention = self.options.retention;
        let now = (self.options.clock)();
        let mut index = self.shared.write();
        self.marks.note(now, index.revision(), retention.keep_for);
        if let Some(expired) = self.marks.expired(now, retention.keep_for) {
            index.compact(expired);
        }
        // A snapshot that is being written needs the versions of its revision.
        if self.running.is_none() {
            if let Some(excess) = index.excess(retention.max_events, retention.max_bytes) {
                index.compact(excess);
            }
            index.collect();
        }
        let compacted = index.compacted();
        drop(index);
        if self.running.is_none() && self.stopped.is_none() && self.snapshot_is_due(compacted) {
            self.begin_snapshot(compacted);
        }
    }

    fn snapshot_is_due(&self, compacted: Revision) -> bool {
        let enough =
            self.options.snapshot_after_bytes.max(self.last_snapshot_bytes).max(self.next_try).max(1);
        self.last_snapshot.is_none_or(|last| last < compacted) && self.log.reclaimable(compacted) >= enough
    }

    fn begin_snapshot(&mut self, revision: Revision) {
        let cancelled = Arc::new(AtomicBool::new(false));
        let work = {
            let (disk, cipher, shared) = (self.disk.clone(), self.cipher.clone(), self.shared.clone());
            let cancelled = cancelled.clone();
            move || {
                snapshot::write(&*disk, &cipher, revision, &cancelled, |after| {
                    Ok(shared.read().page("", after, revision, usize::MAX, SNAPSHOT_VISITS))
                })
            }
        };
        let Some(reports) = self.reports.clone() else {
            let result = work();
            return self.end_snapshot(revision, result);
        };
        let done = Arc::new(AtomicBool::new(false));
        let finished = done.clone();
        let spawned = std::thread::Builder::new().name("store-snapshot".to_owned()).spawn(move || {
            let result = work();
            finished.store(true, Ordering::Release);
            // Never waits, since the writer may be waiting for this thread. A writer that is busy looks by itself.
            if let Some(reports) = reports.upgrade()
                && reports.try_send(Message::SnapshotEnded).is_err()
            {
                tracing::trace!(revision, "the writer has enough to do");
            }
            result
        });
        match spawned {
            Ok(thread) => self.running = Some(Running { revision, cancelled, done, thread }),
            Err(error) => {
                self.end_snapshot(revision, Err(StoreError::io("starting a snapshot", error).into()))
            }
        }
    }

    /// Takes over the result of the snapshot that was being written, once there is one.
    pub(crate) fn snapshot_ended(&mut self) {
        // A thread that panicked has no result, but has ended.
        let over =
            |running: &mut Running| running.done.load(Ordering::Acquire) || running.thread.is_finished();
        if let Some(Running { revision, thread, .. }) = self.running.take_if(over) {
            self.end_snapshot(revision, joined(thread));
        }
    }

    /// Ends the snapshot that is being written, for the room that it takes. Says whether there was one.
    fn give_up_snapshot(&mut self) -> bool {
        let Some(Running { revision, cancelled, thread, .. }) = self.running.take() else { return false };
        cancelled.store(true, Ordering::Relaxed);
        let result = match joined(thread) {
            // As if it had found no room itself, so that the next one is not begun at once.
            Err(Failure::Cancelled) => {
                Err(StoreError::DiskFull("writing a snapshot, which gave way to the log".to_owned()).into())
            }
            result => result,
        };
        self.end_snapshot(revision, result);
        true
    }

    fn end_snapshot(&mut self, revision: Revision, result: Result<u64, Failure>) {
        let reclaimed = match result {
            Ok(bytes) => {
                tracing::debug!(revision, bytes, "wrote a snapshot");
                let old = self.last_snapshot.replace(revision);
                self.last_snapshot_bytes = bytes;
                self.next_try = 0;
                self.log.reclaim(revision, old)
            }
            Err(Failure::Cancelled) => Ok(()),
            Err(Failure::Error(error)) => {
                self.next_try =
                    self.log.reclaimable(revision) + (self.options.snapshot_after_bytes / 4).max(1);
                Err(error)
            }
        };
        match reclaimed {
            Ok(()) => {}
            Err(error @ StoreError::Stopped(_)) => {
                self.failed(error);
            }
            // Nothing is lost: the log that a snapshot would have replaced is still there.
            Err(error) => tracing::warn!(%error, revision, "no snapshot, or no room made by it"),
        }
    }

    /// Ends in good order. A snapshot that is being written is given up: durability does not depend on it.
    pub(crate) fn close(mut self) {
        if let Some(Running { revision, cancelled, thread, .. }) = self.running.take() {
            cancelled.store(true, Ordering::Relaxed);
            self.end_snapshot(revision, joined(thread));
        }
        if self.stopped.is_none() {
            let revision = self.shared.read().revision();
            if let Err(error) = recovery::mark(&mut self.log, revision) {
                tracing::warn!(%error, "the store was not closed in good order");
            }
        }
        self.shared.close();
    }
}

fn joined(thread: JoinHandle<Result<u64, Failure>>) -> Result<u64, Failure> {
    thread.join().unwrap_or_else(|_| Err(StoreError::stopped("writing a snapshot panicked").into()))
}
