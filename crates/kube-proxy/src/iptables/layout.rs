//! What one port of a Service is in upstream's layout, and what is there without any. Chains whose names begin with
//! SKIFF are our own: what this proxy owes its node beyond upstream's (pods leave under the node's address, and nothing
//! leaves untranslated).

use std::collections::BTreeMap;

use super::{Chains, names};
use crate::plan::{Access, Backend, Frontend, PortName, PortPlan, Ranges, Reach};

/// A table of iptables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// What is let through.
    Filter,
    /// What is translated.
    Nat,
}

impl Table {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// A chain to which every Service adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shared {
    /// Addresses that lead to backends.
    Services,
    /// Node ports that lead to backends.
    NodePorts,
    /// Cluster IPs without backends.
    Refused,
    /// Other addresses without backends, or without any here.
    ExternalRefused,
    /// Load balancers' addresses for those whom they do not answer.
    Firewall,
}

impl Shared {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Services, Self::NodePorts, Self::Refused, Self::ExternalRefused, Self::Firewall];

    /// The chain.
    pub fn chain(self) -> (Table, &'static str) {
        match self {
            Self::Services => (Table::Nat, "KUBE-SERVICES"),
            Self::NodePorts => (Table::Nat, "KUBE-NODEPORTS"),
            Self::Refused => (Table::Filter, "KUBE-SERVICES"),
            Self::ExternalRefused => (Table::Filter, "KUBE-EXTERNAL-SERVICES"),
            Self::Firewall => (Table::Filter, "KUBE-PROXY-FIREWALL"),
        }
    }

    /// A rule behind all others.
    pub fn last(self) -> Option<&'static str> {
        (self == Self::Services).then_some(
            "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\" \
             -m addrtype --dst-type LOCAL ! -d 127.0.0.0/8 -j KUBE-NODEPORTS",
        )
    }
}

/// Chains that others own although their names begin as ours do (the kubelet's).
pub fn others(name: &str) -> bool {
    ["KUBE-KUBELET-CANARY", "KUBE-FIREWALL", "KUBE-IPTABLES-HINT", "KUBE-MARK-DROP"].contains(&name)
}

const MARK: &str = "0x4000";

/// What is jumped to from the kernel's own chains: table, chain, target, matches.
pub fn jumps() -> [(Table, &'static str, &'static str, &'static str); 14] {
    const PORTALS: &str = "-m comment --comment \"kubernetes service portals\"";
    const NEW: &str = "-m conntrack --ctstate NEW -m comment --comment \"kubernetes service portals\"";
    const EXTERNAL: &str =
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes externally-visible service portals\"";
    const FIREWALL: &str =
        "-m conntrack --ctstate NEW -m comment --comment \"kubernetes load balancer firewall\"";
    [
        (Table::Nat, "PREROUTING", "KUBE-SERVICES", PORTALS),
        (Table::Nat, "OUTPUT", "KUBE-SERVICES", PORTALS),
        (Table::Nat, "POSTROUTING", "SKIFF-POSTROUTING", ""),
        (
            Table::Nat,
            "POSTROUTING",
            "KUBE-POSTROUTING",
            "-m comment --comment \"kubernetes postrouting rules\"",
        ),
        (Table::Filter, "FORWARD", "SKIFF-REFUSE", ""),
        (Table::Filter, "OUTPUT", "SKIFF-REFUSE", ""),
        (Table::Filter, "FORWARD", "KUBE-FORWARD", "-m comment --comment \"kubernetes forwarding rules\""),
        (Table::Filter, "FORWARD", "KUBE-SERVICES", NEW),
        (Table::Filter, "OUTPUT", "KUBE-SERVICES", NEW),
        (Table::Filter, "INPUT", "KUBE-EXTERNAL-SERVICES", EXTERNAL),
        (Table::Filter, "FORWARD", "KUBE-EXTERNAL-SERVICES", EXTERNAL),
        (Table::Filter, "INPUT", "KUBE-PROXY-FIREWALL", FIREWALL),
        (Table::Filter, "OUTPUT", "KUBE-PROXY-FIREWALL", FIREWALL),
        (Table::Filter, "FORWARD", "KUBE-PROXY-FIREWALL", FIREWALL),
    ]
}

/// Chains that do not depend on Services.
pub fn fixed(Ranges { pods, services }: &Ranges) -> Chains {
    let chain = |table, name: &str, rules: &[String]| ((table, name.to_owned()), rules.to_vec());
    Chains::from([
        chain(Table::Nat, "KUBE-MARK-MASQ", &[format!("-j MARK --or-mark {MARK}")]),
        chain(
            Table::Nat,
            "KUBE-POSTROUTING",
            &[
                format!("-m mark ! --mark {MARK}/{MARK} -j RETURN"),
                // Once is enough: a packet may pass again, encapsulated.
                format!("-j MARK --xor-mark {MARK}"),
                "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE --random-fully"
                    .to_owned(),
            ],
        ),
        chain(
            Table::Nat,
            "SKIFF-POSTROUTING",
            &[
                format!("! -s {pods} -j RETURN"),
                format!("-d {pods} -j RETURN"),
                format!("-d {services} -j RETURN"),
                "-m addrtype ! --dst-type LOCAL -j MASQUERADE".to_owned(),
            ],
        ),
        chain(
            Table::Filter,
            "SKIFF-REFUSE",
            &[format!("-d {services} -m addrtype ! --dst-type LOCAL -j REJECT")],
        ),
        chain(
            Table::Filter,
            "KUBE-FORWARD",
            &[
                "-m conntrack --ctstate INVALID -j DROP".to_owned(),
                format!(
                    "-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {MARK}/{MARK} -j ACCEPT"
                ),
                "-m comment --comment \"kubernetes forwarding conntrack rule\" \
                 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
                    .to_owned(),
            ],
        ),
    ])
}

/// One port's chains, and what it adds to shared ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Chains of the nat table that only this port has.
    pub own: BTreeMap<String, Vec<String>>,
    /// Rules in shared chains.
    pub shared: BTreeMap<Shared, Vec<String>>,
}

