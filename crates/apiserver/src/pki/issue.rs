//! Certificates: what is wanted, whether a file holds it, and issuing it anew. One file holds certificate and key, so that a
//! crash cannot leave one without the other.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api_machinery::entropy::Entropy;
use jiff::Timestamp;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{PkiError, files};

const DAY: i64 = 24 * 3600;
/// How long the CA is good.
const CA_DAYS: i64 = 3650;
/// How long everything else is.
const DAYS: i64 = 365;
/// What ends sooner than this is issued anew.
const RENEW_DAYS: i64 = 90;
/// Clocks of nodes are not all the same.
const BACKDATE: i64 = 3600;

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To be a user.
    Client,
    /// To be a server.
    Server,
    /// To be a server that is also a client of its likes.
    Both,
}

/// A certificate that is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The common name: the user's name.
    pub name: String,
    /// The organizations: the user's groups.
    pub groups: Vec<String>,
    /// What it is for.
    pub usage: Usage,
    /// Names and addresses of a server.
    pub alternatives: BTreeSet<String>,
}

/// A certificate with its key.
pub struct Credential {
    certificate_pem: String,
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Credential")
    }
}

impl Credential {
    /// The certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The key as PEM (PKCS #8).
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.serialize_der().into())
    }

    fn of(certificate: &rcgen::Certificate, key: KeyPair) -> Credential {
        Credential { certificate_pem: certificate.pem(), certificate: certificate.der().clone(), key }
    }

    /// Certificate and key as one PEM text.
    pub fn to_file(&self) -> String {
        format!("{}{}", self.certificate_pem, self.key.serialize_pem())
    }

    /// Reads a file; anything but a certificate and its key is damage.
    fn read(path: &Path) -> Result<Option<Credential>, PkiError> {
        let Some(text) = files::read(path)? else { return Ok(None) };
        let damaged = |why: String| PkiError::Damaged { path: path.to_owned(), why };
        let certificate =
            CertificateDer::from_pem_slice(text.as_bytes()).map_err(|error| damaged(error.to_string()))?;
        let key = key_of(&text).map_err(damaged)?;
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| damaged(error.to_string()))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.der_bytes() {
            return Err(damaged("certificate and key do not belong together".to_owned()));
        }
        let certificate_pem = pem::encode_config(
            &pem::Pem::new("CERTIFICATE", certificate.to_vec()),
            pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
        );
        Ok(Some(Credential { certificate_pem, certificate, key }))
    }
}

/// The key in a PEM file.
pub fn key_of(text: &str) -> Result<KeyPair, String> {
    let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| error.to_string())?;
    KeyPair::try_from(&key).map_err(|error| error.to_string())
}

/// The CA: signs everything.
pub struct Authority {
    credential: Credential,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Authority")
    }
}

/// What all certificates are made with.
pub struct Maker<'a> {
    /// Where the files are.
    pub folder: &'a Path,
    /// When this is.
    pub now: Timestamp,
    /// Serial numbers.
    pub entropy: &'a Entropy,
}

