//! The signer: issues approved requests for API clients, kubelets as clients and kubelets as servers, with the cluster's
//! CA. A request that is not what its signer issues fails for good and says why.
//!
//! Reads and writes CertificateSigningRequests (`/status`). Woken by changes of them.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::entropy::Entropy;
use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::PostParams;
use rcgen::SigningKey;
use x509_parser::extensions::ParsedExtension;

use super::request::{self, Asked};
use super::{API_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, condition, der, is_issued, with_condition};
use crate::Informers;
use crate::answers::{is_conflict, is_not_found};
use crate::wiring::{self, Cache};

const WORKERS: usize = 2;
/// The longest that a certificate is good for unless the signer is told otherwise; a request may ask for less.
const LONGEST: SignedDuration = SignedDuration::from_hours(365 * 24);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// Clocks are not all the same. Of a short life it is at most this part: a certificate that is renewed at 70% of its life must
/// not be due when it is new.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const BACKDATE_PART: i32 = 10;

/// Why a certificate and a key are not a signer's.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The certificate cannot be read.
    #[error("the CA certificate: {0}")]
    Certificate(String),
    /// The key cannot be read or used.
    #[error("the CA key: {0}")]
    Key(String),
}

/// A certificate authority that signs.
pub struct Authority {
    key: rcgen::KeyPair,
    /// The signature algorithm, DER.
    algorithm: &'static [u8],
    /// The authority's name, DER.
    name: Vec<u8>,
    key_identifier: Option<Vec<u8>>,
    ends: Timestamp,
    longest: SignedDuration,
    entropy: Entropy,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authority")
    }
}

/// ecdsa-with-SHA256, ecdsa-with-SHA384, sha256WithRSAEncryption, Ed25519.
const ALGORITHMS: [(&rcgen::SignatureAlgorithm, &[u8]); 4] = [
    (
        &rcgen::PKCS_ECDSA_P256_SHA256,
        &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02],
    ),
    (
        &rcgen::PKCS_ECDSA_P384_SHA384,
        &[0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03],
    ),
    (
        &rcgen::PKCS_RSA_SHA256,
        &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00],
    ),
    (&rcgen::PKCS_ED25519, &[0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70]),
];

impl Authority {
    /// From a certificate and its key in PEM. `entropy` makes serial numbers.
    pub fn from_pem(certificate: &str, key: &str, entropy: Entropy) -> Result<Authority, AuthorityError> {
        let bad = |error: String| AuthorityError::Certificate(error);
        let block = pem::parse(certificate).map_err(|error| bad(error.to_string()))?;
        let (_, parsed) =
            x509_parser::parse_x509_certificate(block.contents()).map_err(|error| bad(error.to_string()))?;
        let key = rcgen::KeyPair::from_pem(key).map_err(|error| AuthorityError::Key(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != rcgen::PublicKeyData::der_bytes(&key) {
            return Err(AuthorityError::Key("it does not belong to the CA certificate".to_owned()));
        }
        let algorithm = ALGORITHMS.iter().find(|(known, _)| *known == rcgen::PublicKeyData::algorithm(&key));
        let algorithm =
            algorithm.ok_or_else(|| AuthorityError::Key("of a kind that is not known".to_owned()))?;
        let key_identifier =
            parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
                _ => None,
            });
        let ends = Timestamp::from_second(parsed.validity().not_after.timestamp());
        Ok(Authority {
            algorithm: algorithm.1,
            name: parsed.subject().as_raw().to_vec(),
            key_identifier,
            ends: ends.map_err(|error| bad(error.to_string()))?,
            key,
            longest: LONGEST,
            entropy,
        })
    }

    /// Signs for this long at most.
    #[must_use]
    pub fn with_longest(mut self, longest: SignedDuration) -> Authority {
        self.longest = longest.max(SignedDuration::from_secs(1));
        self
    }

