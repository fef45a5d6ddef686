//! Inputs that would cost a careless server its memory, its stack or its time: what each gets, and that nothing is lost. Memory
//! is that of this process, client included, which runs one test.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use apiserver::Config;
use apiserver::proxy::NoKubelets;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use peak_alloc::PeakAlloc;
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use tokio::time::Instant;

use crate::fixture::{Fixture, read, request, text};
use crate::scenario::Transport;
use crate::tls::{Client, Secured, Version};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

const MIB: usize = 1 << 20;
const LIMIT: usize = 3 * MIB;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const REVISIONS: &str = "/apis/apps/v1/namespaces/default/controllerrevisions";
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const APPLY: &str = "application/apply-patch+yaml";
const JSON_PATCH: &str = "application/json-patch+json";

/// How much longer code takes that was not optimised, on a machine that is busy.
const SLOWER: u32 = if cfg!(debug_assertions) { 20 } else { 1 };

/// A server with an object, and a client of it.
struct Victim {
    secured: Secured,
    client: Client,
}

impl Victim {
    async fn new(version: Version) -> Victim {
        let secured = Secured::start(Fixture::new().await, Config::default()).await;
        let client = secured.client(version).await;
        let victim = Victim { secured, client };
        let object = json!({"metadata": {"name": "a"}, "data": {"a": "b"}});
        assert_eq!(victim.send("POST", MAPS, JSON, object.to_string()).await.0, 201);
        victim
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: impl Into<Bytes> + Send,
    ) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).header("content-type", media);
        read(self.client.send(request.body(body.into()).expect("a request")).await).await
    }

    /// Everything that is stored.
    async fn stored(&self) -> Vec<Value> {
        let mut all = Vec::new();
        for path in ["/api/v1/configmaps", "/api/v1/secrets", "/api/v1/namespaces"] {
            let (code, mut list) = read(self.client.send(request("GET", path, None)).await).await;
            assert_eq!(code, 200, "{path}");
            all.push(list["items"].take());
        }
        all
    }

    /// Does something that must not change anything, and gives how much memory it took at most.
    async fn harmless<T>(&self, work: impl Future<Output = T>) -> (T, usize) {
        let before = self.stored().await;
        let used = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let done = work.await;
        let held = HEAP.peak_usage().saturating_sub(used);
        assert_eq!(self.stored().await, before, "what is stored is as it was");
        let left = HEAP.current_usage().saturating_sub(used);
        assert!(left < MIB, "{left} bytes are still in use");
        (done, held)
    }

    /// What writes bodies of every kind: method, path and media type.
    fn writes() -> Vec<(&'static str, String, &'static str)> {
        let map = format!("{MAPS}/a");
        vec![
            ("POST", MAPS.to_owned(), JSON),
            ("POST", MAPS.to_owned(), YAML),
            ("PUT", map.clone(), JSON),
            ("DELETE", map.clone(), JSON),
            ("DELETE", map.clone(), YAML),
            ("PATCH", map.clone(), JSON_PATCH),
            ("PATCH", map.clone(), "application/merge-patch+json"),
            ("PATCH", map.clone(), "application/strategic-merge-patch+json"),
            ("PATCH", format!("{map}?fieldManager=m"), APPLY),
            ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(), JSON),
        ]
    }
}

/// The shortest of some attempts: the machine may be busy with something else.
async fn quickest<T, F: Future<Output = T>>(work: impl Fn() -> F) -> (T, Duration) {
    let mut best: Option<(T, Duration)> = None;
    for _ in 0..5 {
        let start = Instant::now();
        let done = work().await;
        let spent = start.elapsed();
        if best.as_ref().is_none_or(|(_, quickest)| spent < *quickest) {
            best = Some((done, spent));
        }
    }
    best.expect("an attempt")
}

/// 1.
#[tokio::test]
async fn a_body_of_one_byte_more_than_three_mebibytes() {
    for version in [Version::Http1, Version::Http2] {
        let victim = Victim::new(version).await;
        for (method, path, media) in Victim::writes() {
            let sending = victim.send(method, &path, media, vec![b' '; LIMIT + 1]);
            let ((code, answer), held) = victim.harmless(sending).await;
            let message = "Request entity too large: limit is 3145728";
            assert_eq!((code, &answer["message"]), (413, &json!(message)), "{method} {path} {media}");
            assert!(held < 16 * MIB, "{held} bytes");
        }
        // One byte less is read.
        let mut body = json!({"metadata": {"name": "b"}}).to_string().into_bytes();
        body.resize(LIMIT, b' ');
        assert_eq!(victim.send("POST", &format!("{MAPS}?dryRun=All"), JSON, body).await.0, 201);
        victim.secured.stop().await;
    }
}

