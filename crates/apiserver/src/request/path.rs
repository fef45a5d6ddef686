//! Turns a method, a path and a query into a `RequestInfo`, strictly.
//!
//! A path is split first and decoded after, segment by segment, so that no encoded slash, dot segment or NUL can
//! ever name another resource or namespace than the one that was authorized. Whether the resource exists is not
//! looked at here.

use api_machinery::status::ApiError;
use http::Method;
use percent_encoding::percent_decode_str;

use super::query::{Query, uri_too_long};
use crate::types::RequestInfo;

/// Longest path that is looked at; real ones have at most eight segments of 253 characters.
const MAX_PATH: usize = 8 * 1024;

/// A parsed path: what it asks for and, below a subresource, what is left of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// What is asked for.
    pub info: RequestInfo,
    /// Decoded segments after the subresource.
    pub rest: Vec<String>,
    /// What is behind the subresource `proxy`, as it was sent: it is for somebody else to read.
    pub tail: String,
}

/// Parses a request line.
pub fn parse(method: &Method, raw_path: &str, query: &Query) -> Result<Parsed, ApiError> {
    let (own, tail) = split_tail(raw_path)?;
    let segments = segments(own)?;
    let mut info = RequestInfo {
        verb: method.as_str().to_ascii_lowercase(),
        path: raw_path.to_owned(),
        ..Default::default()
    };
    let mut rest: Vec<String>;
    match segments.first().map(String::as_str) {
        Some("api") if segments.len() >= 3 => {
            info.api_version = segments[1].clone();
            rest = segments[2..].to_vec();
        }
        Some("apis") if segments.len() >= 4 => {
            info.api_group = segments[1].clone();
            info.api_version = segments[2].clone();
            rest = segments[3..].to_vec();
        }
        _ => return Ok(Parsed { info, rest: Vec::new(), tail: String::new() }),
    }
    let watch_prefix = rest[0] == "watch" && rest.len() > 1;
    if watch_prefix {
        rest.remove(0);
    }
    info.is_resource = true;
    locate(&mut info, &mut rest);
    info.verb = verb(method, &info, watch_prefix, query)?;
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        info.label_selector = query.get("labelSelector").unwrap_or_default().to_owned();
        info.field_selector = query.get("fieldSelector").unwrap_or_default().to_owned();
        if info.name.is_empty() {
            info.name = name_in_selector(&info.field_selector).unwrap_or_default();
        }
    }
    Ok(Parsed { info, rest, tail: tail.to_owned() })
}

/// Takes namespace, resource, name and subresource off the front of `rest`.
fn locate(info: &mut RequestInfo, rest: &mut Vec<String>) {
    if rest[0] == "namespaces" && rest.len() > 1 {
        info.namespace = rest[1].clone();
        // `namespaces/x/status` and `namespaces/x/finalize` are subresources of the namespace itself.
        if rest.len() > 2 && !(rest.len() == 3 && matches!(rest[2].as_str(), "status" | "finalize")) {
            rest.drain(..2);
        }
    }
    let mut parts = std::mem::take(rest).into_iter();
    info.resource = parts.next().unwrap_or_default();
    info.name = parts.next().unwrap_or_default();
    info.subresource = parts.next().unwrap_or_default();
    *rest = parts.collect();
}

fn verb(method: &Method, info: &RequestInfo, watch_prefix: bool, query: &Query) -> Result<String, ApiError> {
    let collection = info.name.is_empty();
    let verb = match *method {
        Method::GET | Method::HEAD if watch_prefix => "watch",
        Method::GET | Method::HEAD if info.subresource.is_empty() && query.flag("watch") => "watch",
        Method::GET | Method::HEAD if collection => "list",
        Method::GET | Method::HEAD => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if collection => "deletecollection",
        Method::DELETE => "delete",
        // It has no verb: only whoever may do everything may do this.
        Method::OPTIONS if info.subresource == "proxy" => "",
        // OPTIONS and the like.
        _ => return Err(ApiError::method_not_allowed()),
    };
    Ok(verb.to_owned())
}

