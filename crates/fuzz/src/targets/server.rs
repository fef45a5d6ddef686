//! The request path as a whole, over an embedded store on a simulated disk: whatever is asked, the answer is one, and never
//! that the server failed. Nothing is stored: every write is a dry run.

use std::cell::LazyCell;
use std::sync::Arc;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::catalog::Catalog;
use apiserver::gate::GateConfig;
use apiserver::limits::Limits;
use apiserver::proxy::NoKubelets;
use apiserver::tokens::Tokens;
use apiserver::types::{Body, UserInfo};
use apiserver::{ApiServer, Config, Dependencies};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::FutureExt as _;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};
use tokio::runtime::{Builder, Runtime};

/// How much of an answer is read.
const READ: usize = 1 << 20;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// A server and the thread that it runs in. Time passes whenever everybody waits.
struct Served {
    runtime: Runtime,
    server: Arc<ApiServer>,
}

thread_local! {
    static SERVED: LazyCell<Served> = LazyCell::new(|| {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime");
        let server = runtime.block_on(start());
        Served { runtime, server }
    });
}

async fn start() -> Arc<ApiServer> {
    let store = EmbeddedStore::open(Arc::new(SimDisk::new(1)), Options::simulated(1)).expect("a store");
    let dependencies = Dependencies {
        store: Arc::new(store),
        catalog: Catalog::built_in(),
        clock: Clock::system(),
        entropy: Entropy::seeded(1),
        kubelets: Arc::new(NoKubelets),
    };
    let gate = GateConfig {
        clock: Clock::system(),
        entropy: Entropy::seeded(2),
        tokens: Arc::new(Tokens::ephemeral(ISSUER, Entropy::seeded(3)).expect("tokens")),
        limits: Limits::default(),
    };
    let gate = apiserver::gate::gate(gate, true);
    let server = ApiServer::start(Config::default(), dependencies, gate).await.expect("a server");
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    for (path, object) in [
        ("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "a"}, "data": {"a": "b"}})),
        ("/api/v1/namespaces/default/configmaps", json!({"metadata": {"name": "b"}})),
        ("/api/v1/nodes", json!({"metadata": {"name": "a"}})),
        (
            "/api/v1/namespaces/default/services",
            json!({"metadata": {"name": "a"}, "spec": {"ports": [{"port": 80}]}}),
        ),
        (
            "/apis/apps/v1/namespaces/default/deployments",
            json!({"metadata": {"name": "a"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}}),
        ),
    ] {
        let request = Request::post(path).header("content-type", "application/json");
        let answer = server
            .call(admin(), request.body(object.to_string().into_bytes().into()).expect("a request"))
            .await;
        assert_eq!(answer.status(), 201, "{path}");
    }
    server
}

fn admin() -> UserInfo {
    UserInfo::new("admin", &["system:masters", "system:authenticated"])
}

/// What an answer says, as far as it comes without waiting: watches are not waited for.
async fn read(response: Response<Body>) -> String {
    let (parts, mut body) = response.into_parts();
    let mut bytes = Vec::new();
    let ended = loop {
        match body.frame().now_or_never() {
            Some(Some(Ok(frame))) => bytes.extend(frame.into_data().unwrap_or_default()),
            Some(Some(Err(error))) => panic!("the answer breaks off: {error}"),
            Some(None) => break true,
            None => break false,
        }
        if bytes.len() > READ {
            break false;
        }
    };
    let code = parts.status.as_u16();
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = value["message"].as_str().unwrap_or_default();
    // Upstream answers these mistakes of clients so.
    let typed = message.starts_with("failed to create typed patch object");
    assert!(code != 500 || typed, "{}", String::from_utf8_lossy(&bytes));
    if ended
        && parts.headers.get("content-type").is_some_and(|media| media == "application/json")
        && code != 304
    {
        let plain = !parts.headers.contains_key("content-encoding");
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let whole = serde_json::from_slice::<Value>(&bytes).is_ok();
        let sound = whole || lines.clone().all(|line| serde_json::from_slice::<Value>(line).is_ok());
        assert!(!plain || sound, "no JSON: {}", String::from_utf8_lossy(&bytes));
    }
    format!("{} {} {message}", word(code), value["reason"].as_str().unwrap_or_default())
}

/// A code in letters, which is what counts of what is said.
fn word(code: u16) -> String {
    code.to_string().bytes().map(|digit| char::from(digit - b'0' + b'a')).collect()
}

fn ask(request: Request<Bytes>, user: Option<UserInfo>) -> String {
    SERVED.with(|served| {
        let (parts, body) = request.into_parts();
        served.runtime.block_on(async {
            let response = match user {
                Some(user) => served.server.call(user, Request::from_parts(parts, body.into())).await,
                None => {
                    let body = Full::new(body).map_err(Into::into).boxed_unsync();
                    served.server.handle(Request::from_parts(parts, body)).await
                }
            };
            read(response).await
        })
    })
}

/// A request: a line with method and path, headers, an empty line, the body.
pub fn requests(input: &[u8]) -> String {
    let split = input.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = split.map_or((input, &[][..]), |at| (&input[..at], &input[at + 2..]));
    let Ok(head) = std::str::from_utf8(head) else { return "no text".to_owned() };
    let mut lines = head.lines();
    let Some((method, path)) = lines.next().and_then(|line| line.split_once(' ')) else {
        return "no request".to_owned();
    };
    let glue = if path.contains('?') { '&' } else { '?' };
    let mut builder = Request::builder().method(method).uri(format!("{path}{glue}dryRun=All"));
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        builder = builder.header(name, value);
    }
    match builder.body(Bytes::copy_from_slice(body)) {
        Ok(request) => ask(request, Some(admin())),
        Err(error) => error.to_string(),
    }
}

/// A body in protobuf, as an object of several kinds and as the options of a deletion.
pub fn protobuf(input: &[u8]) -> String {
    let mut said = String::new();
    for (method, path) in [
        ("POST", "/api/v1/namespaces/default/pods?dryRun=All"),
        ("POST", "/api/v1/namespaces/default/configmaps?dryRun=All"),
        ("PUT", "/apis/apps/v1/namespaces/default/deployments/a?dryRun=All"),
        ("PUT", "/api/v1/nodes/a/status?dryRun=All"),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews"),
        ("DELETE", "/api/v1/namespaces/default/configmaps/a?dryRun=All"),
    ] {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("content-type", "application/vnd.kubernetes.protobuf");
        let request = request.body(Bytes::copy_from_slice(input)).expect("a request");
        said.push_str(&ask(request, Some(admin())));
    }
    said
}

/// A request for a certificate (DER, or PEM as it is).
pub fn certificate_requests(input: &[u8]) -> String {
    let pem = match input.starts_with(b"-----BEGIN") {
        true => input.to_vec(),
        false => pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", input)).into_bytes(),
    };
    let object = json!({"metadata": {"name": "a"}, "spec": {
        "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
    }});
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests?dryRun=All";
    let request = Request::post(path).header("content-type", "application/json");
    ask(request.body(object.to_string().into()).expect("a request"), Some(admin()))
}

/// What a stranger shows as his token.
pub fn bearer_tokens(input: &[u8]) -> String {
    let Ok(value) = http::HeaderValue::from_bytes(&[b"Bearer ", input].concat()) else {
        return "no header".to_owned();
    };
    let request = Request::get("/api/v1/namespaces/default/secrets").header("authorization", value);
    let said = ask(request.body(Bytes::new()).expect("a request"), None);
    assert!(said.starts_with(&word(401)) || said.starts_with(&word(403)), "{said}");
    said
}
