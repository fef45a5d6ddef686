//! Scenarios as text: requests, and what their answers must be.
//!
//! ```text
//! # a comment
//! POST /api/v1/namespaces/default/configmaps
//! Header: value
//! {"a body": "over any number of lines"}
//! => 201
//! /metadata/name = "x"          a JSON value at a pointer
//! /message ~ part of a text     a part of it
//! /status/phase absent
//! owner kubectl/scale = {"f:spec": {"f:replicas": {}}}    the fields that a manager owns (through a subresource)
//! header warning ~ part of a text
//! $rv = /metadata/resourceVersion
//! ```
//!
//! `$rv` in later lines stands for what it was set to; `<N>` for N letters. `WATCH w PATH` begins a watch and `NEXT w` is its
//! next event. A patch says which it is: `PATCH merge PATH`; `PATCH apply PATH` is server-side apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use apiserver::Config;
use apiserver::types::Body;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use serde_json::Value;

use crate::fixture::{Events, Fixture, text};
use crate::tls::{Secured, Version};

/// A way to a server.
#[async_trait]
pub trait Transport: Send + Sync {
    async fn send(&self, request: Request<Bytes>) -> Response<Body>;
}

#[async_trait]
impl Transport for Fixture {
    async fn send(&self, request: Request<Bytes>) -> Response<Body> {
        self.call(request).await
    }
}

/// One request and its expectations.
#[derive(Debug, Default)]
struct Step {
    line: usize,
    head: String,
    headers: Vec<(String, String)>,
    body: String,
    code: String,
    expectations: Vec<String>,
}

fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let begins = |line: &str| {
        let first = line.split(' ').next().unwrap_or_default();
        matches!(first, "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE" | "OPTIONS" | "WATCH" | "NEXT")
    };
    for (number, line) in text.lines().enumerate() {
        let line = line.trim_end();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if begins(line) {
            steps.push(Step { line: number + 1, head: line.to_owned(), ..Step::default() });
            continue;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("line {}: no request yet", number + 1));
        let header = line.split_once(": ").filter(|(name, _)| {
            name.starts_with(char::is_uppercase) && name.chars().all(|c| c.is_alphanumeric() || c == '-')
        });
        match (line.strip_prefix("=> "), header) {
            (Some(code), _) => step.code = code.to_owned(),
            (None, _) if !step.code.is_empty() => step.expectations.push(line.to_owned()),
            (None, Some((name, value))) if step.body.is_empty() => {
                step.headers.push((name.to_owned(), value.to_owned()));
            }
            (None, _) => {
                step.body.push_str(line);
                step.body.push('\n');
            }
        }
    }
    steps
}

/// Runs a scenario. Failures name the file and the line, and do not keep later steps from being tried.
pub struct Run<'a> {
    name: &'a str,
    transport: &'a dyn Transport,
    variables: BTreeMap<String, String>,
    watches: BTreeMap<String, Events>,
}

