//! Many definitions at a time. That what is settled is not judged again is a test beside the code; here it is seen from
//! outside, by a time that is ten times what it takes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use crate::fixture::Fixture;

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MANY: usize = 400;
/// For all of them together, made and judged.
const SOON: Duration = Duration::from_secs(25);

/// Each has names of its own in the same group. Judging one must not mean judging all of them again.
#[tokio::test]
async fn many_of_a_group_are_in_force_soon() {
    tokio::time::timeout(SOON, all_are_in_force()).await.expect("all are in force in time");
}

async fn all_are_in_force() {
    let fixture = Fixture::new().await;
    let mut watch = fixture.watch(&format!("{DEFINITIONS}?watch=1")).await;
    for at in 0..MANY {
        let (plural, kind) = (format!("kinds{at}"), format!("Kind{at}"));
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": schema});
        let definition = json!({"metadata": {"name": format!("{plural}.example.com")}, "spec": {
            "group": "example.com", "scope": "Cluster", "names": {"plural": plural, "kind": kind}, "versions": [version]}});
        fixture.must("POST", DEFINITIONS, Some(&definition)).await;
    }
    let (mut events, mut established) = (0, BTreeSet::new());
    while established.len() < MANY {
        let event = watch.next().await.expect("an event");
        events += 1;
        let conditions = event["object"]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        if conditions.iter().any(|one| one["type"] == "Established" && one["status"] == "True") {
            established.insert(event["object"]["metadata"]["name"].to_string());
        }
    }
    assert!(events <= 2 * MANY, "each is made and then judged once: {events}");
    let last = format!("/apis/example.com/v1/kinds{}", MANY - 1);
    fixture.must("GET", &last, None).await;
}
