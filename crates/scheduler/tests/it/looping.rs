//! The loop against an API, on paused time.

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Context;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::{Api, State};
use crate::{asking, node, pod};

/// A scheduler that runs until it is stopped.
struct Running {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Running {
    fn start(api: &Api) -> Running {
        let running = Running { tasks: TaskTracker::new(), shutdown: CancellationToken::new() };
        let context = Context {
            client: api.client(),
            clock: Clock::simulated("2026-01-01T00:00:00Z".parse().expect("a time")),
            entropy: Entropy::seeded(1),
            tasks: running.tasks.clone(),
            shutdown: running.shutdown.clone(),
        };
        running.tasks.spawn(scheduler::run(context));
        running
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn put_node(api: &Api, name: &str, over: &Value) {
    api.put("nodes", name, serde_json::to_value(&*node(name, over)).expect("JSON"));
}

fn put_pod(api: &Api, name: &str, over: &Value) {
    api.put("pods", name, serde_json::to_value(&*pod(name, over)).expect("JSON"));
}

fn on<'a>(state: &'a State, pod: &str) -> &'a str {
    state.pods[pod]["spec"]["nodeName"].as_str().unwrap_or("")
}

fn condition<'a>(state: &'a State, pod: &str, field: &str) -> &'a str {
    state.pods[pod]["status"]["conditions"][0][field].as_str().unwrap_or("")
}

#[tokio::test(start_paused = true)]
async fn pods_are_bound_and_those_that_are_not_say_why() {
    let api = Api::default();
    let running = Running::start(&api);
    put_node(&api, "n", &json!({}));
    put_pod(&api, "fits", &asking(json!({"cpu": "3"})));
    api.until("bound", |state| on(state, "fits") == "n").await;
    put_pod(&api, "waits", &asking(json!({"cpu": "2"})));
    api.until("refused", |state| condition(state, "waits", "reason") == "Unschedulable").await;
    let expected = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: \
                    0/1 nodes are available: 1 No preemption victims found for incoming pod.";
    assert_eq!(condition(&api.state(), "waits", "message"), expected);
    assert_eq!(condition(&api.state(), "waits", "status"), "False");
    api.until("told", |state| state.events.len() == 2).await;
    assert_eq!(
        api.state().events,
        [
            ("Scheduled".to_owned(), "Successfully assigned default/fits to n".to_owned()),
            ("FailedScheduling".to_owned(), expected.to_owned()),
        ]
    );
    let freed = Instant::now();
    api.state().delete_pod("fits");
    api.until("bound", |state| on(state, "waits") == "n").await;
    assert!(freed.elapsed().as_millis() < 100, "woken by the pod that went, after {:?}", freed.elapsed());
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_is_reported_and_made_again() {
    let api = Api::default();
    api.state().broken = 2;
    put_node(&api, "n", &json!({}));
    put_pod(&api, "p", &json!({}));
    let running = Running::start(&api);
    api.until("reported", |state| condition(state, "p", "reason") == "SchedulerError").await;
    let expected = "binding rejected: running Bind plugin \"DefaultBinder\": the disk is full";
    assert_eq!(condition(&api.state(), "p", "message"), expected);
    let start = Instant::now();
    api.until("bound", |state| on(state, "p") == "n").await;
    assert_eq!(start.elapsed().as_secs(), 3, "one second, then two");
    assert_eq!(api.state().bindings, 3);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_scheduler_takes_over_where_the_last_one_was_cut_off() {
    let api = Api::default();
    put_node(&api, "a", &json!({}));
    put_node(&api, "b", &json!({}));
    for name in ["p0", "p1", "p2"] {
        put_pod(&api, name, &asking(json!({"cpu": "3"})));
    }
    let running = Running::start(&api);
    api.until("two are bound", |state| {
        state.pods.values().filter(|pod| !pod["spec"]["nodeName"].is_null()).count() == 2
    })
    .await;
    running.stop().await;
    let running = Running::start(&api);
    put_node(&api, "c", &json!({}));
    api.until("all are bound", |state| state.pods.values().all(|pod| !pod["spec"]["nodeName"].is_null()))
        .await;
    let nodes: std::collections::BTreeSet<String> =
        ["p0", "p1", "p2"].map(|name| on(&api.state(), name).to_owned()).into();
    assert_eq!(nodes.len(), 3, "one on each: {nodes:?}");
    assert_eq!(api.state().bindings, 3);
    running.stop().await;
}

#[tokio::test(start_paused = true)]
async fn many_pods_at_once_fill_nodes_to_the_brim_and_not_beyond() {
    let api = Api::default();
    for number in 0..20 {
        put_node(&api, &format!("n{number}"), &json!({}));
    }
    for number in 0..210 {
        put_pod(&api, &format!("p{number}"), &asking(json!({"cpu": "400m"})));
    }
    let running = Running::start(&api);
    let bound = |state: &State| state.pods.values().filter(|pod| !pod["spec"]["nodeName"].is_null()).count();
    api.until("200 are bound", |state| bound(state) == 200).await;
    let refused = |state: &State| {
        state
            .pods
            .keys()
            .filter(|name| condition(state, name, "message").contains("20 Too many pods"))
            .count()
    };
    api.until("the rest is refused", |state| refused(state) == 10).await;
    let mut count = std::collections::BTreeMap::<String, usize>::new();
    for pod in api.state().pods.values() {
        *count.entry(pod["spec"]["nodeName"].as_str().unwrap_or("").to_owned()).or_default() += 1;
    }
    assert!(count.values().all(|pods| *pods == 10) && count.len() == 21, "{count:?}");
    running.stop().await;
}
