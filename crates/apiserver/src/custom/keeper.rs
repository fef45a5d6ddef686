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
use http::{HeaderMap, Method, Uri};
use serde_json::Value;
use tokio::time::Instant;

use super::book::Book;
use super::conditions::CLEANUP;
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
    let mut keeper = Keeper { server, client, cache, book: Book::default(), clearing: BTreeSet::new() };
    shutdown.run_until_cancelled(keeper.run()).await;
}

struct Keeper {
    server: Arc<ApiServer>,
    client: kube::Client,
    cache: Arc<ResourceCache>,
    book: Book,
    /// The definitions, by uid, whose objects are being deleted.
    clearing: BTreeSet<String>,
}

impl Keeper {
    async fn run(&mut self) {
        loop {
            let (all, mut changes) = self.cache.list_and_subscribe(&Selection::all(""));
            self.book.read(&all);
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

    /// Writes what is not as it should be; says whether there was anything.
    async fn step(&mut self, all: &[Arc<Cached>]) -> Result<bool, Failed> {
        let now = rfc3339(self.server.clock().now());
        let by_name: BTreeMap<&str, &Arc<Cached>> = all.iter().map(|one| (one.name(), one)).collect();
        for one in all {
            if self.book.is_to_be_cleared(one.name()) {
                self.clear(one);
            }
        }
        let mut written = false;
        for name in self.book.open() {
            let verdict = self.book.judge(&name, &now);
            let definition = by_name.get(name.as_str()).and_then(|one| one.value());
            if let Some((verdict, definition)) = verdict.as_ref().zip(definition) {
                let mut definition = Arc::unwrap_or_clone(definition);
                definition["status"]["acceptedNames"] = verdict.accepted.clone();
                definition["status"]["conditions"] = verdict.conditions.clone();
                self.put(&format!("{PATH}/{name}/status"), &definition).await?;
                written = true;
            }
            self.book.settle(&name, verdict);
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
            target: Uri::default(),
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
