//! `skiff dns`: the cluster's DNS of one node. Upstream has no such component; its place there is a Deployment's.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use dns::forward::Upstreams;
use tokio_util::sync::CancellationToken;

use super::node_network::NodeNetwork;

/// What DNS is told.
#[derive(Args, Clone, Debug)]
pub struct DnsFlags {
    /// How the API server is reached, and as whom
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Domain of the cluster
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    #[command(flatten)]
    pub network: NodeNetwork,
}

/// Runs until shutdown.
pub async fn run(flags: DnsFlags, shutdown: CancellationToken) -> Result<()> {
    let context = super::context(&flags.kubeconfig, &shutdown)?;
    flags.network.hold().await?;
    let address = IpAddr::V4(flags.network.cluster_dns);
    let config = dns::Config {
        listen: SocketAddr::new(address, 53),
        domain: flags.cluster_domain,
        upstreams: Upstreams::of_this_machine(address),
    };
    let outcome = dns::run(context.clone(), config).await.context("DNS");
    shutdown.cancel();
    super::ended(&context).await;
    outcome
}
