//! Admission webhooks, asked over TLS on loopback.

mod conversion;
mod matching;
mod mutations;
mod policies;
pub mod receiver;

use http::HeaderMap;
use serde_json::{Value, json};

use self::receiver::{Receiver, bundle};
use crate::fixture::{Fixture, read, request};
use crate::tls::Authority;

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// A rule about a resource of any group, created.
fn creation(resource: &str) -> Value {
    rule(&["CREATE"], resource)
}

fn rule(operations: &[&str], resource: &str) -> Value {
    json!([{"operations": operations, "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]}])
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}})
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
}

/// Stores a configuration, and waits until the server goes by it.
async fn configure(fixture: &Fixture, kind: &str, name: &str, webhooks: &[Value]) {
    let kind = format!("{kind}WebhookConfiguration");
    let plural = format!("{}s", kind.to_lowercase());
    let object = json!({"kind": kind, "metadata": {"name": name}, "webhooks": webhooks});
    let made = fixture.must("POST", &format!("{GROUP}/{plural}"), Some(&object)).await;
    let revision = made["metadata"]["resourceVersion"].as_str().expect("a revision");
    fixture.must("GET", &format!("{GROUP}/{plural}/{name}?resourceVersion={revision}"), None).await;
}

/// As `Fixture::send`, with the headers of the answer.
async fn send(fixture: &Fixture, method: &str, path: &str, body: &Value) -> (u16, HeaderMap, Value) {
    let response = fixture.call(request(method, path, Some(body))).await;
    let headers = response.headers().clone();
    let (code, value) = read(response).await;
    (code, headers, value)
}

