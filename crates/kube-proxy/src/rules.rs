//! The plan as nftables rules, and the difference between two rule sets as a script. Pure: nothing is executed here.
//!
//! The cost of a packet does not depend on the number of services. One map leads from a service address to the chain
//! `pick-N` for its N backends; that chain draws a slot, and the map of slot K holds the K-th backend of every service
//! that has more than K. Chains are shared by all services; a service is only map elements. A service with affinity
//! goes through `hash-N` instead, which takes the slot from the client's address.
//!
//! Whatever is sent to the service range and was not translated is refused: no service, no such port, or no backend.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::plan::{Choice, Frontend, Plan, Ranges, Target};

/// Name of our table in the `ip` family.
pub const TABLE: &str = "skiff-proxy";

/// A rule set: what the kernel holds, or what it should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Maps by name.
    pub maps: BTreeMap<String, Map>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A map or a set: its type and elements. The elements of a set have empty values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// As nft writes it after `type`; empty when read back from the kernel, which is not compared.
    pub kind: String,
    /// Key -> value.
    pub elements: BTreeMap<String, String>,
}

/// A chain: its hook, if any, and its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type nat hook prerouting priority -100;` or empty; empty when read back, which is not compared.
    pub hook: String,
    /// The rules. Read back from the kernel, only their [`fingerprint`]s.
    pub rules: Vec<Rule>,
}

/// A rule, told apart by a fingerprint of its text that travels in its comment: the kernel gives rules back in other
/// words than it was given them.
#[derive(Clone, Debug, Eq)]
pub struct Rule {
    /// The rule's text; empty when read back.
    pub text: String,
    /// Fingerprint of the text.
    pub fingerprint: String,
}

