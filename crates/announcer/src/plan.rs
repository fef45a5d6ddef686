//! From Services, their endpoints and the nodes to the addresses that this node stands for. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Deref;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use sha2::{Digest, Sha256};

/// Nodes with this label take no connections from outside.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Services whose addresses a cloud controller manager gave, ours or another, carry it. Addresses of other implementations are
/// theirs to announce.
const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// So many nodes stand for an address, the ones in line first: when one dies the others know within seconds, and the API
/// server is not asked by every node of a large cluster.
const CANDIDATES: usize = 3;

/// An address that this node stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidacy {
    /// Whose address it is.
    pub service: ObjectKey,
    /// Its UID.
    pub uid: String,
    /// This node's place among those who stand, from 0: who is first waits for nobody.
    pub place: usize,
}

/// Whether the Service has addresses that nodes announce.
#[must_use]
pub fn is_announced(service: &Service) -> bool {
    let plain = service.spec.as_ref().is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    });
    let leaves = service.metadata.deletion_timestamp.is_some();
    plain && !leaves && service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether only nodes with an endpoint of the Service may answer for it.
#[must_use]
pub fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.external_traffic_policy.as_deref()) == Some("Local")
}

/// The addresses of a Service, where packets come as they were sent.
fn addresses(service: &Service) -> impl Iterator<Item = Ipv4Addr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    let direct = all.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

/// What the node `own` stands for. `slices` gives those of a Service, and is asked only where they matter. Where the node
/// answers already (`held`) it goes on, however many are before it in line: nothing moves without need.
pub fn plan<S: Deref<Target = EndpointSlice>>(
    services: &[impl Deref<Target = Service>],
    slices: impl Fn(&ObjectKey) -> Vec<S>,
    nodes: &[impl Deref<Target = Node>],
    own: &str,
    held: impl Fn(Ipv4Addr) -> bool,
) -> BTreeMap<Ipv4Addr, Candidacy> {
    let nodes: Vec<&Node> = nodes.iter().map(Deref::deref).collect();
    let taken = taken(&nodes);
    let mut plan = BTreeMap::new();
    for service in services.iter().map(Deref::deref).filter(|service| is_announced(service)) {
        let key = ObjectKey::of(service);
        let with_endpoints = is_local(service).then(|| hosts(&slices(&key)));
        for address in addresses(service) {
            if taken.contains(&address) {
                tracing::warn!(%address, service = %key, "not announced: it is the address of a node");
                continue;
            }
            let line = in_line(address, &nodes, with_endpoints.as_ref());
            let place = line.iter().position(|name| *name == own);
            let Some(place) = place.filter(|place| *place < CANDIDATES || held(address)) else { continue };
            let uid = service.metadata.uid.clone().unwrap_or_default();
            // Of two Services with one address the first has it, as in the proxy's rules.
            plan.entry(address).or_insert_with(|| Candidacy { service: key.clone(), uid, place });
        }
    }
    plan
}

/// Addresses that nodes have themselves.
fn taken(nodes: &[&Node]) -> BTreeSet<Ipv4Addr> {
    let all = nodes.iter().filter_map(|node| node.status.as_ref()?.addresses.as_ref());
    all.flatten().filter_map(|address| address.address.parse().ok()).collect()
}

/// The nodes that may answer for an address: ready ones first, and in an order that differs from address to address, so that
/// addresses spread over nodes.
fn in_line<'a>(address: Ipv4Addr, nodes: &[&'a Node], within: Option<&BTreeSet<String>>) -> Vec<&'a str> {
    let mut line = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
        if !excluded && within.is_none_or(|within| within.contains(name)) {
            let order = Sha256::digest(format!("{address} {name}"));
            line.push((!is_ready(node), order, name));
        }
    }
    line.sort_unstable();
    line.into_iter().map(|(.., name)| name).collect()
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The nodes with ready endpoints; if there is none anywhere, those whose endpoints still serve while they terminate.
fn hosts(slices: &[impl Deref<Target = EndpointSlice>]) -> BTreeSet<String> {
    let endpoints: Vec<&Endpoint> =
        slices.iter().flat_map(|slice| slice.endpoints.as_deref().unwrap_or_default()).collect();
    let with = |fine: fn(&Endpoint) -> bool| -> BTreeSet<String> {
        endpoints.iter().filter(|endpoint| fine(endpoint)).filter_map(|one| one.node_name.clone()).collect()
    };
    let ready = with(|endpoint| condition(endpoint).0);
    if ready.is_empty() { with(|endpoint| condition(endpoint).1) } else { ready }
}

/// Ready, and serving. Conditions that are not set count as ready (EndpointSlice API documentation).
fn condition(endpoint: &Endpoint) -> (bool, bool) {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    (ready, conditions.and_then(|conditions| conditions.serving).unwrap_or(ready))
}
