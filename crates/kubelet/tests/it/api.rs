//! An API server in memory, as much of one as a kubelet talks to: lists, watches, patches, tokens. It can go away and come
//! back. No validation, no admission, no rights: those are others' to test.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// Every change: path, kind of event, object.
    log: Vec<(String, &'static str, Value)>,
    away: bool,
    /// Requests while it was away.
    refused: usize,
}

/// The server; clones are the same one.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<usize>,
}

fn answer(code: u16, value: &Value) -> Answer {
    let body = Full::new(Bytes::from(value.to_string())).map_err(|never: Infallible| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code of ours");
    response
}

fn refusal(code: u16, reason: &str) -> Answer {
    answer(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason,
        "message": reason, "metadata": {}}),
    )
}

impl Default for FakeApi {
    fn default() -> Self {
        Self { state: Arc::default(), changes: watch::Sender::new(0) }
    }
}

impl FakeApi {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of this server.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move { api.serve(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Nothing is answered any more, and watches break; or all is well again.
    pub fn set_away(&self, away: bool) {
        self.lock().away = away;
        self.changes.send_modify(|_| {});
    }

    /// How many requests got no answer.
    pub fn refused(&self) -> usize {
        self.lock().refused
    }

    /// Puts an object there, new or instead of an old one. Path as in URLs, without the version's prefix.
    pub fn put(&self, path: &str, mut object: Value) -> Value {
        let mut state = self.lock();
        let known = state.objects.get(path).cloned();
        let meta = object.as_object_mut().expect("an object").entry("metadata").or_insert_with(|| json!({}));
        let name = path.rsplit('/').next().unwrap_or_default();
        meta["name"] = json!(name);
        let mut parts = path.split('/');
        if parts.next() == Some("namespaces") {
            meta["namespace"] = json!(parts.next());
        }
        if meta.get("uid").is_none() {
            let uid = known.as_ref().and_then(|known| known.pointer("/metadata/uid").cloned());
            meta["uid"] = uid.unwrap_or_else(|| json!(format!("uid-{name}-{}", state.log.len())));
        }
        let kind = if known.is_some() { "MODIFIED" } else { "ADDED" };
        self.record(&mut state, path, kind, object)
    }

    fn record(&self, state: &mut State, path: &str, kind: &'static str, mut object: Value) -> Value {
        object["metadata"]["resourceVersion"] = json!((state.log.len() + 1).to_string());
        if kind == "DELETED" {
            state.objects.remove(path);
        } else {
            state.objects.insert(path.to_owned(), object.clone());
        }
        state.log.push((path.to_owned(), kind, object.clone()));
        self.changes.send_replace(state.log.len());
        object
    }

    /// An object.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.lock().objects.get(path).cloned()
    }

