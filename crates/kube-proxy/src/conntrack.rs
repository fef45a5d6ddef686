//! Makes the kernel forget translations of datagrams that outlived their rules, by the `conntrack` program. (A TCP client
//! notices by itself, and may still be served.)

use std::collections::{BTreeMap, BTreeSet};

use host::process::{self, Command, LinuxRunner, ProcessError, Runner};

use crate::plan::{Backend, Changes, Frontend, Plan, PortPlan, Protocol};

/// What the program says when there was no such flow, which is as good.
const NONE: &str = "0 flow entries";
/// At most so much of the list of flows is read: some 400,000 of them.
const LIST_LIMIT: usize = 64 << 20;

/// A flow of datagrams that should find its way anew. Its translation, or that it has none, would otherwise outlive the
/// rules that made it for as long as the client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stale {
    /// Where the client sends.
    pub frontend: Frontend,
    /// Where that goes; `None` for wherever.
    pub backend: Option<Backend>,
}

/// What became stale by changes: flows to backends that are none any more, and all flows of what had no backends.
pub fn stale(changes: &Changes) -> BTreeSet<Stale> {
    let mut stale = BTreeSet::new();
    let none = PortPlan::default();
    for (_, change) in changes.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
        let (old, new) = (change.old.as_ref().unwrap_or(&none), change.new.as_ref().unwrap_or(&none));
        for frontend in old.frontends.keys() {
            let now = reachable(new, frontend);
            let lost = reachable(old, frontend).into_iter().filter(|backend| !now.contains(backend));
            stale.extend(lost.map(|backend| Stale { frontend: *frontend, backend: Some(backend) }));
        }
        for frontend in new.frontends.keys() {
            if reachable(old, frontend).is_empty() && !reachable(new, frontend).is_empty() {
                stale.insert(Stale { frontend: *frontend, backend: None });
            }
        }
    }
    stale
}

fn reachable(plan: &PortPlan, frontend: &Frontend) -> BTreeSet<Backend> {
    match plan.frontends.contains_key(frontend) {
        true => plan.cluster.iter().chain(&plan.local).copied().collect(),
        false => BTreeSet::new(),
    }
}

/// A flow as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where the client sends.
    pub to: Backend,
    /// Who answers; the same when nothing is translated.
    pub answered_by: Backend,
}

/// Flows in a listing of `conntrack -L -p udp`.
pub fn read(listing: &str) -> Vec<Flow> {
    let flow = |line: &str| {
        let value = |name: &'static str, place: usize| {
            line.split_whitespace().filter_map(|word| word.strip_prefix(name)).nth(place)
        };
        let (by, by_port) = (value("src=", 1)?, value("sport=", 1)?);
        Some(Flow {
            to: (value("dst=", 0)?.parse().ok()?, value("dport=", 0)?.parse().ok()?),
            answered_by: (by.parse().ok()?, by_port.parse().ok()?),
        })
    };
    listing.lines().filter_map(flow).collect()
}

/// Which flows a plan does not allow, after an absence: those of its frontends that go elsewhere than to a backend.
pub fn left_over(flows: &[Flow], plan: &Plan) -> BTreeSet<Stale> {
    let mut allowed: BTreeMap<Frontend, BTreeSet<Backend>> = BTreeMap::new();
    for (_, port) in plan.ports.iter().filter(|(name, _)| name.protocol == Protocol::Udp) {
        for frontend in port.frontends.keys() {
            allowed.entry(*frontend).or_default().extend(reachable(port, frontend));
        }
    }
    let mut stale = BTreeSet::new();
    for Flow { to: (address, port), answered_by } in flows {
        let frontends =
            [Frontend::Address(*address, Protocol::Udp, *port), Frontend::NodePort(Protocol::Udp, *port)];
        for frontend in frontends {
            if allowed.get(&frontend).is_some_and(|backends| !backends.contains(answered_by)) {
                stale.insert(Stale { frontend, backend: Some(*answered_by) });
            }
        }
    }
    stale
}

/// Lists the flows of datagrams that the kernel holds.
pub async fn list() -> Result<Vec<Flow>, ProcessError> {
    let command = Command { output_limit: LIST_LIMIT, ..Command::new("conntrack").args(["-L", "-p", "udp"]) };
    let output = LinuxRunner.run(&command).await?;
    Ok(read(&String::from_utf8_lossy(&output.stdout)))
}