#[tokio::test]
async fn webhooks_change_what_is_stored_and_nothing_that_is_the_servers() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    configure(&fixture, "Mutating", "b", &[receiver.hook("label", "label", creation("pods"))]).await;
    configure(&fixture, "Mutating", "a", &[receiver.hook("sidecar", "sidecar", creation("pods"))]).await;
    let mut generated = pod("");
    generated["metadata"] = json!({"generateName": "p-", "uid": "mine"});
    let made = fixture.must("POST", PODS, Some(&generated)).await;
    assert_eq!(made["metadata"]["labels"], json!({"label": "yes"}));
    let sidecar = &made["spec"]["containers"][1];
    assert_eq!((&sidecar["name"], &sidecar["imagePullPolicy"]), (&json!("sidecar"), &json!("IfNotPresent")));
    assert!(sidecar.get("unheard").is_none());
    assert_eq!(made["status"]["phase"], "Pending");
    assert_ne!(made["metadata"]["uid"], "mine");
    assert_eq!(made["metadata"]["generation"], 1);
    let asked = receiver.asked();
    assert_eq!(asked.iter().map(|(path, _)| &**path).collect::<Vec<_>>(), ["sidecar", "label"]);
    let first = &asked[0].1;
    let about = |kind: &str| json!({"group": "", "version": "v1", "kind": kind});
    assert_eq!((&first["kind"], &first["requestKind"]), (&about("Pod"), &about("Pod")));
    assert_eq!(first["resource"], json!({"group": "", "version": "v1", "resource": "pods"}));
    assert_eq!((&first["operation"], &first["namespace"]), (&json!("CREATE"), &json!("default")));
    assert_eq!((&first["dryRun"], &first["userInfo"]["username"]), (&json!(false), &json!("tester")));
    assert_eq!(first["options"], json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"}));
    // The name is not known before the object is.
    assert!(first.get("name").is_none() && first["object"]["metadata"].get("name").is_none());
    assert!(first["object"]["metadata"].get("uid").is_none() && first["oldObject"].is_null());
    assert_eq!(first["object"]["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(asked[1].1["object"]["spec"]["containers"][1]["imagePullPolicy"], "IfNotPresent");
}

#[tokio::test]
async fn updates_patches_and_deletions_are_shown_with_what_was_before() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    fixture.must("POST", MAPS, Some(&map("m"))).await;
    let all = rule(&["*"], "configmaps");
    configure(&fixture, "Mutating", "m", &[receiver.hook("count", "count", all.clone())]).await;
    configure(&fixture, "Validating", "v", &[receiver.hook("see", "allow", all)]).await;
    let path = format!("{MAPS}/m");
    let mut changed = map("m");
    changed["data"] = json!({"a": "c"});
    let stored = fixture.must("PUT", &path, Some(&changed)).await;
    assert_eq!(stored["metadata"]["annotations"], json!({"count": "x"}));
    let asked = receiver.asked();
    assert_eq!(asked.iter().map(|(path, _)| &**path).collect::<Vec<_>>(), ["count", "allow"]);
    for (_, seen) in &asked {
        assert_eq!((&seen["operation"], &seen["name"]), (&json!("UPDATE"), &json!("m")));
        assert_eq!(seen["object"]["data"], json!({"a": "c"}));
        assert_eq!(seen["oldObject"]["data"], json!({"a": "b"}));
        assert_eq!(seen["options"]["kind"], "UpdateOptions");
    }
    // Validating ones see what mutating ones made.
    assert_eq!(asked[1].1["object"]["metadata"]["annotations"], json!({"count": "x"}));
    let response = fixture.call(patch(&path, r#"{"data": {"d": "e"}}"#)).await;
    let (code, value) = read(response).await;
    assert_eq!((code, &value["metadata"]["annotations"]["count"]), (200, &json!("xx")));
    assert_eq!(receiver.asked()[0].1["options"]["kind"], "PatchOptions");
    // A patch of an object that is to go is not supported, and says so.
    let (code, status) =
        fixture.send("DELETE", &path, Some(&json!({"propagationPolicy": "Background"}))).await;
    assert_eq!(code, 500);
    let text = "admission webhook \"count.example.com\" attempted to modify the object, which is not supported for this operation";
    assert_eq!(status["message"], format!("Internal error occurred: {text}"));
    let asked = receiver.asked();
    let seen = &asked[0].1;
    assert!(seen["object"].is_null(), "{seen}");
    assert_eq!((&seen["operation"], &seen["oldObject"]["data"]["d"]), (&json!("DELETE"), &json!("e")));
    assert_eq!(
        (&seen["options"]["kind"], &seen["options"]["propagationPolicy"]),
        (&json!("DeleteOptions"), &json!("Background"))
    );
}

fn patch(path: &str, body: &'static str) -> http::Request<bytes::Bytes> {
    let builder = http::Request::builder().method("PATCH").uri(path);
    builder.header("content-type", "application/merge-patch+json").body(body.into()).expect("a request")
}

#[tokio::test]
async fn refusals_and_warnings_reach_the_client() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let hooks = [
        receiver.hook("warn", "warn", creation("*")),
        receiver.hook("annotate", "annotate", creation("*")),
        receiver.hook("deny", "deny", creation("secrets")),
        receiver.hook("silent", "silent-no", creation("serviceaccounts")),
    ];
    configure(&fixture, "Validating", "v", &hooks).await;
    let (code, headers, _) = send(&fixture, "POST", MAPS, &map("m")).await;
    assert_eq!(code, 201);
    let warnings: Vec<_> = headers.get_all("warning").iter().collect();
    assert_eq!(warnings, ["299 - \"be careful\"", "299 - \"and \\\"quoted\\\"  X: y\""]);
    let secret = json!({"metadata": {"name": "s"}});
    let (code, _, status) = send(&fixture, "POST", "/api/v1/namespaces/default/secrets", &secret).await;
    assert_eq!((code, &status["reason"], &status["code"]), (403, &json!("Forbidden"), &json!(403)));
    let text = "admission webhook \"deny.example.com\" denied the request: not like this";
    assert_eq!(status["message"], text);
    let (code, _, status) =
        send(&fixture, "POST", "/api/v1/namespaces/default/serviceaccounts", &secret).await;
    let text = "admission webhook \"silent.example.com\" denied the request without explanation";
    assert_eq!((code, &status["message"]), (400, &json!(text)));
    assert_eq!(fixture.send("GET", "/api/v1/namespaces/default/secrets/s", None).await.0, 404);
}

/// What a webhook does wrong, and what the client hears of it, `…` being the address.
const FAILURES: [(&str, &str); 11] = [
    (
        "redirect",
        "failed to call webhook: the server responded with the status code 302 but did not return more information",
    ),
    (
        "broken",
        "failed to call webhook: an error on the server (\"it broke\") has prevented the request from succeeding",
    ),
    ("missing", "failed to call webhook: the server could not find the requested resource"),
    (
        "empty",
        "failed to call webhook: 0-length response with status code: 200 and content type: application/json",
    ),
    ("garbage", "failed to call webhook: couldn't get version/kind; json parse error: "),
    ("deep", "failed to call webhook: couldn't get version/kind; json parse error: "),
    ("huge", "failed to call webhook: the answer is larger than 8388608 bytes"),
    ("another-uid", "received invalid webhook response: expected response.uid=\""),
    ("hang", "failed to call webhook: Post \"https://…/hang?timeout=1s\": context deadline exceeded"),
    (
        "refused",
        "failed to call webhook: Post \"https://…/refused?timeout=30s\": dial tcp …: connect: connection refused",
    ),
    (
        "untrusted",
        "failed to call webhook: Post \"https://…/untrusted?timeout=30s\": tls: failed to verify certificate: x509: certificate signed by unknown authority",
    ),
];

/// A webhook that goes wrong in this way, and where it is.
fn failing(receiver: &Receiver, way: &str, closed: u16) -> (Value, String) {
    let mut hook = receiver.hook(way, way, creation("configmaps"));
    let mut address = receiver.address.to_string();
    hook["timeoutSeconds"] = if way == "hang" { 1 } else { 30 }.into();
    if way == "refused" {
        address = format!("127.0.0.1:{closed}");
        hook["clientConfig"]["url"] = format!("https://{address}/refused").into();
    }
    if way == "untrusted" {
        hook["clientConfig"]["caBundle"] = bundle(&Authority::new()).into();
    }
    (hook, address)
}

/// A port at which nobody listens.
async fn closed_port() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address").port()
}

async fn failures(kind: &str) {
    let receiver = Receiver::start().await;
    let closed = closed_port().await;
    for (way, want) in FAILURES {
        let fixture = Fixture::new().await;
        let (hook, address) = failing(&receiver, way, closed);
        configure(&fixture, kind, "h", &[hook]).await;
        let (code, status) = fixture.send("POST", MAPS, Some(&map("m"))).await;
        let message = status["message"].as_str().unwrap_or_default();
        let want = format!(
            "Internal error occurred: failed calling webhook \"{way}.example.com\": {}",
            want.replace('…', &address)
        );
        assert!(code == 500 && message.starts_with(&want), "{kind} {way}: {code} {message}\nexpected {want}");
    }
    assert!(!receiver.paths().contains(&"allow".to_owned()), "no redirect is followed");
}

#[tokio::test]
async fn a_mutating_webhook_that_does_not_answer_fails_the_request() {
    failures("Mutating").await;
}

#[tokio::test]
async fn a_validating_webhook_that_does_not_answer_fails_the_request() {
    failures("Validating").await;
}

#[tokio::test]
async fn whose_failure_is_ignored_is_not_missed() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let closed = closed_port().await;
    let hooks: Vec<Value> = FAILURES
        .iter()
        .map(|(way, _)| {
            let mut hook = failing(&receiver, way, closed).0;
            hook["failurePolicy"] = "Ignore".into();
            hook
        })
        .collect();
    configure(&fixture, "Mutating", "m", &hooks).await;
    configure(&fixture, "Validating", "v", &hooks).await;
    fixture.must("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(receiver.paths().len(), 2 * (FAILURES.len() - 2), "the others were asked");
}

#[tokio::test]
async fn patches_that_make_no_sense_fail_the_request_whatever_the_policy() {
    let receiver = Receiver::start().await;
    for (way, want) in [
        ("no-patch", "Internal error occurred: error decoding patch: a JSON patch is a list of operations"),
        (
            "bad-patch",
            "Internal error occurred: remove operation does not apply: doc is missing path: \"/spec/nothing/here\": missing value",
        ),
        (
            "another-kind",
            "Internal error occurred: admission webhook \"w.example.com\" made something else of the object",
        ),
        (
            "no-object",
            "Internal error occurred: admission webhook \"w.example.com\" made something else of the object",
        ),
        ("wrong-type", "Internal error occurred: ConfigMap \"m\" is invalid: data: Invalid value"),
    ] {
        let fixture = Fixture::new().await;
        let mut hook = receiver.hook("w", way, creation("configmaps"));
        hook["failurePolicy"] = "Ignore".into();
        configure(&fixture, "Mutating", "m", &[hook]).await;
        let (code, status) = fixture.send("POST", MAPS, Some(&map("m"))).await;
        let message = status["message"].as_str().unwrap_or_default();
        assert!(code == 500 && message.starts_with(want), "{way}: {code} {message}");
        assert_eq!(fixture.send("GET", &format!("{MAPS}/m"), None).await.0, 404);
    }
}

#[tokio::test]
async fn whoever_asked_for_it_is_asked_again_after_changes() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let again = |name: &str, path: &str| {
        let mut hook = receiver.hook(name, path, creation("configmaps"));
        hook["reinvocationPolicy"] = "IfNeeded".into();
        hook
    };
    let hooks = [
        again("first", "count"),
        receiver.hook("second", "allow", creation("configmaps")),
        receiver.hook("third", "label", creation("configmaps")),
        again("fourth", "annotate"),
    ];
    configure(&fixture, "Mutating", "m", &hooks).await;
    let made = fixture.must("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(made["metadata"]["annotations"]["count"], "xx");
    // The fourth had seen everything, until the first changed something once more.
    assert_eq!(receiver.paths(), ["count", "allow", "label", "annotate", "count", "annotate"]);
}

#[tokio::test]
async fn a_dry_run_is_one_for_webhooks_too() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let mut hook = receiver.hook("label", "label", creation("configmaps"));
    hook["sideEffects"] = "NoneOnDryRun".into();
    configure(&fixture, "Mutating", "m", &[hook]).await;
    let made = fixture.must("POST", &format!("{MAPS}?dryRun=All"), Some(&map("m"))).await;
    assert_eq!(made["metadata"]["labels"], json!({"label": "yes"}));
    let asked = receiver.asked();
    assert_eq!((&asked[0].1["dryRun"], &asked[0].1["options"]["dryRun"]), (&json!(true), &json!(["All"])));
    assert_eq!(fixture.send("GET", &format!("{MAPS}/m"), None).await.0, 404);
}

