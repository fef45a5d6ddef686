//! The part of an API that the scheduler's loop needs: nodes and pods with list and watch, bindings, conditions, events.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use crate::merge;

type Answer = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

#[derive(Default)]
pub struct State {
    version: u64,
    pub pods: BTreeMap<String, Value>,
    nodes: BTreeMap<String, Value>,
    /// Every change: version, plural, line of a watch.
    log: Vec<(u64, &'static str, Bytes)>,
    watchers: Vec<(&'static str, mpsc::UnboundedSender<Bytes>)>,
    /// Reason and message of every event.
    pub events: Vec<(String, String)>,
    /// How many bindings fail before one works.
    pub broken: u32,
    /// How many bindings were asked for.
    pub bindings: u32,
}

#[derive(Clone, Default)]
pub struct Api {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Api {
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
                let answer = api.answer(&head.method, head.uri.path(), head.uri.query().unwrap_or(""), &body);
                api.changed.notify_one();
                Ok::<_, kube::Error>(answer)
            }
        });
        kube::Client::new(service, "default")
    }

    pub fn put(&self, plural: &'static str, name: &str, object: Value) {
        self.state().put(plural, name, object);
    }

    /// Waits until something holds; at most two minutes.
    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let wait = async {
            while !holds(&self.state()) {
                self.changed.notified().await;
            }
        };
        assert!(
            tokio::time::timeout(Duration::from_secs(120), wait).await.is_ok(),
            "{what}: {:#?}",
            self.state().pods
        );
    }

    fn answer(&self, method: &Method, path: &str, query: &str, body: &[u8]) -> Answer {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        let parts: Vec<&str> = path.trim_start_matches("/api/v1/").split('/').collect();
        match (method.as_str(), parts.as_slice()) {
            ("GET", ["nodes"]) => self.read("nodes", query),
            ("GET", ["pods"]) => self.read("pods", query),
            ("GET", ["namespaces"]) => self.read("namespaces", query),
            ("GET", [.., "poddisruptionbudgets"]) => self.read("poddisruptionbudgets", query),
            ("GET", ["namespaces", "default", "pods", name]) => match self.state().pods.get(*name) {
                Some(pod) => whole(200, pod),
                None => failure(404, "gone"),
            },
            ("POST", ["namespaces", "default", "pods", name, "binding"]) => self.state().bind(name, &body),
            ("PATCH", ["namespaces", "default", "pods", name, "status"]) => {
                self.state().set_status(name, &body)
            }
            ("POST", ["namespaces", "default", "events"]) => {
                let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
                self.state().events.push((text("reason"), text("message")));
                whole(201, &body)
            }
            ("PATCH", ["namespaces", "default", "events", _]) => {
                whole(200, &json!({"involvedObject": {}, "metadata": {}}))
            }
            other => panic!("the scheduler asked for {other:?}"),
        }
    }

    fn read(&self, plural: &'static str, query: &str) -> Answer {
        let mut state = self.state();
        if !query.contains("watch=true") {
            let items: Vec<&Value> = match plural {
                "pods" => state.pods.values().collect(),
                "nodes" => state.nodes.values().collect(),
                _ => Vec::new(),
            };
            return whole(
                200,
                &json!({"metadata": {"resourceVersion": state.version.to_string()}, "items": items}),
            );
        }
        let from = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
        let from: u64 = from.and_then(|from| from.parse().ok()).expect("a watch begins somewhere");
        let (sender, receiver) = mpsc::unbounded_channel();
        for (_, _, line) in state.log.iter().filter(|(version, kind, _)| *version > from && *kind == plural) {
            sender.send(line.clone()).expect("the receiver is here");
        }
        state.watchers.push((plural, sender));
        let lines =
            futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)));
        let frames = lines.map(|line| Ok(http_body::Frame::data(line)));
        Response::new(StreamBody::new(frames).boxed_unsync())
    }
}

fn whole(code: u16, value: &Value) -> Answer {
    let body = http_body_util::Full::new(Bytes::from(value.to_string()));
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(code).expect("a code");
    response
}

fn failure(code: u16, message: &str) -> Answer {
    whole(
        code,
        &json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Because", "message": message}),
    )
}

impl State {
    fn put(&mut self, plural: &'static str, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = self.version.to_string().into();
        let objects = if plural == "pods" { &mut self.pods } else { &mut self.nodes };
        let known = objects.insert(name.to_owned(), object.clone()).is_some();
        self.tell(plural, if known { "MODIFIED" } else { "ADDED" }, &object);
    }

    pub fn delete_pod(&mut self, name: &str) {
        let mut pod = self.pods.remove(name).expect("the pod is there");
        self.version += 1;
        pod["metadata"]["resourceVersion"] = self.version.to_string().into();
        self.tell("pods", "DELETED", &pod);
    }

    fn tell(&mut self, plural: &'static str, kind: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": kind, "object": object})));
        self.log.push((self.version, plural, line.clone()));
        self.watchers.retain(|(watched, sender)| *watched != plural || sender.send(line.clone()).is_ok());
    }

    fn bind(&mut self, name: &str, binding: &Value) -> Answer {
        self.bindings += 1;
        if self.broken > 0 {
            self.broken -= 1;
            return failure(500, "the disk is full");
        }
        let Some(mut pod) = self.pods.get(name).cloned() else { return failure(404, "not found") };
        let uid = binding["metadata"]["uid"] == pod["metadata"]["uid"];
        if !uid || !pod["spec"]["nodeName"].is_null() {
            return failure(409, "conflict");
        }
        pod["spec"]["nodeName"] = binding["target"]["name"].clone();
        self.put("pods", name, pod);
        whole(201, &json!({"kind": "Status", "status": "Success", "code": 201}))
    }

    fn set_status(&mut self, name: &str, patch: &Value) -> Answer {
        let Some(mut pod) = self.pods.get(name).cloned() else { return failure(404, "not found") };
        if patch["metadata"]["resourceVersion"] != pod["metadata"]["resourceVersion"] {
            return failure(409, "the object has been modified");
        }
        merge(&mut pod, patch);
        self.put("pods", name, pod);
        whole(200, &self.pods[name])
    }
}
