//! OpenAPI v2 and v3: made when somebody asks, and not kept.
//!
//! Clients ask rarely, since they keep what they got under its hash. Only the hashes stay here, once they are known.

use std::sync::Arc;

use api_machinery::openapi::Documents;
use api_machinery::status::ApiError;
use http::Response;
use http::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use serde_json::{Map, json};
use tokio::sync::Mutex;

use super::Tagged;
use crate::request::route::Call;
use crate::server::ApiServer;
use crate::types::Body;

const JSON: &str = "application/json";
/// How clients ask for the v2 document as protobuf.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2";
/// What they get then.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// For a document that was asked for by its hash.
const FOREVER: &str = "public, immutable, max-age=31536000";

/// What is known of the documents. The lock also sees to it that one is made at a time.
#[derive(Debug, Default)]
pub struct Specs(Mutex<Option<Tagged>>);

/// One document.
#[derive(Clone, Debug)]
enum Spec {
    V2,
    V2Protobuf,
    V3(String, String),
}

/// Answers below `/openapi`.
pub async fn serve(server: &Arc<ApiServer>, call: &Call, rest: &[&str]) -> Result<Response<Body>, ApiError> {
    match rest {
        ["v2"] => {
            let accept = call.headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let (spec, media) = if accept.trim_start().starts_with(PROTOBUF_ASKED) {
                (Spec::V2Protobuf, PROTOBUF)
            } else {
                (Spec::V2, JSON)
            };
            Ok(document(server, spec).await?.answer(call, media))
        }
        ["v3"] => index(server, call).await,
        ["v3", "api", version] => v3(server, call, "", version).await,
        ["v3", "apis", group, version] => v3(server, call, group, version).await,
        _ => Err(ApiError::no_such_path()),
    }
}

async fn v3(
    server: &Arc<ApiServer>,
    call: &Call,
    group: &str,
    version: &str,
) -> Result<Response<Body>, ApiError> {
    if !server.catalog().has_version(group, version) {
        return Err(ApiError::no_such_path());
    }
    let document = document(server, Spec::V3(group.to_owned(), version.to_owned())).await?;
    let mut response = document.answer(call, JSON);
    if call.query.get("hash") == Some(document.tag()) {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    }
    Ok(response)
}

/// Where the documents are. The path of each has its hash in it, so that a client knows what it has already.
async fn index(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, ApiError> {
    let mut known = server.documents().specs.0.lock().await;
    if known.is_none() {
        let specs: Vec<Spec> = server
            .catalog()
            .versions()
            .into_iter()
            .map(|(group, version)| Spec::V3(group.to_owned(), version.to_owned()))
            .collect();
        let paths = make(server, specs, |spec, bytes| {
            let Spec::V3(group, version) = spec else { return None };
            let path = Documents::v3_path(group, version);
            let url = format!("/openapi/v3/{path}?hash={}", Tagged::new(bytes).tag());
            Some((path, json!({"serverRelativeURL": url})))
        });
        let paths: Map<_, _> = paths.await?.into_iter().flatten().collect();
        *known = Some(Tagged::new(json!({"paths": paths}).to_string()));
    }
    let index = known.as_ref().ok_or_else(|| ApiError::internal("the index was just made"))?;
    Ok(index.answer(call, JSON))
}

async fn document(server: &Arc<ApiServer>, spec: Spec) -> Result<Tagged, ApiError> {
    let _one_at_a_time = server.documents().specs.0.lock().await;
    let made = make(server, vec![spec], |_, bytes| Tagged::new(bytes)).await?;
    made.into_iter().next().ok_or_else(|| ApiError::internal("one document was asked for"))
}

/// Makes documents where it holds nobody up, and keeps of each what `keep` makes of it.
async fn make<T: Send + 'static>(
    server: &Arc<ApiServer>,
    specs: Vec<Spec>,
    keep: impl Fn(&Spec, Vec<u8>) -> T + Send + 'static,
) -> Result<Vec<T>, ApiError> {
    let server = server.clone();
    let work = move || {
        let descriptions = api_catalog::catalog().descriptions();
        let resources = server.catalog().all().iter().map(|resource| &**resource);
        let documents = Documents::new(resources, &descriptions, &server.config().git_version);
        let one = |spec: &Spec| match spec {
            Spec::V2 => documents.v2(),
            Spec::V2Protobuf => documents.v2_protobuf(),
            Spec::V3(group, version) => documents.v3(group, version),
        };
        specs.iter().map(|spec| keep(spec, one(spec))).collect()
    };
    let made = tokio::task::spawn_blocking(work).await;
    made.map_err(|error| ApiError::internal(format_args!("an OpenAPI document could not be made: {error}")))
}
