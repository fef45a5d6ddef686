//! The kubelet's server over TLS: who is let in, and logs as they are asked for.

use std::sync::Arc;

use component::identity::Identity;
use kubelet::config::ServerTls;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::machine::{Machine, is_ready, until, within};
use crate::pods::shell;
use crate::sandbox::{block_on, data_dir, isolated};

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        Self { pem: certificate.pem(), issuer: Issuer::new(parameters, key) }
    }

    /// Certificate and key of this name.
    fn issue(&self, name: &str) -> (String, String) {
        let mut parameters = CertificateParams::new(vec!["node-1".to_owned()]).expect("parameters");
        parameters.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}

async fn connect(port: u16, authority: &Authority, client: Option<(String, String)>) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("a certificate"))
        .expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match client {
        Some((certificate, key)) => {
            let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("a certificate")];
            builder
                .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key"))
                .expect("fits")
        }
        None => builder.with_no_client_auth(),
    };
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("connected");
    let name = ServerName::try_from("node-1").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("TLS")
}

/// The whole answer to one request.
async fn ask(mut stream: TlsStream<TcpStream>, method: &str, path: &str) -> (u16, String) {
    let request = format!("{method} {path} HTTP/1.0\r\nHost: node-1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer).await {
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof, "{error}");
    }
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.split(' ').nth(1).expect("a code").parse().expect("a number"), body.to_owned())
}

const LOG: &str = "/containerLogs/default/app/main";

#[test]
fn logs_are_served_to_the_api_server_only() {
    isolated("server::logs_are_served_to_the_api_server_only", || {
        block_on(async {
            let (_guard, data) = data_dir();
            let (authority, other) = (Authority::new(), Authority::new());
            let (certificate, key) = authority.issue("system:node:node-1");
            let tls = ServerTls {
                identity: Identity::from_pem(certificate.as_bytes(), key.as_bytes()).expect("an identity"),
                client_ca: authority.pem.clone().into_bytes(),
                clients: vec!["kube-apiserver".to_owned()],
            };
            let mut machine = Machine::new(&data);
            machine.config.server = Some((([127, 0, 0, 1], 10250).into(), tls));
            machine.start();
            let script = "echo one; echo two; echo three; trap 'echo bye; exit 0' TERM; while :; do sleep 1000 & wait $!; done";
            let path = machine
                .pod("app", json!({"containers": [shell(script)], "terminationGracePeriodSeconds": 5}));
            let status = machine.status(&path, "ready", is_ready).await;
            let port = machine.api.get("nodes/node-1").expect("it is there");
            assert_eq!(port.pointer("/status/daemonEndpoints/kubeletEndpoint/Port"), Some(&json!(10250)));

            let good = || Some(authority.issue("kube-apiserver"));
            until("it wrote everything", || {
                let uid = machine.api.get(&path).expect("it is there")["metadata"]["uid"].clone();
                let file = format!("agent/pod-logs/default_app_{}/main/0.log", uid.as_str().expect("text"));
                std::fs::read_to_string(data.join(file)).is_ok_and(|log| log.contains("three"))
            })
            .await;
            check_answers(&authority).await;
            refused_by_another_authority(&authority, &other).await;

            let mut follow = connect(10250, &authority, good()).await;
            let request = format!("GET {LOG}?follow=true&tailLines=1 HTTP/1.0\r\nHost: node-1\r\n\r\n");
            follow.write_all(request.as_bytes()).await.expect("sent");
            within(read_until(&mut follow, "three\n"), "the last line").await;
            crate::pods::signal_process_of(crate::pods::container_id(&status), "TERM");
            within(read_until(&mut follow, "bye\n"), "the end of the log").await;
            machine
                .status(&path, "restarted", |status| {
                    crate::machine::restarts(status) == 1 && is_ready(status)
                })
                .await;
            let previous = format!("{LOG}?previous=true&tailLines=1");
            let (code, body) = ask(connect(10250, &authority, good()).await, "GET", &previous).await;
            assert_eq!((code, body.as_str()), (200, "bye\n"));
            machine.api.delete_pod(&path, 1);
            machine.gone(&path).await;
            machine.end().await;
        });
    });
}

/// Every kind of question, by those who may ask and those who may not.
async fn check_answers(authority: &Authority) {
    let good = || Some(authority.issue("kube-apiserver"));
    let log = LOG;
    let cases = [
        ("GET", "/healthz", good(), 200, "ok"),
        ("GET", log, good(), 200, "one\ntwo\nthree\n"),
        ("GET", "/containerLogs/default/app/main?tailLines=1", good(), 200, "three\n"),
        ("GET", "/containerLogs/default/app/main?tailLines=x", good(), 400, "Invalid value"),
        (
            "GET",
            "/containerLogs/default/app/main?previous=true",
            good(),
            400,
            "previous terminated container \"main\" in pod \"app\" not found",
        ),
        (
            "GET",
            "/containerLogs/default/app/other",
            good(),
            404,
            "container \"other\" not found in pod \"app\"",
        ),
        ("GET", "/containerLogs/default/none/main", good(), 404, "pod \"none\" does not exist"),
        ("GET", "/containerLogs/../../etc/passwd", good(), 404, ""),
        ("GET", "/containerLogs/default/%2e%2e/main", good(), 404, "does not exist"),
        ("GET", "/pods", good(), 200, "PodList"),
        ("POST", log, good(), 405, ""),
        ("POST", "/run/default/app/main", good(), 404, ""),
        ("GET", "/metrics", good(), 404, ""),
        ("GET", "/healthz", None, 401, "Unauthorized"),
        ("GET", log, None, 401, "Unauthorized"),
        ("GET", log, Some(authority.issue("system:node:node-2")), 403, "Forbidden"),
    ];
    for (method, path, client, code, words) in cases {
        let (found, body) = within(ask(connect(10250, authority, client).await, method, path), path).await;
        assert!(found == code && body.contains(words), "{method} {path}: {found} {body:?}");
    }
}

/// A certificate of an authority that nobody knows does not get as far as HTTP.
async fn refused_by_another_authority(authority: &Authority, other: &Authority) {
    let mut stream = connect(10250, authority, Some(other.issue("kube-apiserver"))).await;
    let sent = stream.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").await;
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer).await;
    assert!((sent.is_err() || read.is_err()) && answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
}

async fn read_until(stream: &mut TlsStream<TcpStream>, end: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).ends_with(end) {
        let mut block = [0; 1024];
        let count = stream.read(&mut block).await.expect("read");
        assert!(count > 0, "it ended after {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&block[..count]);
    }
}