#[tokio::test]
async fn a_webhook_of_a_service_that_nobody_serves() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let mut hook = receiver.hook("s", "", creation("configmaps"));
    hook["clientConfig"] = json!({"service": {"namespace": "default", "name": "hooks", "path": "/p"}});
    configure(&fixture, "Validating", "v", &[hook]).await;
    let message = |why: &str| {
        let post = "Post \"https://hooks.default.svc:443/p?timeout=10s\"";
        json!(format!(
            "Internal error occurred: failed calling webhook \"s.example.com\": failed to call webhook: {post}: {why}"
        ))
    };
    let (code, status) = fixture.send("POST", MAPS, Some(&map("m"))).await;
    assert_eq!((code, &status["message"]), (500, &message("service \"hooks\" not found")));
    let service = json!({"metadata": {"name": "hooks"}, "spec": {"ports": [{"port": 443}]}});
    fixture.must("POST", "/api/v1/namespaces/default/services", Some(&service)).await;
    let (_, status) = fixture.send("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(status["message"], message("no endpoints available for service \"hooks\""));
    // An endpoint that leads the server to itself is none.
    let slice = json!({"metadata": {"name": "hooks-1", "labels": {"kubernetes.io/service-name": "hooks"}},
        "addressType": "IPv4", "ports": [{"port": receiver.address.port()}], "endpoints": [{"addresses": ["127.0.0.1"]}]});
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let (code, _) = fixture.send("POST", slices, Some(&slice)).await;
    assert!(matches!(code, 201 | 422), "{code}");
    let (_, status) = fixture.send("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(status["message"], message("no endpoints available for service \"hooks\""));
    assert!(receiver.paths().is_empty());
}
