//! A shared cache of one kind that follows the API: list, then watch from there; after a gap (410) list again and deliver
//! the difference. Objects are decoded once and shared; order is that of keys, never of hashing.
//!
//! While the API server is away the last view stays. Handlers see every object that comes, changes or goes, but not every
//! state in between: reconcile from the cache, not from the change.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use futures::TryStreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use kube::api::{ListParams, WatchParams};
use kube::core::{DynamicObject, PartialObjectMeta, WatchEvent};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ObjectKey;
use crate::api::{Api, List, MetadataApi, Object};
use crate::cache::Cache;

/// Which objects of the kind are followed. The default is all of them.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Label selector, in string form.
    pub labels: Option<String>,
    /// Field selector, in string form.
    pub fields: Option<String>,
}

/// One object's change. `old` is absent when it is new, `new` when it is gone.
#[derive(Debug)]
pub struct Change<'a, K> {
    /// The state that was known before.
    pub old: Option<&'a Arc<K>>,
    /// The state that is known now.
    pub new: Option<&'a Arc<K>>,
}

impl<'a, K> Change<'a, K> {
    /// The newest state there is: the new one, or the last one of an object that is gone.
    pub fn latest(&self) -> &'a Arc<K> {
        self.new.or(self.old).expect("a change has a state before it or after it")
    }
}

type Handler<K> = Box<dyn Fn(Change<'_, K>) + Send + Sync>;
type Pending<'a, T> = Pin<Box<dyn Future<Output = kube::Result<T>> + Send + 'a>>;

/// Items in one page of a list.
const PAGE: u32 = 500;
/// Seconds after which the server ends a watch, which is then resumed.
const WATCH_SECONDS: u32 = 290;
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_LAST: Duration = Duration::from_secs(10);

/// A shared, cheaply cloned handle of the cache.
pub struct Informer<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for Informer<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// The objects of a cache by what they say of themselves, such as their node. Cheaply cloned.
pub struct Index<K> {
    shared: Arc<Shared<K>>,
    number: usize,
}

impl<K> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), number: self.number }
    }
}

impl<K> Index<K> {
    /// The objects with this value, in the order of their keys.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.shared.cache().indexed(self.number, value)
    }

    /// How many objects have this value.
    pub fn count(&self, value: &str) -> usize {
        self.shared.cache().count(self.number, value)
    }
}

struct Shared<K> {
    cache: RwLock<Cache<K>>,
    /// Held while a change is stored and delivered, so that all handlers see all changes in one order.
    handlers: Mutex<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
    revision: watch::Sender<u64>,
}

/// Where objects come from: the API as typed objects, or as metadata only.
trait Source<K: Clone>: Send + Sync + 'static {
    fn list<'a>(&'a self, parameters: &'a ListParams) -> Pending<'a, List<K>>;
    fn watch<'a>(
        &'a self,
        parameters: &'a WatchParams,
        from: &'a str,
    ) -> Pending<'a, BoxStream<'static, kube::Result<WatchEvent<K>>>>;
}

struct Whole<K>(Api<K>);
struct MetadataOnly(MetadataApi);

impl<K: Object> Source<K> for Whole<K> {
    fn list<'a>(&'a self, parameters: &'a ListParams) -> Pending<'a, List<K>> {
        Box::pin(self.0.list(parameters))
    }

    fn watch<'a>(
        &'a self,
        parameters: &'a WatchParams,
        from: &'a str,
    ) -> Pending<'a, BoxStream<'static, kube::Result<WatchEvent<K>>>> {
        Box::pin(self.0.watch(parameters, from))
    }
}

impl Source<PartialObjectMeta<DynamicObject>> for MetadataOnly {
    fn list<'a>(&'a self, parameters: &'a ListParams) -> Pending<'a, List<PartialObjectMeta<DynamicObject>>> {
        Box::pin(self.0.list(parameters))
    }

    fn watch<'a>(
        &'a self,
        parameters: &'a WatchParams,
        from: &'a str,
    ) -> Pending<'a, BoxStream<'static, kube::Result<WatchEvent<PartialObjectMeta<DynamicObject>>>>> {
        Box::pin(self.0.watch(parameters, from))
    }
}

impl Informer<PartialObjectMeta<DynamicObject>> {
    /// Follows any kind by the metadata of its objects alone.
    pub fn start_metadata(
        tasks: &TaskTracker,
        shutdown: CancellationToken,
        api: kube::Api<DynamicObject>,
        selection: Selection,
    ) -> Self {
        Self::spawn(tasks, shutdown, MetadataOnly(MetadataApi::new(api)), selection)
    }
}

