//! The node's end of tunnels, put together: which servers there are is read from the endpoints of the Service `kubernetes`,
//! which pods are the node's own from its Node and, where they share its network, from the pods themselves. What may be
//! reached is `component::tunnel::targets`' to say.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use api_machinery::tunnel::Block;
use component::informer::{Informer, Selection};
use component::tunnel::targets::Targets;
use component::tunnel::{self, Config};
use component::{Api, Context};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::{Notify, watch};

use crate::flags::EgressSelectorMode;
use crate::join::Joined;

/// Keeps tunnels to all servers, in tasks of the context of the node process.
///
/// # Errors
/// The Services' range is none.
pub fn start(
    context: &Context,
    joined: &Joined,
    mode: EgressSelectorMode,
    node: &str,
    kubelet: SocketAddr,
    service_cidr: &str,
) -> Result<()> {
    if mode == EgressSelectorMode::Disabled {
        return Ok(());
    }
    let services = match mode {
        EgressSelectorMode::Cluster => Some(service_cidr.parse::<Block>().context("--service-cidr")?),
        _ => None,
    };
    let targets = Arc::new(Targets::new(vec![kubelet], services));
    let servers = watch::Sender::new(BTreeSet::from([joined.server.clone()]));
    let config = Config {
        node: node.to_owned(),
        authority: joined.authority.as_bytes().into(),
        identity: joined.identity.clone(),
        targets: targets.clone(),
    };
    context.tasks.spawn(tunnel::keep(context.clone(), config, servers.subscribe()));
    context.tasks.spawn(follow_servers(
        context.clone(),
        joined.network.clone(),
        joined.server.clone(),
        servers,
    ));
    if mode >= EgressSelectorMode::Pod {
        context.tasks.spawn(follow_ranges(context.clone(), node.to_owned(), targets.clone()));
        context.tasks.spawn(follow_host_network(context.clone(), node.to_owned(), kubelet.ip(), targets));
    }
    Ok(())
}

/// Tells of the server that the node joined and of all that the endpoints of `kubernetes` name.
async fn follow_servers(
    context: Context,
    client: kube::Client,
    first: String,
    servers: watch::Sender<BTreeSet<String>>,
) {
    let slices: Informer<EndpointSlice> = Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::namespaced(client, "default"),
        Selection { labels: Some("kubernetes.io/service-name=kubernetes".to_owned()), fields: None },
    );
    each(&context, &slices, || {
        let mut found: BTreeSet<String> = slices.list().iter().flat_map(|slice| addresses(slice)).collect();
        found.insert(first.clone());
        servers.send_if_modified(|known| {
            let changed = *known != found;
            *known = found;
            changed
        });
    })
    .await;
}

/// Tells which ranges the node's pods are in.
async fn follow_ranges(context: Context, node: String, targets: Arc<Targets>) {
    let nodes: Informer<Node> = Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::all(context.client.clone()),
        Selection { labels: None, fields: Some(format!("metadata.name={node}")) },
    );
    each(&context, &nodes, || {
        targets.set_pods(nodes.list().iter().flat_map(|node| pod_ranges(node)).collect());
    })
    .await;
}

/// Tells where pods listen that share the node's address.
async fn follow_host_network(context: Context, node: String, address: IpAddr, targets: Arc<Targets>) {
    let pods: Informer<Pod> = Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::all(context.client.clone()),
        Selection { labels: None, fields: Some(format!("spec.nodeName={node}")) },
    );
    each(&context, &pods, || {
        let ports = pods.list().iter().flat_map(|pod| host_ports(pod)).collect::<BTreeSet<u16>>();
        targets.set_host_network(ports.into_iter().map(|port| SocketAddr::new(address, port)).collect());
    })
    .await;
}

/// Does something with what an informer holds, now and after each change, until shutdown.
async fn each<K: component::api::Object>(context: &Context, informer: &Informer<K>, mut act: impl FnMut()) {
    let changed = Arc::new(Notify::new());
    let notify = changed.clone();
    informer.on_change(move |_| notify.notify_one());
    if context.shutdown.run_until_cancelled(informer.synced()).await.is_none() {
        return;
    }
    loop {
        act();
        if context.shutdown.run_until_cancelled(changed.notified()).await.is_none() {
            return;
        }
    }
}

/// `https://192.0.2.1:6443` for every address of a slice.
fn addresses(slice: &EndpointSlice) -> Vec<String> {
    let ports = slice.ports.iter().flatten();
    let port = ports.filter_map(|port| port.port).find_map(|port| u16::try_from(port).ok());
    let Some(port) = port else { return Vec::new() };
    let texts = slice.endpoints.iter().flatten().flat_map(|endpoint| &endpoint.addresses);
    let literal = texts.filter_map(|address| address.parse().ok());
    literal.map(|address| format!("https://{}", SocketAddr::new(address, port))).collect()
}

fn pod_ranges(node: &Node) -> Vec<Block> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let texts = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    texts.filter_map(|range| range.parse().ok()).collect()
}

/// The TCP ports that a pod declares on the node's own network.
fn host_ports(pod: &Pod) -> Vec<u16> {
    let Some(spec) = pod.spec.as_ref().filter(|spec| spec.host_network == Some(true)) else {
        return Vec::new();
    };
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Vec::new();
    }
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| u16::try_from(port.container_port).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_literal_addresses_with_the_slices_port() {
        let slice =
            |value: serde_json::Value| -> EndpointSlice { serde_json::from_value(value).expect("a slice") };
        let endpoints =
            serde_json::json!([{"addresses": ["192.0.2.1"]}, {"addresses": ["2001:db8::1", "name"]}]);
        let full = slice(serde_json::json!({
            "addressType": "IPv4", "endpoints": endpoints, "ports": [{"name": "https", "port": 6443}],
        }));
        assert_eq!(addresses(&full), ["https://192.0.2.1:6443", "https://[2001:db8::1]:6443"]);
        let none = slice(serde_json::json!({"addressType": "IPv4", "endpoints": endpoints}));
        assert!(addresses(&none).is_empty(), "it is not guessed");
    }

    #[test]
    fn a_nodes_ranges_are_those_that_it_was_given() {
        let node = |value: serde_json::Value| -> Node { serde_json::from_value(value).expect("a node") };
        let ranges = pod_ranges(&node(serde_json::json!({"spec": {"podCIDRs": ["10.42.1.0/24", "x"]}})));
        assert_eq!(ranges, ["10.42.1.0/24".parse().expect("a range")]);
        assert!(pod_ranges(&node(serde_json::json!({}))).is_empty());
    }

    #[test]
    fn ports_on_the_nodes_network_are_those_that_its_pods_declare() {
        let pod = |host: bool, phase: &str| -> Pod {
            serde_json::from_value(serde_json::json!({
                "spec": {
                    "hostNetwork": host,
                    "initContainers": [{"name": "proxy", "ports": [{"containerPort": 15001}]}],
                    "containers": [
                        {"name": "a", "ports": [{"containerPort": 9100}, {"containerPort": 53, "protocol": "UDP"}]},
                        {"name": "b", "ports": [{"containerPort": 9101, "protocol": "TCP"}]},
                        {"name": "c"},
                    ],
                },
                "status": {"phase": phase},
            }))
            .expect("a pod")
        };
        assert_eq!(host_ports(&pod(true, "Running")), [9100, 9101, 15001]);
        assert!(host_ports(&pod(false, "Running")).is_empty(), "they are reached at addresses of their own");
        assert!(host_ports(&pod(true, "Failed")).is_empty(), "they have ended");
    }
}
