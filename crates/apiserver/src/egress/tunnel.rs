//! One tunnel: an HTTP/2 connection on which the server is the client and the node the server. Each stream is a CONNECT.
//!
//! Everything that moves its bytes ends with `end`: what was dialed through a tunnel does not outlive it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::tunnel::{CONNECTION_BYTES, STREAM_BYTES, STREAMS};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Stream;

/// How often a tunnel is pinged, in use or not, and how long the answer may take: one that is dead is noticed within the
/// sum.
const PING: Duration = Duration::from_secs(10);
const PONG: Duration = Duration::from_secs(10);
/// The longest explanation of a node that is passed on.
const EXPLANATION: usize = 1 << 10;

/// Why there is no stream.
#[derive(Debug)]
pub enum DialError {
    /// The tunnel is no longer one.
    Gone(String),
    /// The node could not, or would not.
    Refused(String),
}

/// A tunnel.
pub struct Tunnel {
    sender: SendRequest<Empty<Bytes>>,
    places: Arc<Semaphore>,
    /// Ends it.
    pub end: CancellationToken,
}

impl Tunnel {
    /// Begins one on a connection that a node made. The future moves its bytes, and ends when it does.
    pub async fn begin(
        upgraded: Upgraded,
        tasks: &TaskTracker,
        end: CancellationToken,
    ) -> hyper::Result<(Tunnel, impl Future<Output = hyper::Result<()>>)> {
        let (sender, connection) = Builder::new(Until { tasks: tasks.clone(), end: end.clone() })
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_BYTES)
            .initial_connection_window_size(CONNECTION_BYTES)
            .max_send_buf_size(STREAM_BYTES as usize)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .keep_alive_while_idle(true)
            .handshake(upgraded)
            .await?;
        let places = Arc::new(Semaphore::new(STREAMS as usize));
        Ok((Tunnel { sender, places, end }, connection))
    }

    /// A stream to an address that the node can reach.
    pub async fn dial(&self, address: SocketAddr) -> Result<Stream, DialError> {
        let gone = |error: hyper::Error| DialError::Gone(format!("the node's tunnel: {error}"));
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            DialError::Refused(format!("there are {STREAMS} connections through the node's tunnel already"))
        })?;
        let mut sender = self.sender.clone();
        sender.ready().await.map_err(gone)?;
        let request = Request::connect(address.to_string()).body(Empty::new());
        let request = request.map_err(|error| DialError::Refused(error.to_string()))?;
        let response = sender.send_request(request).await.map_err(gone)?;
        if response.status() == StatusCode::OK {
            let upgraded = hyper::upgrade::on(response).await.map_err(gone)?;
            return Ok(Box::new(Placed { stream: TokioIo::new(upgraded), _place: place }));
        }
        let code = response.status();
        let text = Limited::new(response.into_body(), EXPLANATION).collect().await;
        let text = text.map(|body| body.to_bytes()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        Err(DialError::Refused(if text.is_empty() { format!("the node answered {code}") } else { text }))
    }
}

/// Runs what HTTP/2 spawns as the server's tasks, until the tunnel ends.
#[derive(Clone)]
struct Until {
    tasks: TaskTracker,
    end: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Until
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        drop(self.tasks.spawn(self.end.clone().run_until_cancelled_owned(future)));
    }
}

/// A stream that has one of the tunnel's places.
struct Placed {
    stream: TokioIo<Upgraded>,
    _place: OwnedSemaphorePermit,
}

impl tokio::io::AsyncRead for Placed {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Placed {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        std::pin::Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
