//! `skiff kube-scheduler`.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use tokio_util::sync::CancellationToken;

use super::config_file::{ConfigFile as _, KubeSchedulerConfiguration};
use super::election::{LeaderElection, run_as_leader};
use super::secure_serving::SecureServing;

/// The name of the component and of its Lease.
const NAME: &str = "kube-scheduler";

/// What the scheduler is told.
#[derive(Args, Clone, Debug)]
pub struct KubeSchedulerFlags {
    /// How the API server is reached, and as whom
    #[arg(long, required_unless_present = "config")]
    pub kubeconfig: Option<PathBuf>,
    /// A file with a KubeSchedulerConfiguration, which goes before flags
    #[arg(long)]
    pub config: Option<PathBuf>,
    /// Port that health and metrics are served on; 0 for none
    #[arg(long, default_value_t = 10259)]
    pub secure_port: u16,
    #[command(flatten)]
    pub serving: SecureServing,
    #[command(flatten)]
    pub election: LeaderElection,
}

/// Runs until shutdown, or until another leads.
pub async fn run(flags: KubeSchedulerFlags, shutdown: CancellationToken) -> Result<()> {
    let file = match &flags.config {
        Some(path) => KubeSchedulerConfiguration::read(path)?,
        None => KubeSchedulerConfiguration::default(),
    };
    let kubeconfig = file.client_connection.kubeconfig.as_ref().or(flags.kubeconfig.as_ref());
    let kubeconfig =
        kubeconfig.context("--config: clientConnection.kubeconfig: required without --kubeconfig")?;
    let context = super::context(kubeconfig, &shutdown)?;
    let election = file.election(flags.election)?;
    let leading = CancellationToken::new();
    flags.serving.start(flags.secure_port, &context, NAME, &leading).await?;
    run_as_leader(&election, &context, NAME, |context| {
        leading.cancel();
        scheduler::run(context)
    })
    .await
}