impl PartialEq for Rule {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Rule {
    fn new(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { fingerprint: fingerprint(&text), text }
    }
}

/// FNV-1a: stable across builds, which the standard hasher does not promise.
fn fingerprint(text: &str) -> String {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Address frontends and node ports have keys of different shapes, so each has maps and chains of its own.
#[derive(Clone, Copy)]
struct Family {
    prefix: &'static str,
    key_type: &'static str,
    key: &'static str,
    /// What a rule does to the connection before it translates it.
    before: &'static str,
}

/// Tells connections through a node port apart when they leave; a bit of the connection's mark, other bits are kept.
const NODE_PORT_MARK: &str = "0x4000";

const ADDRESS: Family = Family {
    prefix: "service",
    key_type: "ipv4_addr . inet_proto . inet_service",
    key: "ip daddr . meta l4proto . th dport",
    before: "",
};
const NODE_PORT: Family = Family {
    prefix: "node",
    key_type: "inet_proto . inet_service",
    key: "meta l4proto . th dport",
    before: "ct mark set ct mark or 0x4000 ",
};

/// Builds the complete rule set of a plan.
pub fn build(plan: &Plan, ranges: &Ranges) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let hairpin = Map { kind: "ipv4_addr . ipv4_addr".to_owned(), elements: BTreeMap::new() };
    ruleset.maps.insert("hairpin".to_owned(), hairpin);
    for family in [ADDRESS, NODE_PORT] {
        let kind = format!("{} : verdict", family.key_type);
        ruleset.maps.insert(frontends(family), Map { kind, elements: BTreeMap::new() });
    }
    for (frontend, target) in plan {
        add_frontend(&mut ruleset, frontend, target);
    }
    base_chains(&mut ruleset, ranges);
    ruleset
}

fn frontends(family: Family) -> String {
    format!("{}-frontends", family.prefix)
}

/// Any number, but the same one always: a seed of the kernel's own would move clients whenever the rule is written.
const SEED: &str = "0x5e55";

fn add_frontend(ruleset: &mut Ruleset, frontend: &Frontend, Target { backends, choice }: &Target) {
    let (family, key) = match frontend {
        Frontend::Address(address, protocol, port) => {
            (ADDRESS, format!("{address} . {} . {port}", protocol.name()))
        }
        Frontend::NodePort(protocol, port) => (NODE_PORT, format!("{} . {port}", protocol.name())),
    };
    let Family { prefix, key_type, key: selector, before } = family;
    let (kind, number) = match choice {
        Choice::Random => ("pick", format!("numgen random mod {}", backends.len())),
        Choice::Client => ("hash", format!("jhash ip saddr mod {} seed {SEED}", backends.len())),
    };
    let pick = format!("{prefix}-{kind}-{}", backends.len());
    let frontends = ruleset.maps.entry(frontends(family)).or_default();
    frontends.elements.insert(key.clone(), format!("goto {pick}"));
    let slots: Vec<String> =
        (0..backends.len()).map(|slot| format!("{slot} : goto {prefix}-slot-{slot}")).collect();
    let draw = format!("{number} vmap {{ {} }}", slots.join(", "));
    ruleset.chains.entry(pick).or_insert_with(|| plain([draw]));
    for (slot, (address, port)) in backends.iter().enumerate() {
        let name = format!("{prefix}-slot-{slot}");
        let map = ruleset.maps.entry(name.clone()).or_default();
        map.kind = format!("{key_type} : ipv4_addr . inet_service");
        map.elements.insert(key.clone(), format!("{address} . {port}"));
        let translate = format!("{before}dnat ip to {selector} map @{name}");
        ruleset.chains.entry(name).or_insert_with(|| plain([translate]));
        if let Some(hairpin) = ruleset.maps.get_mut("hairpin") {
            hairpin.elements.insert(format!("{address} . {address}"), String::new());
        }
    }
}

fn plain(rules: impl IntoIterator<Item = String>) -> Chain {
    Chain { hook: String::new(), rules: rules.into_iter().map(Rule::new).collect() }
}

fn base_chains(ruleset: &mut Ruleset, ranges: &Ranges) {
    let Ranges { pods, services } = ranges;
    let mut base = |name: &str, hook: &str, rules: &[String]| {
        let chain = Chain { hook: hook.to_owned(), ..plain(rules.iter().cloned()) };
        ruleset.chains.insert(name.to_owned(), chain);
    };
    let find = [
        format!("{} vmap @{}", ADDRESS.key, frontends(ADDRESS)),
        format!(
            "fib daddr type local ip daddr != 127.0.0.0/8 {} vmap @{}",
            NODE_PORT.key,
            frontends(NODE_PORT)
        ),
    ];
    base("translate-in", "type nat hook prerouting priority -100;", &find);
    base("translate-out", "type nat hook output priority -100;", &find);
    // Before the connection is translated back, the original destination says whether it came through a service.
    let through_service = format!("ct status dnat ct original ip daddr {services}");
    base(
        "masquerade-out",
        "type nat hook postrouting priority 100;",
        &[
            // A node's own address is no answerable source for a pod's view of a service, nor is the pod itself.
            format!("{through_service} ip saddr != {pods} masquerade"),
            "ct status dnat ip saddr . ip daddr @hairpin masquerade".to_owned(),
            // Replies to a client outside must come back through the node that translated.
            format!(
                "ct status dnat ct mark and {NODE_PORT_MARK} == {NODE_PORT_MARK} ip saddr != {pods} masquerade"
            ),
            // Pods reach the outside under the node's address.
            format!(
                "ip saddr {pods} ip daddr != {pods} ip daddr != {services} fib daddr type != local masquerade"
            ),
        ],
    );
    let refuse = format!("ip daddr {services} fib daddr type != local reject");
    base("refuse-forwarded", "type filter hook forward priority 0;", std::slice::from_ref(&refuse));
    base("refuse-own", "type filter hook output priority 0;", &[refuse]);
}

/// The script that turns `have` into `want`; `None` when nothing differs. Without a table (`have` is `None`) it makes
/// everything. References exist before they are used, and go after: maps, chains, rules, elements; then the reverse.
pub fn difference(have: Option<&Ruleset>, want: &Ruleset) -> Option<String> {
    let empty = Ruleset::default();
    let mut script = String::new();
    if have.is_none() {
        line(&mut script, format_args!("add table ip {TABLE}"));
    }
    let have = have.unwrap_or(&empty);
    for (name, map) in want.maps.iter().filter(|(name, _)| !have.maps.contains_key(*name)) {
        let what = if map.kind.contains(" : ") { "map" } else { "set" };
        line(&mut script, format_args!("add {what} ip {TABLE} {name} {{ type {}; }}", map.kind));
    }
    for (name, chain) in want.chains.iter().filter(|(name, _)| !have.chains.contains_key(*name)) {
        let body = if chain.hook.is_empty() {
            String::new()
        } else {
            format!(" {{ {} policy accept; }}", chain.hook)
        };
        line(&mut script, format_args!("add chain ip {TABLE} {name}{body}"));
    }
    for (name, chain) in &want.chains {
        let old = have.chains.get(name);
        if old.is_some_and(|old| old.rules == chain.rules) {
            continue;
        }
        if old.is_some_and(|old| !old.rules.is_empty()) {
            line(&mut script, format_args!("flush chain ip {TABLE} {name}"));
        }
        for Rule { text, fingerprint } in &chain.rules {
            line(&mut script, format_args!("add rule ip {TABLE} {name} {text} comment \"{fingerprint}\""));
        }
    }
    elements(&mut script, have, want);
    for name in have.chains.keys().filter(|name| !want.chains.contains_key(*name)) {
        line(&mut script, format_args!("flush chain ip {TABLE} {name}\ndelete chain ip {TABLE} {name}"));
    }
    for name in have.maps.keys().filter(|name| !want.maps.contains_key(*name)) {
        line(&mut script, format_args!("delete map ip {TABLE} {name}"));
    }
    (!script.is_empty()).then_some(script)
}

/// Elements that go, then elements that come, one command a map. A changed value is both: nft refuses to overwrite.
fn elements(script: &mut String, have: &Ruleset, want: &Ruleset) {
    let none = Map::default();
    let names: BTreeSet<&String> = have.maps.keys().chain(want.maps.keys()).collect();
    let mut added = String::new();
    for name in names {
        let old = have.maps.get(name).unwrap_or(&none);
        let new = want.maps.get(name).unwrap_or(&none);
        let gone = old.elements.iter().filter(|(key, value)| new.elements.get(*key) != Some(value));
        let come = new.elements.iter().filter(|(key, value)| old.elements.get(*key) != Some(value));
        command(script, "delete", name, gone.map(|(key, _)| key.clone()));
        command(
            &mut added,
            "add",
            name,
            come.map(|(key, value)| match value.as_str() {
                "" => key.clone(),
                value => format!("{key} : {value}"),
            }),
        );
    }
    script.push_str(&added);
}

fn command(script: &mut String, verb: &str, map: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<String> = elements.collect();
    if !elements.is_empty() {
        line(script, format_args!("{verb} element ip {TABLE} {map} {{ {} }}", elements.join(", ")));
    }
}

fn line(script: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(script, "{arguments}").expect("a String takes every write");
}

/// A flow of datagrams to a backend that no longer is one. Its translation outlives the rules that made it for as long
/// as the client sends, so it must be forgotten. (A TCP client notices by itself, and may still be served.)
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stale {
    /// The service's address; `None` for a node port.
    pub address: Option<String>,
    /// The service's port, or the node's.
    pub port: String,
    /// The backend's address.
    pub backend: String,
    /// The backend's port.
    pub backend_port: String,
}

/// What datagrams may still be sent to after `have` became `want`.
pub fn stale(have: &Ruleset, want: &Ruleset) -> BTreeSet<Stale> {
    let now = datagrams(want);
    datagrams(have).into_iter().filter(|flow| !now.contains(flow)).collect()
}

/// Every UDP frontend with each of its backends, as the slots' maps say.
fn datagrams(ruleset: &Ruleset) -> BTreeSet<Stale> {
    let slots = ruleset.maps.iter().filter(|(name, _)| name.contains("-slot-"));
    slots.flat_map(|(_, map)| &map.elements).filter_map(|(key, value)| flow(key, value)).collect()
}

fn flow(key: &str, value: &str) -> Option<Stale> {
    let (backend, backend_port) = value.split_once(" . ")?;
    let (address, port) = match key.split(" . ").collect::<Vec<_>>()[..] {
        [address, "udp", port] => (Some(address.to_owned()), port),
        ["udp", port] => (None, port),
        _ => return None,
    };
    Some(Stale {
        address,
        port: port.to_owned(),
        backend: backend.to_owned(),
        backend_port: backend_port.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Protocol;
    use std::net::Ipv4Addr;

    fn ruleset(plan: impl IntoIterator<Item = (Frontend, Vec<u8>)>) -> Ruleset {
        let target = |pods: Vec<u8>| {
            let backends: Vec<_> = pods.iter().map(|pod| (Ipv4Addr::new(10, 42, 0, *pod), 5353)).collect();
            Target::from(backends)
        };
        let plan = plan.into_iter().map(|(frontend, pods)| (frontend, target(pods))).collect();
        build(&plan, &Ranges { pods: "10.42.0.0/16".to_owned(), services: "10.43.0.0/16".to_owned() })
    }

    #[test]
    fn only_datagrams_to_lost_backends_are_stale_whichever_slot_they_had() {
        let address = |protocol| Frontend::Address(Ipv4Addr::new(10, 43, 0, 9), protocol, 53);
        let [udp, tcp, node] =
            [address(Protocol::Udp), address(Protocol::Tcp), Frontend::NodePort(Protocol::Udp, 30053)];
        let have = ruleset([(udp, vec![1, 2, 3]), (tcp, vec![1, 2]), (node, vec![1])]);
        let want = ruleset([(udp, vec![2, 3])]);
        let lost = |address: Option<&str>, port: &str| Stale {
            address: address.map(str::to_owned),
            port: port.to_owned(),
            backend: "10.42.0.1".to_owned(),
            backend_port: "5353".to_owned(),
        };
        assert_eq!(
            stale(&have, &want).into_iter().collect::<Vec<_>>(),
            [lost(None, "30053"), lost(Some("10.43.0.9"), "53")]
        );
        assert!(stale(&want, &have).is_empty());
    }
}
