//! `skiff kube-controller-manager`.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use api_machinery::entropy::Entropy;
use clap::{ArgAction, Args};
use controllers::certificates::Authority;
use controllers::node_ipam::{Allocations, NODE_PREFIXES, Range, check_apart};
use tokio_util::sync::CancellationToken;

use super::duration;
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
    /// How long what it signs is good at most
    #[arg(long, default_value = "8760h", value_parser = super::duration)]
    pub cluster_signing_duration: Duration,
    /// Give every node its part of --cluster-cidr
    #[arg(long, default_value_t = false, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = ArgAction::Set, requires = "cluster_cidr")]
    pub allocate_node_cidrs: bool,
    /// Range of the pods' addresses
    #[arg(long)]
    pub cluster_cidr: Option<String>,
    /// Range of the Services' addresses, with which --cluster-cidr has nothing in common
    #[arg(long)]
    pub service_cluster_ip_range: Option<String>,
    /// Which controllers run: * for all, NAME for one, -NAME for all but that
    #[arg(long, value_delimiter = ',', default_value = "*", allow_hyphen_values = true)]
    pub controllers: Vec<String>,
    #[command(flatten)]
    pub nodes: NodeLifecycle,
    /// Port that health and metrics are served on; 0 for none
    #[arg(long, default_value_t = 10257)]
    pub secure_port: u16,
    #[command(flatten)]
    pub serving: SecureServing,
    #[command(flatten)]
    pub election: LeaderElection,
}

/// How long nodes may be silent, and how fast they are emptied then.
#[derive(Args, Clone, Debug)]
pub struct NodeLifecycle {
    /// How long a node may be silent until it is not ready
    #[arg(long, default_value = "50s", value_parser = duration)]
    pub node_monitor_grace_period: Duration,
    /// The same for a node that has never said that it is ready
    #[arg(long, default_value = "1m0s", value_parser = duration)]
    pub node_startup_grace_period: Duration,
    /// Nodes of a zone that are emptied in a second
    #[arg(long, default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same while a large zone is in trouble
    #[arg(long, default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// Above this many nodes a zone is large; a smaller one that is in trouble is left alone
    #[arg(long, default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// The part of a zone's nodes that is not ready from which it is in trouble
    #[arg(long, default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
}

impl NodeLifecycle {
    fn policy(&self) -> controllers::node_lifecycle::Policy {
        controllers::node_lifecycle::Policy {
            grace: self.node_monitor_grace_period,
            startup_grace: self.node_startup_grace_period,
            eviction_rate: self.node_eviction_rate,
            secondary_eviction_rate: self.secondary_node_eviction_rate,
            large_zone: self.large_cluster_size_threshold,
            unhealthy_zone: self.unhealthy_zone_threshold,
        }
    }
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
            controllers: controllers::Selection::new(&self.controllers).context("--controllers")?,
            node_lifecycle: self.nodes.policy(),
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
        let authority = authority.context("--cluster-signing-cert-file")?;
        let longest = self.cluster_signing_duration.try_into().context("--cluster-signing-duration")?;
        Ok(Some(Arc::new(authority.with_longest(longest))))
    }

    /// What nodes get their ranges from, if that is for us to do.
    fn node_ranges(&self) -> Result<Option<Allocations>> {
        let range = |flag: &'static str, text: &Option<String>| {
            text.as_deref().map(str::parse::<Range>).transpose().context(flag)
        };
        let cluster = range("--cluster-cidr", &self.cluster_cidr)?;
        let services = range("--service-cluster-ip-range", &self.service_cluster_ip_range)?;
        let Some(cluster) = cluster else { return Ok(None) };
        if let Some(services) = services {
            check_apart(&cluster, &services).context("--cluster-cidr")?;
        }
        if !self.allocate_node_cidrs {
            return Ok(None);
        }
        Allocations::new(&[cluster], NODE_PREFIXES).context("--cluster-cidr").map(Some)
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        flags: KubeControllerManagerFlags,
    }

    fn config(words: &str) -> Result<controllers::Config, String> {
        let line = format!("kube-controller-manager --kubeconfig /k {words}");
        let only = Only::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())?;
        only.flags.config().map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn what_is_said_of_nodes_and_controllers_is_done() {
        let usual = config("").expect("defaults");
        assert_eq!(usual.node_lifecycle, controllers::node_lifecycle::Policy::default());
        assert_eq!(usual.controllers, controllers::Selection::default());
        let given = config(
            "--controllers=*,-deployment-controller --node-monitor-grace-period 20s --node-eviction-rate 0 \
             --unhealthy-zone-threshold 0.5",
        );
        let given = given.expect("flags");
        assert_eq!(given.node_lifecycle.grace, Duration::from_secs(20));
        assert_eq!((given.node_lifecycle.eviction_rate, given.node_lifecycle.unhealthy_zone), (0.0, 0.5));
        assert_ne!(given.controllers, controllers::Selection::default());
        for allocate in ["", "--allocate-node-cidrs"] {
            let words = config(&format!(
                "{allocate} --cluster-cidr 10.42.0.0/16 --service-cluster-ip-range 10.42.9.0/24"
            ));
            let words = words.expect_err("one is within the other");
            assert!(words.contains("10.42.0.0/16 overlaps with service CIDR 10.42.9.0/24"), "{words}");
        }
        let words = config("--controllers -weather").expect_err("there is none");
        assert!(words.contains("\"weather\" is not in the list of known controllers"), "{words}");
    }
}
