//! Tokens of service accounts: JWTs that this server signs with ES256 and nothing else, so that no header of a token
//! ever chooses how it is checked. What the claims refer to is looked up by `authn`, not here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use api_machinery::entropy::Entropy;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The one algorithm.
const ALGORITHM: &str = "ES256";
/// Longest token that is looked at.
const MAX_TOKEN: usize = 16 * 1024;
/// How far clocks may be apart, as upstream has it.
pub const LEEWAY: i64 = 60;

/// Why there is no key, or no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The key is not an ECDSA P-256 key in PKCS #8.
    #[error("the key for service account tokens cannot be used: {0}")]
    Key(String),
    /// The generator of random numbers failed.
    #[error("a token could not be signed")]
    Signing,
    /// Not one of ours.
    #[error("invalid bearer token")]
    Invalid,
    /// Was good once.
    #[error("service account token has expired")]
    Expired,
    /// Will be good later.
    #[error("service account token is not valid yet")]
    NotYet,
    /// For somebody else.
    #[error("token audiences {got:?} is invalid for the target audiences {wanted:?}")]
    Audience {
        /// The token's.
        got: Vec<String>,
        /// One of which would be right.
        wanted: Vec<String>,
    },
}

/// What a claim refers to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// The name.
    pub name: String,
    /// The uid.
    pub uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    /// The namespace of everything but the node.
    pub namespace: String,
    /// The node of the pod, or the node that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Reference>,
    /// The pod that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Reference>,
    /// The secret that the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Reference>,
    /// Whose token it is.
    pub serviceaccount: Reference,
}

/// What a token says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Whom it is for.
    pub aud: Vec<String>,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// When it was made.
    pub iat: i64,
    /// Who made it.
    pub iss: String,
    /// Its id.
    pub jti: String,
    /// What it is about.
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Bound,
    /// When it begins.
    pub nbf: i64,
    /// The user's name.
    pub sub: String,
}

/// A P-256 key's `AlgorithmIdentifier` and the start of its bit string, in DER: what comes before its point.
const PUBLIC_KEY: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The points of all keys in a PEM file, of which there must be one.
fn public_points(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    let only = "only ECDSA keys on P-256 are supported, as PUBLIC KEY or PRIVATE KEY (PKCS #8)".to_owned();
    let mut points = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem.as_bytes()) {
        let (kind, der) = section.map_err(|error| error.to_string())?;
        let point = match kind {
            SectionKind::PublicKey => der.strip_prefix(&PUBLIC_KEY[..]).filter(|point| point.len() == 65),
            SectionKind::PrivateKey => {
                let key =
                    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new());
                points.push(key.map_err(|_| only.clone())?.public_key().as_ref().to_owned());
                continue;
            }
            _ => None,
        };
        points.push(point.ok_or_else(|| only.clone())?.to_owned());
    }
    if points.is_empty() { Err("there is no key in it".to_owned()) } else { Ok(points) }
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    #[serde(default)]
    kid: String,
    #[serde(default)]
    crit: Option<Value>,
}

/// A key that signatures are checked with.
struct Verifier {
    kid: String,
    /// Uncompressed: a marker, then both coordinates.
    point: Vec<u8>,
}

impl Verifier {
    fn new(point: &[u8]) -> Verifier {
        let digest = ring::digest::digest(&ring::digest::SHA256, point);
        Verifier { kid: URL_SAFE_NO_PAD.encode(digest), point: point.to_owned() }
    }

    fn to_jwk(&self) -> Value {
        let (x, y) = self.point[1..].split_at((self.point.len() - 1) / 2);
        json!({
            "use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": ALGORITHM,
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
        })
    }
}

/// How many tokens' signatures are remembered at least, when there are that many.
const REMEMBERED: usize = 2048;

/// Tokens whose signature was found good, by their digest: checking it again is most of what a small request costs. No key is
/// ever taken back, so it stays good; everything else about a token is looked at each time.
#[derive(Default)]
struct Signed {
    young: BTreeMap<[u8; 32], Arc<Claims>>,
    /// Those that were young before as many others came. Who is asked for is young again.
    old: BTreeMap<[u8; 32], Arc<Claims>>,
}

