//! What is published, and for how long.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use super::cluster_info::{kubeconfig, plan, signature};
use super::expiration;

fn token(id: &str, changes: &[(&str, &str)]) -> Arc<Secret> {
    let mut secret = Secret { metadata: Default::default(), ..Secret::default() };
    secret.metadata.name = Some(format!("bootstrap-token-{id}"));
    let entries =
        [("token-id", id), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];
    let data = secret.data.get_or_insert_default();
    for (key, value) in entries.iter().chain(changes) {
        data.insert((*key).to_owned(), k8s_openapi::ByteString(value.as_bytes().to_vec()));
    }
    Arc::new(secret)
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a_signature_is_a_detached_jws() {
    // Computed with another implementation of RFC 7515.
    let signed = signature("hello", "abcdef", "0123456789abcdef");
    assert_eq!(
        signed,
        "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..MxsnbCjBaYzcbNIFa06F-wuF9LX26rhMlrL4zA1511s"
    );
}

#[test]
fn tokens_that_are_for_signing_sign() {
    let now = at("2026-01-01T00:00:00Z");
    let text = kubeconfig("https://a:6443", "PEM");
    let tokens = [
        token("aaaaaa", &[]),
        token("bbbbbb", &[("usage-bootstrap-signing", "false")]),
        token("cccccc", &[("expiration", "2025-12-31T23:59:59Z")]),
        token("dddddd", &[("expiration", "2026-01-01T01:00:00Z")]),
        token("eeeeee", &[("token-id", "ffffff")]),
    ];
    let (wanted, next) = plan(&BTreeMap::new(), Some(&text), &tokens, now);
    let keys: Vec<&str> = wanted.keys().map(String::as_str).collect();
    assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "jws-kubeconfig-dddddd", "kubeconfig"]);
    assert_eq!(next, Some(at("2026-01-01T01:00:00Z")));
    assert_eq!(plan(&wanted, Some(&text), &tokens, now).0, wanted);
    // Gone tokens no longer sign; what others published stays.
    let mut known = wanted.clone();
    known.insert("other".to_owned(), "x".to_owned());
    let (fewer, _) = plan(&known, None, &tokens[..1], now);
    let keys: Vec<&str> = fewer.keys().map(String::as_str).collect();
    assert_eq!(keys, ["jws-kubeconfig-aaaaaa", "kubeconfig", "other"]);
    assert!(plan(&BTreeMap::new(), None, &tokens, now).0.is_empty());
}

#[test]
fn what_a_token_says_of_its_end() {
    for (said, want) in [
        ("", None),
        ("2026-01-01T00:00:00Z", Some(at("2026-01-01T00:00:00Z"))),
        ("2026-01-01T01:00:00+01:00", Some(at("2026-01-01T00:00:00Z"))),
        ("tomorrow", Some(Timestamp::UNIX_EPOCH)),
    ] {
        assert_eq!(expiration(&token("aaaaaa", &[("expiration", said)])), want, "{said}");
    }
    let empty: Secret = serde_json::from_value(json!({"metadata": {"name": "x"}})).unwrap();
    assert_eq!(expiration(&empty), None);
}
