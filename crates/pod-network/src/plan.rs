//! From the nodes of the cluster to what this node's kernel should hold. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use host::links::{Entry, Route, Underlay};
use k8s_openapi::api::core::v1::Node;

/// The device between nodes.
pub const DEVICE: &str = "skiff-vxlan";
/// By this number routes are known as ours.
pub const PROTOCOL: u8 = 83;
/// The network's number.
pub const VXLAN_ID: u32 = 1;
/// The port that other pod networks on Linux use too; the standard's own collides with a cloud's.
pub const VXLAN_PORT: u16 = 8472;
/// A node's annotation that says to which hardware address packets for its pods are sent.
pub const MAC_ANNOTATION: &str = "skiff.local/vtep-mac";

/// Bytes that VXLAN adds to a packet: an outer IP, UDP and VXLAN header, and the inner Ethernet header.
const OVERHEAD: (u32, u32) = (50, 70);
/// The least that IPv6 allows.
const LEAST_MTU: u32 = 1280;

/// How packets get to other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Wrapped, to every node.
    #[default]
    Vxlan,
    /// As they are, to nodes on the same link; others are not reached.
    Direct,
    /// As they are to nodes on the same link, wrapped to all others.
    Auto,
}

/// The most bytes of a pod's packet.
#[must_use]
pub fn pod_mtu(mode: Mode, underlay: &Underlay) -> u32 {
    // A loopback's size says nothing of other nodes.
    let link = if underlay.mtu > 9500 { 1500 } else { underlay.mtu };
    let overhead = if underlay.address.is_ipv4() { OVERHEAD.0 } else { OVERHEAD.1 };
    match mode {
        Mode::Direct => link,
        Mode::Vxlan | Mode::Auto => link.saturating_sub(overhead).max(LEAST_MTU.min(link)),
    }
}

/// The hardware address of a node's device: a local one, made of the address that no other node has.
#[must_use]
pub fn mac(address: IpAddr) -> String {
    let bytes = match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(address) => {
            let all = address.octets();
            [all[12], all[13], all[14], all[15]]
        }
    };
    let [a, b, c, d] = bytes;
    format!("0e:53:{a:02x}:{b:02x}:{c:02x}:{d:02x}")
}

/// The device as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its hardware address.
    pub mac: String,
    /// The most bytes of one packet.
    pub mtu: u32,
    /// The node's address.
    pub local: IpAddr,
    /// What the node itself is to pods of other nodes: the first addresses of its own ranges, which no pod has. Answers
    /// to them come the way that the questions went.
    pub addresses: BTreeSet<IpAddr>,
}

/// What the kernel should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The device; none where nothing is wrapped.
    pub device: Option<Device>,
    /// A route for each range of another node.
    pub routes: BTreeSet<Route>,
    /// Whose hardware address a gateway on the device has.
    pub neighbours: BTreeSet<Entry>,
    /// Which node has a hardware address.
    pub forwarding: BTreeSet<Entry>,
}

/// The plan of the node `own`. Nodes without a range, or that cannot be reached, are left out until they can.
#[must_use]
pub fn plan<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    own: &str,
    mode: Mode,
    underlay: &Underlay,
) -> Plan {
    let device = (mode != Mode::Direct).then(|| Device {
        mac: mac(underlay.address),
        mtu: pod_mtu(mode, underlay),
        local: underlay.address,
        addresses: BTreeSet::new(),
    });
    let mut plan = Plan { device, ..Plan::default() };
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut others = Vec::new();
    for node in nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if name == own {
            let bases = ranges(node).into_iter().map(|(_, base)| base);
            if let Some(device) = &mut plan.device {
                device.addresses.extend(bases);
            }
            ranges(node).into_iter().for_each(|(range, _)| drop(owners.insert(range, name.to_owned())));
        } else {
            others.push((name, node));
        }
    }
    for (name, node) in others {
        let Some(address) = address(node, underlay.address.is_ipv4()) else { continue };
        for (range, base) in ranges(node) {
            // A range belongs to one node: our own first, then the first by name.
            if owners.entry(range.clone()).or_insert_with(|| name.to_owned()) != name {
                continue;
            }
            plan.reach(node, address, (range, base), mode, underlay);
        }
    }
    plan
}

impl Plan {
    fn reach(
        &mut self,
        node: &Node,
        address: IpAddr,
        (range, base): (String, IpAddr),
        mode: Mode,
        underlay: &Underlay,
    ) {
        let near = same_link(underlay, address) && address.is_ipv4() == base.is_ipv4();
        if mode != Mode::Vxlan && near {
            let link = underlay.link.clone();
            self.routes.insert(Route { destination: range, gateway: address, link });
            return;
        }
        let annotations = node.metadata.annotations.as_ref();
        let mac = annotations.and_then(|annotations| annotations.get(MAC_ANNOTATION));
        let Some(mac) = mac.map(|mac| mac.to_ascii_lowercase()).filter(|mac| is_mac(mac)) else { return };
        if mode == Mode::Direct {
            return;
        }
        self.routes.insert(Route { destination: range, gateway: base, link: DEVICE.to_owned() });
        self.neighbours.insert(Entry { mac: mac.clone(), address: base });
        self.forwarding.insert(Entry { mac, address });
    }
}

/// The node's address in the family of ours.
fn address(node: &Node, v4: bool) -> Option<IpAddr> {
    let all = node.status.as_ref()?.addresses.as_ref()?;
    let internal = all.iter().filter(|address| address.type_ == "InternalIP");
    internal
        .filter_map(|address| address.address.parse().ok())
        .find(|address: &IpAddr| address.is_ipv4() == v4)
}

/// The node's ranges, each with its first address.
fn ranges(node: &Node) -> Vec<(String, IpAddr)> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let all: Vec<&String> = match &spec.pod_cidrs {
        Some(all) if !all.is_empty() => all.iter().collect(),
        _ => spec.pod_cidr.iter().collect(),
    };
    let parsed = |text: &&String| {
        let (base, prefix) = text.split_once('/')?;
        let base: IpAddr = base.parse().ok()?;
        let prefix: u8 = prefix.parse().ok()?;
        (prefix <= if base.is_ipv4() { 32 } else { 128 }).then(|| (format!("{base}/{prefix}"), base))
    };
    all.iter().filter_map(parsed).collect()
}

fn same_link(underlay: &Underlay, other: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let shift = 128_u32.saturating_sub(u32::from(underlay.prefix));
    let top = |address| bits(address).checked_shr(shift).unwrap_or(0);
    underlay.address.is_ipv4() == other.is_ipv4() && top(underlay.address) == top(other)
}

/// What others write into annotations becomes part of a command: nothing but a hardware address may.
fn is_mac(text: &str) -> bool {
    let mut parts = text.split(':');
    let byte = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    text.len() == 17 && parts.all(byte)
}
