//! Service account tokens for pods: asked for through the API, kept in memory, renewed when four fifths of their life
//! are over. A token that could not be renewed is used until it ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::Context;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;

use crate::lifecycle::uid;
use crate::podspec::{name, namespace, spec};

/// The life of a token for which none is asked.
const DEFAULT_LIFE: i64 = 3600;
/// No answer within this time is no answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    pod: String,
    account: String,
    audience: String,
    life: i64,
}

/// A token and when to ask for the next one.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub text: String,
    pub renew_at: Timestamp,
    expires: Timestamp,
}

#[derive(Default)]
pub(crate) struct Tokens {
    known: Mutex<BTreeMap<Key, Token>>,
}

impl Tokens {
    /// A token that is fresh enough, asked for if needed.
    pub async fn get(
        &self,
        context: &Context,
        pod: &Pod,
        audience: &str,
        life: Option<i64>,
    ) -> Result<Token, String> {
        let account = spec(pod).service_account_name.as_deref().unwrap_or("default");
        let life = life.unwrap_or(DEFAULT_LIFE);
        let key = Key {
            pod: uid(pod).to_owned(),
            account: account.to_owned(),
            audience: audience.to_owned(),
            life,
        };
        let now = context.clock.now();
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(token) = known.as_ref().filter(|token| token.renew_at > now) {
            return Ok(token.clone());
        }
        match ask(context, pod, account, audience, life).await {
            Ok(token) => {
                let mut table = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                table.insert(key, token.clone());
                Ok(token)
            }
            Err(error) => match known.filter(|token| token.expires > now) {
                Some(token) => {
                    tracing::warn!(%error, account, "cannot renew a service account token, using the old one");
                    Ok(Token { renew_at: now + Duration::from_secs(30), ..token })
                }
                None => Err(format!("failed to fetch token: {error}")),
            },
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|key, _| key.pod != uid);
    }
}

async fn ask(
    context: &Context,
    pod: &Pod,
    account: &str,
    audience: &str,
    life: i64,
) -> Result<Token, String> {
    let api = Api::<ServiceAccount>::namespaced(context.client.clone(), namespace(pod));
    let request = TokenRequest {
        spec: Some(TokenRequestSpec {
            audiences: Some(if audience.is_empty() { Vec::new() } else { vec![audience.to_owned()] }),
            expiration_seconds: Some(life),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(name(pod).to_owned()),
                uid: Some(uid(pod).to_owned()),
            }),
            ..TokenRequestSpec::default()
        }),
        ..TokenRequest::default()
    };
    let parameters = PostParams::default();
    let call = api.create_subresource::<_, TokenRequest>("token", account, &parameters, &request);
    let answer = tokio::time::timeout(ANSWER_LIMIT, call).await.map_err(|_| "no answer".to_owned())?;
    let status = answer.map_err(|error| error.to_string())?.status.unwrap_or_default();
    let text = status.token.filter(|token| !token.is_empty()).ok_or("an answer without a token")?;
    let now = context.clock.now();
    let expires = status.expiration_timestamp.ok_or("an answer without the token's end")?.0;
    let life = Duration::try_from(expires.duration_since(now)).unwrap_or(Duration::ZERO);
    Ok(Token { text, renew_at: now + life.mul_f64(0.8), expires })
}
