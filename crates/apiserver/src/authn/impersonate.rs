//! Impersonation: `Impersonate-User` and its like make a request another's, if the right to do so was granted for every
//! part of the other identity.

use std::collections::BTreeMap;

use api_machinery::status::ApiError;
use http::HeaderMap;
use percent_encoding::percent_decode_str;

use super::{AUTHENTICATED, UNAUTHENTICATED, account_user};
use crate::authz::Authorizer;
use crate::request::authorize::forbidden;
use crate::types::{ANONYMOUS, Decision, RequestInfo, UserInfo};

const EXTRA: &str = "impersonate-extra-";
/// More parts than any identity has; each is authorized by itself.
const MAX_PARTS: usize = 256;

/// What the headers ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Asked {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

impl Asked {
    fn of(headers: &HeaderMap) -> Result<Option<Asked>, ApiError> {
        let mut asked = Asked::default();
        let mut parts = 0;
        for (name, value) in headers {
            let Some(part) = name.as_str().strip_prefix("impersonate-") else { continue };
            let text = value.to_str().map_err(|_| ApiError::bad_request(format!("{name} is not text")))?;
            let text = text.to_owned();
            parts += 1;
            match part {
                "user" => asked.user = text,
                "uid" => asked.uid = text,
                "group" => asked.groups.push(text),
                _ => {
                    let Some(key) = name.as_str().strip_prefix(EXTRA) else { continue };
                    let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
                    asked.extra.entry(key).or_default().push(text);
                }
            }
        }
        if parts > MAX_PARTS {
            return Err(ApiError::bad_request("too many impersonation headers"));
        }
        if asked == Asked::default() {
            return Ok(None);
        }
        if asked.user.is_empty() {
            return Err(ApiError::bad_request("requested impersonation without impersonating a user"));
        }
        Ok(Some(asked))
    }

    /// Namespace and name, if the user is a service account.
    fn account(&self) -> Option<(&str, &str)> {
        self.user.strip_prefix("system:serviceaccount:")?.split_once(':')
    }

    /// The rights that are needed.
    fn rights(&self) -> Vec<RequestInfo> {
        let right = |group: &str, resource: &str, name: &str| RequestInfo {
            verb: "impersonate".to_owned(),
            api_group: group.to_owned(),
            api_version: "v1".to_owned(),
            resource: resource.to_owned(),
            name: name.to_owned(),
            is_resource: true,
            ..RequestInfo::default()
        };
        let mut rights = vec![match self.account() {
            Some((namespace, name)) => {
                RequestInfo { namespace: namespace.to_owned(), ..right("", "serviceaccounts", name) }
            }
            None => right("", "users", &self.user),
        }];
        rights.extend(self.groups.iter().map(|group| right("", "groups", group)));
        for (key, values) in &self.extra {
            rights.extend(values.iter().map(|value| RequestInfo {
                subresource: key.clone(),
                ..right("authentication.k8s.io", "userextras", value)
            }));
        }
        if !self.uid.is_empty() {
            rights.push(right("authentication.k8s.io", "uids", &self.uid));
        }
        rights
    }

    fn into_user(self) -> UserInfo {
        let mut groups = match self.account() {
            Some((namespace, name)) if self.groups.is_empty() => account_user(namespace, name, "").groups,
            _ => self.groups,
        };
        let special = if self.user == ANONYMOUS { UNAUTHENTICATED } else { AUTHENTICATED };
        if !groups.iter().any(|group| group == AUTHENTICATED || group == UNAUTHENTICATED) {
            groups.push(special.to_owned());
        }
        UserInfo { name: self.user, uid: self.uid, groups, extra: self.extra }
    }
}

/// The user that the request is to count as.
pub async fn apply(
    user: UserInfo,
    headers: &HeaderMap,
    authorizer: &Authorizer,
) -> Result<UserInfo, ApiError> {
    let Some(asked) = Asked::of(headers)? else { return Ok(user) };
    for right in asked.rights() {
        if let Decision::Deny(reason) = authorizer.decide(&user, &right).await? {
            tracing::warn!(user = user.name, impersonated = asked.user, "impersonation was refused");
            return Err(forbidden(&user, &right, &reason));
        }
    }
    tracing::info!(user = user.name, impersonated = asked.user, "impersonation");
    Ok(asked.into_user())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::HeaderName;

    fn asked(pairs: &[(&'static str, &'static str)]) -> Result<Option<Asked>, ApiError> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Asked::of(&headers)
    }

    #[test]
    fn every_part_needs_its_right() {
        let parts = [
            ("impersonate-user", "ann"),
            ("impersonate-group", "a"),
            ("impersonate-group", "b"),
            ("impersonate-uid", "7"),
            ("impersonate-extra-acme.com%2fscope", "x"),
        ];
        let found = asked(&parts).expect("well formed").expect("something");
        let rights: Vec<String> = found
            .rights()
            .iter()
            .map(|right| {
                format!("{}/{}/{}/{}", right.api_group, right.resource, right.subresource, right.name)
            })
            .collect();
        let want = [
            "/users//ann",
            "/groups//a",
            "/groups//b",
            "authentication.k8s.io/userextras/acme.com/scope/x",
            "authentication.k8s.io/uids//7",
        ];
        assert_eq!(rights, want);
        assert_eq!(found.into_user().groups, ["a", "b", "system:authenticated"]);
    }

    #[test]
    fn special_users() {
        let account = asked(&[("impersonate-user", "system:serviceaccount:ns:sa")])
            .expect("well formed")
            .expect("something");
        assert_eq!(account.rights()[0].namespace, "ns");
        assert!(account.into_user().groups.contains(&"system:serviceaccounts:ns".to_owned()));
        let nobody = asked(&[("impersonate-user", ANONYMOUS)]).expect("well formed").expect("something");
        assert_eq!(nobody.into_user().groups, [UNAUTHENTICATED]);
        assert_eq!(asked(&[]).expect("well formed"), None);
        assert_eq!(asked(&[("impersonate-group", "system:masters")]).map_err(|error| error.code()), Err(400));
    }
}
