//! What aggregated servers are told of how users prove who they are: the ConfigMap `extension-apiserver-authentication`.
//!
//! Servers of one cluster may have front proxies of their own: what each has to say is there beside what the others have.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::meta;
use http::StatusCode;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use serde_json::{Map, Value, json};

use crate::authn::certificate_ends;
use crate::bootstrap;
use crate::config::Authentication;
use crate::server::ApiServer;
use crate::watch::Selection;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "extension-apiserver-authentication";
const PATH: &str = "/api/v1/namespaces/kube-system/configmaps";
/// The pause after it could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Sees to it that what this server has to say is there, until it stops.
pub async fn keep(server: Arc<ApiServer>) {
    let resource = server.catalog().find("", "v1", "configmaps").cloned();
    let Some(cache) = resource.and_then(|resource| server.cache().resource(&resource)) else { return };
    let client = server.client(bootstrap::identity());
    let own = &server.config().authentication;
    let keeping = async {
        loop {
            let (found, mut changes) = cache.list_and_subscribe(&Selection::one(NAMESPACE, NAME));
            let found = found.first().and_then(|found| found.value());
            let known = found.as_deref().and_then(|found| found["data"].as_object());
            let Some(data) = merged(known, own, server.clock().now()) else {
                changes.wait().await;
                continue;
            };
            let request = match found {
                Some(found) => {
                    let mut found = Arc::unwrap_or_clone(found);
                    found["data"] = data.into();
                    bootstrap::send("PUT", &format!("{PATH}/{NAME}"), &found)
                }
                None => {
                    let metadata = json!({"name": NAME, "namespace": NAMESPACE});
                    let object =
                        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data});
                    bootstrap::send("POST", PATH, &object)
                }
            };
            match client.request::<Value>(request).await {
                Ok(written) => {
                    tracing::debug!(revision = meta::resource_version(&written), "{NAME} was written")
                }
                // Somebody else was faster.
                Err(kube::Error::Api(status)) if status.code == StatusCode::CONFLICT.as_u16() => {}
                Err(error) => {
                    tracing::warn!(%error, "{NAME} could not be written");
                    tokio::time::sleep(RETRY).await;
                }
            }
            if let Err(error) = server.cache().catch_up().await {
                tracing::warn!(%error, "{NAME} was written, but is not seen yet");
            }
        }
    };
    server.shutdown().run_until_cancelled(keeping).await;
}

/// What is known and what this server adds; `None` if that is nothing.
fn merged(
    known: Option<&Map<String, Value>>,
    own: &Authentication,
    now: Timestamp,
) -> Option<Map<String, Value>> {
    let text = |key: &str| known.and_then(|known| known.get(key)).and_then(Value::as_str).unwrap_or_default();
    let mut data = known.cloned().unwrap_or_default();
    let mut put = |key: &str, value: String| {
        if !value.is_empty() {
            data.insert(key.to_owned(), value.into());
        }
    };
    put("client-ca-file", bundle(text("client-ca-file"), &own.client_ca, now));
    if let Some(rules) = &own.request_header {
        let key = "requestheader-client-ca-file";
        put(key, bundle(text(key), &rules.authorities, now));
        let lists = [
            ("requestheader-allowed-names", &rules.allowed_names),
            ("requestheader-username-headers", &rules.username_headers),
            ("requestheader-uid-headers", &rules.uid_headers),
            ("requestheader-group-headers", &rules.group_headers),
            ("requestheader-extra-headers-prefix", &rules.extra_prefixes),
        ];
        for (key, own) in lists {
            put(key, list(text(key), own));
        }
    }
    (Some(&data) != known && !data.is_empty()).then_some(data)
}

/// The certificates of both that are still good, each once.
fn bundle(known: &str, own: &str, now: Timestamp) -> String {
    let mut all: Vec<pem::Pem> = Vec::new();
    for block in [known, own].into_iter().flat_map(|text| pem::parse_many(text).unwrap_or_default()) {
        let certificate = CertificateDer::from(block.contents());
        let good = certificate_ends(&certificate).is_some_and(|ends| ends > now);
        if good && !all.iter().any(|known| known.contents() == block.contents()) {
            all.push(block);
        }
    }
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    all.iter().map(|block| pem::encode_config(block, lines)).collect()
}

/// The words of both as a JSON list, each once.
fn list(known: &str, own: &[String]) -> String {
    let mut all: Vec<String> = serde_json::from_str(known).unwrap_or_default();
    for word in own {
        if !all.contains(word) {
            all.push(word.clone());
        }
    }
    json!(all).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    fn authority(year: i32) -> String {
        let mut params = CertificateParams::default();
        params.not_after = date_time_ymd(year, 1, 1);
        params
            .self_signed(&KeyPair::generate().expect("a key"))
            .expect("a certificate")
            .pem()
            .replace('\r', "")
    }

    #[test]
    fn what_others_have_said_stays() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().expect("a time");
        let own = |ca: &str, front: &str, names: &[&str]| Authentication {
            client_ca: ca.to_owned(),
            request_header: Some(crate::RequestHeader::usual(front, names)),
        };
        let [ca, first, second, old] = [2030, 2031, 2032, 2025].map(authority);
        let data = merged(None, &own(&ca, &first, &["a"]), now).expect("all of it");
        assert_eq!(
            (&data["client-ca-file"], &data["requestheader-client-ca-file"]),
            (&json!(ca), &json!(first))
        );
        assert_eq!(data["requestheader-extra-headers-prefix"], r#"["X-Remote-Extra-"]"#);
        assert_eq!(merged(Some(&data), &own(&ca, &first, &["a"]), now), None, "it is there");
        let both = merged(Some(&data), &own(&ca, &second, &["b"]), now).expect("more");
        assert_eq!(both["requestheader-client-ca-file"], format!("{first}{second}"));
        assert_eq!(both["requestheader-allowed-names"], r#"["a","b"]"#);
        assert_eq!(both["requestheader-username-headers"], r#"["X-Remote-User"]"#);
        let mut aged = data.clone();
        aged["requestheader-client-ca-file"] = format!("{old}{first}").into();
        assert_eq!(merged(Some(&aged), &own(&ca, &first, &["a"]), now).expect("less"), data);
        assert_eq!(merged(None, &Authentication::default(), now), None, "nothing to say");
    }
}
