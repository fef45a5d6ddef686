//! The way to kubelets: HTTP/1.1 over TLS with the API server's client certificate, one connection a request.
//!
//! The address was checked by `proxy` and nothing is resolved here; `egress` finds the way to it. A kubelet must prove to be the node that it is asked as:
//! nodes write their own addresses, and one that names another's would be handed that one's logs. Redirects are not
//! followed; what to make of an answer is `proxy`'s to say.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Fuse};
use http::header::{ACCEPT, HOST};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::TlsConnector;

use crate::egress::{Destination, Egress, Stream};
use crate::proxy::{KubeletAddress, KubeletError, Kubelets};
use crate::serve::TlsError;
use crate::types::{Body, BoxError};

/// How long TLS may take to be agreed on.
const CONNECT: Duration = Duration::from_secs(5);
/// How long the head of an answer may take. A body may take as long as it likes.
const ANSWER: Duration = Duration::from_secs(30);
/// The largest head of an answer.
const HEAD_BYTES: usize = 64 << 10;

/// Kubelets on the network.
pub struct TlsKubelets {
    tls: TlsConnector,
}

impl TlsKubelets {
    /// Kubelets whose certificates one of `authorities` signed, asked as the owner of a client certificate.
    pub fn new(
        authorities: &[CertificateDer<'static>],
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<TlsKubelets, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsKubelets { tls: TlsConnector::from(Arc::new(config)) })
    }

    async fn connect(
        &self,
        egress: &dyn Egress,
        kubelet: &KubeletAddress,
    ) -> Result<tokio_rustls::client::TlsStream<Stream>, KubeletError> {
        let failed = |why: &dyn std::fmt::Display| KubeletError(why.to_string());
        let name = ServerName::try_from(kubelet.node.clone()).map_err(|error| failed(&error))?;
        let to = Destination::Kubelet { node: kubelet.node.clone(), address: kubelet.socket() };
        let stream = egress.dial(&to).await.map_err(|error| failed(&error))?;
        match tokio::time::timeout(CONNECT, self.tls.connect(name, stream)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(failed(&format_args!("tls: {error}"))),
            Err(_) => Err(failed(&"net/http: TLS handshake timeout")),
        }
    }
}

#[async_trait]
impl Kubelets for TlsKubelets {
    async fn get(
        &self,
        egress: &dyn Egress,
        kubelet: &KubeletAddress,
        path_and_query: &str,
    ) -> Result<Response<Body>, KubeletError> {
        let failed = |why: &dyn std::fmt::Display| KubeletError(why.to_string());
        let stream = TokioIo::new(self.connect(egress, kubelet).await?);
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES)
            .handshake(stream)
            .await
            .map_err(|error| failed(&error))?;
        let mut connection: Driver = (Box::pin(connection) as BoxFuture<'static, _>).fuse();
        let request = Request::get(path_and_query)
            .header(HOST, &kubelet.node)
            .header(ACCEPT, "*/*")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let answer = tokio::time::timeout(ANSWER, async {
            let mut answer = pin!(sender.send_request(request));
            tokio::select! {
                answer = answer.as_mut() => answer,
                // It has ended; the answer has come or says why not.
                _ = &mut connection => answer.await,
            }
        });
        let (parts, incoming) = match answer.await {
            Ok(Ok(response)) => response.into_parts(),
            Ok(Err(error)) => return Err(failed(&error)),
            Err(_) => return Err(failed(&"net/http: timeout awaiting response headers")),
        };
        let body = Streamed { incoming, connection };
        Ok(Response::from_parts(parts, body.boxed_unsync()))
    }
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
            tracing::debug!(%error, "the connection to a kubelet ended badly");
        }
        Pin::new(&mut self.incoming).poll_frame(context).map_err(BoxError::from)
    }
}
