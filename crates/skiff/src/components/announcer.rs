//! `skiff announcer`: which node answers for the addresses that a cloud of bare metal gives to load balancers. Upstream has no
//! such component; its place there is that of MetalLB's speaker.

use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio_util::sync::CancellationToken;

use crate::load_balancers;

/// What the announcer is told. Addresses are given by the cloud controller manager, with `--cloud-provider bare-metal`.
#[derive(Args, Clone, Debug)]
pub struct AnnouncerFlags {
    /// How the API server is reached, and as whom: the user skiff:announcer has the rights that this needs
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Name of the node; the host's name by default
    #[arg(long)]
    pub hostname_override: Option<String>,
    /// Address of the node, on whose link load balancers' addresses are; that of the default route by default
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
}

/// Runs until shutdown, and then gives all addresses up.
pub async fn run(flags: AnnouncerFlags, shutdown: CancellationToken) -> Result<()> {
    let context = super::context(&flags.kubeconfig, &shutdown)?;
    let address = flags.node_ip.unwrap_or_else(host::system::primary_address);
    let underlay = host::links::underlay(address).await.context("--node-ip")?;
    let node_name = super::node_name(flags.hostname_override.as_deref())?;
    let outcome = load_balancers::announce(context.clone(), node_name, underlay.link).await;
    shutdown.cancel();
    super::ended(&context).await;
    outcome
}
