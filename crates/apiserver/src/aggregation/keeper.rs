//! Keeps APIServices: those of this server's own versions are there, and the others say whether their servers answer.
//!
//! Every server does it beside the others, since each reaches those servers in its own way; what is written already is not
//! written again. A server is asked when it, its Service or that one's endpoints change, and from time to time: that it has
//! stopped to answer, nobody tells.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::rfc3339;
use api_machinery::meta;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::availability::{self, Verdict};
use super::documents;
use super::remote::Told;
use super::{GROUP, PLURAL, Remote, local};
use crate::bootstrap;
use crate::egress::service::SERVICE_NAME;
use crate::references::text;
use crate::server::ApiServer;
use crate::watch::{Cached, ResourceCache, Selection};

const PATH: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
/// How often a server is asked that answers.
const AGAIN: Duration = Duration::from_secs(30);
/// The first and the longest pause after it did not; and the first after something could not be written.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), AGAIN);

/// Keeps APIServices until the server stops.
pub async fn keep(server: Arc<ApiServer>) {
    let cache =
        |group: &str, plural: &str| server.cache().resource(server.catalog().find(group, "v1", plural)?);
    let caches = (
        cache(GROUP, PLURAL),
        cache("apiextensions.k8s.io", "customresourcedefinitions"),
        cache("", "services"),
        cache("discovery.k8s.io", "endpointslices"),
    );
    let (Some(own), Some(definitions), Some(services), Some(slices)) = caches else { return };
    let client = server.client(bootstrap::identity());
    let shutdown = server.shutdown().clone();
    let asker = Asker { server, client, own: own.clone(), services, slices };
    let (known, asking, tasks) = (BTreeMap::new(), BTreeMap::new(), JoinSet::new());
    let mut keeper = Keeper { asker, own, definitions, known, asking, tasks };
    shutdown.run_until_cancelled(keeper.run()).await;
}

struct Keeper {
    asker: Asker,
    own: Arc<ResourceCache>,
    definitions: Arc<ResourceCache>,
    /// APIServices as they were last looked at, by name.
    known: BTreeMap<String, Known>,
    /// The servers that are being asked, by the name of their APIService.
    asking: BTreeMap<String, (Value, DropGuard)>,
    tasks: JoinSet<Option<()>>,
}

/// What of an APIService matters here.
struct Known {
    revision: u64,
    /// Whether it is this server's to see to.
    managed: bool,
    /// Whether it says what it should, if it is.
    fits: bool,
    /// Whether this server answers itself, and it does not say so yet.
    lacks: bool,
}

impl Keeper {
    async fn run(&mut self) {
        loop {
            let (_, mut defined) = self.definitions.list_and_subscribe(&Selection::all(""));
            let (all, mut changes) = self.own.list_and_subscribe(&Selection::all(""));
            self.read(&all);
            self.ask();
            match self.step().await {
                // What was written is seen before it is looked at again.
                Ok(true) => {
                    if let Err(error) = self.asker.server.cache().catch_up().await {
                        tracing::warn!(%error, "an APIService was written, but is not seen yet");
                    }
                }
                Ok(false) => tokio::select! {
                    () = changes.wait() => {}
                    () = defined.wait() => {}
                },
                Err(error) => {
                    tracing::warn!(%error, "an APIService could not be written");
                    tokio::time::sleep(RETRY.0).await;
                }
            }
        }
    }

    fn read(&mut self, all: &[Arc<Cached>]) {
        let mut before = std::mem::take(&mut self.known);
        for object in all {
            let known = before.remove(object.name()).filter(|known| known.revision == object.revision);
            let known = known.or_else(|| Known::of(object));
            self.known.extend(known.map(|known| (object.name().to_owned(), known)));
        }
    }

    /// Sees to it that somebody asks each server, at the place where it is now.
    fn ask(&mut self) {
        while self.tasks.try_join_next().is_some() {}
        let remotes = self.asker.server.aggregation().all();
        let is_there = |name: &String, spec: &Value| {
            remotes.iter().any(|remote| *remote.name == **name && remote.spec == *spec)
        };
        self.asking.retain(|name, (spec, _)| is_there(name, spec));
        for remote in remotes {
            if self.asking.contains_key(&*remote.name) {
                continue;
            }
            let end = CancellationToken::new();
            let guard = end.clone().drop_guard();
            self.asking.insert(remote.name.to_string(), (remote.spec.clone(), guard));
            self.tasks.spawn(end.run_until_cancelled_owned(self.asker.clone().keep(remote)));
        }
    }

    /// Writes what is not as it should be about this server's own versions; says whether there was anything.
    async fn step(&self) -> Result<bool, kube::Error> {
        let mut written = false;
        let wanted = local::custom(&self.asker.server.catalog());
        for (name, (group, version)) in &wanted {
            let registration = || local::of_definition(group, version);
            match self.known.get(name) {
                None => self.asker.send("POST", PATH, &registration()).await?,
                Some(known) if known.managed && !known.fits => {
                    self.asker.replace(name, registration()).await?
                }
                Some(_) => continue,
            }
            written = true;
        }
        for (name, known) in &self.known {
            if known.managed && !wanted.contains_key(name) {
                let options = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
                self.asker.send("DELETE", &format!("{PATH}/{name}"), &options).await?;
                written = true;
            } else if known.lacks {
                self.asker.write(name, Verdict::local()).await?;
                written = true;
            }
        }
        Ok(written)
    }
}

