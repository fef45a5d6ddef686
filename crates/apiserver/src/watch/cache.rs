//! The feeder: one watch on the store, sorted into the caches of the resources.
//!
//! When the store's watch is lost (it was compacted past us, or we lagged), the store is listed again and the difference is published
//! as events: watchers may miss states in between, never the last one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::resource::Resource;
use api_machinery::status::{ApiError, Cause};
use async_trait::async_trait;
use serde_json::Value;
use store::{ListOptions, Store, StoreError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::object::Cached;
use super::resource::ResourceCache;
use super::selection::Selection;
use crate::catalog::{Catalog, GroupResource, REGISTRY, key};
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
    resources: BTreeMap<String, Arc<ResourceCache>>,
    revision: watch::Sender<u64>,
}

impl Cache {
    /// Lists the store and starts with what it holds. `stale` says whether the last known state will do where the newest is
    /// asked for, while the store has no quorum.
    pub async fn load(
        store: Arc<dyn Store>,
        catalog: &Catalog,
        stale: bool,
    ) -> Result<Arc<Cache>, StoreError> {
        let resources: BTreeMap<String, Arc<ResourceCache>> = catalog
            .stored()
            .into_iter()
            .map(|(name, resource)| (name.prefix(), Arc::new(ResourceCache::new(resource))))
            .collect();
        let cache = Cache { store, stale, resources, revision: watch::Sender::new(0) };
        let (listed, revision) = cache.list_store().await?;
        for (prefix, objects) in listed {
            if let Some(resource) = cache.resources.get(&prefix) {
                resource.fill(objects.into_values().collect(), revision);
            }
        }
        cache.revision.send_replace(revision);
        Ok(Arc::new(cache))
    }

    /// The revision that every resource's cache has reached.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// The cache of a resource.
    pub fn resource(&self, resource: &Resource) -> Option<&Arc<ResourceCache>> {
        self.by_name(&resource.group, &resource.plural)
    }

    fn by_name(&self, group: &str, plural: &str) -> Option<&Arc<ResourceCache>> {
        self.resources.get(&GroupResource::new(group, plural).prefix())
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

    async fn list_store(&self) -> Result<(BTreeMap<String, BTreeMap<String, Cached>>, u64), StoreError> {
        let mut listed: BTreeMap<String, BTreeMap<String, Cached>> = BTreeMap::new();
        let mut at = None;
        let mut after: Option<Arc<str>> = None;
        loop {
            let options = ListOptions { at, limit: PAGE, after: after.as_deref() };
            let page = self.store.list(REGISTRY, options).await?;
            at = Some(page.revision);
            after = page.items.last().map(|item| item.key.clone());
            for item in page.items {
                if let Some((prefix, _, key)) = self.place(&item.key) {
                    listed
                        .entry(prefix.to_owned())
                        .or_default()
                        .insert(key.to_owned(), Cached::new(key, item.value, item.mod_revision));
                }
            }
            if !page.more {
                return Ok((listed, page.revision));
            }
        }
    }

    /// The resource that a key belongs to, and the key below its prefix.
    fn place<'a>(&'a self, key: &'a str) -> Option<(&'a str, &'a Arc<ResourceCache>, &'a str)> {
        let below = key.strip_prefix(REGISTRY)?;
        let first = below.find('/')?;
        let second = below[first + 1..].find('/').map(|at| first + 1 + at);
        [Some(first), second].into_iter().flatten().find_map(|slash| {
            let (prefix, rest) = key.split_at(REGISTRY.len() + slash + 1);
            let (prefix, cache) = self.resources.get_key_value(prefix)?;
            Some((prefix.as_str(), cache, rest))
        })
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
        for (prefix, cache) in &self.resources {
            let objects = listed.remove(prefix).unwrap_or_default();
            cache.catch_up_with(objects, revision);
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
