//! Pages across a compaction, and large lists.

use std::io::Read;

use serde_json::{Value, json};
use store::Store;

use crate::fixture::{Fixture, request, text};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn fill(fixture: &Fixture, count: usize, data: &str) {
    for number in 0..count {
        let map = json!({"metadata": {"name": format!("m{number:04}")}, "data": {"a": data}});
        fixture.must("POST", MAPS, Some(&map)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_page_whose_revision_is_gone_is_410() {
    let fixture = Fixture::new().await;
    fill(&fixture, 5, "x").await;
    let page = fixture.must("GET", &format!("{MAPS}?limit=2"), None).await;
    let token = page["metadata"]["continue"].as_str().expect("a token").to_owned();
    fixture.must("DELETE", &format!("{MAPS}/m0003"), None).await;
    fixture.store.compact(fixture.store.current_revision()).await.expect("compacted");
    let (code, status) = fixture.send("GET", &format!("{MAPS}?limit=2&continue={token}"), None).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    assert!(
        status["message"]
            .as_str()
            .is_some_and(|text| text.starts_with("The provided continue parameter is too old"))
    );
}

#[tokio::test(start_paused = true)]
async fn pages_add_up_to_the_list_of_their_revision() {
    let fixture = Fixture::new().await;
    fill(&fixture, 23, "x").await;
    let whole = fixture.must("GET", MAPS, None).await;
    for limit in [1, 5, 22, 23, 24] {
        let mut items: Vec<Value> = Vec::new();
        let mut path = format!("{MAPS}?limit={limit}");
        loop {
            let page = fixture.must("GET", &path, None).await;
            items.extend(page["items"].as_array().expect("items").clone());
            assert_eq!(page["metadata"]["resourceVersion"], whole["metadata"]["resourceVersion"]);
            let left = 23 - items.len();
            match page["metadata"]["continue"].as_str() {
                Some(token) => {
                    assert_eq!(page["metadata"]["remainingItemCount"], left);
                    path = format!("{MAPS}?limit={limit}&continue={token}");
                }
                None => break,
            }
        }
        assert_eq!(items, *whole["items"].as_array().expect("items"), "limit {limit}");
    }
}

#[tokio::test(start_paused = true)]
async fn large_lists_are_streamed_and_compressed() {
    let fixture = Fixture::new().await;
    fill(&fixture, 40, &"words and words ".repeat(500)).await;
    let plain = text(fixture.call(request("GET", MAPS, None)).await).await;
    let mut asked = request("GET", MAPS, None);
    asked.headers_mut().insert("accept-encoding", "gzip".parse().expect("a header"));
    let answer = fixture.call(asked).await;
    assert_eq!(answer.headers().get("content-encoding").map(|value| value.as_bytes()), Some(&b"gzip"[..]));
    let packed = text(answer).await;
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(&packed[..]).read_to_end(&mut unpacked).expect("gzip");
    assert_eq!(unpacked, plain);
    assert!(packed.len() * 10 < plain.len(), "{} of {}", packed.len(), plain.len());
    let list: Value = serde_json::from_slice(&plain).expect("JSON");
    assert_eq!(list["items"].as_array().map(Vec::len), Some(40));
}

/// Reads of one's own writes, whichever way: the cache is never behind what a list or get without a revision must show.
#[tokio::test(start_paused = true)]
async fn what_was_answered_is_seen() {
    let fixture = Fixture::new().await;
    for number in 0..50 {
        let name = format!("r{number}");
        let made = fixture.must("POST", MAPS, Some(&json!({"metadata": {"name": name}}))).await;
        let list = fixture.must("GET", &format!("{MAPS}?labelSelector=!none"), None).await;
        let names = list["items"].as_array().expect("items").iter().map(|item| &item["metadata"]["name"]);
        assert!(names.into_iter().any(|found| *found == name.as_str()));
        let revision = made["metadata"]["resourceVersion"].as_str().expect("a revision");
        let got = fixture.must("GET", &format!("{MAPS}/{name}?resourceVersion={revision}"), None).await;
        assert_eq!(got, made);
    }
}

/// What a field selector finds is what looking at every object finds, however often fields have changed since it was first
/// asked.
#[tokio::test(start_paused = true)]
async fn a_selected_field_that_changes_is_found_by_its_new_value() {
    let fixture = Fixture::new().await;
    let list = |namespace: &str| format!("/api/v1{namespace}/pods");
    let names = |list: &Value, wanted: &dyn Fn(&Value) -> bool| -> Vec<String> {
        let items = list["items"].as_array().expect("items").iter().filter(|item| wanted(item));
        items.map(|item| format!("{}/{}", item["metadata"]["namespace"], item["metadata"]["name"])).collect()
    };
    for namespace in ["one", "two"] {
        let object = json!({"metadata": {"name": namespace}});
        fixture.must("POST", "/api/v1/namespaces", Some(&object)).await;
    }
    let mut found = 0;
    for step in 0..90_usize {
        let namespace = if step % 3 == 0 { "/namespaces/one" } else { "/namespaces/two" };
        let path = format!("{}/p{}", list(namespace), step % 7);
        let phase = ["Running", "Pending", "Failed"][step % 11 % 3];
        if fixture.send("GET", &path, None).await.0 == 404 {
            let pod = json!({"metadata": {"name": format!("p{}", step % 7)},
                "spec": {"containers": [{"name": "c", "image": "i"}]}});
            fixture.must("POST", &list(namespace), Some(&pod)).await;
        } else if step % 5 == 0 {
            fixture.must("DELETE", &format!("{path}?gracePeriodSeconds=0"), None).await;
            continue;
        }
        let mut pod = fixture.must("GET", &path, None).await;
        pod["status"] = json!({"phase": phase});
        fixture.must("PUT", &format!("{path}/status"), Some(&pod)).await;
        for namespace in ["", "/namespaces/one", "/namespaces/two"] {
            let all = fixture.must("GET", &list(namespace), None).await;
            for phase in ["Running", "Pending", "Failed", "Succeeded"] {
                let selector = format!("{}?fieldSelector=status.phase%3D{phase}", list(namespace));
                let selected = names(&fixture.must("GET", &selector, None).await, &|_| true);
                assert_eq!(selected, names(&all, &|pod| pod["status"]["phase"] == phase), "step {step}");
                found += selected.len();
            }
        }
    }
    assert!(found > 500, "{found}");
}
