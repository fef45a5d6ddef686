//! Disks that are full or broken, and clients that go away.

use serde_json::json;
use store::simdisk::Operation;

use crate::fixture::{Fixture, PATIENCE, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test(start_paused = true)]
async fn a_full_disk_refuses_writes_and_nothing_else() {
    let fixture = Fixture::new().await;
    fixture.must("POST", MAPS, Some(&json!({"metadata": {"name": "before"}}))).await;
    fixture.disk.set_capacity(Some(fixture.disk.used()));
    let big = json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(900_000)}});
    let mut refused = None;
    for number in 0..8 {
        let mut map = big.clone();
        map["metadata"]["name"] = format!("big{number}").into();
        let (code, status) = fixture.send("POST", MAPS, Some(&map)).await;
        if code != 201 {
            refused = Some((number, code, status));
            break;
        }
    }
    let (number, code, status) = refused.expect("what was preallocated runs out");
    assert_eq!(code, 507, "{status}");
    let message = status["message"].as_str().expect("a message");
    assert!(
        message.contains("no space left on device") && message.contains("nothing was stored"),
        "{message}"
    );
    // Reads go on, the refused object is nowhere, and the server says that it is well.
    fixture.must("GET", &format!("{MAPS}/before"), None).await;
    fixture.must("GET", MAPS, None).await;
    assert_eq!(fixture.send("GET", &format!("{MAPS}/big{number}"), None).await.0, 404);
    assert_eq!(fixture.send("GET", "/livez", None).await.0, 200);
    // With room again, writes go on.
    fixture.disk.set_capacity(None);
    fixture.must("POST", MAPS, Some(&json!({"metadata": {"name": "after"}}))).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_stops_writes_for_good_and_readiness_says_so() {
    let fixture = Fixture::new().await;
    fixture.must("POST", MAPS, Some(&json!({"metadata": {"name": "before"}}))).await;
    fixture.disk.fail_next(Operation::Sync, std::io::ErrorKind::Other);
    let (code, _) = fixture.send("POST", MAPS, Some(&json!({"metadata": {"name": "lost"}}))).await;
    assert_eq!(code, 500);
    let (code, status) = fixture.send("POST", MAPS, Some(&json!({"metadata": {"name": "later"}}))).await;
    assert_eq!(code, 500, "{status}");
    fixture.must("GET", &format!("{MAPS}/before"), None).await;
    let (code, text) = fixture.send("GET", "/readyz", None).await;
    assert_eq!(code, 500);
    assert!(text.as_str().is_some_and(|text| text.contains("[-]etcd failed")), "{text}");
    assert_eq!(fixture.send("GET", "/livez", None).await.0, 200);
}

/// What a client asked for is done whole, also when it does not wait for the answer.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_leaves_nothing_half_done() {
    let fixture = Fixture::new().await;
    let mut watch = fixture.watch(&format!("{MAPS}?watch=true")).await;
    let mut begun = 0;
    for polls in 1..12 {
        let map = json!({"metadata": {"name": format!("gone{polls}")}});
        let mut call = Box::pin(fixture.call(request("POST", MAPS, Some(&map))));
        let mut done = false;
        for _ in 0..polls {
            done = done || futures::poll!(&mut call).is_ready();
            if done {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(call);
        begun += usize::from(!done);
    }
    assert!(begun > 0, "some were dropped before their answer");
    // All tasks that were begun end; each object is there as a whole or not at all.
    fixture.must("POST", MAPS, Some(&json!({"metadata": {"name": "last"}}))).await;
    let mut seen = Vec::new();
    loop {
        let event = tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("an event");
        let name = event["object"]["metadata"]["name"].as_str().expect("a name").to_owned();
        assert!(event["object"]["metadata"]["uid"].is_string());
        if name == "last" {
            break;
        }
        seen.push(name);
    }
    let list = fixture.must("GET", MAPS, None).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(seen.len() + 1));
}
