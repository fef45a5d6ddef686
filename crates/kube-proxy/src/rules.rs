//! The plan as nftables rules, and the difference between two rule sets as a transaction. Pure: nothing is executed here.
//!
//! The cost of a packet does not depend on the number of services. One map leads from a service address to the chain
//! `pick-N` for its N backends; that chain draws a slot, and the map of slot K holds the K-th backend of every service
//! that has more than K. Chains are shared by all services; a service is only map elements. A Service with affinity is
//! the exception: it remembers its clients in one set for each backend, and has chains of its own that look there first.
//!
//! Whatever is sent to the service range and was not translated is refused: no service, no such port, or no backend.

mod build;
mod element;
mod ledger;
mod virtual_server;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::Ipv4Addr;

pub use build::{Fragment, Shared, base, fragment};
pub use element::{Key, MapName, Value};
pub use ledger::Ledger;

use crate::plan::{Plan, PortChange, PortName, PortPlan, Ranges};

/// Name of our table in the `ip` family.
pub const TABLE: &str = "skiff-proxy";

/// Sets that the kernel fills: clients and how long they stay with a backend. What is in them is not compared.
pub const CLIENTS: &str = "client-";

/// Who translates the addresses of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Translator {
    /// Maps of the packet filter.
    Maps,
    /// The kernel's virtual server; the packet filter does what that one cannot. The addresses are the node's own, which
    /// answer for more than Services.
    VirtualServer(BTreeSet<Ipv4Addr>),
}

impl Translator {
    /// What is there without any Service.
    pub fn base(&self, ranges: &Ranges) -> Ruleset {
        match self {
            Self::Maps => base(ranges),
            Self::VirtualServer(_) => virtual_server::base(ranges),
        }
    }

    /// What a port needs.
    pub fn fragment(&self, name: &PortName, plan: &PortPlan) -> Fragment {
        match self {
            Self::Maps => fragment(name, plan),
            Self::VirtualServer(own) => virtual_server::fragment(name, plan, own),
        }
    }
}

/// Sets that another translator does not need.
const SETS: [MapName; 3] = [MapName::Refused, MapName::Held, MapName::Served];

/// A rule set: what the kernel holds, or what it should.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Maps by name.
    pub maps: BTreeMap<String, Map>,
    /// Chains by name.
    pub chains: BTreeMap<String, Chain>,
}

/// A map or a set: its type and elements. The elements of a set have no values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Map {
    /// As nft writes it after `type`; empty when read back from the kernel, which is not compared.
    pub kind: String,
    /// Key -> value.
    pub elements: BTreeMap<Key, Value>,
}

/// A chain: its hook, if any, and its rules in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chain {
    /// `type nat hook prerouting priority -100;` or empty; empty when read back, which is not compared.
    pub hook: String,
    /// The rules. Read back from the kernel, only their [`fingerprint`]s.
    pub rules: Vec<Rule>,
}

impl Chain {
    fn plain(rules: impl IntoIterator<Item = String>) -> Self {
        Self { hook: String::new(), rules: rules.into_iter().map(Rule::new).collect() }
    }
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
    fn new(text: String) -> Self {
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

/// Builds the complete rule set of a plan.
pub fn build(plan: &Plan, ranges: &Ranges) -> Ruleset {
    let mut ledger = Ledger::new(Translator::Maps, ranges);
    for (name, port) in &plan.ports {
        let change = PortChange { old: None, new: Some(port.clone()) };
        ledger.apply(&[(name.clone(), change)].into());
    }
    ledger.ruleset()
}

/// A transaction: what is added first, then elements, then what nothing refers to any more. Each of the three is
/// atomic, and every state between them is a working one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Script that adds maps and chains and rewrites rules; may be empty.
    pub before: String,
    /// Elements that go, by map.
    pub gone: BTreeMap<String, Vec<Key>>,
    /// Elements that come, by map. A changed value is in both: the kernel refuses to overwrite.
    pub come: BTreeMap<String, Vec<(Key, Value)>>,
    /// Script that deletes chains and maps; may be empty.
    pub after: String,
}

impl Transaction {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn add_map(&mut self, name: &str, kind: &str) {
        let what = if kind.contains(" : ") { "map" } else { "set" };
        line(&mut self.before, format_args!("add {what} ip {TABLE} {name} {{ type {kind}; }}"));
    }

