//! Nodes that get their part of the pods' range, one for which nothing is left, and what it gets when another goes.

use controllers::node_ipam::{self, Allocations, NODE_PREFIXES};
use serde_json::{Value, json};

use crate::api::{Api, State};
use crate::machines::Controllers;

fn key(name: &str) -> (String, String, String) {
    ("nodes".to_owned(), String::new(), name.to_owned())
}

fn add(api: &Api, name: &str) {
    api.state().put(&key(name), json!({"metadata": {"name": name, "uid": name}}));
    api.changed.notify_waiters();
}

fn range<'a>(state: &'a State, name: &str) -> &'a Value {
    &state.objects[&key(name)]["spec"]["podCIDR"]
}

/// What is said of a node, as `kubectl describe` finds it.
fn told<'a>(state: &'a State, name: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    let of_it = move |event: &&Value| {
        let object = &event["involvedObject"];
        object["kind"] == "Node" && object["name"] == name && object["uid"] == name
    };
    let text = |event: &'a Value, field: &str| event[field].as_str().unwrap_or_default();
    state.of("events").filter(of_it).map(move |event| (text(event, "reason"), text(event, "message")))
}

#[tokio::test(start_paused = true)]
async fn a_node_for_which_nothing_is_left_is_told_and_gets_what_another_had() {
    for seed in 1..=5 {
        let api = Api::new(seed);
        let cluster = "10.42.0.0/23".parse().expect("a range");
        let ranges = Allocations::new(&[cluster], NODE_PREFIXES).expect("two parts");
        let controllers = Controllers::start_some(&api, |context, informers| {
            node_ipam::start(context, informers, ranges);
        });
        for (name, expected) in [("n1", "10.42.0.0/24"), ("n2", "10.42.1.0/24")] {
            add(&api, name);
            api.until(name, |state| *range(state, name) == expected).await;
        }
        add(&api, "n3");
        let words = ("CIDRNotAvailable", "Node n3 status is now: CIDRNotAvailable");
        api.until("an event", |state| told(state, "n3").any(|said| said == words)).await;
        assert!(range(&api.state(), "n3").is_null(), "it stays without");
        api.state().drop_object(&key("n1"));
        api.changed.notify_waiters();
        let began = tokio::time::Instant::now();
        api.until("n3 gets what n1 had", |state| *range(state, "n3") == "10.42.0.0/24").await;
        assert!(began.elapsed().as_secs() < 5, "it waits for no deadline: {:?}", began.elapsed());
        controllers.stop().await;
    }
}
