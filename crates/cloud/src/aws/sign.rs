//! Signature Version 4, by which AWS knows who sent a request. For query-API requests: everything is in the body.
//!
//! Deliberately absent: signed query strings, chunked bodies and session-token refresh.

use std::fmt::Write;

use jiff::Timestamp;
use ring::{digest, hmac};

/// Who signs.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The access key's public part.
    pub access_key: String,
    /// Its secret part.
    pub secret_key: String,
    /// Of temporary credentials.
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// What a signature is valid for.
pub struct Scope<'a> {
    /// As `eu-central-1`.
    pub region: &'a str,
    /// As `ec2`.
    pub service: &'a str,
}

/// `20260301T120000Z`.
pub fn amz_date(now: Timestamp) -> String {
    let text: String =
        api_machinery::clock::rfc3339(now).chars().filter(|c| !matches!(c, '-' | ':')).collect();
    text
}

/// The `authorization` header of a request. `headers` are those to sign, lower case and sorted by name; the host and
/// `x-amz-date` must be among them.
pub fn authorization(
    credentials: &Credentials,
    scope: &Scope<'_>,
    (method, path): (&str, &str),
    headers: &[(&str, &str)],
    body: &[u8],
    date: &str,
) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let signed = names.join(";");
    let mut canonical = format!("{method}\n{path}\n\n");
    for (name, value) in headers {
        canonical.push_str(&format!("{name}:{}\n", value.trim()));
    }
    canonical.push_str(&format!("\n{signed}\n{}", hexadecimal(sha256(body).as_ref())));
    let day = &date[..8];
    let range = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let hashed = hexadecimal(sha256(canonical.as_bytes()).as_ref());
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{range}\n{hashed}");
    let mut key = format!("AWS4{}", credentials.secret_key).into_bytes();
    for part in [day, scope.region, scope.service, "aws4_request"] {
        key = mac(&key, part);
    }
    let signature = hexadecimal(&mac(&key, &to_sign));
    let who = &credentials.access_key;
    format!("AWS4-HMAC-SHA256 Credential={who}/{range}, SignedHeaders={signed}, Signature={signature}")
}

fn sha256(bytes: &[u8]) -> digest::Digest {
    digest::digest(&digest::SHA256, bytes)
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

/// Lower-case hexadecimal digits.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        if write!(text, "{byte:02x}").is_err() {
            unreachable!("writing into a String cannot fail");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two of the requests that AWS publishes with their signatures.
    #[test]
    fn published_requests_have_the_published_signatures() {
        let credentials = Credentials {
            access_key: "AKIDEXAMPLE".to_owned(),
            secret_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
        };
        let scope = Scope { region: "us-east-1", service: "service" };
        let date = "20150830T123600Z";
        let plain = [("host", "example.amazonaws.com"), ("x-amz-date", date)];
        let form = [
            ("content-type", "application/x-www-form-urlencoded"),
            ("host", "example.amazonaws.com"),
            ("x-amz-date", date),
        ];
        type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8], &'a str);
        let cases: [Case<'_>; 3] = [
            ("GET", &plain, b"", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
            ("POST", &plain, b"", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
            (
                "POST",
                &form,
                b"Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ];
        for (method, headers, body, signature) in cases {
            let header = authorization(&credentials, &scope, (method, "/"), headers, body, date);
            assert!(header.ends_with(&format!("Signature={signature}")), "{header}");
        }
    }

    #[test]
    fn the_date_is_compact() {
        assert_eq!(amz_date("2026-03-01T12:00:05.25Z".parse().expect("a literal")), "20260301T120005Z");
    }
}
