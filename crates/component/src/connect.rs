//! A client of an API server on the network: TLS with the cluster's CA and a client certificate, one HTTP/2 connection
//! that is pinged, so that a peer that vanished is noticed. Reads the kubeconfig files that Skiff itself writes, with
//! file names or inline data; plugins and other ways to log in are for users' tools, not for components.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::{Authority, Scheme};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use kube::client::Body;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{Service, ServiceExt};

use crate::identity::Identity;
use crate::kubeconfig::{self, Kubeconfig};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// A connection is pinged this often, and given up when a ping is not answered for as long again.
const PING: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The kubeconfig does not say what is needed.
    #[error("{path}: {what}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The server's address is none.
    #[error("{0:?} is not of the form https://HOST:PORT")]
    Server(String),
    /// The certificate authority cannot be read.
    #[error("the certificate authority: {0}")]
    Authority(String),
    /// The server cannot be reached.
    #[error("{server}: {source}")]
    Unreachable {
        /// The server.
        server: String,
        /// What the system or TLS said.
        source: std::io::Error,
    },
    /// TLS refuses the certificates or keys.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A client for the first cluster and the first user of a kubeconfig file.
pub fn from_kubeconfig(path: &Path) -> Result<kube::Client, ConnectError> {
    let config = Kubeconfig::read(path)?;
    let (certificate, key) = config.certificate()?;
    let wrong = |what: String| kubeconfig::wrong(path, what);
    let server: Uri = config.server.parse().map_err(|error| wrong(format!("server: {error}")))?;
    let tls = tls(&config.authority, &certificate, &key).map_err(|error| match error {
        TlsError::Pem(what) => wrong(what),
        TlsError::Rustls(error) => ConnectError::Tls(error),
    })?;
    client(server, tls).ok_or_else(|| wrong("server: must be https://HOST:PORT".to_owned()))
}

/// A client that shows a certificate which may be replaced while it is in use.
pub fn with_identity(
    server: &str,
    authority: &[u8],
    identity: Arc<Identity>,
) -> Result<kube::Client, ConnectError> {
    let (uri, roots) = (address(server)?, roots(authority)?);
    let make = {
        let identity = identity.clone();
        move || {
            let mut config =
                versions()?.with_root_certificates(roots.clone()).with_client_cert_resolver(identity.clone());
            config.alpn_protocols = protocols();
            Ok::<_, rustls::Error>(config)
        }
    };
    let first = http_client(&uri, make()?);
    let first = first.ok_or_else(|| ConnectError::Server(server.to_owned()))?;
    // Connections keep the certificate that they began with, so another certificate means other connections.
    let current = Mutex::new((identity.version(), first));
    let choose = move || {
        let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);
        let version = identity.version();
        if current.0 != version
            && let Ok(config) = make()
            && let Some(http) = http_client(&uri, config)
        {
            *current = (version, http);
        }
        (current.1.clone(), uri.authority().cloned())
    };
    Ok(service(choose, None))
}

/// A client that shows a bearer token.
pub fn with_token(server: &str, authority: &[u8], token: &str) -> Result<kube::Client, ConnectError> {
    let mut config = versions()?.with_root_certificates(roots(authority)?).with_no_client_auth();
    config.alpn_protocols = protocols();
    let header = HeaderValue::try_from(format!("Bearer {token}"));
    let mut header = header.map_err(|_| ConnectError::Authority("the token is not text".to_owned()))?;
    header.set_sensitive(true);
    plain(server, config, Some(header))
}

/// A client that believes whoever answers, to learn from him who he is. What it sends must not be a secret, and what it
/// learns must be checked.
pub fn unverified(server: &str) -> Result<kube::Client, ConnectError> {
    let mut config = any_certificate()?;
    config.alpn_protocols = protocols();
    plain(server, config, None)
}

