//! What the kubelet is told when it starts.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use component::identity::Identity;
use k8s_openapi::api::core::v1::Taint;

/// Certificates of the kubelet's server.
#[derive(Clone)]
pub struct ServerTls {
    /// Its certificate, which may come and be replaced while the server runs.
    pub identity: Arc<Identity>,
    /// Who signs the certificates of its clients, PEM.
    pub client_ca: Vec<u8>,
    /// Names (CN) of clients that may ask anything. Everybody else is refused.
    pub clients: Vec<String>,
}

impl std::fmt::Debug for ServerTls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServerTls").field("clients", &self.clients).finish_non_exhaustive()
    }
}

/// The kubelet's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
    /// The node's addresses; when empty, the one of the default route.
    pub node_ips: Vec<IpAddr>,
    /// Where everything is kept.
    pub data_dir: PathBuf,
    /// The socket of a runtime that somebody else runs. Without it the kubelet runs its own containerd.
    pub runtime_endpoint: Option<PathBuf>,
    /// The containerd to run.
    pub containerd: PathBuf,
    /// Where CNI plugins are.
    pub cni_plugins: PathBuf,
    /// The domain of services.
    pub cluster_domain: String,
    /// The cluster's DNS servers.
    pub cluster_dns: Vec<IpAddr>,
    /// The cgroup below which the pods' own, `kubepods`, is made.
    pub cgroup_root: String,
    /// Where the kubelet's server listens, and its certificates. Without it there is no server.
    pub server: Option<(SocketAddr, ServerTls)>,
    /// Labels that the node registers with, beside the usual ones.
    pub labels: BTreeMap<String, String>,
    /// Taints that the node registers with.
    pub taints: Vec<Taint>,
    /// The most pods.
    pub max_pods: u32,
    /// The version that the node reports.
    pub version: String,
    /// The range of the node's pods, when it is not for a controller to say.
    pub pod_cidr: Option<String>,
    /// The most bytes of a pod's packet; by default what the system thinks right.
    pub pod_mtu: Option<u32>,
    /// A cloud controller manager says what the node is. Until then the node has a taint that keeps pods away, and its
    /// addresses are the cloud's to say.
    pub external_cloud: bool,
    /// What the cloud calls the machine, when it is not for the cloud to find out.
    pub provider_id: Option<String>,
}

impl Config {
    /// The usual configuration of a node.
    pub fn new(node_name: impl Into<String>, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips: Vec::new(),
            data_dir: data_dir.into(),
            runtime_endpoint: None,
            containerd: "containerd".into(),
            cni_plugins: "/usr/lib/cni".into(),
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: vec![IpAddr::from([10, 43, 0, 10])],
            cgroup_root: "/".to_owned(),
            server: None,
            labels: BTreeMap::new(),
            taints: Vec::new(),
            max_pods: 110,
            version: api_machinery::VERSION.to_owned(),
            pod_cidr: None,
            pod_mtu: None,
            external_cloud: false,
            provider_id: None,
        }
    }

    pub(crate) fn agent_dir(&self) -> PathBuf {
        self.data_dir.join("agent")
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.agent_dir().join("pods")
    }

    pub(crate) fn logs_dir(&self) -> PathBuf {
        self.agent_dir().join("pod-logs")
    }

    pub(crate) fn images_dir(&self) -> PathBuf {
        self.agent_dir().join("images")
    }
}
