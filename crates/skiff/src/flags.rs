//! The command line. Names are k3s's where k3s has one.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};
use controllers::node_ipam::{Range, check_apart};

use crate::bench::BenchFlags;
use crate::cluster::ClusterFlags;
use crate::components;
use crate::components::announcer::AnnouncerFlags;
use crate::components::cloud_controller_manager::CloudControllerManagerFlags;
use crate::components::dns::DnsFlags;
use crate::components::kube_apiserver::KubeApiserverFlags;
use crate::components::kube_controller_manager::KubeControllerManagerFlags;
use crate::components::kube_proxy::KubeProxyFlags;
use crate::components::kube_scheduler::KubeSchedulerFlags;
use crate::components::kubelet::{CloudNode, KubeletFlags};
use crate::components::pod_network::PodNetworkFlags;
use crate::datastore::DatastoreFlags;
use crate::install::InstallFlags;
use crate::join::JoinFlags;
use crate::load_balancers::LoadBalancerFlags;
use crate::token::TokenFlags;
use crate::uninstall::UninstallFlags;
use crate::upgrade::UpgradeFlags;

/// Kubernetes as one small binary.
#[derive(Parser)]
#[command(version = api_machinery::VERSION, about)]
pub struct Flags {
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,kubelet=debug`
    #[arg(long, global = true, env = "SKIFF_LOG", default_value = "info")]
    pub log_level: String,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run a control plane, and a node beside it
    Server(ServerFlags),
    /// Run a node (kubelet, service proxy, DNS) that joins a server, or has the credentials that one left in the data
    /// directory
    Agent(AgentFlags),
    /// Make, list and delete the tokens that nodes join with
    Token(TokenFlags),
    /// Make and use clusters of several nodes on this machine
    Cluster(ClusterFlags),
    /// Run the API server alone
    KubeApiserver(Box<KubeApiserverFlags>),
    /// Run the scheduler alone
    KubeScheduler(Box<KubeSchedulerFlags>),
    /// Run the controllers alone
    KubeControllerManager(Box<KubeControllerManagerFlags>),
    /// Run the controllers of a cloud alone
    CloudControllerManager(Box<CloudControllerManagerFlags>),
    /// Run the kubelet alone
    Kubelet(Box<KubeletFlags>),
    /// Run the service proxy alone
    KubeProxy(Box<KubeProxyFlags>),
    /// Run the pod network of this node alone
    PodNetwork(PodNetworkFlags),
    /// Run alone what announces load balancers' addresses on the link of this node
    Announcer(AnnouncerFlags),
    /// Run the cluster's DNS of this node alone
    Dns(Box<DnsFlags>),
    /// Make load and measure
    Bench(BenchFlags),
    /// Install this binary and a systemd unit that runs it
    Install(InstallFlags),
    /// Replace what is installed by a newer version, while containers and Services go on; servers first, then agents
    Upgrade(UpgradeFlags),
    /// End and remove everything that Skiff made on this machine
    Uninstall(UninstallFlags),
}

/// What a control plane needs.
#[derive(Args, Clone, Debug)]
pub struct ServerFlags {
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// Port to listen on
    #[arg(long, default_value_t = 6443)]
    pub https_listen_port: u16,
    /// Where the administrator's kubeconfig is written, besides the data directory
    #[arg(long, env = "SKIFF_KUBECONFIG")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Range of the Services' addresses
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: String,
    /// Where nodes reach several servers as one, such as a balancer's https://192.0.2.1:6443; this server by default
    #[arg(long, env = "SKIFF_CONTROL_PLANE_ENDPOINT", value_parser = endpoint)]
    pub control_plane_endpoint: Option<Endpoint>,
    /// What reaches nodes through the tunnels that their agents open, where there is one
    #[arg(long, value_enum, default_value_t)]
    pub egress_selector_mode: EgressSelectorMode,
    /// How long the certificates are good that nodes ask for
    #[arg(long, default_value = "8760h", value_parser = components::duration)]
    pub cluster_signing_duration: Duration,
    /// Run no node beside the control plane
    #[arg(long)]
    pub disable_agent: bool,
    #[command(flatten)]
    pub load_balancers: LoadBalancerFlags,
    #[command(flatten)]
    pub datastore: DatastoreFlags,
    #[command(flatten)]
    pub node: NodeFlags,
}

/// Where servers are reached as one.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// As it was given.
    pub url: String,
    /// The name or address in it, which the servers' certificates must have.
    pub host: String,
}

fn endpoint(text: &str) -> Result<Endpoint, String> {
    let uri: http::Uri = text.parse().map_err(|error| format!("not an address: {error}"))?;
    match uri.host() {
        Some(host) if uri.scheme_str() == Some("https") && uri.path() == "/" && uri.query().is_none() => {
            let host = host.trim_matches(['[', ']']).to_owned();
            Ok(Endpoint { url: text.trim_end_matches('/').to_owned(), host })
        }
        _ => Err("must be of the form https://HOST:PORT".to_owned()),
    }
}

/// What a node needs; a server passes them on to the node that it starts.
#[derive(Args, Clone, Debug)]
pub struct NodeFlags {
    /// Everything Skiff keeps lies below this folder
    #[arg(long, short = 'd', env = "SKIFF_DATA_DIR", default_value = "/var/lib/skiff")]
    pub data_dir: PathBuf,
    /// Name of the node; the host's name by default
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of the node; that of the default route by default
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Range of the pods' addresses
    #[arg(long, default_value = "10.42.0.0/16")]
    pub cluster_cidr: String,
    /// Address of the cluster's DNS
    #[arg(long, default_value_t = Ipv4Addr::new(10, 43, 0, 10))]
    pub cluster_dns: Ipv4Addr,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// A CRI socket to use instead of a containerd of our own
    #[arg(long)]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// Cgroup below which the pods' cgroups are made
    #[arg(long, default_value = "/")]
    pub cgroup_root: String,
    /// How pods reach pods on other nodes
    #[arg(long, value_enum, default_value_t = PodNetwork::Vxlan)]
    pub pod_network: PodNetwork,
    #[command(flatten)]
    pub cloud: CloudNode,
}

impl NodeFlags {
    /// The node's name: as given, else the host's in lower case.
    pub fn name(&self) -> Result<String> {
        match &self.node_name {
            Some(name) => Ok(name.clone()),
            None => {
                Ok(host::system::machine().context("cannot learn the host's name")?.hostname.to_lowercase())
            }
        }
    }

    /// The node's address: as given, else that of the default route.
    pub fn address(&self) -> IpAddr {
        self.node_ip.unwrap_or_else(host::system::primary_address)
    }

    /// Refuses ranges that have the node's own address: what is for pods and Services does not leave a node, and so nothing
    /// would that is for other nodes. Nor may pods and Services have one in common.
    pub fn check_ranges(&self, service_cidr: &str) -> Result<()> {
        let address = self.address();
        let own: Range = format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }).parse()?;
        let pods: Range = self.cluster_cidr.parse().context("--cluster-cidr")?;
        let services: Range = service_cidr.parse().context("--service-cidr")?;
        check_apart(&pods, &services).context("--cluster-cidr")?;
        for (flag, range) in [("--cluster-cidr", pods), ("--service-cidr", services)] {
            if range.overlaps(&own) {
                bail!(
                    "{flag}: {range} overlaps with the node's own address {address}; give a range that no machine of \
                     this network has an address in"
                );
            }
        }
        Ok(())
    }
}

/// How pods reach pods on other nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodNetwork {
    /// Wrapped in VXLAN
    Vxlan,
    /// By routes alone; nodes must be on one link
    Direct,
    /// By routes alone to nodes on the same link, by VXLAN to others
    Auto,
}

impl PodNetwork {
    /// The network's own word for it.
    pub fn mode(self) -> pod_network::Mode {
        match self {
            Self::Vxlan => pod_network::Mode::Vxlan,
            Self::Direct => pod_network::Mode::Direct,
            Self::Auto => pod_network::Mode::Auto,
        }
    }
}

/// What goes through tunnels between servers and nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum EgressSelectorMode {
    /// Nothing: there are none
    Disabled,
    /// What is for the kubelet
    Agent,
    /// What is for the kubelet and pods
    #[default]
    Pod,
    /// What is for the kubelet, pods and Services
    Cluster,
}

impl EgressSelectorMode {
    /// The API server's own word for it.
    pub fn mode(self) -> apiserver::egress::Mode {
        use apiserver::egress::Mode;
        match self {
            Self::Disabled => Mode::Disabled,
            Self::Agent => Mode::Agent,
            Self::Pod => Mode::Pod,
            Self::Cluster => Mode::Cluster,
        }
    }
}

/// What `skiff agent` is told.
#[derive(Args, Clone, Debug)]
pub struct AgentFlags {
    /// Range of the Services' addresses
    #[arg(long, default_value = "10.43.0.0/16")]
    pub service_cidr: String,
    #[command(flatten)]
    pub join: JoinFlags,
    #[command(flatten)]
    pub node: NodeFlags,
}

impl AgentFlags {
    /// The command line that gives these flags again, those for joining apart.
    pub fn to_arguments(&self) -> Vec<std::ffi::OsString> {
        let node = &self.node;
        let mut arguments: Vec<std::ffi::OsString> = vec!["agent".into()];
        let mut add = |name: &str, value: std::ffi::OsString| arguments.extend([name.into(), value]);
        add("--data-dir", node.data_dir.clone().into());
        add("--service-cidr", self.service_cidr.clone().into());
        add("--cluster-cidr", node.cluster_cidr.clone().into());
        add("--cluster-dns", node.cluster_dns.to_string().into());
        add("--cluster-domain", node.cluster_domain.clone().into());
        add("--cgroup-root", node.cgroup_root.clone().into());
        if let Some(name) = node.pod_network.to_possible_value() {
            add("--pod-network", name.get_name().into());
        }
        if let Some(name) = &node.node_name {
            add("--node-name", name.into());
        }
        if let Some(address) = node.node_ip {
            add("--node-ip", address.to_string().into());
        }
        if let Some(endpoint) = &node.container_runtime_endpoint {
            add("--container-runtime-endpoint", endpoint.clone().into());
        }
        if let Some(provider) = &node.cloud.cloud_provider {
            add("--cloud-provider", provider.into());
        }
        if let Some(id) = &node.cloud.provider_id {
            add("--provider-id", id.into());
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_addresses_of_tls_servers() {
        let host = |text: &str| endpoint(text).map(|endpoint| endpoint.host).ok();
        assert_eq!(host("https://192.0.2.1:6443").as_deref(), Some("192.0.2.1"));
        assert_eq!(host("https://api.example/").as_deref(), Some("api.example"));
        assert_eq!(host("https://[2001:db8::1]:6443").as_deref(), Some("2001:db8::1"));
        for bad in ["192.0.2.1:6443", "http://a", "https://a/b", ""] {
            assert_eq!(host(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_flags_of_a_node_survive_being_passed_on() {
        let given = [
            "skiff",
            "server",
            "--data-dir",
            "/d",
            "--node-name",
            "n",
            "--node-ip",
            "192.0.2.7",
            "--cluster-cidr",
            "10.1.0.0/16",
            "--cluster-dns",
            "10.2.0.10",
            "--cluster-domain",
            "x.y",
            "--service-cidr",
            "10.2.0.0/16",
            "--container-runtime-endpoint",
            "/r.sock",
            "--cgroup-root",
            "/c",
            "--pod-network",
            "auto",
            "--cloud-provider",
            "external",
            "--provider-id",
            "aws:///z/i-1",
        ];
        let Command::Server(server) = Flags::parse_from(given).command else {
            panic!("a server was asked for")
        };
        let agent =
            AgentFlags { service_cidr: server.service_cidr, join: JoinFlags::default(), node: server.node };
        let arguments = std::iter::once("skiff".into()).chain(agent.to_arguments());
        let Command::Agent(passed) = Flags::parse_from(arguments).command else {
            panic!("an agent was asked for")
        };
        assert_eq!(format!("{passed:?}"), format!("{agent:?}"));
    }
}