/// TLS that believes every certificate, for whom the address alone says who answers: a pod that is probed, say.
pub fn any_certificate() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(Anybody(provider));
    Ok(versions()?.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// A connection of its own to an API server, for what is no request: HTTP/1.1 over TLS with the certificate of the moment.
/// Given back with the host and port that it is for.
pub async fn dedicated(
    server: &str,
    authority: &[u8],
    identity: &Arc<Identity>,
) -> Result<(TlsStream<TcpStream>, String), ConnectError> {
    let uri = address(server)?;
    let bad = || ConnectError::Server(server.to_owned());
    let host = uri.host().ok_or_else(bad)?.trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host.clone()).map_err(|_| bad())?;
    let mut config =
        versions()?.with_root_certificates(roots(authority)?).with_client_cert_resolver(identity.clone());
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let making = async {
        let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
        stream.set_nodelay(true)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let made = tokio::time::timeout(CONNECT, making)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    let stream = made.map_err(|source| ConnectError::Unreachable { server: server.to_owned(), source })?;
    Ok((stream, uri.authority().map(ToString::to_string).unwrap_or_default()))
}

fn plain(
    server: &str,
    config: ClientConfig,
    token: Option<HeaderValue>,
) -> Result<kube::Client, ConnectError> {
    let uri = address(server)?;
    let http = http_client(&uri, config).ok_or_else(|| ConnectError::Server(server.to_owned()))?;
    Ok(service(move || (http.clone(), uri.authority().cloned()), token))
}

fn address(server: &str) -> Result<Uri, ConnectError> {
    let uri: Uri = server.parse().map_err(|_| ConnectError::Server(server.to_owned()))?;
    let good = uri.scheme() == Some(&Scheme::HTTPS) && uri.host().is_some();
    if good { Ok(uri) } else { Err(ConnectError::Server(server.to_owned())) }
}

fn roots(authority: &[u8]) -> Result<rustls::RootCertStore, ConnectError> {
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authority) {
        roots.add(authority.map_err(|error| ConnectError::Authority(error.to_string()))?)?;
    }
    if roots.is_empty() { Err(ConnectError::Authority("there is none".to_owned())) } else { Ok(roots) }
}

fn protocols() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec(), b"http/1.1".to_vec()]
}

fn versions() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()
}

/// Believes every certificate; only that the server holds its key is checked.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>, ConnectError> {
    std::fs::read(path).map_err(|source| ConnectError::Read { path: path.to_owned(), source })
}

enum TlsError {
    Pem(String),
    Rustls(rustls::Error),
}

fn tls(authorities: &[u8], certificate: &[u8], key: &[u8]) -> Result<ClientConfig, TlsError> {
    let pem = |error: rustls_pki_types::pem::Error| TlsError::Pem(error.to_string());
    let mut roots = rustls::RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(authorities) {
        roots.add(authority.map_err(pem)?).map_err(TlsError::Rustls)?;
    }
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>().map_err(pem)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(pem)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Rustls)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Rustls)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

type Http = HttpClient<Connector, Body>;

/// A client whose every request goes to `server`; `None` if that is no https address.
fn client(server: Uri, tls: ClientConfig) -> Option<kube::Client> {
    let authority = server.authority()?.clone();
    let http = http_client(&server, tls)?;
    Some(service(move || (http.clone(), Some(authority.clone())), None))
}

fn http_client(server: &Uri, tls: ClientConfig) -> Option<Http> {
    if server.scheme() != Some(&Scheme::HTTPS) {
        return None;
    }
    let name = ServerName::try_from(server.host()?.trim_matches(['[', ']']).to_owned()).ok()?;
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(CONNECT));
    let connector = Connector { tcp, tls: TlsConnector::from(Arc::new(tls)), name };
    let http: Http = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .http2_keep_alive_interval(PING)
        .http2_keep_alive_timeout(PING)
        .http2_adaptive_window(true)
        .build(connector);
    Some(http)
}

/// Sends every request by the connections that `choose` names, with a token if there is one.
fn service(
    choose: impl Fn() -> (Http, Option<Authority>) + Send + Sync + 'static,
    token: Option<HeaderValue>,
) -> kube::Client {
    let choose = Arc::new(choose);
    let service = tower::service_fn(move |mut request: http::Request<Body>| {
        let (http, authority) = choose();
        let token = token.clone();
        async move {
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(Scheme::HTTPS);
            parts.authority = authority;
            *request.uri_mut() = Uri::from_parts(parts)?;
            if let Some(token) = token {
                request.headers_mut().insert(AUTHORIZATION, token);
            }
            Ok::<_, tower::BoxError>(http.request(request).await?)
        }
    });
    kube::Client::new(service, "default")
}

/// TCP, then TLS.
#[derive(Clone)]
struct Connector {
    tcp: HttpConnector,
    tls: TlsConnector,
    name: ServerName<'static>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Secured>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let Self { tcp, tls, name } = self.clone();
        Box::pin(async move {
            let stream = tcp.oneshot(server).await?.into_inner();
            let stream = tokio::time::timeout(CONNECT, tls.connect(name, stream)).await??;
            Ok(TokioIo::new(Secured(stream)))
        })
    }
}

/// A TLS connection that tells the client which protocol was agreed on.
struct Secured(TlsStream<TcpStream>);

impl Connection for Secured {
    fn connected(&self) -> Connected {
        let (tcp, session) = self.0.get_ref();
        let connected = tcp.connected();
        match session.alpn_protocol() {
            Some(b"h2") => connected.negotiated_h2(),
            _ => connected,
        }
    }
}

impl tokio::io::AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl tokio::io::AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
