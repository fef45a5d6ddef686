//! What an informer's users see: pages, changes, gaps, failures.

use std::sync::{Arc, Mutex};

use component::Api as KubeApi;
use component::ObjectKey;
use component::informer::{Change, Informer, Selection};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::api::{Answer, Api};

fn object(name: &str, version: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "n", "uid": name, "resourceVersion": version.to_string()}})
}

fn list(version: u64, items: &[Value]) -> Answer {
    Answer::Json(200, json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}))
}

fn event(kind: &str, object: Value) -> Value {
    json!({"type": kind, "object": object})
}

fn status(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": code, "reason": reason,
           "message": reason})
}

struct World {
    api: Api,
    informer: Informer<ConfigMap>,
    changes: Arc<Mutex<Vec<String>>>,
    _stop: DropGuard,
}

fn world(script: impl IntoIterator<Item = Answer>) -> World {
    let api = Api::of(script);
    let shutdown = CancellationToken::new();
    let informer = Informer::start(
        &TaskTracker::new(),
        shutdown.clone(),
        KubeApi::all(api.client()),
        Selection { labels: Some("a=b".to_owned()), fields: None },
    );
    let changes: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = changes.clone();
    informer.on_change(move |change| log.lock().expect("no handler panicked").push(line(change)));
    World { api, informer, changes, _stop: shutdown.drop_guard() }
}

/// `+a1`, `~a1>2`, `-a2`.
fn line(change: Change<'_, ConfigMap>) -> String {
    let version = |object: Option<&Arc<ConfigMap>>| {
        object.and_then(|object| object.metadata.resource_version.clone()).unwrap_or_default()
    };
    let (old, new) = (version(change.old), version(change.new));
    let name = change.latest().metadata.name.clone().unwrap_or_default();
    match (change.old, change.new) {
        (None, _) => format!("+{name}{new}"),
        (_, None) => format!("-{name}{old}"),
        _ => format!("~{name}{old}>{new}"),
    }
}

impl World {
    fn changes(&self) -> String {
        self.changes.lock().expect("no handler panicked").join(" ")
    }
}

#[tokio::test(start_paused = true)]
async fn pages_become_one_view_and_changes_follow_from_its_version() {
    let first = json!({"metadata": {"resourceVersion": "10", "continue": "next"}, "items": [object("a", 1)]});
    let world = world([
        Answer::Json(200, first),
        list(10, &[object("b", 2)]),
        Answer::Stays(vec![
            event("ADDED", object("c", 11)),
            event("MODIFIED", object("a", 12)),
            event("DELETED", object("b", 13)),
            event(
                "BOOKMARK",
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": "20"}}),
            ),
        ]),
    ]);
    world.informer.reached(20).await;
    assert_eq!(world.changes(), "+a1 +b2 +c11 ~a1>12 -b2");
    assert_eq!(world.api.asked("continue"), ["-", "next", "-"]);
    assert_eq!(world.api.asked("resourceVersion"), ["-", "-", "10"]);
    assert!(world.api.asked("labelSelector").iter().all(|selector| selector.ends_with("b")));
    assert_eq!(world.informer.in_namespace("n").len(), 2);
    assert!(world.informer.get(&ObjectKey::new("n", "b")).is_none());
}

#[tokio::test(start_paused = true)]
async fn after_a_gap_only_the_difference_is_delivered() {
    for gap in [
        Answer::Ends(vec![event("ERROR", status(410, "Expired"))]),
        Answer::Json(410, status(410, "Expired")),
    ] {
        let world = world([
            list(10, &[object("a", 1), object("b", 2), object("d", 3)]),
            gap,
            list(20, &[object("a", 1), object("c", 15), object("d", 16)]),
            Answer::Stays(Vec::new()),
        ]);
        world.informer.reached(20).await;
        assert_eq!(world.changes(), "+a1 +b2 +d3 +c15 ~d3>16 -b2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_failed_goes_on_from_where_it_was_and_the_view_stays() {
    let world = world([
        list(10, &[object("a", 1)]),
        Answer::Ends(vec![event("ADDED", object("b", 11))]),
        Answer::Json(500, status(500, "InternalError")),
        Answer::Json(429, status(429, "TooManyRequests")),
        Answer::Stays(vec![event("ADDED", object("c", 12))]),
    ]);
    world.informer.reached(11).await;
    assert_eq!(world.informer.len(), 2, "while the server is away the last view stays");
    world.informer.reached(12).await;
    assert_eq!(world.changes(), "+a1 +b11 +c12");
    assert_eq!(world.api.asked("resourceVersion"), ["-", "10", "11", "11", "11"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_fails_is_tried_again_and_a_late_handler_sees_all() {
    let world = world([
        Answer::Json(503, status(503, "ServiceUnavailable")),
        list(10, &[object("a", 1), object("b", 2)]),
        Answer::Stays(Vec::new()),
    ]);
    assert!(!world.informer.has_synced());
    world.informer.synced().await;
    let late: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = late.clone();
    world.informer.on_change(move |change| log.lock().expect("no handler panicked").push(line(change)));
    assert_eq!(late.lock().expect("no handler panicked").join(" "), "+a1 +b2");
}
