//! What one port of a Service needs: elements in shared maps, shared chains, and chains and sets of its own when it has
//! affinity or restricted sources.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use super::element::Family;
use super::{CLIENTS, Chain, Key, MapName, Ruleset, Value, fingerprint};
use crate::plan::{Access, Backend, Frontend, PortName, PortPlan, Ranges, Reach};

/// Tells connections through a node port or an external address apart when they leave; a bit of the connection's mark,
/// other bits are kept.
pub(super) const MARK: &str = "0x4000";

/// Where the chains hang that new connections meet.
pub(super) const PREROUTING: &str = "type nat hook prerouting priority -100;";
pub(super) const OUTPUT: &str = "type nat hook output priority -100;";
pub(super) const POSTROUTING: &str = "type nat hook postrouting priority 100;";
/// Where packets are refused.
pub(super) const FORWARD: &str = "type filter hook forward priority 0;";
pub(super) const OWN: &str = "type filter hook output priority 0;";

/// A map or chain that Services share: it is there as long as one needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// A map.
    Map(MapName),
    /// Translates to the backend in a slot.
    Slot(Family, u16),
    /// Draws one of N slots.
    Pick(Family, u16),
    /// The same after marking the connection.
    MarkedPick(Family, u16),
}

impl Shared {
    /// The chain's name and rules; a map has none.
    pub fn chain(self) -> Option<(String, Chain)> {
        let (name, rule) = match self {
            Self::Map(_) => return None,
            Self::Slot(family, slot) => {
                let map = MapName::Slot(family, slot);
                (map.to_string(), format!("dnat ip to {} map @{map}", family.key().1))
            }
            Self::Pick(family, count) => {
                let slots = (0..count).map(|slot| format!("{slot} : goto {}", MapName::Slot(family, slot)));
                let slots = slots.collect::<Vec<_>>().join(", ");
                (pick(family, count), format!("numgen random mod {count} vmap {{ {slots} }}"))
            }
            Self::MarkedPick(family, count) => {
                (marked(&pick(family, count)), mark_and_go(&pick(family, count)))
            }
        };
        Some((name, Chain::plain([rule])))
    }
}

fn pick(family: Family, count: u16) -> String {
    format!("{}-pick-{count}", family.prefix())
}

fn marked(chain: &str) -> String {
    format!("{chain}-marked")
}

fn mark_and_go(chain: &str) -> String {
    format!("ct mark set ct mark or {MARK} goto {chain}")
}

/// What one port needs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// Elements in shared maps.
    pub elements: BTreeMap<(MapName, Key), Value>,
    /// Shared maps and chains.
    pub shared: BTreeSet<Shared>,
    /// Chains of its own.
    pub chains: BTreeMap<String, Chain>,
    /// Sets of its own, with their types.
    pub sets: BTreeMap<String, String>,
}

/// Builds what a port needs.
pub fn fragment(name: &PortName, plan: &PortPlan) -> Fragment {
    let mut fragment = Fragment::default();
    let sticky = plan.affinity.map(|timeout| {
        let identity = fingerprint(&format!("{name} {}", name.protocol.name()));
        Sticky { identity, protocol: name.protocol.name(), timeout, all: &plan.cluster }
    });
    for (frontend, access) in &plan.frontends {
        fragment.add(name, plan, *frontend, access, sticky.as_ref());
    }
    fragment
}

/// A port that remembers its clients.
struct Sticky<'a> {
    identity: String,
    protocol: &'static str,
    timeout: Duration,
    all: &'a [Backend],
}

impl Sticky<'_> {
    fn set(&self, (address, port): &Backend) -> String {
        format!("{CLIENTS}{}-{address}-{port}", self.identity)
    }

    fn chain(&self, (address, port): &Backend) -> String {
        format!("stick-{}-{address}-{port}", self.identity)
    }
}

