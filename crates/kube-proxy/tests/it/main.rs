//! The rules on a real kernel, with real packets, in a network namespace without a way out, in every mode of the proxy.
//! Needs root, nft and iptables; without them the tests say loudly that they were skipped, unless
//! SKIFF_REQUIRE_CONTAINERD demands the real parts. The mode `ipvs` needs a kernel that has IPVS, which `make vm-test`
//! boots; SKIFF_REQUIRE_IPVS demands it.

/// A scenario in every mode: tests of their own, so that a kernel that lacks a mode says of which it did.
macro_rules! every_mode {
    ($scenario:ident) => {
        mod $scenario {
            #[test]
            fn nftables() {
                crate::isolated_in(kube_proxy::ProxyMode::Nftables, super::$scenario);
            }

            #[test]
            fn iptables() {
                crate::isolated_in(kube_proxy::ProxyMode::Iptables, super::$scenario);
            }

            #[test]
            fn ipvs() {
                crate::isolated_in(kube_proxy::ProxyMode::Ipvs, super::$scenario);
            }
        }
    };
}

mod health;
mod ipvs;
mod packets;
mod pods;
mod policies;
mod process;
mod scale;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

use host::ipvs::{Ipvs as _, IpvsError, Kernel};
use host::network::{self, Held};
use host::nft::NftProgram;
use kube_proxy::ProxyMode;
use kube_proxy::apply::Mode;
use kube_proxy::conntrack;
use kube_proxy::iptables::Iptables;
use kube_proxy::ipvs::{Ipvs, Settings};
use kube_proxy::nftables::Nftables;
use kube_proxy::plan::{
    Access, Backend, Changes, Frontend, Plan, PortChange, PortName, PortPlan, Protocol, Ranges, Reach,
};
use tokio_util::task::TaskTracker;

/// Runs a scenario on this thread, which has moved into a namespace of its own with the ranges held.
fn isolated_in(mode: ProxyMode, scenario: impl AsyncFn(World)) {
    if let Err(error) = network::isolate() {
        assert!(
            std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(),
            "cannot make a network namespace: {error}"
        );
        eprintln!("SKIPPED: cannot make a network namespace ({error}); run as root to test the packet rules");
        return;
    }
    eprintln!("mode: {mode:?}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let held = Held {
            pods: "10.42.0.0/16".to_owned(),
            services: "10.43.0.0/16".to_owned(),
            local: vec![Ipv4Addr::new(10, 43, 0, 10)],
        };
        network::hold(&held).await.unwrap();
        network::hold(&held).await.expect("holding twice is holding");
        if mode == ProxyMode::Ipvs && !has_ipvs().await {
            return;
        }
        scenario(World::new(mode)).await;
    });
}

/// Whether the kernel can do it. A test that cannot run says so, unless the environment demands that it runs.
async fn has_ipvs() -> bool {
    match Kernel::new(TaskTracker::new()).prepare(false).await {
        Ok(()) => true,
        Err(error @ IpvsError::Absent { .. }) => {
            assert!(std::env::var_os("SKIFF_REQUIRE_IPVS").is_none(), "{error}");
            eprintln!("SKIPPED: {error}; `make vm-test` runs this on a kernel that has it");
            false
        }
        Err(error) => panic!("{error}"),
    }
}

fn ranges() -> Ranges {
    Ranges { pods: "10.42.0.0/16".to_owned(), services: "10.43.0.0/16".to_owned() }
}

struct World {
    kind: ProxyMode,
    nft: Arc<NftProgram>,
    mode: Box<dyn Mode>,
    plan: Plan,
}

impl World {
    fn new(kind: ProxyMode) -> Self {
        let nft = Arc::new(NftProgram::new(TaskTracker::new()));
        let mode: Box<dyn Mode> = match kind {
            ProxyMode::Nftables => Box::new(Nftables::new(nft.clone(), &ranges())),
            ProxyMode::Iptables => Box::new(Iptables::new(nft.clone(), ranges())),
            ProxyMode::Ipvs => {
                let kernel = Arc::new(Kernel::new(TaskTracker::new()));
                let settings = Settings::default();
                Box::new(Ipvs::new(kernel, nft.clone(), TaskTracker::new(), ranges(), settings))
            }
        };
        Self { kind, nft, mode, plan: Plan::default() }
    }

    async fn apply(&mut self, plan: &Plan) {
        let changes = changes(&self.plan, plan);
        self.mode.reconcile(plan, &changes).await.unwrap();
        self.plan = plan.clone();
        for flow in conntrack::stale(&changes) {
            conntrack::forget(&flow).await.unwrap();
        }
    }
}

fn changes(old: &Plan, new: &Plan) -> Changes {
    let names: BTreeSet<&PortName> = old.ports.keys().chain(new.ports.keys()).collect();
    let change =
        |name: &PortName| PortChange { old: old.ports.get(name).cloned(), new: new.ports.get(name).cloned() };
    let changes = names.into_iter().map(|name| (name.clone(), change(name)));
    changes.filter(|(_, change)| change.old != change.new).collect()
}

/// A port with one frontend, which backends anywhere answer. An address outside of the service range is a load
/// balancer's.
fn port(frontend: Frontend, backends: impl Into<Vec<Backend>>) -> PortPlan {
    let reach = match frontend {
        Frontend::Address(address, ..) if address.octets()[..2] == [10, 43] => Reach::ClusterIp,
        Frontend::Address(..) => Reach::LoadBalancer,
        Frontend::NodePort(..) => Reach::External,
    };
    let access = Access { reach, local_only: false, sources: Vec::new() };
    PortPlan {
        frontends: BTreeMap::from([(frontend, access)]),
        cluster: backends.into(),
        ..PortPlan::default()
    }
}

/// Services with a port each, named after their first addresses.
fn plan(ports: impl IntoIterator<Item = PortPlan>) -> Plan {
    let named = |port: PortPlan| {
        let (frontend, _) = port.frontends.first_key_value().expect("a port has an address");
        let (protocol, service) = match frontend {
            Frontend::Address(address, protocol, port) => (*protocol, format!("{address}-{port}")),
            Frontend::NodePort(protocol, port) => (*protocol, format!("node-{port}")),
        };
        let name = PortName { namespace: "shop".to_owned(), service, port: String::new(), protocol };
        (name, port)
    };
    Plan { ports: ports.into_iter().map(named).collect(), ..Plan::default() }
}

/// `count` backends on addresses of the pod range.
fn service(last: u8, count: u8) -> PortPlan {
    let frontend = Frontend::Address(Ipv4Addr::new(10, 43, 0, last), Protocol::Tcp, 80);
    let backends: Vec<_> = (1..=count).map(|pod| (Ipv4Addr::new(10, 42, 0, pod), 8080)).collect();
    port(frontend, backends)
}