impl Maker<'_> {
    /// Where a credential is.
    pub fn path(&self, file: &str) -> PathBuf {
        self.folder.join(format!("{file}.pem"))
    }

    fn params(&self, days: i64) -> CertificateParams {
        let epoch = date_time_ymd(1970, 1, 1);
        let at = |second: i64| epoch + Duration::from_secs(u64::try_from(second).unwrap_or(0));
        let now = self.now.as_second();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.not_before = at(now - BACKDATE);
        params.not_after = at(now + days * DAY);
        let mut serial = [0; 16];
        self.entropy.fill(&mut serial);
        // Positive, and of full length.
        serial[0] = serial[0] & 0x7f | 0x40;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params
    }

    /// A CA, made if there is none. One that has ended or is damaged is an error: everything hangs on it.
    pub fn authority(&self, file: &str, name: &str) -> Result<Authority, PkiError> {
        let path = self.path(file);
        if let Some(credential) = Credential::read(&path)? {
            let why = match seconds_left(&credential.certificate, self.now) {
                Some(left) if left > 0 => return Ok(Authority { credential }),
                Some(_) => "the CA certificate has expired",
                None => "the CA certificate is from the future, or the clock is wrong",
            };
            return Err(PkiError::Damaged { path, why: why.to_owned() });
        }
        let mut params = self.params(CA_DAYS);
        params.distinguished_name.push(DnType::CommonName, format!("{name}@{}", self.now.as_second()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        let credential = Credential::of(&certificate, key);
        files::write(&path, credential.to_file().as_bytes())?;
        Ok(Authority { credential })
    }

    /// A credential from its file, or a new one if there is none, it is not what is wanted, or it ends soon.
    pub fn credential(
        &self,
        file: &str,
        wanted: &Wanted,
        authority: &Authority,
    ) -> Result<Credential, PkiError> {
        let path = self.path(file);
        if let Some(existing) = Credential::read(&path)?
            && wanted.is(&existing.certificate, authority)
            && seconds_left(&existing.certificate, self.now).is_some_and(|left| left > RENEW_DAYS * DAY)
        {
            return Ok(existing);
        }
        let mut params = self.params(DAYS);
        params.distinguished_name.push(DnType::CommonName, wanted.name.as_str());
        for group in &wanted.groups {
            params.distinguished_name.push(DnType::CustomDnType(ORGANIZATION.to_vec()), group.as_str());
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match wanted.usage {
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names =
            wanted.alternatives.iter().map(|name| alternative(name)).collect::<Result<_, _>>()?;
        let key = KeyPair::generate()?;
        let issuer = Issuer::from_ca_cert_der(&authority.credential.certificate, &authority.credential.key)?;
        let certificate = params.signed_by(&key, &issuer)?;
        let credential = Credential::of(&certificate, key);
        files::write(&path, credential.to_file().as_bytes())?;
        Ok(credential)
    }
}

/// The object identifier of organizations.
const ORGANIZATION: [u64; 4] = [2, 5, 4, 10];

fn alternative(name: &str) -> Result<SanType, rcgen::Error> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(Ia5String::try_from(name)?),
    })
}

impl Authority {
    /// The CA's key as PEM.
    pub fn key_pem(&self) -> String {
        self.credential.key_pem()
    }

    /// The CA's certificate as PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.credential.certificate_pem
    }

    /// The CA's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.credential.certificate
    }
}

impl Wanted {
    /// Whether a certificate is the wanted one and the CA's.
    fn is(&self, certificate: &CertificateDer<'_>, authority: &Authority) -> bool {
        let (Ok((_, found)), Ok((_, ca))) =
            (X509Certificate::from_der(certificate), X509Certificate::from_der(authority.certificate()))
        else {
            return false;
        };
        let subject = found.subject();
        let names: Vec<&str> = subject.iter_common_name().filter_map(|name| name.as_str().ok()).collect();
        let groups: Vec<&str> = subject.iter_organization().filter_map(|group| group.as_str().ok()).collect();
        let usage = found.extended_key_usage().ok().flatten().is_some_and(|usage| match self.usage {
            Usage::Client => usage.value.client_auth,
            Usage::Server => usage.value.server_auth,
            Usage::Both => usage.value.server_auth && usage.value.client_auth,
        });
        names == [self.name.as_str()]
            && groups == self.groups
            && usage
            && alternatives(&found) == self.alternatives
            && found.issuer() == ca.subject()
            && issuer_key(&found).is_some()
            && issuer_key(&found) == own_key(&ca)
    }
}

fn issuer_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(key) => key.key_identifier.as_ref().map(|key| key.0.to_vec()),
        _ => None,
    })
}

fn own_key(certificate: &X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(key) => Some(key.0.to_vec()),
        _ => None,
    })
}

/// Names and addresses of a certificate.
fn alternatives(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    names.iter().filter_map(text).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// How long a certificate is good from now on.
fn seconds_left(certificate: &CertificateDer<'_>, now: Timestamp) -> Option<i64> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let validity = parsed.validity();
    (validity.not_before.timestamp() <= now.as_second())
        .then(|| validity.not_after.timestamp() - now.as_second())
}
