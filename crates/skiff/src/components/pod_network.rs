//! `skiff pod-network`: the way of one node's pods to those of other nodes. Upstream has no such component; its place there is
//! a network plugin's daemon.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::flags::PodNetwork;

/// What the pod network is told. The kubelets' pods have to fit: see the kubelet's `--network-plugin-mtu`.
#[derive(Args, Clone, Debug)]
pub struct PodNetworkFlags {
    /// As whom all nodes are read; what the service proxy has is enough
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// As whom this node is annotated: its kubelet's
    #[arg(long)]
    pub node_kubeconfig: PathBuf,
    /// Name of the node; the host's name by default
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Address of the node; that of the default route by default
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// How pods reach pods on other nodes
    #[arg(long, value_enum, default_value_t = PodNetwork::Vxlan)]
    pub pod_network: PodNetwork,
}

/// Runs until shutdown. Routes stay behind.
pub async fn run(flags: PodNetworkFlags, shutdown: CancellationToken) -> Result<()> {
    let context = super::context(&flags.kubeconfig, &shutdown)?;
    let own = component::connect::from_kubeconfig(&flags.node_kubeconfig).context("--node-kubeconfig")?;
    let address = flags.node_ip.unwrap_or_else(host::system::primary_address);
    let config = pod_network::Config {
        node_name: super::node_name(flags.hostname_override.as_deref())?,
        mode: flags.pod_network.mode(),
        underlay: host::links::underlay(address).await.context("--node-ip")?,
    };
    let mtu = pod_network::pod_mtu(config.mode, &config.underlay);
    tracing::info!(mtu, "pods must send packets of at most this size");
    let outcome = pod_network::run(context.clone(), own, config).await.context("pod network");
    shutdown.cancel();
    super::ended(&context).await;
    outcome
}
