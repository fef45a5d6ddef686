//! Bootstrap tokens (`ID.SECRET`): what a node shows that has no certificate yet. Each is a Secret in `kube-system` that
//! says what the token is good for, for whom and until when; nothing about it is kept here.

use api_machinery::meta;
use api_machinery::status::ApiError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::Value;

use super::{AUTHENTICATED, Authenticator};
use crate::types::UserInfo;

/// The group of everybody who shows a bootstrap token.
const BOOTSTRAPPERS: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// The two parts of a token; `None` if it is no bootstrap token.
pub fn parse(token: &str) -> Option<(&str, &str)> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    token
        .split_once('.')
        .filter(|(id, secret)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret))
}

/// Who a token is. Why one is refused is logged and not told.
pub async fn user(authenticator: &Authenticator, id: &str, secret: &str) -> Result<UserInfo, ApiError> {
    let name = format!("bootstrap-token-{id}");
    let found = authenticator.lookup.get("", "secrets", "kube-system", &name).await?;
    let checked = match &found {
        Some(found) => check(found, id, secret, authenticator.clock.now()),
        None => Err("there is no such token".to_owned()),
    };
    checked.map_err(|reason| {
        tracing::info!(token = id, reason, "a bootstrap token was refused");
        ApiError::unauthorized()
    })
}

fn check(found: &Value, id: &str, secret: &str, now: Timestamp) -> Result<UserInfo, String> {
    if meta::deletion_timestamp(found).is_some() {
        return Err("the token is being deleted".to_owned());
    }
    if found["type"] != TYPE {
        return Err("the Secret is of another type".to_owned());
    }
    let entry = |key: &str| -> String {
        let encoded = found.pointer(&format!("/data/{key}")).and_then(Value::as_str).unwrap_or_default();
        let bytes = STANDARD.decode(encoded).unwrap_or_default();
        String::from_utf8(bytes).unwrap_or_default()
    };
    if !same(&entry("token-secret"), secret) || entry("token-id") != id {
        return Err("the secret part is another".to_owned());
    }
    let expiration = entry("expiration");
    if !expiration.is_empty() && expiration.parse::<Timestamp>().map_or(true, |end| end <= now) {
        return Err("the token has expired".to_owned());
    }
    if entry("usage-bootstrap-authentication") != "true" {
        return Err("the token is not for authentication".to_owned());
    }
    let mut groups = vec![BOOTSTRAPPERS.to_owned()];
    let extra = entry("auth-extra-groups");
    for group in extra.split(',').map(str::trim).filter(|group| !group.is_empty()) {
        if !is_group(group) {
            return Err(format!("{group:?} is not a group for bootstrap tokens"));
        }
        groups.push(group.to_owned());
    }
    groups.sort();
    groups.dedup();
    groups.push(AUTHENTICATED.to_owned());
    Ok(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

/// In a time that does not tell where they differ.
fn same(a: &str, b: &str) -> bool {
    let differences = a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    a.len() == b.len() && differences == 0
}

/// `system:bootstrappers:` and a name after it.
fn is_group(group: &str) -> bool {
    let Some(name) = group.strip_prefix("system:bootstrappers:") else { return false };
    let letter = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    name.len() <= 256
        && name.bytes().all(|byte| letter(byte) || byte == b':' || byte == b'-')
        && name.bytes().last().is_some_and(letter)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_token_looks_like() {
        for (token, good) in [
            ("abcdef.0123456789abcdef", true),
            ("abcdef.0123456789abcde", false),
            ("abcde.0123456789abcdef", false),
            ("ABCDEF.0123456789abcdef", false),
            ("abcdef0123456789abcdef", false),
            ("abcdef.0123456789abcdef.x", false),
        ] {
            assert_eq!(parse(token).is_some(), good, "{token}");
        }
    }

    #[test]
    fn what_a_token_is_good_for() {
        let now: Timestamp = "2026-06-01T12:00:00Z".parse().expect("a time");
        let good = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("auth-extra-groups", "system:bootstrappers:a,system:bootstrappers:kubeadm:default-node-token"),
            ("expiration", "2026-06-01T12:00:01Z"),
        ];
        let secret = |changes: &[(&str, &str)]| {
            let mut object = json!({"type": TYPE, "data": {}});
            for (key, value) in good.iter().chain(changes) {
                object["data"][*key] = STANDARD.encode(value).into();
            }
            object
        };
        let user = check(&secret(&[]), "abcdef", "0123456789abcdef", now).expect("good");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(
            user.groups,
            [
                "system:bootstrappers",
                "system:bootstrappers:a",
                "system:bootstrappers:kubeadm:default-node-token",
                "system:authenticated"
            ]
        );
        assert!(check(&secret(&[("expiration", "")]), "abcdef", "0123456789abcdef", now).is_ok());
        let table: [&[(&str, &str)]; 6] = [
            &[("expiration", "2026-06-01T12:00:00Z")],
            &[("expiration", "soon")],
            &[("usage-bootstrap-authentication", "false")],
            &[("auth-extra-groups", "system:masters")],
            &[("auth-extra-groups", "system:bootstrappers:")],
            &[("token-id", "abcdeg")],
        ];
        for changes in table {
            assert!(check(&secret(changes), "abcdef", "0123456789abcdef", now).is_err(), "{changes:?}");
        }
        assert!(check(&secret(&[]), "abcdef", "0123456789abcdeg", now).is_err());
        let mut other = secret(&[]);
        other["type"] = "Opaque".into();
        assert!(check(&other, "abcdef", "0123456789abcdef", now).is_err());
        let mut deleted = secret(&[]);
        deleted["metadata"]["deletionTimestamp"] = "2026-06-01T00:00:00Z".into();
        assert!(check(&deleted, "abcdef", "0123456789abcdef", now).is_err());
    }
}
