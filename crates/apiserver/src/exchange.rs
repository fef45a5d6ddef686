//! One HTTP/1.1 request over a connection that somebody has made, and its answer as it comes; or, where both sides agree to
//! it, what the connection becomes then.
//!
//! No connection is kept for another request, nothing is followed, and what an answer means is not known here.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;

use crate::egress::Stream;
use crate::types::{Body, BoxError, RequestBody};

/// How long TLS may take to be agreed on.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// The largest head of an answer.
const HEAD_BYTES: usize = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The other side speaks no TLS, or is not who it should be.
    #[error("tls: {0}")]
    Tls(std::io::Error),
    /// It did not agree on TLS in time.
    #[error("net/http: TLS handshake timeout")]
    TlsTimeout,
    /// It does not speak HTTP as it should, or has gone.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// It does not answer.
    #[error("net/http: timeout awaiting response headers")]
    Timeout,
    /// It wants another protocol, for which nobody asked.
    #[error("the backend switched protocols unasked")]
    Unasked,
}

/// What came of a request.
pub struct Exchanged {
    /// The answer; without a body if the connection was upgraded.
    pub response: Response<Body>,
    /// The connection, if it is no longer HTTP.
    pub upgraded: Option<Stream>,
}

/// Speaks TLS as `config` says with whoever is to be `name`.
pub async fn secure(
    stream: Stream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> Result<Stream, ExchangeError> {
    match tokio::time::timeout(HANDSHAKE, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Box::new(stream)),
        Ok(Err(error)) => Err(ExchangeError::Tls(error)),
        Err(_) => Err(ExchangeError::TlsTimeout),
    }
}

/// Sends a request and waits for the head of the answer, as long as `patience` allows. Bodies stream both ways: the request's
/// is sent while the answer's is read.
pub async fn exchange(
    stream: Stream,
    request: Request<RequestBody>,
    patience: Duration,
) -> Result<Exchanged, ExchangeError> {
    let asked = request.headers().contains_key(http::header::UPGRADE);
    let exchanging = async {
        let mut builder = hyper::client::conn::http1::Builder::new();
        let (mut sender, connection) =
            builder.max_buf_size(HEAD_BYTES).handshake(TokioIo::new(stream)).await?;
        let mut connection: Driver = (Box::pin(connection.with_upgrades()) as BoxFuture<'static, _>).fuse();
        let mut answer = pin!(sender.send_request(request));
        let answer = tokio::select! {
            answer = answer.as_mut() => answer?,
            // It has ended; the answer has come or says why not.
            _ = &mut connection => answer.await?,
        };
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            let (parts, incoming) = answer.into_parts();
            let body = Streamed { incoming, connection };
            return Ok(Exchanged {
                response: Response::from_parts(parts, body.boxed_unsync()),
                upgraded: None,
            });
        }
        if !asked {
            return Err(ExchangeError::Unasked);
        }
        let mut answer = answer.map(|_| crate::request::respond::full(Bytes::new()));
        let mut upgrade = hyper::upgrade::on(&mut answer);
        let upgraded = tokio::select! {
            upgraded = &mut upgrade => upgraded?,
            _ = &mut connection => upgrade.await?,
        };
        Ok(Exchanged { response: answer, upgraded: Some(Box::new(TokioIo::new(upgraded))) })
    };
    tokio::time::timeout(patience, exchanging).await.map_err(|_| ExchangeError::Timeout)?
}

/// The future that moves the bytes of a connection.
type Driver = Fuse<BoxFuture<'static, hyper::Result<()>>>;

/// A body that keeps its connection going while it is read: no task to look after, and a reader that goes away takes the
/// connection with it.
struct Streamed {
    incoming: Incoming,
    connection: Driver,
}

impl hyper::body::Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.connection).poll(context) {
            tracing::debug!(%error, "a connection that was asked over ended badly");
        }
        Pin::new(&mut self.incoming).poll_frame(context).map_err(BoxError::from)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
