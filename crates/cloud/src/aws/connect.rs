//! Connections to the cloud's endpoints: TLS by the authorities of a PEM file; plain HTTP only where an endpoint is named so.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower::{Service, ServiceExt};

const CONNECT: Duration = Duration::from_secs(5);

/// Why there is no way to the cloud.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file of authorities.
    #[error("cannot read the certificate authorities in {path}: {what}")]
    Bundle {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// TLS itself.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Connects to `http` and `https` addresses.
#[derive(Clone)]
pub struct Connector {
    tcp: HttpConnector,
    tls: Option<TlsConnector>,
}

impl Connector {
    /// For plain HTTP only.
    pub fn plain() -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        Self { tcp, tls: None }
    }

    /// Trusts the authorities in a file.
    pub fn trusting(bundle: &Path) -> Result<Self, TrustError> {
        let bad = |what: String| TrustError::Bundle { path: bundle.to_owned(), what };
        let pem = std::fs::read(bundle).map_err(|error| bad(error.to_string()))?;
        let mut roots = rustls::RootCertStore::empty();
        for authority in CertificateDer::pem_slice_iter(&pem) {
            let authority = authority.map_err(|error| bad(error.to_string()))?;
            // Bundles hold old certificates that TLS has no use for: one bad one does not spoil the others.
            if let Err(error) = roots.add(authority) {
                tracing::debug!(%error, "a certificate authority is not used");
            }
        }
        if roots.is_empty() {
            return Err(bad("no certificate that can be used".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Some(TlsConnector::from(Arc::new(config))), ..Self::plain() })
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = tower::BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Self { tcp, tls } = self.clone();
        Box::pin(async move {
            let secure = to.scheme() == Some(&http::uri::Scheme::HTTPS);
            let host = to.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let stream = tcp.oneshot(to).await?.into_inner();
            let stream = match (secure, tls) {
                (false, _) => Stream::Plain(stream),
                (true, None) => return Err("https without certificate authorities".into()),
                (true, Some(tls)) => {
                    let name = ServerName::try_from(host)?;
                    let secured = tokio::time::timeout(CONNECT, tls.connect(name, stream)).await??;
                    Stream::Secured(Box::new(secured))
                }
            };
            Ok(TokioIo::new(stream))
        })
    }
}

/// TCP, with TLS or without.
pub enum Stream {
    /// Without.
    Plain(TcpStream),
    /// With.
    Secured(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Secured(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Secured(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Secured(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Secured(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