impl Signed {
    fn find(&mut self, digest: &[u8; 32]) -> Option<Arc<Claims>> {
        if let Some(claims) = self.young.get(digest) {
            return Some(claims.clone());
        }
        let claims = self.old.remove(digest)?;
        self.add(*digest, claims.clone());
        Some(claims)
    }

    fn add(&mut self, digest: [u8; 32], claims: Arc<Claims>) {
        if self.young.len() >= REMEMBERED {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(digest, claims);
    }
}

/// Signs and checks.
pub struct Tokens {
    key: EcdsaKeyPair,
    kid: String,
    /// By which tokens are known: our own, then those that were used before or that others use.
    verifiers: Vec<Verifier>,
    signed: Mutex<Signed>,
    issuer: String,
    audiences: Vec<String>,
    random: SystemRandom,
    entropy: Entropy,
}

impl Tokens {
    /// With an ECDSA P-256 key in PKCS #8 (DER). Tokens are from `issuer` and, unless asked for otherwise, for it.
    pub fn new(pkcs8: &[u8], issuer: &str, entropy: Entropy) -> Result<Tokens, TokenError> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8, &random)
            .map_err(|error| TokenError::Key(error.to_string()))?;
        let own = Verifier::new(key.public_key().as_ref());
        Ok(Tokens {
            kid: own.kid.clone(),
            verifiers: vec![own],
            signed: Mutex::default(),
            key,
            issuer: issuer.to_owned(),
            audiences: vec![issuer.to_owned()],
            random,
            entropy,
        })
    }

    /// With an ECDSA P-256 key from a PEM file, in PKCS #8 (`PRIVATE KEY`).
    pub fn from_pem(pem: &str, issuer: &str, entropy: Entropy) -> Result<Tokens, TokenError> {
        let bad = |why: String| TokenError::Key(why);
        let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|error| bad(error.to_string()))?;
        let only = "only ECDSA keys on P-256 in PKCS #8 (PRIVATE KEY) are supported";
        let key = rcgen::KeyPair::try_from(&key).map_err(|_| bad(only.to_owned()))?;
        if key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
            return Err(bad(only.to_owned()));
        }
        Tokens::new(&key.serialize_der(), issuer, entropy)
    }

    /// From now on tokens that were signed with the keys of this PEM file are good as well: public keys (`PUBLIC KEY`) or
    /// private ones in PKCS #8.
    pub fn trust(&mut self, pem: &str) -> Result<(), TokenError> {
        let keys = public_points(pem).map_err(TokenError::Key)?;
        for key in keys.iter().map(|point| Verifier::new(point)) {
            if !self.verifiers.iter().any(|known| known.kid == key.kid) {
                self.verifiers.push(key);
            }
        }
        Ok(())
    }

    /// With a key that nobody else has and that is gone with the process: for tests and simulations.
    pub fn ephemeral(issuer: &str, entropy: Entropy) -> Result<Tokens, TokenError> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(|_| TokenError::Signing)?;
        Tokens::new(document.as_ref(), issuer, entropy)
    }

    /// The issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audiences of this server.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// A token with these claims; issuer and id are filled in.
    pub fn sign(&self, mut claims: Claims) -> Result<String, TokenError> {
        claims.iss.clone_from(&self.issuer);
        claims.jti = self.entropy.uuid();
        let header = json!({"alg": ALGORITHM, "kid": self.kid});
        let claims = serde_json::to_string(&claims).map_err(|_| TokenError::Signing)?;
        let signed =
            format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
        let signature = self.key.sign(&self.random, signed.as_bytes()).map_err(|_| TokenError::Signing)?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The claims of a token that is ours, good at `now` and for one of `audiences`. What it is bound to may be gone.
    pub fn verify(
        &self,
        token: &str,
        audiences: &[String],
        now: Timestamp,
    ) -> Result<Arc<Claims>, TokenError> {
        let claims = self.open(token).ok_or(TokenError::Invalid)?;
        let now = now.as_second();
        if now - LEEWAY > claims.exp {
            return Err(TokenError::Expired);
        }
        if now + LEEWAY < claims.nbf {
            return Err(TokenError::NotYet);
        }
        if !claims.aud.iter().any(|audience| audiences.contains(audience)) {
            return Err(TokenError::Audience { got: claims.aud.clone(), wanted: audiences.to_vec() });
        }
        Ok(claims)
    }

    /// The claims, if algorithm, key, signature and issuer are right, or were when the same token was looked at before.
    fn open(&self, token: &str) -> Option<Arc<Claims>> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let digest = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let digest = <[u8; 32]>::try_from(digest.as_ref()).ok()?;
        let signed = || self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claims) = signed().find(&digest) {
            return Some(claims);
        }
        let claims = Arc::new(self.open_anew(token)?);
        signed().add(digest, claims.clone());
        Some(claims)
    }

    fn open_anew(&self, token: &str) -> Option<Claims> {
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if header.alg != ALGORITHM || header.crit.is_some() {
            return None;
        }
        let verifier = self.verifiers.iter().find(|verifier| verifier.kid == header.kid)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &verifier.point);
        key.verify(signed.as_bytes(), &signature).ok()?;
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        (claims.iss == self.issuer).then_some(claims)
    }

    /// The public keys as a JWKS document.
    pub fn jwks(&self) -> Value {
        json!({"keys": self.verifiers.iter().map(Verifier::to_jwk).collect::<Vec<_>>()})
    }

    /// The public key as PEM.
    pub fn public_key_pem(&self) -> String {
        let der = [&PUBLIC_KEY[..], self.key.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    /// The discovery document.
    pub fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", self.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn claims() -> Claims {
        Claims {
            aud: vec![ISSUER.to_owned()],
            exp: 4600,
            iat: 1000,
            nbf: 1000,
            sub: "s".to_owned(),
            ..Claims::default()
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    fn segments(header: &Value, claims: &Claims) -> String {
        let claims = serde_json::to_string(claims).expect("claims");
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn good_for_its_audience_and_its_time() {
        let tokens = Tokens::ephemeral(ISSUER, Entropy::seeded(1)).expect("a key");
        let token = tokens.sign(claims()).expect("a token");
        let own = tokens.audiences();
        let found = tokens.verify(&token, own, at(2000)).expect("good");
        assert_eq!((found.iss.as_str(), found.sub.as_str(), found.jti.len()), (ISSUER, "s", 36));
        assert_eq!(tokens.verify(&token, own, at(4661)), Err(TokenError::Expired));
        assert_eq!(tokens.verify(&token, own, at(900)), Err(TokenError::NotYet));
        let vault = ["vault".to_owned()];
        assert!(matches!(tokens.verify(&token, &vault, at(2000)), Err(TokenError::Audience { .. })));
        let other = Tokens::ephemeral(ISSUER, Entropy::seeded(1)).expect("a key");
        assert_eq!(other.verify(&token, own, at(2000)), Err(TokenError::Invalid), "signed with another key");
    }

    #[test]
    fn what_is_remembered_is_bounded_and_forgets_what_nobody_asks_for() {
        let digest = |number: usize| {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            digest
        };
        let mut signed = Signed::default();
        for number in 0..5 * REMEMBERED {
            signed.add(digest(number), Arc::new(Claims::default()));
            assert!(signed.find(&digest(0)).is_some(), "asked for all the time");
            assert!(signed.young.len() + signed.old.len() <= 2 * REMEMBERED);
        }
        assert!(signed.find(&digest(1)).is_none());
    }

    #[test]
    fn keys_that_were_used_before_are_trusted_as_long_as_somebody_says_so() {
        let old = Tokens::ephemeral(ISSUER, Entropy::seeded(1)).expect("a key");
        let token = old.sign(claims()).expect("a token");
        let mut new = Tokens::ephemeral(ISSUER, Entropy::seeded(2)).expect("a key");
        let own = new.audiences().to_owned();
        assert_eq!(new.verify(&token, &own, at(2000)), Err(TokenError::Invalid));
        new.trust(&old.public_key_pem()).expect("a public key");
        new.verify(&token, &own, at(2000)).expect("good");
        let both = format!("{}{}", old.public_key_pem(), new.public_key_pem());
        new.trust(&both).expect("known already");
        assert_eq!(new.jwks()["keys"].as_array().map(Vec::len), Some(2));
        assert_eq!(new.jwks()["keys"][0]["kid"], *new.kid, "our own comes first");
        // A key's name alone makes no signature good.
        let forged =
            Tokens { kid: old.kid.clone(), ..Tokens::ephemeral(ISSUER, Entropy::seeded(3)).expect("a key") };
        let forged = forged.sign(claims()).expect("a token");
        assert_eq!(new.verify(&forged, &own, at(2000)), Err(TokenError::Invalid));
        let rsa = "-----BEGIN PUBLIC KEY-----\nMFwwDQYJKoZIhvcNAQEBBQADSwAwSAJB\n-----END PUBLIC KEY-----\n";
        for (pem, words) in [("", "no key"), (rsa, "P-256"), ("-----BEGIN PUBLIC KEY-----\n!", "")] {
            let error = new.trust(pem).expect_err("refused").to_string();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn no_header_chooses_the_check() {
        let tokens = Tokens::ephemeral(ISSUER, Entropy::seeded(1)).expect("a key");
        let own = tokens.audiences();
        let mut claims = claims();
        claims.iss = ISSUER.to_owned();
        let kid = tokens.kid.clone();
        let good = tokens.sign(claims.clone()).expect("a token");
        let (_, signature) = good.rsplit_once('.').expect("three parts");
        let pem = tokens.public_key_pem();
        let hs256 = segments(&json!({"alg": "HS256", "kid": kid}), &claims);
        let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, pem.as_bytes());
        let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, hs256.as_bytes()));
        let forged = [
            format!("{}.", segments(&json!({"alg": "none"}), &claims)),
            format!("{}.", segments(&json!({"alg": "ES256", "kid": kid}), &claims)),
            format!("{}.{signature}", segments(&json!({"alg": "none", "kid": kid}), &claims)),
            format!("{hs256}.{tag}"),
            format!("{}.{signature}", segments(&json!({"alg": "ES256", "kid": kid, "x": 1}), &claims)),
            good[..good.len() - 2].to_owned(),
            String::new(),
            "..".to_owned(),
            "a".repeat(MAX_TOKEN + 1),
        ];
        for token in forged {
            assert_eq!(tokens.verify(&token, own, at(2000)), Err(TokenError::Invalid), "{token:.80}");
        }
        // Our own signature under a header that we would not write is no token either.
        for header in [
            json!({"alg": "none", "kid": kid}),
            json!({"alg": "HS256", "kid": kid}),
            json!({"alg": "ES256", "kid": "other"}),
            json!({"alg": "ES256", "kid": kid, "crit": ["exp"]}),
        ] {
            let signed = segments(&header, &claims);
            let signature = tokens.key.sign(&tokens.random, signed.as_bytes()).expect("a signature");
            let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature));
            assert_eq!(tokens.verify(&token, own, at(2000)), Err(TokenError::Invalid), "{header}");
        }
        tokens.verify(&good, own, at(2000)).expect("the good one is good");
    }

    #[test]
    fn public_documents() {
        let tokens = Tokens::ephemeral(ISSUER, Entropy::seeded(1)).expect("a key");
        let key = &tokens.jwks()["keys"][0];
        assert_eq!((key["kty"].as_str(), key["alg"].as_str()), (Some("EC"), Some("ES256")));
        assert_eq!(key["x"].as_str().map(str::len), Some(43));
        assert_eq!(tokens.openid_configuration()["jwks_uri"], format!("{ISSUER}/openid/v1/jwks"));
        assert!(Tokens::new(b"no key", ISSUER, Entropy::seeded(1)).is_err());
    }

    #[test]
    fn a_key_from_a_file() {
        let made = |algorithm| rcgen::KeyPair::generate_for(algorithm).expect("a key").serialize_pem();
        let pem = made(&rcgen::PKCS_ECDSA_P256_SHA256);
        let [first, again] =
            [1, 2].map(|seed| Tokens::from_pem(&pem, ISSUER, Entropy::seeded(seed)).expect("a key"));
        let token = first.sign(claims()).expect("a token");
        again.verify(&token, again.audiences(), at(2000)).expect("the same key elsewhere");
        let other = Tokens::from_pem(&made(&rcgen::PKCS_ECDSA_P384_SHA384), ISSUER, Entropy::seeded(1)).err();
        assert!(other.expect("refused").to_string().contains("P-256"));
        assert!(Tokens::from_pem("no key", ISSUER, Entropy::seeded(1)).is_err());
    }
}
