//! Users that a front proxy vouches for: it shows a certificate of its own authority and says in headers who asks.
//!
//! That the certificate chains to that authority was proven in the TLS handshake. Without it the headers are nothing.

use std::sync::Arc;

use api_machinery::status::ApiError;
use http::header::{HeaderMap, HeaderName};
use jiff::Timestamp;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use rustls_pki_types::CertificateDer;

use super::certificate;
use super::{AUTHENTICATED, UNAUTHENTICATED};
use crate::types::{ANONYMOUS, UserInfo};

/// The headers by which this server says to aggregated ones who asks.
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";
/// What may not be in the name of a header, and the percent sign.
const KEY: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'%')
    .add(b'(')
    .add(b')')
    .add(b',')
    .add(b'/')
    .add(b':')
    .add(b';')
    .add(b'<')
    .add(b'=')
    .add(b'>')
    .add(b'?')
    .add(b'@')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'{')
    .add(b'}');

/// Which front proxies are believed, and how they say who asks.
#[derive(Clone, Debug)]
pub struct RequestHeader {
    /// Who signs their certificates, in PEM.
    pub authorities: String,
    /// The common names that they may have; any if there is none.
    pub allowed_names: Vec<String>,
    /// Headers with the user's name, the first one that is there counts.
    pub username_headers: Vec<String>,
    /// The same for the unique id.
    pub uid_headers: Vec<String>,
    /// Headers with the groups.
    pub group_headers: Vec<String>,
    /// What the names of headers with further attributes begin with.
    pub extra_prefixes: Vec<String>,
}

impl RequestHeader {
    /// Those whom these authorities have signed, with the usual headers.
    pub fn usual(authorities: &str, allowed_names: &[&str]) -> RequestHeader {
        let one = |name: &str| vec![name.to_owned()];
        RequestHeader {
            authorities: authorities.to_owned(),
            allowed_names: allowed_names.iter().map(|name| (*name).to_owned()).collect(),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

/// The client proved to be a front proxy whom this authority has signed. Set by the listener only, as an extension of the
/// request.
#[derive(Clone, Debug)]
pub struct FrontProxy {
    /// Its certificate.
    pub certificate: CertificateDer<'static>,
    /// What it may say, and how.
    pub rules: Arc<RequestHeader>,
}

/// The user that a front proxy vouches for; `None` if it names nobody, an error if it is not one of those that may.
pub fn user(proxy: &FrontProxy, headers: &HeaderMap, now: Timestamp) -> Result<Option<UserInfo>, ApiError> {
    let FrontProxy { certificate, rules } = proxy;
    let names = |names: &[String]| names.iter().filter_map(|name| name.parse::<HeaderName>().ok()).collect();
    let (users, uids, groups): (Vec<_>, Vec<_>, Vec<_>) =
        (names(&rules.username_headers), names(&rules.uid_headers), names(&rules.group_headers));
    let first = |names: &[HeaderName]| {
        let mut values = names.iter().filter_map(|name| headers.get(name)?.to_str().ok());
        values.find(|value| !value.is_empty()).unwrap_or_default().to_owned()
    };
    let name = first(&users);
    if name.is_empty() {
        return Ok(None);
    }
    let own = certificate::common_name(certificate, now).ok_or_else(ApiError::unauthorized)?;
    if !rules.allowed_names.is_empty() && !rules.allowed_names.contains(&own) {
        tracing::debug!(name = own, "a front proxy is not among those that are allowed");
        return Err(ApiError::unauthorized());
    }
    let mut user = UserInfo { name, uid: first(&uids), ..UserInfo::default() };
    for value in groups.iter().flat_map(|name| headers.get_all(name)) {
        user.groups.extend(value.to_str().ok().map(str::to_owned));
    }
    for (name, value) in headers {
        let prefix = rules.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase());
        let mut keys = prefix.filter_map(|prefix| name.as_str().strip_prefix(prefix.as_str()));
        if let (Some(key), Ok(value)) = (keys.next(), value.to_str()) {
            let key = percent_decode_str(key).decode_utf8_lossy().into_owned();
            user.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    let known = |group: &String| group == AUTHENTICATED || group == UNAUTHENTICATED;
    if user.name != ANONYMOUS && !user.groups.iter().any(known) {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(Some(user))
}

/// Says in headers who asks.
///
/// # Errors
/// The user has a name that no header can hold.
pub fn vouch(user: &UserInfo, headers: &mut HeaderMap) -> Result<(), ApiError> {
    let mut put = |name: &str, value: &str| {
        let bad = || ApiError::internal(format_args!("{name}: no header can say {value:?}"));
        let name: HeaderName = name.parse().map_err(|_| bad())?;
        headers.append(name, value.parse().map_err(|_| bad())?);
        Ok::<(), ApiError>(())
    };
    put(USER, &user.name)?;
    if !user.uid.is_empty() {
        put(UID, &user.uid)?;
    }
    user.groups.iter().try_for_each(|group| put(GROUP, group))?;
    for (key, values) in &user.extra {
        let name = format!("{EXTRA}{}", utf8_percent_encode(&key.to_ascii_lowercase(), KEY));
        values.iter().try_for_each(|value| put(&name, value))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(name: &str, allowed: &[&str]) -> FrontProxy {
        let certificate = certificate::tests::client(name);
        FrontProxy { certificate, rules: Arc::new(RequestHeader::usual("", allowed)) }
    }

    fn now() -> Timestamp {
        "2026-06-01T00:00:00Z".parse().expect("a time")
    }

    #[test]
    fn what_is_vouched_for_is_understood() {
        let mut ann = UserInfo::new("ann", &["dev", "ops", AUTHENTICATED]);
        ann.uid = "7".to_owned();
        ann.extra.insert("acme.com/project%".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let mut headers = HeaderMap::new();
        vouch(&ann, &mut headers).expect("headers");
        assert!(headers.contains_key("x-remote-extra-acme.com%2fproject%25"), "{headers:?}");
        let understood = user(&proxy("front", &["front"]), &headers, now()).expect("allowed");
        assert_eq!(understood, Some(ann));
        assert!(vouch(&UserInfo::new("a\nb", &[]), &mut headers).is_err());
    }

    #[test]
    fn who_may_not_vouch_is_refused() {
        let mut headers = HeaderMap::new();
        vouch(&UserInfo::new("ann", &[]), &mut headers).expect("headers");
        let code = |proxy: &FrontProxy, headers: &HeaderMap, now| {
            user(proxy, headers, now).map(|user| user.is_some()).map_err(|error| error.code())
        };
        assert_eq!(code(&proxy("front", &[]), &headers, now()), Ok(true), "any name will do");
        assert_eq!(code(&proxy("other", &["front"]), &headers, now()), Err(401));
        assert_eq!(code(&proxy("other", &["front"]), &HeaderMap::new(), now()), Ok(false), "it names nobody");
        let late = "2028-01-01T00:00:00Z".parse().expect("a time");
        assert_eq!(code(&proxy("front", &["front"]), &headers, late), Err(401), "its certificate has ended");
    }

    #[test]
    fn nobody_stays_nobody() {
        let mut headers = HeaderMap::new();
        vouch(&UserInfo::new(ANONYMOUS, &[UNAUTHENTICATED]), &mut headers).expect("headers");
        let understood = user(&proxy("front", &[]), &headers, now()).expect("allowed").expect("somebody");
        assert_eq!(understood.groups, [UNAUTHENTICATED]);
    }
}
