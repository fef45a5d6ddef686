//! How a node opens its tunnel: a request that is upgraded, by nobody but the node itself, for as long as its certificate is
//! good and its Node object there.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::status::ApiError;
use api_machinery::tunnel::{PATH, PROTOCOL};
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::upgrade::OnUpgrade;
use jiff::{SignedDuration, Timestamp};

use super::Mode;
use super::tunnel::Tunnel;
use crate::authn::certificate_ends;
use crate::authz::node::identity;
use crate::request::authorize::forbidden;
use crate::server::ApiServer;
use crate::types::{Body, PeerCertificates, RequestInfo, UserInfo};
use crate::watch::{Next, Selection, Subscription};

/// How long a node may take from the answer to its first HTTP/2 frame.
const BEGIN: Duration = Duration::from_secs(10);
/// A deadline is looked at again after this time at the latest: clocks are set.
const NAP: Duration = Duration::from_secs(3600);

/// The node whose tunnel is asked for, if that is what a request is about.
pub fn asked_for(info: &RequestInfo) -> Option<&str> {
    if info.is_resource { None } else { info.path.strip_prefix(PATH)?.strip_prefix('/') }
}

/// Answers the request that becomes a tunnel.
pub async fn accept(
    server: &Arc<ApiServer>,
    user: &UserInfo,
    info: &RequestInfo,
    mut parts: Parts,
) -> Result<Response<Body>, ApiError> {
    let name = asked_for(info).ok_or_else(ApiError::no_such_path)?;
    if server.config().egress == Mode::Disabled {
        return Err(ApiError::no_such_path());
    }
    // Whoever may do anything is still not the node.
    if identity(user) != Some(name) {
        return Err(forbidden(user, info, "only the node itself opens its tunnel"));
    }
    if parts.method != Method::GET {
        return Err(ApiError::method_not_allowed());
    }
    let certificate = parts.extensions.get::<PeerCertificates>().and_then(|peer| peer.0.first());
    let ends = certificate.and_then(certificate_ends);
    let ends = ends.ok_or_else(|| forbidden(user, info, "a node proves itself by a client certificate"))?;
    let offered = parts.headers.get(UPGRADE).is_some_and(|offered| offered == PROTOCOL);
    let Some(upgrade) = parts.extensions.remove::<OnUpgrade>().filter(|_| offered) else {
        return Err(ApiError::bad_request(format!("Upgrade request required: {PROTOCOL} over HTTP/1.1")));
    };
    let gone = || ApiError::not_found("", "nodes", name);
    server.lookup().get("", "nodes", "", name).await?.ok_or_else(gone)?;
    let catalog = server.catalog();
    let nodes = catalog.find("", "v1", "nodes").and_then(|nodes| server.cache().resource(nodes));
    let (found, changes) = nodes.ok_or_else(gone)?.list_and_subscribe(&Selection::one("", name));
    if found.is_empty() {
        return Err(gone());
    }
    let serving = serve(server.clone(), name.to_owned(), upgrade, changes, ends);
    drop(server.tasks().spawn(serving));
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(PROTOCOL));
    Ok(response)
}

/// Keeps a tunnel for as long as it may be one.
async fn serve(
    server: Arc<ApiServer>,
    node: String,
    upgrade: OnUpgrade,
    mut changes: Subscription,
    ends: Timestamp,
) {
    let end = server.shutdown().child_token();
    let _guard = end.clone().drop_guard();
    let beginning = async { Tunnel::begin(upgrade.await?, server.tasks(), end.clone()).await };
    let (tunnel, connection) = match tokio::time::timeout(BEGIN, beginning).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return tracing::warn!(node, %error, "a tunnel did not begin"),
        Err(_) => return tracing::warn!(node, "a tunnel did not begin in time"),
    };
    let tunnel = Arc::new(tunnel);
    server.routes().tunnels.add(&node, tunnel.clone());
    tracing::info!(node, "a node has opened a tunnel");
    let why = tokio::select! {
        ended = connection => match ended {
            Ok(()) => "the node ended it".to_owned(),
            Err(error) => error.to_string(),
        },
        () = end.cancelled() => "the server ends, or the node has opened others".to_owned(),
        () = deleted(&mut changes) => "the node was deleted".to_owned(),
        () = expired(&server, ends) => "the node's certificate has expired".to_owned(),
    };
    server.routes().tunnels.remove(&node, &tunnel);
    tracing::info!(node, why, "a tunnel has ended");
}

/// Waits until the node is deleted. A cursor that was overtaken cannot tell, and lets the node come again.
async fn deleted(changes: &mut Subscription) {
    loop {
        match changes.take(16, usize::MAX) {
            Next::Lost(_) | Next::Ended => return,
            Next::Events(events) if events.iter().any(|event| event.deleted) => return,
            Next::Events(events) if events.is_empty() => changes.wait().await,
            Next::Events(_) => {}
        }
    }
}

async fn expired(server: &ApiServer, ends: Timestamp) {
    loop {
        let left = ends.duration_since(server.clock().now());
        if left <= SignedDuration::ZERO {
            return;
        }
        tokio::time::sleep(left.unsigned_abs().min(NAP)).await;
    }
}
