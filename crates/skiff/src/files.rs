//! Where things are below the data directory: what the server writes for a node, and the node reads.

use std::path::{Path, PathBuf};

/// Credentials of the node process.
pub struct AgentFiles {
    /// The kubelet's kubeconfig.
    pub kubelet_kubeconfig: PathBuf,
    /// The service proxy's kubeconfig, which DNS uses too.
    pub proxy_kubeconfig: PathBuf,
    /// The certificate of the kubelet's own server.
    pub serving_certificate: PathBuf,
    /// Its key.
    pub serving_key: PathBuf,
    /// Who signs the certificates of its clients.
    pub client_ca: PathBuf,
}

impl AgentFiles {
    /// Below this data directory.
    pub fn below(data_dir: &Path) -> Self {
        let folder = data_dir.join("agent");
        Self {
            kubelet_kubeconfig: folder.join("kubelet.kubeconfig"),
            proxy_kubeconfig: folder.join("kube-proxy.kubeconfig"),
            serving_certificate: folder.join("serving-kubelet.crt"),
            serving_key: folder.join("serving-kubelet.key"),
            client_ca: folder.join("client-ca.crt"),
        }
    }
}
