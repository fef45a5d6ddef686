//! The plan as nftables rules, and the difference between two rule sets as a script. Pure: nothing is executed here.
//!
//! The cost of a packet does not depend on the number of services. One map leads from a service address to the chain
//! `pick-N` for its N backends; that chain draws a slot, and the map of slot K holds the K-th backend of every service
//! that has more than K. Chains are shared by all services; a service is only map elements.
//!
//! Whatever is sent to the service range and was not translated is refused: no service, no such port, or no backend.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use crate::plan::{Frontend, Plan, Ranges};

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
    for (frontend, backends) in plan {
        add_frontend(&mut ruleset, frontend, backends);
    }
    base_chains(&mut ruleset, ranges);
    ruleset
}

fn frontends(family: Family) -> String {
    format!("{}-frontends", family.prefix)
}

fn add_frontend(ruleset: &mut Ruleset, frontend: &Frontend, backends: &[(std::net::Ipv4Addr, u16)]) {
    let (family, key) = match frontend {
        Frontend::Address(address, protocol, port) => {
            (ADDRESS, format!("{address} . {} . {port}", protocol.name()))
        }
        Frontend::NodePort(protocol, port) => (NODE_PORT, format!("{} . {port}", protocol.name())),
    };
    let Family { prefix, key_type, key: selector, before } = family;
    let pick = format!("{prefix}-pick-{}", backends.len());
    let frontends = ruleset.maps.entry(frontends(family)).or_default();
    frontends.elements.insert(key.clone(), format!("goto {pick}"));
    let slots: Vec<String> =
        (0..backends.len()).map(|slot| format!("{slot} : goto {prefix}-slot-{slot}")).collect();
    let draw = format!("numgen random mod {} vmap {{ {} }}", backends.len(), slots.join(", "));
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
