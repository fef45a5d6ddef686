//! exec, attach and port-forward: the runtime is asked for the address at which it serves the stream, and then bytes are
//! carried between client and runtime as they come.
//!
//! Which protocol the two speak (SPDY or WebSocket, and which version of what is inside) is between them: nothing is
//! looked into here. Who may ask was decided before.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cri::messages::{AttachRequest, ExecRequest, PortForwardRequest};
use futures::FutureExt;
use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, UPGRADE};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::logs::form;
use super::{Body, Source, text};
use crate::lifecycle::{State, find_container, full_name, uid};
use crate::pods;
use crate::runtime::StreamRequest;

/// Streams at a time; more are refused.
const STREAMS: usize = 1024;
/// How long the runtime may take to begin.
const BEGIN: Duration = Duration::from_secs(30);
/// How long one direction goes on when the other has ended.
const LINGER: Duration = Duration::from_secs(10);
/// How much of a runtime's explanation is passed on.
const EXPLANATION: usize = 10 << 10;

type Refusal = (StatusCode, String);

/// Places for streams.
pub(crate) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(STREAMS))
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Exec,
    Attach,
    PortForward,
}

/// Whose stream is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted<'a> {
    what: What,
    namespace: &'a str,
    pod: &'a str,
    uid: Option<&'a str>,
    container: &'a str,
}

impl<'a> Wanted<'a> {
    /// From the parts of a path.
    pub fn of(path: &[&'a str]) -> Option<Wanted<'a>> {
        let (kind, rest) = path.split_first()?;
        let (what, of_container) = match *kind {
            "exec" => (What::Exec, true),
            "attach" => (What::Attach, true),
            "portForward" => (What::PortForward, false),
            _ => return None,
        };
        let (owner, container) = match rest.split_last() {
            Some((container, owner)) if of_container => (owner, *container),
            _ => (rest, ""),
        };
        let (namespace, pod, uid) = match *owner {
            [namespace, pod] => (namespace, pod, None),
            [namespace, pod, uid] => (namespace, pod, Some(uid)),
            _ => return None,
        };
        Some(Wanted { what, namespace, pod, uid, container })
    }
}

/// Which streams a client asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Options {
    stdin: bool,
    stdout: bool,
    stderr: bool,
    tty: bool,
    command: Vec<String>,
    ports: Vec<i32>,
}

impl Options {
    fn parse(query: &str) -> Result<Options, Refusal> {
        let mut options = Options::default();
        for (key, value) in form(query) {
            let set = value == "1" || value == "true";
            match key.as_str() {
                "input" | "stdin" => options.stdin |= set,
                "output" | "stdout" => options.stdout |= set,
                "error" | "stderr" => options.stderr |= set,
                "tty" => options.tty |= set,
                "command" => options.command.push(value),
                "port" | "ports" => {
                    for port in value.split(',') {
                        let number = port.parse::<u16>().ok().filter(|port| *port > 0);
                        let number = number
                            .ok_or_else(|| (StatusCode::BAD_REQUEST, format!("invalid port {port:?}")))?;
                        options.ports.push(i32::from(number));
                    }
                }
                _ => {}
            }
        }
        Ok(options)
    }

