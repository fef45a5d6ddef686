//! The bootstrap signer: the ConfigMap `cluster-info` in `kube-public` holds a kubeconfig with the server and its CA, and
//! one signature (detached JWS, HS256) for each bootstrap token that is for signing. Whoever knows a token can tell that
//! the CA is the right one, before he has anything else.
//!
//! Reads that ConfigMap and the tokens, writes the former. Woken by changes of either and when a token expires. It differs
//! from upstream's in that it makes the ConfigMap, which there is kubeadm's to do.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;

use super::{entry, expiration};
use crate::Informers;
use crate::answers::{is_conflict, is_not_found, namespace_terminates};
use crate::informers::CLUSTER_INFO;
use crate::wiring::{self, Cache};

const NAMESPACE: &str = "kube-public";
const KUBECONFIG: &str = "kubeconfig";
const SIGNATURE: &str = "jws-kubeconfig-";

#[derive(Clone)]
struct Publisher {
    context: Context,
    published: Informer<ConfigMap>,
    tokens: Informer<Secret>,
    kubeconfig: Option<Arc<str>>,
}

/// The kubeconfig of a server for whoever has no credentials yet.
pub fn kubeconfig(server: &str, authority: &str) -> String {
    let authority = STANDARD.encode(authority);
    format!(
        "apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: {authority}
    server: {server}
  name: \"\"
contexts: null
current-context: \"\"
kind: Config
preferences: {{}}
users: null
"
    )
}

/// Starts the publisher. Without a kubeconfig it signs what others have published.
pub fn start(context: &Context, informers: &Informers, kubeconfig: Option<String>) {
    let queue: Queue<String> = Queue::new();
    queue.add(CLUSTER_INFO.to_owned());
    let keys = queue.clone();
    informers.bootstrap_tokens.on_change(move |_| keys.add(CLUSTER_INFO.to_owned()));
    let keys = queue.clone();
    informers.cluster_info.on_change(move |_| keys.add(CLUSTER_INFO.to_owned()));
    let publisher = Publisher {
        context: context.clone(),
        published: informers.cluster_info.clone(),
        tokens: informers.bootstrap_tokens.clone(),
        kubeconfig: kubeconfig.map(Into::into),
    };
    let caches: [&dyn Cache; 2] = [&informers.cluster_info, &informers.bootstrap_tokens];
    wiring::run(context, ("bootstrap-signer", queue, 1), &caches, publisher, |publisher, _| async move {
        publisher.reconcile().await
    });
}

/// The detached signature of a text by a token: header and signature, nothing between.
pub fn signature(content: &str, id: &str, secret: &str) -> String {
    let header = URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"HS256\",\"kid\":\"{id}\"}}"));
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(content));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!("{header}..{}", URL_SAFE_NO_PAD.encode(tag))
}

/// What the ConfigMap should hold, given what it holds, and when that changes by itself.
pub(super) fn plan(
    known: &BTreeMap<String, String>,
    kubeconfig: Option<&str>,
    tokens: &[Arc<Secret>],
    now: Timestamp,
) -> (BTreeMap<String, String>, Option<Timestamp>) {
    let mut wanted: BTreeMap<String, String> = known
        .iter()
        .filter(|(key, _)| !key.starts_with(SIGNATURE))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    if let Some(kubeconfig) = kubeconfig {
        wanted.insert(KUBECONFIG.to_owned(), kubeconfig.to_owned());
    }
    let Some(content) = wanted.get(KUBECONFIG).cloned() else { return (wanted, None) };
    let mut next = None;
    for token in tokens {
        let (id, secret) = (entry(token, "token-id"), entry(token, "token-secret"));
        let named = token.metadata.name.as_deref() == Some(format!("bootstrap-token-{id}").as_str());
        if !named || secret.is_empty() || entry(token, "usage-bootstrap-signing") != "true" {
            continue;
        }
        match expiration(token) {
            Some(end) if end <= now => continue,
            Some(end) => next = Some(next.map_or(end, |known: Timestamp| known.min(end))),
            None => {}
        }
        wanted.insert(format!("{SIGNATURE}{id}"), signature(&content, id, secret));
    }
    (wanted, next)
}

impl Publisher {
    async fn reconcile(&self) -> kube::Result<Next> {
        let known = self.published.get(&ObjectKey::new(NAMESPACE, CLUSTER_INFO));
        let data = known.as_ref().and_then(|known| known.data.clone()).unwrap_or_default();
        let now = self.context.clock.now();
        let (wanted, next) = plan(&data, self.kubeconfig.as_deref(), &self.tokens.list(), now);
        let next = next.map_or(Next::Done, |end| Next::After(end.duration_since(now).unsigned_abs()));
        let api: Api<ConfigMap> = Api::namespaced(self.context.client.clone(), NAMESPACE);
        let written = match known {
            None if wanted.is_empty() => return Ok(next),
            None => {
                let map = ConfigMap {
                    metadata: ObjectMeta { name: Some(CLUSTER_INFO.to_owned()), ..ObjectMeta::default() },
                    data: Some(wanted),
                    ..ConfigMap::default()
                };
                api.create(&PostParams::default(), &map).await
            }
            Some(_) if wanted == data => return Ok(next),
            Some(known) => {
                let map = ConfigMap { data: Some(wanted), ..(*known).clone() };
                api.replace(CLUSTER_INFO, &PostParams::default(), &map).await
            }
        };
        match written {
            Ok(_) => Ok(next),
            // The change that was not seen yet wakes this again.
            Err(error) if is_conflict(&error) || is_not_found(&error) || namespace_terminates(&error) => {
                Ok(next)
            }
            Err(error) => Err(error),
        }
    }
}
