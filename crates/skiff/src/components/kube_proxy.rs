//! `skiff kube-proxy`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use component::health::Server;
use host::nft::NftProgram;
use kube_proxy::ProxyMode;
use kube_proxy::ipvs::Settings;
use kube_proxy::plan::{Network, Ranges};
use tokio_util::sync::CancellationToken;

use super::config_file::{ConfigFile as _, KubeProxyConfiguration};
use super::node_network::NodeNetwork;

/// What the service proxy is told.
#[derive(Args, Clone, Debug)]
pub struct KubeProxyFlags {
    /// How the API server is reached, and as whom
    #[arg(long, required_unless_present = "config")]
    pub kubeconfig: Option<PathBuf>,
    /// A file with a KubeProxyConfiguration, which goes before flags
    #[arg(long)]
    pub config: Option<PathBuf>,
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
    pub ipvs: IpvsFlags,
    #[command(flatten)]
    pub network: NodeNetwork,
}

impl KubeProxyFlags {
    /// What the file of `--config` says goes before flags.
    fn merged(mut self) -> Result<Self> {
        let Some(path) = &self.config else { return Ok(self) };
        let file = KubeProxyConfiguration::read(path)?;
        self.kubeconfig = file.client_connection.kubeconfig.or(self.kubeconfig);
        self.hostname_override = file.hostname_override.or(self.hostname_override);
        if let Some(address) = file.healthz_bind_address {
            self.healthz_bind_address = address;
        }
        // Upstream's empty mode is the usual one.
        if let Some(mode) = file.mode.filter(|mode| !mode.is_empty()) {
            self.proxy_mode = mode.parse().map_err(anyhow::Error::msg).context("--config: mode")?;
        }
        if let Some(range) = file.cluster_cidr {
            self.network.cluster_cidr = range;
        }
        let ipvs = &mut self.ipvs;
        ipvs.ipvs_scheduler = file.ipvs.scheduler.unwrap_or_else(|| ipvs.ipvs_scheduler.clone());
        ipvs.ipvs_strict_arp = file.ipvs.strict_arp.unwrap_or(ipvs.ipvs_strict_arp);
        ipvs.ipvs_sync_period = file.ipvs.sync_period.unwrap_or(ipvs.ipvs_sync_period);
        if let Some(ranges) = file.ipvs.exclude_cidrs {
            let ranges = ranges.iter().map(|range| network(range).map_err(anyhow::Error::msg));
            ipvs.ipvs_exclude_cidrs = ranges.collect::<Result<_>>().context("--config: ipvs.excludeCIDRs")?;
        }
        Ok(self)
    }
}

/// What the mode `ipvs` is told.
#[derive(Args, Clone, Debug)]
pub struct IpvsFlags {
    /// How a backend is chosen (rr, lc, sh, ...), with --proxy-mode ipvs; rr by default
    #[arg(long, default_value = "")]
    pub ipvs_scheduler: String,
    /// Let only the link that has an address answer ARP for it, with --proxy-mode ipvs
    #[arg(long)]
    pub ipvs_strict_arp: bool,
    /// How often the kernel's virtual services are compared with what they should be, with --proxy-mode ipvs
    #[arg(long, default_value = "30s", value_parser = super::duration)]
    pub ipvs_sync_period: Duration,
    /// Networks whose virtual services are left alone, with --proxy-mode ipvs
    #[arg(long, value_delimiter = ',', value_parser = network)]
    pub ipvs_exclude_cidrs: Vec<Network>,
}

fn network(text: &str) -> Result<Network, String> {
    Network::parse(text).ok_or_else(|| "not an IPv4 network in CIDR notation".to_owned())
}

impl IpvsFlags {
    fn settings(self) -> Settings {
        let usual = Settings::default();
        let scheduler = if self.ipvs_scheduler.is_empty() { usual.scheduler } else { self.ipvs_scheduler };
        // Upstream's zero means its default, too.
        let sync_period =
            if self.ipvs_sync_period.is_zero() { usual.sync_period } else { self.ipvs_sync_period };
        Settings {
            scheduler,
            sync_period,
            strict_arp: self.ipvs_strict_arp,
            exclude: self.ipvs_exclude_cidrs,
        }
    }
}

/// Runs until shutdown. Rules stay behind.
pub async fn run(flags: KubeProxyFlags, shutdown: CancellationToken) -> Result<()> {
    let flags = flags.merged()?;
    let kubeconfig = flags.kubeconfig.as_ref();
    let kubeconfig =
        kubeconfig.context("--config: clientConnection.kubeconfig: required without --kubeconfig")?;
    let context = super::context(kubeconfig, &shutdown)?;
    let health = Server::bind(flags.healthz_bind_address, None).await.context("--healthz-bind-address")?;
    flags.network.hold().await?;
    let config = kube_proxy::Config {
        node_name: super::node_name(flags.hostname_override.as_deref())?,
        mode: flags.proxy_mode,
        ipvs: flags.ipvs.settings(),
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
