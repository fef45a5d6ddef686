//! Logs: the way from a client through the server to a kubelet and back, over TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use apiserver::Config;
use apiserver::kubelets::TlsKubelets;
use apiserver::types::BoxError;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{Fixture, PATIENCE, request};
use crate::tls::Authority;

type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

/// A kubelet that answers by the name of the container, and notes what it was asked.
pub struct Kubelet {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<String>>>,
    /// What the container `stream` writes.
    pub lines: mpsc::Sender<&'static str>,
    /// Closes when nobody reads `stream` any more.
    tasks: JoinSet<()>,
}

fn whole(code: u16, text: &str) -> Answer {
    let body = Full::new(Bytes::from(text.to_owned())).map_err(|never: Infallible| match never {});
    Response::builder().status(code).body(body.boxed_unsync()).expect("an answer")
}

impl Kubelet {
    pub async fn start(authority: &Authority, name: &str) -> Kubelet {
        let (chain, key) = authority.sign(name);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(authority.certificate.clone()).expect("a CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(clients.build().expect("a verifier"))
            .with_single_cert(chain, key)
            .expect("a certificate");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, receiver) = mpsc::channel(1);
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let mut tasks = JoinSet::new();
        let notes = asked.clone();
        tasks.spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let Ok(stream) = acceptor.accept(stream).await else { continue };
                let service = service_fn(|mut request: Request<Incoming>| {
                    notes.lock().expect("notes").push(request.uri().to_string());
                    let receiver = receiver.clone();
                    async move { Ok::<_, Infallible>(answer(&mut request, &receiver)) }
                });
                let connection = hyper::server::conn::http1::Builder::new();
                // One after the other: the server makes a connection for each request.
                drop(connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
            }
        });
        Kubelet { address, asked, lines, tasks }
    }
}

type Receiver = Mutex<Option<mpsc::Receiver<&'static str>>>;

/// Says what it was asked for, and then what it hears.
fn echo(request: &mut Request<Incoming>) -> Answer {
    let Some(protocol) = request.headers().get("upgrade").cloned() else { return whole(400, "no upgrade") };
    let upgrade = hyper::upgrade::on(&mut *request);
    #[expect(clippy::disallowed_methods, reason = "it ends with its connection")]
    drop(tokio::spawn(async move {
        let stream = TokioIo::new(upgrade.await.expect("an upgrade"));
        let (mut reader, mut writer) = tokio::io::split(stream);
        drop(tokio::io::copy(&mut reader, &mut writer).await);
        drop(tokio::io::AsyncWriteExt::shutdown(&mut writer).await);
    }));
    let mut answer = whole(101, "");
    answer.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
    answer.headers_mut().insert("upgrade", protocol);
    answer
}

