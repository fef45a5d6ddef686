//! Keeps the status of definitions, and clears away what a definition leaves behind before it goes.
//!
//! Every server does it beside the others: what is written names the revision that it was judged by, so whoever comes late
//! changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::rfc3339;
use api_machinery::meta;
use api_machinery::status::ApiError;
use http::{HeaderMap, Method};
use serde_json::Value;
use tokio::time::Instant;

use super::conditions::{self, Brief, CLEANUP};
use crate::bootstrap;
use crate::registry::{DeleteOptions, delete_object};
use crate::request::negotiate::Accept;
use crate::request::query::Query;
use crate::request::route::{Call, ResourceCall};
use crate::server::ApiServer;
use crate::types::RequestInfo;
use crate::watch::{Cached, ResourceCache, Selection};

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
const PATH: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// The pause after something could not be written or deleted.
const RETRY: Duration = Duration::from_secs(1);

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Write(#[from] kube::Error),
    #[error("{0}")]
    Delete(#[from] ApiError),
}

/// Keeps definitions until the server stops.
pub async fn keep(server: Arc<ApiServer>) {
    let Some(resource) = server.catalog().find(GROUP, "v1", PLURAL).cloned() else { return };
    let Some(cache) = server.cache().resource(&resource) else { return };
    let client = server.client(bootstrap::identity());
    let shutdown = server.shutdown().clone();
    let mut keeper = Keeper { server, client, cache, known: BTreeMap::new(), clearing: BTreeSet::new() };
    shutdown.run_until_cancelled(keeper.run()).await;
}

/// A definition as it was last seen.
struct Known {
    revision: u64,
    brief: Brief,
    /// Whether its status is as it should be. It stays so until it changes itself, or others do while it lacks names.
    settled: bool,
}

struct Keeper {
    server: Arc<ApiServer>,
    client: kube::Client,
    cache: Arc<ResourceCache>,
    /// By name.
    known: BTreeMap<String, Known>,
    /// The definitions, by uid, whose objects are being deleted.
    clearing: BTreeSet<String>,
}

impl Keeper {
    async fn run(&mut self) {
        loop {
            let (all, mut changes) = self.cache.list_and_subscribe(&Selection::all(""));
            self.read(&all);
            match self.step(&all).await {
                // What was written is seen before it is judged again.
                Ok(true) => {
                    if let Err(error) = self.server.cache().catch_up().await {
                        tracing::warn!(%error, "the status of a definition was written, but is not seen yet");
                    }
                }
                Ok(false) => changes.wait().await,
                Err(error) => {
                    tracing::warn!(%error, "the status of a definition could not be written");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Takes in what has changed. There may be a thousand, of which one does: the others are passed by.
    fn read(&mut self, all: &[Arc<Cached>]) {
        let names: BTreeSet<&str> = all.iter().map(|one| one.name()).collect();
        let mut groups = BTreeSet::new();
        self.known.retain(|name, known| {
            let stays = names.contains(name.as_str());
            if !stays {
                groups.insert(known.brief.group.clone());
            }
            stays
        });
        for one in all {
            let is_known = self.known.get(one.name()).is_some_and(|known| known.revision == one.revision);
            if let Some(definition) = (!is_known).then(|| one.content()).flatten() {
                let brief = Brief::of(&definition);
                groups.insert(brief.group.clone());
                let known = Known { revision: one.revision, brief, settled: false };
                self.known.insert(one.name().to_owned(), known);
            }
        }
        if groups.is_empty() {
            return;
        }
        for known in self.known.values_mut().filter(|known| known.settled) {
            known.settled = !(known.brief.lacks_names() && groups.contains(&known.brief.group));
        }
    }

    /// Writes what is not as it should be; says whether there was anything. What one is given counts for the next.
    async fn step(&mut self, all: &[Arc<Cached>]) -> Result<bool, Failed> {
        let now = rfc3339(self.server.clock().now());
        let mut written = false;
        for one in all {
            if self.known.get(one.name()).is_some_and(|known| known.brief.cleanup) {
                self.clear(one);
            }
            let Some(known) = self.known.get(one.name()).filter(|known| !known.settled) else { continue };
            let brief = &known.brief;
            let others = self.known.iter().filter(|(name, _)| *name != one.name());
            let others = others.map(|(_, other)| &other.brief).filter(|other| other.group == brief.group);
            let verdict = conditions::judge(brief, others, &now);
            if let Some((verdict, definition)) = verdict.as_ref().zip(one.value()) {
                let mut definition = Value::clone(&definition);
                definition["status"]["acceptedNames"] = verdict.accepted.clone();
                definition["status"]["conditions"] = verdict.conditions.clone();
                self.put(&format!("{PATH}/{}/status", one.name()), &definition).await?;
                written = true;
            }
            if let Some(known) = self.known.get_mut(one.name()) {
                // If somebody else was faster, there is another revision to read.
                known.settled = true;
                if let Some(verdict) = verdict {
                    known.brief.accepted = verdict.accepted;
                    known.brief.conditions = verdict.conditions;
                }
            }
        }
        Ok(written)
    }

    /// Replaces a definition, unless somebody else was faster.
    async fn put(&self, path: &str, definition: &Value) -> Result<(), kube::Error> {
        match self.client.request::<Value>(bootstrap::send("PUT", path, definition)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            answer => answer.map(drop),
        }
    }

    /// Starts to delete the objects of a definition, once.
    fn clear(&mut self, definition: &Cached) {
        let Some(value) = definition.content() else { return };
        if !self.clearing.insert(meta::uid(&value).to_owned()) {
            return;
        }
        let clearing = Clearing {
            server: self.server.clone(),
            client: self.client.clone(),
            definitions: self.cache.clone(),
            name: definition.name().to_owned(),
            uid: meta::uid(&value).to_owned(),
        };
        self.server.tasks().spawn(clearing.run());
    }
}

/// Deletes the objects of a definition that is going, and lets it go when none is left.
struct Clearing {
    server: Arc<ApiServer>,
    client: kube::Client,
    definitions: Arc<ResourceCache>,
    name: String,
    uid: String,
}

impl Clearing {
    async fn run(self) {
        let shutdown = self.server.shutdown().clone();
        let working = async {
            while let Err(error) = self.clear().await {
                tracing::warn!(definition = self.name, %error, "custom objects are not all deleted yet");
                tokio::time::sleep(RETRY).await;
            }
        };
        shutdown.run_until_cancelled(working).await;
    }

    async fn clear(&self) -> Result<(), Failed> {
        self.empty().await?;
        loop {
            let Some(definition) = self.definitions.get(&self.name).and_then(|found| found.value()) else {
                return Ok(());
            };
            let mut definition = Value::clone(&definition);
            let left: Vec<String> = meta::finalizers(&definition)
                .into_iter()
                .filter(|one| *one != CLEANUP)
                .map(str::to_owned)
                .collect();
            if meta::uid(&definition) != self.uid || left.len() == meta::finalizers(&definition).len() {
                return Ok(());
            }
            meta::set_finalizers(&mut definition, left);
            let path = format!("{PATH}/{}", self.name);
            match self.client.request::<Value>(bootstrap::send("PUT", &path, &definition)).await {
                Err(kube::Error::Api(status)) if status.code == 409 => self.server.cache().catch_up().await?,
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                answer => return Ok(answer.map(drop)?),
            };
        }
    }

    /// Deletes all objects and waits until they are gone. A definition that was never in force has none.
    async fn empty(&self) -> Result<(), Failed> {
        let Some((plural, group)) = self.name.split_once('.') else { return Ok(()) };
        let Some(custom) = self.server.catalog().custom(group, plural).cloned() else { return Ok(()) };
        let Some(cache) = self.server.cache().resource(&custom.cached) else { return Ok(()) };
        let call = self.call(&custom);
        loop {
            let (left, mut changes) = cache.list_and_subscribe(&Selection::all(""));
            if left.is_empty() {
                return Ok(());
            }
            for object in &left {
                let one = call.about(object.namespace(), object.name());
                match delete_object(&self.server, &one, &DeleteOptions::default(), &mut Vec::new()).await {
                    Ok(_) => {}
                    Err(error) if error.code() == 404 => {}
                    Err(error) => return Err(error.into()),
                }
            }
            changes.wait().await;
        }
    }

    fn call(&self, custom: &super::Custom) -> ResourceCall {
        let resource = custom.cached.clone();
        let info = RequestInfo {
            verb: "delete".to_owned(),
            api_group: resource.group.to_string(),
            api_version: resource.version.to_string(),
            resource: resource.plural.to_string(),
            is_resource: true,
            ..RequestInfo::default()
        };
        let call = Call {
            info,
            method: Method::DELETE,
            rest: Vec::new(),
            query: Query::default(),
            headers: HeaderMap::new(),
            user: bootstrap::identity(),
            deadline: Instant::now() + self.server.config().request_timeout,
        };
        ResourceCall {
            call,
            stored: resource.clone(),
            resource,
            // As they are stored, whoever else would have to be asked.
            custom: None,
            deprecation: None,
            accept: Accept::PLAIN,
            namespace: String::new(),
        }
    }
}
