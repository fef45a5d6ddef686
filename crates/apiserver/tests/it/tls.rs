//! The same server behind its listener: who may come in, what is bounded, and how it ends.

use std::net::SocketAddr;
use std::sync::Arc;

use apiserver::serve::{self, Tls};
use apiserver::types::Body;
use apiserver::{ApiServer, Config};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fixture::{Events, Fixture, PATIENCE, read, request};
use crate::scenario::Transport;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Authority {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").der().clone();
        Authority { issuer: Issuer::new(params, key), certificate }
    }

    /// A certificate for a name, and its key.
    pub fn sign(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }
}

/// The version of HTTP that a client offers.
#[derive(Clone, Copy, Debug)]
pub enum Version {
    Http1,
    Http2,
}

/// A server behind its listener.
pub struct Secured {
    pub fixture: Fixture,
    authority: Authority,
    pub address: SocketAddr,
    shutdown: CancellationToken,
    listening: JoinHandle<()>,
}

impl Secured {
    pub async fn start(fixture: Fixture, _: Config) -> Secured {
        let authority = Authority::new();
        let (chain, key) = authority.sign("localhost");
        let tls = Tls::new(chain, key, std::slice::from_ref(&authority.certificate)).expect("TLS");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shutdown = CancellationToken::new();
        let server: Arc<ApiServer> = fixture.server.clone();
        let listening = TaskTracker::new().spawn(serve::listen(server, listener, tls, shutdown.clone()));
        Secured { fixture, authority, address, shutdown, listening }
    }

    /// A client with a certificate that counts.
    pub async fn client(&self, version: Version) -> Client {
        Client::new(self, version, Some(self.authority.sign("client"))).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.listening).await.expect("the listener ends").expect("in peace");
        tokio::time::timeout(PATIENCE, self.fixture.server.stop()).await.expect("the server ends");
    }
}

/// A client: a connection for each request with HTTP/1, one for all with HTTP/2.
pub struct Client {
    tls: TlsConnector,
    version: Version,
    address: SocketAddr,
    shared: Mutex<Option<hyper::client::conn::http2::SendRequest<Full<Bytes>>>>,
    connections: Mutex<JoinSet<()>>,
}

impl Client {
    async fn new(
        secured: &Secured,
        version: Version,
        certificate: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    ) -> Client {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(secured.authority.certificate.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match certificate {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a client certificate"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![match version {
            Version::Http1 => b"http/1.1".to_vec(),
            Version::Http2 => b"h2".to_vec(),
        }];
        Client {
            tls: TlsConnector::from(Arc::new(config)),
            version,
            address: secured.address,
            shared: Mutex::new(None),
            connections: Mutex::new(JoinSet::new()),
        }
    }

    async fn connect(&self) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        self.tls.connect(ServerName::try_from("localhost").expect("a name"), stream).await
    }

    /// One connection that speaks HTTP/2.
    async fn http2(&self) -> hyper::client::conn::http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.connect().await.expect("a connection"));
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
        self.connections.lock().await.spawn(async { drop(connection.await) });
        sender
    }
}

#[async_trait]
impl Transport for Client {
    async fn send(&self, request: Request<Bytes>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let mut request = Request::from_parts(parts, Full::new(body));
        let response = match self.version {
            Version::Http1 => {
                request.headers_mut().insert("host", "localhost".parse().expect("a header"));
                let stream = TokioIo::new(self.connect().await.expect("a connection"));
                let (mut sender, connection) =
                    hyper::client::conn::http1::handshake(stream).await.expect("HTTP/1.1");
                self.connections.lock().await.spawn(async { drop(connection.await) });
                sender.send_request(request).await
            }
            Version::Http2 => {
                let mut shared = self.shared.lock().await;
                if shared.is_none() {
                    *shared = Some(self.http2().await);
                }
                let mut sender = shared.as_ref().expect("just made").clone();
                drop(shared);
                let uri = format!("https://localhost{}", request.uri());
                *request.uri_mut() = uri.parse().expect("a URI");
                sender.send_request(request).await
            }
        };
        response.expect("an answer").map(|body| body.map_err(Into::into).boxed_unsync())
    }
}