fn answer(request: &mut Request<Incoming>, receiver: &Receiver) -> Answer {
    let first = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
    if matches!(first.as_str(), "exec" | "attach" | "portForward")
        && !request.uri().path().ends_with("/broken")
    {
        return echo(request);
    }
    match request.uri().path().rsplit('/').next().unwrap_or_default() {
        "plain" => whole(200, "one\ntwo\n"),
        "redirect" => {
            let mut answer = whole(302, "elsewhere");
            answer.headers_mut().insert("location", "https://127.0.0.1/secret".parse().expect("a header"));
            answer
        }
        "waiting" => whole(400, "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating"),
        "broken" => whole(500, "it broke"),
        "stream" => {
            let receiver = receiver.lock().expect("a receiver").take().expect("one reader");
            let frames = futures::stream::unfold(receiver, |mut receiver| async {
                let line = receiver.recv().await?;
                Some((Ok(Frame::data(Bytes::from_static(line.as_bytes()))), receiver))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        _ => whole(404, "no such container"),
    }
}

/// A server with one node, whose kubelet is at `address`, and a pod on it.
async fn cluster(authority: &Authority, config: Config, address: (&str, u16), node: &str) -> Fixture {
    let fixture = Fixture::with(config, Arc::new(way(authority)), SimDisk::new(1)).await;
    for (path, object) in objects(address, node) {
        fixture.must("POST", path, Some(&object)).await;
    }
    fixture
}

/// The way to kubelets whose certificates `authority` signed.
pub fn way(authority: &Authority) -> TlsKubelets {
    let (chain, key) = authority.sign("apiserver");
    let pods = component::connect::any_certificate().expect("TLS");
    TlsKubelets::new(std::slice::from_ref(&authority.certificate), chain, key, pods).expect("TLS")
}

/// A node whose kubelet is at `address`, and a pod on it.
pub fn objects(address: (&str, u16), node: &str) -> [(&'static str, Value); 2] {
    let status = json!({
        "addresses": [{"type": "InternalIP", "address": address.0}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": address.1}},
    });
    let object = json!({"metadata": {"name": node}, "status": status});
    let containers: Vec<Value> = ["plain", "redirect", "waiting", "broken", "stream"]
        .iter()
        .map(|name| json!({"name": name, "image": "i"}))
        .collect();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": node, "containers": containers}});
    [("/api/v1/nodes", object), ("/api/v1/namespaces/default/pods", pod)]
}

pub const LOG: &str = "/api/v1/namespaces/default/pods/p/log";

pub fn local() -> Config {
    Config { loopback_kubelets: true, ..Config::default() }
}

#[tokio::test]
async fn logs_and_refusals_are_passed_on() {
    let authority = Authority::new();
    let kubelet = Kubelet::start(&authority, "node-a").await;
    let fixture = cluster(&authority, local(), ("127.0.0.1", kubelet.address.port()), "node-a").await;
    let query = "tailLines=5&timestamps=true&previous=true&sinceSeconds=9&limitBytes=100";
    let (code, text) = fixture.send("GET", &format!("{LOG}?container=plain&{query}"), None).await;
    assert_eq!((code, &text), (200, &json!("one\ntwo\n")));
    let asked = kubelet.asked.lock().expect("notes").clone();
    let wanted = "/containerLogs/default/p/plain?previous=true&timestamps=true&tailLines=5&limitBytes=100&sinceSeconds=9";
    assert_eq!(asked, [wanted]);
    let cases = [
        ("redirect", 502, "the kubelet of node node-a answered 302"),
        ("waiting", 400, "container \"waiting\" in pod \"p\" is waiting to start: ContainerCreating"),
        ("broken", 500, "Internal error occurred: it broke"),
    ];
    for (container, wanted, message) in cases {
        let (code, status) = fixture.send("GET", &format!("{LOG}?container={container}"), None).await;
        assert_eq!((code, status["message"].as_str()), (wanted, Some(message)));
    }
    let (code, status) = fixture.send("GET", LOG, None).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        "a container name must be specified for pod p, choose one of: [plain redirect waiting broken stream]"
    );
    drop(kubelet.tasks);
}

#[tokio::test]
async fn a_followed_log_arrives_as_it_is_written_and_ends_with_its_reader() {
    let authority = Authority::new();
    let kubelet = Kubelet::start(&authority, "node-a").await;
    let fixture = cluster(&authority, local(), ("127.0.0.1", kubelet.address.port()), "node-a").await;
    let response = fixture.call(request("GET", &format!("{LOG}?container=stream&follow=true"), None)).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for line in ["first\n", "second\n"] {
        kubelet.lines.send(line).await.expect("the kubelet reads");
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time").expect("a frame");
        assert_eq!(frame.expect("a good one").into_data().expect("data"), line);
    }
    drop(body);
    tokio::time::timeout(PATIENCE, kubelet.lines.closed())
        .await
        .expect("the kubelet hears that nobody reads");
}

#[tokio::test]
async fn only_the_node_itself_is_asked() {
    let authority = Authority::new();
    let kubelet = Kubelet::start(&authority, "node-b").await;
    let port = kubelet.address.port();
    // Node a claims to be where node b is.
    let fixture = cluster(&authority, local(), ("127.0.0.1", port), "node-a").await;
    let (code, status) = fixture.send("GET", &format!("{LOG}?container=plain"), None).await;
    assert_eq!(code, 500, "{status}");
    assert!(status["message"].as_str().is_some_and(|text| text.contains("certificate")), "{status}");
    // Another's CA.
    let other = Kubelet::start(&Authority::new(), "node-a").await;
    let fixture = cluster(&authority, local(), ("127.0.0.1", other.address.port()), "node-a").await;
    assert_eq!(fixture.send("GET", &format!("{LOG}?container=plain"), None).await.0, 500);
    assert!(kubelet.asked.lock().expect("notes").is_empty() && other.asked.lock().expect("notes").is_empty());
}

#[tokio::test(start_paused = true)]
async fn addresses_that_lead_elsewhere_are_refused() {
    let authority = Authority::new();
    let outside = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
    let forbidden =
        ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "::1", "fe80::1", "localhost", "kube.test"];
    for address in forbidden {
        let fixture = cluster(&authority, outside.clone(), (address, 10250), "node-a").await;
        let (code, status) = fixture.send("GET", &format!("{LOG}?container=plain"), None).await;
        assert_eq!(code, 400, "{address} {status}");
        assert!(status["message"].as_str().is_some_and(|text| text.contains("node-a")), "{status}");
    }
}
