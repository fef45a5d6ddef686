//! The feeder: one watch on the store, sorted into the caches of the resources.
//!
//! Definitions are seen here first. What one defines is served before anybody can see that it is established: its cache is
//! filled with what the store holds at the definition's own revision, and goes on from there as all do. A definition that
//! changes what objects look like ends their watches, as its own end does.
//!
//! When the store's watch is lost (it was compacted past us, or we lagged), the store is listed again and the difference is published
//! as events: watchers may miss states in between, never the last one.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use api_machinery::resource::Resource;
use api_machinery::status::{ApiError, Cause};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use store::{ListOptions, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::object::Cached;
use super::resource::ResourceCache;
use super::selection::Selection;
use crate::catalog::{Catalog, GroupResource, REGISTRY, key};
use crate::custom::{Change, Custom, DEFINITIONS};
use crate::request::commit::store_error;
use crate::types::Lookup;

/// How long a read waits for the cache to catch up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Items that are listed from the store at a time.
const PAGE: usize = 500;
/// Wait before the store is asked again after it failed.
const RETRY: Duration = Duration::from_millis(200);

/// How much is known of the store's newest state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Everything that was committed before the question.
    Newest,
    /// What was known when the store's quorum was lost.
    LastKnown,
}

impl Freshness {
    /// What a client is told who asked for the newest state.
    pub fn warnings(self) -> Vec<String> {
        match self {
            Freshness::Newest => Vec::new(),
            Freshness::LastKnown => vec![
                "the store has no quorum: this is the last known state and may be out of date".to_owned(),
            ],
        }
    }
}

/// All watch caches.
pub struct Cache {
    store: Arc<dyn Store>,
    /// Whether the last known state will do while the store has no quorum.
    stale: bool,
    /// Of built-in resources, by prefix.
    built_in: Resources,
    /// Of what definitions define.
    custom: RwLock<Resources>,
    catalog: RwLock<Arc<Catalog>>,
    revision: watch::Sender<u64>,
}

/// By the prefix of their keys.
type Resources = BTreeMap<String, Arc<ResourceCache>>;
/// The objects of each resource, by prefix and key.
type Listed = BTreeMap<String, BTreeMap<String, Cached>>;

impl Cache {
    /// Lists the store and starts with what it holds. `stale` says whether the last known state will do where the newest is
    /// asked for, while the store has no quorum.
    pub async fn load(
        store: Arc<dyn Store>,
        catalog: Catalog,
        stale: bool,
    ) -> Result<Arc<Cache>, StoreError> {
        let built_in = catalog
            .stored()
            .into_iter()
            .map(|(name, resource)| (name.prefix(), Arc::new(ResourceCache::new(resource))))
            .collect();
        let catalog = RwLock::new(Arc::new(catalog));
        let (custom, revision) = (RwLock::default(), watch::Sender::new(0));
        let cache = Cache { store, stale, built_in, custom, catalog, revision };
        let (mut listed, revision) = cache.list_store().await?;
        for (prefix, resource) in cache.all() {
            let objects = listed.remove(&prefix).unwrap_or_default();
            resource.fill(objects.into_values().collect(), revision);
        }
        cache.revision.send_replace(revision);
        Ok(Arc::new(cache))
    }

    /// What there is, as far as the cache has seen.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn custom(&self) -> RwLockReadGuard<'_, Resources> {
        self.custom.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn custom_mut(&self) -> RwLockWriteGuard<'_, Resources> {
        self.custom.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn all(&self) -> Vec<(String, Arc<ResourceCache>)> {
        let custom = self.custom();
        self.built_in
            .iter()
            .chain(custom.iter())
            .map(|(prefix, cache)| (prefix.clone(), cache.clone()))
            .collect()
    }

    /// The revision that every resource's cache has reached.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// The cache of a resource.
    pub fn resource(&self, resource: &Resource) -> Option<Arc<ResourceCache>> {
        self.by_name(&resource.group, &resource.plural)
    }

    fn by_name(&self, group: &str, plural: &str) -> Option<Arc<ResourceCache>> {
        let prefix = GroupResource::new(group, plural).prefix();
        let built_in = self.built_in.get(&prefix).cloned();
        built_in.or_else(|| self.custom().get(&prefix).cloned())
    }

    /// Waits until the cache has reached `revision`; a revision from the future is an error after a while.
    pub async fn reach(&self, revision: u64) -> Result<(), ApiError> {
        let mut reached = self.revision.subscribe();
        if *reached.borrow_and_update() >= revision {
            return Ok(());
        }
        match tokio::time::timeout(PATIENCE, reached.wait_for(|now| *now >= revision)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(too_large(revision, self.revision())),
        }
    }

