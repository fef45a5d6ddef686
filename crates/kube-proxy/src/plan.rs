//! What each service address leads to: a pure function of Services and EndpointSlices. Knows nothing of packet rules.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::Deref;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

/// The cluster's address ranges, in CIDR notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Every pod of the cluster.
    pub pods: String,
    /// Every ClusterIP.
    pub services: String,
}

/// Transport protocol of a service port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Protocol {
    fn parse(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name that packet filters use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    /// A virtual address of the cluster.
    Address(Ipv4Addr, Protocol, u16),
    /// A port on every address of the node.
    NodePort(Protocol, u16),
}

/// A pod's address and port.
pub type Backend = (Ipv4Addr, u16);

/// What answers a frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// In order, at least one.
    pub backends: Vec<Backend>,
    /// How one of them is chosen.
    pub choice: Choice,
}

/// How a connection gets its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// By chance.
    Random,
    /// By the client's address (`sessionAffinity: ClientIP`): the same one as long as the backends stay the same.
    /// `timeoutSeconds` has no meaning, since nothing is remembered.
    Client,
}

impl From<Vec<Backend>> for Target {
    fn from(backends: Vec<Backend>) -> Self {
        Self { backends, choice: Choice::Random }
    }
}

/// Every frontend that something answers, with its backends. A frontend without backends is not listed: the rules
/// refuse whatever is not.
pub type Plan = BTreeMap<Frontend, Target>;

/// Plans all services. `local` lists cluster IPs that are answered on the node itself and get no rules.
pub fn plan(
    services: &[impl Deref<Target = Service>],
    slices: &[impl Deref<Target = EndpointSlice>],
    local: &[Ipv4Addr],
) -> Plan {
    let by_service = group(slices);
    let mut plan = Plan::new();
    for service in services {
        let (Some(namespace), Some(name)) = (&service.metadata.namespace, &service.metadata.name) else {
            continue;
        };
        let Some(spec) = &service.spec else { continue };
        let Some(address) = spec.cluster_ip.as_deref().and_then(|address| address.parse().ok()) else {
            continue;
        };
        if local.contains(&address) {
            continue;
        }
        let slices =
            by_service.get(&(namespace.as_str(), name.as_str())).map(Vec::as_slice).unwrap_or_default();
        let choice = match spec.session_affinity.as_deref() {
            Some("ClientIP") => Choice::Client,
            _ => Choice::Random,
        };
        for port in spec.ports.as_deref().unwrap_or_default() {
            add_port(&mut plan, (address, port, choice), slices);
        }
    }
    plan
}

fn add_port(
    plan: &mut Plan,
    (address, port, choice): (Ipv4Addr, &ServicePort, Choice),
    slices: &[&EndpointSlice],
) {
    let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { return };
    let backends = backends(slices, port.name.as_deref().unwrap_or(""), protocol);
    if backends.is_empty() {
        return;
    }
    let target = Target { backends, choice };
    if let Some(number) = number(port.node_port) {
        plan.insert(Frontend::NodePort(protocol, number), target.clone());
    }
    if let Some(number) = number(Some(port.port)) {
        plan.insert(Frontend::Address(address, protocol, number), target);
    }
}

fn number(port: Option<i32>) -> Option<u16> {
    port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0)
}

/// IPv4 slices by namespace and name of their service.
fn group(slices: &[impl Deref<Target = EndpointSlice>]) -> BTreeMap<(&str, &str), Vec<&EndpointSlice>> {
    let mut groups: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let slice: &EndpointSlice = slice;
        if slice.address_type != "IPv4" {
            continue;
        }
        let labels = slice.metadata.labels.as_ref();
        let Some(service) = labels.and_then(|labels| labels.get("kubernetes.io/service-name")) else {
            continue;
        };
        let Some(namespace) = &slice.metadata.namespace else { continue };
        groups.entry((namespace, service)).or_default().push(slice);
    }
    groups
}