/// Forgets all flows that are such.
pub async fn forget(flow: &Stale) -> Result<(), ProcessError> {
    let (address, port) = match flow.frontend {
        Frontend::Address(address, _, port) => (Some(address), port),
        Frontend::NodePort(_, port) => (None, port),
    };
    let mut arguments = ["-D", "-p", "udp", "--orig-port-dst"].map(str::to_owned).to_vec();
    arguments.push(port.to_string());
    let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
    if let Some(address) = address {
        option("--orig-dst", address.to_string());
    }
    if let Some((address, port)) = flow.backend {
        option("--reply-src", address.to_string());
        option("--reply-port-src", port.to_string());
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match process::run("conntrack", &arguments).await {
        Err(ProcessError::Failed { stderr, .. }) if stderr.contains(NONE) => Ok(()),
        outcome => outcome.map(drop),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Access, PortChange, PortName, Reach};
    use std::net::Ipv4Addr;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);

    fn pod(number: u8) -> Backend {
        (Ipv4Addr::new(10, 42, 0, number), 5353)
    }

    fn name(protocol: Protocol) -> PortName {
        PortName { namespace: "shop".to_owned(), service: "dns".to_owned(), port: String::new(), protocol }
    }

    fn port(protocol: Protocol, pods: &[u8]) -> PortPlan {
        let access = |reach| Access { reach, local_only: false, sources: Vec::new() };
        PortPlan {
            frontends: BTreeMap::from([
                (Frontend::Address(ADDRESS, protocol, 53), access(Reach::ClusterIp)),
                (Frontend::NodePort(protocol, 30053), access(Reach::External)),
            ]),
            cluster: pods.iter().map(|number| pod(*number)).collect(),
            ..PortPlan::default()
        }
    }

    #[test]
    fn only_datagrams_to_lost_backends_or_to_what_had_none_are_stale() {
        let of = |protocol, old: &[u8], new: &[u8]| {
            let (old, new) = (Some(port(protocol, old)), Some(port(protocol, new)));
            stale(&Changes::from([(name(protocol), PortChange { old, new })])).into_iter().collect::<Vec<_>>()
        };
        let both = |backend| {
            [Frontend::Address(ADDRESS, Protocol::Udp, 53), Frontend::NodePort(Protocol::Udp, 30053)]
                .map(|frontend| Stale { frontend, backend })
        };
        assert_eq!(of(Protocol::Udp, &[1, 2, 3], &[2, 3, 4]), both(Some(pod(1))));
        assert_eq!(of(Protocol::Udp, &[], &[1]), both(None));
        assert_eq!(of(Protocol::Udp, &[1], &[1, 2]), []);
        assert_eq!(of(Protocol::Tcp, &[1, 2], &[2]), []);
    }

    #[test]
    fn after_an_absence_the_kernels_own_list_says_what_is_left() {
        let listing = "\
udp      17 29 src=10.42.0.7 dst=10.43.0.9 sport=4000 dport=53 src=10.42.0.1 dst=10.42.0.7 sport=5353 dport=4000 [ASSURED] mark=0 use=1
udp      17 29 src=10.42.0.7 dst=10.43.0.9 sport=4001 dport=53 [UNREPLIED] src=10.42.0.2 dst=10.42.0.7 sport=5353 dport=4001 mark=0 use=1
udp      17 29 src=192.0.2.9 dst=192.0.2.1 sport=4000 dport=30053 [UNREPLIED] src=192.0.2.1 dst=192.0.2.9 sport=30053 dport=4000 mark=0 use=1
udp      17 29 src=192.0.2.9 dst=192.0.2.1 sport=4000 dport=123 src=192.0.2.1 dst=192.0.2.9 sport=123 dport=4000 mark=0 use=1
";
        let flows = read(listing);
        assert_eq!(flows.len(), 4);
        let ports = BTreeMap::from([(name(Protocol::Udp), port(Protocol::Udp, &[2]))]);
        let plan = Plan { ports, ..Plan::default() };
        let address = Frontend::Address(ADDRESS, Protocol::Udp, 53);
        let untranslated = (Ipv4Addr::new(192, 0, 2, 1), 30053);
        assert_eq!(
            left_over(&flows, &plan).into_iter().collect::<Vec<_>>(),
            [
                Stale { frontend: address, backend: Some(pod(1)) },
                Stale { frontend: Frontend::NodePort(Protocol::Udp, 30053), backend: Some(untranslated) },
            ]
        );
        assert!(left_over(&flows, &Plan::default()).is_empty());
    }
}
