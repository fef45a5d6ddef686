//! Requests that are passed on to what runs in the cluster: `proxy` of pods, Services and nodes, streams of pods, and logs.
//!
//! Who is asked, `target`, `streams` and `kubelet` say; which way, `egress`. What passes is not looked into: no redirect is
//! followed, no page rewritten, and an upgraded connection is bytes in both directions.

pub(crate) mod headers;
mod kubelet;
mod log;
pub mod streams;
mod target;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api_machinery::status::{ApiError, Reason};
use bytes::Bytes;
use http::header::{HOST, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use serde_json::json;

pub use self::kubelet::{KubeletAddress, KubeletError, Kubelets, NoKubelets};
pub use self::log::log;
use self::target::Target;
use crate::egress::service::{ServicePort, Trust};
use crate::egress::{Egress, ServiceError, Stream};
use crate::exchange::{ExchangeError, Exchanged, exchange, secure};
use crate::request::admit::Admission;
use crate::request::respond::{full, held, warn};
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::{Body, Operation, PeerAddress, Permit, RequestBody};

/// How long whoever is asked may take to answer. Bodies may take as long as they like, and so may upgraded connections.
const ANSWER: Duration = Duration::from_secs(600);
/// How long the other direction of an upgraded connection goes on when one has ended.
const LINGER: Duration = Duration::from_secs(10);

/// A request that is to be passed on.
pub struct Passing {
    /// What is asked for.
    pub call: ResourceCall,
    /// The path behind the subresource, as it was sent.
    pub tail: String,
    /// The request.
    pub parts: Parts,
    /// Its body.
    pub body: RequestBody,
    /// Its place among those that are served.
    pub permit: Permit,
}

/// Passes a request on, and its answer back.
pub async fn pass(server: &Arc<ApiServer>, passing: Passing) -> Result<Response<Body>, ApiError> {
    let Passing { call, tail, mut parts, body, permit } = passing;
    let upgrading = headers::upgrade(&parts.headers).is_some();
    let stream = streams::is_stream(&call.info.subresource);
    if stream {
        streams::authorize(server, &call).await?;
    }
    let warnings = admit(server, &call, &tail).await?;
    let target::Request { target, path_and_query } = match stream {
        true => streams::of(server, &call).await?,
        false => target::of(server, &call, &tail, parts.uri.query().unwrap_or_default()).await?,
    };
    if !upgrading && stream {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    if !upgrading && tail.is_empty() {
        return Ok(to_root(&parts));
    }
    let client = parts.extensions.remove::<OnUpgrade>().filter(|_| upgrading);
    if upgrading && client.is_none() {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    if upgrading && !body.is_end_stream() {
        return Err(ApiError::bad_request("a request to upgrade has no body"));
    }
    let host = host(&parts);
    let passed = request(&parts, host.as_ref(), &target, &path_and_query, body)?;
    let (exchanged, backend) = send(server, &target, passed, upgrading).await?;
    let Exchanged { response, upgraded } = exchanged;
    let status = response.status();
    if let (Some(client), Some(backend)) = (client, upgraded) {
        let carrying = carry(client, backend, permit);
        drop(server.tasks().spawn(server.shutdown().clone().run_until_cancelled_owned(carrying)));
        return Ok(answer(response, &warnings, None));
    }
    refuse(&target, status, upgrading)?;
    let path = call.info.path.as_str();
    let redirects = headers::Redirects {
        backend: &backend.to_string(),
        host: host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default(),
        prefix: path.strip_suffix(&tail).unwrap_or(path),
    };
    Ok(answer(response, &warnings, Some(redirects)).map(|body| held(body, permit)))
}

/// What the rest of the cluster has to say about the connection: warnings, or no.
async fn admit(server: &ApiServer, call: &ResourceCall, tail: &str) -> Result<Vec<String>, ApiError> {
    let others = &call.resource.subresources.others;
    let kind = others.iter().find(|other| other.name == call.info.subresource.as_str());
    let kind = kind.map(|entry| &*entry.kind).unwrap_or_default();
    let mut options = match streams::is_stream(&call.info.subresource) {
        true => streams::options(call, kind)?,
        false => json!({"kind": kind, "apiVersion": "v1", "path": tail}),
    };
    let admission =
        Admission { call, operation: Operation::Connect, old: None, dry_run: false, options: &json!({}) };
    let mut warnings = Vec::new();
    admission.mutate(server, Some(&mut options), &mut warnings).await?;
    admission.check(server, Some(&mut options), &mut warnings).await?;
    Ok(warnings)
}

/// A page's links are relative to where it is: what is at the root is below a slash.
fn to_root(parts: &Parts) -> Response<Body> {
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    if let Ok(location) = HeaderValue::from_str(&format!("{}/{query}", parts.uri.path())) {
        response.headers_mut().insert(LOCATION, location);
    }
    response
}

/// The host that the client asked.
fn host(parts: &Parts) -> Option<HeaderValue> {
    let authority = || HeaderValue::from_str(parts.uri.authority()?.as_str()).ok();
    parts.headers.get(HOST).cloned().or_else(authority)
}

/// The request as it is passed on.
fn request(
    parts: &Parts,
    host: Option<&HeaderValue>,
    target: &Target,
    path_and_query: &str,
    body: RequestBody,
) -> Result<Request<RequestBody>, ApiError> {
    let client: Option<IpAddr> = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip().to_canonical());
    let mut request = Request::new(body);
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() =
        path_and_query.parse().map_err(|error| ApiError::bad_request(format!("the path: {error}")))?;
    *request.headers_mut() = headers::of_request(parts.headers.clone(), client, parts.uri.path());
    let own = match target {
        Target::Kubelet(kubelet) => kubelet.node.clone(),
        Target::Pod { to, .. } => to.address().to_string(),
        Target::Service { namespace, name, .. } => format!("{name}.{namespace}.svc"),
    };
    let own = HeaderValue::from_str(&own).map_err(ApiError::internal)?;
    request.headers_mut().insert(HOST, host.cloned().unwrap_or(own));
    Ok(request)
}

/// Sends a request, and says where it went.
async fn send(
    server: &ApiServer,
    target: &Target,
    request: Request<RequestBody>,
    upgrading: bool,
) -> Result<(Exchanged, SocketAddr), ApiError> {
    let routes = server.routes();
    let (stream, address, tls) = match target {
        Target::Kubelet(kubelet) => {
            let sent = server.kubelets().send(routes, kubelet, request).await;
            return Ok((sent.map_err(|error| unreachable(upgrading, &error))?, kubelet.socket()));
        }
        Target::Pod { to, tls } => {
            let stream = routes.dial(to).await.map_err(|error| unreachable(upgrading, &error))?;
            (stream, to.address(), *tls)
        }
        Target::Service { namespace, name, port, tls } => {
            let port = port.parse().map_or(ServicePort::Name(port), ServicePort::Number);
            let (stream, address) = routes
                .connect_service(namespace, name, port, Trust::Pods)
                .await
                .map_err(|error| match error {
                    ServiceError::Unresolved(error) => error,
                    ServiceError::Unreachable(error) => unreachable(upgrading, &error),
                })?;
            (stream, address, *tls)
        }
    };
    let failed = |error: ExchangeError| unreachable(upgrading, &error);
    let stream = if tls {
        let config = server.kubelets().tls_with_pods();
        let config = config.ok_or_else(|| unreachable(upgrading, &"no TLS is spoken with pods here"))?;
        secure(stream, config, ServerName::IpAddress(address.ip().into())).await.map_err(failed)?
    } else {
        stream
    };
    Ok((exchange(stream, request, ANSWER).await.map_err(failed)?, address))
}

pub(crate) fn unreachable(upgrading: bool, why: &dyn Display) -> ApiError {
    if upgrading {
        return unknown(format!("error dialing backend: {why}"));
    }
    ApiError::service_unavailable(format!("error trying to reach service: {why}"))
}

fn unknown(message: String) -> ApiError {
    ApiError::new(Reason::Unknown, message).with_code(StatusCode::INTERNAL_SERVER_ERROR.as_u16())
}

/// What is no answer: a kubelet that sends the server elsewhere, and whoever neither upgrades nor says why not.
fn refuse(target: &Target, status: StatusCode, upgrading: bool) -> Result<(), ApiError> {
    let redirects = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
    match target {
        Target::Kubelet(kubelet) if redirects => Err(kubelet.redirected(status)),
        _ if upgrading && status.as_u16() < 400 => {
            Err(unknown(format!("invalid upgrade response: status code {}", status.as_u16())))
        }
        _ => Ok(()),
    }
}

/// The answer as it is passed back.
pub(crate) fn answer(
    response: Response<Body>,
    warnings: &[String],
    redirects: Option<headers::Redirects<'_>>,
) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    // The client is spoken to as it is, whatever the backend speaks.
    parts.version = Version::default();
    parts.headers = headers::of_answer(parts.headers, parts.status);
    if let Some(redirects) = redirects {
        redirects.rewrite(&mut parts.headers);
    }
    let mut response = Response::from_parts(parts, body);
    warn(&mut response, warnings);
    response
}

/// Carries bytes both ways until one side ends, and what is on its way then.
pub(crate) async fn carry(client: OnUpgrade, backend: Stream, permit: Permit) {
    let client = match client.await {
        Ok(client) => TokioIo::new(client),
        Err(error) => return tracing::debug!(%error, "a client went away before its connection was upgraded"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let there = copy(&mut from_client, &mut to_backend);
    let back = copy(&mut from_backend, &mut to_client);
    let (mut there, mut back) = (std::pin::pin!(there), std::pin::pin!(back));
    let rest = tokio::select! {
        ended = &mut there => (ended, tokio::time::timeout(LINGER, back).await),
        ended = &mut back => (ended, tokio::time::timeout(LINGER, there).await),
    };
    tracing::debug!(?rest, "an upgraded connection has ended");
    drop(permit);
}

/// Copies one direction to its end.
async fn copy<R, W>(from: &mut R, to: &mut W) -> std::io::Result<u64>
where
    R: tokio::io::AsyncRead + Unpin,
    W: tokio::io::AsyncWrite + Unpin,
{
    let bytes = tokio::io::copy(from, to).await?;
    tokio::io::AsyncWriteExt::shutdown(to).await?;
    Ok(bytes)
}
