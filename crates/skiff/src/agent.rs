//! `skiff agent`: the node process. Kubelet, service proxy and DNS share its fate and nothing else: each has its own client
//! with its own rights.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::Context;
use host::network::Held;
use host::nft::NftProgram;
use kube_proxy::plan::Ranges;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::files::AgentFiles;
use crate::flags::{AgentFlags, NodeFlags};

/// Where the kubelet answers the API server.
const KUBELET_PORT: u16 = 10250;

/// Runs until shutdown, or until a part of the node cannot go on: the whole process then ends and is started again.
pub async fn run(flags: AgentFlags, shutdown: CancellationToken) -> Result<()> {
    let files = AgentFiles::below(&flags.node.data_dir);
    let tasks = TaskTracker::new();
    let context = |kubeconfig: &Path| -> Result<Context> {
        Ok(Context {
            client: component::connect::from_kubeconfig(kubeconfig)?,
            clock: Clock::system(),
            entropy: Entropy::from_os(),
            tasks: tasks.clone(),
            shutdown: shutdown.clone(),
        })
    };
    let held = Held {
        pods: flags.node.cluster_cidr.clone(),
        services: flags.service_cidr.clone(),
        local: vec![flags.node.cluster_dns],
    };
    // Before anything else uses the network: from here on no packet to a pod or service leaves this node untranslated.
    host::network::hold(&held).await.context("cannot hold the pod and service ranges")?;

    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    let kubelet = kubelet_config(&flags.node, &files)?;
    let (kubelet_context, proxy_context) = (context(&files.kubelet_kubeconfig)?, context(&files.proxy_kubeconfig)?);
    parts.spawn(async move { kubelet::run(kubelet_context, kubelet).await.context("kubelet") });
    let dns = dns_config(&flags.node);
    let dns_context = proxy_context.clone();
    parts.spawn(async move { dns::run(dns_context, dns).await.context("DNS") });
    let proxy = kube_proxy::Config {
        ranges: Ranges { pods: flags.node.cluster_cidr.clone(), services: flags.service_cidr.clone() },
        local_addresses: vec![flags.node.cluster_dns],
    };
    let nft = Arc::new(NftProgram::new(tasks.clone()));
    parts.spawn(async move { kube_proxy::run(proxy_context, proxy, nft).await.context("service proxy") });

    let outcome = crate::together(parts, &shutdown).await;
    tasks.close();
    tasks.wait().await;
    outcome
}

fn kubelet_config(node: &NodeFlags, files: &AgentFiles) -> Result<kubelet::config::Config> {
    let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    let address = node.node_ip.unwrap_or_else(host::system::primary_address);
    let mut config = kubelet::config::Config::new(node.name()?, &node.data_dir);
    config.node_ips = vec![address];
    config.runtime_endpoint = node.container_runtime_endpoint.clone();
    config.cluster_domain = node.cluster_domain.clone();
    config.cluster_dns = vec![IpAddr::V4(node.cluster_dns)];
    config.cgroup_root = node.cgroup_root.clone();
    config.pod_cidr = Some(node.first_pod_cidr()?);
    let tls = kubelet::config::ServerTls {
        certificate: read(&files.serving_certificate)?,
        key: read(&files.serving_key)?,
        client_ca: read(&files.client_ca)?,
        clients: vec![apiserver::pki::KUBELET_CLIENT.to_owned()],
    };
    config.server = Some((SocketAddr::new(address, KUBELET_PORT), tls));
    Ok(config)
}

fn dns_config(node: &NodeFlags) -> dns::Config {
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    dns::Config {
        listen: SocketAddr::new(IpAddr::V4(node.cluster_dns), 53),
        domain: node.cluster_domain.clone(),
        upstreams: dns::forward::name_servers(&resolver, &[IpAddr::V4(node.cluster_dns)]),
    }
}
