//! `pods|services|nodes/proxy`: from a client over TLS through the server and a node's tunnel to what runs on the node, and what
//! is never reached that way.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use api_machinery::tunnel::{PATH, PROTOCOL};
use apiserver::Config;
use apiserver::egress::service::{ServicePort, Trust};
use bytes::Bytes;
use component::connect;
use component::identity::Identity;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::SignedDuration;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::tunnels::Machine;
use super::{RBAC, admin};
use crate::fixture::PATIENCE;
use crate::kubelets::local;
use crate::tls::Authority;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// Where the pod says that it is. Nobody is there: only the node's end knows who serves it.
const POD: &str = "10.42.7.7";

/// What runs in the pod: answers with what it was asked, unless the path says otherwise.
struct Backend {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    /// What `/stream` writes.
    lines: mpsc::Sender<&'static str>,
}

impl Backend {
    /// With TLS, and a certificate of somebody unknown, if `secured`.
    async fn start(machine: &Machine, secured: bool) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (lines, receiver) = mpsc::channel(1);
        let receiver = Arc::new(Mutex::new(Some(receiver)));
        let (notes, tasks, shutdown) = (asked.clone(), machine.tasks.clone(), machine.shutdown.clone());
        let tls = secured.then(acceptor);
        let accepting = async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (notes, receiver, tls) = (notes.clone(), receiver.clone(), tls.clone());
                let serving = async move {
                    let stream: Box<dyn Both> = match tls {
                        Some(tls) => Box::new(tls.accept(stream).await.expect("TLS")),
                        None => Box::new(stream),
                    };
                    let service = service_fn(move |request| {
                        let (notes, receiver) = (notes.clone(), receiver.clone());
                        async move { Ok::<_, Infallible>(answer(request, &notes, &receiver).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
                };
                drop(tasks.spawn(shutdown.clone().run_until_cancelled_owned(serving)));
            }
        };
        drop(machine.tasks.spawn(machine.shutdown.clone().run_until_cancelled_owned(accepting)));
        Backend { address, asked, lines }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("notes"))
    }
}

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

fn acceptor() -> TlsAcceptor {
    let (chain, key) = Authority::new().sign("somebody");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("versions").with_no_client_auth().with_single_cert(chain, key);
    TlsAcceptor::from(Arc::new(config.expect("a certificate")))
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, Infallible>>;

async fn answer(
    mut request: Request<Incoming>,
    notes: &Mutex<Vec<String>>,
    receiver: &Mutex<Option<mpsc::Receiver<&'static str>>>,
) -> Answer {
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    let (parts, body) = request.into_parts();
    let body = body.collect().await.expect("the whole body").to_bytes();
    let body = String::from_utf8_lossy(&body);
    notes.lock().expect("notes").push(format!("{} {} {body}", parts.method, parts.uri));
    let respond = |code: u16, headers: &[(&str, &str)], text: String| {
        let mut answer = Response::builder().status(code);
        for (name, value) in headers {
            answer = answer.header(*name, *value);
        }
        answer.body(Full::new(Bytes::from(text)).boxed_unsync()).expect("an answer")
    };
    match parts.uri.path() {
        "/login" => respond(302, &[("location", "/welcome?a=b")], String::new()),
        "/away" => respond(307, &[("location", "http://169.254.169.254/latest")], String::new()),
        "/broken" => respond(
            500,
            &[("content-type", "text/x"), ("connection", "x-own"), ("x-own", "1")],
            "it broke".into(),
        ),
        "/stream" => {
            let receiver = receiver.lock().expect("a receiver").take().expect("one reader");
            let frames = futures::stream::unfold(receiver, |mut receiver| async {
                let line = receiver.recv().await?;
                Some((Ok(Frame::data(Bytes::from_static(line.as_bytes()))), receiver))
            });
            Response::new(StreamBody::new(frames).boxed_unsync())
        }
        "/echo" => {
            let upgrade = upgrade.expect("a request to upgrade");
            // It ends when the client does.
            #[expect(clippy::disallowed_methods, reason = "the test's own runtime owns it")]
            drop(tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.expect("an upgrade"));
                stream.write_all(b"hello ").await.expect("written");
                let (mut reader, mut writer) = tokio::io::split(stream);
                drop(tokio::io::copy(&mut reader, &mut writer).await);
                drop(writer.shutdown().await);
            }));
            respond(101, &[("connection", "Upgrade"), ("upgrade", "echo"), ("x-own", "1")], String::new())
        }
        _ => {
            let mut lines: Vec<String> = parts
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .collect();
            lines.sort();
            respond(200, &[("access-control-allow-origin", "*"), ("x-own", "1")], lines.join("\n"))
        }
    }
}