#[tokio::test]
async fn who_is_let_in() {
    let secured = Secured::start(Fixture::new().await, Config::default()).await;
    let stranger = Authority::new().sign("client");
    let forbidden = "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" at the cluster scope";
    let cases = [
        (None, None, "/livez", 200, "ok"),
        (None, None, "/version", 200, ""),
        (None, None, "/api/v1/pods", 403, forbidden),
        (None, None, "/metrics", 403, "forbidden: User \"system:anonymous\" cannot get path \"/metrics\""),
        (None, Some("Bearer good"), "/api/v1/pods", 200, ""),
        (None, Some("Bearer bad"), "/api/v1/pods", 401, "Unauthorized"),
        (None, Some("Bearer bad"), "/livez", 401, "Unauthorized"),
        (Some(()), None, "/api/v1/pods", 401, "Unauthorized"),
        (Some(()), None, "/livez", 401, "Unauthorized"),
        (Some(()), Some("Bearer good"), "/api/v1/pods", 200, ""),
    ];
    for version in [Version::Http1, Version::Http2] {
        for (certificate, token, path, code, message) in &cases {
            let certificate = certificate.map(|()| (stranger.0.clone(), stranger.1.clone_key()));
            let client = Client::new(&secured, version, certificate).await;
            let mut request = request("GET", path, None);
            if let Some(token) = token {
                request.headers_mut().insert("authorization", token.parse().expect("a header"));
            }
            let (got, value) = read(client.send(request).await).await;
            let text = value["message"].as_str().or(value.as_str()).unwrap_or_default();
            assert_eq!(
                (got, message.is_empty() || text == *message),
                (*code, true),
                "{version:?} {path} {value}"
            );
        }
    }
    secured.stop().await;
}

#[tokio::test]
async fn a_shutdown_ends_watches_and_connections() {
    let secured = Secured::start(Fixture::new().await, Config::default()).await;
    let mut watches = Vec::new();
    let mut clients = Vec::new();
    for version in [Version::Http1, Version::Http2] {
        let client = secured.client(version).await;
        let path = "/api/v1/namespaces/default/configmaps?watch=true";
        watches.push(Events::new(client.send(request("GET", path, None)).await));
        clients.push(client);
    }
    let address = secured.address;
    secured.shutdown.cancel();
    for watch in &mut watches {
        assert_eq!(watch.next().await, None, "it ends, and not in an error");
    }
    secured.stop().await;
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_connection_waits_for_its_place() {
    let config = Config { max_connections: 1, ..Config::default() };
    let fixture =
        Fixture::with(config, Arc::new(apiserver::proxy::NoKubelets), store::simdisk::SimDisk::new(1)).await;
    let secured = Secured::start(fixture, Config::default()).await;
    let client = secured.client(Version::Http1).await;
    let first = client.connect().await.expect("a connection");
    let mut second = Box::pin(client.connect());
    // Handshakes alternate on one thread: the second has had its chance once a request of the first is answered.
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(first)).await.expect("HTTP/1.1");
    let driver = TaskTracker::new().spawn(async { drop(connection.await) });
    let request = Request::get("/livez").header("host", "localhost").body(Full::<Bytes>::default());
    let mut answer = Box::pin(sender.send_request(request.expect("a request")));
    tokio::select! {
        answer = &mut answer => assert_eq!(answer.expect("an answer").status(), 200),
        second = &mut second => panic!("two connections at once: {}", second.is_ok()),
    }
    drop(answer);
    drop(sender);
    driver.await.expect("the first connection ends");
    tokio::time::timeout(PATIENCE, second).await.expect("a place").expect("a connection");
    secured.stop().await;
}

