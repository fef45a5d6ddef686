//! What each service address leads to: a pure function of Services and EndpointSlices, one Service at a time, so that a
//! change costs what it changes. Knows nothing of packet rules.

mod service;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

pub use service::plan;

/// The cluster's address ranges, in CIDR notation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranges {
    /// Every pod of the cluster.
    pub pods: String,
    /// Every ClusterIP.
    pub services: String,
}

/// What a plan must know of the node that it is for.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Its name, by which endpoints say that they are on it.
    pub name: String,
    /// Cluster IPs that are answered on the node itself and get no rules.
    pub answered: Vec<Ipv4Addr>,
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
    /// As the API names it; TCP when it does not.
    pub fn parse(name: Option<&str>) -> Option<Self> {
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

    /// The number in a packet's header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// The protocol that a packet filter calls so. On a machine without `/etc/protocols` it calls it by its number.
    pub fn named(name: &str) -> Option<Self> {
        let is = |protocol: &Self| protocol.name() == name || Ok(protocol.number()) == name.parse();
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(is)
    }
}

/// One port of one Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortName {
    /// Namespace of the Service.
    pub namespace: String,
    /// Name of the Service.
    pub service: String,
    /// Name of the port, empty when the Service has one port without a name.
    pub port: String,
    /// Two ports of a Service may share a number when their protocols differ.
    pub protocol: Protocol,
}

impl fmt::Display for PortName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.service)?;
        match self.port.as_str() {
            "" => Ok(()),
            port => write!(formatter, ":{port}"),
        }
    }
}

/// Where clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Frontend {
    /// A virtual address.
    Address(Ipv4Addr, Protocol, u16),
    /// A port on every address of the node.
    NodePort(Protocol, u16),
}

/// What kind of address a frontend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reach {
    /// The cluster's own address of the Service.
    ClusterIp,
    /// A node port or an external IP.
    External,
    /// An address that a load balancer gave.
    LoadBalancer,
}

/// An IPv4 network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    address: Ipv4Addr,
    length: u8,
}

impl Network {
    /// From CIDR notation; bits of the host are cleared. `None` for anything else, IPv6 included.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.trim().split_once('/')?;
        let (address, length): (Ipv4Addr, u8) = (address.parse().ok()?, length.parse().ok()?);
        let mask = match length {
            0 => 0,
            1..=32 => u32::MAX << (32 - u32::from(length)),
            _ => return None,
        };
        Some(Self { address: Ipv4Addr::from(u32::from(address) & mask), length })
    }

    /// Whether it is the whole internet.
    pub fn is_everything(self) -> bool {
        self.length == 0
    }

    /// Whether an address is in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        self.length == 0
            || (u32::from(address) ^ u32::from(self.address)) >> (32 - u32::from(self.length)) == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.length)
    }
}

/// How a frontend may be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// What kind of address it is.
    pub reach: Reach,
    /// Traffic policy Local: only backends on this node answer. For frontends that are not cluster IPs this binds
    /// clients outside of the cluster alone; pods and the node itself reach every backend.
    pub local_only: bool,
    /// Whom a load balancer's address answers; empty for everybody.
    pub sources: Vec<Network>,
}

/// A pod's address and port.
pub type Backend = (Ipv4Addr, u16);

/// What one port of a Service leads to. A port without backends stays in the plan: its addresses refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortPlan {
    /// Its addresses.
    pub frontends: BTreeMap<Frontend, Access>,
    /// All backends that may answer, in order.
    pub cluster: Vec<Backend>,
    /// Those on this node, in order.
    pub local: Vec<Backend>,
    /// How long a client stays with its backend after its last connection (`sessionAffinity: ClientIP`).
    pub affinity: Option<Duration>,
}

impl PortPlan {
    /// The backends that a frontend reaches for clients outside of the cluster (cluster IPs: for all).
    pub fn backends(&self, access: &Access) -> &[Backend] {
        if access.local_only { &self.local } else { &self.cluster }
    }
}

/// What a load balancer learns at a Service's health-check node port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// The node port.
    pub port: u16,
    /// Ready endpoints on this node.
    pub endpoints: usize,
}

/// One Service's part of the plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its ports.
    pub ports: BTreeMap<PortName, PortPlan>,
    /// Its health-check node port, if it has one.
    pub health: Option<HealthCheck>,
}

/// Namespace and name of a Service.
pub type ServiceName = (String, String);

/// What changed in a port: before and after. Absent means that there is no such port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortChange {
    /// Before.
    pub old: Option<PortPlan>,
    /// After.
    pub new: Option<PortPlan>,
}

/// Changed ports, each with what it was and what it is.
pub type Changes = BTreeMap<PortName, PortChange>;

/// Every port of every Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By name.
    pub ports: BTreeMap<PortName, PortPlan>,
    /// Health-check node ports by Service.
    pub health: BTreeMap<ServiceName, HealthCheck>,
}

impl Plan {
    /// Replaces one Service's part and says which ports are different now.
    pub fn replace(&mut self, (namespace, service): &ServiceName, part: ServicePlan) -> Changes {
        let first = PortName {
            namespace: namespace.clone(),
            service: service.clone(),
            port: String::new(),
            protocol: Protocol::Tcp,
        };
        let of_service = self.ports.range(first..);
        let of_service =
            of_service.take_while(|(name, _)| name.namespace == *namespace && name.service == *service);
        let mut names: BTreeSet<PortName> = of_service.map(|(name, _)| name.clone()).collect();
        names.extend(part.ports.keys().cloned());
        let mut new = part.ports;
        let mut changes = Changes::new();
        for name in names {
            let (old, new) = (self.ports.remove(&name), new.remove(&name));
            if let Some(new) = &new {
                self.ports.insert(name.clone(), new.clone());
            }
            if old != new {
                changes.insert(name, PortChange { old, new });
            }
        }
        let key = (namespace.clone(), service.clone());
        match part.health {
            Some(health) => self.health.insert(key, health),
            None => self.health.remove(&key),
        };
        changes
    }
}

/// Two changes of the same ports, one after the other, as one.
pub fn merge(changes: &mut Changes, later: Changes) {
    for (name, PortChange { old, new }) in later {
        changes.entry(name).and_modify(|change| change.new = new.clone()).or_insert(PortChange { old, new });
    }
}
