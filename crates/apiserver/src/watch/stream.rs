//! One watch as the client sees it: initial events, changes, bookmarks and the end.
//!
//! A watch is pulled: nothing is encoded before the transport asks for more, so a client that does not read costs a
//! cursor and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::status::ApiError;
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cache::Cache;
use super::object::Cached;
use super::resource::{Event, Next, ResourceCache, Subscription, TooOld};
use super::selection::Selection;
use crate::types::{Body, BoxError};

/// Events that are looked at in one go.
const BATCH: usize = 64;
/// Bytes after which a batch is sent.
const BATCH_BYTES: usize = 64 << 10;
/// How often a quiet watch is told how far it is.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With an ADDED for every object that exists.
    Initial,
    /// At the present.
    Now,
    /// After a revision.
    After(u64),
}

/// How a watch writes what it sends.
pub trait Render: Send + Sync {
    /// Appends an object.
    fn object(&self, object: &Cached, out: &mut BytesMut);
    /// Appends the object of a bookmark.
    fn bookmark(&self, revision: u64, initial_end: bool, out: &mut BytesMut);
}

/// What is watched.
pub struct WatchPlan {
    /// The cache of the resource.
    pub cache: Arc<ResourceCache>,
    /// Which objects.
    pub selection: Selection,
    /// From where.
    pub start: Start,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// Send `k8s.io/initial-events-end` after the initial events.
    pub mark_initial_end: bool,
    /// How long the watch lasts.
    pub timeout: Duration,
}

impl WatchPlan {
    /// The watch, written by `render`, until `shutdown`.
    pub fn with(self, all: Arc<Cache>, render: Arc<dyn Render>, shutdown: CancellationToken) -> WatchRequest {
        WatchRequest { plan: self, all, render, shutdown }
    }
}

/// What is watched and how it is sent.
pub struct WatchRequest {
    /// What is watched.
    plan: WatchPlan,
    /// The cache of everything, for how far bookmarks may say that it got.
    all: Arc<Cache>,
    /// How objects are written.
    render: Arc<dyn Render>,
    /// Ends all watches.
    shutdown: CancellationToken,
}

/// Starts a watch and returns the body that carries it.
pub fn watch_body(request: WatchRequest) -> Body {
    let watcher = match Watcher::new(request) {
        Ok(watcher) => watcher,
        // Once a watch is authorized and well-formed, what goes wrong is an event of it.
        Err(lost) => return Full::new(error_frame(lost)).map_err(|never| match never {}).boxed_unsync(),
    };
    let stream = futures::stream::unfold(watcher, |mut watcher| async move {
        let bytes = watcher.next().await?;
        Some((Ok::<_, BoxError>(http_body::Frame::data(bytes)), watcher))
    });
    StreamBody::new(stream).boxed_unsync()
}

/// The ERROR event that tells a client to list again.
fn error_frame(lost: TooOld) -> Bytes {
    let error = ApiError::too_old_resource_version(lost.asked, lost.oldest);
    Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", error.to_value()))
}

struct Watcher {
    request: WatchRequest,
    initial: VecDeque<Arc<Cached>>,
    initial_end: Option<u64>,
    subscription: Subscription,
    /// Changes up to here were seen by the client before.
    skip_until: u64,
    /// The newest revision that the client knows.
    sent: u64,
    deadline: Instant,
    bookmark_at: Instant,
    ended: bool,
}

impl Watcher {
    fn new(request: WatchRequest) -> Result<Watcher, TooOld> {
        let mut initial = VecDeque::new();
        let mut skip_until = 0;
        // Read before the cursor is made: everything up to here is in what the cursor starts from.
        let reached = request.all.revision();
        let (subscription, sent) = match request.plan.start {
            Start::Initial => {
                let (objects, subscription) = request.plan.cache.list_and_subscribe(&request.plan.selection);
                initial = objects.into();
                (subscription, reached)
            }
            Start::Now => (request.plan.cache.subscribe(&request.plan.selection, None)?, reached),
            Start::After(revision) => {
                skip_until = revision;
                (request.plan.cache.subscribe(&request.plan.selection, Some(revision))?, revision)
            }
        };
        let now = Instant::now();
        Ok(Watcher {
            initial,
            initial_end: request.plan.mark_initial_end.then_some(sent),
            subscription,
            skip_until,
            sent,
            deadline: now + request.plan.timeout,
            bookmark_at: now + BOOKMARK_EVERY,
            ended: false,
            request,
        })
    }

    /// The next bytes, or `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(bytes) = self.initial_batch() {
            return Some(bytes);
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(self.bookmark(revision, true));
        }
        loop {
            if let Some(bytes) = self.changes() {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                () = self.subscription.wait() => {}
                () = self.request.shutdown.cancelled() => return self.end(),
                () = tokio::time::sleep_until(self.deadline) => return self.end(),
                () = tokio::time::sleep_until(self.bookmark_at), if self.request.plan.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                    if let Some(bytes) = self.progress() {
                        return Some(bytes);
                    }
                }
            }
        }
    }

    fn initial_batch(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < BATCH_BYTES {
            let Some(object) = self.initial.pop_front() else { break };
            self.write(&mut out, "ADDED", &object);
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Encodes what the cursor finds, if anything in it is selected.
    fn changes(&mut self) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while out.len() < BATCH_BYTES {
            match self.subscription.take(BATCH, BATCH_BYTES - out.len()) {
                Next::Events(events) if events.is_empty() => break,
                Next::Events(events) => events.iter().for_each(|event| self.change(&mut out, event)),
                Next::Ended => {
                    self.ended = true;
                    break;
                }
                Next::Lost(lost) => {
                    self.ended = true;
                    out.extend_from_slice(&error_frame(lost));
                    break;
                }
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// An object that leaves the selection is DELETED, with the last state that was selected at the revision of the
    /// change; one that enters is ADDED.
    fn change(&mut self, out: &mut BytesMut, event: &Event) {
        if event.revision <= self.skip_until {
            return;
        }
        self.sent = self.sent.max(event.revision);
        let selected =
            |object: &Cached| self.request.plan.selection.matches(self.request.plan.cache.resource(), object);
        let now = !event.deleted && selected(&event.object);
        let before = event.previous.as_deref().is_some_and(selected);
        match (before, now, &event.previous) {
            (false, true, _) => self.write(out, "ADDED", &event.object),
            (true, true, _) => self.write(out, "MODIFIED", &event.object),
            (true, false, Some(previous)) => self.write(out, "DELETED", &previous.at(event.revision)),
            _ => {}
        }
    }

    fn write(&self, out: &mut BytesMut, kind: &str, object: &Cached) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        self.request.render.object(object, out);
        out.extend_from_slice(b"}\n");
    }

    fn bookmark(&mut self, revision: u64, initial_end: bool) -> Bytes {
        self.sent = self.sent.max(revision);
        let mut out = BytesMut::new();
        out.extend_from_slice(b"{\"type\":\"BOOKMARK\",\"object\":");
        self.request.render.bookmark(revision, initial_end, &mut out);
        out.extend_from_slice(b"}\n");
        out.freeze()
    }

    /// A bookmark, or the changes that came before one could be sent.
    fn progress(&mut self) -> Option<Bytes> {
        // In this order: all changes up to `reached` are in the ring once `reached` is read.
        let reached = self.request.all.revision();
        if let Some(bytes) = self.changes() {
            return Some(bytes);
        }
        (reached > self.sent).then(|| self.bookmark(reached, false))
    }

    fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        if self.request.plan.bookmarks { self.progress() } else { None }
    }
}
