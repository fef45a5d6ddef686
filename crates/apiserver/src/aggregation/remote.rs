//! A version of a group for which another server answers: where that is, how it is asked, and what it has told of itself.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_machinery::meta;
use bytes::Bytes;
use http::Request;
use http::header::{ACCEPT, HOST, HeaderMap, HeaderValue};
use rustls::ClientConfig;
use serde_json::Value;

use crate::authn::front_proxy;
use crate::exchange::{ExchangeError, Exchanged, exchange};
use crate::references::text;
use crate::request::respond::full;
use crate::server::ApiServer;
use crate::types::{RequestBody, UserInfo};
use crate::webhooks::call;
use crate::webhooks::endpoint::Endpoint;

/// How long a question of this server's own may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The largest answer to one.
const ANSWER_BYTES: usize = 16 << 20;

/// A version of a group for which another server answers.
#[derive(Debug)]
pub struct Remote {
    /// The name of its APIService.
    pub name: Arc<str>,
    /// Empty for core.
    pub group: Arc<str>,
    /// Such as `v1beta1`.
    pub version: Arc<str>,
    /// The higher, the earlier the group comes in discovery.
    pub group_priority: i64,
    /// The higher, the earlier the version comes in its group.
    pub version_priority: i64,
    /// Why it is known not to answer.
    pub unavailable: Option<String>,
    /// What is said of where it is.
    pub spec: Value,
    place: Result<Arc<Place>, String>,
}

/// Where a server is, and what it has told; the same for as long as it is the same place.
#[derive(Debug)]
struct Place {
    endpoint: Endpoint,
    anybody: bool,
    told: Mutex<Told>,
}

/// What a server has told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Its resources as aggregated discovery lists them; nothing before it has answered once.
    pub resources: Option<Value>,
    /// Whether the last answer is older than the last question.
    pub stale: bool,
    /// Where it keeps the OpenAPI document of this version, with its hash.
    pub openapi: Option<String>,
}

impl Remote {
    /// Reads an APIService; `None` if it is about this server. `before` is what it was read as before.
    pub fn read(registration: &Value, before: Option<&Remote>) -> Option<Remote> {
        let spec = registration.get("spec").filter(|spec| spec["service"].is_object())?;
        let place = match before.filter(|before| before.spec == *spec) {
            Some(before) => before.place.clone(),
            None => Endpoint::of(spec, "").map(|endpoint| {
                let anybody = spec["insecureSkipTLSVerify"] == true;
                Arc::new(Place { endpoint, anybody, told: Mutex::default() })
            }),
        };
        Some(Remote {
            name: meta::name(registration).into(),
            group: text(spec, "/group").into(),
            version: text(spec, "/version").into(),
            group_priority: spec["groupPriorityMinimum"].as_i64().unwrap_or_default(),
            version_priority: spec["versionPriority"].as_i64().unwrap_or_default(),
            unavailable: unavailable(registration),
            spec: spec.clone(),
            place,
        })
    }

    /// What it has told of itself.
    pub fn told(&self) -> Told {
        let told = |place: &Arc<Place>| place.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.place.as_ref().map(told).unwrap_or_default()
    }

    /// Notes what it tells now; says whether that is new.
    pub fn tells(&self, now: Told) -> bool {
        let Ok(place) = &self.place else { return false };
        let mut told = place.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = *told != now;
        *told = now;
        is_new
    }

    /// The path below which its resources are.
    pub fn path(&self) -> String {
        match &*self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        }
    }

    /// Sends a request as it is, with who asks and the host added.
    ///
    /// # Errors
    /// It cannot be reached, or does not answer as it should.
    pub async fn send(
        &self,
        server: &ApiServer,
        user: UserInfo,
        mut request: Request<RequestBody>,
        patience: Duration,
    ) -> Result<Exchanged, String> {
        let place = self.place.as_ref().map_err(Clone::clone)?;
        let headers = request.headers_mut();
        front_proxy::vouch(&user, headers).map_err(|error| error.message().to_owned())?;
        let host = HeaderValue::from_str(&place.endpoint.server_name()).map_err(|error| error.to_string())?;
        headers.insert(HOST, host);
        place.endpoint.tls.get_or_init(|| tls(server, place));
        let stream = call::connect(server, &place.endpoint).await?;
        exchange(stream, request, patience).await.map_err(|error: ExchangeError| error.to_string())
    }

    /// Asks for a document, as this server itself.
    ///
    /// # Errors
    /// There is no answer, or another one than was asked for, in the words of upstream's controller.
    pub async fn get(&self, server: &ApiServer, path: &str) -> Result<Bytes, String> {
        let url = self.place.as_ref().map(|place| place.endpoint.url.trim_end_matches('/'));
        let url = format!("{}{path}", url.unwrap_or("https://"));
        let failed = |why: &str| format!("failing or missing response from {url}: {why}");
        let asking = async {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
            let mut request = Request::new(full(Bytes::new()));
            *request.uri_mut() = path.parse().map_err(|error| failed(&format!("{error}")))?;
            *request.headers_mut() = headers;
            let user = UserInfo::new("system:kube-aggregator", &["system:masters"]);
            let sent = self.send(server, user, request, PATIENCE).await;
            let answer = sent.map_err(|why| failed(&format!("Get \"{url}\": {why}")))?.response;
            let status = answer.status();
            if !status.is_success() {
                return Err(failed(&format!("bad status from {url}: {}", status.as_u16())));
            }
            call::whole(answer.into_body(), ANSWER_BYTES).await.map_err(|error| failed(&error.to_string()))
        };
        let asked = tokio::time::timeout(PATIENCE, asking).await;
        asked.unwrap_or_else(|_| Err(format!("timed out waiting for {url}")))
    }
}

/// How TLS is spoken with a server: as the front proxy, if this server is one.
fn tls(server: &ApiServer, place: &Place) -> Result<Arc<ClientConfig>, String> {
    let mut config = if place.anybody {
        let config = server.kubelets().tls_with_pods().ok_or("no TLS is spoken with pods here")?;
        ClientConfig::clone(&config)
    } else {
        call::trusting(&place.endpoint.authorities)?
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if let Some(client) = &server.config().proxy_client {
        config.client_auth_cert_resolver = client.0.clone();
    }
    Ok(Arc::new(config))
}

/// Why a server is known not to answer. One that nobody has looked for yet is not known to.
fn unavailable(registration: &Value) -> Option<String> {
    let mut conditions = registration["status"]["conditions"].as_array().into_iter().flatten();
    match conditions.find(|one| one["type"] == "Available") {
        Some(one) if one["status"] == "True" => None,
        Some(one) => Some(format!("{}: {}", text(one, "/reason"), text(one, "/message"))),
        None => Some("nobody has looked yet whether its Service answers".to_owned()),
    }
}