/// The node's end of a tunnel that takes every address for one on loopback, and notes where it was to go.
pub(super) struct NodeEnd {
    dialed: Arc<Mutex<Vec<String>>>,
}

impl NodeEnd {
    pub(super) async fn open(machine: &Machine, ways: &[(&str, SocketAddr)]) -> NodeEnd {
        let ways: BTreeMap<String, SocketAddr> =
            ways.iter().map(|(from, to)| ((*from).to_owned(), *to)).collect();
        let dialed: Arc<Mutex<Vec<String>>> = Arc::default();
        let sender = &mut sender(machine, &machine.node()).await;
        let request = Request::get(format!("{PATH}/a")).header("host", "a");
        let request = request.header("connection", "Upgrade").header("upgrade", PROTOCOL);
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        assert_eq!(response.status(), 101);
        let upgraded = hyper::upgrade::on(response).await.expect("a tunnel");
        let (notes, tasks, shutdown) = (dialed.clone(), machine.tasks.clone(), machine.shutdown.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let target = request.uri().authority().expect("a target").to_string();
            let way = ways.get(&target).copied();
            notes.lock().expect("notes").push(target);
            let (tasks, shutdown) = (tasks.clone(), shutdown.clone());
            async move {
                let upgrade = request.extensions_mut().remove::<OnUpgrade>().expect("a stream");
                let stream = match way {
                    Some(way) => TcpStream::connect(way).await.ok(),
                    None => None,
                };
                let Some(mut stream) = stream else {
                    let no = Response::builder().status(502).body(Full::new(Bytes::from("nobody is there")));
                    return no;
                };
                let carrying = async move {
                    let mut upgraded = TokioIo::new(upgrade.await.expect("a stream"));
                    drop(tokio::io::copy_bidirectional(&mut upgraded, &mut stream).await);
                };
                drop(tasks.spawn(shutdown.run_until_cancelled_owned(carrying)));
                Ok(Response::new(Full::default()))
            }
        });
        let serving = async move {
            let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            drop(builder.serve_connection(upgraded, service).await);
        };
        drop(machine.tasks.spawn(machine.shutdown.clone().run_until_cancelled_owned(serving)));
        machine.tunnels(1).await;
        NodeEnd { dialed }
    }

    pub(super) fn dialed(&self) -> Vec<String> {
        std::mem::take(&mut *self.dialed.lock().expect("notes"))
    }
}

type Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;

/// A connection to the server.
async fn sender(machine: &Machine, identity: &Arc<Identity>) -> Sender {
    let authority = machine.cluster.pki.ca_certificate().as_bytes();
    let (stream, _) = connect::dedicated(&machine.url, authority, identity).await.expect("a connection");
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
    let driving = async { drop(connection.with_upgrades().await) };
    drop(machine.tasks.spawn(machine.shutdown.clone().run_until_cancelled_owned(driving)));
    sender
}

/// Somebody who may do everything.
pub(super) fn root(machine: &Machine) -> Arc<Identity> {
    machine.identity("root", "system:masters", SignedDuration::from_hours(1))
}

