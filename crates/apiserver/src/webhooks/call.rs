//! Asking a webhook: one POST over a connection of its own, bounded in time and size. No redirect is followed, and what the
//! answer means is not known here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::field::go_quote;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use rustls::{CertificateError, ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use rustls_pki_types::pem::PemObject;

use super::endpoint::{Endpoint, Target};
use crate::egress::service::{ServicePort, Trust};
use crate::egress::{Destination, Egress, ServiceError, Stream};
use crate::exchange::{self, ExchangeError};
use crate::request::respond::full;
use crate::server::ApiServer;
use crate::types::Body;

/// The largest answer: the patch of a large object, in base64.
const ANSWER_BYTES: usize = 8 << 20;
/// How much of what a webhook says besides is passed on.
const EXPLANATION_BYTES: usize = 2048;
/// What Go says of a request that took too long.
const TOO_LATE: &str = "context deadline exceeded";
/// How many addresses of a name are tried.
const ADDRESSES: usize = 4;

/// Why a webhook did not answer, in the words of upstream's client.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// It cannot be reached, or does not speak as it should.
    #[error("Post {}: {why}", go_quote(.url))]
    Transport {
        /// Who was asked.
        url: String,
        /// Why.
        why: String,
    },
    /// It says that something is wrong.
    #[error("{0}")]
    Status(String),
    /// It says nothing.
    #[error("0-length response with status code: {0} and content type: {1}")]
    Empty(u16, String),
    /// It says too much.
    #[error("the answer is larger than {ANSWER_BYTES} bytes")]
    TooLarge,
}

