//! HTTP requests to containers, for probes and hooks. Certificates are not checked, as upstream does not: the address
//! is the pod's own, and what answers there is what the probe asks about.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::HTTPGetAction;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Outcome, join, words};

/// An answer's body is read up to here, for the event.
const BODY_LIMIT: usize = 10 << 10;

/// Whom to ask for what.
#[derive(Debug, Clone)]
pub(crate) struct HttpTarget {
    tls: bool,
    host: String,
    port: u16,
    path: String,
    headers: Vec<(String, String)>,
}

impl HttpTarget {
    /// From a spec; the pod's address where it names no host.
    pub fn of(get: &HTTPGetAction, pod_ip: &str, port: u16, agent: &str) -> Self {
        let headers = get.http_headers.iter().flatten();
        let mut headers: Vec<_> = headers.map(|header| (header.name.clone(), header.value.clone())).collect();
        let has = |headers: &[(String, String)], name: &str| {
            headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
        };
        if !has(&headers, "user-agent") {
            headers.push(("User-Agent".to_owned(), format!("{agent}/1.37")));
        }
        if !has(&headers, "accept") {
            headers.push(("Accept".to_owned(), "*/*".to_owned()));
        }
        let path = get.path.as_deref().unwrap_or("/");
        Self {
            tls: get.scheme.as_deref().is_some_and(|scheme| scheme.eq_ignore_ascii_case("https")),
            host: get.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| pod_ip.to_owned()),
            port,
            path: if path.starts_with('/') { path.to_owned() } else { format!("/{path}") },
            headers,
        }
    }

    fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", join(&self.host, self.port), self.path)
    }
}

/// Asks once; 200 to 399 is success.
pub(crate) async fn http(target: &HttpTarget, limit: Duration) -> Outcome {
    match tokio::time::timeout(limit, ask(target)).await {
        Ok(Ok(status)) if (200..400).contains(&status) => Outcome::Success,
        Ok(Ok(status)) => Outcome::Failure(format!("HTTP probe failed with statuscode: {status}")),
        Ok(Err(reason)) => Outcome::Failure(format!("Get {:?}: {reason}", target.url())),
        Err(_) => {
            let reason = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
            Outcome::Failure(format!("Get {:?}: {reason}", target.url()))
        }
    }
}

async fn ask(target: &HttpTarget) -> Result<u16, String> {
    let address = join(&target.host, target.port);
    let stream = TcpStream::connect(&address)
        .await
        .map_err(|error| format!("dial tcp {address}: connect: {}", words(&error)))?;
    if !target.tls {
        return exchange(stream, target).await;
    }
    let name = ServerName::try_from(target.host.clone()).map_err(|error| error.to_string())?;
    let config = component::connect::any_certificate().map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    exchange(stream, target).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    target: &HttpTarget,
) -> Result<u16, String> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let mut request = Request::get(&target.path);
    if !target.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request = request.header("Host", join(&target.host, target.port));
    }
    for (name, value) in &target.headers {
        request = request.header(name, value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| error.to_string())?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        // A container that is cut off while answering may not log that kindly; too long an answer is cut off.
        let body = Limited::new(response.into_body(), BODY_LIMIT).collect().await;
        if let Err(error) = body {
            tracing::trace!(%error, "the body of a probe's answer was not read to its end");
        }
        Ok(status)
    };
    tokio::pin!(answer);
    tokio::select! {
        result = &mut answer => result,
        result = connection => match result {
            // The answer may still be buffered when the connection is through.
            Ok(()) => answer.await,
            Err(error) => Err(error.to_string()),
        },
    }
}