/// The name in `metadata.name=x`, which makes a list or watch one of a single object for authorization.
fn name_in_selector(selector: &str) -> Option<String> {
    let mut names = selector.split(',').filter_map(|term| {
        let value = term.strip_prefix("metadata.name")?;
        let value = value.strip_prefix("==").or_else(|| value.strip_prefix('='))?;
        (!value.is_empty()).then(|| value.to_owned())
    });
    let first = names.next()?;
    names.next().is_none().then_some(first)
}

/// Whether a path goes on with one that is for somebody else to read.
pub fn is_passed_on(raw: &str) -> bool {
    proxy_end(raw).is_some()
}

/// Where the subresource `proxy` ends in a path.
fn proxy_end(raw: &str) -> Option<usize> {
    let segments: Vec<&str> = raw.strip_prefix('/')?.split('/').take(8).collect();
    let base = match *segments.first()? {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    let at = match *segments.get(base)? {
        "watch" => return None,
        "namespaces" => base + 4,
        _ => base + 2,
    };
    let before = segments.get(..at)?.iter().map(|segment| 1 + segment.len()).sum::<usize>();
    (*segments.get(at)? == "proxy").then_some(before + "/proxy".len())
}

/// Takes off what is behind the subresource `proxy`. Whoever reads it must not be led above what he was asked for.
fn split_tail(raw: &str) -> Result<(&str, &str), ApiError> {
    if raw.len() > MAX_PATH {
        return Err(uri_too_long());
    }
    let (own, tail) = raw.split_at(proxy_end(raw).unwrap_or(raw.len()));
    for segment in tail.split('/') {
        let bad = |why: &str| ApiError::bad_request(format!("invalid path segment {segment:?}: {why}"));
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        if matches!(decoded.as_slice(), b"." | b"..") {
            return Err(bad("may not be '.' or '..'"));
        }
        if decoded.iter().any(u8::is_ascii_control) {
            return Err(bad("may not contain control characters"));
        }
    }
    Ok((own, tail))
}

/// Splits and decodes a path. One slash at the end is allowed, nothing else that is empty.
fn segments(raw: &str) -> Result<Vec<String>, ApiError> {
    let inner = raw.strip_prefix('/').unwrap_or(raw);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() {
        return Ok(Vec::new());
    }
    inner.split('/').map(segment).collect()
}

fn segment(raw: &str) -> Result<String, ApiError> {
    let bad = |why: &str| ApiError::bad_request(format!("invalid path segment {raw:?}: {why}"));
    let decoded = percent_decode_str(raw).decode_utf8().map_err(|_| bad("not valid UTF-8"))?;
    if decoded.is_empty() {
        return Err(bad("must not be empty"));
    }
    if decoded == "." || decoded == ".." {
        return Err(bad("may not be '.' or '..'"));
    }
    if decoded.contains(['/', '\\']) {
        return Err(bad("may not contain '/'"));
    }
    // A percent sign left after decoding was encoded twice; no name may contain one.
    if decoded.contains('%') {
        return Err(bad("may not contain '%'"));
    }
    if decoded.chars().any(char::is_control) {
        return Err(bad("may not contain control characters"));
    }
    Ok(decoded.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(method: &str, target: &str) -> Result<RequestInfo, u16> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = Query::parse(query).map_err(|error| error.code())?;
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        parse(&method, path, &query).map(|parsed| parsed.info).map_err(|error| error.code())
    }

    #[test]
    fn resources() {
        let table = [
            ("GET /api/v1/pods", "list //pods"),
            ("GET /api/v1/pods?watch=1", "watch //pods"),
            ("GET /api/v1/pods?watch=false", "list //pods"),
            ("GET /api/v1/watch/pods", "watch //pods"),
            ("GET /api/v1/watch/namespaces/a/pods/b", "watch /a/pods/b"),
            ("GET /api/v1/namespaces", "list //namespaces"),
            ("GET /api/v1/namespaces/a", "get /a/namespaces/a"),
            ("PUT /api/v1/namespaces/a/finalize", "update /a/namespaces/a/finalize"),
            ("PUT /api/v1/namespaces/a/status", "update /a/namespaces/a/status"),
            ("GET /api/v1/namespaces/a/status/b", "get /a/status/b"),
            ("POST /api/v1/namespaces/a/pods/b/binding", "create /a/pods/b/binding"),
            ("DELETE /apis/apps/v1/namespaces/a/deployments", "deletecollection apps/a/deployments"),
            ("PATCH /apis/apps/v1/namespaces/a/deployments/d/scale", "patch apps/a/deployments/d/scale"),
            ("GET /api/v1/pods?fieldSelector=metadata.name%3Dx", "list //pods/x"),
            ("GET /api/v1/pods/", "list //pods"),
        ];
        for (line, want) in table {
            let (method, target) = line.split_once(' ').expect("method and target");
            let info = info(method, target).unwrap_or_else(|code| panic!("{line}: {code}"));
            let mut got = format!("{} {}/{}/{}", info.verb, info.api_group, info.namespace, info.resource);
            for part in [&info.name, &info.subresource] {
                if !part.is_empty() {
                    got.push('/');
                    got.push_str(part);
                }
            }
            assert_eq!(got, want, "{line}");
        }
    }

    #[test]
    fn what_is_behind_a_proxy_is_left_as_it_is() {
        let pod = "get a/pods/p/proxy";
        let table = [
            ("/api/v1/namespaces/a/pods/p/proxy", pod, ""),
            ("/api/v1/namespaces/a/pods/p/proxy/", pod, "/"),
            ("/api/v1/namespaces/a/pods/p/proxy//x/%2F/a%25b/", pod, "//x/%2F/a%25b/"),
            (
                "/api/v1/namespaces/a/pods/p/proxy/namespaces/b/pods/q/proxy",
                pod,
                "/namespaces/b/pods/q/proxy",
            ),
            ("/api/v1/namespaces/a/services/https:s:443/proxy/x", "get a/services/https:s:443/proxy", "/x"),
            ("/api/v1/nodes/n:10250/proxy/pods", "get /nodes/n:10250/proxy", "/pods"),
            ("/api/v1/namespaces/a/pods/proxy", "get a/pods/proxy/", ""),
            ("/api/v1/namespaces/proxy", "get proxy/namespaces/proxy/", ""),
            ("/api/v1/namespaces/a/pods/p/proxyx", "get a/pods/p/proxyx", ""),
        ];
        for (path, wanted, tail) in table {
            let parsed = parse(&Method::GET, path, &Query::default()).unwrap_or_else(|_| panic!("{path}"));
            let RequestInfo { verb, namespace, resource, name, subresource, .. } = &parsed.info;
            let got = format!("{verb} {namespace}/{resource}/{name}/{subresource}");
            assert_eq!((got.as_str(), parsed.tail.as_str()), (wanted, tail), "{path}");
        }
        for bad in ["..", "%2e%2E", ".", "a/../b", "%00", "a%0d%0ab", "x/%2e."] {
            let path = format!("/api/v1/namespaces/a/pods/p/proxy/{bad}");
            assert_eq!(info("GET", &path), Err(400), "{path}");
        }
        let options = info("OPTIONS", "/api/v1/nodes/n/proxy/x").expect("a verb without a name");
        assert_eq!(options.verb, "");
        assert_eq!(info("OPTIONS", "/api/v1/nodes/n"), Err(405));
        assert_eq!(info("CONNECT", "/api/v1/nodes/n/proxy"), Err(405));
    }

    #[test]
    fn paths_of_no_resource() {
        for path in
            ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/healthz", "/livez/ping"]
        {
            let info = info("GET", path).unwrap_or_else(|code| panic!("{path}: {code}"));
            assert!(!info.is_resource, "{path}");
            assert_eq!(info.verb, "get");
        }
    }

    #[test]
    fn tricks_are_refused() {
        for path in [
            "/api/v1/namespaces/../pods",
            "/api/v1/namespaces/%2e%2e/pods",
            "/api/v1/namespaces/%2E./pods",
            "/api/v1/namespaces/a%2Fpods%2Fb",
            "/api/v1/namespaces/a%5cb/pods",
            "/api/v1//pods",
            "/api/v1/namespaces/%00/pods",
            "/api/v1/namespaces/%252e%252e/pods",
            "/api/v1/namespaces/%ff/pods",
            "/api/v1/pods//",
            "/./api",
        ] {
            assert_eq!(info("GET", path), Err(400), "{path}");
        }
    }
}
