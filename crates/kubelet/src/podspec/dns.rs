//! A sandbox's resolver configuration, from the pod's policy, the cluster's servers and the node's own resolver.

use cri::messages::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use super::{ClusterFacts, namespace, spec};

/// What the node's own resolv.conf says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads resolv.conf's format.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            let kind = words.next().unwrap_or_default();
            let rest = words.map(str::to_owned);
            match kind {
                "nameserver" => resolver.servers.extend(rest.take(1)),
                // The last search line counts, as in the C library.
                "search" => resolver.searches = rest.collect(),
                "options" => resolver.options = rest.collect(),
                _ => {}
            }
        }
        resolver
    }
}

/// The sandbox's resolver configuration.
#[must_use]
pub fn sandbox_dns(pod: &Pod, cluster: &ClusterFacts, node: &Resolver) -> DnsConfig {
    let found = spec(pod);
    let on_host = found.host_network.unwrap_or(false);
    let policy = found.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let from_cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !on_host,
        _ => false,
    };
    let mut config = match policy {
        "None" => DnsConfig::default(),
        _ if from_cluster && !cluster.dns_servers.is_empty() => of_cluster(pod, cluster, node),
        _ => DnsConfig {
            servers: node.servers.clone(),
            searches: node.searches.clone(),
            options: node.options.clone(),
        },
    };
    if let Some(own) = &found.dns_config {
        add_new(&mut config.servers, own.nameservers.iter().flatten());
        add_new(&mut config.searches, own.searches.iter().flatten());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let text = match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.to_owned(),
            };
            // The pod's own value takes the place of another one under the same name.
            config.options.retain(|known| known.split(':').next() != Some(name));
            config.options.push(text);
        }
    }
    config
}

fn of_cluster(pod: &Pod, cluster: &ClusterFacts, node: &Resolver) -> DnsConfig {
    let domain = &cluster.domain;
    let mut searches =
        vec![format!("{}.svc.{domain}", namespace(pod)), format!("svc.{domain}"), domain.clone()];
    add_new(&mut searches, &node.searches);
    DnsConfig { servers: cluster.dns_servers.clone(), searches, options: vec!["ndots:5".to_owned()] }
}

fn add_new<'a>(list: &mut Vec<String>, more: impl IntoIterator<Item = &'a String>) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}
