//! The small server of a component that is no server otherwise: `/healthz`, `/livez` and `/readyz` for everybody,
//! `/metrics` for whom the API server allows it (a bearer token that it knows, and the right to get that path).
//!
//! Over TLS or, for what only listens on loopback, without. Nothing here decides whether a component is well: one that is
//! not ends, and answers no more.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::Api;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::Context;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;
/// How long a client may take to introduce itself, and for the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long the API server may take to say who asks.
const REVIEW: Duration = Duration::from_secs(10);
/// After the system refused a connection, mostly for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address cannot be listened at.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or the key cannot be used.
    #[error("the serving certificate: {0}")]
    Tls(String),
}

/// A server that listens already.
pub struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// What `/metrics` says; without it there is no such path.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;

type Answer = Response<Full<Bytes>>;

impl Server {
    /// Listens at `address`; with a certificate chain and its key (PEM) over TLS.
    ///
    /// # Errors
    /// The address is taken, or certificate and key are no good.
    pub async fn bind(address: SocketAddr, tls: Option<(&[u8], &[u8])>) -> Result<Server, HealthError> {
        let tls = tls.map(|(chain, key)| acceptor(chain, key)).transpose().map_err(HealthError::Tls)?;
        let listener =
            TcpListener::bind(address).await.map_err(|source| HealthError::Listen { address, source })?;
        Ok(Server { listener, tls })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the system says.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the context's shutdown, in tasks of the context.
    pub fn start(self, context: &Context, metrics: Option<Metrics>) {
        let context = context.clone();
        context.tasks.clone().spawn(async move {
            let shutdown = context.shutdown.clone();
            shutdown.run_until_cancelled(self.serve(context, metrics)).await;
        });
    }

    async fn serve(self, context: Context, metrics: Option<Metrics>) {
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = room.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (tls, metrics) = (self.tls.clone(), metrics.clone());
                    let (client, shutdown) = (context.client.clone(), context.shutdown.clone());
                    context.tasks.spawn(async move {
                        shutdown.run_until_cancelled(connection(stream, tls, client, metrics)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection was not accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }
}

fn acceptor(chain: &[u8], key: &[u8]) -> Result<TlsAcceptor, String> {
    let chain = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| error.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    client: kube::Client,
    metrics: Option<Metrics>,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let (client, metrics) = (client.clone(), metrics.clone());
        async move { Ok::<_, Infallible>(answer(&request, &client, metrics.as_ref()).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    let served = match tls {
        None => builder.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => builder.serve_connection(TokioIo::new(stream), service).await,
            Ok(Err(error)) => return tracing::debug!(%error, "a client could not be understood"),
            Err(_) => return tracing::debug!("a client did not introduce itself in time"),
        },
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended badly");
    }
}

async fn answer<B>(request: &Request<B>, client: &kube::Client, metrics: Option<&Metrics>) -> Answer {
    let known = match request.uri().path() {
        "/healthz" | "/livez" | "/readyz" => None,
        "/metrics" if metrics.is_some() => metrics,
        _ => return text(StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed\n");
    }
    let Some(metrics) = known else { return text(StatusCode::OK, "ok") };
    let token = request.headers().get(http::header::AUTHORIZATION);
    let token =
        token.and_then(|header| header.to_str().ok()).and_then(|header| header.strip_prefix("Bearer "));
    let Some(token) = token else { return text(StatusCode::UNAUTHORIZED, "Unauthorized\n") };
    match tokio::time::timeout(REVIEW, may_read_metrics(client, token)).await {
        Ok(Ok(Allowed::Yes)) => text(StatusCode::OK, metrics()),
        Ok(Ok(Allowed::Unknown)) => text(StatusCode::UNAUTHORIZED, "Unauthorized\n"),
        Ok(Ok(Allowed::No(user))) => {
            text(StatusCode::FORBIDDEN, format!("Forbidden (user={user}, verb=get, path=/metrics)\n"))
        }
        Ok(Err(error)) => {
            tracing::warn!(%error, "the API server could not be asked who may read metrics");
            text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n")
        }
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "Internal Server Error\n"),
    }
}

enum Allowed {
    Yes,
    No(String),
    Unknown,
}

/// Asks the API server whose token it is, and whether that one may get `/metrics`.
async fn may_read_metrics(client: &kube::Client, token: &str) -> kube::Result<Allowed> {
    let review = TokenReview {
        metadata: ObjectMeta::default(),
        spec: TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() },
        status: None,
    };
    let reviews: Api<TokenReview> = Api::all(client.clone());
    let known = reviews.create(&PostParams::default(), &review).await?.status.unwrap_or_default();
    let Some(user) = known.user.filter(|_| known.authenticated == Some(true)) else {
        return Ok(Allowed::Unknown);
    };
    let name = user.username.unwrap_or_default();
    let review = SubjectAccessReview {
        metadata: ObjectMeta::default(),
        spec: SubjectAccessReviewSpec {
            user: Some(name.clone()),
            groups: user.groups,
            uid: user.uid,
            extra: user.extra,
            non_resource_attributes: Some(NonResourceAttributes {
                path: Some("/metrics".to_owned()),
                verb: Some("get".to_owned()),
            }),
            resource_attributes: None,
        },
        status: None,
    };
    let reviews: Api<SubjectAccessReview> = Api::all(client.clone());
    let decided = reviews.create(&PostParams::default(), &review).await?.status;
    Ok(if decided.is_some_and(|status| status.allowed) { Allowed::Yes } else { Allowed::No(name) })
}

fn text(status: StatusCode, words: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(words.into()));
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}
