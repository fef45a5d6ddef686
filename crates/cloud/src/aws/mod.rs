//! AWS: EC2 instances, routes and EBS volumes, and network load balancers (ELBv2), by hand-signed query-API requests.
//!
//! What it makes is tagged `kubernetes.io/cluster/NAME = owned`. The security groups of nodes must admit node ports and
//! health checks: they are not changed.
//!
//! Deliberately absent: classic and application load balancers, security groups, IPv6, and the generated SDK.

pub mod client;
pub mod connect;
mod instances;
mod load_balancers;
mod routes;
pub mod sign;
mod targets;
mod volumes;
pub mod xml;

use std::path::PathBuf;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use http::Uri;
use serde::Deserialize;

use crate::provider::{Instances, LoadBalancers, Provider, Routes, Volumes};
use client::{Client, Endpoint, Parameters};
use connect::{Connector, TrustError};
use sign::Credentials;

/// The provisioner that StorageClasses name for EBS volumes.
/// It is the name of their driver, too, so it has no slash.
pub const PROVISIONER: &str = "ebs.aws.skiff.dev";

/// Where the system keeps the authorities that it trusts.
fn system_authorities() -> PathBuf {
    PathBuf::from("/etc/ssl/certs/ca-certificates.crt")
}

/// The section `aws` of the cloud's configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AwsConfig {
    /// As `eu-central-1`.
    pub region: String,
    /// The network of the nodes.
    pub vpc: String,
    /// Where load balancers have their addresses; those tagged `kubernetes.io/role/elb` (or `internal-elb`) if empty.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// The route table for pod ranges; routes are refused without one.
    #[serde(default)]
    pub route_table: Option<String>,
    /// Where volumes are made when nobody says where; the first zone that a node is in, if empty.
    #[serde(default)]
    pub default_zone: Option<String>,
    /// Another address of EC2.
    #[serde(default)]
    pub ec2_endpoint: Option<String>,
    /// Another address of ELB.
    #[serde(default)]
    pub elb_endpoint: Option<String>,
    /// PEM file of certificate authorities.
    #[serde(default = "system_authorities")]
    pub ca_bundle: PathBuf,
}

/// Why AWS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AwsError {
    /// An address is none.
    #[error("{field}: {what}")]
    Endpoint {
        /// The field of the configuration.
        field: &'static str,
        /// What is wrong.
        what: String,
    },
    /// TLS.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// The provider.
pub struct Aws {
    client: Client,
    ec2: Endpoint,
    elb: Endpoint,
    cluster: String,
    config: AwsConfig,
}

impl Aws {
    /// A provider that signs with these credentials.
    pub fn new(
        config: AwsConfig,
        cluster: &str,
        credentials: Credentials,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, AwsError> {
        let region = &config.region;
        let address = |field, own: &Option<String>, usual: String| -> Result<Uri, AwsError> {
            let wrong = |what: String| AwsError::Endpoint { field, what };
            let uri: Uri = own
                .clone()
                .unwrap_or(usual)
                .parse()
                .map_err(|e: http::uri::InvalidUri| wrong(e.to_string()))?;
            match (uri.scheme_str(), uri.authority(), uri.path()) {
                (Some("http" | "https"), Some(_), "/") => Ok(uri),
                _ => Err(wrong(format!("{uri} is not http(s)://HOST[:PORT]"))),
            }
        };
        let ec2 =
            address("ec2Endpoint", &config.ec2_endpoint, format!("https://ec2.{region}.amazonaws.com/"))?;
        let usual = format!("https://elasticloadbalancing.{region}.amazonaws.com/");
        let elb = address("elbEndpoint", &config.elb_endpoint, usual)?;
        let secure = [&ec2, &elb].iter().any(|uri| uri.scheme_str() == Some("https"));
        let connector = if secure { Connector::trusting(&config.ca_bundle)? } else { Connector::plain() };
        Ok(Self {
            client: Client::new(connector, region, credentials, clock, entropy),
            ec2: Endpoint { uri: ec2, service: "ec2", version: "2016-11-15" },
            elb: Endpoint { uri: elb, service: "elasticloadbalancing", version: "2015-12-01" },
            cluster: cluster.to_owned(),
            config,
        })
    }

    /// The tag by which the cluster knows what is its own.
    fn cluster_tag(&self) -> String {
        format!("kubernetes.io/cluster/{}", self.cluster)
    }

    /// The tags of something new of EC2's.
    fn ec2_tags(&self, parameters: Parameters, kind: &str, tags: &[(&str, &str)]) -> Parameters {
        let owned = self.cluster_tag();
        let parameters = parameters.with("TagSpecification.1.ResourceType", kind);
        let all = tags.iter().copied().chain([(owned.as_str(), "owned")]);
        all.enumerate().fold(parameters, |parameters, (index, (key, value))| {
            let at = format!("TagSpecification.1.Tag.{}", index + 1);
            parameters.with(format!("{at}.Key"), key).with(format!("{at}.Value"), value)
        })
    }
}

impl Provider for Aws {
    fn name(&self) -> &'static str {
        "aws"
    }

    fn instances(&self) -> Option<&dyn Instances> {
        Some(self)
    }

    fn load_balancers(&self) -> Option<&dyn LoadBalancers> {
        Some(self)
    }

    fn routes(&self) -> Option<&dyn Routes> {
        self.config.route_table.as_ref().map(|_| self as &dyn Routes)
    }

    fn volumes(&self) -> Option<&dyn Volumes> {
        Some(self)
    }
}
