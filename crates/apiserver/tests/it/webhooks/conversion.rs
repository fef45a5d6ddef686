//! Webhooks that convert custom resources: objects are stored in one version, and everybody who speaks another sees that one.

use serde_json::{Value, json};

use super::receiver::{Receiver, bundle};
use super::{GROUP, configure};
use crate::fixture::{Fixture, read, request};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const V1: &str = "/apis/example.org/v1/moons";
const V2: &str = "/apis/example.org/v2/moons";

/// The definition of moons, which are stored in v1.
fn moons(receiver: &Receiver, path: &str) -> Value {
    let version = |name: &str, field: &str, stored: bool| {
        let fields = json!({field: {"type": "integer", "maximum": 1000}, "note": {"type": "string"}});
        json!({"name": name, "served": true, "storage": stored,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": fields}}})
    };
    let client = json!({"url": format!("https://{}/{path}", receiver.address), "caBundle": bundle(&receiver.authority)});
    json!({"metadata": {"name": "moons.example.org"}, "spec": {
        "group": "example.org", "scope": "Cluster", "names": {"plural": "moons", "kind": "Moon"},
        "versions": [version("v1", "radius", true), version("v2", "diameter", false)],
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": client, "conversionReviewVersions": ["v1"]}},
    }})
}

fn moon(name: &str, diameter: i64) -> Value {
    json!({"apiVersion": "example.org/v2", "kind": "Moon", "metadata": {"name": name}, "diameter": diameter})
}

async fn place() -> (Fixture, Receiver) {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    fixture.must("POST", DEFINITIONS, Some(&moons(&receiver, "convert"))).await;
    fixture.must("POST", V2, Some(&moon("io", 40))).await;
    (fixture, receiver)
}

/// Sends a patch.
async fn patch(fixture: &Fixture, kind: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut request = request("PATCH", path, Some(body));
    request
        .headers_mut()
        .insert("content-type", format!("application/{kind}").parse().expect("a media type"));
    read(fixture.call(request).await).await
}

#[tokio::test]
async fn what_is_written_in_one_version_is_read_in_the_other() {
    let (fixture, receiver) = place().await;
    let asked = receiver.asked();
    let review = &asked[0].1;
    assert_eq!(
        (&review["desiredAPIVersion"], &review["objects"][0]["diameter"]),
        (&json!("example.org/v1"), &json!(40))
    );
    let stored = fixture.must("GET", &format!("{V1}/io"), None).await;
    assert_eq!((&stored["apiVersion"], &stored["radius"]), (&json!("example.org/v1"), &json!(20)));
    assert!(stored.get("diameter").is_none() && receiver.paths().is_empty(), "it is stored like this");
    let shown = fixture.must("GET", &format!("{V2}/io"), None).await;
    assert_eq!(
        (&shown["diameter"], &shown["metadata"]["labels"]),
        (&json!(40), &json!({"converted": "yes"}))
    );
    assert_eq!(shown["metadata"]["generation"], 1, "a webhook changes labels and annotations only");
    assert_eq!(shown["metadata"]["uid"], stored["metadata"]["uid"]);
    assert_eq!(shown["metadata"]["managedFields"][0]["apiVersion"], "example.org/v2");
    for at in 0..100 {
        fixture
            .must("POST", V1, Some(&json!({"metadata": {"name": format!("m{at:02}")}, "radius": at})))
            .await;
    }
    drop(receiver.asked());
    let list = fixture.must("GET", V2, None).await;
    assert_eq!(list["items"].as_array().map(Vec::len), Some(101));
    assert_eq!(
        (&list["items"][100]["diameter"], &list["items"][100]["apiVersion"]),
        (&json!(198), &json!("example.org/v2"))
    );
    assert_eq!(receiver.paths().len(), 2, "many at a time");
    let table = request("GET", &format!("{V2}/io"), None);
    let mut table = table;
    table
        .headers_mut()
        .insert("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".parse().expect("a media type"));
    let (code, table) = read(fixture.call(table).await).await;
    assert_eq!((code, &table["rows"][0]["cells"][0]), (200, &json!("io")));
}

#[tokio::test]
async fn changes_are_judged_in_the_version_of_the_request() {
    let (fixture, _receiver) = place().await;
    let io = format!("{V2}/io");
    let (code, changed) = patch(&fixture, "merge-patch+json", &io, &json!({"diameter": 60})).await;
    assert_eq!(
        (code, &changed["diameter"], &changed["metadata"]["generation"]),
        (200, &json!(60), &json!(2))
    );
    // A radius of 501 is fine, and a diameter of 1002 is not.
    let (code, refused) = patch(&fixture, "merge-patch+json", &io, &json!({"diameter": 1002})).await;
    assert_eq!(code, 422, "{refused}");
    let (code, _) = patch(&fixture, "merge-patch+json", &format!("{V1}/io"), &json!({"radius": 501})).await;
    assert_eq!(code, 200);
    let applied = json!({"apiVersion": "example.org/v2", "kind": "Moon", "note": "seen"});
    let (code, changed) =
        patch(&fixture, "apply-patch+yaml", &format!("{io}?fieldManager=a"), &applied).await;
    assert_eq!(
        (code, &changed["note"], &changed["diameter"]),
        (200, &json!("seen"), &json!(1002)),
        "{changed}"
    );
    let (code, changed) =
        patch(&fixture, "json-patch+json", &io, &json!([{"op": "replace", "path": "/diameter", "value": 8}]))
            .await;
    assert_eq!((code, &changed["diameter"]), (200, &json!(8)));
    let same = fixture.must("GET", &io, None).await;
    let (_, again) = patch(&fixture, "merge-patch+json", &io, &json!({"diameter": 8})).await;
    assert_eq!(
        again["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"],
        "nothing has changed"
    );
    let mut put = same.clone();
    put["diameter"] = 10.into();
    assert_eq!(fixture.must("PUT", &io, Some(&put)).await["diameter"], 10);
    assert_eq!(fixture.must("GET", &format!("{V1}/io"), None).await["radius"], 5);
    let gone = fixture.must("DELETE", &io, None).await;
    assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
}

#[tokio::test]
async fn watches_are_in_the_version_that_they_asked_for() {
    let (fixture, receiver) = place().await;
    let mut watch = fixture
        .watch(&format!(
            "{V2}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
        ))
        .await;
    let mut event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["diameter"]), (&json!("ADDED"), &json!(40)));
    event = watch.next().await.expect("an event");
    assert_eq!(
        (&event["type"], &event["object"]["apiVersion"]),
        (&json!("BOOKMARK"), &json!("example.org/v2"))
    );
    patch(&fixture, "merge-patch+json", &format!("{V1}/io"), &json!({"radius": 3})).await;
    event = watch.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["diameter"]), (&json!("MODIFIED"), &json!(6)));
    // The definition says that somebody else converts, who does not.
    let (code, _) = patch(
        &fixture,
        "merge-patch+json",
        &format!("{DEFINITIONS}/moons.example.org"),
        &json!({"spec": moons(&receiver, "refuse")["spec"]}),
    )
    .await;
    assert_eq!(code, 200);
    while let Some(event) = watch.next().await {
        assert_eq!(event["type"], "ERROR", "{event}");
    }
    let mut broken = fixture.watch(&format!("{V2}?watch=1")).await;
    event = broken.next().await.expect("an event");
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(500)));
    assert_eq!(broken.next().await, None);
}