impl Fragment {
    fn add(
        &mut self,
        name: &PortName,
        plan: &PortPlan,
        frontend: Frontend,
        access: &Access,
        sticky: Option<&Sticky<'_>>,
    ) {
        let (key, inside, outside) = places(frontend);
        if access.reach == Reach::ClusterIp {
            match plan.backends(access) {
                // Elsewhere there are some: whoever asks here asks in vain, but the Service is not gone.
                [] if !plan.cluster.is_empty() => self.verdict(inside, key, Value::Drop),
                [] => {}
                backends => self.lead(inside, key, backends, false, sticky),
            }
            return;
        }
        if plan.cluster.is_empty() {
            if inside == Family::Service {
                self.elements.insert((MapName::Refused, key), Value::Nothing);
            }
            return;
        }
        self.lead(inside, key, &plan.cluster, true, sticky);
        match plan.local.as_slice() {
            _ if !access.local_only => {}
            [] => self.verdict(outside, key, Value::Drop),
            local => self.lead(outside, key, local, false, sticky),
        }
        if let (false, Frontend::Address(address, ..)) = (access.sources.is_empty(), frontend) {
            self.restrict(name, key, address, access);
        }
    }

    pub(super) fn verdict(&mut self, family: Family, key: Key, verdict: Value) {
        self.elements.insert((MapName::Frontends(family), key), verdict);
    }

    /// One of `backends` answers.
    fn lead(
        &mut self,
        family: Family,
        key: Key,
        backends: &[Backend],
        mark: bool,
        sticky: Option<&Sticky<'_>>,
    ) {
        self.hairpin(backends);
        let chain = match sticky {
            Some(sticky) => self.stick(sticky, backends, mark),
            None => self.draw(family, key, backends, mark),
        };
        self.verdict(family, key, Value::Goto(chain.into()));
    }

    /// These may meet themselves.
    pub(super) fn hairpin(&mut self, backends: &[Backend]) {
        for (address, _) in backends {
            self.elements.insert((MapName::Hairpin, Key::Pair(*address, *address)), Value::Nothing);
        }
    }

    /// A chain that draws one of `backends`, which are in the slots' maps.
    fn draw(&mut self, family: Family, key: Key, backends: &[Backend], mark: bool) -> String {
        // A Service has at most a few thousand endpoints; the rest of an absurd number gets no connections.
        let count = u16::try_from(backends.len()).unwrap_or(u16::MAX);
        for (slot, (address, port)) in (0..count).zip(backends) {
            self.shared.extend([Shared::Map(MapName::Slot(family, slot)), Shared::Slot(family, slot)]);
            self.elements.insert((MapName::Slot(family, slot), key), Value::Backend(*address, *port));
        }
        self.shared.insert(Shared::Pick(family, count));
        if mark {
            self.shared.insert(Shared::MarkedPick(family, count));
            return marked(&pick(family, count));
        }
        pick(family, count)
    }

    /// A chain that leads a client back to its backend, and draws one for a client that has none. What a client has is
    /// the same through every address of the port.
    fn stick(&mut self, sticky: &Sticky<'_>, backends: &[Backend], mark: bool) -> String {
        let Sticky { identity, protocol, timeout, all } = sticky;
        let suffix = if backends == *all { "" } else { "-local" };
        let name = format!("sticky-{identity}{suffix}");
        let mut rules = Vec::new();
        for backend in backends {
            let (set, chain) = (sticky.set(backend), sticky.chain(backend));
            rules.push(format!("ip saddr @{set} goto {chain}"));
            let (address, port) = backend;
            let remember = format!("update @{set} {{ ip saddr timeout {}s }}", timeout.as_secs());
            let translate = format!("meta l4proto {protocol} dnat ip to {address}:{port}");
            self.chains.insert(chain, Chain::plain([remember, translate]));
            self.sets.insert(set, "ipv4_addr; size 65536; flags dynamic,timeout".to_owned());
        }
        let slots = backends.iter().enumerate();
        let slots = slots.map(|(slot, backend)| format!("{slot} : goto {}", sticky.chain(backend)));
        let slots = slots.collect::<Vec<_>>().join(", ");
        rules.push(format!("numgen random mod {} vmap {{ {slots} }}", backends.len()));
        self.chains.insert(name.clone(), Chain::plain(rules));
        if mark {
            self.chains.insert(marked(&name), Chain::plain([mark_and_go(&name)]));
            return marked(&name);
        }
        name
    }

    /// Only some clients are answered at a load balancer's address.
    pub(super) fn restrict(&mut self, name: &PortName, key: Key, address: Ipv4Addr, access: &Access) {
        let identity = fingerprint(&format!("{name} {}", name.protocol.name()));
        let chain = format!("sources-{identity}-{address}");
        let allowed = access.sources.iter().map(|network| format!("ip saddr {network} return"));
        self.chains.insert(chain.clone(), Chain::plain(allowed.chain(["drop".to_owned()])));
        self.elements.insert((MapName::Restricted, key), Value::Jump(Arc::from(chain)));
    }
}

