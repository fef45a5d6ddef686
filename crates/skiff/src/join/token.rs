//! What a node is told to join with: a bootstrap token, and by which hash it knows the cluster's CA.
//!
//! `K10<SHA-256 of the CA in PEM>::ID.SECRET` says both in one word, as k3s writes it; `ID.SECRET` alone needs the hash of
//! the CA's public key beside it, as kubeadm writes it (`sha256:…`).

use std::fmt;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

const PREFIX: &str = "K10";

/// By which the CA is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pin {
    /// SHA-256 of the PEM text.
    Pem(String),
    /// SHA-256 of a certificate's public key (SubjectPublicKeyInfo, DER).
    PublicKey(String),
}

/// A token with what the CA is known by.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// The part that is no secret.
    pub id: String,
    /// The part that is.
    pub secret: String,
    /// By which the CA is known.
    pub pin: Pin,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("JoinToken").field("id", &self.id).field("pin", &self.pin).finish_non_exhaustive()
    }
}

/// The two parts of `ID.SECRET`.
pub fn split(token: &str) -> Result<(&str, &str)> {
    let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    let parts = token.split_once('.');
    let good = parts.filter(|(id, secret)| id.len() == 6 && secret.len() == 16 && plain(id) && plain(secret));
    good.context("a token is of the form abcdef.0123456789abcdef (lower case letters and digits)")
}

/// SHA-256 in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl JoinToken {
    /// From what was given on the command line.
    pub fn parse(token: &str, hash: Option<&str>) -> Result<JoinToken> {
        let token = token.trim();
        let hash = match hash.map(str::trim) {
            Some(hash) => match hash.strip_prefix("sha256:").filter(|hash| is_hash(hash)) {
                Some(hash) => Some(hash.to_lowercase()),
                None => bail!("--ca-cert-hash: must be sha256: and 64 hexadecimal digits"),
            },
            None => None,
        };
        let (pin, short) = match token.strip_prefix(PREFIX) {
            Some(rest) => {
                let parts = rest.split_once("::").filter(|(hash, _)| is_hash(hash));
                let (own, short) =
                    parts.context("a token that begins with K10 is of the form K10HASH::ID.SECRET")?;
                (Some(Pin::Pem(own.to_lowercase())), short)
            }
            None => (None, token),
        };
        let (id, secret) = split(short)?;
        let pin = hash.map(Pin::PublicKey).or(pin);
        let pin = pin.context(
            "a token of the form ID.SECRET does not say which cluster it is for: give --ca-cert-hash sha256:… beside it",
        )?;
        Ok(JoinToken { id: id.to_owned(), secret: secret.to_owned(), pin })
    }

    /// The token as it is sent.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The token in one word, for a CA.
    pub fn full(token: &str, authority: &str) -> String {
        format!("{PREFIX}{}::{token}", sha256(authority.as_bytes()))
    }
}

impl Pin {
    /// The part of a PEM text that is the CA meant; what was found instead otherwise.
    pub fn choose(&self, authority: &str) -> Result<String, String> {
        match self {
            Pin::Pem(hash) => {
                let found = sha256(authority.as_bytes());
                if found == *hash { Ok(authority.to_owned()) } else { Err(found) }
            }
            Pin::PublicKey(hash) => {
                let mut found = Vec::new();
                for block in pem::parse_many(authority).unwrap_or_default() {
                    let own = public_key_hash(block.contents()).unwrap_or_default();
                    if own == *hash {
                        return Ok(pem::encode_config(
                            &block,
                            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
                        ));
                    }
                    found.push(format!("sha256:{own}"));
                }
                Err(found.join(", "))
            }
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Pin::Pem(hash) => out.write_str(hash),
            Pin::PublicKey(hash) => write!(out, "sha256:{hash}"),
        }
    }
}

/// SHA-256 of a certificate's public key, as kubeadm writes it without `sha256:`.
pub fn public_key_hash(certificate: &[u8]) -> Option<String> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Some(sha256(parsed.public_key().raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789ABCDEF";

    #[test]
    fn tokens_as_they_are_written() {
        let full = format!("K10{HASH}::abcdef.fedcba9876543210");
        let parsed = JoinToken::parse(&full, None).expect("good");
        assert_eq!(parsed.pin, Pin::Pem(HASH.to_lowercase()));
        assert_eq!(parsed.bearer(), "abcdef.fedcba9876543210");
        assert!(!format!("{parsed:?}").contains("fedcba9876543210"), "a secret is not shown");
        let hash = format!("sha256:{HASH}");
        let parsed = JoinToken::parse(" abcdef.0123456789abcdef\n", Some(&hash)).expect("good");
        assert_eq!(parsed.pin, Pin::PublicKey(HASH.to_lowercase()));
        for (token, hash, why) in [
            ("abcdef.0123456789abcdef", None, "--ca-cert-hash"),
            ("abcdef.0123456789abcdef", Some(HASH), "--ca-cert-hash"),
            ("abcdef", None, "of the form"),
            ("ABCDEF.0123456789abcdef", Some(hash.as_str()), "of the form"),
            ("K10abc::abcdef.0123456789abcdef", None, "K10HASH"),
            ("K10", None, "K10HASH"),
        ] {
            let error = JoinToken::parse(token, hash).expect_err(token).to_string();
            assert!(error.contains(why), "{token}: {error}");
        }
    }

    #[test]
    fn an_authority_is_known_by_its_hash() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        let certificate = params.self_signed(&key).expect("a certificate");
        let text = certificate.pem().replace("\r\n", "\n");
        assert_eq!(Pin::Pem(sha256(text.as_bytes())).choose(&text), Ok(text.clone()));
        assert_eq!(Pin::Pem(HASH.to_owned()).choose(&text), Err(sha256(text.as_bytes())));
        let own = public_key_hash(certificate.der()).expect("a certificate");
        let other = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        let both = format!("{}{text}", params.self_signed(&other).expect("a certificate").pem());
        assert_eq!(Pin::PublicKey(own.clone()).choose(&both), Ok(text.clone()), "only the one that is meant");
        assert_eq!(Pin::PublicKey(HASH.to_lowercase()).choose(&text), Err(format!("sha256:{own}")));
    }
}
