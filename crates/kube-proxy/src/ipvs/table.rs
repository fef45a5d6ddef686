//! What the virtual server should have: a target for every frontend of every port, and what turns what it has into that.
//! Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use host::ipvs::{Change, Destination, Held, Scheduling, VirtualService};

use crate::plan::{Access, Backend, Changes, Frontend, PortName, PortPlan, Protocol, Reach};

/// The weight of a destination that takes new connections. Each takes as many as any other.
const WEIGHT: u32 = 1;

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// How a backend is chosen.
    pub scheduling: Scheduling,
    /// Among which.
    pub backends: BTreeSet<Backend>,
}

/// Targets by frontend. When two ports claim the same frontend (an external IP used twice) the first by name has it.
#[derive(Debug)]
pub struct Table {
    scheduler: String,
    claims: BTreeMap<Frontend, BTreeMap<PortName, Target>>,
}

impl Table {
    /// Without any Service.
    pub fn new(scheduler: String) -> Self {
        Self { scheduler, claims: BTreeMap::new() }
    }

    /// Takes changes in, and says which frontends they touch.
    pub fn take(&mut self, changes: &Changes) -> BTreeSet<Frontend> {
        let mut touched = BTreeSet::new();
        let none = PortPlan::default();
        for (name, change) in changes {
            let (old, new) = (change.old.as_ref().unwrap_or(&none), change.new.as_ref().unwrap_or(&none));
            for frontend in old.frontends.keys().filter(|frontend| !new.frontends.contains_key(*frontend)) {
                touched.insert(*frontend);
                if let Some(claims) = self.claims.get_mut(frontend) {
                    claims.remove(name);
                    if claims.is_empty() {
                        self.claims.remove(frontend);
                    }
                }
            }
            for (frontend, access) in &new.frontends {
                touched.insert(*frontend);
                let target = self.target_of(new, access);
                self.claims.entry(*frontend).or_default().insert(name.clone(), target);
            }
        }
        touched
    }

    fn target_of(&self, plan: &PortPlan, access: &Access) -> Target {
        let persistence = plan.affinity.map(|time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        // A virtual service is the same for everybody. Where only clients outside are bound to this node's backends, all
        // are as long as there are such; if there are none, the packet filter keeps those outside away from the others.
        let backends = match (plan.backends(access), access.reach) {
            ([], reach) if reach != Reach::ClusterIp => &plan.cluster,
            (backends, _) => backends,
        };
        Target {
            scheduling: Scheduling { scheduler: self.scheduler.clone(), persistence },
            backends: backends.iter().copied().collect(),
        }
    }

    fn target(&self, frontend: &Frontend) -> Option<&Target> {
        self.claims.get(frontend)?.values().next()
    }

    /// What a virtual service should be; `own` are the node's addresses, which have the node ports.
    pub fn wanted(&self, service: &VirtualService, own: &BTreeSet<Ipv4Addr>) -> Option<&Target> {
        let protocol = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
            .into_iter()
            .find(|protocol| protocol.number() == service.protocol)?;
        let node_port = || {
            let frontend = Frontend::NodePort(protocol, service.port);
            own.contains(&service.address).then(|| self.target(&frontend)).flatten()
        };
        self.target(&Frontend::Address(service.address, protocol, service.port)).or_else(node_port)
    }

    /// Whether an address is a Service's.
    pub fn has(&self, address: Ipv4Addr) -> bool {
        let first = Frontend::Address(address, Protocol::Tcp, 0);
        let last = Frontend::Address(address, Protocol::Sctp, u16::MAX);
        self.claims.range(first..=last).next().is_some()
    }

    /// All frontends.
    pub fn frontends(&self) -> BTreeSet<Frontend> {
        self.claims.keys().copied().collect()
    }
}

/// The virtual services that frontends are.
pub fn services(frontends: &BTreeSet<Frontend>, own: &BTreeSet<Ipv4Addr>) -> BTreeSet<VirtualService> {
    let mut services = BTreeSet::new();
    for frontend in frontends {
        match *frontend {
            Frontend::Address(address, protocol, port) => {
                services.insert(VirtualService { address, protocol: protocol.number(), port });
            }
            Frontend::NodePort(protocol, port) => {
                let at = |address: &Ipv4Addr| VirtualService {
                    address: *address,
                    protocol: protocol.number(),
                    port,
                };
                services.extend(own.iter().map(at));
            }
        }
    }
    services
}

/// What turns a virtual service into what it should be. Who comes is there before who goes.
pub fn difference(service: VirtualService, have: Option<&Held>, want: Option<&Target>) -> Vec<Change> {
    let (have, want) = match (have, want) {
        (None, None) => return Vec::new(),
        (Some(_), None) => return vec![Change::RemoveService(service)],
        (have, Some(want)) => (have, want),
    };
    let mut changes = Vec::new();
    match have {
        None => changes.push(Change::AddService(service, want.scheduling.clone())),
        Some(have) if have.scheduling != want.scheduling => {
            changes.push(Change::SetService(service, want.scheduling.clone()));
        }
        Some(_) => {}
    }
    let none = BTreeMap::new();
    let destinations = have.map_or(&none, |have| &have.destinations);
    for backend in &want.backends {
        match destinations.get(backend) {
            None => changes.push(Change::AddDestination(service, *backend, WEIGHT)),
            Some(load) if load.weight != WEIGHT => {
                changes.push(Change::SetDestination(service, *backend, WEIGHT));
            }
            Some(_) => {}
        }
    }
    for (destination, load) in destinations.iter().filter(|(to, _)| !want.backends.contains(*to)) {
        // Its connections may come to their end; new ones go elsewhere. Datagrams have no end.
        let ending = service.protocol != Protocol::Udp.number() && load.connections > 0;
        match (ending, load.weight) {
            (false, _) => changes.push(Change::RemoveDestination(service, *destination)),
            (true, 0) => {}
            (true, _) => changes.push(Change::SetDestination(service, *destination, 0)),
        }
    }
    changes
}

/// Whether some of what a virtual service has is to go, so that its connections count.
pub fn loses(have: &Held, want: Option<&Target>) -> bool {
    let kept = |destination: &Destination| want.is_some_and(|want| want.backends.contains(destination));
    have.destinations.keys().any(|destination| !kept(destination))
}

/// Changes as they are in what is believed that the kernel has.
pub fn record(held: &mut host::ipvs::Services, changes: &[Change]) {
    for change in changes {
        match change {
            Change::AddService(service, scheduling) => {
                let empty = Held { scheduling: scheduling.clone(), destinations: BTreeMap::new() };
                held.insert(*service, empty);
            }
            Change::SetService(service, scheduling) => {
                if let Some(held) = held.get_mut(service) {
                    held.scheduling = scheduling.clone();
                }
            }
            Change::RemoveService(service) => drop(held.remove(service)),
            Change::AddDestination(service, to, weight) | Change::SetDestination(service, to, weight) => {
                if let Some(held) = held.get_mut(service) {
                    held.destinations.entry(*to).or_default().weight = *weight;
                }
            }
            Change::RemoveDestination(service, to) => {
                if let Some(held) = held.get_mut(service) {
                    held.destinations.remove(to);
                }
            }
        }
    }
}
