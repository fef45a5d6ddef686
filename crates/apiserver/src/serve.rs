//! The listener: one port for HTTP/1.1 and HTTP/2 over TLS, in front of [`ApiServer::handle`].
//!
//! Everything that a stranger can make it hold is bounded: connections, the time for a handshake and for headers, the
//! streams of a connection and how often they may be reset. Who a client is, is not decided here; a certificate that it
//! proved to own is handed on as [`PeerCertificates`] when it chains to the client CA.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::{http1, http2};
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::authn::front_proxy::{FrontProxy, RequestHeader};
use crate::server::ApiServer;
use crate::types::{Body, BoxError, PeerAddress, PeerCertificates, UntrustedCertificate};

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the head of an HTTP/1 request may take, and how long such a connection may idle.
const HEADERS: Duration = Duration::from_secs(60);
/// How often a quiet HTTP/2 connection is pinged.
const PING: Duration = Duration::from_secs(30);
/// How long the answer to a ping may take.
const PONG: Duration = Duration::from_secs(15);
/// Requests at the same time on one HTTP/2 connection. Watches are among them.
const STREAMS: u32 = 250;
/// Streams that a client may open and reset before they are looked at.
const RESETS: usize = 20;
/// Streams that the server may have had to reset because of what the client sent.
const ERROR_RESETS: usize = 128;
/// The largest head of a request.
const HEADER_BYTES: u32 = 64 << 10;
/// What may be buffered for one stream in either direction.
const STREAM_BYTES: u32 = 256 << 10;
/// What a client may send on one connection before it is read.
const CONNECTION_BYTES: u32 = 1 << 20;
/// The pause after the system could not accept a connection, which is when it is out of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// How long requests may go on after the shutdown.
const DRAIN: Duration = Duration::from_secs(10);

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's certificate or key cannot be used, or the CA's.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
    /// The client CA cannot be used.
    #[error("the client CA: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
    /// The front proxies' authorities cannot be read.
    #[error("the front proxies' CA: {0}")]
    FrontProxyCa(#[from] rustls_pki_types::pem::Error),
    /// Whoever is a client would be a front proxy as well, and could be anybody.
    #[error(
        "the front proxies' CA and the client CA have a certificate in common: the names that front proxies may have must \
         be given"
    )]
    EveryClientAProxy,
}

/// How connections are secured.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    clients: Arc<dyn ClientCertVerifier>,
    authorities: Arc<[CertificateDer<'static>]>,
    proxies: Option<(Arc<dyn ClientCertVerifier>, Arc<RequestHeader>)>,
}

impl Tls {
    /// TLS 1.2 and 1.3 with a server certificate; client certificates are optional and must chain to one of
    /// `client_authorities` to count.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_authorities: &[CertificateDer<'static>],
    ) -> Result<Tls, TlsError> {
        let clients = verifier(client_authorities)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(Possession(clients.clone())))
            .with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Tls { config: Arc::new(config), clients, authorities: client_authorities.into(), proxies: None })
    }

    /// The same, where front proxies may say who asks.
    ///
    /// # Errors
    /// [`TlsError::EveryClientAProxy`] if nothing tells a client from a front proxy.
    pub fn with_front_proxies(self, rules: Arc<RequestHeader>) -> Result<Tls, TlsError> {
        let authorities = CertificateDer::pem_slice_iter(rules.authorities.as_bytes());
        let authorities: Vec<CertificateDer<'static>> = authorities.collect::<Result<_, _>>()?;
        if rules.allowed_names.is_empty() && authorities.iter().any(|one| self.authorities.contains(one)) {
            return Err(TlsError::EveryClientAProxy);
        }
        Ok(Tls { proxies: Some((verifier(&authorities)?, rules)), ..self })
    }

    /// What the certificates of a client mean.
    fn peer(&self, stream: &TlsStream<TcpStream>, now: UnixTime) -> Peer {
        let Some([own, others @ ..]) = stream.get_ref().1.peer_certificates() else { return Peer::default() };
        let proxies = self.proxies.as_ref();
        let proxy = proxies.filter(|(proxies, _)| proxies.verify_client_cert(own, others, now).is_ok());
        let front = proxy.map(|(_, rules)| FrontProxy { certificate: own.clone(), rules: rules.clone() });
        let client = match self.clients.verify_client_cert(own, others, now) {
            Ok(_) => Client::Proven(PeerCertificates(std::iter::once(own).chain(others).cloned().collect())),
            Err(error) => {
                tracing::debug!(%error, "a client certificate is not trusted");
                Client::Untrusted
            }
        };
        Peer { client, front }
    }
}

/// Checks certificates of clients, where there are any.
fn verifier(authorities: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone())?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    Ok(builder.allow_unauthenticated().build()?)
}