/// One HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET / HTTP/2` by a client that resets it at once, over and over.
#[tokio::test]
async fn a_flood_of_resets_ends_its_connection_only() {
    const HEADERS: &[u8] = b"\x82\x87\x84\x41\x09localhost";
    const CANCEL: [u8; 4] = 8u32.to_be_bytes();
    let secured = Secured::start(Fixture::new().await, Config::default()).await;
    let client = secured.client(Version::Http2).await;
    let mut stream = client.connect().await.expect("a connection");
    let mut flood = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    flood.extend(frame(4, 0, 0, &[]));
    for number in 0..5000 {
        // END_HEADERS and END_STREAM, then RST_STREAM.
        flood.extend(frame(1, 5, 2 * number + 1, HEADERS));
        flood.extend(frame(3, 0, 2 * number + 1, &CANCEL));
    }
    let flooding = async {
        // The server hangs up in the middle of it.
        if let Err(error) = stream.write_all(&flood).await {
            eprintln!("the flood was cut off: {error}");
        }
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer).await {
            eprintln!("the connection was cut off: {error}");
        }
    };
    tokio::time::timeout(PATIENCE, flooding).await.expect("the connection ends");
    let other = secured.client(Version::Http2).await;
    assert_eq!(other.send(request("GET", "/livez", None)).await.status(), 200);
    secured.stop().await;
}

/// Who connects and says nothing, or never finishes saying it, is sent away within a minute.
#[tokio::test]
async fn the_slow_are_sent_away() {
    let secured = Secured::start(Fixture::new().await, Config::default()).await;
    let client = secured.client(Version::Http1).await;
    let mut half = client.connect().await.expect("a connection");
    half.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n").await.expect("half a request");
    let mut silent = TcpStream::connect(secured.address).await.expect("a connection");
    // From here on time passes whenever everybody waits.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    let mut rest = Vec::new();
    let ends = async {
        if let Err(error) = silent.read_to_end(&mut rest).await {
            eprintln!("the silent connection: {error}");
        }
        if let Err(error) = half.read_to_end(&mut rest).await {
            eprintln!("the slow connection: {error}");
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(61), ends).await.expect("both are closed");
    assert!(start.elapsed() > std::time::Duration::from_secs(9), "{:?}", start.elapsed());
    tokio::time::resume();
    secured.stop().await;
}

/// Bad input 20: a selector of 40 kB is one that is read (`scenarios/bad_input.txt`: 414); one of a mebibyte is more than any
/// head of a request may have.
#[tokio::test]
async fn a_selector_of_a_mebibyte_is_not_read() {
    let secured = Secured::start(Fixture::new().await, Config::default()).await;
    let client = secured.client(Version::Http1).await;
    let mut stream = client.connect().await.expect("a connection");
    let head =
        format!("GET /api/v1/pods?labelSelector={} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20));
    let mut answer = Vec::new();
    let exchange = async {
        // The server hangs up in the middle of it.
        if let Err(error) = stream.write_all(head.as_bytes()).await {
            eprintln!("the request was cut off: {error}");
        }
        if let Err(error) = stream.read_to_end(&mut answer).await {
            eprintln!("the connection was cut off: {error}");
        }
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("the connection ends");
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let other = secured.client(Version::Http1).await;
    assert_eq!(other.send(request("GET", "/livez", None)).await.status(), 200);
    secured.stop().await;
}

#[tokio::test]
async fn what_is_too_large_is_refused() {
    let secured = Secured::start(Fixture::new().await, Config::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    for version in [Version::Http1, Version::Http2] {
        let client = secured.client(version).await;
        let body = json!({"metadata": {"name": "big"}, "data": {"a": "x".repeat(3 << 20)}});
        let (code, value) = read(client.send(request("POST", path, Some(&body))).await).await;
        assert_eq!((code, &value["message"]), (413, &json!("Request entity too large: limit is 3145728")));
        let mut long = request("GET", path, None);
        long.headers_mut().insert("x-long", "x".repeat(80 << 10).parse().expect("a header"));
        assert_eq!(client.send(long).await.status(), 431, "{version:?}");
    }
    secured.stop().await;
}