#[tokio::test]
async fn answers_that_are_none_change_nothing() {
    let (fixture, receiver) = place().await;
    let url = format!("https://{}", receiver.address);
    for (path, why) in [
        ("refuse", "failed: no moons today".to_owned()),
        ("another-uid", "failed: expected response.uid=".to_owned()),
        ("fewer", "returned 0 objects, expected 1".to_owned()),
        ("another-name", "returned invalid converted object at index 0: must have the same name: io != x".to_owned()),
        ("not-converted", "returned invalid converted object at index 0: invalid groupVersion (expected example.org/v2, received example.org/v1)".to_owned()),
        ("bad-label", "returned invalid metadata in object at index 0: metadata.labels: Invalid value: \"no way\"".to_owned()),
        ("broken", "failed: an error on the server (\"it broke\") has prevented the request from succeeding".to_owned()),
        ("redirect", "failed: the server responded with the status code 302".to_owned()),
        ("garbage", "failed: ".to_owned()),
        ("deep", "failed: ".to_owned()),
        ("huge", "failed: the answer is larger than".to_owned()),
        ("empty", "failed: 0-length response with status code: 200".to_owned()),
    ] {
        let (code, _) = patch(&fixture, "merge-patch+json", &format!("{DEFINITIONS}/moons.example.org"),
            &json!({"spec": moons(&receiver, path)["spec"]})).await;
        assert_eq!(code, 200);
        fixture.must("GET", &format!("{V1}/io"), None).await;
        for (method, path_of, body) in [("GET", format!("{V2}/io"), None), ("GET", V2.to_owned(), None), ("PUT", format!("{V2}/io"), Some(moon("io", 2)))] {
            let (code, status) = fixture.send(method, &path_of, body.as_ref()).await;
            let text = status["message"].as_str().unwrap_or_default();
            let want = format!("conversion webhook for example.org/v1, Kind=Moon {why}");
            assert!(code == 500 && text.starts_with(&want), "{url}/{path}: {code} {text}");
        }
    }
    let stored = fixture.must("GET", &format!("{V1}/io"), None).await;
    assert_eq!((&stored["radius"], &stored["metadata"]["generation"]), (&json!(20), &json!(1)));
}

