//! What is approved, signed and cleaned away.

use api_machinery::entropy::Entropy;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use k8s_openapi::api::core::v1::Node;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use serde_json::{Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::approver::{Verdict, decide};
use super::cleaner::deadline;
use super::request::{Asked, parse};
use super::signer::is_due;
use super::{API_CLIENT, Authority, KUBELET_CLIENT, KUBELET_SERVING};

fn pkcs10(name: &str, group: &str, alternatives: &[&str]) -> String {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, group);
    for name in alternatives {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        });
    }
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn asked(name: &str, group: &str, alternatives: &[&str]) -> Asked {
    parse(pkcs10(name, group, alternatives).as_bytes()).unwrap()
}

fn request(signer: &str, usages: &[&str], user: &str, rest: Value) -> CertificateSigningRequest {
    let mut object = json!({
        "metadata": {"name": "r", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "request": "", "signerName": signer, "usages": usages, "username": user,
            "groups": ["system:nodes", "system:authenticated"],
        },
    });
    object["status"] = rest;
    serde_json::from_value(object).unwrap()
}

const CLIENT: [&str; 2] = ["digital signature", "client auth"];
const SERVER: [&str; 2] = ["digital signature", "server auth"];

#[test]
fn what_signers_issue() {
    let node = "system:node:a";
    let nodes = "system:nodes";
    let table: [(&str, &[&str], Asked, bool); 13] = [
        (KUBELET_CLIENT, &CLIENT, asked(node, nodes, &[]), true),
        (
            KUBELET_CLIENT,
            &["key encipherment", "digital signature", "client auth"],
            asked(node, nodes, &[]),
            true,
        ),
        (KUBELET_CLIENT, &SERVER, asked(node, nodes, &[]), false),
        (KUBELET_CLIENT, &["client auth"], asked(node, nodes, &[]), false),
        (KUBELET_CLIENT, &CLIENT, asked(node, "system:masters", &[]), false),
        (KUBELET_CLIENT, &CLIENT, asked("admin", nodes, &[]), false),
        (KUBELET_CLIENT, &CLIENT, asked(node, nodes, &["a"]), false),
        (KUBELET_SERVING, &SERVER, asked(node, nodes, &["a", "192.0.2.1"]), true),
        (KUBELET_SERVING, &SERVER, asked(node, nodes, &[]), false),
        (KUBELET_SERVING, &CLIENT, asked(node, nodes, &["a"]), false),
        (API_CLIENT, &["client auth"], asked("ann", "team", &[]), true),
        (API_CLIENT, &["client auth", "server auth"], asked("ann", "team", &[]), false),
        ("example.com/x", &CLIENT, asked(node, nodes, &[]), false),
    ];
    for (signer, usages, asked, good) in table {
        let usages: Vec<String> = usages.iter().map(|usage| (*usage).to_owned()).collect();
        assert_eq!(asked.fits(signer, &usages).is_ok(), good, "{signer} {usages:?} {asked:?}");
    }
}

#[test]
fn a_request_that_another_key_signed_is_none() {
    let text = pkcs10("system:node:a", "system:nodes", &[]);
    let mut bytes = pem::parse(&text).unwrap().into_contents();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", bytes));
    assert!(parse(forged.as_bytes()).is_err());
    assert!(parse(b"nonsense").is_err());
    assert!(parse(text.replace("CERTIFICATE REQUEST", "CERTIFICATE").as_bytes()).is_err());
}

#[test]
fn what_is_approved() {
    let node: Node = serde_json::from_value(json!({
        "metadata": {"name": "a"}, "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"}, {"type": "Hostname", "address": "host-a"},
        ]},
    }))
    .unwrap();
    let (name, nodes) = ("system:node:a", "system:nodes");
    let client = asked(name, nodes, &[]);
    let by = |user: &str| request(KUBELET_CLIENT, &CLIENT, user, json!({}));
    let ways = |verdict: Verdict| match verdict {
        Verdict::Ask(ways) => ways.into_iter().map(|(way, _)| way).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(ways(decide(&by(name), &client, None)), ["selfnodeclient", "nodeclient"]);
    assert_eq!(ways(decide(&by("system:bootstrap:abcdef"), &client, None)), ["nodeclient"]);
    let serving = |user: &str, names: &[&str], node: Option<&Node>| {
        let request = request(KUBELET_SERVING, &SERVER, user, json!({}));
        matches!(decide(&request, &asked(name, nodes, names), node), Verdict::Approve(_))
    };
    assert!(serving(name, &["a", "host-a", "192.0.2.1", "127.0.0.1"], Some(&node)));
    assert!(!serving(name, &["a", "192.0.2.2"], Some(&node)), "not its address");
    assert!(!serving(name, &["kubernetes.default.svc"], Some(&node)), "not its name");
    assert!(!serving(name, &["a"], None), "no such node yet");
    assert!(!serving("system:node:b", &["a"], Some(&node)), "somebody else asks");
    assert!(!serving("system:bootstrap:abcdef", &["a"], Some(&node)), "a token is not a node");
    let network = |user: &str, common_name: &str, group: &str| {
        let request = request(API_CLIENT, &CLIENT, user, json!({}));
        matches!(decide(&request, &asked(common_name, group, &[]), None), Verdict::Approve(_))
    };
    let group = "skiff:node-network";
    assert!(network(name, "skiff:node-network:a", group));
    assert!(!network(name, "skiff:node-network:b", group), "another node's");
    assert!(!network(name, "skiff:node-network:a", "system:masters"), "another group");
    assert!(!network(name, "ann", group), "another name");
    assert!(!network("ann", "skiff:node-network:a", group), "no node asks");
}

