//! The kubelet's HTTPS server: logs, streams, the list of pods, health. Closed: without a client certificate of the
//! cluster's nothing is answered (401), and certificates of others than the named clients get nothing (403). There is no
//! read-only port here.

pub(crate) mod logs;
pub(crate) mod streams;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use component::Context;
use component::informer::Informer;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use crate::config::ServerTls;
use crate::lifecycle::{find_container, uid};
use crate::pods::{self, Workers};
use crate::runtime::Runtime;

use self::logs::{Options, Subject};

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 256;
/// How long a client may take to introduce itself.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// After the system refused a connection (mostly for want of file descriptors).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates or the key cannot be used.
    #[error("the kubelet's certificates: {0}")]
    Tls(String),
}

/// What requests are answered from.
#[derive(Clone)]
pub(crate) struct Source {
    pub context: Context,
    pub pods: Informer<Pod>,
    pub workers: Workers,
    pub clients: Arc<[String]>,
    pub runtime: Arc<dyn Runtime>,
    pub streams: Arc<Semaphore>,
}

/// Binds and checks, so that what is wrong is told at start.
pub(crate) async fn bind(
    address: SocketAddr,
    tls: &ServerTls,
) -> Result<(TcpListener, TlsAcceptor), ServerError> {
    let acceptor = acceptor(tls).map_err(ServerError::Tls)?;
    let listener =
        TcpListener::bind(address).await.map_err(|source| ServerError::Listen { address, source })?;
    Ok((listener, acceptor))
}

fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, String> {
    let text = |error: rustls::Error| error.to_string();
    let certificates = |pem: &[u8]| -> Result<Vec<_>, String> {
        CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|error| error.to_string())
    };
    let mut roots = RootCertStore::empty();
    for authority in certificates(&tls.client_ca)? {
        roots.add(authority).map_err(text)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        // A client without a certificate is told so in HTTP.
        .allow_unauthenticated()
        .build()
        .map_err(|error| error.to_string())?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(text)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(tls.identity.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Serves until shutdown.
pub(crate) async fn serve(listener: TcpListener, acceptor: TlsAcceptor, source: Source) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, source) = (acceptor.clone(), source.clone());
                let shutdown = source.context.shutdown.clone();
                source.context.tasks.clone().spawn(async move {
                    shutdown.run_until_cancelled(connection(stream, acceptor, source)).await;
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

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, source: Source) {
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a client could not be understood"),
        Err(_) => return tracing::debug!("a client did not introduce itself in time"),
    };
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let client: Option<Arc<str>> = certificate.map(|certificate| common_name(certificate).into());
    let service = service_fn(move |request: Request<Incoming>| {
        let (source, client) = (source.clone(), client.clone());
        async move { Ok::<_, std::convert::Infallible>(answer(&source, client.as_deref(), request).await) }
    });
    let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HANDSHAKE);
    builder.http2().timer(TokioTimer::new());
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection broke");
    }
}

/// Who a verified certificate is of; empty when it does not say.
fn common_name(certificate: &CertificateDer<'_>) -> String {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return String::new() };
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.unwrap_or_default().to_owned()
}