/// 2.
#[tokio::test]
async fn json_that_is_nested_one_and_a_half_million_deep() {
    let victim = Victim::new(Version::Http2).await;
    let deep = 1_500_000;
    let bodies = [
        "[".repeat(deep) + &"]".repeat(deep),
        "[".repeat(deep),
        format!("{{\"data\":{}{}}}", "[".repeat(deep), "]".repeat(deep)),
        "{\"a\":".repeat(deep / 3),
        format!(
            "[{{\"op\":\"add\",\"path\":\"/data\",\"value\":{}1{}}}]",
            "[".repeat(deep),
            "]".repeat(deep)
        ),
    ];
    for (method, path, media) in Victim::writes() {
        for body in &bodies {
            let start = Instant::now();
            let sending = victim.send(method, &path, media, body.clone());
            let ((code, answer), held) = victim.harmless(sending).await;
            assert_eq!(code, 400, "{method} {path} {media} {} {answer}", &body[..20]);
            assert!(held < 32 * MIB, "{held} bytes for {method} {media}");
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        }
    }
    victim.secured.stop().await;
}

/// 2, behind the decoder: what is as deep as it may be goes through everything that walks it, and no patch makes it deeper.
#[tokio::test]
async fn what_is_as_deep_as_it_may_be_goes_everywhere() {
    let victim = Victim::new(Version::Http2).await;
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let revision = |depth: usize| {
        let data =
            format!("{{\"metadata\":{{\"name\":\"deep\"}},\"revision\":1,\"data\":{}}}", nested(depth));
        format!("{{\"apiVersion\":\"apps/v1\",\"kind\":\"ControllerRevision\",{}", &data[1..])
    };
    assert_eq!(victim.send("POST", REVISIONS, JSON, revision(127)).await.0, 400);
    assert_eq!(victim.send("POST", REVISIONS, JSON, revision(126)).await.0, 201);
    let path = format!("{REVISIONS}/deep");
    for accept in [
        JSON,
        YAML,
        "application/json;as=Table;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
    ] {
        for path in [format!("{path}?includeObject=Object"), REVISIONS.to_owned()] {
            let asked =
                Request::get(path.as_str()).header("accept", accept).body(Bytes::new()).expect("a request");
            assert_eq!(victim.client.send(asked).await.status(), 200, "{accept} {path}");
        }
    }
    let deeper = [
        (JSON_PATCH, r#"[{"op":"copy","from":"/data","path":"/data/0"}]"#.to_owned(), 422),
        ("application/merge-patch+json", format!("{{\"data\":{{\"a\":{}}}}}", nested(126)), 400),
        ("application/strategic-merge-patch+json", format!("{{\"data\":{{\"a\":{}}}}}", nested(126)), 400),
        (APPLY, revision(127), 400),
    ];
    for (media, body, wanted) in deeper {
        let path = format!("{path}{}", if media == APPLY { "?fieldManager=m&force=true" } else { "" });
        let (code, answer) = victim.send("PATCH", &path, media, body).await;
        assert_eq!(code, wanted, "{media} {answer}");
    }
    let (code, answer) = victim.send("PATCH", &format!("{path}?fieldManager=m"), APPLY, revision(126)).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(victim.send("DELETE", &path, JSON, "").await.0, 200);
    victim.secured.stop().await;
}

/// 3.
#[tokio::test]
async fn a_yaml_alias_bomb() {
    let victim = Victim::new(Version::Http2).await;
    let tower = |first: &str, step: &dyn Fn(usize) -> String| -> String {
        (1..10).fold(format!("a0: &a0 {first}\n"), |text, level| text + &step(level))
    };
    let lists = tower("[x, x, x, x, x, x, x, x, x, x]", &|level| {
        let alias = format!("*a{}", level - 1);
        format!("a{level}: &a{level} [{}]\n", vec![alias; 10].join(", "))
    });
    let merges = tower("{k: v}", &|level| {
        let alias = format!("*a{}", level - 1);
        format!("a{level}: &a{level} {{x: {alias}, y: {alias}, z: {alias}, w: {alias}, <<: {alias}}}\n")
    });
    let text = format!("x: &x {}\ny: [{}]\n", "z".repeat(100_000), vec!["*x"; 900].join(", "));
    for bomb in [lists, merges, text] {
        for (method, path, media) in
            Victim::writes().into_iter().filter(|(_, _, media)| media.contains("yaml"))
        {
            let sending = quickest(|| victim.send(method, &path, media, bomb.clone()));
            let (((code, answer), spent), held) = victim.harmless(sending).await;
            assert_eq!(code, 400, "{method} {media} {answer}");
            assert!(
                spent < Duration::from_millis(50) * SLOWER,
                "{spent:?} for {method} {media} {}",
                &bomb[..20]
            );
            assert!(held < 16 * MIB, "{held} bytes for {method} {media} {}", &bomb[..20]);
        }
    }
    victim.secured.stop().await;
}

/// 4.
#[tokio::test]
async fn yaml_of_three_million_brackets() {
    let victim = Victim::new(Version::Http2).await;
    for body in
        ["[".repeat(3_000_000), "- ".repeat(1_500_000), "{a: ".repeat(750_000), "a: [".repeat(700_000)]
    {
        for (method, path, media) in
            Victim::writes().into_iter().filter(|(_, _, media)| media.contains("yaml"))
        {
            let sending = quickest(|| victim.send(method, &path, media, body.clone()));
            let (((code, answer), spent), held) = victim.harmless(sending).await;
            assert_eq!(code, 400, "{method} {media} {answer}");
            assert!(
                spent < Duration::from_secs(1) * SLOWER,
                "{spent:?} for {method} {media} {}",
                &body[..20]
            );
            assert!(held < 64 * MIB, "{held} bytes for {method} {media}");
        }
    }
    victim.secured.stop().await;
}

/// 5.
#[tokio::test]
async fn json_patches_of_too_many_operations_and_of_copies_that_multiply() {
    let victim = Victim::new(Version::Http2).await;
    let path = format!("{MAPS}/a");
    let test = json!({"op": "test", "path": "/kind", "value": "ConfigMap"});
    let many = Value::from(vec![test; 10_001]).to_string();
    let ((code, answer), _) = victim.harmless(victim.send("PATCH", &path, JSON_PATCH, many)).await;
    let message =
        "Request entity too large: The allowed maximum operations in a JSON patch is 10000, got 10001";
    assert_eq!((code, &answer["message"]), (413, &json!(message)));

    let copy = |at: usize| json!({"op": "copy", "from": "/data", "path": format!("/data/b{at}")});
    let doubling: Vec<Value> = (0..60).map(copy).collect();
    let mut filling = vec![json!({"op": "add", "path": "/data/a", "value": "x".repeat(2 * MIB)})];
    filling
        .extend((0..5000).map(|at| json!({"op": "copy", "from": "/data/a", "path": format!("/data/c{at}")})));
    for patch in [doubling, filling] {
        let sending = victim.send("PATCH", &path, JSON_PATCH, Value::from(patch).to_string());
        let ((code, answer), held) = victim.harmless(sending).await;
        let why = answer["details"]["causes"][0]["message"].as_str().unwrap_or_default();
        assert!(code == 422 && why.starts_with("Unable to copy, the accumulated size increase"), "{answer}");
        assert!(held < 64 * MIB, "{held} bytes");
    }
    victim.secured.stop().await;
}

/// Bodies of three mebibytes that would hold more than twenty times as much as values.
#[tokio::test]
async fn bodies_that_are_much_larger_as_values() {
    let victim = Victim::new(Version::Http2).await;
    let fill = |start: &str, part: &str, end: &str| {
        let times = (LIMIT - start.len() - end.len()) / part.len();
        format!("{start}{}{}", part.repeat(times - 1), &part[..part.len() - 1]) + end
    };
    let bodies = [
        fill("{\"data\":[", "{\"\":0},", "]}"),
        fill("{\"data\":[", "0,", "]}"),
        fill("[", "{\"a\":0},", "]"),
    ];
    let untyped = |media: &str| media.contains("merge-patch") || media == JSON_PATCH || media == APPLY;
    for (method, path, media) in Victim::writes().into_iter().filter(|(_, _, media)| untyped(media)) {
        for body in &bodies {
            let sending = victim.send(method, &path, media, body.clone());
            let ((code, answer), held) = victim.harmless(sending).await;
            assert!(matches!(code, 400 | 413 | 415 | 422), "{code} {method} {path} {answer}");
            assert!(held < 80 * MIB, "{held} bytes for {method} {path} {media} {}", &body[..20]);
        }
    }
    victim.secured.stop().await;
}

/// The parts of a continue token that somebody has changed.
fn forged(token: &str, changes: Value) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(token).expect("a token is base64");
    let mut token: Value = serde_json::from_slice(&bytes).expect("of JSON");
    for (field, value) in changes.as_object().expect("fields") {
        assert!(token.get(field).is_some(), "a token has {field}");
        token[field] = value.clone();
    }
    URL_SAFE_NO_PAD.encode(token.to_string())
}

