//! Tokens of service accounts: signature and time are checked by `tokens`, and here whether the account and what the
//! token is bound to are still there. That is looked up for every request, so a token ends with its pod.

use std::sync::Arc;

use api_machinery::meta;
use api_machinery::status::ApiError;
use http::HeaderValue;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{AUTHENTICATED, Authenticator, CREDENTIAL};
use crate::tokens::{Claims, LEEWAY, Reference};
use crate::types::UserInfo;

/// The token in an `Authorization` header, if it has one.
pub fn token(header: Option<&HeaderValue>) -> Option<&str> {
    // Bytes that are no text are no token, but they are credentials: an empty token fails.
    let text = header?.to_str().unwrap_or("Bearer ?");
    let (scheme, token) = text.trim().split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

/// The user that a service account is.
pub fn account_user(namespace: &str, name: &str, uid: &str) -> UserInfo {
    let own = format!("system:serviceaccounts:{namespace}");
    UserInfo {
        uid: uid.to_owned(),
        ..UserInfo::new(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &["system:serviceaccounts", &own, AUTHENTICATED],
        )
    }
}

/// Who a token is. Why one is refused is logged and not told.
pub async fn user(authenticator: &Authenticator, token: &str) -> Result<UserInfo, ApiError> {
    match check(authenticator, token, authenticator.tokens.audiences()).await? {
        Ok((user, _)) => Ok(user),
        Err(reason) => {
            tracing::debug!(reason, "a bearer token was refused");
            Err(ApiError::unauthorized())
        }
    }
}

/// Fills in the status of a `TokenReview`.
pub async fn review(authenticator: &Authenticator, review: &mut Value) -> Result<(), ApiError> {
    let token = review.pointer("/spec/token").and_then(Value::as_str).unwrap_or_default();
    let asked = review.pointer("/spec/audiences").and_then(Value::as_array);
    let asked: Vec<String> =
        asked.into_iter().flatten().filter_map(|audience| audience.as_str().map(str::to_owned)).collect();
    let audiences = if asked.is_empty() { authenticator.tokens.audiences().to_vec() } else { asked.clone() };
    review["status"] = match check(authenticator, token, &audiences).await? {
        Ok((user, claims)) => {
            let matched: Vec<&String> =
                audiences.iter().filter(|audience| claims.aud.contains(audience)).collect();
            json!({"authenticated": true, "user": user_value(&user), "audiences": matched})
        }
        Err(reason) => json!({"user": {}, "error": format!("[invalid bearer token, {reason}]")}),
    };
    Ok(())
}

/// `UserInfo` as the API shows it.
pub fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name});
    if !user.uid.is_empty() {
        value["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        value["groups"] = user.groups.clone().into();
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

/// The user and the claims of a token, or why it is refused. The outer error is the server's own trouble.
async fn check(
    authenticator: &Authenticator,
    token: &str,
    audiences: &[String],
) -> Result<Result<(UserInfo, Arc<Claims>), String>, ApiError> {
    let now = authenticator.clock.now();
    let claims = match authenticator.tokens.verify(token, audiences, now) {
        Ok(claims) => claims,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let bound = &claims.kubernetes;
    let mut wanted = vec![("serviceaccounts", bound.namespace.as_str(), &bound.serviceaccount)];
    wanted.extend(bound.pod.as_ref().map(|pod| ("pods", bound.namespace.as_str(), pod)));
    wanted.extend(bound.secret.as_ref().map(|secret| ("secrets", bound.namespace.as_str(), secret)));
    // The node of a pod's token is information, that of a node's token is a bond.
    if bound.pod.is_none() {
        wanted.extend(bound.node.as_ref().map(|node| ("nodes", "", node)));
    }
    for (plural, namespace, reference) in wanted {
        let found = authenticator.lookup.get("", plural, namespace, &reference.name).await?;
        if let Err(reason) = lives(found, plural, reference, now) {
            return Ok(Err(reason));
        }
    }
    if claims.sub != format!("system:serviceaccount:{}:{}", bound.namespace, bound.serviceaccount.name) {
        return Ok(Err("the subject is not the service account".to_owned()));
    }
    Ok(Ok((user_of(&claims), claims)))
}

fn lives(
    found: Option<Arc<Value>>,
    plural: &str,
    reference: &Reference,
    now: Timestamp,
) -> Result<(), String> {
    let name = &reference.name;
    let Some(found) = found else { return Err(format!("{plural} {name} is gone")) };
    if meta::uid(&found) != reference.uid {
        return Err(format!("{plural} {name} is another one now"));
    }
    let horizon = now.checked_sub(SignedDuration::from_secs(LEEWAY)).unwrap_or(now);
    match meta::deletion_timestamp(&found) {
        Some(deadline) if deadline < horizon => Err(format!("{plural} {name} has been deleted")),
        _ => Ok(()),
    }
}

fn user_of(claims: &Claims) -> UserInfo {
    let bound = &claims.kubernetes;
    let mut user = account_user(&bound.namespace, &bound.serviceaccount.name, &bound.serviceaccount.uid);
    let mut extra = |key: &str, value: &str| {
        if !value.is_empty() {
            user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    for (kind, reference) in [("pod", &bound.pod), ("node", &bound.node)] {
        if let Some(reference) = reference {
            extra(&format!("{kind}-name"), &reference.name);
            extra(&format!("{kind}-uid"), &reference.uid);
        }
    }
    if !claims.jti.is_empty() {
        user.extra.insert(CREDENTIAL.to_owned(), vec![format!("JTI={}", claims.jti)]);
    }
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers() {
        let table = [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Basic YTpi", None),
            ("abc", None),
        ];
        for (header, want) in table {
            assert_eq!(token(Some(&HeaderValue::from_static(header))), want, "{header}");
        }
        assert_eq!(token(None), None);
        let bytes = HeaderValue::from_bytes(b"Bearer \xff").expect("allowed in a header");
        assert_eq!(token(Some(&bytes)), Some("?"));
    }

    #[test]
    fn accounts_are_users() {
        let user = account_user("ns", "sa", "u");
        assert_eq!(user.name, "system:serviceaccount:ns:sa");
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        assert_eq!(user_value(&user)["uid"], "u");
    }
}
