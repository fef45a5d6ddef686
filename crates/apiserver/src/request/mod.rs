//! The path of a request. `serve` reads like the list of its stages, one file each:
//! authenticate -> flow control -> authorize -> decode -> admit -> validate -> commit -> respond.
//!
//! No kind is named here. What a verb does between decoding and committing is in `registry`.

pub mod admit;
pub mod authenticate;
pub mod authorize;
pub mod commit;
pub mod decode;
pub mod flow;
pub mod negotiate;
pub mod path;
pub mod pieces;
pub mod query;
pub mod respond;
pub mod route;
pub mod validate;

use std::sync::Arc;

use api_machinery::status::ApiError;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Request, Response, StatusCode};

use self::query::Query;
use self::route::Route;
use crate::aggregation;
use crate::discovery;
use crate::egress;
use crate::proxy::{self, Passing};
use crate::registry;
use crate::server::ApiServer;
use crate::types::{Body, RequestBody};

/// Answers a request; whatever goes wrong becomes a `Status`.
pub async fn handle(server: &Arc<ApiServer>, request: Request<RequestBody>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let head = parts.method == http::Method::HEAD;
    let upgrade = parts.headers.contains_key(UPGRADE);
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let mut response = match serve(server, parts, body).await {
        Ok(response) => response,
        Err(error) => respond::error(&error),
    };
    if upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // What the client may have sent behind such a request was not meant to be read as the next one.
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    tracing::debug!(%method, path, code = response.status().as_u16(), "answered");
    server.metrics().count(&method, response.status());
    if head { respond::without_body(response) } else { response }
}

async fn serve(server: &Arc<ApiServer>, parts: Parts, body: RequestBody) -> Result<Response<Body>, ApiError> {
    let query = match path::is_passed_on(parts.uri.path()) {
        true => Query::default(),
        false => Query::parse(parts.uri.query().unwrap_or_default())?,
    };
    let parsed = path::parse(&parts.method, parts.uri.path(), &query)?;
    let user = authenticate::user(server, &parts).await?;
    let permit = flow::enter(server, &user, &parsed.info).await?;
    authorize::check(server, &user, &parsed.info).await?;
    if egress::connect::asked_for(&parsed.info).is_some() {
        return egress::connect::accept(server, &user, &parsed.info, parts).await;
    }
    if let Some(remote) = server.aggregation().responsible(&parsed.info) {
        let request = Request::from_parts(parts, body);
        let passing = aggregation::Passing { user, info: parsed.info, request, permit };
        return aggregation::pass(server, &remote, passing).await;
    }
    match route::find(server, &parts, parsed, query, user).await? {
        Route::Document(call) => discovery::serve(server, &call).await,
        Route::Proxy(call, tail) => {
            let passing = Passing { call, tail, parts, body, permit };
            proxy::pass(server, passing).await
        }
        Route::Read(call) => {
            let answer = registry::read(server, &call).await?;
            respond::send(server, &call, answer, permit).await
        }
        Route::Write(call) => {
            let reading = decode::read(&parts.headers, body, server.config().max_body);
            let body = tokio::time::timeout(server.config().request_timeout, reading).await;
            let body =
                body.map_err(|_| ApiError::timeout("the body of the request did not arrive in time", 1))??;
            let server = server.clone();
            // From here on the work belongs to the server: a client that goes away does not leave it half done.
            let own = server.clone();
            let work = async move {
                let answer = registry::write(&server, &call, &body).await?;
                respond::send(&server, &call, answer, permit).await
            };
            own.run(Box::pin(work)).await
        }
    }
}