/// The key of a frontend, and the families of its maps: for who is inside, and for who is outside.
pub(super) fn places(frontend: Frontend) -> (Key, Family, Family) {
    match frontend {
        Frontend::Address(address, protocol, port) => {
            (Key::Address(address, protocol, port), Family::Service, Family::ServiceLocal)
        }
        Frontend::NodePort(protocol, port) => (Key::Node(protocol, port), Family::Node, Family::NodeLocal),
    }
}

/// What is there without any Service.
pub fn base(ranges: &Ranges) -> Ruleset {
    assemble([MapName::Hairpin, MapName::Refused, MapName::Restricted], chains(ranges))
}

/// Maps beside those of the frontends, and chains: their names, hooks and rules.
pub(super) fn assemble<'a>(
    maps: impl IntoIterator<Item = MapName>,
    chains: impl IntoIterator<Item = (&'a str, &'a str, Vec<String>)>,
) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for map in maps.into_iter().chain(Family::ALL.map(MapName::Frontends)) {
        ruleset.maps.insert(map.to_string(), super::Map { kind: map.kind(), elements: BTreeMap::new() });
    }
    for (name, hook, rules) in chains {
        let chain = Chain { hook: hook.to_owned(), ..Chain::plain(rules) };
        ruleset.chains.insert(name.to_owned(), chain);
    }
    ruleset
}

/// What new connections meet: those that come in, and the node's own.
pub(super) fn lookups(Ranges { pods, .. }: &Ranges) -> (Vec<String>, Vec<String>) {
    let key = Family::Service.key().1;
    let find = |family: Family, who: &str| {
        let (to, key) = match family {
            Family::Service | Family::ServiceLocal => ("", key),
            Family::Node | Family::NodeLocal => {
                ("fib daddr type local ip daddr != 127.0.0.0/8 ", Family::Node.key().1)
            }
        };
        format!("{who}{to}{key} vmap @{}", MapName::Frontends(family))
    };
    let restricted = format!("{key} vmap @{}", MapName::Restricted);
    let outside = format!("ip saddr != {pods} fib saddr type != local ");
    let own = vec![restricted.clone(), find(Family::Service, ""), find(Family::Node, "")];
    let incoming = vec![
        restricted,
        find(Family::ServiceLocal, &outside),
        find(Family::Service, ""),
        find(Family::NodeLocal, &outside),
        find(Family::Node, ""),
    ];
    (incoming, own)
}

/// Pods reach the outside under the node's address.
pub(super) fn leave(Ranges { pods, services }: &Ranges) -> String {
    format!("ip saddr {pods} ip daddr != {pods} ip daddr != {services} fib daddr type != local masquerade")
}

/// What is in the service range but not on this node.
pub(super) fn not_here(Ranges { services, .. }: &Ranges) -> String {
    format!("ip daddr {services} fib daddr type != local reject")
}

fn chains(ranges: &Ranges) -> [(&'static str, &'static str, Vec<String>); 5] {
    let Ranges { pods, services } = ranges;
    let (incoming, own) = lookups(ranges);
    // Before the connection is translated back, the original destination says whether it came through a service.
    let through_service = format!("ct status dnat ct original ip daddr {services}");
    let masquerade = vec![
        // A node's own address is no answerable source for a pod's view of a service, nor is the pod itself.
        format!("{through_service} ip saddr != {pods} masquerade"),
        format!("ct status dnat ip saddr . ip daddr @{} masquerade", MapName::Hairpin),
        // Replies to a client outside must come back through the node that translated.
        format!("ct status dnat ct mark and {MARK} == {MARK} ip saddr != {pods} masquerade"),
        leave(ranges),
    ];
    let refused = format!("{} @{} fib daddr type != local", Family::Service.key().1, MapName::Refused);
    let refuse = vec![
        not_here(ranges),
        // The kernel says less by ICMP to a client whose packets come the way that they would go.
        format!("meta l4proto tcp {refused} reject with tcp reset"),
        format!("{refused} reject"),
    ];
    [
        ("translate-in", PREROUTING, incoming),
        ("translate-out", OUTPUT, own),
        ("masquerade-out", POSTROUTING, masquerade),
        ("refuse-forwarded", FORWARD, refuse.clone()),
        ("refuse-own", OWN, refuse),
    ]
}
