//! Headers of requests and answers that are passed on: which ones are, which never, and which are added. Pure.
//!
//! What proves who the caller is stays here: a pod is told what is asked of it, not by whom.

use std::net::IpAddr;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HeaderName,
    HeaderValue, LOCATION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, StatusCode};

/// What is between two neighbours only.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// What lets scripts of other sites read an answer: that is not for a pod to say, whose site this is not.
const CORS: [HeaderName; 4] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
];
/// By which a front proxy or a caller with two identities says who somebody is.
const IDENTITY: [&str; 2] = ["impersonate-", "x-remote-"];
/// How browsers send a token along with a WebSocket.
const WEBSOCKET_TOKEN: &str = "base64url.bearer.authorization.k8s.io.";
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

/// The protocol that the connection is to be upgraded to, if that is asked for.
pub fn upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(UPGRADE).filter(|_| options(headers).any(|option| option.eq_ignore_ascii_case("upgrade")))
}

/// The words of all `Connection` headers.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(CONNECTION).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|option| !option.is_empty())
}

/// Takes out what is for this server only.
fn drop_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(TRANSFER_ENCODING) {
        // It says how long the body is, whatever else does.
        headers.remove(CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = options(headers).filter_map(|option| option.parse().ok()).collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

/// Says again what the connection is upgraded to.
fn put_upgrade(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    if let Some(protocol) = protocol {
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, protocol);
    }
}

/// The headers of a request for `path`, as they are passed on.
pub fn of_request(mut headers: HeaderMap, client: Option<IpAddr>, path: &str) -> HeaderMap {
    let protocol = upgrade(&headers).cloned();
    drop_hop_by_hop(&mut headers);
    let secret = |name: &HeaderName| IDENTITY.iter().any(|prefix| name.as_str().starts_with(prefix));
    let secret: Vec<HeaderName> = headers.keys().filter(|name| secret(name)).cloned().collect();
    for name in secret.iter().chain(&[AUTHORIZATION, EXPECT]) {
        headers.remove(name);
    }
    drop_token(&mut headers);
    join_cookies(&mut headers);
    if let Some(client) = client {
        let before = headers.get_all(FORWARDED_FOR).into_iter().filter_map(|line| line.to_str().ok());
        let all: Vec<String> = before.map(str::to_owned).chain([client.to_string()]).collect();
        put(&mut headers, FORWARDED_FOR, &all.join(", "));
    }
    put(&mut headers, FORWARDED_URI, path);
    put_upgrade(&mut headers, protocol);
    headers
}

/// HTTP/2 may send cookies one by one, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let lines: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(all) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        headers.insert(COOKIE, all);
    }
}

/// Sets a header, or takes it out if it cannot have that value.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(headers.insert(name, value)),
        Err(_) => drop(headers.remove(name)),
    }
}

/// Takes a token out of the protocols that a WebSocket offers.
fn drop_token(headers: &mut HeaderMap) {
    let lines = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    let offered: Vec<&str> =
        lines.filter_map(|line| line.to_str().ok()).flat_map(|line| line.split(',')).map(str::trim).collect();
    if offered.iter().any(|protocol| protocol.starts_with(WEBSOCKET_TOKEN)) {
        let others: Vec<&str> =
            offered.into_iter().filter(|protocol| !protocol.starts_with(WEBSOCKET_TOKEN)).collect();
        let others = others.join(", ");
        headers.remove(SEC_WEBSOCKET_PROTOCOL);
        if !others.is_empty() {
            put(headers, SEC_WEBSOCKET_PROTOCOL, &others);
        }
    }
}

/// The headers of an answer, as they are passed on.
pub fn of_answer(mut headers: HeaderMap, status: StatusCode) -> HeaderMap {
    let protocol = headers.get(UPGRADE).cloned().filter(|_| status == StatusCode::SWITCHING_PROTOCOLS);
    drop_hop_by_hop(&mut headers);
    for name in CORS {
        headers.remove(name);
    }
    put_upgrade(&mut headers, protocol);
    headers
}

/// Where a redirect leads that stays with who gave it: below `prefix`, which is where the client reaches him.
pub struct Redirects<'a> {
    /// Address and port of who was asked.
    pub backend: &'a str,
    /// The host that the client asked.
    pub host: &'a str,
    /// The path below which his paths are.
    pub prefix: &'a str,
}

