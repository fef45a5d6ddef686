//! Ports of the node that a pod takes for itself. Whether a port is free is decided by whoever knows the node's pods.

use k8s_openapi::api::core::v1::Pod;

use crate::resources::is_sidecar;

/// Stands for all addresses of the node.
pub const ANY_ADDRESS: &str = "0.0.0.0";

/// One port of the node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Port number.
    pub port: i32,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Address of the node, or [`ANY_ADDRESS`].
    pub address: String,
}

impl HostPort {
    /// Whether both cannot be taken on one node: same protocol and port, and the same address or all of them.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address == other.address || self.address == ANY_ADDRESS || other.address == ANY_ADDRESS)
    }
}

/// The host ports of the pod's containers and sidecars, sorted.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let mut ports: Vec<HostPort> = spec
        .containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let or = |text: &Option<String>, default: &str| match text.as_deref() {
                None | Some("") => default.to_owned(),
                Some(text) => text.to_owned(),
            };
            Some(HostPort {
                port: port.host_port.filter(|port| *port > 0)?,
                protocol: or(&port.protocol, "TCP"),
                address: or(&port.host_ip, ANY_ADDRESS),
            })
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}

/// Whether any of the wanted ports is taken.
pub fn conflict<'a>(wanted: &[HostPort], taken: impl IntoIterator<Item = &'a HostPort>) -> bool {
    taken.into_iter().any(|taken| wanted.iter().any(|wanted| wanted.conflicts(taken)))
}