    /// A terminal has one output.
    fn with_tty(mut self, tty: bool) -> Result<Options, Refusal> {
        self.tty = tty;
        self.stderr &= !tty;
        if self.stdin || self.stdout || self.stderr {
            return Ok(self);
        }
        Err((StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr".to_owned()))
    }
}

/// Answers a request for a stream.
pub(super) async fn serve(
    source: &Source,
    wanted: Wanted<'_>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed");
    }
    let client = request.extensions_mut().remove::<OnUpgrade>();
    match begin(source, wanted, request, client).await {
        Ok(response) => response,
        Err((status, words)) => {
            let mut response = text(status, words);
            // What may have been sent behind the request was not meant to be read as the next one.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            response
        }
    }
}

async fn begin(
    source: &Source,
    wanted: Wanted<'_>,
    request: Request<Incoming>,
    client: Option<OnUpgrade>,
) -> Result<Response<Body>, Refusal> {
    let failed = |words: String| (StatusCode::INTERNAL_SERVER_ERROR, words);
    let asked = stream_request(source, wanted, request.uri().query().unwrap_or_default())?;
    let client = client.filter(|_| request.headers().contains_key(UPGRADE));
    let client = client.ok_or((StatusCode::BAD_REQUEST, "Upgrade request required".to_owned()))?;
    let place = source.streams.clone().try_acquire_owned();
    let place = place.map_err(|_| (StatusCode::TOO_MANY_REQUESTS, "too many streams".to_owned()))?;
    let url = source.runtime.open_stream(asked).await.map_err(|error| failed(error.to_string()))?;
    let url: Uri = url.parse().map_err(|error| failed(format!("the runtime's address {url:?}: {error}")))?;
    let beginning = tokio::time::timeout(BEGIN, dial(&url, request)).await;
    let dialled = beginning.map_err(|_| failed("the runtime did not begin the stream in time".to_owned()))?;
    let (response, runtime) = dialled.map_err(|error| failed(format!("error dialing backend: {error}")))?;
    if let Some(runtime) = runtime {
        let carrying = carry(client, runtime, place);
        drop(source.context.tasks.spawn(source.context.shutdown.clone().run_until_cancelled_owned(carrying)));
    }
    Ok(response)
}

/// What the runtime is to serve.
fn stream_request(source: &Source, wanted: Wanted<'_>, query: &str) -> Result<StreamRequest, Refusal> {
    let none = || (StatusCode::NOT_FOUND, "pod does not exist".to_owned());
    let failed = |words: String| (StatusCode::INTERNAL_SERVER_ERROR, words);
    let found = pods::find(&source.pods, wanted.namespace, wanted.pod).ok_or_else(none)?;
    if wanted.uid.is_some_and(|wanted| wanted != uid(&found)) {
        return Err(none());
    }
    let options = Options::parse(query)?;
    let seen = source.workers.observed(uid(&found)).map(|seen| seen.borrow().clone());
    if wanted.what == What::PortForward {
        let sandbox = seen.as_ref().and_then(|seen| seen.active()).map(|sandbox| sandbox.id.clone());
        let missing = || failed(format!("failed to find sandboxID for pod {}", full_name(&found)));
        let pod_sandbox_id = sandbox.ok_or_else(missing)?;
        return Ok(StreamRequest::PortForward(PortForwardRequest { pod_sandbox_id, port: options.ports }));
    }
    let running = seen.as_ref().and_then(|seen| seen.newest(wanted.container));
    let running = running.filter(|container| container.state == State::Running);
    let missing = || failed(format!("container not found ({:?})", wanted.container));
    let container_id = running.ok_or_else(missing)?.id.clone();
    if wanted.what == What::Attach {
        // The process has a terminal or not, whatever the client thinks.
        let tty = has_tty(&found, wanted.container);
        let Options { stdin, stdout, stderr, tty, .. } = options.with_tty(tty)?;
        return Ok(StreamRequest::Attach(AttachRequest { container_id, stdin, tty, stdout, stderr }));
    }
    let tty = options.tty;
    let Options { stdin, stdout, stderr, tty, command, .. } = options.with_tty(tty)?;
    Ok(StreamRequest::Exec(ExecRequest { container_id, cmd: command, tty, stdin, stdout, stderr }))
}

fn has_tty(pod: &Pod, container: &str) -> bool {
    find_container(pod, container).and_then(|container| container.tty).unwrap_or(false)
}

/// Passes the request on to the runtime; its answer, and the connection if it agreed to the upgrade.
async fn dial(
    url: &Uri,
    request: Request<Incoming>,
) -> Result<(Response<Body>, Option<Upgraded>), Box<dyn std::error::Error + Send + Sync>> {
    let authority = url.authority().filter(|_| url.scheme_str() == Some("http"));
    let authority = authority.ok_or_else(|| format!("{url} is no http address"))?;
    let port = authority.port_u16().unwrap_or(80);
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends as soon as the answer is there, and must not be asked again.
    let mut connection = pin!(connection.with_upgrades().fuse());
    let mut answer = pin!(sender.send_request(passed_on(url, authority, request)?));
    let mut answer = tokio::select! {
        answer = answer.as_mut() => answer?,
        ended = connection.as_mut() => { ended?; answer.await? }
    };
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upgrade = hyper::upgrade::on(&mut answer);
        let mut upgrade = pin!(upgrade);
        let upgraded = tokio::select! {
            upgraded = upgrade.as_mut() => upgraded?,
            ended = connection.as_mut() => { ended?; upgrade.await? }
        };
        return Ok((agreed(answer.headers().clone()), Some(upgraded)));
    }
    let (parts, body) = answer.into_parts();
    let mut reading = pin!(Limited::new(body, EXPLANATION).collect());
    let body = tokio::select! {
        body = reading.as_mut() => body?,
        ended = connection.as_mut() => { ended?; reading.await? }
    };
    Ok((refused(parts.status, &parts.headers, body.to_bytes()), None))
}

/// The request as the runtime gets it: without a body, and without anything that says who asks.
fn passed_on(
    url: &Uri,
    authority: &Authority,
    request: Request<Incoming>,
) -> Result<Request<Empty<Bytes>>, http::Error> {
    let (parts, _) = request.into_parts();
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let mut passed = Request::builder().method(parts.method).uri(path).body(Empty::new())?;
    *passed.headers_mut() = parts.headers;
    let headers = passed.headers_mut();
    for name in [AUTHORIZATION, CONTENT_LENGTH] {
        headers.remove(name);
    }
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
    Ok(passed)
}

fn agreed(headers: HeaderMap) -> Response<Body> {
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    *response.body_mut() = Empty::new().map_err(|never| match never {}).boxed_unsync();
    *response.headers_mut() = headers;
    response
}

fn refused(status: StatusCode, headers: &HeaderMap, words: Bytes) -> Response<Body> {
    // Never a redirect, and never what looks like success.
    let status = if status.as_u16() < 400 { StatusCode::BAD_GATEWAY } else { status };
    let mut response = text(status, "");
    *response.body_mut() = Full::new(words).map_err(|never| match never {}).boxed_unsync();
    if let Some(media) = headers.get(CONTENT_TYPE) {
        response.headers_mut().insert(CONTENT_TYPE, media.clone());
    }
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Carries bytes both ways until one side ends, and what is on its way then.
async fn carry(client: OnUpgrade, runtime: Upgraded, place: OwnedSemaphorePermit) {
    let client = match client.await {
        Ok(client) => TokioIo::new(client),
        Err(error) => return tracing::debug!(%error, "a client went away before its stream began"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_runtime, mut to_runtime) = tokio::io::split(TokioIo::new(runtime));
    let mut there = pin!(copy(&mut from_client, &mut to_runtime));
    let mut back = pin!(copy(&mut from_runtime, &mut to_client));
    let ended = tokio::select! {
        ended = &mut there => (ended, tokio::time::timeout(LINGER, back).await),
        ended = &mut back => (ended, tokio::time::timeout(LINGER, there).await),
    };
    tracing::debug!(?ended, "a stream has ended");
    drop(place);
}

/// Copies one direction to its end.
async fn copy<R, W>(from: &mut R, to: &mut W) -> io::Result<u64>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let bytes = tokio::io::copy(from, to).await?;
    to.shutdown().await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_uid() {
        type Found<'a> = Option<(What, Option<&'a str>, &'a str)>;
        let table: [(&[&str], Found<'_>); 9] = [
            (&["exec", "ns", "p", "c"], Some((What::Exec, None, "c"))),
            (&["exec", "ns", "p", "u", "c"], Some((What::Exec, Some("u"), "c"))),
            (&["attach", "ns", "p", "c"], Some((What::Attach, None, "c"))),
            (&["portForward", "ns", "p"], Some((What::PortForward, None, ""))),
            (&["portForward", "ns", "p", "u"], Some((What::PortForward, Some("u"), ""))),
            (&["exec", "ns", "p"], None),
            (&["exec", "ns", "p", "u", "c", "x"], None),
            (&["portForward", "ns"], None),
            (&["run", "ns", "p", "c"], None),
        ];
        for (path, wanted) in table {
            let found = Wanted::of(path).map(|found| (found.what, found.uid, found.container));
            assert_eq!(found, wanted, "{path:?}");
        }
    }

    #[test]
    fn options_in_the_kubelets_names() {
        let query = "input=1&output=1&error=1&command=sh&command=-c&command=a+%26+b&tty=0&port=80,81";
        let options = Options::parse(query).expect("options").with_tty(false).expect("streams");
        assert!(options.stdin && options.stdout && options.stderr && !options.tty);
        assert_eq!(
            (options.command, options.ports),
            (vec!["sh".into(), "-c".into(), "a & b".into()], vec![80, 81])
        );
        let both =
            Options::parse("error=1&output=1&tty=1").expect("options").with_tty(true).expect("streams");
        assert!(both.tty && both.stdout && !both.stderr, "a terminal has one output");
        let none = Options::parse("tty=1").expect("options").with_tty(true).expect_err("no stream");
        assert_eq!(none.1, "you must specify at least 1 of stdin, stdout, stderr");
        for port in ["0", "65536", "x", ""] {
            assert!(Options::parse(&format!("port={port}")).is_err(), "{port}");
        }
    }
}
