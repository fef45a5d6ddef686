//! The writer on a thread of its own, and the bounded queue before it.
//!
//! Group commit without a timer: while one group is being synced the next one gathers in the queue. Under low load
//! a group is one transaction and nobody waits for company.

use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::{mpsc, oneshot};

use crate::api::{Outcome, Revision, Txn};
use crate::writer::Writer;
use crate::{StoreError, group};

/// How many requests wait before those who make them do.
const QUEUE: usize = 1024;
/// A group is closed when it has so many transactions,
const GROUP: usize = 1024;
/// or so many bytes.
const GROUP_BYTES: usize = 4 << 20;

/// What the writer is asked.
pub(crate) enum Message {
    Commit(Txn, oneshot::Sender<Result<Outcome, StoreError>>),
    Compact(Revision, oneshot::Sender<Result<(), StoreError>>),
    SnapshotEnded,
}

/// The owner's end of the thread.
pub(crate) struct WriterThread {
    queue: Mutex<Option<mpsc::Sender<Message>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl WriterThread {
    pub(crate) fn start(mut writer: Writer) -> Result<WriterThread, StoreError> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        writer.report_to(sender.downgrade());
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || run(writer, receiver))
            .map_err(|error| StoreError::io("starting the store's writer", error))?;
        Ok(WriterThread { queue: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)) })
    }

    pub(crate) async fn commit(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.ask(|answer| Message::Commit(txn, answer)).await
    }

    pub(crate) async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.ask(|answer| Message::Compact(revision, answer)).await
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Message,
    ) -> Result<T, StoreError> {
        let ended = || StoreError::stopped("it is closed");
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(ended)?;
        let (answer, answered) = oneshot::channel();
        queue.send(message(answer)).await.map_err(|_| ended())?;
        drop(queue);
        answered.await.map_err(|_| StoreError::stopped("its writer failed"))?
    }

    /// Takes no more requests, and returns the thread, which ends once it has answered those that it has.
    pub(crate) fn close(&self) -> Option<JoinHandle<()>> {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

fn run(mut writer: Writer, mut queue: mpsc::Receiver<Message>) {
    while let Some(message) = queue.blocking_recv() {
        let mut group = Gathered::default();
        let mut next = Some(message);
        while let Some(message) = next {
            match message {
                Message::Commit(txn, answer) => group.add(txn, answer),
                Message::Compact(revision, answer) => {
                    group.carry_out(&mut writer);
                    answered(answer.send(writer.compact(revision)));
                }
                Message::SnapshotEnded => {
                    group.carry_out(&mut writer);
                    writer.snapshot_ended();
                }
            }
            next = if group.is_full() { None } else { queue.try_recv().ok() };
        }
        group.carry_out(&mut writer);
        writer.upkeep();
    }
    drop(queue);
    writer.close();
}

/// The transactions of a group and who waits for them.
#[derive(Default)]
struct Gathered {
    txns: Vec<Txn>,
    answers: Vec<oneshot::Sender<Result<Outcome, StoreError>>>,
    bytes: usize,
}

impl Gathered {
    fn add(&mut self, txn: Txn, answer: oneshot::Sender<Result<Outcome, StoreError>>) {
        self.bytes += group::size(&txn);
        self.txns.push(txn);
        self.answers.push(answer);
    }

    fn is_full(&self) -> bool {
        self.txns.len() >= GROUP || self.bytes >= GROUP_BYTES
    }

    fn carry_out(&mut self, writer: &mut Writer) {
        let Gathered { txns, answers, .. } = std::mem::take(self);
        if txns.is_empty() {
            return;
        }
        for (answer, result) in answers.into_iter().zip(writer.commit(txns)) {
            answered(answer.send(result));
        }
    }
}

fn answered<T>(sent: Result<(), T>) {
    if sent.is_err() {
        tracing::trace!("whoever asked has gone away; what was done is not undone");
    }
}