impl<'a> Run<'a> {
    pub fn new(name: &'a str, transport: &'a dyn Transport) -> Run<'a> {
        Run { name, transport, variables: BTreeMap::new(), watches: BTreeMap::new() }
    }

    /// What went wrong.
    pub async fn all(&mut self, text: &str) -> Vec<String> {
        let mut failures = Vec::new();
        for step in parse(text) {
            if let Err(error) = self.step(&step).await {
                failures.push(format!("{}:{} {}\n    {error}", self.name, step.line, step.head));
            }
        }
        failures
    }

    fn fill(&self, text: &str) -> String {
        let mut out = text.to_owned();
        for (name, value) in self.variables.iter().rev() {
            out = out.replace(&format!("${name}"), value);
        }
        while let Some(start) = out.find('<') {
            let Some(end) = out[start..].find('>').map(|end| start + end) else { break };
            let Ok(count) = out[start + 1..end].parse::<usize>() else { break };
            out.replace_range(start..=end, &"a".repeat(count));
        }
        out
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        let words: Vec<String> = step.head.split(' ').map(|word| self.fill(word)).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (code, headers, value) = match words.as_slice() {
            ["NEXT", name] => {
                let watch = self.watches.get_mut(*name).ok_or("no such watch")?;
                let event = watch.next().await.ok_or("the watch has ended")?;
                let kind = event["type"].as_str().unwrap_or_default().to_owned();
                (kind, HeaderMap::new(), event)
            }
            ["WATCH", name, path] => {
                let response = self.transport.send(self.request(step, "GET", path, None)?).await;
                if response.status() != 200 {
                    return Err(format!("{:?}", text(response).await));
                }
                self.watches.insert((*name).to_owned(), Events::new(response));
                return Ok(());
            }
            ["PATCH", kind, path] => {
                let media = match *kind {
                    "strategic" => "application/strategic-merge-patch+json".to_owned(),
                    "apply" => "application/apply-patch+yaml".to_owned(),
                    kind => format!("application/{kind}-patch+json"),
                };
                self.answer(self.request(step, "PATCH", path, Some(&media))?).await
            }
            [method, path] => self.answer(self.request(step, method, path, Some("application/json"))?).await,
            _ => return Err("not a request".to_owned()),
        };
        if step.code != code {
            return Err(format!("expected {}, got {code} {value}", step.code));
        }
        for line in &step.expectations {
            let line = if line.starts_with('$') { line.clone() } else { self.fill(line) };
            self.expect(&line, &headers, &value)?;
        }
        Ok(())
    }

    fn request(
        &self,
        step: &Step,
        method: &str,
        path: &str,
        media: Option<&str>,
    ) -> Result<Request<Bytes>, String> {
        let mut builder = Request::builder().method(method).uri(path);
        if let Some(media) = media
            && !step.headers.iter().any(|(name, _)| name == "Content-Type")
        {
            builder = builder.header("content-type", media);
        }
        for (name, value) in &step.headers {
            builder = builder.header(name, self.fill(value));
        }
        builder.body(self.fill(step.body.trim_end()).into()).map_err(|error| error.to_string())
    }

    async fn answer(&self, request: Request<Bytes>) -> (String, HeaderMap, Value) {
        let response = self.transport.send(request).await;
        let (code, headers) = (response.status().as_u16().to_string(), response.headers().clone());
        let bytes = text(response).await;
        let value = serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into());
        (code, headers, value)
    }

    fn expect(&mut self, line: &str, headers: &HeaderMap, value: &Value) -> Result<(), String> {
        let pointed = |pointer: &str| value.pointer(pointer.trim_end_matches('/'));
        let shown = |found: &Value| found.as_str().map_or_else(|| found.to_string(), str::to_owned);
        if let Some((name, pointer)) = line.strip_prefix('$').and_then(|line| line.split_once(" = ")) {
            let found = pointed(pointer).ok_or_else(|| format!("nothing at {pointer} in {value}"))?;
            self.variables.insert(name.to_owned(), shown(found));
            return Ok(());
        }
        let (holds, found) = if let Some(rest) = line.strip_prefix("owner ") {
            let (owner, expected) = rest.split_once(" = ").ok_or("not an expectation")?;
            let expected: Value =
                serde_json::from_str(expected).map_err(|error| format!("{line}: {error}"))?;
            let found = owned(value, owner);
            (found == expected, format!("{found} of {}", value["metadata"]["managedFields"]))
        } else if let Some(rest) = line.strip_prefix("header ") {
            let (name, part) = rest.split_once(" ~ ").ok_or("not an expectation")?;
            let found: Vec<&str> =
                headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            (found.iter().any(|value| value.contains(part)), format!("{found:?}"))
        } else if let Some(pointer) = line.strip_suffix(" absent") {
            (pointed(pointer).is_none(), value.to_string())
        } else if let Some((pointer, part)) = line.split_once(" ~ ") {
            let found = shown(pointed(pointer).unwrap_or(&Value::Null));
            (found.contains(part), found)
        } else {
            let (pointer, expected) = line.split_once(" = ").ok_or("not an expectation")?;
            let expected: Value =
                serde_json::from_str(expected).map_err(|error| format!("{line}: {error}"))?;
            let found = pointed(pointer).unwrap_or(&Value::Null);
            (*found == expected, format!("{found} in {value}"))
        };
        if holds { Ok(()) } else { Err(format!("{line}: {}", found.chars().take(2000).collect::<String>())) }
    }
}

/// The fields of a manager, through a subresource if its name follows after a slash; null for whoever owns nothing.
fn owned(object: &Value, owner: &str) -> Value {
    let (manager, subresource) = owner.split_once('/').unwrap_or((owner, ""));
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let mut fields = entries
        .filter(|entry| entry["manager"] == manager)
        .filter(|entry| entry["subresource"].as_str().unwrap_or_default() == subresource)
        .map(|entry| entry["fieldsV1"].clone());
    fields.next().unwrap_or_default()
}

fn files() -> Vec<(String, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/scenarios");
    let mut files: Vec<(String, String)> = std::fs::read_dir(folder)
        .expect("scenarios")
        .map(|entry| {
            let path = entry.expect("a scenario").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).expect("text"))
        })
        .collect();
    files.sort();
    assert!(files.len() > 5, "the scenarios are found");
    files
}

#[tokio::test(start_paused = true)]
async fn scenarios_in_process() {
    let mut failures = Vec::new();
    for (name, text) in files() {
        let fixture = Fixture::new().await;
        failures.extend(Run::new(&name, &fixture).all(&text).await);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

async fn over_tls(version: Version) {
    let mut failures = Vec::new();
    for (name, text) in files() {
        let secured = Secured::start(Fixture::new().await, Config::default()).await;
        let client = secured.client(version).await;
        failures.extend(Run::new(&name, &client).all(&text).await);
        drop(client);
        secured.stop().await;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn scenarios_over_http1() {
    over_tls(Version::Http1).await;
}

#[tokio::test]
async fn scenarios_over_http2() {
    over_tls(Version::Http2).await;
}

/// The store outlives the server that a scenario ran on.
#[tokio::test(start_paused = true)]
async fn what_was_made_is_there_after_a_restart() {
    let first = Fixture::new().await;
    let made = first
        .must(
            "POST",
            "/api/v1/namespaces/default/configmaps",
            Some(&serde_json::json!({"metadata": {"name": "a"}})),
        )
        .await;
    first.server.stop().await;
    first.store.close().await.expect("closed");
    let disk = first.disk.clone();
    let second = Fixture::with(Config::default(), Arc::new(apiserver::proxy::NoKubelets), disk).await;
    assert_eq!(second.must("GET", "/api/v1/namespaces/default/configmaps/a", None).await, made);
}
