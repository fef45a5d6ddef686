//! A client certificate is a user: its common name is the name, its organizations are the groups.
//!
//! That it chains to the client CA and that the client holds the key was proven in the TLS handshake. It is looked at
//! again for every request, since connections outlive certificates.

use api_machinery::status::ApiError;
use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AUTHENTICATED, CREDENTIAL};
use crate::types::UserInfo;

/// The user of a certificate; `None` if it names nobody, an error if it is no good.
pub fn user(der: &CertificateDer<'_>, now: Timestamp) -> Result<Option<UserInfo>, ApiError> {
    let bad = || ApiError::unauthorized();
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| bad())?;
    let validity = certificate.validity();
    let second = now.as_second();
    if second < validity.not_before.timestamp() || second > validity.not_after.timestamp() {
        return Err(bad());
    }
    let usage = certificate.extended_key_usage().map_err(|_| bad())?;
    if usage.is_some_and(|usage| !usage.value.client_auth && !usage.value.any) {
        return Err(bad());
    }
    let subject = certificate.subject();
    let name = match subject.iter_common_name().next() {
        Some(name) => name.as_str().map_err(|_| bad())?,
        None => "",
    };
    if name.is_empty() {
        return Ok(None);
    }
    let organizations: Result<Vec<String>, _> =
        subject.iter_organization().map(|group| group.as_str().map(str::to_owned)).collect();
    let mut groups = organizations.map_err(|_| bad())?;
    if !groups.iter().any(|group| group == AUTHENTICATED) {
        groups.push(AUTHENTICATED.to_owned());
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, der);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let extra = [(CREDENTIAL.to_owned(), vec![format!("X509SHA256={hex}")])];
    Ok(Some(UserInfo { name: name.to_owned(), uid: String::new(), groups, extra: extra.into() }))
}

/// The common name of a client's certificate that is good just now.
pub fn common_name(der: &CertificateDer<'_>, now: Timestamp) -> Option<String> {
    let name = match user(der, now) {
        Ok(Some(user)) => user.name,
        Ok(None) => String::new(),
        Err(_) => return None,
    };
    Some(name)
}

/// Until when a certificate is good; `None` if it is none.
pub fn ends(der: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, date_time_ymd};

    fn certificate(name: &str, groups: &[&str], usage: ExtendedKeyUsagePurpose) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        if !name.is_empty() {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        for group in groups {
            params.distinguished_name.push(DnType::OrganizationName, *group);
        }
        params.extended_key_usages = vec![usage];
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("a certificate").der().clone()
    }

    /// A client's certificate that is good in 2026.
    pub fn client(name: &str) -> CertificateDer<'static> {
        certificate(name, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn names_and_groups() {
        let node = certificate("system:node:a", &["system:nodes"], ExtendedKeyUsagePurpose::ClientAuth);
        let user = user(&node, at("2026-06-01T00:00:00Z")).expect("good").expect("somebody");
        assert_eq!(user.name, "system:node:a");
        assert_eq!(user.groups, ["system:nodes", "system:authenticated"]);
        assert_eq!(user.extra[CREDENTIAL][0].len(), "X509SHA256=".len() + 64);
    }

    #[test]
    fn what_is_no_good() {
        let now = at("2026-06-01T00:00:00Z");
        let good = certificate("a", &[], ExtendedKeyUsagePurpose::ClientAuth);
        let server = certificate("a", &[], ExtendedKeyUsagePurpose::ServerAuth);
        let nobody = certificate("", &["system:masters"], ExtendedKeyUsagePurpose::ClientAuth);
        assert_eq!(user(&good, at("2025-12-31T00:00:00Z")).map_err(|error| error.code()), Err(401));
        assert_eq!(user(&good, at("2027-01-02T00:00:00Z")).map_err(|error| error.code()), Err(401));
        assert_eq!(user(&server, now).map_err(|error| error.code()), Err(401));
        assert_eq!(user(&nobody, now), Ok(None));
        assert_eq!(user(&CertificateDer::from(vec![1, 2, 3]), now).map_err(|error| error.code()), Err(401));
    }
}