    fn add_chain(&mut self, name: &str, hook: &str) {
        let body = if hook.is_empty() { String::new() } else { format!(" {{ {hook} policy accept; }}") };
        line(&mut self.before, format_args!("add chain ip {TABLE} {name}{body}"));
    }

    fn rewrite(&mut self, name: &str, old: Option<&Chain>, chain: &Chain) {
        if old.is_some_and(|old| old.rules == chain.rules) {
            return;
        }
        if old.is_some_and(|old| !old.rules.is_empty()) {
            line(&mut self.before, format_args!("flush chain ip {TABLE} {name}"));
        }
        for Rule { text, fingerprint } in &chain.rules {
            line(
                &mut self.before,
                format_args!("add rule ip {TABLE} {name} {text} comment \"{fingerprint}\""),
            );
        }
    }

    /// Chains may refer to each other: all are emptied before the first is deleted.
    fn delete<'a>(&mut self, chains: &[&'a str], maps: impl Iterator<Item = &'a str>) {
        for verb in ["flush", "delete"] {
            for chain in chains {
                line(&mut self.after, format_args!("{verb} chain ip {TABLE} {chain}"));
            }
        }
        for map in maps {
            let is_set = map.starts_with(CLIENTS) || SETS.iter().any(|set| set.to_string() == map);
            let what = if is_set { "set" } else { "map" };
            line(&mut self.after, format_args!("delete {what} ip {TABLE} {map}"));
        }
    }

    fn element(&mut self, map: &str, key: Key, old: Option<Value>, new: Option<Value>) {
        if old == new {
            return;
        }
        if old.is_some() {
            self.gone.entry(map.to_owned()).or_default().push(key);
        }
        if let Some(new) = new {
            self.come.entry(map.to_owned()).or_default().push((key, new));
        }
    }
}

/// What turns `have` into `want`. Without a table (`have` is `None`) it makes everything. References exist before they
/// are used, and go after: maps, chains, rules, elements; then the reverse.
pub fn difference(have: Option<&Ruleset>, want: &Ruleset) -> Transaction {
    let (empty, none) = (Ruleset::default(), Map::default());
    let mut transaction = Transaction::default();
    if have.is_none() {
        line(&mut transaction.before, format_args!("add table ip {TABLE}"));
    }
    let have = have.unwrap_or(&empty);
    for (name, map) in want.maps.iter().filter(|(name, _)| !have.maps.contains_key(*name)) {
        transaction.add_map(name, &map.kind);
    }
    for (name, chain) in want.chains.iter().filter(|(name, _)| !have.chains.contains_key(*name)) {
        transaction.add_chain(name, &chain.hook);
    }
    for (name, chain) in &want.chains {
        transaction.rewrite(name, have.chains.get(name), chain);
    }
    for (name, map) in &want.maps {
        let old = &have.maps.get(name).unwrap_or(&none).elements;
        for (key, value) in old {
            transaction.element(name, *key, Some(value.clone()), map.elements.get(key).cloned());
        }
        for (key, value) in map.elements.iter().filter(|(key, _)| !old.contains_key(*key)) {
            transaction.element(name, *key, None, Some(value.clone()));
        }
    }
    // What goes takes its elements along, but a chain goes only when no element leads to it.
    for (name, map) in have.maps.iter().filter(|(name, _)| !want.maps.contains_key(*name)) {
        for (key, value) in &map.elements {
            transaction.element(name, *key, Some(value.clone()), None);
        }
    }
    let chains: Vec<&str> =
        have.chains.keys().filter(|name| !want.chains.contains_key(*name)).map(String::as_str).collect();
    let maps = have.maps.keys().filter(|name| !want.maps.contains_key(*name));
    transaction.delete(&chains, maps.map(String::as_str));
    transaction
}

fn line(script: &mut String, arguments: std::fmt::Arguments<'_>) {
    writeln!(script, "{arguments}").expect("a String takes every write");
}

#[cfg(test)]
mod tests;