    /// A certificate in PEM for what was asked, good from `now` on.
    pub(super) fn sign(
        &self,
        asked: &Asked,
        usages: &[String],
        seconds: Option<i32>,
        now: Timestamp,
    ) -> Result<String, String> {
        let wanted = seconds.map_or(self.longest, |seconds| SignedDuration::from_secs(seconds.into()));
        let life = wanted.max(SHORTEST).min(self.longest);
        let backdate = BACKDATE.min(life / BACKDATE_PART);
        let ends = (now + life).min(self.ends);
        if ends <= now {
            return Err("the CA certificate has expired".to_owned());
        }
        let mut serial = [0; 16];
        self.entropy.fill(&mut serial);
        // Positive, and of full length.
        serial[0] = serial[0] & 0x7f | 0x40;
        let body = der::sequence(&[
            &der::explicit(0, &der::integer(&[2])),
            &der::integer(&serial),
            self.algorithm,
            &self.name,
            &der::sequence(&[&der::time(now - backdate), &der::time(ends)]),
            &asked.subject,
            &asked.public_key,
            &der::explicit(3, &der::element(0x30, &self.extensions(asked, usages))),
        ]);
        let signature = self.key.sign(&body).map_err(|error| error.to_string())?;
        let whole = der::sequence(&[&body, self.algorithm, &der::bits(&signature)]);
        let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        Ok(pem::encode_config(&pem::Pem::new("CERTIFICATE", whole), config))
    }

    fn extensions(&self, asked: &Asked, usages: &[String]) -> Vec<u8> {
        let has = |usage: &str| usages.iter().any(|known| known == usage);
        let mut key_usage = 0;
        for (usage, flag) in [("digital signature", 0x80), ("key encipherment", 0x20)] {
            key_usage |= if has(usage) { flag } else { 0 };
        }
        let mut extended = Vec::new();
        for (usage, last) in [("server auth", 1), ("client auth", 2)] {
            if has(usage) {
                extended.extend(der::element(0x06, &[0x2b, 6, 1, 5, 5, 7, 3, last]));
            }
        }
        let mut all = Vec::new();
        if key_usage != 0 {
            all.extend(der::extension(&[0x55, 0x1d, 15], true, &der::flags(key_usage)));
        }
        all.extend(der::extension(&[0x55, 0x1d, 37], false, &der::element(0x30, &extended)));
        // Not a CA: an empty sequence.
        all.extend(der::extension(&[0x55, 0x1d, 19], true, &der::sequence(&[])));
        if let Some(identifier) = &self.key_identifier {
            let identifier = der::sequence(&[&der::element(0x80, identifier)]);
            all.extend(der::extension(&[0x55, 0x1d, 35], false, &identifier));
        }
        if let Some((names, critical)) = &asked.alternatives {
            all.extend(der::extension(&[0x55, 0x1d, 17], *critical, names));
        }
        all
    }
}

#[derive(Clone)]
struct Signer {
    context: Context,
    requests: Informer<CertificateSigningRequest>,
    authority: Arc<Authority>,
}

/// Starts the signer.
pub fn start(context: &Context, informers: &Informers, authority: Arc<Authority>) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.certificate_requests.on_change(move |change| {
        if change.new.is_some_and(|request| is_due(request)) {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let signer =
        Signer { context: context.clone(), requests: informers.certificate_requests.clone(), authority };
    let caches: [&dyn Cache; 1] = [&informers.certificate_requests];
    wiring::run(context, ("certificate-signer", queue, WORKERS), &caches, signer, |signer, key| async move {
        signer.reconcile(&key).await
    });
}

/// Whether something is to be signed here.
pub(super) fn is_due(request: &CertificateSigningRequest) -> bool {
    matches!(request.spec.signer_name.as_str(), API_CLIENT | KUBELET_CLIENT | KUBELET_SERVING)
        && condition(request, "Approved").is_some()
        && condition(request, "Denied").is_none()
        && condition(request, "Failed").is_none()
        && !is_issued(request)
        && request.metadata.deletion_timestamp.is_none()
}

impl Signer {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let found = self.requests.get(&ObjectKey::new("", name));
        let Some(found) = found.filter(|request| is_due(request)) else { return Ok(Next::Done) };
        let usages = request::usages(&found);
        let asked = request::parse(&found.spec.request.0);
        let asked = asked.and_then(|asked| asked.fits(&found.spec.signer_name, &usages).map(|()| asked));
        let changed = match asked {
            Err(why) => with_condition(&found, "Failed", "SignerValidationFailure", why),
            Ok(asked) => {
                let now = self.context.clock.now();
                match self.authority.sign(&asked, &usages, found.spec.expiration_seconds, now) {
                    Ok(certificate) => {
                        let mut changed = (*found).clone();
                        changed.status.get_or_insert_default().certificate =
                            Some(ByteString(certificate.into_bytes()));
                        changed
                    }
                    Err(error) => {
                        tracing::error!(request = name, error, "an approved certificate cannot be signed");
                        return Ok(Next::After(Duration::from_secs(60)));
                    }
                }
            }
        };
        let api: Api<CertificateSigningRequest> = Api::all(self.context.client.clone());
        match api.replace_status(name, &PostParams::default(), &changed).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}