/// Asks as somebody, over a connection of its own.
pub(super) async fn ask(
    machine: &Machine,
    identity: &Arc<Identity>,
    line: &str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> Response<Incoming> {
    let (method, path) = line.split_once(' ').expect("a method and a path");
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    let mut request = Request::builder().method(method).uri(path).header("host", "api.test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body))).expect("a request");
    let answer = sender(machine, identity).await.send_request(request);
    // Whoever lets go of the sender ends the connection once the answer has come.
    tokio::time::timeout(PATIENCE, answer).await.expect("in time").expect("an answer")
}

pub(super) async fn read(response: Response<Incoming>) -> (u16, HeaderMap, String) {
    let (parts, body) = response.into_parts();
    let body =
        tokio::time::timeout(PATIENCE, body.collect()).await.expect("in time").expect("the whole body");
    (parts.status.as_u16(), parts.headers, String::from_utf8_lossy(&body.to_bytes()).into_owned())
}

pub(super) fn message(text: &str) -> String {
    let status: Value = serde_json::from_str(text).unwrap_or_default();
    status["message"].as_str().unwrap_or(text).to_owned()
}

/// A pod on node `a` that has this address.
pub(super) async fn pod(machine: &Machine, name: &str, address: &str) {
    let containers = json!([
        {"name": "sidecar", "image": "i"},
        {"name": "c", "image": "i", "ports": [{"containerPort": 8080}, {"containerPort": 9090}]},
    ]);
    let mut pod = machine.cluster.pod(name, "a", json!({"containers": containers})).await;
    pod["status"] = json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]});
    machine.cluster.must(&admin(), "PUT", &format!("{PODS}/{name}/status"), Some(&pod)).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
}

/// A machine whose pod `web` is served through its tunnel.
async fn served() -> (Machine, Backend, NodeEnd) {
    let machine = Machine::start(local()).await;
    let backend = Backend::start(&machine, false).await;
    let node = NodeEnd::open(&machine, &[("10.42.7.7:8080", backend.address)]).await;
    pod(&machine, "web", POD).await;
    (machine, backend, node)
}

pub(super) fn endpoint(address: &str, namespace: &str, pod: &str, ready: bool) -> Value {
    let of = json!({"kind": "Pod", "namespace": namespace, "name": pod});
    json!({"addresses": [address], "conditions": {"ready": ready}, "targetRef": of})
}

/// Makes the endpoints of the Service `web` these. They are names for the API, whose validation would refuse some of the
/// addresses: whoever may write slices gets past it like this.
pub(super) async fn endpoints(machine: &Machine, port: u16, endpoints: Value) {
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "FQDN", "endpoints": endpoints,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    });
    machine.cluster.send(&admin(), "DELETE", &format!("{path}/web-1"), None).await;
    machine.cluster.must(&admin(), "POST", path, Some(&slice)).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
}