    /// Objects whose path begins so.
    pub fn under(&self, prefix: &str) -> Vec<Value> {
        let state = self.lock();
        state
            .objects
            .iter()
            .filter(|(path, _)| path.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// All states that an object ever had.
    pub fn history(&self, path: &str) -> Vec<Value> {
        self.lock()
            .log
            .iter()
            .filter(|(known, ..)| known == path)
            .map(|(.., object)| object.clone())
            .collect()
    }

    /// Asks for a pod's end, as a DELETE does; without grace the object is gone at once.
    pub fn delete_pod(&self, path: &str, grace: i64) {
        let mut state = self.lock();
        let Some(mut pod) = state.objects.get(path).cloned() else { return };
        if grace == 0 {
            self.record(&mut state, path, "DELETED", pod);
            return;
        }
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        pod["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
        self.record(&mut state, path, "MODIFIED", pod);
    }

    /// Waits until an object, or its absence, satisfies a condition.
    pub async fn until<T>(
        &self,
        path: &str,
        what: &str,
        mut check: impl FnMut(Option<&Value>) -> Option<T>,
    ) -> T {
        let mut changes = self.changes.subscribe();
        let wait = async {
            loop {
                let object = self.get(path);
                if let Some(found) = check(object.as_ref()) {
                    return found;
                }
                changes.changed().await.expect("the server lives");
            }
        };
        match tokio::time::timeout(std::time::Duration::from_secs(3600), wait).await {
            Ok(found) => found,
            Err(_) => panic!("{path}: never {what}: {:#}", self.get(path).unwrap_or_default()),
        }
    }

    async fn serve(&self, request: Request<Body>) -> Result<Answer, std::io::Error> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
        let away = {
            let mut state = self.lock();
            state.refused += usize::from(state.away);
            state.away
        };
        if away {
            return Err(std::io::Error::other("the server is away"));
        }
        let path = parts.uri.path();
        let path = path.strip_prefix("/api/v1/").or_else(|| {
            let rest = path.strip_prefix("/apis/")?;
            rest.splitn(3, '/').nth(2)
        });
        let path = path.unwrap_or_default().to_owned();
        let query = query(parts.uri.query().unwrap_or_default());
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        Ok(match parts.method {
            Method::GET if is_collection(&path) => self.list(&path, &query),
            Method::GET => {
                self.get(&path).map_or_else(|| refusal(404, "NotFound"), |found| answer(200, &found))
            }
            Method::POST if path.ends_with("/token") => token(&value),
            Method::POST => self.create(&path, value),
            Method::PATCH => self.patch(path.trim_end_matches("/status"), &value),
            Method::DELETE => self.remove(&path, &value),
            _ => refusal(405, "MethodNotAllowed"),
        })
    }

    fn create(&self, collection: &str, value: Value) -> Answer {
        let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let path = format!("{collection}/{name}");
        if self.get(&path).is_some() {
            return refusal(409, "AlreadyExists");
        }
        answer(201, &self.put(&path, value))
    }

    fn patch(&self, path: &str, patch: &Value) -> Answer {
        let Some(mut object) = self.get(path) else { return refusal(404, "NotFound") };
        let uid = patch.pointer("/metadata/uid");
        if uid.is_some_and(|uid| object.pointer("/metadata/uid") != Some(uid)) {
            return refusal(409, "Conflict: uid");
        }
        let before = object.clone();
        merge(&mut object, patch);
        if before == object {
            return answer(200, &object);
        }
        answer(200, &self.put(path, object))
    }

    fn remove(&self, path: &str, options: &Value) -> Answer {
        let mut state = self.lock();
        let Some(object) = state.objects.get(path).cloned() else { return refusal(404, "NotFound") };
        let uid = options.pointer("/preconditions/uid");
        if uid.is_some_and(|uid| object.pointer("/metadata/uid") != Some(uid)) {
            return refusal(409, "Conflict");
        }
        answer(200, &self.record(&mut state, path, "DELETED", object))
    }

    fn list(&self, path: &str, query: &BTreeMap<String, String>) -> Answer {
        let selector = query.get("fieldSelector").cloned().unwrap_or_default();
        if query.get("watch").is_some_and(|watch| watch == "true" || watch == "1") {
            let from = query.get("resourceVersion").and_then(|from| from.parse().ok()).unwrap_or(0);
            return self.follow(path.to_owned(), selector, from);
        }
        let state = self.lock();
        let found = state.objects.iter().filter(|(at, object)| is_in(at, path) && selects(&selector, object));
        let items: Vec<_> = found.map(|(_, object)| object.clone()).collect();
        answer(
            200,
            &json!({"kind": "List", "apiVersion": "v1", "items": items,
            "metadata": {"resourceVersion": state.log.len().to_string()}}),
        )
    }

    fn follow(&self, path: String, selector: String, from: usize) -> Answer {
        let start = (self.clone(), self.changes.subscribe(), from);
        let lines = stream::unfold(start, move |(api, mut changes, mut at)| {
            let (path, selector) = (path.clone(), selector.clone());
            async move {
                loop {
                    let next = {
                        let state = api.lock();
                        if state.away {
                            return None;
                        }
                        state.log.get(at).cloned()
                    };
                    if let Some((changed, kind, object)) = next {
                        at += 1;
                        if is_in(&changed, &path) && selects(&selector, &object) {
                            let line = format!("{}\n", json!({"type": kind, "object": object}));
                            return Some((Ok(Frame::data(Bytes::from(line))), (api, changes, at)));
                        }
                    } else if changes.changed().await.is_err() {
                        return None;
                    }
                }
            }
        });
        Response::new(StreamBody::new(lines).boxed_unsync())
    }
}

fn token(request: &Value) -> Answer {
    let seconds = request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or(3600);
    let mut answered = request.clone();
    // Far away on every clock that tests use.
    answered["status"] =
        json!({"token": format!("token-of-{seconds}"), "expirationTimestamp": "2126-01-01T00:00:00Z"});
    answer(201, &answered)
}

/// `pods`, `namespaces/NAME/pods`; but `nodes/NAME` and `namespaces/NAME/pods/NAME` are objects.
fn is_collection(path: &str) -> bool {
    let parts = path.split('/').count();
    if path.starts_with("namespaces/") { parts == 3 } else { parts == 1 }
}

/// Whether an object's path is in a collection, of one namespace or of all.
fn is_in(path: &str, collection: &str) -> bool {
    let Some((parent, _)) = path.rsplit_once('/') else { return false };
    parent == collection || (!collection.contains('/') && parent.rsplit('/').next() == Some(collection))
}

fn selects(selector: &str, object: &Value) -> bool {
    let Some((field, value)) = selector.split_once('=') else { return true };
    let pointer = format!("/{}", field.replace('.', "/"));
    object.pointer(&pointer).and_then(Value::as_str) == Some(value)
}

fn query(text: &str) -> BTreeMap<String, String> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    let plain = |text: &str| text.replace("%3D", "=").replace("%2C", ",");
    pairs.map(|(key, value)| (key.to_owned(), plain(value))).collect()
}

/// Merge patch, with the lists that a kubelet has merged by a key.
fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let target = object.as_object_mut().expect("it is one now");
    for (field, value) in fields {
        let key = match field.as_str() {
            "conditions" => Some("type"),
            "podIPs" | "hostIPs" => Some("ip"),
            _ => None,
        };
        match (value, key) {
            (Value::Null, _) => drop(target.remove(field)),
            (Value::Array(items), Some(key)) => {
                merge_list(target.entry(field).or_insert_with(|| json!([])), items, key)
            }
            (Value::Array(items), None) => {
                let plain: Vec<_> =
                    items.iter().filter(|item| item.get("$patch").is_none()).cloned().collect();
                target.insert(field.clone(), Value::Array(plain));
            }
            _ => merge(target.entry(field).or_insert(Value::Null), value),
        }
    }
}

fn merge_list(list: &mut Value, items: &[Value], key: &str) {
    let Some(list) = list.as_array_mut() else { return };
    for item in items {
        let at = list.iter().position(|known| known.get(key) == item.get(key));
        match (at, item.get("$patch").is_some()) {
            (Some(at), true) => drop(list.remove(at)),
            (Some(at), false) => list[at] = item.clone(),
            (None, true) => {}
            (None, false) => list.push(item.clone()),
        }
    }
}
