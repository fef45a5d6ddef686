//! What the cloud controller manager is told: by flags, and by the file of `--cloud-config` (YAML with one section, named like the
//! provider: `bareMetal` or `aws`).

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use serde::Deserialize;

use crate::aws::sign::Credentials;
use crate::aws::{Aws, AwsConfig, AwsError};
use crate::bare_metal::{BareMetal, BareMetalConfig, PoolError};
use crate::provider::Provider;

/// What the controllers need to know.
#[derive(Clone)]
pub struct Config {
    /// The cloud.
    pub provider: Arc<dyn Provider>,
    /// Whether routes to pods are made (`--configure-cloud-routes`).
    pub configure_cloud_routes: bool,
    /// The range of pods (`--cluster-cidr`): routes outside are never deleted.
    pub cluster_cidr: Option<String>,
    /// How often the machine of a node that is not ready is looked at (`--node-monitor-period`).
    pub node_monitor_period: Duration,
    /// How often the addresses of nodes are compared (`--node-status-update-frequency`).
    pub node_status_update_frequency: Duration,
}

impl Config {
    /// Upstream's defaults for a provider.
    pub fn new(provider: Arc<dyn Provider>) -> Self {
        Self {
            provider,
            configure_cloud_routes: true,
            cluster_cidr: None,
            node_monitor_period: Duration::from_secs(5),
            node_status_update_frequency: Duration::from_secs(300),
        }
    }
}

/// Why there is no provider.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--cloud-provider` names none.
    #[error("--cloud-provider {0:?} is unknown: it is \"bare-metal\" or \"aws\"")]
    Unknown(String),
    /// The file cannot be read.
    #[error("--cloud-config: {0}")]
    Syntax(String),
    /// A section is missing.
    #[error("--cloud-config: there is no section {0:?}")]
    Section(&'static str),
    /// AWS needs credentials.
    #[error("AWS: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN)")]
    Credentials,
    /// The pools.
    #[error("--cloud-config: bareMetal: {0}")]
    Pool(#[from] PoolError),
    /// AWS.
    #[error("--cloud-config: aws: {0}")]
    Aws(#[from] AwsError),
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    bare_metal: Option<BareMetalConfig>,
    aws: Option<AwsConfig>,
}

/// The provider that `--cloud-provider` names, from the text of its `--cloud-config` (which may be empty) and, for AWS, the
/// credentials that the environment holds.
pub fn provider(
    name: &str,
    file: &str,
    cluster_name: &str,
    credentials: Option<Credentials>,
    clock: Clock,
    entropy: Entropy,
) -> Result<Arc<dyn Provider>, ConfigError> {
    let file: File = match file.trim() {
        "" => File::default(),
        text => serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax(error.to_string()))?,
    };
    match name {
        "bare-metal" => Ok(Arc::new(BareMetal::new(&file.bare_metal.unwrap_or_default())?)),
        "aws" => {
            let config = file.aws.ok_or(ConfigError::Section("aws"))?;
            let credentials = credentials.ok_or(ConfigError::Credentials)?;
            Ok(Arc::new(Aws::new(config, cluster_name, credentials, clock, entropy)?))
        }
        other => Err(ConfigError::Unknown(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(name: &str, file: &str) -> Result<&'static str, String> {
        let credentials =
            Credentials { access_key: "a".to_owned(), secret_key: "b".to_owned(), session_token: None };
        let made = provider(name, file, "c", Some(credentials), Clock::system(), Entropy::seeded(1));
        made.map(|provider| provider.name()).map_err(|error| error.to_string())
    }

    #[test]
    fn files_are_read_strictly() {
        let aws = "aws: {region: eu-central-1, vpc: vpc-1, ec2Endpoint: http://127.0.0.1:1, elbEndpoint: http://127.0.0.1:1}";
        assert_eq!(made("bare-metal", ""), Ok("bare-metal"));
        assert_eq!(made("bare-metal", "bareMetal: {pools: [192.0.2.0/28]}"), Ok("bare-metal"));
        assert_eq!(made("aws", aws), Ok("aws"));
        let cases = [
            ("azure", "", "--cloud-provider \"azure\" is unknown"),
            ("aws", "", "there is no section \"aws\""),
            ("bare-metal", "bareMetal: {pools: [nonsense]}", "pool \"nonsense\" is not"),
            ("bare-metal", "baremetal: {}", "unknown field"),
            ("aws", &aws.replace("http://127.0.0.1:1,", "ftp://x,"), "ec2Endpoint: "),
            (
                "aws",
                "aws: {region: r, vpc: v, caBundle: /nowhere}",
                "cannot read the certificate authorities in /nowhere",
            ),
        ];
        for (name, file, words) in cases {
            let error = made(name, file).expect_err("refused");
            assert!(error.contains(words), "{error}");
        }
    }
}
