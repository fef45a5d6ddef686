//! From what the kernel holds to what it should hold, as lines for the `ip` and `bridge` programs. Pure. Nothing is taken
//! away and made again that is right, so packets go on meanwhile.

use std::collections::BTreeSet;
use std::net::IpAddr;

use host::links::{Entry, Holdings, Route, Vxlan};

use crate::plan::{DEVICE, Device, PROTOCOL, Plan, VXLAN_ID, VXLAN_PORT};

/// Lines to run, in this order: `ip`, then `bridge`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// For `ip`.
    pub ip: Vec<String>,
    /// For `bridge`.
    pub bridge: Vec<String>,
}

impl Difference {
    /// Whether all is as it should be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ip.is_empty() && self.bridge.is_empty()
    }
}

/// What is to be done.
#[must_use]
pub fn difference(plan: &Plan, held: &Holdings) -> Difference {
    let mut lines = Difference::default();
    let mut held = held.clone();
    if !device(plan.device.as_ref(), held.vxlan.as_ref(), &mut lines.ip) {
        // Everything on the device went with it.
        held.neighbours.clear();
        held.forwarding.clear();
        held.routes.retain(|route| route.link != DEVICE);
    }
    entries(&plan.neighbours, &held.neighbours, |change, entry| {
        let Entry { mac, address } = entry;
        lines.ip.push(match change {
            Change::Keep => format!("neighbour replace {address} lladdr {mac} dev {DEVICE} nud permanent"),
            Change::Drop => format!("neighbour delete {address} dev {DEVICE}"),
        });
    });
    entries(&plan.forwarding, &held.forwarding, |change, entry| {
        let Entry { mac, address } = entry;
        lines.bridge.push(match change {
            Change::Keep => format!("fdb replace {mac} dev {DEVICE} dst {address} self permanent"),
            Change::Drop => format!("fdb delete {mac} dev {DEVICE} dst {address} self"),
        });
    });
    routes(&plan.routes, &held.routes, &mut lines.ip);
    lines
}

enum Change {
    Keep,
    Drop,
}

/// Those to drop first: one that changes is dropped by its address and then made anew.
fn entries(wanted: &BTreeSet<Entry>, held: &[Entry], mut tell: impl FnMut(Change, &Entry)) {
    held.iter().filter(|entry| !wanted.contains(*entry)).for_each(|entry| tell(Change::Drop, entry));
    wanted.iter().filter(|entry| !held.contains(entry)).for_each(|entry| tell(Change::Keep, entry));
}

fn routes(wanted: &BTreeSet<Route>, held: &[Route], lines: &mut Vec<String>) {
    for Route { destination, gateway, link } in wanted.iter().filter(|route| !held.contains(route)) {
        let onlink = if link == DEVICE { " onlink" } else { "" };
        lines.push(format!(
            "route replace {destination} via {gateway} dev {link}{onlink} protocol {PROTOCOL}"
        ));
    }
    for route in held.iter().filter(|route| !wanted.contains(*route)) {
        let Route { destination, gateway, link } = route;
        // Where another way to the same range is wanted, replacing it has taken this one away.
        if !wanted.iter().any(|wanted| wanted.destination == *destination) {
            lines.push(format!("route delete {destination} via {gateway} dev {link} protocol {PROTOCOL}"));
        }
    }
}

/// The device's lines; whether the one that is there stays.
fn device(wanted: Option<&Device>, held: Option<&Vxlan>, lines: &mut Vec<String>) -> bool {
    let Some(wanted) = wanted else {
        if held.is_some() {
            lines.push(format!("link delete {DEVICE}"));
        }
        return false;
    };
    let same = |held: &&Vxlan| (held.id, held.port, held.local) == (VXLAN_ID, VXLAN_PORT, Some(wanted.local));
    let Device { mac, mtu, local, addresses } = wanted;
    let Some(held) = held.filter(same) else {
        if held.is_some() {
            lines.push(format!("link delete {DEVICE}"));
        }
        lines.push(format!(
            "link add {DEVICE} address {mac} mtu {mtu} type vxlan id {VXLAN_ID} local {local} dstport {VXLAN_PORT} nolearning"
        ));
        lines.push(format!("link set {DEVICE} up"));
        lines.extend(
            addresses.iter().map(|address| format!("address replace {} dev {DEVICE}", single(*address))),
        );
        return false;
    };
    if held.mac != *mac {
        lines.push(format!("link set {DEVICE} address {mac}"));
    }
    if held.mtu != *mtu {
        lines.push(format!("link set {DEVICE} mtu {mtu}"));
    }
    // Switched off, it lost its routes, which are held no longer then and made anew.
    if !held.up {
        lines.push(format!("link set {DEVICE} up"));
    }
    let missing = addresses.iter().filter(|address| !held.addresses.contains(address));
    lines.extend(missing.map(|address| format!("address replace {} dev {DEVICE}", single(*address))));
    let extra = held.addresses.iter().filter(|address| !addresses.contains(address));
    lines.extend(extra.map(|address| format!("address delete {} dev {DEVICE}", single(*address))));
    true
}

/// One address as a range.
fn single(address: IpAddr) -> String {
    format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
}
