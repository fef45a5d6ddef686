//! Tunnels: the node's end (of the crate `component`) and the server's, over TLS on loopback. Who may open one, what may be
//! reached through it, and what ends it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use api_machinery::tunnel::{PATH, PROTOCOL};
use apiserver::egress::{Destination, Egress, Mode};
use apiserver::pki::Client;
use apiserver::{Config, serve};
use bytes::Bytes;
use component::Context;
use component::connect;
use component::identity::Identity;
use component::tunnel::targets::Targets;
use component::tunnel::{self};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use rcgen::{CertificateParams, DnType, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Cluster, admin};
use crate::fixture::PATIENCE;
use crate::kubelets::{Kubelet, LOG, local, objects, way};
use crate::tls::Authority;

/// A server behind its listener, one node with a pod, and the node's kubelet.
pub(super) struct Machine {
    pub(super) cluster: Cluster,
    pub(super) kubelet: Kubelet,
    pub(super) url: String,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
}

impl Machine {
    pub(super) async fn start(config: Config) -> Machine {
        let authority = Authority::new();
        let kubelet = Kubelet::start(&authority, "a").await;
        let cluster = Cluster::with(config, Arc::new(way(&authority)), true).await;
        cluster
            .must(
                &admin(),
                "POST",
                "/api/v1/namespaces/default/serviceaccounts",
                Some(&json!({"metadata": {"name": "default"}})),
            )
            .await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("https://{}", listener.local_addr().expect("an address"));
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let tls = cluster.pki.server_config().expect("TLS");
        tasks.spawn(serve::listen(cluster.server.clone(), listener, tls, shutdown.clone()));
        let machine = Machine { cluster, kubelet, url, tasks, shutdown };
        for (path, object) in objects(("127.0.0.1", machine.kubelet.address.port()), "a") {
            machine.cluster.must(&admin(), "POST", path, Some(&object)).await;
        }
        machine
    }

    /// A client certificate that the cluster's CA signed.
    pub(super) fn identity(&self, name: &str, group: &str, life: SignedDuration) -> Arc<Identity> {
        let identity = Identity::default();
        self.renew(&identity, name, group, life);
        Arc::new(identity)
    }

    fn renew(&self, identity: &Identity, name: &str, group: &str, life: SignedDuration) {
        let pki = &self.cluster.pki;
        let authority = KeyPair::from_pem(&pki.ca_key()).expect("a key");
        let issuer = Issuer::from_ca_cert_pem(pki.ca_certificate(), authority).expect("a CA");
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let ends = Clock::system().now() + life;
        params.not_after = std::time::SystemTime::from(ends).into();
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        identity.replace(certificate.pem().as_bytes(), key.serialize_pem().as_bytes()).expect("an identity");
    }

    /// The node's end, until the token is cancelled.
    fn agent(&self, identity: Arc<Identity>, kubelet: Vec<SocketAddr>) -> CancellationToken {
        let shutdown = self.shutdown.child_token();
        let context = Context {
            client: self.cluster.server.client(admin()),
            clock: Clock::system(),
            entropy: Entropy::seeded(1),
            tasks: self.tasks.clone(),
            shutdown: shutdown.clone(),
        };
        let config = tunnel::Config {
            node: "a".to_owned(),
            authority: self.cluster.pki.ca_certificate().as_bytes().into(),
            identity,
            targets: Arc::new(Targets::new(kubelet, None)),
        };
        let servers = watch::Sender::new(BTreeSet::from([self.url.clone()]));
        self.tasks.spawn(tunnel::keep(context, config, servers.subscribe()));
        shutdown
    }

    pub(super) fn node(&self) -> Arc<Identity> {
        self.identity("system:node:a", "system:nodes", SignedDuration::from_hours(1))
    }

