//! `skiff cloud-controller-manager`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{ArgAction, Args};
use cloud::aws::sign::Credentials;
use component::Context;
use controllers::node_ipam::Range;
use tokio_util::sync::CancellationToken;

use super::duration;
use super::election::{LeaderElection, run_as_leader};
use super::secure_serving::SecureServing;

/// The name of the component and of its Lease.
const NAME: &str = "cloud-controller-manager";

/// What the cloud's controllers are told. Credentials of AWS come from the environment, as its own tools have them.
#[derive(Args, Clone, Debug)]
pub struct CloudControllerManagerFlags {
    /// How the API server is reached, and as whom
    #[arg(long)]
    pub kubeconfig: PathBuf,
    /// The cloud: bare-metal or aws
    #[arg(long)]
    pub cloud_provider: String,
    /// The cloud's own configuration (YAML)
    #[arg(long)]
    pub cloud_config: Option<PathBuf>,
    /// By what the cluster's resources in the cloud are told from those of others
    #[arg(long, default_value = "kubernetes")]
    pub cluster_name: String,
    /// Make routes to the pods of each node
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set)]
    pub configure_cloud_routes: bool,
    /// Range of the pods' addresses; routes outside of it are left alone
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// How often the machine of a node that is not ready is looked at
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub node_monitor_period: Duration,
    /// How often the addresses of nodes are compared with those of their machines
    #[arg(long, default_value = "5m", value_parser = duration)]
    pub node_status_update_frequency: Duration,
    /// Port that health and metrics are served on; 0 for none
    #[arg(long, default_value_t = 10258)]
    pub secure_port: u16,
    #[command(flatten)]
    pub serving: SecureServing,
    #[command(flatten)]
    pub election: LeaderElection,
}

impl CloudControllerManagerFlags {
    fn config(&self, context: &Context) -> Result<cloud::Config> {
        if let Some(range) = &self.cluster_cidr {
            range.parse::<Range>().context("--cluster-cidr")?;
        }
        let file = match &self.cloud_config {
            Some(path) => super::read_text("--cloud-config", path)?,
            None => String::new(),
        };
        let provider = cloud::config::provider(
            &self.cloud_provider,
            &file,
            &self.cluster_name,
            credentials(|name| std::env::var(name).ok()),
            context.clock.clone(),
            context.entropy.clone(),
        )?;
        Ok(cloud::Config {
            configure_cloud_routes: self.configure_cloud_routes,
            cluster_cidr: self.cluster_cidr.clone(),
            node_monitor_period: self.node_monitor_period,
            node_status_update_frequency: self.node_status_update_frequency,
            ..cloud::Config::new(provider)
        })
    }
}

/// Credentials under the names that AWS's own tools give them.
fn credentials(variable: impl Fn(&str) -> Option<String>) -> Option<Credentials> {
    Some(Credentials {
        access_key: variable("AWS_ACCESS_KEY_ID")?,
        secret_key: variable("AWS_SECRET_ACCESS_KEY")?,
        session_token: variable("AWS_SESSION_TOKEN"),
    })
}

/// Runs until shutdown, or until another leads.
pub async fn run(flags: CloudControllerManagerFlags, shutdown: CancellationToken) -> Result<()> {
    let context = super::context(&flags.kubeconfig, &shutdown)?;
    let config = flags.config(&context)?;
    let leading = CancellationToken::new();
    flags.serving.start(flags.secure_port, &context, NAME, &leading).await?;
    run_as_leader(&flags.election, &context, NAME, |context| {
        leading.cancel();
        cloud::run(context, config)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_credentials_are_none() {
        let given = |names: &'static [&'static str]| {
            move |name: &str| names.contains(&name).then(|| name.to_lowercase())
        };
        assert!(credentials(given(&["AWS_ACCESS_KEY_ID"])).is_none());
        let both =
            credentials(given(&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])).expect("both are there");
        assert_eq!((both.access_key.as_str(), both.session_token), ("aws_access_key_id", None));
    }
}
