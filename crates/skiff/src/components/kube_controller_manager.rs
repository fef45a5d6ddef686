//! `skiff kube-controller-manager`.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api_machinery::entropy::Entropy;
use clap::{ArgAction, Args};
use controllers::certificates::Authority;
use controllers::node_ipam::{Allocations, NODE_PREFIXES, Range};
use tokio_util::sync::CancellationToken;

use super::election::{LeaderElection, run_as_leader};
use super::secure_serving::SecureServing;

/// The name of the component and of its Lease.
const NAME: &str = "kube-controller-manager";

/// What the controllers are told.
#[derive(Args, Clone, Debug)]
pub struct KubeControllerManagerFlags {
    /// How the API server is reached, and as whom
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// Certificate authority of the cluster, published into every namespace; without it that of the kubeconfig is not
    /// published either
    #[arg(long)]
    pub root_ca_file: Option<PathBuf>,
    /// Certificate authority that signs what nodes ask for, once it is approved
    #[arg(long, requires = "cluster_signing_key_file")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Its key
    #[arg(long, requires = "cluster_signing_cert_file")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// Give every node its part of --cluster-cidr
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, requires = "cluster_cidr")]
    pub allocate_node_cidrs: bool,
    /// Range of the pods' addresses
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// Range of the Services' addresses, of which no node gets a part
    #[arg(long)]
    pub service_cluster_ip_range: Option<String>,
    /// Port that health and metrics are served on; 0 for none
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    #[command(flatten)]
    pub serving: SecureServing,
    #[command(flatten)]
    pub election: LeaderElection,
}

impl KubeControllerManagerFlags {
    fn config(&self) -> Result<controllers::Config> {
        let root_ca = match &self.root_ca_file {
            Some(path) => super::read_text("--root-ca-file", path)?,
            None => String::new(),
        };
        // Who joins finds `cluster-info` only where somebody made it: with these flags nobody knows the address.
        Ok(controllers::Config {
            root_ca,
            node_ranges: self.node_ranges()?,
            signer: self.signer()?,
            server: None,
        })
    }

    fn signer(&self) -> Result<Option<Arc<Authority>>> {
        let (Some(certificate), Some(key)) =
            (&self.cluster_signing_cert_file, &self.cluster_signing_key_file)
        else {
            return Ok(None);
        };
        let certificate = super::read_text("--cluster-signing-cert-file", certificate)?;
        let key = super::read_text("--cluster-signing-key-file", key)?;
        let authority = Authority::from_pem(&certificate, &key, Entropy::from_os());
        authority.map(|authority| Some(Arc::new(authority))).context("--cluster-signing-cert-file")
    }

    /// What nodes get their ranges from, if that is for us to do.
    fn node_ranges(&self) -> Result<Option<Allocations>> {
        let Some(cluster) = self.cluster_cidr.as_deref().filter(|_| self.allocate_node_cidrs) else {
            return Ok(None);
        };
        let cluster: Range = cluster.parse().context("--cluster-cidr")?;
        let services = self.service_cluster_ip_range.as_deref().map(str::parse::<Range>).transpose();
        let services: Vec<Range> = services.context("--service-cluster-ip-range")?.into_iter().collect();
        Allocations::new(&[cluster], NODE_PREFIXES, &services).context("--cluster-cidr").map(Some)
    }
}

/// Runs until shutdown, or until another leads.
pub async fn run(flags: KubeControllerManagerFlags, shutdown: CancellationToken) -> Result<()> {
    let context = super::context(&flags.kubeconfig, &shutdown)?;
    let config = flags.config()?;
    let leading = CancellationToken::new();
    flags.serving.start(flags.secure_port, &context, NAME, &leading).await?;
    run_as_leader(&flags.election, &context, NAME, |context| {
        leading.cancel();
        controllers::run(context, config)
    })
    .await
}
