//! Watches: one stream of everything that happens, which survives the member that it comes from.
//!
//! All keys are watched, whatever the prefix: then every revision shows up in the stream, and whoever waits for one
//! needs no progress notifications, which etcd before 3.4.31 gets wrong.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use tokio::time::Instant;

use super::Inner;
use super::failure::{Failure, classify};
use super::messages::{self, EventType, WatchCreateRequest, WatchResponse, revision, signed};
use super::transport::Member;
use super::txn;
use crate::StoreError;
use crate::api::{Batch, Event, Revision, Watch};

/// How long a member may take to begin.
const BEGIN: Duration = Duration::from_secs(3);
/// Between two attempts to find a member.
const PAUSE: Duration = Duration::from_millis(200);

/// A watch that begins after a revision which is known to be readable.
pub(crate) fn follow(inner: Arc<Inner>, prefix: &str, after: Revision) -> Watch {
    let follower = Follower { inner, prefix: prefix.into(), after, stream: None, held: Vec::new() };
    Watch::new(stream::unfold(Some(follower), |follower| async move {
        let mut follower = follower?;
        match follower.next().await {
            Ok(batch) => Some((Ok(batch), Some(follower))),
            Err(error) => Some((Err(error), None)),
        }
    }))
}

struct Follower {
    inner: Arc<Inner>,
    prefix: Box<str>,
    /// Everything up to here was told.
    after: Revision,
    stream: Option<(Member, tonic::Streaming<WatchResponse>)>,
    /// Events of a revision that may not be complete.
    held: Vec<messages::Event>,
}

impl Follower {
    async fn next(&mut self) -> Result<Batch, StoreError> {
        loop {
            let Some((member, stream)) = &mut self.stream else {
                self.connect().await;
                continue;
            };
            let answer = match stream.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => {
                    self.lost("it ended the watch");
                    continue;
                }
                Err(status) => {
                    self.lost(&classify(&status).words());
                    continue;
                }
            };
            if let Err(failure) = self.inner.cluster.note(&member.clone(), answer.header) {
                self.lost(&failure.words());
                continue;
            }
            if answer.compact_revision > 0 {
                let oldest = revision(answer.compact_revision);
                return Err(StoreError::Compacted { asked: self.after, oldest });
            }
            if answer.canceled {
                self.lost(&answer.cancel_reason);
                continue;
            }
            if let Some(batch) = self.take(answer.events, answer.fragment)? {
                return Ok(batch);
            }
        }
    }

    /// Finds a member that begins the watch, for as long as it takes.
    async fn connect(&mut self) {
        // What was held is told again.
        self.held.clear();
        let member = self.inner.cluster.preferred().clone();
        let create = everything_after(self.after);
        match tokio::time::timeout(BEGIN, member.watch(create)).await {
            Ok(Ok(stream)) => {
                tracing::debug!(member = %member.address, after = self.after, "watching etcd");
                self.stream = Some((member, stream));
                return;
            }
            Ok(Err(status)) => {
                tracing::debug!(member = %member.address, why = classify(&status).words(), "no watch");
            }
            Err(_) => tracing::debug!(member = %member.address, "no watch in time"),
        }
        self.inner.cluster.avoid(&member);
        tokio::time::sleep(PAUSE).await;
    }

    fn lost(&mut self, why: &str) {
        if let Some((member, _)) = self.stream.take() {
            tracing::info!(member = %member.address, after = self.after, why, "the watch on etcd goes on elsewhere");
            self.inner.cluster.avoid(&member);
        }
    }

    /// Whole transactions. In the middle of an answer the last one may have more to it.
    fn take(&mut self, events: Vec<messages::Event>, fragment: bool) -> Result<Option<Batch>, StoreError> {
        self.held.extend(events);
        let at = |event: &messages::Event| event.kv.as_ref().map_or(0, |kv| revision(kv.mod_revision));
        let Some(last) = self.held.last().map(at) else { return Ok(None) };
        let whole = if fragment {
            self.held.iter().position(|event| at(event) == last).unwrap_or(0)
        } else {
            self.held.len()
        };
        let Some(reached) = whole.checked_sub(1).map(|index| at(&self.held[index])) else { return Ok(None) };
        let mut told = Vec::new();
        for event in self.held.drain(..whole) {
            told.extend(translate(event, &self.prefix, &self.inner)?);
        }
        self.after = reached;
        Ok(Some(Batch { events: told, revision: reached }))
    }
}

fn everything_after(after: Revision) -> messages::WatchRequest {
    messages::WatchRequest {
        create: Some(WatchCreateRequest {
            key: vec![0],
            range_end: vec![0],
            start_revision: signed(after + 1),
            prev_kv: true,
            fragment: true,
        }),
    }
}

/// An event in our words; `None` when it is of another prefix.
fn translate(event: messages::Event, prefix: &str, inner: &Inner) -> Result<Option<Event>, StoreError> {
    let deleted = event.r#type == i32::from(EventType::Delete);
    let Some(kv) = event.kv else { return Ok(None) };
    if !kv.key.starts_with(prefix.as_bytes()) || kv.key == txn::OUTCOME.as_bytes() {
        return Ok(None);
    }
    let at = revision(kv.mod_revision);
    let key = txn::text(kv.key)?;
    let value = if deleted { None } else { Some(txn::opened(&key, kv.value, &inner.cipher, at)?) };
    let (prev_value, prev_revision) = match event.prev_kv {
        None => (None, 0),
        Some(before) => {
            let then = revision(before.mod_revision);
            (Some(txn::opened(&key, before.value, &inner.cipher, then)?), then)
        }
    };
    Ok(Some(Event { revision: at, key, value, prev_value, prev_revision }))
}

/// The revision after `base` at which the transaction of this name happened. The history of names is read up to `last`,
/// the newest one that is of interest.
pub(crate) async fn find(
    inner: &Inner,
    name: &[u8],
    base: Revision,
    last: Revision,
    deadline: Instant,
) -> Result<Option<Revision>, Failure> {
    let create = WatchCreateRequest {
        key: txn::OUTCOME.into(),
        start_revision: signed(base + 1),
        ..WatchCreateRequest::default()
    };
    let search = async {
        let member = inner.cluster.preferred().clone();
        let request = messages::WatchRequest { create: Some(create) };
        let mut stream = member.watch(request).await.map_err(|status| classify(&status))?;
        loop {
            let answer = stream.message().await.map_err(|status| classify(&status))?;
            let answer = answer.ok_or_else(|| Failure::Unknown("it ended the watch".to_owned()))?;
            inner.cluster.note(&member, answer.header)?;
            if answer.canceled {
                return Err(Failure::Unknown(answer.cancel_reason));
            }
            for kv in answer.events.into_iter().filter_map(|event| event.kv) {
                if kv.value == name {
                    return Ok(Some(revision(kv.mod_revision)));
                }
                if revision(kv.mod_revision) >= last {
                    return Ok(None);
                }
            }
        }
    };
    let late = |_| Err(Failure::Unknown("the history did not come in time".to_owned()));
    tokio::time::timeout_at(deadline, search).await.unwrap_or_else(late)
}
