//! Watches that need more than text: time, lost history, shutdown, and readers that do not read.

use std::sync::Arc;
use std::time::Duration;

use apiserver::Config;
use apiserver::proxy::NoKubelets;
use http_body_util::BodyExt;
use serde_json::json;
use store::Store;
use store::simdisk::SimDisk;

use crate::fixture::{Fixture, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test(start_paused = true)]
async fn a_quiet_watch_is_told_how_far_it_is() {
    let fixture = Fixture::new().await;
    let mut watch = fixture.watch(&format!("{MAPS}?watch=true&allowWatchBookmarks=true")).await;
    let mut silent = fixture.watch(&format!("{MAPS}?watch=true&timeoutSeconds=200")).await;
    let secret = json!({"metadata": {"name": "s"}});
    let made = fixture.must("POST", "/api/v1/namespaces/default/secrets", Some(&secret)).await;
    // The answer to the list is what makes sure that the cache has seen the secret.
    fixture.must("GET", MAPS, None).await;
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    let event = watch.next().await.expect("a bookmark");
    assert_eq!(event["type"], "BOOKMARK");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
    tokio::time::advance(std::time::Duration::from_secs(200)).await;
    assert_eq!(silent.next().await, None, "no bookmark that was not asked for, and an end in time");
}

#[tokio::test(start_paused = true)]
async fn a_watch_from_lost_history_is_told_to_list_again() {
    let fixture = Fixture::new().await;
    let first = fixture.must("POST", MAPS, Some(&map("m"))).await;
    let from = first["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    for round in 0..3000 {
        let patch = json!({"metadata": {"name": "m"}, "data": {"round": round.to_string()}});
        fixture.must("PUT", &format!("{MAPS}/m"), Some(&patch)).await;
    }
    fixture.must("GET", MAPS, None).await;
    let mut watch = fixture.watch(&format!("{MAPS}?watch=true&resourceVersion={from}")).await;
    let event = watch.next().await.expect("an error");
    assert_eq!(event["type"], "ERROR");
    let status = &event["object"];
    assert_eq!(
        (&status["kind"], &status["code"], &status["reason"]),
        (&json!("Status"), &json!(410), &json!("Expired"))
    );
    let message = status["message"].as_str().expect("a message");
    assert!(message.starts_with(&format!("too old resource version: {from} (")), "{message}");
    assert_eq!(watch.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_falls_behind_loses_its_place_and_nothing_else() {
    let fixture = Fixture::new().await;
    let mut slow = fixture.watch(&format!("{MAPS}?watch=true")).await;
    fixture.must("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(slow.brief().await, "ADDED m");
    let mut other = fixture.watch("/api/v1/namespaces/default/secrets?watch=true").await;
    for round in 0..3000 {
        let patch = json!({"metadata": {"name": "m"}, "data": {"round": round.to_string()}});
        fixture.must("PUT", &format!("{MAPS}/m"), Some(&patch)).await;
    }
    fixture.must("GET", MAPS, None).await;
    let event = slow.next().await.expect("an error");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)));
    fixture.must("POST", "/api/v1/namespaces/default/secrets", Some(&map("s"))).await;
    assert_eq!(other.brief().await, "ADDED s");
}

/// However much a slow reader has to catch up with, it is handed one piece at a time.
#[tokio::test(start_paused = true)]
async fn a_backlog_is_sent_in_pieces() {
    const FAT: usize = 100_000;
    let fixture = Fixture::new().await;
    let watch = fixture.call(request("GET", &format!("{MAPS}?watch=true"), None)).await;
    for round in 0..20 {
        let mut fat = map(&format!("fat-{round}"));
        fat["data"] = json!({"a": "x".repeat(FAT)});
        fixture.must("POST", MAPS, Some(&fat)).await;
    }
    fixture.must("GET", MAPS, None).await;
    let mut body = watch.into_body();
    let mut events = 0;
    while events < 20 {
        let frame = body.frame().await.expect("the watch goes on").expect("without an error");
        let data = frame.into_data().expect("data");
        assert!(data.len() < 2 * FAT, "{} bytes at once", data.len());
        events += data.iter().filter(|byte| **byte == b'\n').count();
    }
    assert_eq!(events, 20);
}

/// The cache follows the store across a compaction that overtook it.
#[tokio::test(start_paused = true)]
async fn compaction_does_not_disturb_watches() {
    let fixture = Fixture::new().await;
    let mut watch = fixture.watch(&format!("{MAPS}?watch=true")).await;
    fixture.must("POST", MAPS, Some(&map("a"))).await;
    fixture.store.compact(fixture.store.current_revision()).await.expect("compacted");
    fixture.must("POST", MAPS, Some(&map("b"))).await;
    assert_eq!(watch.brief().await, "ADDED a");
    assert_eq!(watch.brief().await, "ADDED b");
}

#[tokio::test(start_paused = true)]
async fn every_watch_sees_the_same_order() {
    let fixture = Fixture::new().await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(fixture.watch("/api/v1/configmaps?watch=true").await);
    }
    let names: Vec<String> = (0..100).map(|number| format!("m{number}")).collect();
    let made = names.iter().map(|name| {
        let fixture = &fixture;
        async move { fixture.must("POST", MAPS, Some(&map(name))).await }
    });
    futures::future::join_all(made).await;
    let mut orders = Vec::new();
    for watch in &mut watches {
        let mut order = Vec::new();
        let mut last = 0;
        for _ in &names {
            let event = watch.next().await.expect("an event");
            let revision: u64 = event["object"]["metadata"]["resourceVersion"]
                .as_str()
                .expect("text")
                .parse()
                .expect("a number");
            assert!(revision > last, "revisions grow");
            last = revision;
            order.push(event["object"]["metadata"]["name"].as_str().expect("a name").to_owned());
        }
        orders.push(order);
    }
    assert!(orders.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_watches() {
    let fixture = Fixture::new().await;
    let mut watch = fixture.watch(&format!("{MAPS}?watch=true")).await;
    fixture.server.stop().await;
    assert_eq!(watch.next().await, None);
    assert!(!fixture.server.is_ready());
}

/// Events are the one kind that goes by itself.
#[tokio::test(start_paused = true)]
async fn old_events_go_and_nothing_else_does() {
    const EVENTS: &str = "/api/v1/namespaces/default/events";
    let event = |name: &str| json!({"metadata": {"name": name}, "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    for (ttl, goes) in [(Duration::ZERO, true), (Duration::from_secs(3600), false)] {
        let config = Config { event_ttl: ttl, ..Config::default() };
        let fixture = Fixture::with(config, Arc::new(NoKubelets), SimDisk::new(1)).await;
        let mut watch = fixture.watch(&format!("{EVENTS}?watch=true&timeoutSeconds=600")).await;
        fixture.must("POST", MAPS, Some(&map("stays"))).await;
        fixture.must("POST", EVENTS, Some(&event("e"))).await;
        assert_eq!(watch.brief().await, "ADDED e");
        tokio::time::advance(Duration::from_secs(301)).await;
        if goes {
            assert_eq!(watch.brief().await, "DELETED e");
        } else {
            tokio::time::advance(Duration::from_secs(300)).await;
            assert_eq!(watch.next().await, None, "the watch ended, and the event is still there");
            fixture.must("GET", &format!("{EVENTS}/e"), None).await;
        }
        fixture.must("GET", &format!("{MAPS}/stays"), None).await;
    }
}
