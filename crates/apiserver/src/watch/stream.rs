//! One watch as the client sees it: initial events, changes, bookmarks and the end.
//!
//! A watch is pulled: nothing is encoded before the transport asks for more, so a client that does not read costs a
//! cursor and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::status::ApiError;
use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
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

/// Objects on their way into another version.
pub type Converting<'a> = BoxFuture<'a, Result<Vec<Arc<Cached>>, ApiError>>;

/// How a watch writes what it sends.
pub trait Render: Send + Sync {
    /// Objects as they are to be written, where that takes asking somebody; `None` where it does not.
    fn converted(&self, _objects: &[Arc<Cached>]) -> Option<Converting<'_>> {
        None
    }
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
    frame_of(&ApiError::too_old_resource_version(lost.asked, lost.oldest))
}

fn frame_of(error: &ApiError) -> Bytes {
    Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", error.to_value()))
}

/// Changes that are sent together.
#[derive(Default)]
struct Batch {
    kinds: Vec<&'static str>,
    objects: Vec<Arc<Cached>>,
    bytes: usize,
    /// What comes behind them and ends the watch.
    error: Option<Bytes>,
}

impl Batch {
    fn push(&mut self, kind: &'static str, object: Arc<Cached>) {
        self.bytes += object.bytes.len();
        self.kinds.push(kind);
        self.objects.push(object);
    }
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
        let initial = self.initial_batch();
        if let Some(bytes) = self.written(initial).await {
            return Some(bytes);
        }
        if self.ended {
            return None;
        }
        if let Some(revision) = self.initial_end.take() {
            return Some(self.bookmark(revision, true));
        }
        loop {
            let changes = self.changes();
            if let Some(bytes) = self.written(changes).await {
                return Some(bytes);
            }
            if self.ended {
                return None;
            }
            tokio::select! {
                biased;
                () = self.subscription.wait() => {}
                () = self.request.shutdown.cancelled() => return self.end().await,
                () = tokio::time::sleep_until(self.deadline) => return self.end().await,
                () = tokio::time::sleep_until(self.bookmark_at), if self.request.plan.bookmarks => {
                    self.bookmark_at = Instant::now() + BOOKMARK_EVERY;
                    if let Some(bytes) = self.progress().await {
                        return Some(bytes);
                    }
                }
            }
        }
    }

    fn initial_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < BATCH_BYTES {
            let Some(object) = self.initial.pop_front() else { break };
            batch.push("ADDED", object);
        }
        batch
    }

    /// What the cursor finds, as far as it is selected.
    fn changes(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < BATCH_BYTES {
            match self.subscription.take(BATCH, BATCH_BYTES - batch.bytes) {
                Next::Events(events) if events.is_empty() => break,
                Next::Events(events) => events.iter().for_each(|event| self.change(&mut batch, event)),
                Next::Ended => {
                    self.ended = true;
                    break;
                }
                Next::Lost(lost) => {
                    self.ended = true;
                    batch.error = Some(error_frame(lost));
                    break;
                }
            }
        }
        batch
    }

    /// A batch as it is sent, if there is anything in it. Whoever cannot be shown an object cannot be shown what comes after.
    async fn written(&mut self, batch: Batch) -> Option<Bytes> {
        let Batch { kinds, mut objects, bytes, error } = batch;
        if objects.is_empty() {
            return error;
        }
        let mut out = BytesMut::with_capacity(bytes + 64 * kinds.len());
        if let Some(converting) = self.request.render.converted(&objects) {
            let converted = self.request.shutdown.run_until_cancelled(converting).await;
            match converted {
                Some(Ok(converted)) => objects = converted,
                failed => {
                    self.ended = true;
                    return failed.and_then(Result::err).map(|error| frame_of(&error));
                }
            }
        }
        for (kind, object) in kinds.iter().zip(&objects) {
            self.write(&mut out, kind, object);
        }
        out.extend_from_slice(&error.unwrap_or_default());
        Some(out.freeze())
    }

    /// An object that leaves the selection is DELETED, with the last state that was selected at the revision of the
    /// change; one that enters is ADDED.
    fn change(&mut self, batch: &mut Batch, event: &Event) {
        if event.revision <= self.skip_until {
            return;
        }
        self.sent = self.sent.max(event.revision);
        let selected =
            |object: &Cached| self.request.plan.selection.matches(self.request.plan.cache.resource(), object);
        let now = !event.deleted && selected(&event.object);
        let before = event.previous.as_deref().is_some_and(selected);
        match (before, now, &event.previous) {
            (false, true, _) => batch.push("ADDED", event.object.clone()),
            (true, true, _) => batch.push("MODIFIED", event.object.clone()),
            (true, false, Some(previous)) => batch.push("DELETED", Arc::new(previous.at(event.revision))),
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
    async fn progress(&mut self) -> Option<Bytes> {
        // In this order: all changes up to `reached` are in the ring once `reached` is read.
        let reached = self.request.all.revision();
        let changes = self.changes();
        if let Some(bytes) = self.written(changes).await {
            return Some(bytes);
        }
        (reached > self.sent).then(|| self.bookmark(reached, false))
    }

    async fn end(&mut self) -> Option<Bytes> {
        self.ended = true;
        if self.request.plan.bookmarks { self.progress().await } else { None }
    }
}