#[tokio::test]
async fn those_who_have_a_say_are_shown_the_version_that_they_know() {
    let (fixture, receiver) = place().await;
    let rule = |version: &str| json!([{"operations": ["*"], "apiGroups": ["example.org"], "apiVersions": [version], "resources": ["moons"]}]);
    configure(&fixture, "Validating", "old", &[receiver.hook("old", "allow", rule("v1"))]).await;
    configure(&fixture, "Mutating", "note", &[receiver.hook("note", "count", rule("v1"))]).await;
    let mut exact = receiver.hook("exact", "deny", rule("v1"));
    exact["matchPolicy"] = "Exact".into();
    configure(&fixture, "Validating", "exact", &[exact]).await;
    let spec = json!({"matchConstraints": {"resourceRules": rule("v1")},
        "validations": [{"expression": "object == null || object.radius < 300", "message": "too large"}]});
    let policy = json!({"metadata": {"name": "p"}, "spec": spec});
    fixture.must("POST", &format!("{GROUP}/validatingadmissionpolicies"), Some(&policy)).await;
    let binding =
        json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    let bound =
        fixture.must("POST", &format!("{GROUP}/validatingadmissionpolicybindings"), Some(&binding)).await;
    let revision = bound["metadata"]["resourceVersion"].as_str().expect("a revision");
    fixture
        .must("GET", &format!("{GROUP}/validatingadmissionpolicybindings/b?resourceVersion={revision}"), None)
        .await;
    drop(receiver.asked());
    let io = format!("{V2}/io");
    let (code, changed) = patch(&fixture, "merge-patch+json", &io, &json!({"diameter": 80})).await;
    assert_eq!((code, &changed["diameter"]), (200, &json!(80)), "{changed}");
    assert_eq!(changed["metadata"]["annotations"], json!({"count": "x"}));
    let asked = receiver.asked();
    for (path, seen) in asked.iter().filter(|(path, _)| path == "count" || path == "allow") {
        assert_eq!(
            (&seen["object"]["radius"], &seen["oldObject"]["radius"]),
            (&json!(40), &json!(20)),
            "{path}"
        );
        assert_eq!((&seen["kind"]["version"], &seen["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    }
    let of = |wanted: &str| asked.iter().filter(|(path, _)| path == wanted).count();
    assert_eq!((of("count"), of("allow"), of("deny")), (1, 1, 0));
    let (code, refused) = patch(&fixture, "merge-patch+json", &io, &json!({"diameter": 800})).await;
    assert!(
        code == 422 && refused["message"].as_str().is_some_and(|text| text.ends_with("too large")),
        "{refused}"
    );
}
