//! OpenAPI v2 and v3: made when somebody asks, and not kept.
//!
//! Clients ask rarely, since they keep what they got under its hash. Only the hashes are kept, with the groups.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::openapi::Documents;
use api_machinery::status::ApiError;
use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, HeaderValue};
use http::{Request, Response};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::Tagged;
use crate::aggregation::{self, Passing, Remote};
use crate::catalog::Group;
use crate::request::respond::full;
use crate::request::route::Call;
use crate::server::ApiServer;
use crate::types::{Body, Permit};

const JSON: &str = "application/json";
/// How clients ask for the v2 document as protobuf.
const PROTOBUF_ASKED: &str = "application/com.github.proto-openapi.spec.v2";
/// What they get then.
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
/// For a document that was asked for by its hash.
const FOREVER: &str = "public, immutable, max-age=31536000";

/// Sees to it that one document is made at a time.
#[derive(Debug, Default)]
pub struct Specs(Mutex<()>);

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
    if let Some(remote) = server.aggregation().find(group, version) {
        return passed(server, call, &remote).await;
    }
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

/// The document of a version for which another server answers.
async fn passed(server: &Arc<ApiServer>, call: &Call, remote: &Remote) -> Result<Response<Body>, ApiError> {
    let mut request = Request::new(full(Bytes::new()));
    *request.method_mut() = call.method.clone();
    *request.headers_mut() = call.headers.clone();
    *request.uri_mut() = call.target.clone();
    let passing =
        Passing { user: call.user.clone(), info: call.info.clone(), request, permit: Permit::free() };
    aggregation::pass(server, remote, passing).await
}

/// Where the documents are. The path of each has its hash in it, so that a client knows what it has already. Only those of
/// groups that are new or have changed are made for it.
async fn index(server: &Arc<ApiServer>, call: &Call) -> Result<Response<Body>, ApiError> {
    let one_at_a_time = server.specs().0.lock().await;
    let catalog = server.catalog();
    let unknown = |group: &&&Arc<Group>| group.described().hashes.get().is_none();
    let groups = catalog.groups();
    let specs: Vec<Spec> = groups
        .iter()
        .filter(unknown)
        .flat_map(|group| group.versions().into_iter().map(|version| (group.name(), version)))
        .map(|(group, version)| Spec::V3(group.to_owned(), version.to_owned()))
        .collect();
    let made = match specs.is_empty() {
        true => Vec::new(),
        false => {
            make(server, Value::Null, specs, |spec, bytes| {
                (spec.clone(), Tagged::new(bytes).tag().to_owned())
            })
            .await?
        }
    };
    for group in groups.iter().filter(unknown) {
        let own = made.iter().filter_map(|(spec, tag)| match spec {
            Spec::V3(name, version) if name == group.name() => Some((version.clone(), tag.clone())),
            _ => None,
        });
        let own: BTreeMap<String, String> = own.collect();
        group.described().hashes.get_or_init(|| own);
    }
    drop(one_at_a_time);
    let mut paths = Map::new();
    for group in groups {
        for (version, tag) in group.described().hashes.get().into_iter().flatten() {
            let path = Documents::v3_path(group.name(), version);
            let url = format!("/openapi/v3/{path}?hash={tag}");
            paths.insert(path, json!({"serverRelativeURL": url}));
        }
    }
    for remote in server.aggregation().all() {
        let path = Documents::v3_path(&remote.group, &remote.version);
        match remote.told().openapi {
            Some(url) => paths.insert(path, json!({"serverRelativeURL": url})),
            // It is not this server's document that counts.
            None => paths.remove(&path),
        };
    }
    Ok(Tagged::new(json!({"paths": paths}).to_string()).answer(call, JSON))
}

async fn document(server: &Arc<ApiServer>, spec: Spec) -> Result<Tagged, ApiError> {
    let whole = matches!(spec, Spec::V2 | Spec::V2Protobuf);
    let foreign = if whole { aggregation::foreign(server).await } else { Value::Null };
    let _one_at_a_time = server.specs().0.lock().await;
    let made = make(server, foreign, vec![spec], |_, bytes| Tagged::new(bytes)).await?;
    made.into_iter().next().ok_or_else(|| ApiError::internal("one document was asked for"))
}

/// Makes documents where it holds nobody up, and keeps of each what `keep` makes of it.
async fn make<T: Send + 'static>(
    server: &Arc<ApiServer>,
    foreign: Value,
    specs: Vec<Spec>,
    keep: impl Fn(&Spec, Vec<u8>) -> T + Send + 'static,
) -> Result<Vec<T>, ApiError> {
    let server = server.clone();
    let work = move || {
        let descriptions = api_catalog::catalog().descriptions();
        let catalog = server.catalog();
        let resources = catalog.all().map(|resource| &**resource);
        let documents = Documents::new(resources, &descriptions, &server.config().git_version).with(&foreign);
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
