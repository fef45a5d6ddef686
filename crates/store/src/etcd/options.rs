//! Which etcd, how to prove who we are to it, and what it must already know about us.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::StoreError;
use crate::cipher::{Encryption, Random, system_random};

/// The options of [`EtcdStore::open`](crate::EtcdStore::open).
#[derive(Clone)]
pub struct EtcdOptions {
    /// Addresses of members, such as `https://10.0.0.1:2379`. One that does not answer is passed over.
    pub endpoints: Vec<String>,
    /// How members are recognised and how we are; required for `https`.
    pub tls: Option<EtcdTls>,
    /// What is encrypted before etcd sees it.
    pub encryption: Encryption,
    /// Which cluster this is: any text that its servers share and no other cluster's have. The first server leaves it in
    /// etcd, and an etcd with another one is refused.
    pub identity: String,
    /// Nonces, and names of attempts.
    pub random: Random,
    /// How long to wait at the start for an etcd that does not answer yet.
    pub patience: Duration,
}

impl EtcdOptions {
    /// Options with the system's randomness and nothing encrypted.
    pub fn new(endpoints: Vec<String>, identity: impl Into<String>) -> EtcdOptions {
        EtcdOptions {
            endpoints,
            tls: None,
            encryption: Encryption::default(),
            identity: identity.into(),
            random: system_random(),
            patience: Duration::from_secs(10),
        }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("identity", &self.identity)
            .finish_non_exhaustive()
    }
}

/// The certificates of a connection to etcd.
#[derive(Clone)]
pub struct EtcdTls {
    pub(crate) config: Arc<rustls::ClientConfig>,
}

impl EtcdTls {
    /// From PEM: the CA that signed the members' certificates, and our own certificate and key if etcd asks for one.
    ///
    /// # Errors
    /// Something is not PEM, or certificate and key do not belong together.
    pub fn from_pem(ca: &[u8], own: Option<(&[u8], &[u8])>) -> Result<EtcdTls, StoreError> {
        let bad = |what: &str, error: &dyn fmt::Display| {
            StoreError::InvalidOptions(format!("etcd's {what}: {error}"))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca).map_err(|error| bad("CA file", &error))? {
            roots.add(certificate).map_err(|error| bad("CA file", &error))?;
        }
        if roots.is_empty() {
            return Err(bad("CA file", &"it holds no certificate"));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad("TLS versions", &error))?
            .with_root_certificates(roots);
        let mut config = match own {
            None => config.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain =
                    certificates(certificate).map_err(|error| bad("client certificate file", &error))?;
                let key =
                    PrivateKeyDer::from_pem_slice(key).map_err(|error| bad("client key file", &error))?;
                config.with_client_auth_cert(chain, key).map_err(|error| bad("client certificate", &error))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(EtcdTls { config: Arc::new(config) })
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    CertificateDer::pem_slice_iter(pem).collect()
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("EtcdTls")
    }
}