impl Known {
    fn of(object: &Cached) -> Option<Known> {
        let value = object.content()?;
        let (spec, is_local) = (&value["spec"], !value["spec"]["service"].is_object());
        let wanted = local::of_definition(text(spec, "/group"), text(spec, "/version"));
        Some(Known {
            revision: object.revision,
            managed: meta::label(&value, local::MANAGED) == Some(local::ALWAYS),
            fits: *spec == wanted["spec"],
            lacks: is_local && Verdict::local().conditions(&value, "").is_some(),
        })
    }
}

/// What the Service and its slices tell.
fn of_objects(spec: &Value, service: &[Arc<Cached>], slices: &[Arc<Cached>]) -> Option<Verdict> {
    let service = service.first().and_then(|service| service.value());
    let slices: Vec<Arc<Value>> = slices.iter().filter_map(|slice| slice.value()).collect();
    availability::of_service(spec, service.as_deref(), slices.iter().map(|slice| &**slice))
}

/// Asks servers whether they answer, and writes down what comes of it.
#[derive(Clone)]
struct Asker {
    server: Arc<ApiServer>,
    client: kube::Client,
    own: Arc<ResourceCache>,
    services: Arc<ResourceCache>,
    slices: Arc<ResourceCache>,
}

impl Asker {
    /// Asks one server, again and again.
    async fn keep(self, remote: Arc<Remote>) {
        let (namespace, name) =
            (text(&remote.spec, "/service/namespace"), text(&remote.spec, "/service/name"));
        let service = Selection::one(namespace, name);
        let slices =
            Selection::parse(self.slices.resource(), namespace, &format!("{SERVICE_NAME}={name}"), "");
        // A Service that has no name is not there; nor are its endpoints.
        let slices = slices.unwrap_or_else(|_| service.clone());
        let mut pause = RETRY.0;
        loop {
            let (found, mut service_changes) = self.services.list_and_subscribe(&service);
            let (slices, mut slice_changes) = self.slices.list_and_subscribe(&slices);
            let verdict = match of_objects(&remote.spec, &found, &slices) {
                Some(verdict) => {
                    self.note(&remote, Told { stale: true, ..remote.told() });
                    verdict
                }
                None => Verdict::asked(self.ask(&remote).await),
            };
            let wait = if verdict.available { AGAIN } else { pause };
            pause = if verdict.available { RETRY.0 } else { (2 * pause).min(RETRY.1) };
            if let Err(error) = self.write(&remote.name, verdict).await {
                tracing::warn!(name = &*remote.name, %error, "whether a server answers could not be written");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = service_changes.wait() => pause = RETRY.0,
                () = slice_changes.wait() => pause = RETRY.0,
            }
        }
    }

    /// Asks a server what it has, and notes that.
    async fn ask(&self, remote: &Remote) -> Result<(), String> {
        let answer = remote.get(&self.server, &remote.path()).await;
        let Ok(list) = answer else {
            self.note(remote, Told { stale: true, ..remote.told() });
            return answer.map(drop);
        };
        // One that answers with something else is there all the same.
        let list = serde_json::from_slice(&list).unwrap_or(Value::Null);
        let index = remote.get(&self.server, "/openapi/v3").await.unwrap_or_default();
        let index = serde_json::from_slice(&index).unwrap_or(Value::Null);
        let (resources, openapi) = (documents::resources(remote, &list), documents::openapi(remote, &index));
        self.note(remote, Told { resources: Some(resources), stale: false, openapi });
        Ok(())
    }

    fn note(&self, remote: &Remote, told: Told) {
        if remote.tells(told) {
            self.server.aggregation().has_learned();
        }
    }

    /// Writes down whether a server answers, unless that is there already.
    async fn write(&self, name: &str, verdict: Verdict) -> Result<(), kube::Error> {
        let now = rfc3339(self.server.clock().now());
        let Some(found) = self.own.get(name).and_then(|found| found.value()) else { return Ok(()) };
        let Some(conditions) = verdict.conditions(&found, &now) else { return Ok(()) };
        let mut found = Arc::unwrap_or_clone(found);
        found["status"]["conditions"] = conditions;
        tracing::info!(name, available = verdict.available, verdict.reason, verdict.message, "an APIService");
        self.send("PUT", &format!("{PATH}/{name}/status"), &found).await
    }

    /// Makes an APIService say what it should.
    async fn replace(&self, name: &str, registration: Value) -> Result<(), kube::Error> {
        let Some(found) = self.own.get(name).and_then(|found| found.value()) else { return Ok(()) };
        let mut found = Arc::unwrap_or_clone(found);
        found["spec"] = registration["spec"].clone();
        self.send("PUT", &format!("{PATH}/{name}"), &found).await
    }

    /// Writes an APIService, unless somebody else was faster: then it is looked at again.
    async fn send(&self, method: &str, path: &str, object: &Value) -> Result<(), kube::Error> {
        match self.client.request::<Value>(bootstrap::send(method, path, object)).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            answer => answer.map(drop),
        }
    }
}
