//! Certificates that last, change when they must, and are refused when damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use jiff::{SignedDuration, Timestamp};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::*;

fn names() -> Names {
    Names {
        node_name: "node-1".to_owned(),
        hostname: "machine".to_owned(),
        addresses: vec!["192.0.2.7".parse().expect("an address")],
        service_address: Some("10.43.0.1".parse().expect("an address")),
        cluster_domain: "cluster.local".to_owned(),
        extra: vec!["api.example.com".to_owned()],
    }
}

fn start() -> Timestamp {
    "2026-06-01T00:00:00Z".parse().expect("a time")
}

fn load(dir: &Path, names: &Names, day: i64) -> Result<Pki, PkiError> {
    let now = start().checked_add(SignedDuration::from_hours(24 * day)).expect("a time");
    Pki::load_or_create(dir, names, &Clock::simulated(now), &Entropy::from_os())
}

#[tokio::test(start_paused = true)]
async fn what_is_made_is_kept() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = load(dir.path(), &names(), 0).expect("made");
    let again = load(dir.path(), &names(), 30).expect("read");
    assert_eq!(first.ca_certificate(), again.ca_certificate());
    assert_eq!(first.server().certificate(), again.server().certificate());
    assert_eq!(first.server().key_pem(), again.server().key_pem());
    assert_eq!(first.server().certificate_pem(), again.server().certificate_pem());
    for client in Client::ALL {
        assert_eq!(first.client(client).certificate(), again.client(client).certificate());
    }
    let issuer = "https://kubernetes.default.svc";
    let keys = [&first, &again].map(|pki| pki.tokens(issuer, Entropy::seeded(1)).expect("a key").jwks());
    assert_eq!(keys[0], keys[1]);
    first.server_config().expect("a listener's TLS");
    first.kubelets(component::connect::any_certificate().expect("TLS")).expect("a client's TLS");
    for entry in fs::read_dir(dir.path().join("server/tls")).expect("the folder") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
    }
}

#[tokio::test(start_paused = true)]
async fn subjects_and_names() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = load(dir.path(), &names(), 0).expect("made");
    let (_, server) = X509Certificate::from_der(pki.server().certificate()).expect("a certificate");
    let text = format!("{:?}", server.subject_alternative_name().expect("well formed").expect("there"));
    for name in [
        "\"kubernetes\"",
        "\"kubernetes.default\"",
        "\"kubernetes.default.svc\"",
        "\"kubernetes.default.svc.cluster.local\"",
        "\"localhost\"",
        "\"machine\"",
        "\"node-1\"",
        "\"api.example.com\"",
        "[10, 43, 0, 1]",
        "[192, 0, 2, 7]",
        "[127, 0, 0, 1]",
    ] {
        assert!(text.contains(name), "{name} is not in {text}");
    }
    let users = [
        (Client::Admin, "kubernetes-admin", "system:masters"),
        (Client::Scheduler, "system:kube-scheduler", ""),
        (Client::ControllerManager, "system:kube-controller-manager", ""),
        (Client::CloudControllerManager, "system:cloud-controller-manager", ""),
        (Client::KubeProxy, "system:kube-proxy", ""),
        (Client::Node, "system:node:node-1", "system:nodes"),
    ];
    for (client, name, group) in users {
        let (_, found) = X509Certificate::from_der(pki.client(client).certificate()).expect("a certificate");
        let subject = found.subject();
        let one = |found: Option<&str>| found.unwrap_or_default().to_owned();
        assert_eq!(one(subject.iter_common_name().next().and_then(|name| name.as_str().ok())), name);
        assert_eq!(one(subject.iter_organization().next().and_then(|group| group.as_str().ok())), group);
        let usage = found.extended_key_usage().expect("well formed").expect("there").value.clone();
        assert!(usage.client_auth && !usage.server_auth);
    }
}

#[tokio::test(start_paused = true)]
async fn renewed_when_names_change_or_the_end_is_near() {
    let dir = tempfile::tempdir().expect("a folder");
    let first = load(dir.path(), &names(), 0).expect("made");
    let moved = Names { addresses: vec!["192.0.2.8".parse().expect("an address")], ..names() };
    let second = load(dir.path(), &moved, 1).expect("read");
    assert_ne!(first.server().certificate(), second.server().certificate());
    assert_ne!(first.kubelet_serving().certificate(), second.kubelet_serving().certificate());
    assert_eq!(first.client(Client::Node).certificate(), second.client(Client::Node).certificate());
    let third = load(dir.path(), &moved, 300).expect("read");
    assert_ne!(second.server().certificate(), third.server().certificate());
    assert_ne!(first.client(Client::Admin).certificate(), third.client(Client::Admin).certificate());
    assert_eq!(first.ca_certificate(), third.ca_certificate());
    let renamed = Names { node_name: "node-2".to_owned(), ..moved };
    let fourth = load(dir.path(), &renamed, 301).expect("read");
    assert_ne!(third.client(Client::Node).certificate(), fourth.client(Client::Node).certificate());
    let error = load(dir.path(), &renamed, 4000).expect_err("the CA has ended");
    assert!(error.to_string().contains("ca.pem is damaged: the CA certificate has expired"), "{error}");
    let error = load(dir.path(), &names(), -4000).expect_err("the clock is wrong");
    assert!(error.to_string().contains("or the clock is wrong"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn damage_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    load(dir.path(), &names(), 0).expect("made");
    let tls = dir.path().join("server/tls");
    let other = fs::read_to_string(tls.join("admin.pem")).expect("exists");
    let ca = fs::read_to_string(tls.join("ca.pem")).expect("exists");
    let mixed = format!(
        "{}{}",
        &ca[..ca.find("-----BEGIN PRIVATE").expect("a key")],
        &other[other.find("-----BEGIN PRIVATE").expect("a key")..]
    );
    let damages: Vec<(&str, Vec<u8>)> = vec![
        ("ca.pem", ca.as_bytes()[..ca.len() / 2].to_vec()),
        ("ca.pem", mixed.into_bytes()),
        ("ca.pem", Vec::new()),
        ("server.pem", vec![0xff, 0xfe, 0x00]),
        ("service-account.key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec()),
    ];
    for (file, bytes) in damages {
        let path = tls.join(file);
        let good = fs::read(&path).expect("exists");
        fs::write(&path, bytes).expect("written");
        let error = load(dir.path(), &names(), 1).expect_err("damaged");
        assert!(matches!(&error, PkiError::Damaged { path: named, .. } if *named == path), "{error}");
        fs::write(&path, good).expect("written");
    }
    load(dir.path(), &names(), 1).expect("whole again");
}

#[tokio::test(start_paused = true)]
async fn kubeconfigs() {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = load(dir.path(), &names(), 0).expect("made");
    pki.write_kubeconfigs("https://127.0.0.1:6443").expect("written");
    let path = dir.path().join("server/cred/admin.kubeconfig");
    let text = fs::read_to_string(&path).expect("exists");
    assert_eq!(text, pki.kubeconfig(Client::Admin, "https://127.0.0.1:6443"));
    assert!(text.contains("server: https://127.0.0.1:6443\n") && text.contains("current-context: skiff\n"));
    assert_eq!(fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
}