    /// Waits until the cache holds everything that was committed before the call, by whichever server.
    pub async fn catch_up(&self) -> Result<Freshness, ApiError> {
        match self.store.newest_revision().await {
            Ok(newest) => self.reach(newest).await.map(|()| Freshness::Newest),
            Err(error) => self.despite(error),
        }
    }

    /// Whether a read may go on with the last known state after the store failed.
    pub fn despite(&self, error: StoreError) -> Result<Freshness, ApiError> {
        if self.stale && matches!(error, StoreError::Unavailable(_)) {
            tracing::debug!(%error, "a read is answered with the last known state");
            return Ok(Freshness::LastKnown);
        }
        Err(store_error(error))
    }

    /// The selected objects and the revision of which they are the exact state.
    pub async fn snapshot(
        &self,
        resource: &ResourceCache,
        selection: &Selection,
    ) -> Result<(Vec<Arc<Cached>>, u64), ApiError> {
        loop {
            let revision = self.revision();
            let (objects, changed) = resource.list_at(selection);
            // The feeder may be in the middle of a revision; then wait until it is through.
            if changed <= revision {
                return Ok((objects, revision));
            }
            self.reach(changed).await?;
        }
    }

    /// Everything that the store holds, after what definitions say of it.
    async fn list_store(&self) -> Result<(Listed, u64), StoreError> {
        let mut definitions = BTreeMap::new();
        let revision = self
            .each(DEFINITIONS, None, |item| {
                let name = item.key.strip_prefix(DEFINITIONS).unwrap_or_default().to_owned();
                definitions.insert(name, (item.value, item.mod_revision));
            })
            .await?;
        self.define_all(&definitions, revision);
        let mut listed = Listed::new();
        self.each(REGISTRY, Some(revision), |item| {
            if let Some((prefix, _, key)) = self.place(&item.key) {
                let object = Cached::new(key, item.value, item.mod_revision);
                listed.entry(prefix.to_owned()).or_default().insert(key.to_owned(), object);
            }
        })
        .await?;
        Ok((listed, revision))
    }

    /// Every item below a prefix, at one revision, which is the answer.
    async fn each(
        &self,
        prefix: &str,
        mut at: Option<u64>,
        mut visit: impl FnMut(store::Item),
    ) -> Result<u64, StoreError> {
        let mut after: Option<Arc<str>> = None;
        loop {
            let options = ListOptions { at, limit: PAGE, after: after.as_deref() };
            let page = self.store.list(prefix, options).await?;
            at = Some(page.revision);
            after = page.items.last().map(|item| item.key.clone());
            page.items.into_iter().for_each(&mut visit);
            if !page.more {
                return Ok(page.revision);
            }
        }
    }