/// Sends a review and reads the answer; both within `patience`.
pub async fn post(
    server: &ApiServer,
    endpoint: &Endpoint,
    body: Vec<u8>,
    patience: Duration,
) -> Result<Bytes, CallError> {
    let transport = |why: String| CallError::Transport { url: endpoint.url.clone(), why };
    let asking = async {
        let stream = connect(server, endpoint).await.map_err(transport)?;
        let request = Request::post(&endpoint.path_and_query)
            .header(
                HOST,
                endpoint.url.trim_start_matches("https://").split(['/', '?']).next().unwrap_or_default(),
            )
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, */*")
            .body(full(body))
            .map_err(|error| transport(error.to_string()))?;
        let exchanged = exchange::exchange(stream, request, patience).await;
        let response = match exchanged {
            Ok(exchanged) => exchanged.response,
            Err(ExchangeError::Timeout) => return Err(transport(TOO_LATE.to_owned())),
            Err(error) => return Err(transport(error.to_string())),
        };
        read(response).await.map_err(|error| match error {
            Unread::TooLarge => CallError::TooLarge,
            Unread::Broken(why) => transport(why),
            Unread::Error(error) => error,
        })
    };
    let answer = tokio::time::timeout(patience, asking).await;
    answer.map_err(|_| transport(TOO_LATE.to_owned()))?
}

/// A connection to whoever is there, and proved to be it.
///
/// # Errors
/// Nobody can be reached there, or it is somebody else; in the words of upstream's client.
pub async fn connect(server: &ApiServer, endpoint: &Endpoint) -> Result<Stream, String> {
    let config = endpoint.tls.get_or_init(|| trusting(&endpoint.authorities).map(Arc::new)).clone()?;
    let name = endpoint.server_name();
    let name = ServerName::try_from(name.clone()).map_err(|error| format!("{name}: {error}"))?;
    let stream = match &endpoint.target {
        Target::Service { namespace, name, port } => {
            let port = ServicePort::Number(*port);
            let connected = server.routes().connect_service(namespace, name, port, Trust::All).await;
            let unresolved = |error: ServiceError| match error {
                ServiceError::Unresolved(error) if error.code() == 404 => {
                    format!("service {} not found", go_quote(name))
                }
                other => other.to_string(),
            };
            connected.map_err(unresolved)?.0
        }
        Target::Url { host, port } => dial_host(server, host, *port).await?,
    };
    exchange::secure(stream, config, name).await.map_err(|error| untrusted(&error))
}

/// A connection to a host by its name, at the first address that answers.
async fn dial_host(server: &ApiServer, host: &str, port: u16) -> Result<Stream, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<SocketAddr> =
        found.map_err(|error| format!("dial tcp: lookup {host}: {error}"))?.take(ADDRESSES).collect();
    let mut why = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match server.routes().dial(&Destination::Address(address)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// TLS with whoever these authorities vouch for; with the system's if there are none.
///
/// # Errors
/// There are none that can be used.
pub fn trusting(authorities: &[u8]) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let unusable = |why: &dyn std::fmt::Display| format!("unable to load root certificates: {why}");
    if authorities.is_empty() {
        let file = "/etc/ssl/certs/ca-certificates.crt";
        let certificates = rustls_pki_types::CertificateDer::pem_file_iter(file);
        let certificates = certificates.map_err(|error| unusable(&format_args!("{file}: {error}")))?;
        // A few that the system trusts may be unusual.
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    } else {
        for certificate in rustls_pki_types::CertificateDer::pem_slice_iter(authorities) {
            let certificate = certificate.map_err(|error| unusable(&error))?;
            roots.add(certificate).map_err(|error| unusable(&error))?;
        }
    }
    if roots.is_empty() {
        return Err(unusable(&"unable to parse bytes as PEM block"));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config =
        config.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What is wrong with a certificate, in the words of Go's library where it has some.
fn untrusted(error: &ExchangeError) -> String {
    let ExchangeError::Tls(io) = error else { return error.to_string() };
    let inner = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(why)) = inner else { return error.to_string() };
    let why = match why {
        // Another authority of the same name has signed it.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate has expired or is not yet valid".to_owned()
        }
        other => other.to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

/// Why an answer was not read.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// There is more of it than anybody needs.
    #[error("the answer is too large")]
    TooLarge,
    /// It ended early.
    #[error("{0}")]
    Broken(String),
    /// It says that something is wrong.
    #[error(transparent)]
    Error(#[from] CallError),
}

/// A body of up to this size.
///
/// # Errors
/// It is larger, or ends early.
pub async fn whole(body: Body, limit: usize) -> Result<Bytes, Unread> {
    collect(body, limit, false).await
}

/// The body of a good answer.
async fn read(response: Response<Body>) -> Result<Bytes, Unread> {
    let (parts, body) = response.into_parts();
    let media = parts.headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    if !(200..=206).contains(&parts.status.as_u16()) {
        let readable = media.is_empty() || media.starts_with("text/");
        let said = if readable { collect(body, EXPLANATION_BYTES, true).await } else { Ok(Bytes::new()) };
        let said = String::from_utf8_lossy(&said.unwrap_or_default()).trim().to_owned();
        let said = if readable { said } else { "unknown".to_owned() };
        return Err(Unread::Error(CallError::Status(complaint(parts.status, &said))));
    }
    let bytes = collect(body, ANSWER_BYTES, false).await?;
    if bytes.is_empty() {
        return Err(Unread::Error(CallError::Empty(parts.status.as_u16(), media.to_owned())));
    }
    Ok(bytes)
}

/// A body, or its beginning if that will do.
async fn collect(mut body: Body, limit: usize, beginning: bool) -> Result<Bytes, Unread> {
    let mut bytes = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| Unread::Broken(error.to_string()))?.into_data() else {
            continue;
        };
        let room = limit - bytes.len();
        if data.len() > room {
            if !beginning {
                return Err(Unread::TooLarge);
            }
            bytes.extend_from_slice(&data[..room]);
            break;
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes.freeze())
}

/// What upstream's client makes of a status.
fn complaint(status: StatusCode, said: &str) -> String {
    let known = match status.as_u16() {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 => said,
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        code if code >= 500 => {
            return format!(
                "an error on the server ({}) has prevented the request from succeeding",
                go_quote(said)
            );
        }
        code => {
            return format!(
                "the server responded with the status code {code} but did not return more information"
            );
        }
    };
    known.to_owned()
}
