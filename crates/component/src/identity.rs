//! A certificate with its key that may be replaced while it is in use: by servers for the next handshake, by clients for the
//! next connection. Who gets a new one, and when, is for others to say.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Why a certificate and a key are no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// They cannot be read.
    #[error("not a certificate and a key in PEM: {0}")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// There is no certificate.
    #[error("no certificate in PEM")]
    Empty,
    /// TLS has no use for them.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// The certificate of the moment; none before there is one.
#[derive(Default)]
pub struct Identity {
    current: RwLock<(u64, Option<Arc<CertifiedKey>>)>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Identity").field("version", &self.version()).finish_non_exhaustive()
    }
}

impl Identity {
    /// An identity that has its certificate, in PEM.
    pub fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Arc<Identity>, IdentityError> {
        let identity = Identity::default();
        identity.replace(certificate, key)?;
        Ok(Arc::new(identity))
    }

    /// Takes another certificate and key, in PEM, for what begins from now on.
    pub fn replace(&self, certificate: &[u8], key: &[u8]) -> Result<(), IdentityError> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
        if chain.is_empty() {
            return Err(IdentityError::Empty);
        }
        let key = PrivateKeyDer::from_pem_slice(key)?;
        let provider = rustls::crypto::ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider)?;
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, Some(Arc::new(certified)));
        Ok(())
    }

    /// How often the certificate was replaced.
    pub fn version(&self) -> u64 {
        self.current.read().unwrap_or_else(PoisonError::into_inner).0
    }

    fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).1.clone()
    }
}

impl ResolvesServerCert for Identity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.current()
    }

    fn has_certs(&self) -> bool {
        self.current().is_some()
    }
}