impl Redirects<'_> {
    /// Makes a `Location` one that the client can follow. One that leads to somebody else, or is relative, is as it was.
    pub fn rewrite(&self, headers: &mut HeaderMap) {
        let Some(location) = headers.get(LOCATION).and_then(|location| location.to_str().ok()) else {
            return;
        };
        if let Some(location) = self.location(location) {
            put(headers, LOCATION, &location);
        }
    }

    fn location(&self, location: &str) -> Option<String> {
        let end = location.find(['?', '#']).unwrap_or(location.len());
        let start = location[..end].find("//").filter(|at| *at == 0 || location[..*at].ends_with(':'));
        let (host, path) = match start {
            Some(at) => {
                let rest = &location[at + 2..];
                let slash = rest[..end - at - 2].find('/')?;
                (&rest[..slash], &rest[slash..])
            }
            None => ("", location),
        };
        let here = host.is_empty() || host == self.backend || host == self.host;
        if !here || !path.starts_with('/') {
            return None;
        }
        if path == self.prefix
            || path.strip_prefix(self.prefix).is_some_and(|rest| rest.starts_with(['/', '?']))
        {
            return (host == self.backend).then(|| path.to_owned());
        }
        Some(format!("{}{path}", self.prefix))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        headers
    }

    fn text(headers: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("text")))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn who_asks_is_not_told() {
        let sent = headers(&[
            ("accept", "text/html"),
            ("authorization", "Bearer secret"),
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("te", "trailers"),
            ("impersonate-user", "root"),
            ("impersonate-extra-scopes", "all"),
            ("x-remote-group", "system:masters"),
            ("x-forwarded-for", "198.51.100.1"),
            ("x-forwarded-uri", "/forged"),
            ("sec-websocket-protocol", "v4.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0"),
            ("upgrade", "h2c"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("content-length", "7"),
            ("transfer-encoding", "chunked"),
        ]);
        let passed = of_request(sent, "192.0.2.7".parse().ok(), "/api/v1/x/proxy/y");
        let wanted = [
            "accept: text/html",
            "cookie: a=b; c=d",
            "sec-websocket-protocol: v4.channel.k8s.io",
            "x-forwarded-for: 198.51.100.1, 192.0.2.7",
            "x-forwarded-uri: /api/v1/x/proxy/y",
        ];
        assert_eq!(text(&passed), wanted, "no upgrade either, since the connection does not say so");
        let sent = headers(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]);
        let passed = text(&of_request(sent, None, "/"));
        assert_eq!(passed, ["connection: Upgrade", "upgrade: websocket", "x-forwarded-uri: /"]);
    }

    #[test]
    fn answers_say_what_is_theirs() {
        let answer = || {
            headers(&[
                ("connection", "upgrade, close, x-own"),
                ("x-own", "1"),
                ("upgrade", "websocket"),
                ("access-control-allow-origin", "*"),
                ("set-cookie", "a=b"),
                ("set-cookie", "c=d"),
                ("transfer-encoding", "chunked"),
            ])
        };
        let passed = text(&of_answer(answer(), StatusCode::OK));
        assert_eq!(passed, ["set-cookie: a=b", "set-cookie: c=d"]);
        let passed = text(&of_answer(answer(), StatusCode::SWITCHING_PROTOCOLS));
        assert_eq!(
            passed,
            ["connection: Upgrade", "set-cookie: a=b", "set-cookie: c=d", "upgrade: websocket"]
        );
    }

    #[test]
    fn redirects_stay_below_the_proxy() {
        let redirects = Redirects { backend: "10.42.0.7:80", host: "api:6443", prefix: "/p/proxy" };
        let table = [
            ("/login", "/p/proxy/login"),
            ("/login/?next=//x#y", "/p/proxy/login/?next=//x#y"),
            ("http://10.42.0.7:80/login", "/p/proxy/login"),
            ("//10.42.0.7:80/a/", "/p/proxy/a/"),
            ("https://api:6443/a", "/p/proxy/a"),
            ("http://10.42.0.7:80/p/proxy/a", "/p/proxy/a"),
            ("/p/proxy?a", "/p/proxy?a"),
            ("/p/proxyother", "/p/proxy/p/proxyother"),
            ("https://example.org/a", "https://example.org/a"),
            ("http://10.42.0.7:80", "http://10.42.0.7:80"),
            ("next", "next"),
            ("../up", "../up"),
            ("?page=//2", "?page=//2"),
            ("mailto:a", "mailto:a"),
            ("", ""),
        ];
        for (location, wanted) in table {
            let mut answer = headers(&[("location", location)]);
            redirects.rewrite(&mut answer);
            assert_eq!(answer[LOCATION], wanted, "{location}");
        }
    }
}
