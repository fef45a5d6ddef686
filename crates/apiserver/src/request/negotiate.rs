//! Content negotiation with the headers of a request: what the client can read.
//!
//! Which types there are is `api_machinery::negotiate`'s to say; here they meet HTTP.

use api_machinery::decode::Format;
use api_machinery::negotiate::{self, Transform};
use api_machinery::status::ApiError;
use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

/// The outcome of negotiation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept {
    /// How bytes are written.
    pub format: Format,
    /// What they say.
    pub transform: Transform,
    /// Whether the client reads gzip.
    pub gzip: bool,
}

impl Accept {
    /// What errors are written as when negotiation itself failed.
    pub const PLAIN: Accept = Accept { format: Format::Json, transform: Transform::None, gzip: false };

    /// Chooses how to answer. `tables`: whether the endpoint has objects that can be shown as something else.
    pub fn of(headers: &HeaderMap, tables: bool) -> Result<Accept, ApiError> {
        let header = joined(headers, &ACCEPT);
        let chosen = negotiate::accept(Some(&header), tables)?;
        Ok(Accept { format: chosen.format, transform: chosen.transform, gzip: gzip(headers) })
    }
}

fn joined(headers: &HeaderMap, name: &http::HeaderName) -> String {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    values.join(",")
}

fn gzip(headers: &HeaderMap) -> bool {
    let header = joined(headers, &ACCEPT_ENCODING);
    header.split(',').any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        parts.next() == Some("gzip") && parts.all(|part| part.trim_end_matches(['0', '.']) != "q=")
    })
}

/// Whether the client prefers aggregated discovery: it asks for it before anything plain.
pub fn aggregated(headers: &HeaderMap) -> bool {
    let header = joined(headers, &ACCEPT);
    for clause in header.split(',') {
        let parts: Vec<&str> = clause.split(';').map(str::trim).collect();
        let has = |wanted: &str| parts.contains(&wanted);
        if has("application/json")
            && has("as=APIGroupDiscoveryList")
            && has("g=apidiscovery.k8s.io")
            && has("v=v2")
        {
            return true;
        }
        let plain = matches!(parts.as_slice(), ["application/json" | "*/*" | "application/*", ..]);
        if plain && !parts.iter().any(|part| part.starts_with("as=")) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: http::HeaderName, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().expect("a header value"));
        headers
    }

    #[test]
    fn discovery_clauses() {
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        assert!(aggregated(&headers(ACCEPT, &format!("{v2},application/json"))));
        assert!(!aggregated(&headers(ACCEPT, "application/json")));
        assert!(!aggregated(&headers(ACCEPT, &format!("application/json,{v2}"))));
        assert!(!aggregated(&HeaderMap::new()));
    }

    #[test]
    fn encodings() {
        let cases = [("gzip", true), ("deflate, gzip;q=0.5", true), ("gzip;q=0", false), ("identity", false)];
        for (value, expected) in cases {
            assert_eq!(gzip(&headers(ACCEPT_ENCODING, value)), expected, "{value}");
        }
    }
}
