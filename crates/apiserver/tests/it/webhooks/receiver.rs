//! A webhook server on loopback that answers by the path it is asked at, well or badly, and notes what it was asked.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::tls::Authority;

/// A webhook server.
pub struct Receiver {
    pub authority: Authority,
    pub address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
    _tasks: JoinSet<()>,
}

impl Receiver {
    pub async fn start() -> Receiver {
        Receiver::named("127.0.0.1").await
    }

    /// One whose certificate is for another name.
    pub async fn named(name: &str) -> Receiver {
        let authority = Authority::new();
        let (chain, key) = authority.sign(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a certificate");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let mut tasks = JoinSet::new();
        let notes = asked.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (acceptor, notes) = (acceptor.clone(), notes.clone());
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| answer(request, notes.clone()));
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Receiver { authority, address, asked, _tasks: tasks }
    }

    /// A webhook of this server at a path.
    pub fn hook(&self, name: &str, path: &str, rules: Value) -> Value {
        json!({
            "name": format!("{name}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": format!("https://{}/{path}", self.address), "caBundle": bundle(&self.authority)},
            "rules": rules,
        })
    }

    /// Takes what was asked since the last time: path and request.
    pub fn asked(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.asked.lock().expect("notes"))
    }

    /// The paths of what was asked since the last time.
    pub fn paths(&self) -> Vec<String> {
        self.asked().into_iter().map(|(path, _)| path).collect()
    }
}

/// An authority as configurations hold it.
pub fn bundle(authority: &Authority) -> String {
    STANDARD.encode(pem::encode(&pem::Pem::new("CERTIFICATE", authority.certificate.to_vec())))
}

fn whole(code: u16, media: &str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let builder = Response::builder().status(code).header("content-type", media);
    builder.body(Full::new(body.into())).expect("an answer")
}

async fn answer(
    request: Request<Incoming>,
    notes: Arc<Mutex<Vec<(String, Value)>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let review: Value = serde_json::from_slice(&body).unwrap_or_default();
    notes.lock().expect("notes").push((path.clone(), review["request"].clone()));
    let mut response = match path.as_str() {
        "hang" => std::future::pending().await,
        "redirect" => whole(302, "text/plain", "elsewhere"),
        "broken" => whole(500, "text/plain", "it broke"),
        "missing" => whole(404, "text/plain", "nothing here"),
        "empty" => whole(200, "application/json", ""),
        "garbage" => whole(200, "application/json", "\u{0}{\"a\": [[[[["),
        "huge" => whole(200, "application/json", vec![b' '; 9 << 20]),
        "deep" => whole(200, "application/json", "[".repeat(100_000)),
        path if review["kind"] == "ConversionReview" => {
            whole(200, "application/json", conversion_of(path, &review).to_string())
        }
        _ => whole(200, "application/json", review_of(&path, &review).to_string()),
    };
    if path == "redirect" {
        response.headers_mut().insert("location", "/allow".parse().expect("a header"));
    }
    Ok(response)
}

fn review_of(path: &str, review: &Value) -> Value {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    let mut patch = |patch: Value| {
        response["patch"] = STANDARD.encode(patch.to_string()).into();
        response["patchType"] = "JSONPatch".into();
    };
    match path {
        "deny" => {
            response["allowed"] = false.into();
            response["status"] = json!({"message": "not like this", "reason": "Forbidden", "code": 403});
        }
        "silent-no" => response["allowed"] = false.into(),
        "warn" => response["warnings"] = json!(["be careful", "be careful", "and \"quoted\"\r\nX: y"]),
        "annotate" => response["auditAnnotations"] = json!({"seen": "yes"}),
        "another-uid" => response["uid"] = "x".into(),
        "no-patch" => patch(json!({"not": "a list"})),
        "bad-patch" => patch(json!([{"op": "remove", "path": "/spec/nothing/here"}])),
        "another-kind" => patch(json!([{"op": "replace", "path": "/kind", "value": "Secret"}])),
        "wrong-type" => patch(json!([{"op": "replace", "path": "/data", "value": ["a"]}])),
        "no-object" => patch(json!([{"op": "replace", "path": "", "value": 1}])),
        "label" => patch(json!([{"op": "add", "path": "/metadata/labels", "value": {"label": "yes"}}])),
        "count" => {
            let seen = review["request"]["object"]["metadata"]["annotations"]["count"].as_str().unwrap_or("");
            let seen = json!({"count": format!("{seen}x")});
            patch(json!([{"op": "add", "path": "/metadata/annotations", "value": seen}]));
        }
        "sidecar" => patch(json!([
            {"op": "add", "path": "/spec/containers/-", "value": {"name": "sidecar", "image": "s:1", "unheard": 1}},
            {"op": "add", "path": "/status", "value": {"phase": "Running"}},
            {"op": "add", "path": "/metadata/uid", "value": "mine"},
            {"op": "add", "path": "/metadata/generation", "value": 77},
        ])),
        "three" => patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 3}])),
        _ => {}
    }
    json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response})
}

/// Moons have a diameter in one version and a radius in the other, and say in a label who converted them.
fn conversion_of(path: &str, review: &Value) -> Value {
    let request = &review["request"];
    let wanted = request["desiredAPIVersion"].as_str().unwrap_or_default();
    let mut objects: Vec<Value> = request["objects"].as_array().cloned().unwrap_or_default();
    for object in &mut objects {
        let fields = object.as_object_mut().expect("an object");
        if wanted.ends_with("v2") {
            if let Some(radius) = fields.remove("radius").and_then(|radius| radius.as_i64()) {
                fields.insert("diameter".to_owned(), (2 * radius).into());
            }
        } else if let Some(diameter) = fields.remove("diameter").and_then(|diameter| diameter.as_i64()) {
            fields.insert("radius".to_owned(), (diameter / 2).into());
        }
        fields.insert("apiVersion".to_owned(), wanted.into());
        object["metadata"]["labels"]["converted"] = "yes".into();
        object["metadata"]["generation"] = 99.into();
    }
    let mut response =
        json!({"uid": request["uid"], "convertedObjects": objects, "result": {"status": "Success"}});
    match path {
        "another-uid" => response["uid"] = "x".into(),
        "fewer" => response["convertedObjects"] = json!([]),
        "refuse" => response["result"] = json!({"status": "Failed", "message": "no moons today"}),
        "another-name" => response["convertedObjects"][0]["metadata"]["name"] = "x".into(),
        "not-converted" => response["convertedObjects"] = request["objects"].clone(),
        "bad-label" => response["convertedObjects"][0]["metadata"]["labels"]["converted"] = "no way".into(),
        _ => {}
    }
    json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": response})
}