fn text(status: StatusCode, words: impl Into<String>) -> Response<Body> {
    let mut words = words.into();
    if status != StatusCode::OK {
        words.push('\n');
    }
    let body = Full::new(Bytes::from(words)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let plain = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(http::header::CONTENT_TYPE, plain);
    response
}

/// Answers one request of a client with this name.
async fn answer(source: &Source, client: Option<&str>, request: Request<Incoming>) -> Response<Body> {
    let Some(client) = client else { return text(StatusCode::UNAUTHORIZED, "Unauthorized") };
    if !source.clients.iter().any(|allowed| allowed == client) {
        let words = format!("Forbidden (user={client}, verb=get, resource=nodes, subresource=proxy)");
        return text(StatusCode::FORBIDDEN, words);
    }
    let path: Vec<_> =
        request.uri().path().trim_start_matches('/').split('/').map(logs::percent_decode).collect();
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    if let Some(wanted) = streams::Wanted::of(&path) {
        return streams::serve(source, wanted, request).await;
    }
    let known = matches!(path.as_slice(), ["healthz" | "pods"] | ["containerLogs", _, _, _]);
    if known && request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    match path.as_slice() {
        ["healthz"] => text(StatusCode::OK, "ok"),
        ["pods"] => list(source),
        ["containerLogs", namespace, pod, container] => {
            let query = request.uri().query().unwrap_or_default();
            log(source, namespace, pod, container, query)
                .unwrap_or_else(|(status, words)| text(status, words))
        }
        _ => text(StatusCode::NOT_FOUND, "404 page not found"),
    }
}

fn list(source: &Source) -> Response<Body> {
    let pods = source.pods.list();
    let items: Vec<&Pod> = pods.iter().map(AsRef::as_ref).collect();
    let list = serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut response = text(StatusCode::OK, list.to_string());
    let json = http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(http::header::CONTENT_TYPE, json);
    response
}

type Refusal = (StatusCode, String);

fn log(
    source: &Source,
    namespace: &str,
    pod: &str,
    container: &str,
    query: &str,
) -> Result<Response<Body>, Refusal> {
    let bad = |words: String| (StatusCode::BAD_REQUEST, words);
    let options = Options::parse(query, source.context.clock.now()).map_err(bad)?;
    let found = pods::find(&source.pods, namespace, pod);
    let found = found.ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist")))?;
    if find_container(&found, container).is_none() {
        return Err((StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}")));
    }
    let (path, subject) = subject(source, &found, container, options.previous).map_err(bad)?;
    let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(4);
    let shutdown = source.context.shutdown.clone();
    source.context.tasks.spawn(async move {
        let sending = logs::send(&path, &options, subject, &sender);
        if let Some(Err(error)) = shutdown.run_until_cancelled(sending).await {
            let words = format!("failed to read the log: {error}");
            // The client sees an answer that breaks off, and not one that looks whole.
            if sender.send(Err(io::Error::other(words))).await.is_err() {
                tracing::debug!(%error, "a log could not be read, and nobody waits for it");
            }
        }
    });
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let part = receiver.recv().await?;
        Some((part.map(Frame::data), receiver))
    });
    let mut response = text(StatusCode::OK, "");
    *response.body_mut() = BodyExt::boxed_unsync(StreamBody::new(frames));
    Ok(response)
}

/// The file to read, and whose it is.
fn subject(
    source: &Source,
    pod: &Pod,
    container: &str,
    previous: bool,
) -> Result<(PathBuf, Subject), String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let waiting = || {
        let reason = waiting_reason(pod, container).unwrap_or_else(|| "ContainerCreating".to_owned());
        let words = match reason.as_str() {
            "ErrImagePull" => "image can't be pulled",
            "ImagePullBackOff" => "trying and failing to pull image",
            other => other,
        };
        format!("container {container:?} in pod {name:?} is waiting to start: {words}")
    };
    let observed = source.workers.observed(uid(pod)).ok_or_else(waiting)?;
    let seen = observed.borrow().clone();
    // Of a container that waits to be started again, the one that ended is the previous one already.
    let last = last_ended(pod, container);
    let ended = last.and_then(|id| seen.containers.iter().find(|found| id.ends_with(&found.id)));
    let before = || ended.or_else(|| seen.named(container).nth(1));
    let wanted = if previous { before() } else { seen.newest(container) };
    let found = match wanted {
        Some(found) => found,
        None if previous => {
            return Err(format!("previous terminated container {container:?} in pod {name:?} not found"));
        }
        None => return Err(waiting()),
    };
    if found.log_path.is_empty() {
        return Err(format!("failed to get log path for container {container:?} in pod {name:?}"));
    }
    Ok((PathBuf::from(&found.log_path), Subject { id: found.id.clone(), observed }))
}

fn status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let regular = status.container_statuses.iter().flatten();
    regular.chain(status.init_container_statuses.iter().flatten()).find(|found| found.name == container)
}

fn waiting_reason(pod: &Pod, container: &str) -> Option<String> {
    status(pod, container)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
}

fn last_ended(pod: &Pod, container: &str) -> Option<String> {
    status(pod, container)?.last_state.as_ref()?.terminated.as_ref()?.container_id.clone()
}
