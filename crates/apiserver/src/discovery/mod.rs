//! Everything that is not a resource: discovery, OpenAPI, version, health and metrics.
//!
//! Discovery follows from the catalogue and is made once for each; OpenAPI is made when somebody asks for it.

mod groups;
mod health;
mod openapi;

use std::sync::Arc;

use api_machinery::status::ApiError;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

pub use self::groups::{Described, Whole};
pub use self::openapi::Specs;
use crate::catalog::Catalog;
use crate::request::negotiate::{self, Accept};
use crate::request::respond;
use crate::request::route::Call;
use crate::server::ApiServer;
use crate::types::Body;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// Answers a request for a document.
pub async fn serve(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, ApiError> {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(ApiError::method_not_allowed());
    }
    let path = call.info.path.trim_matches('/');
    let segments: Vec<&str> = path.split('/').collect();
    let catalog = server.catalog();
    let whole = server.aggregation().whole(&catalog);
    match segments.as_slice() {
        [""] => plain(call, &whole.root),
        ["version"] => plain(call, &version(server)),
        ["api"] => either(call, || whole.core(server.config()), &whole.core_aggregated),
        ["apis"] => either(call, || whole.groups.clone(), &whole.groups_aggregated),
        ["apis", group] => found_or_not(call, whole.group(group).as_ref()),
        ["api", version] => found_or_not(call, resources(&catalog, "", version)),
        ["apis", group, version] => found_or_not(call, resources(&catalog, group, version)),
        ["openapi", rest @ ..] => openapi::serve(server, call, rest).await,
        ["healthz" | "livez" | "readyz", ..] => Ok(health::serve(server, call, &segments).await),
        ["metrics"] => {
            let text = server.metrics().render(server.cache().revision());
            Ok(respond::text(StatusCode::OK, text))
        }
        [".well-known", "openid-configuration"] => plain(call, &server.gate().openid_configuration()),
        ["openid", "v1", "jwks"] => {
            let mut response = plain(call, &server.gate().jwks())?;
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            Ok(response)
        }
        _ => Err(ApiError::no_such_path()),
    }
}

fn plain(call: &Call, value: &Value) -> Result<Response<Body>, ApiError> {
    Ok(respond::value_response(value, Accept::of(&call.headers, false)?))
}

fn resources<'a>(catalog: &'a Catalog, group: &str, version: &str) -> Option<&'a Value> {
    catalog.group(group)?.described().resources(version)
}

fn found_or_not(call: &Call, value: Option<&Value>) -> Result<Response<Body>, ApiError> {
    plain(call, value.ok_or_else(ApiError::no_such_path)?)
}

/// Plain discovery or, for clients that know it, everything at once.
fn either(
    call: &Call,
    legacy: impl FnOnce() -> Value,
    aggregated: &Tagged,
) -> Result<Response<Body>, ApiError> {
    let mut response = if negotiate::aggregated(&call.headers) {
        aggregated.answer(call, AGGREGATED)
    } else {
        plain(call, &legacy())?
    };
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

/// A document with the tag by which clients cache it.
#[derive(Debug)]
pub struct Tagged {
    bytes: Bytes,
    tag: String,
}

impl Tagged {
    /// Tags a document with its hash.
    pub fn new(bytes: impl Into<Bytes>) -> Tagged {
        let bytes = bytes.into();
        Tagged { tag: hash(&bytes), bytes }
    }

    /// The hash in the tag.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The document, or 304 for who has it already.
    pub fn answer(&self, call: &Call, media: &'static str) -> Response<Body> {
        let tag = format!("\"{}\"", self.tag);
        let known = call.headers.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok());
        let mut response = if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
            let mut response = Response::new(respond::full(Bytes::new()));
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else {
            let accept = Accept::of(&call.headers, false).unwrap_or(Accept::PLAIN);
            let accept = Accept { format: api_machinery::decode::Format::Json, ..accept };
            respond::whole(self.bytes.clone(), accept)
        };
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
        if let Ok(value) = HeaderValue::from_str(&tag) {
            response.headers_mut().insert(ETAG, value);
        }
        response
    }
}

/// The SHA-256 of bytes in upper-case hexadecimal, as upstream's tags are.
fn hash(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect()
}

fn version(server: &ApiServer) -> Value {
    let text = &server.config().git_version;
    let mut numbers = text.trim_start_matches('v').split('.');
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    json!({
        "major": major, "minor": minor,
        "emulationMajor": major, "emulationMinor": minor,
        "minCompatibilityMajor": major, "minCompatibilityMinor": minor,
        "gitVersion": text, "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "none (Rust)", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, architecture()),
    })
}

/// Upstream's name of the architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
