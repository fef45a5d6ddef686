//! Aggregated servers: a small one of our own behind a Service, which believes nobody but the front proxy and does not know
//! who its clients are otherwise; and whom the API server itself believes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use apiserver::RequestHeader;
use apiserver::pki::FRONT_PROXY;
use apiserver::serve::TlsError;
use bytes::Bytes;
use component::identity::Identity;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;

use super::proxies::{NodeEnd, ask, endpoint, endpoints, message, pod, read, root, service};
use super::tunnels::Machine;
use super::{RBAC, admin, user};
use crate::fixture::PATIENCE;
use crate::kubelets::local;
use crate::tls::Authority;

const POD: &str = "10.42.7.7";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const NAME: &str = "v1.toys.example.com";
const TOYS: &str = "/apis/toys.example.com/v1/namespaces/default/toys";
const AUTHENTICATION: &str = "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// An API server of its own: toys in memory, with a watch.
#[derive(Clone)]
struct Toys {
    stored: Arc<Mutex<BTreeMap<String, Value>>>,
    events: broadcast::Sender<Value>,
    /// Who asked for what.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Toys {
    /// Serves at an address, to whoever the cluster's front proxies vouch for.
    async fn start(machine: &Machine, authority: &Authority) -> (Toys, SocketAddr) {
        let told = machine.cluster.must(&admin(), "GET", AUTHENTICATION, None).await;
        let proxies = told["data"]["requestheader-client-ca-file"].as_str().expect("an authority");
        assert_eq!(told["data"]["requestheader-allowed-names"], json!([FRONT_PROXY]).to_string());
        assert_eq!(told["data"]["client-ca-file"], machine.cluster.pki.ca_certificate());
        let mut roots = RootCertStore::empty();
        for proxy in CertificateDer::pem_slice_iter(proxies.as_bytes()) {
            roots.add(proxy.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let (chain, key) = authority.sign("web.default.svc");
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config =
            config.expect("versions").with_client_cert_verifier(clients.build().expect("a verifier"));
        let tls = TlsAcceptor::from(Arc::new(config.with_single_cert(chain, key).expect("a certificate")));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let toys = Toys { stored: Arc::default(), events: broadcast::Sender::new(16), asked: Arc::default() };
        let (own, tasks, shutdown) = (toys.clone(), machine.tasks.clone(), machine.shutdown.clone());
        let accepting = async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let (toys, tls) = (own.clone(), tls.clone());
                let serving = async move {
                    // Whoever is no front proxy is not served.
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let service = service_fn(move |request| {
                        let toys = toys.clone();
                        async move { Ok::<_, Infallible>(toys.answer(request).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(stream), service).with_upgrades().await);
                };
                drop(tasks.spawn(shutdown.clone().run_until_cancelled_owned(serving)));
            }
        };
        drop(machine.tasks.spawn(machine.shutdown.clone().run_until_cancelled_owned(accepting)));
        (toys, address)
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().expect("notes"))
    }

    async fn answer(&self, mut request: Request<Incoming>) -> Answer {
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        let (parts, body) = request.into_parts();
        let body = body.collect().await.expect("the whole body").to_bytes();
        let value = |name: &str| -> Vec<&str> {
            parts.headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect()
        };
        let who = format!("{}/{}", value("x-remote-user").join("+"), value("x-remote-group").join(","));
        assert!(
            !parts.headers.contains_key("authorization"),
            "what proves who asks stays with the API server"
        );
        if who != "system:kube-aggregator/system:masters" {
            let extra = value("x-remote-extra-team").join(",");
            self.asked.lock().expect("notes").push(format!("{} {} {who} {extra}", parts.method, parts.uri));
        }
        let below = parts.uri.path().strip_prefix("/apis/toys.example.com/v1").unwrap_or(parts.uri.path());
        let watching = parts.uri.query().is_some_and(|query| query.contains("watch=true"));
        if let Some(document) = document(below) {
            return respond(200, &document);
        }
        match (parts.method.as_str(), below) {
            ("GET", "/namespaces/default/toys/away") => {
                let mut answer = respond(302, &json!({}));
                answer.headers_mut().insert("location", "http://169.254.169.254/".parse().expect("a place"));
                answer
            }
            ("GET", "/namespaces/default/toys/talk/connect") => {
                let upgrade = upgrade.expect("a request to upgrade");
                #[expect(clippy::disallowed_methods, reason = "the test's own runtime owns it")]
                drop(tokio::spawn(async move {
                    let stream = TokioIo::new(upgrade.await.expect("an upgrade"));
                    let (mut reader, mut writer) = tokio::io::split(stream);
                    drop(tokio::io::copy(&mut reader, &mut writer).await);
                    drop(writer.shutdown().await);
                }));
                let mut answer = respond(101, &Value::Null);
                answer.headers_mut().insert("connection", "Upgrade".parse().expect("a value"));
                answer.headers_mut().insert("upgrade", "echo".parse().expect("a value"));
                answer
            }
            ("GET", "/namespaces/default/toys") if watching => {
                let frames = futures::stream::unfold(self.events.subscribe(), |mut events| async {
                    let line = format!("{}\n", events.recv().await.ok()?);
                    Some((Ok(Frame::data(Bytes::from(line))), events))
                });
                Response::new(StreamBody::new(frames).boxed_unsync())
            }
            ("GET", "/namespaces/default/toys") => {
                let items: Vec<Value> = self.stored.lock().expect("toys").values().cloned().collect();
                respond(200, &json!({"kind": "ToyList", "apiVersion": "toys.example.com/v1", "items": items}))
            }
            ("POST", "/namespaces/default/toys") => {
                let toy: Value = serde_json::from_slice(&body).expect("a toy");
                let name = toy["metadata"]["name"].as_str().expect("a name").to_owned();
                self.stored.lock().expect("toys").insert(name, toy.clone());
                drop(self.events.send(json!({"type": "ADDED", "object": toy})));
                respond(201, &toy)
            }
            ("DELETE", path) => {
                match self.stored.lock().expect("toys").remove(path.rsplit('/').next().unwrap_or_default()) {
                    Some(toy) => respond(200, &toy),
                    None => respond(404, &json!({"kind": "Status", "code": 404, "message": "no such toy"})),
                }
            }
            _ => respond(404, &json!({"kind": "Status", "code": 404, "message": "toys are all there is"})),
        }
    }
}

/// What it tells of itself.
fn document(path: &str) -> Option<Value> {
    let resources = json!([{"name": "toys", "singularName": "toy", "namespaced": true, "kind": "Toy",
        "verbs": ["create", "delete", "get", "list", "watch"], "shortNames": ["ty"]}]);
    let index = json!({"serverRelativeURL": "/openapi/v3/apis/toys.example.com/v1?hash=T0Y"});
    let all = json!({"/apis/toys.example.com/v1/toys": {"get": {}}, "/healthz": {}});
    Some(match path {
        "" => {
            json!({"kind": "APIResourceList", "groupVersion": "toys.example.com/v1", "resources": resources})
        }
        "/openapi/v3" => json!({"paths": {"apis/toys.example.com/v1": index}}),
        "/openapi/v3/apis/toys.example.com/v1" => json!({"openapi": "3.0.0", "toys": true}),
        "/openapi/v2" => json!({"paths": all, "definitions": {}}),
        _ => return None,
    })
}

fn respond(code: u16, value: &Value) -> Answer {
    let body = if value.is_null() { Bytes::new() } else { Bytes::from(value.to_string()) };
    let answer = Response::builder().status(code).header("content-type", "application/json");
    answer.body(Full::new(body).boxed_unsync()).expect("an answer")
}

fn registration(authority: &Authority) -> Value {
    let bundle = pem::encode(&pem::Pem::new("CERTIFICATE", authority.certificate.to_vec()));
    let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bundle);
    json!({"metadata": {"name": NAME}, "spec": {
        "group": "toys.example.com", "version": "v1", "groupPriorityMinimum": 1500, "versionPriority": 20,
        "caBundle": bundle, "service": {"namespace": "default", "name": "web", "port": 80}}})
}

