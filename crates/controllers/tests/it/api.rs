//! As much of an API as controllers need: create, read, replace, patch, delete, list and watch of anything, with watches
//! that lag behind as far as a seed says. Nothing is validated.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api_machinery::entropy::Entropy;
use api_machinery::patch::merge;
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;
/// Plural, namespace, name.
type Key = (String, String, String);
type Line = (Instant, Bytes);

/// What a scenario wants to know after every change.
pub type Check = Box<dyn Fn(&State) + Send>;

pub struct State {
    version: u64,
    uids: u64,
    pub objects: BTreeMap<Key, Value>,
    log: Vec<(u64, String, Line)>,
    watchers: Vec<(String, Instant, mpsc::UnboundedSender<Line>)>,
    entropy: Entropy,
    /// Checked after every change.
    pub check: Option<Check>,
    /// Pods that may be made; `None` for any number.
    pub quota: Option<usize>,
    /// One write in so many fails, before or after it was done.
    pub faults: u64,
}

#[derive(Clone)]
pub struct Api {
    state: Arc<Mutex<State>>,
    pub changed: Arc<Notify>,
}

impl Api {
    pub fn new(seed: u64) -> Self {
        let state = State {
            version: 100,
            uids: 0,
            objects: BTreeMap::new(),
            log: Vec::new(),
            watchers: Vec::new(),
            entropy: Entropy::seeded(seed),
            check: None,
            quota: None,
            faults: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), changed: Arc::default() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (head, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let kind = head.headers.get(http::header::CONTENT_TYPE).cloned();
                let strategic =
                    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/strategic"));
                let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let query = head.uri.query().unwrap_or("").to_owned();
                let answer = api.state().answer(&head.method, head.uri.path(), &query, body, strategic);
                api.changed.notify_waiters();
                Ok::<_, kube::Error>(answer)
            }
        });
        kube::Client::new(service, "default")
    }

    /// Waits until something holds; at most ten minutes, which pass at once.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(600);
        loop {
            let changed = self.changed.notified();
            if holds(&self.state()) {
                return;
            }
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                panic!("never: {what}\n{:#?}", self.state().objects.values().collect::<Vec<_>>());
            }
        }
    }
}

fn whole(code: u16, value: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
    response
}

fn failure(code: u16, reason: &str, message: &str) -> Answer {
    let status =
        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message});
    whole(code, &status)
}

