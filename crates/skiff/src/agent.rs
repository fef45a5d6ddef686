//! `skiff agent`: the node process. Kubelet, service proxy and DNS share its fate and nothing else: each has its own client
//! with its own rights.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use component::identity::Identity;
use dns::forward::Upstreams;
use host::network::Held;
use host::nft::NftProgram;
use kube_proxy::plan::Ranges;
use kubelet::config::ServerTls;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::files::AgentFiles;
use crate::flags::{AgentFlags, NodeFlags};
use crate::join::{self, Base};
use crate::load_balancers;
use crate::tunnel;

/// Where the kubelet answers the API server.
const KUBELET_PORT: u16 = 10250;

/// Runs until shutdown, or until a part of the node cannot go on: the whole process then ends and is started again.
pub async fn run(flags: AgentFlags, shutdown: CancellationToken) -> Result<()> {
    flags.node.check_ranges(&flags.service_cidr)?;
    let kubelet = SocketAddr::new(flags.node.address(), KUBELET_PORT);
    // The kubelet listens once the node has joined. That it cannot is said before, while nothing has been asked for.
    TcpListener::bind(kubelet).await.with_context(|| format!("the kubelet cannot listen on {kubelet}"))?;
    let tasks = TaskTracker::new();
    let base = Base {
        clock: Clock::system(),
        entropy: Entropy::from_os(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
    };
    let held = Held {
        pods: flags.node.cluster_cidr.clone(),
        services: flags.service_cidr.clone(),
        local: vec![flags.node.cluster_dns],
    };
    // Before anything else uses the network: from here on no packet to a pod or service leaves this node untranslated.
    host::network::hold(&held).await.context("cannot hold the pod and service ranges")?;

    let Some(credentials) = credentials(&flags, &base).await? else { return Ok(()) };
    let mut parts: JoinSet<Result<()>> = JoinSet::new();
    let network = network_config(&flags.node).await?;
    let mtu = pod_network::pod_mtu(network.mode, &network.underlay);
    let kubelet = kubelet_config(&flags.node, credentials.tls, mtu)?;
    let (kubelet_context, proxy_context) =
        (base.context(credentials.kubelet), base.context(credentials.proxy));
    let link = network.underlay.link.clone();
    parts.spawn(load_balancers::announce(proxy_context.clone(), flags.node.name()?, link));
    // All nodes are the proxy's to read, its own node the kubelet's to annotate.
    let (network_context, own) = (proxy_context.clone(), kubelet_context.client.clone());
    parts.spawn(async move { pod_network::run(network_context, own, network).await.context("pod network") });
    parts.spawn(async move { kubelet::run(kubelet_context, kubelet).await.context("kubelet") });
    let dns = dns_config(&flags.node);
    let dns_context = proxy_context.clone();
    parts.spawn(async move { dns::run(dns_context, dns).await.context("DNS") });
    let proxy = kube_proxy::Config {
        node_name: flags.node.name()?,
        mode: kube_proxy::ProxyMode::default(),
        ipvs: kube_proxy::ipvs::Settings::default(),
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

/// As whom the parts of the node act.
struct Credentials {
    kubelet: kube::Client,
    proxy: kube::Client,
    tls: ServerTls,
}

/// From the server that the node joins, or from what a server left in the data directory; `None` when told to end first.
async fn credentials(flags: &AgentFlags, base: &Base) -> Result<Option<Credentials>> {
    let clients = vec![apiserver::pki::KUBELET_CLIENT.to_owned()];
    if let Some(server) = &flags.join.server {
        let Some(joined) = join::join(server, &flags.join, &flags.node, base).await? else { return Ok(None) };
        let node = &flags.node;
        let kubelet = SocketAddr::new(node.address(), KUBELET_PORT);
        let (mode, name, context) =
            (flags.join.egress_selector_mode, node.name()?, base.context(joined.client.clone()));
        tunnel::start(&context, &joined, mode, &name, kubelet, &flags.service_cidr)?;
        let tls = ServerTls { identity: joined.serving, client_ca: joined.authority.into_bytes(), clients };
        return Ok(Some(Credentials { kubelet: joined.client, proxy: joined.network, tls }));
    }
    let files = AgentFiles::below(&flags.node.data_dir);
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| {
            format!("cannot read {}; to join a cluster, give --server and --token", path.display())
        })
    };
    let (certificate, key) = (read(&files.serving_certificate)?, read(&files.serving_key)?);
    let identity = Identity::from_pem(&certificate, &key).context("the serving certificate")?;
    Ok(Some(Credentials {
        kubelet: component::connect::from_kubeconfig(&files.kubelet_kubeconfig)?,
        proxy: component::connect::from_kubeconfig(&files.proxy_kubeconfig)?,
        tls: ServerTls { identity, client_ca: read(&files.client_ca)?, clients },
    }))
}

/// The way to other nodes: by the link that has the node's address.
async fn network_config(node: &NodeFlags) -> Result<pod_network::Config> {
    let address = node.address();
    let underlay = host::links::underlay(address).await.context("--node-ip")?;
    Ok(pod_network::Config { node_name: node.name()?, mode: node.pod_network.mode(), underlay })
}

fn kubelet_config(node: &NodeFlags, tls: ServerTls, pod_mtu: u32) -> Result<kubelet::config::Config> {
    let address = node.address();
    let mut config = kubelet::config::Config::new(node.name()?, &node.data_dir);
    config.node_ips = vec![address];
    config.runtime_endpoint = node.container_runtime_endpoint.clone();
    config.cluster_domain = node.cluster_domain.clone();
    config.cluster_dns = vec![IpAddr::V4(node.cluster_dns)];
    config.cgroup_root = node.cgroup_root.clone();
    config.pod_mtu = Some(pod_mtu);
    node.cloud.apply(&mut config);
    config.server = Some((SocketAddr::new(address, KUBELET_PORT), tls));
    Ok(config)
}

fn dns_config(node: &NodeFlags) -> dns::Config {
    dns::Config {
        listen: SocketAddr::new(IpAddr::V4(node.cluster_dns), 53),
        domain: node.cluster_domain.clone(),
        upstreams: Upstreams::of_this_machine(IpAddr::V4(node.cluster_dns)),
    }
}
