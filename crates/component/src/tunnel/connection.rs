//! One tunnel: an upgraded request, over which the server then speaks HTTP/2 as the client. Each stream is a CONNECT, which
//! becomes a TCP connection if the node allows it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::tunnel::{CONNECTION_BYTES, PATH, PROTOCOL, STREAM_BYTES, STREAMS, TIMEOUT, dial_error};
use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Config;
use super::targets::Targets;
use crate::connect::{self, ConnectError};

/// How long the server's answer may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a connection to a target may take; the server waits a little longer.
const DIAL: Duration = Duration::from_secs(4);
/// How often the tunnel is pinged and how long the answer may take: one that is dead is noticed within the sum.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);
/// What a server that refuses may say.
const EXPLANATION: usize = 4 << 10;
/// The largest head of the server's answer.
const HEAD_BYTES: usize = 16 << 10;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It does not speak HTTP as it should.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The request cannot be written.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// It does not answer.
    #[error("the server did not answer in time")]
    Timeout,
    /// It does not want to.
    #[error("the server refuses the tunnel: {0}")]
    Refused(String),
}

/// Asks a server for the node's tunnel.
pub async fn open(config: &Config, server: &str) -> Result<Upgraded, OpenError> {
    let (stream, host) = connect::dedicated(server, &config.authority, &config.identity).await?;
    let asking = ask(config, TokioIo::new(stream), &host);
    tokio::time::timeout(ANSWER, asking).await.map_err(|_| OpenError::Timeout)?
}

async fn ask<T>(config: &Config, stream: T, host: &str) -> Result<Upgraded, OpenError>
where
    T: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    let mut builder = hyper::client::conn::http1::Builder::new();
    let (mut sender, connection) = builder.max_buf_size(HEAD_BYTES).handshake(stream).await?;
    let request = Request::get(format!("{PATH}/{}", config.node))
        .header(HOST, host)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, PROTOCOL)
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(OpenError::Refused(refusal(response).await));
        }
        Ok(hyper::upgrade::on(response).await?)
    };
    let mut exchange = std::pin::pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        // With the answer the connection is no longer HTTP/1, and its end is the upgrade.
        ended = connection.with_upgrades() => { ended?; exchange.await }
    }
}

/// The message of a `Status`, or what there is instead.
async fn refusal(response: Response<Incoming>) -> String {
    let code = response.status();
    let body = Limited::new(response.into_body(), EXPLANATION).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let status: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let message = status.as_ref().and_then(|status| status["message"].as_str());
    message.map_or_else(|| code.to_string(), |message| format!("{message} ({})", code.as_u16()))
}

/// Makes the connections that the server asks for, until the tunnel ends; says why it did.
pub async fn serve(
    upgraded: Upgraded,
    targets: &Arc<Targets>,
    tasks: &TaskTracker,
    end: &CancellationToken,
) -> String {
    // What was dialed for this tunnel ends with it.
    let ended = end.child_token();
    let _guard = ended.clone().drop_guard();
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let (targets, tasks, ended) = (targets.clone(), tasks.clone(), ended.clone());
        async move { Ok::<_, Infallible>(answer(request, &targets, &tasks, ended).await) }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(STREAM_BYTES)
        .initial_connection_window_size(CONNECTION_BYTES)
        .max_send_buf_size(STREAM_BYTES as usize)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PONG)
        .serve_connection(upgraded, service)
        .await;
    served.map_or_else(|error| error.to_string(), |()| "the server ended it".to_owned())
}

/// Answers one CONNECT: a connection, or why there is none.
async fn answer(
    mut request: Request<Incoming>,
    targets: &Targets,
    tasks: &TaskTracker,
    ended: CancellationToken,
) -> Response<Full<Bytes>> {
    if request.method() != Method::CONNECT {
        return no(StatusCode::METHOD_NOT_ALLOWED, "only connections are made here".to_owned());
    }
    let target = request.uri().authority().map_or("", |authority| authority.as_str());
    let address = match targets.check(target) {
        Ok(address) => address,
        Err(refused) => return no(StatusCode::FORBIDDEN, refused.to_string()),
    };
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return no(StatusCode::BAD_REQUEST, "this stream cannot be a connection".to_owned());
    };
    let stream = match tokio::time::timeout(DIAL, dial(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return no(StatusCode::BAD_GATEWAY, dial_error(&error)),
        Err(_) => return no(StatusCode::GATEWAY_TIMEOUT, TIMEOUT.to_owned()),
    };
    drop(tasks.spawn(ended.run_until_cancelled_owned(carry(upgrade, stream, address))));
    Response::new(Full::default())
}

async fn dial(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Carries bytes both ways until both have ended.
async fn carry(upgrade: OnUpgrade, mut stream: TcpStream, address: SocketAddr) {
    let upgraded = match upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return tracing::debug!(%error, %address, "a stream of the tunnel ended early"),
    };
    let mut upgraded = TokioIo::new(upgraded);
    if let Err(error) = tokio::io::copy_bidirectional(&mut upgraded, &mut stream).await {
        tracing::debug!(%error, %address, "a connection through the tunnel ended badly");
    }
}

fn no(code: StatusCode, why: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(why)));
    *response.status_mut() = code;
    response
}
