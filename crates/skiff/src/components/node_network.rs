//! The flags by which service proxy and DNS know the cluster's ranges, and what they hold of them on their node before they
//! use the network. Whichever of the two comes first does it; doing it again changes nothing.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result};
use clap::Args;
use controllers::node_ipam::{Range, check_apart};
use host::network::Held;

/// Ranges of the cluster. `--service-cluster-ip-range` and `--cluster-dns` are not among upstream's flags of these two:
/// there, packets to Services that do not exist leave the node, and DNS is a Deployment.
#[derive(Args, Clone, Debug)]
pub struct NodeNetwork {
    /// Range of the pods' addresses
    #[arg(long)]
    pub cluster_cidr: String,
    /// Range of the Services' addresses
    #[arg(long)]
    pub service_cluster_ip_range: String,
    /// Address of the cluster's DNS, which every node answers itself
    #[arg(long)]
    pub cluster_dns: Ipv4Addr,
}

impl NodeNetwork {
    /// From here on no packet to a pod or service leaves this node untranslated.
    pub async fn hold(&self) -> Result<()> {
        let pods: Range = self.cluster_cidr.parse().context("--cluster-cidr")?;
        let services: Range = self.service_cluster_ip_range.parse().context("--service-cluster-ip-range")?;
        check_apart(&pods, &services).context("--cluster-cidr")?;
        let held = Held {
            pods: self.cluster_cidr.clone(),
            services: self.service_cluster_ip_range.clone(),
            local: vec![self.cluster_dns],
        };
        host::network::hold(&held).await.context("cannot hold the pod and service ranges")
    }
}