/// Lets a handshake succeed with any certificate whose key the client holds. Whether it is trusted is looked at
/// afterwards: the client of an old cluster is to read "401 Unauthorized" and not that TLS failed.
#[derive(Debug)]
struct Possession(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Possession {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// What TLS says about a client.
#[derive(Clone, Default)]
struct Peer {
    client: Client,
    front: Option<FrontProxy>,
}

/// Whether it is one of the cluster's clients.
#[derive(Clone, Default)]
enum Client {
    #[default]
    Unknown,
    Proven(PeerCertificates),
    Untrusted,
}

/// Serves connections until `shutdown`; then takes no more, ends watches, lets other requests finish for a while, and
/// returns.
pub async fn listen(server: Arc<ApiServer>, listener: TcpListener, tls: Tls, shutdown: CancellationToken) {
    let places = Arc::new(Semaphore::new(server.config().max_connections));
    let mut connections = JoinSet::new();
    // A connection is accepted when there is a place for it; until then it waits in the kernel's queue.
    while let Some((stream, address, place)) =
        shutdown.run_until_cancelled(accept(&listener, &places, &mut connections)).await
    {
        let connection = Connection {
            server: server.clone(),
            tls: tls.clone(),
            address,
            streams: server.tasks().clone(),
            shutdown: shutdown.clone(),
            _place: place,
        };
        connections.spawn(connection.serve(stream));
    }
    drop(listener);
    server.end_watches();
    let drained =
        tokio::time::timeout(DRAIN, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections were cut off: their requests took too long"
        );
        connections.shutdown().await;
    }
}

/// The next connection and its place. Forgets those that have ended meanwhile.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    connections: &mut JoinSet<()>,
) -> (TcpStream, SocketAddr, OwnedSemaphorePermit) {
    let place = places.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, place),
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// One connection.
struct Connection {
    server: Arc<ApiServer>,
    tls: Tls,
    address: SocketAddr,
    streams: TaskTracker,
    shutdown: CancellationToken,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let address = self.address;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %address, "a connection answers later than it could");
        }
        let acceptor = TlsAcceptor::from(self.tls.config.clone());
        let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream));
        let stream = match self.shutdown.run_until_cancelled(handshake).await {
            None => return,
            Some(Ok(Ok(stream))) => stream,
            Some(Ok(Err(error))) => return tracing::debug!(%error, %address, "a TLS handshake failed"),
            Some(Err(_)) => return tracing::debug!(%address, "a TLS handshake took too long"),
        };
        let seconds = u64::try_from(self.server.clock().now().as_second()).unwrap_or(0);
        let peer = self.tls.peer(&stream, UnixTime::since_unix_epoch(Duration::from_secs(seconds)));
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let handler = Handler { server: self.server.clone(), address, peer };
        let shutdown = self.shutdown.clone();
        let stream = TokioIo::new(stream);
        if http2 {
            let connection = self.http2().serve_connection(stream, handler);
            drive(connection, http2::Connection::graceful_shutdown, shutdown, address).await;
        } else {
            let connection = http1().serve_connection(stream, handler).with_upgrades();
            drive(connection, http1::UpgradeableConnection::graceful_shutdown, shutdown, address).await;
        }
    }

    fn http2(&self) -> http2::Builder<Tasks> {
        let mut builder = http2::Builder::new(Tasks(self.streams.clone()));
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_pending_accept_reset_streams(RESETS)
            .max_local_error_reset_streams(ERROR_RESETS)
            .max_header_list_size(HEADER_BYTES)
            .initial_stream_window_size(STREAM_BYTES)
            .initial_connection_window_size(CONNECTION_BYTES)
            .max_send_buf_size(STREAM_BYTES as usize)
            .keep_alive_interval(PING)
            .keep_alive_timeout(PONG);
        builder
    }
}

fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_header_size(HEADER_BYTES as usize)
        .max_buf_size(2 * HEADER_BYTES as usize);
    builder
}

/// Hands requests on, with what the connection knows about the client.
struct Handler {
    server: Arc<ApiServer>,
    address: SocketAddr,
    peer: Peer,
}

impl Service<Request<Incoming>> for Handler {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(PeerAddress(self.address));
        if let Some(front) = &self.peer.front {
            parts.extensions.insert(front.clone());
        }
        match &self.peer.client {
            Client::Unknown => {}
            Client::Proven(certificates) => {
                parts.extensions.insert(certificates.clone());
            }
            Client::Untrusted => {
                parts.extensions.insert(UntrustedCertificate);
            }
        }
        let body = body.map_err(Into::into).boxed_unsync();
        let answer = self.server.handle(Request::from_parts(parts, body));
        Box::pin(async move { Ok(answer.await.map(Answer)) })
    }
}

/// The body of an answer, with errors of a type that hyper takes.
struct Answer(Body);

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.0).poll_frame(context).map_err(BodyError)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

/// An error with which a body ended.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct BodyError(BoxError);

/// Serves a connection; at the shutdown it finishes what it has begun and takes no more.
async fn drive<C, E>(
    connection: C,
    finish: impl FnOnce(Pin<&mut C>),
    shutdown: CancellationToken,
    address: SocketAddr,
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut connection = pin!(connection);
    let ended = match shutdown.run_until_cancelled(connection.as_mut()).await {
        Some(ended) => ended,
        None => {
            finish(connection.as_mut());
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %address, "a connection ended badly");
    }
}

/// Streams of HTTP/2 connections run as tasks that the server owns.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, stream: F) {
        drop(self.0.spawn(stream));
    }
}
