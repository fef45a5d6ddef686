//! `skiff kube-proxy`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use clap::Args;
use component::health::Server;
use host::nft::NftProgram;
use kube_proxy::ProxyMode;
use kube_proxy::plan::Ranges;
use tokio_util::sync::CancellationToken;

use super::node_network::NodeNetwork;

/// What the service proxy is told.
#[derive(Args, Clone, Debug)]
pub struct KubeProxyFlags {
    /// How the API server is reached, and as whom
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// How packets are translated
    #[arg(long, default_value = "nftables")]
    pub proxy_mode: ProxyMode,
    /// Name of the node; the host's name by default
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Where health is served, without TLS
    #[arg(long, default_value = "0.0.0.0:10256")]
    pub healthz_bind_address: SocketAddr,
    #[command(flatten)]
    pub network: NodeNetwork,
}

/// Runs until shutdown. Rules stay behind.
pub async fn run(flags: KubeProxyFlags, shutdown: CancellationToken) -> Result<()> {
    let context = super::context(&flags.kubeconfig, &shutdown)?;
    let health = Server::bind(flags.healthz_bind_address, None).await.context("--healthz-bind-address")?;
    flags.network.hold().await?;
    let config = kube_proxy::Config {
        node_name: super::node_name(flags.hostname_override.as_deref())?,
        mode: flags.proxy_mode,
        ranges: Ranges {
            pods: flags.network.cluster_cidr.clone(),
            services: flags.network.service_cluster_ip_range.clone(),
        },
        local_addresses: vec![flags.network.cluster_dns],
    };
    health.start(&context, None);
    let nft = Arc::new(NftProgram::new(context.tasks.clone()));
    let outcome = kube_proxy::run(context.clone(), config, nft).await.context("service proxy");
    shutdown.cancel();
    super::ended(&context).await;
    outcome
}
