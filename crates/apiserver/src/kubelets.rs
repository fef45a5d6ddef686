//! The way to kubelets: HTTP/1.1 over TLS with the API server's client certificate, one connection a request. And how TLS is
//! spoken with pods.
//!
//! The address was checked by `proxy` and nothing is resolved here; `egress` finds the way to it. A kubelet must prove to be the node that it is asked as:
//! nodes write their own addresses, and one that names another's would be handed that one's logs. Redirects are not
//! followed; what to make of an answer is `proxy`'s to say.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::Request;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use crate::egress::{Destination, Egress};
use crate::exchange::{Exchanged, exchange, secure};
use crate::proxy::{KubeletAddress, KubeletError, Kubelets};
use crate::serve::TlsError;
use crate::types::RequestBody;

/// How long the head of an answer may take. A body may take as long as it likes.
const ANSWER: Duration = Duration::from_secs(30);

/// Kubelets on the network.
pub struct TlsKubelets {
    tls: Arc<ClientConfig>,
    pods: Arc<ClientConfig>,
}

impl TlsKubelets {
    /// Kubelets whose certificates one of `authorities` signed, asked as the owner of a client certificate; and `pods`, for TLS
    /// with those, which must show nobody's certificate.
    pub fn new(
        authorities: &[CertificateDer<'static>],
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        pods: ClientConfig,
    ) -> Result<TlsKubelets, TlsError> {
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            roots.add(authority.clone())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsKubelets { tls: Arc::new(config), pods: Arc::new(pods) })
    }
}

#[async_trait]
impl Kubelets for TlsKubelets {
    async fn send(
        &self,
        egress: &dyn Egress,
        kubelet: &KubeletAddress,
        request: Request<RequestBody>,
    ) -> Result<Exchanged, KubeletError> {
        let failed = |why: &dyn std::fmt::Display| KubeletError(why.to_string());
        let name = ServerName::try_from(kubelet.node.clone()).map_err(|error| failed(&error))?;
        let to = Destination::Kubelet { node: kubelet.node.clone(), address: kubelet.socket() };
        let stream = egress.dial(&to).await.map_err(|error| failed(&error))?;
        let stream = secure(stream, self.tls.clone(), name).await.map_err(|error| failed(&error))?;
        exchange(stream, request, ANSWER).await.map_err(|error| failed(&error))
    }

    fn tls_with_pods(&self) -> Option<Arc<ClientConfig>> {
        Some(self.pods.clone())
    }
}
