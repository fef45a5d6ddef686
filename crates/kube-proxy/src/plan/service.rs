//! One Service and its EndpointSlices as a part of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Deref;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::{
    Access, Backend, Frontend, HealthCheck, Network, Node, PortName, PortPlan, Protocol, Reach, ServicePlan,
};

/// How long a client stays with its backend when the Service does not say.
const AFFINITY: i32 = 10_800;

/// Plans one Service. Empty for a Service without addresses (headless, ExternalName) and for one whose address the node
/// answers itself.
pub fn plan(service: &Service, slices: &[impl Deref<Target = EndpointSlice>], node: &Node) -> ServicePlan {
    let (Some(namespace), Some(name), Some(spec)) =
        (&service.metadata.namespace, &service.metadata.name, &service.spec)
    else {
        return ServicePlan::default();
    };
    let Some(address) = spec.cluster_ip.as_deref().and_then(|address| address.parse::<Ipv4Addr>().ok())
    else {
        return ServicePlan::default();
    };
    if node.answered.contains(&address) {
        return ServicePlan::default();
    }
    let slices: Vec<&EndpointSlice> =
        slices.iter().map(Deref::deref).filter(|slice| slice.address_type == "IPv4").collect();
    let balancers = balancers(service);
    let mut ports = BTreeMap::new();
    for port in spec.ports.as_deref().unwrap_or_default() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let name = PortName {
            namespace: namespace.clone(),
            service: name.clone(),
            port: port.name.clone().unwrap_or_default(),
            protocol,
        };
        let backends = Backends::of(&slices, &name.port, protocol, &node.name);
        let plan = PortPlan {
            frontends: frontends(spec, address, &balancers, port, protocol),
            cluster: backends.cluster.chosen(),
            local: backends.local.chosen(),
            affinity: affinity(spec),
        };
        ports.insert(name, plan);
    }
    ServicePlan { ports, health: health(spec, &slices, &node.name) }
}

/// Addresses that a load balancer answers by handing packets on as they are.
fn balancers(service: &Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let direct = ingress.iter().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    direct.filter_map(|ingress| ingress.ip.as_deref()?.parse().ok()).collect()
}

fn frontends(
    spec: &ServiceSpec,
    address: Ipv4Addr,
    balancers: &[Ipv4Addr],
    port: &ServicePort,
    protocol: Protocol,
) -> BTreeMap<Frontend, Access> {
    let local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    let access = |reach, local_only| Access { reach, local_only, sources: Vec::new() };
    let external = local(&spec.external_traffic_policy);
    let mut frontends = BTreeMap::new();
    if let Some(number) = number(port.node_port) {
        frontends.insert(Frontend::NodePort(protocol, number), access(Reach::External, external));
    }
    let Some(number) = number(Some(port.port)) else { return frontends };
    for balancer in balancers {
        let access = Access { sources: sources(spec), ..access(Reach::LoadBalancer, external) };
        frontends.insert(Frontend::Address(*balancer, protocol, number), access);
    }
    let others = spec.external_ips.as_deref().unwrap_or_default();
    for other in others.iter().filter_map(|address| address.parse().ok()) {
        frontends.insert(Frontend::Address(other, protocol, number), access(Reach::External, external));
    }
    let internal = access(Reach::ClusterIp, local(&spec.internal_traffic_policy));
    frontends.insert(Frontend::Address(address, protocol, number), internal);
    frontends
}

/// Whom load balancers' addresses answer. A range that is everything is no restriction, nor are ranges of IPv6 alone.
fn sources(spec: &ServiceSpec) -> Vec<Network> {
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let ranges: BTreeSet<Network> = ranges.iter().filter_map(|range| Network::parse(range)).collect();
    match ranges.iter().any(|range| range.is_everything()) {
        true => Vec::new(),
        false => ranges.into_iter().collect(),
    }
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = config.and_then(|config| config.timeout_seconds).unwrap_or(AFFINITY);
    Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1)))
}

fn health(spec: &ServiceSpec, slices: &[&EndpointSlice], node: &str) -> Option<HealthCheck> {
    let local = spec.type_.as_deref() == Some("LoadBalancer")
        && spec.external_traffic_policy.as_deref() == Some("Local");
    let port = number(spec.health_check_node_port).filter(|_| local)?;
    let endpoints = slices.iter().flat_map(|slice| slice.endpoints.as_deref().unwrap_or_default());
    let here = endpoints.filter(|endpoint| on(endpoint, node) && matches!(state(endpoint), State::Ready));
    let addresses: BTreeSet<&String> = here.filter_map(|endpoint| endpoint.addresses.first()).collect();
    Some(HealthCheck { port, endpoints: addresses.len() })
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// Endpoints by what they may be used for.
#[derive(Default)]
struct Pool {
    ready: BTreeSet<Backend>,
    terminating: BTreeSet<Backend>,
}

impl Pool {
    /// Ready endpoints; if there is none, those that still serve while they terminate (KEP-1669).
    fn chosen(self) -> Vec<Backend> {
        let chosen = if self.ready.is_empty() { self.terminating } else { self.ready };
        chosen.into_iter().collect()
    }
}

#[derive(Default)]
struct Backends {
    cluster: Pool,
    local: Pool,
}

impl Backends {
    fn of(slices: &[&EndpointSlice], port: &str, protocol: Protocol, node: &str) -> Self {
        let mut backends = Self::default();
        for slice in slices {
            let Some(number) = port_number(slice, port, protocol) else { continue };
            for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
                let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok())
                else {
                    continue;
                };
                backends.add((address, number), state(endpoint), on(endpoint, node));
            }
        }
        backends
    }

    fn add(&mut self, backend: Backend, state: State, local: bool) {
        let pools = [Some(&mut self.cluster), local.then_some(&mut self.local)];
        for pool in pools.into_iter().flatten() {
            match state {
                State::Ready => pool.ready.insert(backend),
                State::ServingWhileTerminating => pool.terminating.insert(backend),
                State::Out => false,
            };
        }
    }
}

fn on(endpoint: &Endpoint, node: &str) -> bool {
    endpoint.node_name.as_deref() == Some(node)
}

#[derive(Clone, Copy)]
enum State {
    Ready,
    ServingWhileTerminating,
    Out,
}

/// Conditions that are not set count as ready, not terminating (EndpointSlice API documentation).
fn state(endpoint: &Endpoint) -> State {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|conditions| conditions.ready).unwrap_or(true);
    let serving = conditions.and_then(|conditions| conditions.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|conditions| conditions.terminating).unwrap_or(false);
    match (ready, serving, terminating) {
        (true, ..) => State::Ready,
        (false, true, true) => State::ServingWhileTerminating,
        _ => State::Out,
    }
}

fn port_number(slice: &EndpointSlice, name: &str, protocol: Protocol) -> Option<u16> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let port = ports.iter().find(|port| {
        port.name.as_deref().unwrap_or("") == name
            && Protocol::parse(port.protocol.as_deref()) == Some(protocol)
    })?;
    number(port.port)
}
