//! A server over an embedded store on a simulated disk, behind a gate that lets everybody in who is known, and ways to
//! talk to it.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use apiserver::catalog::Catalog;
use apiserver::proxy::{Kubelets, NoKubelets};
use apiserver::types::{
    ANONYMOUS, AdmissionRequest, Body, Decision, Gate, Lookup, PeerCertificates, Permit, RequestInfo,
    UserInfo,
};
use apiserver::{ApiServer, Config, Dependencies};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};

/// How long anything here may take before it counts as not happening.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What tests act as.
pub fn tester() -> UserInfo {
    UserInfo::new("tester", &["system:masters", "system:authenticated"])
}

/// A gate without rules: whoever has a certificate or the token `good` may do anything, `nobody` may do nothing, and
/// strangers may read health and version.
pub struct OpenGate;

#[async_trait]
impl Gate for OpenGate {
    async fn authenticate(&self, request: &http::request::Parts) -> Result<UserInfo, ApiError> {
        let token = request.headers.get(http::header::AUTHORIZATION).map(|value| value.as_bytes());
        match token {
            Some(b"Bearer good") => return Ok(tester()),
            Some(b"Bearer nobody") => return Ok(UserInfo::new("nobody", &["system:authenticated"])),
            Some(_) => return Err(ApiError::unauthorized()),
            None => {}
        }
        if request.extensions.get::<PeerCertificates>().is_some() {
            return Ok(tester());
        }
        Ok(UserInfo::new(ANONYMOUS, &["system:unauthenticated"]))
    }

    async fn enter(&self, _: &UserInfo, _: &RequestInfo) -> Result<Permit, ApiError> {
        Ok(Permit::free())
    }

    async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> Result<Decision, ApiError> {
        let public = ["/healthz", "/livez", "/readyz", "/version"];
        let open = !info.is_resource && public.iter().any(|path| info.path.starts_with(path));
        let allowed = open || !matches!(user.name.as_str(), ANONYMOUS | "nobody");
        Ok(if allowed { Decision::Allow } else { Decision::Deny(String::new()) })
    }

    async fn admit(&self, _: &mut AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }

    async fn check(&self, _: &AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }

    async fn review(
        &self,
        user: &UserInfo,
        _: &Resource,
        _: &str,
        object: &mut Value,
    ) -> Result<(), ApiError> {
        object["status"] = json!({"allowed": true, "reason": user.name});
        Ok(())
    }

    async fn token(&self, _: &UserInfo, account: &Value, request: &mut Value) -> Result<(), ApiError> {
        request["status"] = json!({"token": format!("token of {}", account["metadata"]["name"])});
        Ok(())
    }

    fn bootstrap_objects(&self) -> Vec<Value> {
        vec![json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": "system-node-critical"}, "value": 2_000_001_000})]
    }

    fn reconcile(&self, _: &Value, _: &Value) -> Option<Value> {
        None
    }

    fn jwks(&self) -> Value {
        json!({"keys": []})
    }

    fn openid_configuration(&self) -> Value {
        json!({"issuer": "https://test"})
    }
}

/// A server and what it stands on.
pub struct Fixture {
    pub server: Arc<ApiServer>,
    pub store: Arc<EmbeddedStore>,
    pub disk: SimDisk,
}

impl Fixture {
    /// A server on an empty disk.
    pub async fn new() -> Fixture {
        Fixture::with(Config::default(), Arc::new(NoKubelets), SimDisk::new(1)).await
    }

    /// A server on a disk.
    pub async fn with(config: Config, kubelets: Arc<dyn Kubelets>, disk: SimDisk) -> Fixture {
        let store = EmbeddedStore::open(Arc::new(disk.clone()), Options::simulated(1)).expect("a store");
        let store = Arc::new(store);
        let dependencies = Dependencies {
            store: store.clone(),
            catalog: Catalog::built_in(),
            clock: Clock::system(),
            entropy: Entropy::seeded(1),
            kubelets,
        };
        let gate = |_: Arc<dyn Lookup>| Arc::new(OpenGate) as Arc<dyn Gate>;
        let server = ApiServer::start(config, dependencies, gate).await.expect("a server");
        Fixture { server, store, disk }
    }

    /// Sends a request as the tester.
    pub async fn call(&self, request: Request<Bytes>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        self.server.call(tester(), Request::from_parts(parts, body.into())).await
    }

    /// Sends a JSON body, or none, and reads the answer as JSON.
    pub async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        read(self.call(request(method, path, body)).await).await
    }

    /// The same, where anything but success is a failure of the test.
    pub async fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (code, value) = self.send(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {value}");
        value
    }

    /// A watch.
    pub async fn watch(&self, path: &str) -> Events {
        let response = self.call(request("GET", path, None)).await;
        assert_eq!(response.status(), 200, "{path}");
        Events::new(response)
    }
}

/// A request with a JSON body or none.
pub fn request(method: &str, path: &str, body: Option<&Value>) -> Request<Bytes> {
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let builder = Request::builder().method(method).uri(path);
    builder.header("content-type", "application/json").body(bytes).expect("a request")
}

/// An answer as JSON; text that is none becomes a string.
pub async fn read(response: Response<Body>) -> (u16, Value) {
    let code = response.status().as_u16();
    let bytes = text(response).await;
    (code, serde_json::from_slice(&bytes).unwrap_or_else(|_| String::from_utf8_lossy(&bytes).into()))
}

/// All bytes of an answer.
pub async fn text(response: Response<Body>) -> Bytes {
    let body = tokio::time::timeout(PATIENCE, response.into_body().collect()).await;
    body.expect("the answer ends").expect("the answer is whole").to_bytes()
}

/// The events of a watch, one by one.
pub struct Events {
    body: Body,
    pending: Vec<u8>,
}

impl Events {
    pub fn new(response: Response<Body>) -> Events {
        Events { body: response.into_body(), pending: Vec::new() }
    }

    /// The next event, or `None` at the end of the watch.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("an event is a line of JSON"));
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            match frame.expect("an event, or the end") {
                Some(frame) => {
                    let data = frame.expect("the watch goes on").into_data().unwrap_or_default();
                    self.pending.extend_from_slice(&data);
                }
                None => return None,
            }
        }
    }

    /// `TYPE name` of the next event.
    pub async fn brief(&mut self) -> String {
        let event = self.next().await.expect("the watch goes on");
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} {}", word(&event["type"]), word(&event["object"]["metadata"]["name"]))
    }
}
