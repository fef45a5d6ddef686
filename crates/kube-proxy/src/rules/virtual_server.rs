//! What the packet filter does where the kernel's virtual server translates: whom an address answers, what leaves under
//! the node's address, and refusal. Upstream does this with sets of ipset and chains of iptables; here sets of nftables
//! are in the same table, and under the same names, as those of the mode that translates by itself, so that a change of
//! modes is a difference like any other.
//!
//! The node holds the addresses of Services, so that whatever is sent to them comes in. What is not served at them must
//! not reach processes of the node that listen on every address: it is refused.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use super::build::{self, FORWARD, MARK, OUTPUT, OWN, POSTROUTING, PREROUTING, places};
use super::element::Family;
use super::{Fragment, Key, MapName, Ruleset, Value};
use crate::plan::{Access, Frontend, PortName, PortPlan, Ranges, Reach};

/// Leaves a connection to the virtual server as it is.
const SERVED: &str = "serve";
/// The same, under the node's address unless it comes from a pod.
const MARKED: &str = "serve-marked";

/// Builds what a port needs. `own` are addresses that the node has anyway.
pub(super) fn fragment(name: &PortName, plan: &PortPlan, own: &BTreeSet<Ipv4Addr>) -> Fragment {
    let mut fragment = Fragment::default();
    for (frontend, access) in &plan.frontends {
        if let Frontend::Address(address, ..) = frontend
            && !own.contains(address)
        {
            fragment.elements.insert((MapName::Held, Key::Host(*address)), Value::Nothing);
        }
        fragment.serve(name, plan, *frontend, access);
    }
    fragment
}

impl Fragment {
    fn serve(&mut self, name: &PortName, plan: &PortPlan, frontend: Frontend, access: &Access) {
        let (key, inside, outside) = places(frontend);
        // Without any backend nothing is served, and so refused.
        if plan.cluster.is_empty() {
            return;
        }
        let here = if access.local_only { plan.local.as_slice() } else { &plan.cluster };
        if access.reach == Reach::ClusterIp && here.is_empty() {
            // Elsewhere there are some: whoever asks here asks in vain, but the Service is not gone.
            self.verdict(inside, key, Value::Drop);
        }
        if inside == Family::Service {
            self.elements.insert((MapName::Served, key), Value::Nothing);
        }
        self.hairpin(&plan.cluster);
        if access.reach == Reach::ClusterIp {
            return;
        }
        self.verdict(inside, key, Value::Goto(MARKED.into()));
        match here {
            _ if !access.local_only => {}
            [] => self.verdict(outside, key, Value::Drop),
            _ => self.verdict(outside, key, Value::Goto(SERVED.into())),
        }
        if let (false, Frontend::Address(address, ..)) = (access.sources.is_empty(), frontend) {
            self.restrict(name, key, address, access);
        }
    }
}

/// What is there without any Service.
pub(super) fn base(ranges: &Ranges) -> Ruleset {
    let Ranges { pods, services } = ranges;
    let (incoming, own) = build::lookups(ranges);
    let masquerade = vec![
        // The virtual server has translated already; the original destination says whether there was a service.
        format!("ct original ip daddr {services} ip daddr != {services} ip saddr != {pods} masquerade"),
        format!("ip saddr . ip daddr @{} masquerade", MapName::Hairpin),
        format!("ct mark and {MARK} == {MARK} ip saddr != {pods} masquerade"),
        build::leave(ranges),
    ];
    // Replies to the node's own connections come to such addresses, too: they are not new.
    let unserved = |protocols: &str| {
        format!(
            "ct state new meta l4proto {protocols} ip daddr @{} {} != @{}",
            MapName::Held,
            Family::Service.key().1,
            MapName::Served
        )
    };
    let refuse_here = vec![
        format!("{} reject with tcp reset", unserved("tcp")),
        format!("{} reject", unserved("{ udp, sctp }")),
    ];
    let refuse = vec![build::not_here(ranges)];
    let mark = format!("ct mark set ct mark or {MARK}");
    build::assemble(
        [MapName::Hairpin, MapName::Restricted, MapName::Held, MapName::Served],
        [
            (SERVED, "", Vec::new()),
            (MARKED, "", vec![mark]),
            ("translate-in", PREROUTING, incoming),
            ("translate-out", OUTPUT, own),
            ("masquerade-out", POSTROUTING, masquerade),
            ("refuse-here", "type filter hook input priority 0;", refuse_here),
            ("refuse-forwarded", FORWARD, refuse.clone()),
            ("refuse-own", OWN, refuse),
        ],
    )
}