    /// The resource that a key belongs to, its prefix, and the key below that.
    fn place<'a>(&self, key: &'a str) -> Option<(&'a str, Arc<ResourceCache>, &'a str)> {
        let below = key.strip_prefix(REGISTRY)?;
        let first = below.find('/')?;
        let second = below[first + 1..].find('/').map(|at| first + 1 + at);
        let mut places = [Some(first), second].into_iter().flatten();
        let found = places.clone().find_map(|slash| {
            let (prefix, rest) = key.split_at(REGISTRY.len() + slash + 1);
            Some((prefix, self.built_in.get(prefix)?.clone(), rest))
        });
        found.or_else(|| {
            let custom = self.custom();
            places.find_map(|slash| {
                let (prefix, rest) = key.split_at(REGISTRY.len() + slash + 1);
                Some((prefix, custom.get(prefix)?.clone(), rest))
            })
        })
    }

    /// Takes note of all definitions at once. What is new has an empty cache, which the caller fills.
    fn define_all(&self, definitions: &BTreeMap<String, (Bytes, u64)>, revision: u64) {
        let catalog = self.catalog();
        for custom in catalog.customs().filter(|custom| !definitions.contains_key(&*custom.name)) {
            self.define(&custom.name, None, Vec::new(), revision);
        }
        for (name, (bytes, at)) in definitions {
            let change = Change::of(&self.catalog(), name, Some((bytes, *at)));
            if let Some(change) = change {
                self.define(name, change.custom, Vec::new(), revision);
            }
        }
    }

    /// Takes note of what a definition, or its end, changes. `objects` are those that there are of a new resource.
    fn define(&self, name: &str, custom: Option<Arc<Custom>>, objects: Vec<Cached>, revision: u64) {
        let Some((plural, group)) = name.split_once('.') else { return };
        let prefix = GroupResource::new(group, plural).prefix();
        if self.built_in.contains_key(&prefix) {
            tracing::warn!(name, "a definition of a built-in resource changes nothing");
            return;
        }
        let known = self.custom().get(&prefix).map(|cache| cache.resource().clone());
        match &custom {
            // Only what is around the objects has changed, such as their definition's condition.
            Some(custom) if known.is_some_and(|known| Arc::ptr_eq(&known, &custom.cached)) => {}
            Some(custom) => {
                let cache = Arc::new(ResourceCache::new(custom.cached.clone()));
                cache.fill(objects, revision);
                let replaced = self.custom_mut().insert(prefix.clone(), cache);
                replaced.into_iter().for_each(|old| old.end());
            }
            None => {}
        }
        let gone = custom.is_none();
        {
            let mut catalog = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            *catalog = Arc::new(catalog.with(group, plural, custom));
        }
        if gone {
            self.custom_mut().remove(&prefix).into_iter().for_each(|old| old.end());
        }
    }

    /// A definition has changed at this revision: whoever sees it from here on can use what it defines.
    async fn redefine(&self, name: &str, value: Option<&Bytes>, revision: u64) -> Result<(), StoreError> {
        let change = Change::of(&self.catalog(), name, value.map(|bytes| (bytes, revision)));
        let Some(Change { custom, reload }) = change else { return Ok(()) };
        let mut objects = Vec::new();
        if let (Some(custom), true) = (&custom, reload) {
            let prefix = custom.prefix();
            let add = |item: store::Item| {
                let key = item.key.strip_prefix(prefix.as_str()).unwrap_or_default();
                objects.push(Cached::new(key, item.value.clone(), item.mod_revision));
            };
            self.each(&prefix, Some(revision), add).await?;
        }
        self.define(name, custom, objects, revision);
        Ok(())
    }

    /// Follows the store until `shutdown`.
    pub async fn follow(self: Arc<Self>, shutdown: CancellationToken) {
        while let Some(error) = shutdown.run_until_cancelled(self.follow_once()).await {
            tracing::warn!(%error, "the watch on the store was lost; listing it again");
            if shutdown.run_until_cancelled(self.relist()).await.is_none() {
                return;
            }
        }
    }

    async fn follow_once(&self) -> StoreError {
        let mut events = match self.store.watch("/", self.revision()).await {
            Ok(events) => events,
            Err(error) => return error,
        };
        loop {
            let batch = match events.next_batch().await {
                Some(Ok(batch)) => batch,
                Some(Err(error)) => return error,
                None => return StoreError::Stopped("its watch ended".to_owned()),
            };
            for event in batch.events {
                if let Some(name) = event.key.strip_prefix(DEFINITIONS)
                    && let Err(error) = self.redefine(name, event.value.as_ref(), event.revision).await
                {
                    return error;
                }
                if let Some((_, cache, key)) = self.place(&event.key) {
                    match event.value {
                        Some(value) => cache.put(Cached::new(key, value, event.revision)),
                        None => cache.delete(key, event.revision),
                    }
                }
            }
            self.revision.send_replace(batch.revision);
        }
    }

    /// Publishes the difference between the cache and the store.
    async fn relist(&self) {
        let (mut listed, revision) = loop {
            match self.list_store().await {
                Ok(listed) => break listed,
                Err(error) => {
                    tracing::error!(%error, "the store cannot be listed");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        for (prefix, cache) in self.all() {
            let objects = listed.remove(&prefix).unwrap_or_default();
            match cache.oldest() == revision && cache.changed_at() == revision {
                // It was made for what was just listed.
                true => cache.fill(objects.into_values().collect(), revision),
                false => cache.catch_up_with(objects, revision),
            }
        }
        self.revision.send_replace(revision);
    }
}

/// Upstream's answer to a resource version from the future.
fn too_large(asked: u64, current: u64) -> ApiError {
    ApiError::timeout(format_args!("Too large resource version: {asked}, current: {current}"), 1).with_cause(
        Cause {
            reason: "ResourceVersionTooLarge".to_owned(),
            message: "Too large resource version".to_owned(),
            field: String::new(),
        },
    )
}

#[async_trait]
impl Lookup for Cache {
    async fn get(
        &self,
        group: &str,
        plural: &str,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<Value>>, ApiError> {
        let Some(cache) = self.by_name(group, plural) else { return Ok(None) };
        let key = key(namespace, name);
        if let Some(found) = cache.get(&key) {
            return Ok(found.content());
        }
        self.catch_up().await?;
        Ok(cache.get(&key).and_then(|found| found.content()))
    }

    async fn list(
        &self,
        group: &str,
        plural: &str,
        namespace: Option<&str>,
    ) -> Result<Vec<Arc<Value>>, ApiError> {
        let Some(cache) = self.by_name(group, plural) else { return Ok(Vec::new()) };
        let selection = Selection::all(namespace.unwrap_or_default());
        Ok(cache.list(&selection).iter().filter_map(|object| object.content()).collect())
    }

    fn changed_at(&self, group: &str, plural: &str) -> u64 {
        self.by_name(group, plural).map_or(0, |cache| cache.changed_at())
    }

    async fn fresh(&self) -> Result<(), ApiError> {
        self.catch_up().await.map(|_| ())
    }
}