#[test]
fn what_is_signed() {
    let approved = json!({"conditions": [{"type": "Approved", "status": "True"}]});
    assert!(is_due(&request(KUBELET_CLIENT, &CLIENT, "u", approved.clone())));
    assert!(!is_due(&request("example.com/x", &CLIENT, "u", approved.clone())));
    for status in [
        json!({}),
        json!({"conditions": [{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]}),
        json!({"conditions": approved["conditions"], "certificate": "eA=="}),
    ] {
        assert!(!is_due(&request(KUBELET_CLIENT, &CLIENT, "u", status.clone())), "{status}");
    }
}

fn authority() -> (Authority, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.not_before = rcgen::date_time_ymd(2026, 1, 1);
    params.not_after = rcgen::date_time_ymd(2027, 6, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().pem();
    let authority = Authority::from_pem(&certificate, &key.serialize_pem(), Entropy::seeded(1)).unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    assert!(Authority::from_pem(&certificate, &other, Entropy::seeded(1)).is_err(), "another key");
    (authority, certificate)
}

#[test]
fn a_certificate_is_what_was_asked_for() {
    let (authority, ca) = authority();
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    let usages = SERVER.map(str::to_owned);
    let asked = asked("system:node:a", "system:nodes", &["a", "192.0.2.1"]);
    let text = authority.sign(&asked, &usages, Some(7200), now).unwrap();
    let block = pem::parse(&text).unwrap();
    let (rest, parsed) = X509Certificate::from_der(block.contents()).unwrap();
    assert!(rest.is_empty());
    let ca = pem::parse(ca).unwrap();
    let (_, ca) = X509Certificate::from_der(ca.contents()).unwrap();
    parsed.verify_signature(Some(ca.public_key())).unwrap();
    assert_eq!(parsed.issuer().as_raw(), ca.subject().as_raw());
    assert_eq!(parsed.subject().as_raw(), asked.subject);
    assert_eq!(parsed.public_key().raw, asked.public_key);
    assert!(!parsed.is_ca());
    let validity = parsed.validity();
    assert_eq!(validity.not_before.timestamp(), now.as_second() - 300);
    assert_eq!(validity.not_after.timestamp(), now.as_second() + 7200);
    let usage = parsed.extended_key_usage().unwrap().unwrap().value;
    assert!(usage.server_auth && !usage.client_auth);
    let usage = parsed.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_encipherment() && !usage.key_cert_sign());
    let names = parsed.subject_alternative_name().unwrap().unwrap().value;
    assert_eq!(names.general_names.len(), 2);
}

#[test]
fn a_certificate_does_not_outlive_its_authority() {
    let (authority, _) = authority();
    let usages = CLIENT.map(str::to_owned);
    let asked = asked("system:node:a", "system:nodes", &[]);
    let ends = |seconds: Option<i32>, now: &str| {
        let now: Timestamp = now.parse().unwrap();
        let text = authority.sign(&asked, &usages, seconds, now)?;
        let block = pem::parse(&text).map_err(|error| error.to_string())?;
        let (_, parsed) = X509Certificate::from_der(block.contents()).map_err(|error| error.to_string())?;
        Ok::<_, String>(parsed.validity().not_after.timestamp() - now.as_second())
    };
    assert_eq!(ends(None, "2026-01-02T00:00:00Z"), Ok(365 * 24 * 3600));
    assert_eq!(ends(Some(i32::MAX), "2026-01-02T00:00:00Z"), Ok(365 * 24 * 3600));
    assert_eq!(ends(Some(1), "2026-01-02T00:00:00Z"), Ok(600));
    assert_eq!(ends(None, "2027-05-31T00:00:00Z"), Ok(24 * 3600));
    assert!(ends(None, "2027-06-02T00:00:00Z").is_err());
}

#[test]
fn a_short_life_is_mostly_ahead() {
    let authority = authority().0.with_longest(SignedDuration::from_secs(30));
    let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
    for wanted in [None, Some(600), Some(i32::MAX)] {
        let text = authority.sign(&asked("a", "b", &[]), &CLIENT.map(str::to_owned), wanted, now).unwrap();
        let block = pem::parse(&text).unwrap();
        let (_, parsed) = X509Certificate::from_der(block.contents()).unwrap();
        let validity = parsed.validity();
        let life = (validity.not_before.timestamp(), validity.not_after.timestamp());
        assert_eq!(life, (now.as_second() - 3, now.as_second() + 30), "{wanted:?}");
    }
}

#[test]
fn requests_go_when_they_are_of_no_use() {
    let created: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
    let hours = |request: &CertificateSigningRequest| deadline(request).duration_since(created).as_hours();
    let decided = |kind: &str| {
        let condition = json!({"type": kind, "status": "True", "lastUpdateTime": "2026-01-01T02:00:00Z"});
        request(KUBELET_CLIENT, &CLIENT, "u", json!({"conditions": [condition]}))
    };
    assert_eq!(hours(&request(KUBELET_CLIENT, &CLIENT, "u", json!({}))), 24);
    for kind in ["Approved", "Denied", "Failed"] {
        assert_eq!(hours(&decided(kind)), 3, "{kind}");
    }
    let (authority, _) = authority();
    let now = created + SignedDuration::from_hours(2);
    let certificate =
        authority.sign(&asked("a", "b", &[]), &CLIENT.map(str::to_owned), Some(600), now).unwrap();
    let mut issued = decided("Approved");
    issued.status.as_mut().unwrap().certificate = Some(ByteString(certificate.into_bytes()));
    assert_eq!(deadline(&issued), now + SignedDuration::from_mins(10));
}