/// Ready endpoints of a port; if there is none, those that still serve while they terminate (KEP-1669).
fn backends(slices: &[&EndpointSlice], port: &str, protocol: Protocol) -> Vec<Backend> {
    let mut ready = BTreeSet::new();
    let mut terminating = BTreeSet::new();
    for slice in slices {
        let Some(number) = port_number(slice, port, protocol) else { continue };
        for endpoint in slice.endpoints.as_deref().unwrap_or_default() {
            let Some(address) = endpoint.addresses.first().and_then(|address| address.parse().ok()) else {
                continue;
            };
            match state(endpoint) {
                State::Ready => ready.insert((address, number)),
                State::ServingWhileTerminating => terminating.insert((address, number)),
                State::Out => false,
            };
        }
    }
    let chosen = if ready.is_empty() { terminating } else { ready };
    chosen.into_iter().collect()
}

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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::serde_json::{Value, from_value, json};

    const LOCAL: &[Ipv4Addr] = &[Ipv4Addr::new(10, 43, 0, 10)];

    fn service(name: &str, spec: Value) -> Box<Service> {
        from_value(json!({"metadata": {"name": name, "namespace": "shop"}, "spec": spec}))
            .map(Box::new)
            .unwrap()
    }

    fn slice(service: &str, ports: Value, endpoints: Value) -> Box<EndpointSlice> {
        from_value(json!({
            "metadata": {"name": "x", "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
        }))
        .map(Box::new)
        .unwrap()
    }

    fn endpoint(last: u8, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [format!("10.42.0.{last}")],
               "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    /// One line a frontend: `tcp 10.43.0.9:80 -> 10.42.0.2:8080 …`.
    fn print(plan: &Plan) -> Vec<String> {
        plan.iter()
            .map(|(frontend, target)| {
                let backends: Vec<String> =
                    target.backends.iter().map(|(ip, port)| format!("{ip}:{port}")).collect();
                let from = match frontend {
                    Frontend::Address(ip, protocol, port) => format!("{} {ip}:{port}", protocol.name()),
                    Frontend::NodePort(protocol, port) => format!("{} *:{port}", protocol.name()),
                };
                let sticky = if target.choice == Choice::Client { " by client" } else { "" };
                format!("{from} -> {}{sticky}", backends.join(" "))
            })
            .collect()
    }

    #[test]
    fn a_multi_port_node_port_service_leads_to_its_ready_endpoints_by_port_name() {
        let services = [service(
            "web",
            json!({"clusterIP": "10.43.0.9", "type": "NodePort", "ports": [
                {"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}),
        )];
        let slices = [slice(
            "web",
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 5353, "protocol": "UDP"}]),
            json!([
                endpoint(3, true, true, false),
                endpoint(2, true, true, false),
                endpoint(4, false, false, false)
            ]),
        )];
        assert_eq!(
            print(&plan(&services, &slices, LOCAL)),
            [
                "tcp 10.43.0.9:80 -> 10.42.0.2:8080 10.42.0.3:8080",
                "udp 10.43.0.9:53 -> 10.42.0.2:5353 10.42.0.3:5353",
                "tcp *:30080 -> 10.42.0.2:8080 10.42.0.3:8080",
            ]
        );
    }

    #[test]
    fn affinity_chooses_by_the_client() {
        let services = [service(
            "web",
            json!({"clusterIP": "10.43.0.9", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}),
        )];
        let slices = [slice("web", json!([{"port": 8080}]), json!([endpoint(2, true, true, false)]))];
        assert_eq!(print(&plan(&services, &slices, LOCAL)), ["tcp 10.43.0.9:80 -> 10.42.0.2:8080 by client"]);
    }

    #[test]
    fn terminating_endpoints_serve_only_when_no_ready_one_is_left() {
        let services = [service("web", json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}))];
        let ports = json!([{"port": 8080}]);
        let both = json!([endpoint(2, false, true, true), endpoint(3, true, true, false)]);
        let last = json!([endpoint(2, false, true, true), endpoint(3, false, false, true)]);
        let of = |endpoints| print(&plan(&services, &[slice("web", ports.clone(), endpoints)], LOCAL));
        assert_eq!(of(both), ["tcp 10.43.0.9:80 -> 10.42.0.3:8080"]);
        assert_eq!(of(last), ["tcp 10.43.0.9:80 -> 10.42.0.2:8080"]);
        assert_eq!(
            of(json!([endpoint(2, false, false, false)])),
            [""; 0],
            "nothing answers, nothing is listed"
        );
    }

    #[test]
    fn headless_external_and_locally_answered_services_get_no_rules() {
        let services = [
            service("headless", json!({"clusterIP": "None", "ports": [{"port": 80}]})),
            service("elsewhere", json!({"type": "ExternalName", "externalName": "example.org"})),
            service(
                "kube-dns",
                json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}),
            ),
        ];
        let slices: Vec<Box<EndpointSlice>> = ["headless", "elsewhere", "kube-dns"]
            .iter()
            .map(|name| {
                slice(
                    name,
                    json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]),
                    json!([endpoint(2, true, true, false)]),
                )
            })
            .collect();
        assert!(plan(&services, &slices, LOCAL).is_empty());
    }
}
