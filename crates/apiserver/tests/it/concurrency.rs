//! Many writers of one object: nothing is lost, and nothing is done twice.

use serde_json::{Value, json};

use crate::fixture::{Fixture, read, request};

const MAP: &str = "/api/v1/namespaces/default/configmaps/m";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn with_map(data: Value) -> Fixture {
    let fixture = Fixture::new().await;
    fixture.must("POST", MAPS, Some(&json!({"metadata": {"name": "m"}, "data": data}))).await;
    fixture
}

/// Each writer reads, adds one, and writes with the revision that it read, again if somebody else was faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_update_is_lost() {
    const WRITERS: usize = 8;
    const ROUNDS: usize = 20;
    let fixture = with_map(json!({"n": "0"})).await;
    let writer = async || {
        let mut conflicts = 0;
        let mut done = 0;
        while done < ROUNDS {
            let mut map = fixture.must("GET", MAP, None).await;
            let number: usize =
                map["data"]["n"].as_str().and_then(|text| text.parse().ok()).expect("a number");
            map["data"]["n"] = (number + 1).to_string().into();
            match fixture.send("PUT", MAP, Some(&map)).await {
                (200, _) => done += 1,
                (409, status) => {
                    assert_eq!(status["reason"], "Conflict");
                    conflicts += 1;
                }
                (code, status) => panic!("{code} {status}"),
            }
        }
        conflicts
    };
    let conflicts: usize = futures::future::join_all((0..WRITERS).map(|_| writer())).await.into_iter().sum();
    let map = fixture.must("GET", MAP, None).await;
    assert_eq!(map["data"]["n"], (WRITERS * ROUNDS).to_string(), "after {conflicts} conflicts");
}

/// Patches that name no revision are applied to whatever is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn patches_of_different_fields_all_land() {
    let fixture = with_map(json!({})).await;
    let patch = async |number: usize| {
        let mut patch = request("PATCH", MAP, Some(&json!({"data": {format!("k{number}"): "v"}})));
        patch.headers_mut().insert("content-type", "application/merge-patch+json".parse().expect("a header"));
        read(fixture.call(patch).await).await
    };
    let answers = futures::future::join_all((0..12).map(&patch)).await;
    let landed = answers.iter().filter(|(code, _)| *code == 200).count();
    let map = fixture.must("GET", MAP, None).await;
    assert_eq!(map["data"].as_object().map(serde_json::Map::len), Some(landed));
    assert_eq!(landed, 12, "{answers:?}");
}

/// Of those who create the same name, one succeeds and the others hear who was first.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_name_is_given_once() {
    let fixture = Fixture::new().await;
    let create = async || fixture.send("POST", MAPS, Some(&json!({"metadata": {"name": "one"}}))).await;
    let answers = futures::future::join_all((0..16).map(|_| create())).await;
    assert_eq!(answers.iter().filter(|(code, _)| *code == 201).count(), 1);
    assert_eq!(
        answers.iter().filter(|(code, status)| *code == 409 && status["reason"] == "AlreadyExists").count(),
        15
    );
}