    /// Waits until node `a` has this many tunnels.
    pub(super) async fn tunnels(&self, count: usize) {
        let there = async {
            while self.cluster.server.routes().tunnels("a") != count {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(2 * PATIENCE, there).await;
        let now = self.cluster.server.routes().tunnels("a");
        waited.unwrap_or_else(|_| panic!("{now} tunnels and not {count}"));
    }

    async fn log(&self, container: &str) -> (u16, Value) {
        self.cluster.send(&admin(), "GET", &format!("{LOG}?container={container}"), None).await
    }

    pub(super) async fn stop(self) {
        self.shutdown.cancel();
        self.tasks.close();
        tokio::time::timeout(PATIENCE, self.tasks.wait()).await.expect("everything ends");
        tokio::time::timeout(PATIENCE, self.cluster.server.stop()).await.expect("the server ends");
    }

    /// What is answered to somebody who asks for a tunnel.
    async fn ask(&self, identity: &Arc<Identity>, path: &str, headers: &[(&str, &str)]) -> (u16, Value) {
        let authority = self.cluster.pki.ca_certificate().as_bytes();
        let (stream, _) = connect::dedicated(&self.url, authority, identity).await.expect("a connection");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        let mut request = Request::get(path).header("host", "a");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let driver = self.tasks.spawn(async { drop(connection.with_upgrades().await) });
        let request = request.body(Empty::<Bytes>::new()).expect("a request");
        let response = sender.send_request(request).await.expect("an answer");
        let code = response.status().as_u16();
        let body = if code == 101 {
            Bytes::new()
        } else {
            response.into_body().collect().await.expect("a body").to_bytes()
        };
        driver.abort();
        (code, serde_json::from_slice(&body).unwrap_or_default())
    }

    /// The node's end of a tunnel that never says anything.
    async fn mute(&self, identity: &Arc<Identity>) -> impl AsyncReadExt + Unpin + use<> {
        let authority = self.cluster.pki.ca_certificate().as_bytes();
        let (mut stream, _) = connect::dedicated(&self.url, authority, identity).await.expect("a connection");
        let head =
            format!("GET {PATH}/a HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.expect("written");
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"HTTP/1.1 101");
        stream
    }
}

const UPGRADE: [(&str, &str); 2] = [("connection", "Upgrade"), ("upgrade", PROTOCOL)];

#[tokio::test]
async fn logs_come_through_the_nodes_tunnel() {
    let machine = Machine::start(local()).await;
    let agent = machine.agent(machine.node(), vec![machine.kubelet.address]);
    machine.tunnels(1).await;
    assert_eq!(machine.log("plain").await, (200, json!("one\ntwo\n")));
    assert_eq!(machine.log("redirect").await.0, 502);
    assert_eq!(machine.kubelet.asked.lock().expect("notes").len(), 2);
    agent.cancel();
    machine.tunnels(0).await;
    // There is a direct way in this test, and it is taken again.
    assert_eq!(machine.log("plain").await.0, 200);

    // That it is the tunnel's end that decides shows a node that lets nothing through.
    let closed = machine.agent(machine.node(), Vec::new());
    machine.tunnels(1).await;
    let (code, status) = machine.log("plain").await;
    let address = machine.kubelet.address;
    let words = format!(
        "Get \"https://{address}/containerLogs/default/p/plain\": dial tcp {address}: {address} may not be reached through \
         the tunnel of this node"
    );
    assert_eq!((code, status["message"].as_str()), (500, Some(words.as_str())));
    closed.cancel();
    machine.tunnels(0).await;

    // A kubelet that is not there.
    let gone = "127.0.0.1:1".parse().expect("an address");
    let agent = machine.agent(machine.node(), vec![gone]);
    machine.tunnels(1).await;
    let to = Destination::Kubelet { node: "a".to_owned(), address: gone };
    let error = machine.cluster.server.routes().dial(&to).await.err().expect("nobody listens").to_string();
    assert_eq!(error, "dial tcp 127.0.0.1:1: connect: connection refused");
    agent.cancel();
    machine.stop().await;
}

#[tokio::test]
async fn pods_are_reached_through_their_nodes_tunnel_or_not_at_all() {
    let machine = Machine::start(local()).await;
    let path = "/api/v1/nodes/a";
    let mut node = machine.cluster.must(&admin(), "GET", path, None).await;
    node["spec"] = json!({"podCIDR": "127.9.0.0/24", "podCIDRs": ["127.9.0.0/24"]});
    machine.cluster.must(&admin(), "PUT", path, Some(&node)).await;
    let agent = machine.agent(machine.node(), Vec::new());
    machine.tunnels(1).await;
    let to = Destination::Address("127.9.0.7:80".parse().expect("an address"));
    let error = machine.cluster.server.routes().dial(&to).await.err().expect("refused").to_string();
    assert_eq!(
        error,
        "dial tcp 127.9.0.7:80: 127.9.0.7:80 may not be reached through the tunnel of this node"
    );
    let other = Destination::Address("127.10.0.7:1".parse().expect("an address"));
    let error = machine.cluster.server.routes().dial(&other).await.err().expect("directly").to_string();
    assert_eq!(error, "dial tcp 127.10.0.7:1: connect: connection refused");
    agent.cancel();
    machine.stop().await;
}

#[tokio::test]
async fn a_node_opens_its_own_tunnel_and_nobody_else_does() {
    let machine = Machine::start(local()).await;
    let hour = SignedDuration::from_hours(1);
    let (node, other) = (machine.node(), machine.identity("system:node:b", "system:nodes", hour));
    let own = format!("{PATH}/a");
    let table = [
        (&node, &own, 101, ""),
        (&other, &own, 403, "node 'b' can only open its own tunnel"),
        (&other, &format!("{PATH}/b"), 404, "nodes \"b\" not found"),
        (&machine.identity("system:node:a", "x", hour), &own, 403, "User \"system:node:a\" cannot get path"),
        (
            &machine.identity("root", "system:masters", hour),
            &own,
            403,
            "only the node itself opens its tunnel",
        ),
        (
            &machine.identity("system:serviceaccount:default:default", "system:serviceaccounts", hour),
            &own,
            403,
            "cannot get path",
        ),
        (&Arc::default(), &own, 401, "Unauthorized"),
        (&node, &PATH.to_owned(), 403, "cannot get path"),
        (&node, &format!("{PATH}/a/b"), 403, "node 'a' can only open its own tunnel"),
    ];
    for (identity, path, code, words) in table {
        let (got, status) = machine.ask(identity, path, &UPGRADE).await;
        assert_eq!(got, code, "{path}: {status}");
        let message = status["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{path}: {message}");
    }
    let (code, status) = machine.ask(&node, &own, &[]).await;
    assert_eq!((code, status["reason"].as_str()), (400, Some("BadRequest")), "{status}");
    // A bearer token is no certificate.
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let wanted = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = machine.cluster.must(&admin(), "POST", path, Some(&wanted)).await;
    let header = format!("Bearer {}", token["status"]["token"].as_str().expect("a token"));
    let headers = [UPGRADE[0], UPGRADE[1], ("authorization", header.as_str())];
    assert_eq!(machine.ask(&Arc::default(), &own, &headers).await.0, 403);
    // Nor is a client in this process, which has no connection to upgrade.
    let certificate = Some(Client::Node);
    let (code, status) = machine.cluster.outside(certificate, &UPGRADE, "GET", &own, None).await;
    assert_eq!(code, 400, "{status}");
    machine.stop().await;

    let machine = Machine::start(Config { egress: Mode::Disabled, ..local() }).await;
    assert_eq!(machine.ask(&machine.node(), &own, &UPGRADE).await.0, 404);
    machine.stop().await;
}

#[tokio::test]
async fn a_node_that_is_deleted_loses_its_tunnel_and_what_goes_through_it() {
    let machine = Machine::start(local()).await;
    machine.agent(machine.node(), vec![machine.kubelet.address]);
    machine.tunnels(1).await;
    let request = crate::fixture::request("GET", &format!("{LOG}?container=stream&follow=true"), None);
    let (parts, body) = request.into_parts();
    let response = machine.cluster.server.call(admin(), Request::from_parts(parts, body.into())).await;
    assert_eq!(response.status(), 200);
    let mut body = response.into_body();
    machine.kubelet.lines.send("first\n").await.expect("the kubelet reads");
    let frame = tokio::time::timeout(PATIENCE, body.frame()).await.expect("in time").expect("a frame");
    assert_eq!(frame.expect("a good one").into_data().expect("data"), "first\n");

    let path = "/api/v1/nodes/a";
    let node = machine.cluster.must(&admin(), "GET", path, None).await;
    machine.cluster.must(&admin(), "DELETE", path, None).await;
    machine.tunnels(0).await;
    let end = tokio::time::timeout(PATIENCE, body.frame()).await.expect("it does not hang");
    assert!(end.is_none_or(|frame| frame.is_err()), "the log ends");
    tokio::time::timeout(PATIENCE, machine.kubelet.lines.closed()).await.expect("the kubelet hears of it");

    // It comes back by itself when the node does.
    let node = json!({"metadata": {"name": "a"}, "status": node["status"]});
    machine.cluster.must(&admin(), "POST", "/api/v1/nodes", Some(&node)).await;
    machine.tunnels(1).await;
    machine.stop().await;
}

#[tokio::test]
async fn a_tunnel_lives_no_longer_than_its_certificate() {
    let machine = Machine::start(local()).await;
    let identity = machine.identity("system:node:a", "system:nodes", SignedDuration::from_secs(3));
    machine.agent(identity.clone(), vec![machine.kubelet.address]);
    machine.tunnels(1).await;
    machine.tunnels(0).await;
    machine.renew(&identity, "system:node:a", "system:nodes", SignedDuration::from_hours(1));
    machine.tunnels(1).await;
    assert_eq!(machine.log("plain").await.0, 200);
    machine.stop().await;
}

#[tokio::test]
async fn a_dead_tunnel_is_noticed_within_30_seconds_and_old_ones_make_room() {
    let machine = Machine::start(local()).await;
    let node = machine.node();
    let mut first = machine.mute(&node).await;
    machine.tunnels(1).await;
    let mut others = Vec::new();
    for count in [2, 3, 4, 4] {
        others.push(machine.mute(&node).await);
        machine.tunnels(count).await;
    }
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, first.read_to_end(&mut rest)).await.expect("the oldest ends");
    assert!(ended.is_ok() || ended.is_err_and(|error| error.kind() == std::io::ErrorKind::UnexpectedEof));
    // From here on time passes whenever everybody waits.
    tokio::time::pause();
    let start = tokio::time::Instant::now();
    machine.tunnels(0).await;
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    tokio::time::resume();
    drop(others);
    machine.stop().await;
}