/// 7.
#[tokio::test]
async fn paths_and_tokens_that_lead_elsewhere() {
    let victim = Victim::new(Version::Http1).await;
    let other = json!({"metadata": {"name": "hidden"}, "data": {"a": "c2VjcmV0"}});
    for path in ["/api/v1/namespaces/kube-system/configmaps", "/api/v1/namespaces/default/secrets"] {
        assert_eq!(victim.send("POST", path, JSON, other.to_string()).await.0, 201);
    }
    assert_eq!(victim.send("POST", MAPS, JSON, r#"{"metadata": {"name": "b"}}"#).await.0, 201);
    for path in [
        "/api/v1/namespaces/../pods",
        "/api/v1/namespaces/default/../kube-system/configmaps",
        "/api/v1/namespaces/%2e%2e/pods",
        "/api/v1/namespaces/%2E./pods",
        "/api/v1/namespaces/default/configmaps/..%2fsecrets%2fhidden",
        "/api/v1/namespaces/default%2f..%2fkube-system/configmaps/hidden",
        "/api/v1/namespaces/default/configmaps/%2e%2e/secrets",
        "/api/v1/namespaces/default/configmaps/a%00",
        "/api/v1/namespaces/default%00/configmaps",
        "/api/v1/namespaces/default/configmaps/%252e%252e",
        "/api/v1/namespaces/default/configmaps/..%5csecrets",
        "/api/v1/./namespaces/default/configmaps",
        "/api/v1//namespaces/default/configmaps",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            let body = if method == "PUT" { r#"{"metadata": {"name": "a"}}"# } else { "" };
            let ((code, answer), _) = victim.harmless(victim.send(method, path, JSON, body)).await;
            assert_eq!(code, 400, "{method} {path} {answer}");
        }
    }
    let first = victim.send("GET", &format!("{MAPS}?limit=1"), JSON, "").await.1;
    let token = first["metadata"]["continue"].as_str().expect("there is more");
    let rest = victim.send("GET", &format!("{MAPS}?continue={token}"), JSON, "").await.1;
    assert_eq!(rest["items"][0]["metadata"]["name"], "b");
    let forgeries = [
        json!({"start": "../secrets/default/hidden"}),
        json!({"start": "default/../kube-system/a"}),
        json!({"start": "default/\u{0}"}),
        json!({"start": "/"}),
        json!({"of": "/registry/"}),
        json!({"of": "/registry/secrets/default/"}),
        json!({"of": "/registry/configmaps/"}),
        json!({"rv": 0}),
        json!({"rv": u64::MAX}),
        json!({"rv": -1}),
        json!({"v": "v9"}),
    ];
    for changes in forgeries {
        let path = format!("{MAPS}?continue={}", forged(token, changes.clone()));
        let ((code, answer), _) = victim.harmless(victim.send("GET", &path, JSON, "")).await;
        assert_eq!(code, 400, "{changes} {answer}");
        assert!(!answer.to_string().contains("hidden"), "{answer}");
    }
    // A place that no object has is one, but only in this list.
    for start in ["a", "zzz", "secrets", "kube-system/hidden", "default/a"] {
        let path = format!("{MAPS}?continue={}", forged(token, json!({"start": start})));
        let (_, answer) = victim.send("GET", &path, JSON, "").await;
        assert!(!answer.to_string().contains("hidden"), "{start} {answer}");
    }
    for path in [
        "/api/v1/namespaces/kube-system/configmaps",
        "/api/v1/namespaces/default/secrets",
        "/api/v1/configmaps",
    ] {
        let (code, answer) = victim.send("GET", &format!("{path}?continue={token}"), JSON, "").await;
        assert_eq!(code, 400, "{path} {answer}");
    }
    victim.secured.stop().await;
}

/// 19.
#[tokio::test]
async fn objects_and_names_that_are_too_large_or_none() {
    let victim = Victim::new(Version::Http1).await;
    let long = "a".repeat(254);
    for name in ["a\u{0}b", "a/b", "..", ".", "a..b", &long] {
        let object = json!({"metadata": {"name": name}}).to_string();
        let ((code, answer), _) = victim.harmless(victim.send("POST", MAPS, JSON, object)).await;
        assert_eq!(
            (code, &answer["details"]["causes"][0]["field"]),
            (422, &json!("metadata.name")),
            "{answer}"
        );
        let generated = json!({"metadata": {"generateName": format!("{name}/")}}).to_string();
        let ((code, answer), _) = victim.harmless(victim.send("POST", MAPS, JSON, generated)).await;
        assert_eq!(code, 422, "{answer}");
    }
    for name in ["a%00b", "a%2fb", "..", "%2e", &long] {
        for method in ["GET", "DELETE"] {
            let path = format!("{MAPS}/{name}");
            let ((code, answer), _) = victim.harmless(victim.send(method, &path, JSON, "")).await;
            assert_eq!(code, 400, "{method} {path} {answer}");
        }
    }
    let annotated =
        |bytes: usize| json!({"metadata": {"name": "b", "annotations": {"a": "x".repeat(bytes - 1)}}});
    let secret = |bytes: usize| json!({"metadata": {"name": "b"}, "stringData": {"a": "x".repeat(bytes)}});
    let secrets = "/api/v1/namespaces/default/secrets";
    for (path, object, wanted) in [
        (MAPS, annotated(256 << 10), 201),
        (MAPS, annotated((256 << 10) + 1), 422),
        (secrets, secret(MIB), 201),
        (secrets, secret(MIB + 1), 422),
    ] {
        let path = format!("{path}?dryRun=All");
        let ((code, answer), _) = victim.harmless(victim.send("POST", &path, JSON, object.to_string())).await;
        assert_eq!(code, wanted, "{path} {}", answer["message"]);
    }
    victim.secured.stop().await;
}

/// Many lists of this, at once.
async fn lists(fixture: &Fixture, accept: &str, count: usize) -> Vec<Response<apiserver::types::Body>> {
    let mut answers = Vec::new();
    for _ in 0..count {
        let request = Request::get("/api/v1/configmaps").header("accept", accept);
        answers.push(fixture.call(request.body(Bytes::new()).expect("a request")).await);
    }
    answers
}

/// 20.
#[tokio::test(start_paused = true)]
async fn five_hundred_large_lists_at_once() {
    for accept in [JSON, YAML, "application/json;as=Table;v=v1;g=meta.k8s.io"] {
        let config = Config::default();
        let patience = config.request_timeout;
        let fixture = Fixture::with(config, Arc::new(NoKubelets), SimDisk::new(1)).await;
        for number in 0..40 {
            let annotations = json!({"a": "x".repeat(200_000)});
            let object = json!({"metadata": {"name": format!("large-{number}"), "annotations": annotations},
                "data": {"a": "y".repeat(300_000)}});
            fixture.must("POST", MAPS, Some(&object)).await;
        }
        let used = HEAP.current_usage();
        HEAP.reset_peak_usage();
        let answers = lists(&fixture, accept, 500).await;
        let held = HEAP.peak_usage().saturating_sub(used);
        assert!(held < 64 * MIB, "{held} bytes for {accept}");
        let (mut served, refused): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|answer| answer.status() == 200);
        assert_eq!((served.len(), refused.len()), (400, 100), "{accept}");
        assert!(
            refused.iter().all(|answer| answer.status() == 429 && answer.headers()["retry-after"] == "1")
        );
        // Everything else goes on, and so do lists that are not long.
        fixture.must("GET", &format!("{MAPS}/large-1"), None).await;
        fixture.must("GET", "/api/v1/namespaces", None).await;
        // Each is whole, however late it is read, and its place is free for another one.
        let bytes = text(served.pop().expect("an answer")).await;
        assert!(bytes.len() > 40 * 200_000, "{} bytes", bytes.len());
        while lists(&fixture, accept, 1).await[0].status() == 429 {
            tokio::task::yield_now().await;
        }
        // Whoever does not read keeps nobody out for ever.
        tokio::time::sleep(patience + Duration::from_secs(1)).await;
        let answers = lists(&fixture, accept, 400).await;
        assert!(answers.iter().all(|answer| answer.status() == 200), "{accept}");
        drop(served);
    }
}
