//! Requests that another server answers: passed on with who asks, and its answer back as it comes. No redirect is followed,
//! and an upgraded connection is bytes in both directions.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::status::{ApiError, Reason};
use http::{Request, Response, StatusCode};
use http_body::Body as _;
use hyper::upgrade::OnUpgrade;

use super::Remote;
use crate::exchange::Exchanged;
use crate::proxy::{answer, carry, headers, unreachable};
use crate::request::respond::held;
use crate::server::ApiServer;
use crate::types::{Body, PeerAddress, Permit, RequestBody, RequestInfo, UserInfo};

/// How long the head of an answer to a watch may take, and what becomes of a connection.
const LONG: Duration = Duration::from_secs(600);

/// A request that is to be passed on.
pub struct Passing {
    /// Who asks.
    pub user: UserInfo,
    /// What for.
    pub info: RequestInfo,
    /// The request.
    pub request: Request<RequestBody>,
    /// Its place among those that are served.
    pub permit: Permit,
}

/// Passes a request on, and its answer back.
pub async fn pass(
    server: &Arc<ApiServer>,
    remote: &Remote,
    passing: Passing,
) -> Result<Response<Body>, ApiError> {
    let Passing { user, info, request, permit } = passing;
    if let Some(why) = &remote.unavailable {
        let message = format!("service unavailable: APIService {:?}: {why}", &*remote.name);
        return Err(ApiError::service_unavailable(message));
    }
    let (mut parts, body) = request.into_parts();
    let upgrading = headers::upgrade(&parts.headers).is_some();
    let client = parts.extensions.remove::<OnUpgrade>().filter(|_| upgrading);
    if upgrading && client.is_none() {
        return Err(ApiError::bad_request("Upgrade request required"));
    }
    if upgrading && !body.is_end_stream() {
        return Err(ApiError::bad_request("a request to upgrade has no body"));
    }
    let from = parts.extensions.get::<PeerAddress>().map(|peer| peer.0.ip().to_canonical());
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut passed = Request::new(body);
    *passed.method_mut() = parts.method.clone();
    *passed.uri_mut() =
        target.parse().map_err(|error| ApiError::bad_request(format!("the path: {error}")))?;
    *passed.headers_mut() = headers::of_request(parts.headers, from, parts.uri.path());
    let long = upgrading || info.verb == "watch";
    let patience = if long { LONG } else { server.config().request_timeout };
    let sent = remote.send(server, user, passed, patience).await;
    let Exchanged { response, upgraded } = sent.map_err(|why| unreachable(upgrading, &why))?;
    let status = response.status();
    if let (Some(client), Some(backend)) = (client, upgraded) {
        let carrying = carry(client, backend, permit);
        drop(server.tasks().spawn(server.shutdown().clone().run_until_cancelled_owned(carrying)));
        return Ok(answer(response, &[], None));
    }
    let redirects = status.is_redirection() && status != StatusCode::NOT_MODIFIED;
    if redirects || (upgrading && status.as_u16() < 400) {
        let message = match redirects {
            true => "the backend attempted to redirect this request, which is not permitted".to_owned(),
            false => format!("invalid upgrade response: status code {}", status.as_u16()),
        };
        return Err(ApiError::new(Reason::Unknown, message).with_code(StatusCode::BAD_GATEWAY.as_u16()));
    }
    // A watch keeps nobody out for as long as it goes on.
    let permit = (!long).then_some(permit);
    Ok(answer(response, &[], None).map(|body| held(body, permit)))
}