fn key_of(path: &str) -> (Key, String) {
    let mut parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    parts.drain(..if parts[0] == "api" { 2 } else { 3 });
    let namespace =
        if parts[0] == "namespaces" && parts.len() > 2 { parts.drain(..2).nth(1).unwrap_or("") } else { "" };
    let part = |at: usize| parts.get(at).copied().unwrap_or("").to_owned();
    ((part(0), namespace.to_owned(), part(1)), part(2))
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value, strategic: bool) -> Answer {
        let (mut key, subresource) = key_of(path);
        let fault = match (self.faults, method) {
            (0, _) | (_, &Method::GET) => 0,
            (faults, _) => 1 + self.entropy.below(2 * faults),
        };
        if fault == 1 {
            return failure(500, "InternalError", "the request was lost");
        }
        let answer = match *method {
            Method::GET if key.2.is_empty() => self.read(&key.0, query),
            Method::GET => self.objects.get(&key).map_or_else(not_found, |object| whole(200, object)),
            Method::POST => self.create(&mut key, body),
            Method::PUT => self.change(&key, &subresource, |_| body.clone()),
            Method::PATCH => self.change(&key, &subresource, |old| match strategic {
                true => owners_patched(old, &body),
                false => merge::apply(old, &body),
            }),
            Method::DELETE => self.remove(&key, &body),
            _ => panic!("{method} {path}"),
        };
        if fault == 2 {
            return failure(500, "InternalError", "the answer was lost");
        }
        answer
    }

    fn read(&mut self, plural: &str, query: &str) -> Answer {
        if !query.contains("watch=true") {
            let items: Vec<&Value> =
                self.objects.iter().filter(|(key, _)| key.0 == plural).map(|(_, object)| object).collect();
            let version = self.version.to_string();
            return whole(200, &json!({"metadata": {"resourceVersion": version}, "items": items}));
        }
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let from: u64 = from.and_then(|from| from.parse().ok()).expect("a watch begins somewhere");
        let (sender, receiver) = mpsc::unbounded_channel();
        for (_, _, line) in self.log.iter().filter(|(version, kind, _)| *version > from && kind == plural) {
            sender.send(line.clone()).expect("the receiver is here");
        }
        self.watchers.push((plural.to_owned(), Instant::now(), sender));
        let lines = futures::stream::unfold(receiver, async |mut receiver| {
            let (due, line) = receiver.recv().await?;
            tokio::time::sleep_until(due).await;
            Some((line, receiver))
        });
        Response::new(StreamBody::new(lines.map(|line| Ok(http_body::Frame::data(line)))).boxed_unsync())
    }

    fn create(&mut self, key: &mut Key, mut object: Value) -> Answer {
        if key.0 == "events" {
            self.objects.insert((key.0.clone(), key.1.clone(), self.uids.to_string()), object.clone());
            self.uids += 1;
            return whole(201, &object);
        }
        let pods = self.objects.keys().filter(|key| key.0 == "pods").count();
        if key.0 == "pods" && self.quota.is_some_and(|quota| pods >= quota) {
            return failure(403, "Forbidden", "pods is forbidden: exceeded quota");
        }
        self.uids += 1;
        let generated =
            object["metadata"]["generateName"].as_str().map(|prefix| format!("{prefix}{:04}", self.uids));
        key.2 = object["metadata"]["name"].as_str().map(str::to_owned).or(generated).expect("a name");
        if self.objects.contains_key(key) {
            return failure(409, "AlreadyExists", "already exists");
        }
        let metadata = &mut object["metadata"];
        metadata["name"] = key.2.clone().into();
        metadata["uid"] = format!("uid-{}", self.uids).into();
        metadata["generation"] = 1.into();
        metadata["creationTimestamp"] = "2026-03-01T12:00:00Z".into();
        self.put(key, object);
        whole(201, &self.objects[key])
    }

    /// Changes an object as PUT and PATCH do.
    fn change(&mut self, key: &Key, subresource: &str, change: impl Fn(&Value) -> Value) -> Answer {
        let Some(old) = self.objects.get(key).cloned() else { return not_found() };
        let mut new = change(&old);
        let stale = |field: &str| new["metadata"][field] != old["metadata"][field];
        if stale("resourceVersion") || stale("uid") {
            return failure(409, "Conflict", "the object has been modified");
        }
        if subresource == "status" {
            new["spec"] = old["spec"].clone();
            new["metadata"] = old["metadata"].clone();
        } else {
            new["status"] = old["status"].clone();
            let more = i64::from(new["spec"] != old["spec"]);
            new["metadata"]["generation"] =
                (old["metadata"]["generation"].as_i64().unwrap_or(0) + more).into();
        }
        if new != old {
            self.put(key, new);
        }
        whole(200, &self.objects[key])
    }

    fn remove(&mut self, key: &Key, options: &Value) -> Answer {
        let Some(mut object) = self.objects.get(key).cloned() else { return not_found() };
        for field in ["uid", "resourceVersion"] {
            let wanted = &options["preconditions"][field];
            if !wanted.is_null() && *wanted != object["metadata"][field] {
                return failure(409, "Conflict", "precondition failed");
            }
        }
        if key.0 == "pods" && !object["spec"]["nodeName"].is_null() {
            object["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z".into();
            self.put(key, object);
            return whole(200, &self.objects[key]);
        }
        self.drop_object(key);
        whole(200, &object)
    }

    /// Stores an object and tells the watchers.
    pub fn put(&mut self, key: &Key, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let known = self.objects.insert(key.clone(), object.clone()).is_some();
        self.tell(&key.0, if known { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub fn drop_object(&mut self, key: &Key) {
        let mut object = self.objects.remove(key).expect("it is there");
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell(&key.0, "DELETED", &object);
    }

    fn tell(&mut self, plural: &str, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        self.log.push((self.version, plural.to_owned(), (Instant::now(), line.clone())));
        let lag = Duration::from_millis(self.entropy.below(400));
        self.watchers.retain_mut(|(watched, last, sender)| {
            if watched != plural {
                return true;
            }
            // Late, but in order.
            *last = (*last).max(Instant::now() + lag);
            sender.send((*last, line.clone())).is_ok()
        });
        if let Some(check) = &self.check {
            check(self);
        }
    }

    pub fn of<'a>(&'a self, plural: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |(key, _)| key.0 == plural).map(|(_, object)| object)
    }

    /// Changes an object as a user would; `None` if it is not there.
    pub fn patch(&mut self, plural: &str, name: &str, patch: &Value) -> Option<()> {
        let key = (plural.to_owned(), "default".to_owned(), name.to_owned());
        let answer = self.change(&key, "", |old| merge::apply(old, patch));
        answer.status().is_success().then_some(())
    }

    pub fn make(&mut self, plural: &str, object: Value) {
        let mut key = (plural.to_owned(), "default".to_owned(), String::new());
        let mut object = object;
        object["metadata"]["namespace"] = "default".into();
        assert!(self.create(&mut key, object).status().is_success());
    }
}

fn not_found() -> Answer {
    failure(404, "NotFound", "not found")
}

/// The one strategic patch that controllers send: owners by uid.
fn owners_patched(old: &Value, patch: &Value) -> Value {
    let mut new = old.clone();
    let metadata = new["metadata"].as_object_mut().expect("an object");
    if patch["metadata"]["uid"] != metadata["uid"] {
        metadata.insert("uid".to_owned(), patch["metadata"]["uid"].clone());
        return new;
    }
    let mut owners = metadata.get("ownerReferences").and_then(Value::as_array).cloned().unwrap_or_default();
    for owner in patch["metadata"]["ownerReferences"].as_array().expect("owners") {
        owners.retain(|known| known["uid"] != owner["uid"]);
        if owner["$patch"] != "delete" {
            owners.push(owner.clone());
        }
    }
    metadata.insert("ownerReferences".to_owned(), owners.into());
    new
}