impl<K: Object> Informer<K> {
    /// Follows a kind until shutdown, on a task of `tasks`.
    pub fn start(
        tasks: &TaskTracker,
        shutdown: CancellationToken,
        api: Api<K>,
        selection: Selection,
    ) -> Self {
        Self::spawn(tasks, shutdown, Whole(api), selection)
    }

    fn spawn(
        tasks: &TaskTracker,
        shutdown: CancellationToken,
        source: impl Source<K>,
        selection: Selection,
    ) -> Self {
        let shared = Arc::new(Shared {
            cache: RwLock::default(),
            handlers: Mutex::default(),
            synced: watch::Sender::new(false),
            revision: watch::Sender::new(0),
        });
        let follower = Follower { shared: shared.clone(), source, selection };
        // Boxed, so that not every kind gets a copy of the machinery of tasks.
        let work: BoxFuture<'static, ()> = Box::pin(follower.run());
        tasks.spawn(shutdown.run_until_cancelled_owned(work));
        Self { shared }
    }

    /// Returns when the first list has been delivered.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        if synced.wait_for(|synced| *synced).await.is_err() {
            unreachable!("this handle keeps the sender");
        }
    }

    /// Whether the first list has been delivered.
    pub fn has_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// The newest resourceVersion that the cache has seen.
    pub fn revision(&self) -> u64 {
        *self.shared.revision.borrow()
    }

    /// Returns when the cache has seen a resourceVersion.
    pub async fn reached(&self, revision: u64) {
        let mut seen = self.shared.revision.subscribe();
        if seen.wait_for(|seen| *seen >= revision).await.is_err() {
            unreachable!("this handle keeps the sender");
        }
    }

    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.cache().objects().get(key).cloned()
    }

    /// All objects, in the order of their keys.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.cache().objects().values().cloned().collect()
    }

    /// The objects of a namespace, in the order of their names.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        let cache = self.shared.cache();
        let from = ObjectKey::new(namespace, "");
        cache
            .objects()
            .range(from..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.cache().objects().len()
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Keeps the objects sorted by what `values` says of each, from now on. Indices change together with the cache: what
    /// [`Informer::revision`] says was seen is in them.
    pub fn index(&self, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        let number = self.shared.cache_mut().index(Box::new(values));
        Index { shared: self.shared.clone(), number }
    }

    /// Calls `handler` for every object that is there, as new, and from then on for every change, in order. The handler
    /// runs on the informer's task: it queues keys and returns. It must not register handlers.
    pub fn on_change(&self, handler: impl Fn(Change<'_, K>) + Send + Sync + 'static) {
        let mut handlers = self.shared.handlers();
        for object in self.list() {
            handler(Change { old: None, new: Some(&object) });
        }
        handlers.push(Box::new(handler));
    }
}

impl<K> Shared<K> {
    fn cache(&self) -> RwLockReadGuard<'_, Cache<K>> {
        self.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn cache_mut(&self) -> RwLockWriteGuard<'_, Cache<K>> {
        self.cache.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn handlers(&self) -> MutexGuard<'_, Vec<Handler<K>>> {
        self.handlers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Object> Shared<K> {
    /// Stores one change, notes its revision, then delivers it.
    fn apply(&self, key: ObjectKey, new: Option<Arc<K>>, revision: u64) {
        let handlers = self.handlers();
        let old = self.cache_mut().store(key, new.clone());
        self.see(revision);
        deliver(&handlers, old.as_ref(), new.as_ref());
    }

    /// The cache becomes what a list said; what is gone, new or different is delivered.
    fn replace(&self, items: Vec<K>, revision: u64) {
        let handlers = self.handlers();
        let mut gone: BTreeMap<ObjectKey, Arc<K>> = self.cache().objects().clone();
        let mut changes = Vec::new();
        for object in items {
            let key = ObjectKey::of(&object);
            let known = gone.remove(&key);
            let same = known.as_ref().is_some_and(|known| {
                known.meta().resource_version == object.meta().resource_version
                    && known.meta().uid == object.meta().uid
            });
            if !same {
                let object = Arc::new(object);
                self.cache_mut().store(key, Some(object.clone()));
                changes.push((known, Some(object)));
            }
        }
        for (key, object) in gone {
            self.cache_mut().store(key, None);
            changes.push((Some(object), None));
        }
        self.see(revision);
        for (old, new) in &changes {
            deliver(&handlers, old.as_ref(), new.as_ref());
        }
    }

    /// Notes a revision: after what it brought is stored, so that whoever finds it seen finds that too, and before it is
    /// delivered, so that a reconciler woken by a change finds it seen.
    fn see(&self, revision: u64) {
        self.revision.send_if_modified(|seen| {
            let newer = revision > *seen;
            *seen = revision.max(*seen);
            newer
        });
    }
}

fn deliver<K>(handlers: &[Handler<K>], old: Option<&Arc<K>>, new: Option<&Arc<K>>) {
    if old.is_none() && new.is_none() {
        return;
    }
    for handler in handlers {
        handler(Change { old, new });
    }
}

/// A resourceVersion as a number. Ours are numbers; another server's may only be compared for equality.
fn revision(version: Option<&str>) -> u64 {
    version.and_then(|version| version.parse().ok()).unwrap_or(0)
}

struct Follower<K, S> {
    shared: Arc<Shared<K>>,
    source: S,
    selection: Selection,
}

/// Why following stopped.
enum Gap {
    /// The server no longer has the changes that we miss: list again.
    Expired,
    /// The connection, or the server, failed: go on from where we were.
    Failed(kube::Error),
    /// The server ended the watch in good order.
    Ended,
}

impl<K: Object, S: Source<K>> Follower<K, S> {
    async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let mut version = self.list_until_done(&mut backoff).await;
            loop {
                let began = Instant::now();
                let gap = self.watch(&mut version).await;
                // A watch that lived for a while was a success, whatever ended it.
                if began.elapsed() > BACKOFF_LAST {
                    backoff.reset();
                }
                match gap {
                    Gap::Expired => break,
                    Gap::Ended if began.elapsed() > Duration::from_secs(1) => {}
                    Gap::Ended => backoff.wait().await,
                    Gap::Failed(error) => {
                        tracing::debug!(kind = std::any::type_name::<K>(), %error, "watch failed; resuming");
                        backoff.wait().await;
                    }
                }
            }
        }
    }

    async fn list_until_done(&self, backoff: &mut Backoff) -> String {
        loop {
            match self.list().await {
                Ok(version) => {
                    backoff.reset();
                    self.shared.synced.send_replace(true);
                    return version;
                }
                Err(error) => {
                    tracing::warn!(kind = std::any::type_name::<K>(), %error, "list failed; trying again");
                    backoff.wait().await;
                }
            }
        }
    }

    /// Lists page by page and replaces the cache; returns the resourceVersion to watch from.
    async fn list(&self) -> kube::Result<String> {
        let mut parameters = ListParams::default().limit(PAGE);
        parameters.label_selector.clone_from(&self.selection.labels);
        parameters.field_selector.clone_from(&self.selection.fields);
        let mut items = Vec::new();
        loop {
            let page = self.source.list(&parameters).await?;
            items.extend(page.items);
            match page.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => parameters.continue_token = Some(token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    self.shared.replace(items, revision(Some(&version)));
                    return Ok(version);
                }
            }
        }
    }

    /// Follows changes from `version`, which moves along.
    async fn watch(&self, version: &mut String) -> Gap {
        let mut parameters = WatchParams::default().timeout(WATCH_SECONDS);
        parameters.label_selector.clone_from(&self.selection.labels);
        parameters.field_selector.clone_from(&self.selection.fields);
        let mut events = match self.source.watch(&parameters, version).await {
            Ok(events) => events,
            Err(error) => return gap(error),
        };
        loop {
            match events.try_next().await {
                Ok(Some(WatchEvent::Added(object) | WatchEvent::Modified(object))) => {
                    let seen = advance(version, object.meta().resource_version.as_deref());
                    self.shared.apply(ObjectKey::of(&object), Some(Arc::new(object)), seen);
                }
                Ok(Some(WatchEvent::Deleted(object))) => {
                    let seen = advance(version, object.meta().resource_version.as_deref());
                    self.shared.apply(ObjectKey::of(&object), None, seen);
                }
                Ok(Some(WatchEvent::Bookmark(bookmark))) => {
                    let seen = advance(version, Some(&bookmark.metadata.resource_version));
                    self.shared.see(seen);
                }
                Ok(Some(WatchEvent::Error(status))) => return gap(kube::Error::Api(status)),
                Ok(None) => return Gap::Ended,
                Err(error) => return gap(error),
            }
        }
    }
}

/// Moves the version to watch from along; returns it as a number.
fn advance(version: &mut String, to: Option<&str>) -> u64 {
    if let Some(to) = to.filter(|to| !to.is_empty()) {
        to.clone_into(version);
    }
    revision(Some(version))
}

fn gap(error: kube::Error) -> Gap {
    match &error {
        kube::Error::Api(status) if status.code == 410 => Gap::Expired,
        _ => Gap::Failed(error),
    }
}

/// Waits longer and longer while nothing succeeds.
#[derive(Default)]
struct Backoff {
    failures: u32,
}

impl Backoff {
    async fn wait(&mut self) {
        let delay = BACKOFF_FIRST.saturating_mul(1 << self.failures.min(16)).min(BACKOFF_LAST);
        self.failures += 1;
        tokio::time::sleep(delay).await;
    }

    fn reset(&mut self) {
        self.failures = 0;
    }
}
