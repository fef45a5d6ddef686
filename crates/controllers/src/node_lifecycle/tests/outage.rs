//! Nobody is declared lost because the API server is: a node, its Lease, and an API server that can be away.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use bytes::Bytes;
use component::Context;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::super::policy::Policy;
use crate::Informers;

#[derive(Default)]
struct State {
    away: bool,
    renewed: u32,
    patched: Vec<String>,
}

type Api = Arc<Mutex<State>>;
type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

fn lease(state: &State) -> Value {
    let renewed = format!("2026-01-01T00:00:{:02}.000000Z", state.renewed);
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
           "metadata": {"name": "n1", "namespace": "kube-node-lease", "resourceVersion": "3"},
           "spec": {"renewTime": renewed}})
}

fn node() -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1", "uid": "1", "resourceVersion": "2"},
           "status": {"conditions": [{"type": "Ready", "status": "True"}]}})
}

/// Lists once, never tells of a change, and answers questions for the Lease.
fn answer(api: &Api, request: &Request<Body>) -> Result<Answer, &'static str> {
    let mut state = api.lock().unwrap();
    if state.away {
        return Err("connection refused");
    }
    let path = request.uri().path();
    if request.uri().query().is_some_and(|query| query.contains("watch=")) {
        let never = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        return Ok(Response::new(StreamBody::new(never).boxed_unsync()));
    }
    let items = match path {
        "/api/v1/nodes" => vec![node()],
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases" => vec![lease(&state)],
        _ => vec![],
    };
    let body = match request.method() {
        &Method::PATCH => {
            state.patched.push(path.to_owned());
            node()
        }
        _ if path.ends_with("/leases/n1") => lease(&state),
        _ => {
            json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": "9"}, "items": items})
        }
    };
    Ok(Response::new(Full::new(Bytes::from(body.to_string())).boxed_unsync()))
}

fn start(api: &Api) -> Context {
    let served = api.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer(&served, &request);
        async move { answer }
    });
    let context = Context {
        client: kube::Client::new(service, "default"),
        clock: Clock::simulated(Timestamp::UNIX_EPOCH),
        entropy: Entropy::seeded(1),
        tasks: TaskTracker::new(),
        shutdown: CancellationToken::new(),
    };
    let informers = Informers::start(&context);
    super::super::start(&context, &informers, &Policy::default());
    context
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[tokio::test(start_paused = true)]
async fn while_the_api_server_is_away_no_node_is_lost_and_afterwards_each_has_its_grace() {
    let api = Api::default();
    let context = start(&api);
    sleep(seconds(20)).await;
    api.lock().unwrap().away = true;
    sleep(seconds(600)).await;
    api.lock().unwrap().away = false;
    sleep(seconds(45)).await;
    assert!(
        api.lock().unwrap().patched.is_empty(),
        "the kubelet could not renew, and has not had its time to"
    );
    sleep(seconds(20)).await;
    assert_eq!(api.lock().unwrap().patched.first().map(String::as_str), Some("/api/v1/nodes/n1/status"));
    context.shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_renewed_behind_the_caches_back_counts() {
    let api = Api::default();
    let context = start(&api);
    sleep(seconds(40)).await;
    api.lock().unwrap().renewed = 1;
    sleep(seconds(50)).await;
    assert!(api.lock().unwrap().patched.is_empty());
    sleep(seconds(20)).await;
    assert!(!api.lock().unwrap().patched.is_empty(), "silent since it was found to be renewed");
    context.shutdown.cancel();
}
