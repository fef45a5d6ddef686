//! Bootstrap tokens: `cluster_info` publishes which cluster this is, signed with every token that may, so that a node that
//! knows a token knows whom to trust; `cleaner` deletes tokens that have expired.

pub mod cleaner;
pub mod cluster_info;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;

/// The type of the Secrets.
pub const TYPE: &str = "bootstrap.kubernetes.io/token";
/// Where they are.
pub const NAMESPACE: &str = "kube-system";

/// An entry of a Secret as text.
fn entry<'a>(secret: &'a Secret, key: &str) -> &'a str {
    let bytes = secret.data.as_ref().and_then(|data| data.get(key));
    bytes.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).unwrap_or_default()
}

/// When a token ends; `None` if it does not. One that says nonsense has ended.
fn expiration(secret: &Secret) -> Option<Timestamp> {
    match entry(secret, "expiration") {
        "" => None,
        text => Some(text.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
    }
}