/// Builds one port.
pub fn part(name: &PortName, plan: &PortPlan, ranges: &Ranges) -> Part {
    let mut builder = Builder { name, plan, part: Part::default() };
    let external = plan.frontends.values().find(|access| access.reach != Reach::ClusterIp);
    builder.backends(external, ranges);
    for (frontend, access) in &plan.frontends {
        builder.frontend(*frontend, access);
    }
    builder.part
}

struct Builder<'a> {
    name: &'a PortName,
    plan: &'a PortPlan,
    part: Part,
}

impl Builder<'_> {
    fn chain(&self, prefix: &str) -> String {
        names::port(prefix, self.name)
    }

    fn share(&mut self, shared: Shared, rule: String) {
        self.part.shared.entry(shared).or_default().push(rule);
    }

    /// The chains that choose among backends, for those who reach all of them, those who reach this node's, and those
    /// outside.
    fn backends(&mut self, external: Option<&Access>, ranges: &Ranges) {
        let (cluster, local) = (self.chain("KUBE-SVC-"), self.chain("KUBE-SVL-"));
        let internal_local = self.plan.frontends.values().any(|access| self.stays(access));
        if !self.plan.cluster.is_empty() {
            let first = self.masquerade_outside(ranges);
            self.choose(cluster.clone(), first, &self.plan.cluster);
        }
        let external_local = external.is_some_and(|access| access.local_only);
        if (external_local || internal_local) && !self.plan.local.is_empty() {
            let first = if internal_local { self.masquerade_outside(ranges) } else { Vec::new() };
            self.choose(local.clone(), first, &self.plan.local);
        }
        if external.is_none() || self.plan.cluster.is_empty() {
            return;
        }
        let (name, Ranges { pods, .. }) = (self.name, ranges);
        let comment =
            |what: &str| format!("-m comment --comment \"{what} for {name} external destinations\"");
        let rules = match external_local {
            false => {
                vec![format!("{} -j KUBE-MARK-MASQ", comment("masquerade traffic")), format!("-j {cluster}")]
            }
            true => {
                let mut rules = vec![
                    format!("-s {pods} {} -j {cluster}", comment("pod traffic")),
                    format!(
                        "{} -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
                        comment("masquerade LOCAL traffic")
                    ),
                    format!("{} -m addrtype --src-type LOCAL -j {cluster}", comment("route LOCAL traffic")),
                ];
                rules.extend((!self.plan.local.is_empty()).then(|| format!("-j {local}")));
                rules
            }
        };
        self.part.own.insert(self.chain("KUBE-EXT-"), rules);
    }

    /// A cluster IP that leads to this node's backends only.
    fn stays(&self, access: &Access) -> bool {
        access.reach == Reach::ClusterIp && access.local_only
    }

    /// Who is no pod reaches a cluster IP under the node's address, so that replies come back.
    fn masquerade_outside(&self, Ranges { pods, .. }: &Ranges) -> Vec<String> {
        let cluster = self.plan.frontends.iter().filter(|(_, access)| access.reach == Reach::ClusterIp);
        cluster
            .map(|(frontend, _)| {
                let comment = self.comment("cluster IP");
                format!("{comment} {} ! -s {pods} -j KUBE-MARK-MASQ", to(*frontend))
            })
            .collect()
    }

    fn comment(&self, what: &str) -> String {
        comment(self.name, what)
    }

    /// A chain that draws one of `backends`; a client that has one goes back to it.
    fn choose(&mut self, chain: String, first: Vec<String>, backends: &[Backend]) {
        let mut rules = first;
        let name = self.name;
        let comment = |(address, port): &Backend| comment(name, &format!("-> {address}:{port}"));
        if let Some(affinity) = self.plan.affinity {
            rules.extend(backends.iter().map(|backend| {
                let (comment, to) = (comment(backend), names::endpoint(self.name, backend));
                let seconds = affinity.as_secs();
                format!("{comment} -m recent --name {to} --rcheck --seconds {seconds} --reap -j {to}")
            }));
        }
        for (place, backend) in backends.iter().enumerate() {
            let (comment, to) = (comment(backend), names::endpoint(self.name, backend));
            let left = backends.len() - place;
            let chance = match left {
                1 => String::new(),
                _ => format!("-m statistic --mode random --probability {:0.10} ", 1.0 / left as f64),
            };
            rules.push(format!("{comment} {chance}-j {to}"));
            self.part.own.insert(to, self.endpoint(backend));
        }
        self.part.own.insert(chain, rules);
    }

    fn endpoint(&self, backend: &Backend) -> Vec<String> {
        let ((address, port), protocol) = (backend, self.name.protocol.name());
        let comment = format!("-m comment --comment {}", self.name);
        let remember = match self.plan.affinity {
            Some(_) => format!("-m recent --name {} --set ", names::endpoint(self.name, backend)),
            None => String::new(),
        };
        vec![
            // A pod that meets itself must not see its own address.
            format!("{comment} -s {address} -j KUBE-MARK-MASQ"),
            format!(
                "{comment} {remember}-p {protocol} -m {protocol} -j DNAT --to-destination {address}:{port}"
            ),
        ]
    }

    fn frontend(&mut self, frontend: Frontend, access: &Access) {
        let what = match (access.reach, frontend) {
            (Reach::ClusterIp, _) => "cluster IP",
            (Reach::LoadBalancer, _) => "loadbalancer IP",
            (Reach::External, Frontend::Address(..)) => "external IP",
            (Reach::External, Frontend::NodePort(..)) => "node port",
        };
        let (comment, to, outside) = (self.comment(what), to(frontend), access.reach != Reach::ClusterIp);
        let refused = if outside { Shared::ExternalRefused } else { Shared::Refused };
        let place = match frontend {
            Frontend::Address(..) => "",
            Frontend::NodePort(..) => "-m addrtype --dst-type LOCAL ",
        };
        if self.plan.cluster.is_empty() {
            let comment = self.comment("has no endpoints");
            self.share(refused, format!("{comment} {place}{to} -j REJECT"));
            return;
        }
        if access.local_only && self.plan.local.is_empty() {
            let comment = self.comment("has no local endpoints");
            self.share(refused, format!("{comment} {place}{to} -j DROP"));
            if !outside {
                return;
            }
        }
        let target = match (outside, access.local_only) {
            (false, false) => self.chain("KUBE-SVC-"),
            (false, true) => self.chain("KUBE-SVL-"),
            (true, _) if access.sources.is_empty() => self.chain("KUBE-EXT-"),
            (true, _) => self.restrict(&to, access),
        };
        match frontend {
            Frontend::Address(..) => self.share(Shared::Services, format!("{comment} {to} -j {target}")),
            Frontend::NodePort(..) => {
                let comment = format!("-m comment --comment {}", self.name);
                self.share(Shared::NodePorts, format!("{comment} {to} -j {target}"));
            }
        }
    }

    /// Whom a load balancer's address does not answer passes untranslated, and is dropped.
    fn restrict(&mut self, to: &str, access: &Access) -> String {
        let (chain, external) = (self.chain("KUBE-FW-"), self.chain("KUBE-EXT-"));
        let comment = self.comment("loadbalancer IP");
        let rules = access.sources.iter().map(|network| format!("{comment} -s {network} -j {external}"));
        self.part.own.insert(chain.clone(), rules.collect());
        let comment = format!("-m comment --comment \"{} traffic not accepted by {chain}\"", self.name);
        self.share(Shared::Firewall, format!("{comment} {to} -j DROP"));
        chain
    }
}

fn comment(name: &PortName, what: &str) -> String {
    format!("-m comment --comment \"{name} {what}\"")
}

fn to(frontend: Frontend) -> String {
    match frontend {
        Frontend::Address(address, protocol, port) => {
            let protocol = protocol.name();
            format!("-p {protocol} -m {protocol} -d {address}/32 --dport {port}")
        }
        Frontend::NodePort(protocol, port) => {
            let protocol = protocol.name();
            format!("-p {protocol} -m {protocol} --dport {port}")
        }
    }
}
