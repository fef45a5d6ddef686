//! Which routes are missing and which are too many. Pure.

use std::net::Ipv4Addr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::node::plan::provider_id;
use crate::provider::Route;

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    base: u32,
    bits: u32,
}

impl Cidr {
    /// IPv4 only, as clouds' route tables for pods are.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (base, bits) = text.split_once('/')?;
        let bits: u32 = bits.parse().ok().filter(|bits| *bits <= 32)?;
        let base = u32::from(base.parse::<Ipv4Addr>().ok()?);
        Some(Self { base: base & mask(bits), bits })
    }

    fn contains(self, other: Self) -> bool {
        other.bits >= self.bits && other.base & mask(self.bits) == self.base
    }
}

fn mask(bits: u32) -> u32 {
    u32::MAX.checked_shl(32 - bits).unwrap_or(0)
}

/// What to do.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Routes of nobody.
    pub(super) delete: Vec<Route>,
    /// Nodes that should be reached, and what they lack.
    pub(super) nodes: Vec<(Arc<Node>, Vec<Route>)>,
}

/// The routes that a node should have.
pub(super) fn routes_of(node: &Node) -> Vec<Route> {
    let Some((spec, machine)) = node.spec.as_ref().zip(provider_id(node)) else { return Vec::new() };
    let several = spec.pod_cidrs.iter().flatten();
    let mut cidrs: Vec<&String> = several.collect();
    if cidrs.is_empty() {
        cidrs.extend(&spec.pod_cidr);
    }
    let route =
        |cidr: &&String| Route { provider_id: machine.to_owned(), cidr: (*cidr).clone(), blackhole: false };
    cidrs.iter().filter(|cidr| Cidr::parse(cidr).is_some()).map(route).collect()
}

/// Whether two provider IDs name one machine: zones do not count.
fn same_machine(one: &str, other: &str) -> bool {
    one.rsplit('/').next() == other.rsplit('/').next()
}

/// Compares. Only routes within `range` are deleted.
pub(super) fn plan(nodes: &[Arc<Node>], there: &[Route], range: Option<Cidr>) -> Plan {
    let serves = |there: &Route, wanted: &Route| {
        there.cidr == wanted.cidr && !there.blackhole && same_machine(&there.provider_id, &wanted.provider_id)
    };
    let mut plan = Plan::default();
    let mut taken: Vec<String> = Vec::new();
    for node in nodes.iter().filter(|node| node.metadata.deletion_timestamp.is_none()) {
        let wanted = routes_of(node);
        if wanted.is_empty() {
            continue;
        }
        taken.extend(wanted.iter().map(|route| route.cidr.clone()));
        let missing = wanted.into_iter().filter(|wanted| !there.iter().any(|there| serves(there, wanted)));
        plan.nodes.push((node.clone(), missing.collect()));
    }
    let ours = |route: &&Route| {
        range.zip(Cidr::parse(&route.cidr)).is_some_and(|(range, cidr)| range.contains(cidr))
    };
    plan.delete = there.iter().filter(ours).filter(|route| !taken.contains(&route.cidr)).cloned().collect();
    plan
}

/// Whether the node says that its pods can be reached; `None` if it says nothing.
pub(super) fn is_available(node: &Node) -> Option<bool> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|condition| condition.type_ == "NetworkUnavailable")?;
    Some(condition.status == "False")
}

/// The strategic merge patch for the condition, if it is to change.
pub(super) fn condition(node: &Node, available: bool, now: Timestamp) -> Option<Value> {
    if is_available(node) == Some(available) {
        return None;
    }
    let (status, reason, message) = match available {
        true => ("False", "RouteCreated", "RouteController created a route"),
        false => ("True", "NoRouteCreated", "RouteController failed to create a route"),
    };
    let now = api_machinery::clock::rfc3339(now);
    Some(json!({"status": {"conditions": [{
        "type": "NetworkUnavailable", "status": status, "reason": reason, "message": message,
        "lastTransitionTime": now, "lastHeartbeatTime": now,
    }]}}))
}