/// What the service account `default` shows, which may do this with `pods/proxy`.
async fn account(machine: &Machine, verbs: &[&str]) -> String {
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = machine.cluster.must(&admin(), "POST", path, Some(&wanted)).await;
    let role = json!({"metadata": {"name": "r"}, "rules": [
        {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": verbs}]});
    let namespaced = format!("{RBAC}/namespaces/default");
    machine.cluster.must(&admin(), "POST", &format!("{namespaced}/roles"), Some(&role)).await;
    let binding = json!({"metadata": {"name": "r"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": "default"}]});
    machine.cluster.must(&admin(), "POST", &format!("{namespaced}/rolebindings"), Some(&binding)).await;
    format!("Bearer {}", token["status"]["token"].as_str().expect("a token"))
}

/// Where node `a` says that it is, from now on.
async fn move_node(machine: &Machine, address: &str) {
    let path = "/api/v1/nodes/a";
    let mut node = machine.cluster.must(&admin(), "GET", path, None).await;
    node["status"]["addresses"][0]["address"] = address.into();
    machine.cluster.must(&admin(), "PUT", &format!("{path}/status"), Some(&node)).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
}

/// The Service `web`, whose port 80 is called `http`.
pub(super) async fn service(machine: &Machine) {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}]);
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": ports}});
    machine.cluster.must(&admin(), "POST", SERVICES, Some(&service)).await;
}

#[tokio::test]
async fn a_pod_is_asked_what_was_asked_for() {
    let (machine, backend, node) = served().await;
    let root = root(&machine);
    let table = [
        ("GET", "web/proxy/", "", "GET / "),
        ("GET", "web:8080/proxy/a/b?watch=true&a=%20b&c", "", "GET /a/b?watch=true&a=%20b&c "),
        ("GET", "http:web:8080/proxy/a%2Fb//c%25/", "", "GET /a%2Fb//c%25/ "),
        ("GET", "web/proxy/api/v1/nodes/n/proxy/x", "", "GET /api/v1/nodes/n/proxy/x "),
        ("HEAD", "web/proxy/x", "", "HEAD /x "),
        ("POST", "web/proxy/x", "{not json", "POST /x {not json"),
        ("PUT", "web/proxy/x?dryRun=nonsense", "body", "PUT /x?dryRun=nonsense body"),
        ("PATCH", "web/proxy/x", "body", "PATCH /x body"),
        ("DELETE", "web/proxy/x", "", "DELETE /x "),
        ("OPTIONS", "web/proxy/x", "", "OPTIONS /x "),
    ];
    for (method, rest, body, wanted) in table {
        let response = ask(&machine, &root, &format!("{method} {PODS}/{rest}"), &[], body).await;
        let (code, headers, _) = read(response).await;
        assert_eq!((code, backend.asked()), (200, vec![wanted.to_owned()]), "{method} {rest}");
        assert_eq!(
            (headers.get("x-own").is_some(), headers.get("access-control-allow-origin")),
            (true, None)
        );
        assert_eq!(node.dialed(), ["10.42.7.7:8080"]);
    }
    let refused = [
        ("web:9/proxy/", 503, "error trying to reach service: dial tcp 10.42.7.7:9: nobody is there"),
        ("ftp:web:8080/proxy/", 400, "invalid pod request \"ftp:web:8080\""),
        ("web:nan/proxy/", 400, "invalid pod request \"web:nan\""),
        ("none/proxy/", 404, "pods \"none\" not found"),
        ("web/proxy/../log", 400, "invalid path segment \"..\": may not be '.' or '..'"),
        ("web/proxy/a/%2e%2E/b", 400, "invalid path segment \"%2e%2E\": may not be '.' or '..'"),
        ("web/proxy/%00", 400, "invalid path segment \"%00\": may not contain control characters"),
        ("..%2fkube-system/proxy/x", 400, "invalid path segment \"..%2fkube-system\": may not contain '/'"),
    ];
    for (rest, code, words) in refused {
        let response = ask(&machine, &root, &format!("GET {PODS}/{rest}"), &[], "").await;
        let (got, _, text) = read(response).await;
        assert_eq!((got, message(&text).as_str()), (code, words), "{rest}");
    }
    assert!(backend.asked().is_empty());
    for (method, query) in [("GET", ""), ("POST", "?a=b"), ("OPTIONS", ""), ("DELETE", "")] {
        let path = format!("{PODS}/web/proxy");
        let (code, headers, _) =
            read(ask(&machine, &root, &format!("{method} {path}{query}"), &[], "").await).await;
        assert_eq!(
            (code, headers["location"].to_str().expect("text")),
            (301, format!("{path}/{query}").as_str())
        );
    }
    assert!(backend.asked().is_empty(), "the root of a page is below a slash, which the client is told");
    machine.stop().await;
}

#[tokio::test]
async fn a_method_is_a_verb_and_who_asks_is_not_told() {
    let (machine, backend, _node) = served().await;
    let token = account(&machine, &["get", "update"]).await;
    let account = Arc::<Identity>::default();
    let own = [("authorization", token.as_str())];
    let verbs = [
        ("GET", ""),
        ("HEAD", ""),
        ("PUT", ""),
        ("POST", "create"),
        ("PATCH", "patch"),
        ("DELETE", "delete"),
        ("OPTIONS", " "),
    ];
    for (method, verb) in verbs {
        let line = format!("{method} {PODS}/web/proxy/x");
        let (code, _, text) = read(ask(&machine, &account, &line, &own, "").await).await;
        if verb.is_empty() {
            assert_eq!((code, backend.asked().len()), (200, 1), "{method} {text}");
        } else {
            let words = format!(
                "pods \"web\" is forbidden: User \"system:serviceaccount:default:default\" cannot {} resource \"pods/proxy\" \
                 in API group \"\" in the namespace \"default\"",
                verb.trim()
            );
            assert_eq!((code, message(&text), backend.asked().len()), (403, words, 0), "{method}");
        }
    }

    let sent = [
        own[0],
        ("accept", "text/html"),
        ("connection", "keep-alive, x-hop"),
        ("x-hop", "1"),
        ("te", "trailers"),
        ("x-remote-user", "root"),
        ("x-forwarded-for", "198.51.100.1"),
        ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
        ("cookie", "a=b"),
    ];
    let line = format!("GET {PODS}/web/proxy/x?y");
    let (code, _, text) = read(ask(&machine, &account, &line, &sent, "").await).await;
    let wanted = [
        "accept: text/html",
        "cookie: a=b",
        "host: api.test",
        "sec-websocket-protocol: v5.channel.k8s.io",
        "x-forwarded-for: 198.51.100.1, 127.0.0.1",
        "x-forwarded-uri: /api/v1/namespaces/default/pods/web/proxy/x",
    ];
    assert_eq!((code, text.lines().collect::<Vec<_>>()), (200, wanted.to_vec()));
    machine.stop().await;
}

#[tokio::test]
async fn what_is_answered_is_passed_on_and_nothing_is_followed() {
    let (machine, backend, _node) = served().await;
    let root = root(&machine);
    let get = |path: &str| format!("GET {PODS}/web/proxy{path}");
    let (code, headers, _) = read(ask(&machine, &root, &get("/login"), &[], "").await).await;
    let below = "/api/v1/namespaces/default/pods/web/proxy/welcome?a=b";
    assert_eq!((code, headers["location"].to_str().expect("text")), (302, below));
    let (code, headers, _) = read(ask(&machine, &root, &get("/away"), &[], "").await).await;
    assert_eq!((code, headers["location"].to_str().expect("text")), (307, "http://169.254.169.254/latest"));
    assert_eq!(backend.asked(), ["GET /login ", "GET /away "]);
    let (code, headers, text) = read(ask(&machine, &root, &get("/broken"), &[], "").await).await;
    assert_eq!(
        (code, text.as_str(), headers["content-type"].to_str().expect("text")),
        (500, "it broke", "text/x")
    );
    assert!(headers.get("x-own").is_none(), "it was for the server's connection only");
    machine.stop().await;
}

#[tokio::test]
async fn an_answer_arrives_as_it_is_written_and_ends_with_its_reader() {
    let (machine, backend, _node) = served().await;
    let response = ask(&machine, &root(&machine), &format!("GET {PODS}/web/proxy/stream"), &[], "").await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    for line in ["first\n", "second\n"] {
        backend.lines.send(line).await.expect("the pod writes");
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time").expect("a frame");
        assert_eq!(frame.expect("a good one").into_data().expect("data"), line);
    }
    drop(body);
    tokio::time::timeout(PATIENCE, backend.lines.closed()).await.expect("the pod hears that nobody reads");
    machine.stop().await;
}

#[tokio::test]
async fn services_are_served_by_their_ready_pods_and_nobody_else() {
    let machine = Machine::start(local()).await;
    let (backend, secured) = (Backend::start(&machine, false).await, Backend::start(&machine, true).await);
    let ways = [("10.42.7.7:8080", backend.address), ("10.42.7.7:8443", secured.address)];
    let node = NodeEnd::open(&machine, &ways).await;
    pod(&machine, "web", POD).await;
    pod(&machine, "dead", "10.42.7.8").await;
    let loopback = backend.address.port();
    pod(&machine, "inward", "127.0.0.1").await;
    pod(&machine, "metadata", "169.254.169.254").await;
    let root = root(&machine);
    let get = async |name: &str| {
        let line = format!("GET {SERVICES}/{name}/proxy/x");
        let (code, _, text) = read(ask(&machine, &root, &line, &[], "").await).await;
        (code, if code == 200 { String::new() } else { message(&text) })
    };
    assert_eq!(get("web:80").await, (404, "services \"web\" not found".to_owned()));
    service(&machine).await;
    let none = (503, "no endpoints available for service \"web\"".to_owned());
    assert_eq!(get("web:80").await, none);
    let served = (200, String::new());
    endpoints(&machine, 8080, json!([endpoint(POD, "default", "web", true)])).await;
    for name in ["web:80", "web:http", "http:web:80"] {
        assert_eq!(
            (get(name).await, backend.asked()),
            (served.clone(), vec!["GET /x ".to_owned()]),
            "{name}"
        );
    }
    assert_eq!(get("web").await, none, "the port has a name, which upstream wants to hear");
    assert_eq!(get("web:81").await, (503, "no service port 81 found for service \"web\"".to_owned()));
    assert_eq!(get("ftp:web:80").await, (400, "invalid service request \"ftp:web:80\"".to_owned()));
    // One that cannot be reached is passed over.
    let two = json!([endpoint(POD, "default", "web", true), endpoint("10.42.7.8", "default", "dead", true)]);
    endpoints(&machine, 8080, two).await;
    for _ in 0..4 {
        assert_eq!(get("web:80").await, served);
    }
    endpoints(&machine, 8443, json!([endpoint(POD, "default", "web", true)])).await;
    assert_eq!(
        (get("https:web:80").await, secured.asked().len()),
        (served, 1),
        "whoever signed its certificate"
    );
    assert!(get("web:80").await.1.starts_with("error trying to reach service: "), "it speaks TLS only");

    // Whoever writes slices leads the server nowhere else.
    drop((backend.asked(), secured.asked(), node.dialed()));
    let forged = [
        ("unready", endpoint(POD, "default", "web", false)),
        ("not the pod's address", endpoint("10.42.7.9", "default", "web", true)),
        ("another namespace", endpoint(POD, "kube-system", "web", true)),
        ("nobody's", json!({"addresses": [POD], "conditions": {"ready": true}})),
        ("the server itself", endpoint("127.0.0.1", "default", "web", true)),
        ("the server itself, as its pod says", endpoint("127.0.0.1", "default", "inward", true)),
        ("metadata, as its pod says", endpoint("169.254.169.254", "default", "metadata", true)),
        ("a name", endpoint("localhost", "default", "inward", true)),
    ];
    for (what, forged) in forged {
        endpoints(&machine, loopback, json!([forged])).await;
        assert_eq!(get("web:80").await, none, "{what}");
    }
    for pod in ["inward", "metadata"] {
        let line = format!("GET {PODS}/{pod}:{loopback}/proxy/x");
        let (code, _, text) = read(ask(&machine, &root, &line, &[], "").await).await;
        assert_eq!((code, message(&text).as_str()), (400, "address not allowed"), "{pod}");
    }
    assert!(backend.asked().is_empty() && node.dialed().is_empty(), "nothing was connected to");
    machine.stop().await;
}

#[tokio::test]
async fn whoever_names_a_service_in_a_configuration_answers_for_its_endpoints() {
    let machine = Machine::start(local()).await;
    let backend = Backend::start(&machine, false).await;
    let node = NodeEnd::open(&machine, &[("192.0.2.7:9443", backend.address)]).await;
    move_node(&machine, "192.0.2.7").await;
    service(&machine).await;
    let routes = machine.cluster.server.routes();
    let connect =
        async |trust| routes.connect_service("default", "web", ServicePort::Number(80), trust).await;
    let plain = |address: &str| json!([{"addresses": [address], "conditions": {}}]);
    endpoints(&machine, 9443, plain("192.0.2.7")).await;
    let (_, address) = connect(Trust::All).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((address.to_string().as_str(), node.dialed()), ("192.0.2.7:9443", vec![address.to_string()]));
    let words = "no endpoints available for service \"web\"";
    assert_eq!(connect(Trust::Pods).await.err().expect("it is no pod's").to_string(), words);
    endpoints(&machine, backend.address.port(), plain("127.0.0.1")).await;
    assert_eq!(connect(Trust::All).await.err().expect("it is the server").to_string(), words);
    assert!(node.dialed().is_empty());
    machine.stop().await;
}

#[tokio::test]
async fn nodes_are_asked_as_the_server_and_their_other_ports_as_nobody() {
    let machine = Machine::start(local()).await;
    let backend = Backend::start(&machine, false).await;
    let kubelet = machine.kubelet.address;
    let node = NodeEnd::open(
        &machine,
        &[(&kubelet.to_string(), kubelet), ("192.0.2.7:9100", backend.address), ("192.0.2.7:10255", kubelet)],
    )
    .await;
    let root = root(&machine);
    let get = async |name: &str, path: &str| {
        let line = format!("GET /api/v1/nodes/{name}/proxy/{path}");
        let (code, _, text) = read(ask(&machine, &root, &line, &[], "").await).await;
        (code, message(&text))
    };
    for name in ["a".to_owned(), format!("a:{}", kubelet.port()), format!("http:a:{}", kubelet.port())] {
        assert_eq!(get(&name, "plain").await, (200, "one\ntwo\n".to_owned()), "{name}");
    }
    assert_eq!(node.dialed(), vec![kubelet.to_string(); 3]);
    // Bad input 10.
    assert_eq!(get("a", "redirect").await, (502, "the kubelet of node a answered 302".to_owned()));
    assert_eq!(get("a", "broken").await, (500, "it broke".to_owned()));
    assert_eq!(get("none", "plain").await, (404, "nodes \"none\" not found".to_owned()));
    assert_eq!(get("a:x:y:z", "plain").await, (400, "invalid node request \"a:x:y:z\"".to_owned()));
    // What listens where the server is is not for everybody who may ask nodes.
    let own = format!("a:{}", backend.address.port());
    assert_eq!(get(&own, "x").await, (400, "address not allowed".to_owned()));
    assert_eq!(machine.kubelet.asked.lock().expect("notes").len(), 5);

    move_node(&machine, "192.0.2.7").await;
    drop(node.dialed());
    assert_eq!(get("a:9100", "metrics").await.0, 200);
    assert_eq!(
        (backend.asked(), node.dialed()),
        (vec!["GET /metrics ".to_owned()], vec!["192.0.2.7:9100".to_owned()])
    );
    // A kubelet that wants to know who asks is not told.
    assert_eq!(get("https:a:10255", "plain").await.0, 503);
    assert_eq!(machine.kubelet.asked.lock().expect("notes").len(), 5);
    machine.stop().await;
}

/// Bad input 11. A name is not looked up, so that it cannot lead somewhere else the second time.
#[tokio::test]
async fn a_node_that_names_loopback_metadata_or_a_host_is_not_asked() {
    let outside = Config { advertise_address: [192, 0, 2, 1].into(), ..Config::default() };
    let machine = Machine::start(outside).await;
    for address in ["127.0.0.1", "169.254.169.254", "::1", "localhost", "kube.test"] {
        move_node(&machine, address).await;
        for name in ["a", "a:80"] {
            let (code, status) = machine
                .cluster
                .send(&admin(), "GET", &format!("/api/v1/nodes/{name}/proxy/plain"), None)
                .await;
            assert_eq!(code, 400, "{address} {status}");
        }
    }
    assert!(machine.kubelet.asked.lock().expect("notes").is_empty());
    machine.stop().await;
}

#[tokio::test]
async fn an_upgraded_connection_is_bytes_in_both_directions() {
    let (machine, _backend, _node) = served().await;
    service(&machine).await;
    endpoints(&machine, 8080, json!([endpoint(POD, "default", "web", true)])).await;
    let root = root(&machine);
    let headers = [("connection", "Upgrade"), ("upgrade", "echo")];
    for path in [format!("{PODS}/web/proxy/echo"), format!("{SERVICES}/web:80/proxy/echo")] {
        let response = ask(&machine, &root, &format!("GET {path}"), &headers, "").await;
        let own =
            ["connection", "upgrade", "x-own"].map(|name| response.headers()[name].to_str().expect("text"));
        assert_eq!((response.status().as_u16(), own), (101, ["Upgrade", "echo", "1"]));
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.expect("an upgrade"));
        stream.write_all(b"again").await.expect("written");
        stream.shutdown().await.expect("half closed");
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        ended.expect("it ends when the pod does").expect("in peace");
        assert_eq!(answer, b"hello again");
    }
    // Whoever does not upgrade is no way to do so.
    let (code, _, text) =
        read(ask(&machine, &root, &format!("GET {PODS}/web/proxy/x"), &headers, "").await).await;
    assert_eq!((code, message(&text).as_str()), (500, "invalid upgrade response: status code 200"));
    let (code, _, text) =
        read(ask(&machine, &root, &format!("GET {PODS}/web:1/proxy/x"), &headers, "").await).await;
    assert_eq!(
        (code, message(&text).as_str()),
        (500, "error dialing backend: dial tcp 10.42.7.7:1: nobody is there")
    );
    machine.stop().await;
}

/// Bad input 9: what was sent behind a request to upgrade that failed is nobody's request.
#[tokio::test]
async fn nothing_behind_a_failed_upgrade_is_forwarded() {
    let machine = Machine::start(local()).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let _node =
        NodeEnd::open(&machine, &[("10.42.7.7:8080", listener.local_addr().expect("an address"))]).await;
    pod(&machine, "web", POD).await;
    let authority = machine.cluster.pki.ca_certificate().as_bytes();
    let (mut client, _) =
        connect::dedicated(&machine.url, authority, &root(&machine)).await.expect("a connection");
    let smuggled = format!("GET {PODS}/web/proxy/smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    let sent = format!(
        "GET {PODS}/web/proxy/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n{smuggled}"
    );
    client.write_all(sent.as_bytes()).await.expect("written");
    let refusing = async {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("the request"));
        }
        let refusal = b"HTTP/1.0 403 Forbidden\r\nContent-Length: 2\r\n\r\nno";
        stream.write_all(refusal).await.expect("written");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.expect("the server hangs up");
        (String::from_utf8_lossy(&head).into_owned(), rest)
    };
    let reading = async {
        let mut answer = Vec::new();
        let ended = client.read_to_end(&mut answer).await;
        assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
        String::from_utf8_lossy(&answer).into_owned()
    };
    let both = async { tokio::join!(refusing, reading) };
    let ((head, rest), answer) = tokio::time::timeout(PATIENCE, both).await.expect("both connections end");
    assert!(head.starts_with("GET /x HTTP/1.1\r\n") && !head.contains("smuggled"), "{head}");
    assert!(rest.is_empty(), "{rest:?}");
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n") && answer.ends_with("\r\n\r\nno"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    let unread = tokio::time::timeout(std::time::Duration::from_millis(100), listener.accept()).await;
    assert!(unread.is_err(), "nobody asks again");
    machine.stop().await;
}