/// Waits until the condition `Available` of an APIService has this reason; gives back its status and message.
async fn reason(machine: &Machine, name: &str, wanted: &str) -> (String, String) {
    let found = async {
        loop {
            let (_, found) = machine.cluster.send(&admin(), "GET", &format!("{SERVICES}/{name}"), None).await;
            let condition = &found["status"]["conditions"][0];
            if condition["reason"] == wanted {
                let text = |field: &str| condition[field].as_str().expect("text").to_owned();
                return (text("status"), text("message"));
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{name} is not {wanted}"))
}

/// A machine whose toys are served, and the toys.
async fn served() -> (Machine, Toys, Authority, NodeEnd) {
    let machine = Machine::start(local()).await;
    let authority = Authority::new();
    let (toys, address) = Toys::start(&machine, &authority).await;
    let node = NodeEnd::open(&machine, &[("10.42.7.7:8080", address)]).await;
    pod(&machine, "web", POD).await;
    (machine, toys, authority, node)
}

async fn available(machine: &Machine, authority: &Authority) {
    machine.cluster.must(&admin(), "POST", SERVICES, Some(&registration(authority))).await;
    service(machine).await;
    endpoints(machine, 8080, json!([endpoint(POD, "default", "web", true)])).await;
    reason(machine, NAME, "Passed").await;
}

/// Lets ann see toys.
async fn grant(machine: &Machine) {
    let rules =
        json!([{"apiGroups": ["toys.example.com"], "resources": ["toys", "toys/connect"], "verbs": ["*"]}]);
    let role = json!({"metadata": {"name": "toys"}, "rules": rules});
    let binding = json!({"metadata": {"name": "toys"}, "subjects": [{"kind": "Group", "name": "kids",
        "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "toys"}});
    machine.cluster.must(&admin(), "POST", &format!("{RBAC}/clusterroles"), Some(&role)).await;
    machine.cluster.must(&admin(), "POST", &format!("{RBAC}/clusterrolebindings"), Some(&binding)).await;
}

#[tokio::test]
async fn whether_a_server_answers_is_said_step_by_step() {
    let (machine, toys, authority, _node) = served().await;
    machine.cluster.must(&admin(), "POST", SERVICES, Some(&registration(&authority))).await;
    let status = |reason: &str, message: &str| (reason.to_owned(), message.to_owned());
    let no = |message| status("False", message);
    assert_eq!(
        reason(&machine, NAME, "ServiceNotFound").await,
        no("service/web in \"default\" is not present")
    );
    let (code, answer) = machine.cluster.send(&admin(), "GET", TOYS, None).await;
    let words = format!(
        "service unavailable: APIService \"{NAME}\": ServiceNotFound: service/web in \"default\" is not present"
    );
    assert_eq!(
        (code, &answer["message"], &answer["reason"]),
        (503, &json!(words), &json!("ServiceUnavailable"))
    );
    service(&machine).await;
    assert_eq!(
        reason(&machine, NAME, "EndpointsNotFound").await,
        no("cannot find endpointslices for service/web in \"default\"")
    );
    endpoints(&machine, 8080, json!([endpoint(POD, "default", "web", false)])).await;
    let missing = "endpointslices for service/web in \"default\" have no addresses with port name \"http\"";
    assert_eq!(reason(&machine, NAME, "MissingEndpoints").await, no(missing));
    endpoints(&machine, 8081, json!([endpoint(POD, "default", "web", true)])).await;
    let url = "https://web.default.svc:80/apis/toys.example.com/v1";
    let unreachable = "dial tcp 10.42.7.7:8081: nobody is there";
    let failed = format!("failing or missing response from {url}: Get \"{url}\": {unreachable}");
    assert_eq!(reason(&machine, NAME, "FailedDiscoveryCheck").await, no(&failed));
    endpoints(&machine, 8080, json!([endpoint(POD, "default", "web", true)])).await;
    assert_eq!(reason(&machine, NAME, "Passed").await, status("True", "all checks passed"));
    // Somebody else's authority.
    let path = format!("{SERVICES}/{NAME}");
    let mut changed = machine.cluster.must(&admin(), "GET", &path, None).await;
    changed["spec"]["caBundle"] = registration(&Authority::new())["spec"]["caBundle"].clone();
    machine.cluster.must(&admin(), "PUT", &path, Some(&changed)).await;
    let (_, why) = reason(&machine, NAME, "FailedDiscoveryCheck").await;
    assert!(why.ends_with("x509: certificate signed by unknown authority"), "{why}");
    let mut changed = machine.cluster.must(&admin(), "GET", &path, None).await;
    changed["spec"]["caBundle"] = Value::Null;
    changed["spec"]["insecureSkipTLSVerify"] = true.into();
    machine.cluster.must(&admin(), "PUT", &path, Some(&changed)).await;
    reason(&machine, NAME, "Passed").await;
    machine.cluster.must(&admin(), "DELETE", &path, None).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
    assert_eq!(machine.cluster.send(&admin(), "GET", TOYS, None).await.0, 404);
    assert!(toys.asked().is_empty());
    machine.stop().await;
}

#[tokio::test]
async fn requests_are_answered_as_whoever_asks() {
    let (machine, toys, authority, _node) = served().await;
    available(&machine, &authority).await;
    let mut ann = user("ann");
    ann.groups.push("kids".to_owned());
    ann.extra.insert("Team".to_owned(), vec!["red".to_owned()]);
    let refused = machine.cluster.refused(&ann, 403, "GET", TOYS, None).await;
    let words = "toys.toys.example.com is forbidden: User \"ann\" cannot list resource \"toys\" in API group";
    assert!(refused.starts_with(words), "{refused}");
    assert!(toys.asked().is_empty(), "who may not is not passed on");
    grant(&machine).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");

    let url = format!("{TOYS}?watch=true");
    let watch = Request::get(&url).body(kube::client::Body::empty()).expect("a request");
    let watch = machine.cluster.server.call(ann.clone(), watch).await;
    let mut watch = watch.into_body();
    let toy = json!({"apiVersion": "toys.example.com/v1", "kind": "Toy", "metadata": {"name": "ball"}});
    assert_eq!(machine.cluster.must(&ann, "POST", TOYS, Some(&toy)).await, toy);
    let line = tokio::time::timeout(PATIENCE, watch.frame()).await.expect("in time").expect("an event");
    let line = line.expect("a line").into_data().expect("data");
    let event: Value = serde_json::from_slice(&line).expect("JSON");
    assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &toy));
    drop(watch);
    assert_eq!(machine.cluster.must(&ann, "GET", TOYS, None).await["items"], json!([toy]));
    let (code, gone) = machine.cluster.send(&ann, "DELETE", &format!("{TOYS}/doll"), None).await;
    assert_eq!((code, &gone["message"]), (404, &json!("no such toy")));
    machine.cluster.must(&ann, "DELETE", &format!("{TOYS}/ball"), None).await;
    let who = "ann/system:authenticated,kids red";
    let asked =
        ["GET", "POST", "GET", "DELETE", "DELETE"].into_iter().zip(["?watch=true", "", "", "/doll", "/ball"]);
    let wanted: Vec<String> = asked.map(|(method, rest)| format!("{method} {TOYS}{rest} {who}")).collect();
    assert_eq!(toys.asked(), wanted);
    machine.stop().await;
}

#[tokio::test]
async fn what_others_answer_for_is_told_with_everything_else() {
    let (machine, _toys, authority, _node) = served().await;
    available(&machine, &authority).await;
    let get = async |path: &str| machine.cluster.must(&admin(), "GET", path, None).await;
    let groups = get("/apis").await;
    let names: Vec<&str> = groups["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .filter_map(|group| group["name"].as_str())
        .collect();
    assert_eq!((names[0], names.last()), ("apiregistration.k8s.io", Some(&"toys.example.com")));
    let group = get("/apis/toys.example.com").await;
    assert_eq!(
        (&group["kind"], &group["preferredVersion"]["groupVersion"]),
        (&json!("APIGroup"), &json!("toys.example.com/v1"))
    );
    assert_eq!(get("/apis/toys.example.com/v1").await["resources"][0]["kind"], "Toy");
    assert!(get("/").await["paths"].as_array().expect("paths").contains(&json!("/apis/toys.example.com/v1")));
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let aggregated = async || {
        let headers = [("accept", media)];
        let client = Some(apiserver::pki::Client::Admin);
        let (_, all) = machine.cluster.outside(client, &headers, "GET", "/apis", None).await;
        let items = all["items"].as_array().expect("groups").clone();
        items.into_iter().find(|group| group["metadata"]["name"] == "toys.example.com").expect("the group")
    };
    let told = aggregated().await["versions"][0].clone();
    assert_eq!(
        (&told["freshness"], &told["resources"][0]["shortNames"]),
        (&json!("Current"), &json!(["ty"]))
    );
    // It stays known while nobody answers.
    endpoints(&machine, 8080, json!([endpoint(POD, "default", "web", false)])).await;
    reason(&machine, NAME, "MissingEndpoints").await;
    let told = aggregated().await["versions"][0].clone();
    assert_eq!((&told["freshness"], &told["resources"][0]["resource"]), (&json!("Stale"), &json!("toys")));
    endpoints(&machine, 8080, json!([endpoint(POD, "default", "web", true)])).await;
    reason(&machine, NAME, "Passed").await;

    let index = get("/openapi/v3").await;
    let url = &index["paths"]["apis/toys.example.com/v1"]["serverRelativeURL"];
    assert_eq!(url, "/openapi/v3/apis/toys.example.com/v1?hash=T0Y");
    assert_eq!(get(url.as_str().expect("a URL")).await["toys"], true);
    let all = get("/openapi/v2").await;
    assert!(
        all["paths"]["/apis/toys.example.com/v1/toys"].is_object()
            && all["paths"]["/api/v1/pods"].is_object()
    );
    machine.stop().await;
}

/// Bad inputs 9 and 10.
#[tokio::test]
async fn connections_are_upgraded_or_closed_and_redirects_end_here() {
    let (machine, toys, authority, _node) = served().await;
    available(&machine, &authority).await;
    let root = root(&machine);
    let (code, _, text) = read(ask(&machine, &root, &format!("GET {TOYS}/away"), &[], "").await).await;
    let words = "the backend attempted to redirect this request, which is not permitted";
    assert_eq!((code, message(&text).as_str()), (502, words));

    let upgrade = [("connection", "Upgrade"), ("upgrade", "echo")];
    let answer = ask(&machine, &root, &format!("GET {TOYS}/talk/connect"), &upgrade, "").await;
    assert_eq!((answer.status().as_u16(), answer.headers()["upgrade"].as_bytes()), (101, &b"echo"[..]));
    let mut stream = TokioIo::new(hyper::upgrade::on(answer).await.expect("an upgrade"));
    stream.write_all(b"hello").await.expect("written");
    let mut heard = [0; 5];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("in time").expect("bytes");
    assert_eq!(&heard, b"hello");
    drop(stream);

    toys.asked();
    let answer = ask(&machine, &root, &format!("GET {TOYS}/silent/connect"), &upgrade, "").await;
    assert_eq!((answer.status().as_u16(), answer.headers()["connection"].as_bytes()), (404, &b"close"[..]));
    let asked = toys.asked();
    assert_eq!(asked.len(), 1, "what follows a failed upgrade reaches nobody: {asked:?}");
    machine.stop().await;
}

/// A certificate of the front proxies' authority.
fn front_proxy(machine: &Machine, name: &str) -> Arc<Identity> {
    let file = machine.cluster.file("server/tls/front-proxy-ca.pem");
    let blocks = pem::parse_many(&file).expect("PEM");
    let key = blocks.iter().find(|block| block.tag() != "CERTIFICATE").map(pem::encode).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&file, KeyPair::from_pem(&key).expect("a key")).expect("a CA");
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    let identity = Identity::default();
    identity.replace(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("an identity");
    Arc::new(identity)
}

/// Bad input 12.
#[tokio::test]
async fn only_front_proxies_say_who_asks() {
    let machine = Machine::start(local()).await;
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let body = r#"{"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}"#;
    let whoami = async |identity: &Arc<Identity>, headers: &[(&str, &str)]| {
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        let (code, _, text) =
            read(ask(&machine, identity, &format!("POST {path}"), &headers, body).await).await;
        let answer: Value = serde_json::from_str(&text).unwrap_or_default();
        (code, answer["status"]["userInfo"].clone())
    };
    let vouched = [("x-remote-user", "ann"), ("x-remote-group", "kids"), ("x-remote-extra-Team", "red")];
    let proxy = front_proxy(&machine, FRONT_PROXY);
    let (code, ann) = whoami(&proxy, &vouched).await;
    let wanted =
        json!({"username": "ann", "groups": ["kids", "system:authenticated"], "extra": {"team": ["red"]}});
    assert_eq!((code, &ann), (201, &wanted));
    assert_eq!(whoami(&proxy, &[]).await.0, 401, "it is nobody itself");
    assert_eq!(whoami(&front_proxy(&machine, "somebody"), &vouched).await.0, 401, "it has another name");
    let bob = machine.identity("bob", "grown-ups", SignedDuration::from_hours(1));
    let (code, who) = whoami(&bob, &vouched).await;
    assert_eq!((code, &who["username"], &who["groups"][0]), (201, &json!("bob"), &json!("grown-ups")));
    let stranger = Arc::new(Identity::default());
    let (chain, key) = Authority::new().sign("front-proxy-client");
    let key = pem::encode(&pem::Pem::new("PRIVATE KEY", key.secret_der().to_vec()));
    let chain = pem::encode(&pem::Pem::new("CERTIFICATE", chain[0].to_vec()));
    stranger.replace(chain.as_bytes(), key.as_bytes()).expect("an identity");
    assert_eq!(whoami(&stranger, &vouched).await.0, 401, "somebody else has signed it");
    let (code, _) = machine.cluster.outside(None, &vouched, "POST", path, Some(&json!({}))).await;
    assert_eq!(code, 401, "it shows no certificate");
    machine.stop().await;
}

/// Bad input 12: whoever is a client would be anybody.
#[tokio::test]
async fn a_front_proxys_authority_that_signs_clients_needs_names() {
    let machine = Machine::start(local()).await;
    let pki = &machine.cluster.pki;
    let tls = || pki.server_config().expect("TLS");
    let both = |names: &[&str]| Arc::new(RequestHeader::usual(pki.ca_certificate(), names));
    assert!(matches!(tls().with_front_proxies(both(&[])), Err(TlsError::EveryClientAProxy)));
    tls().with_front_proxies(both(&["front"])).expect("with names");
    machine.stop().await;
}

#[tokio::test]
async fn what_this_server_answers_for_is_listed() {
    let machine = Machine::start(local()).await;
    assert_eq!(
        reason(&machine, "v1.apps", "Local").await,
        ("True".to_owned(), "Local APIServices are always available".to_owned())
    );
    let name = "toys.toys.example.com";
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let schema = json!({"openAPIV3Schema": {"type": "object"}});
    let definition = json!({"metadata": {"name": name}, "spec": {"group": "toys.example.com", "scope": "Namespaced",
        "names": {"plural": "toys", "kind": "Toy"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema}]}});
    machine.cluster.must(&admin(), "POST", definitions, Some(&definition)).await;
    reason(&machine, NAME, "Local").await;
    let path = format!("{SERVICES}/{NAME}");
    let found = machine.cluster.must(&admin(), "GET", &path, None).await;
    assert_eq!(found["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    // It is made again, and what somebody else has made is left alone.
    machine.cluster.must(&admin(), "DELETE", &path, None).await;
    reason(&machine, NAME, "Local").await;
    let mut own = machine.cluster.must(&admin(), "GET", &path, None).await;
    own["metadata"]["labels"] = json!({});
    own["spec"]["service"] = json!({"namespace": "default", "name": "web"});
    machine.cluster.must(&admin(), "PUT", &path, Some(&own)).await;
    reason(&machine, NAME, "ServiceNotFound").await;
    assert_eq!(machine.cluster.send(&admin(), "GET", TOYS, None).await.0, 503);
    machine.cluster.must(&admin(), "DELETE", &path, None).await;
    reason(&machine, NAME, "Local").await;
    assert_eq!(machine.cluster.send(&admin(), "GET", TOYS, None).await.0, 200);
    machine.cluster.must(&admin(), "DELETE", &format!("{definitions}/{name}"), None).await;
    let gone = async {
        while machine.cluster.send(&admin(), "GET", &path, None).await.0 != 404 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("gone with the definition");
    machine.stop().await;
}
