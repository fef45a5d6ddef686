//! The mode on a virtual server in memory: what it is brought to, by which changes, and what is left alone.

use std::collections::BTreeMap;
use std::sync::Mutex;

use host::ipvs::{Held, Load, Scheduling};
use host::nft::NftError;
use host::nft::netlink::ElementChange;
use k8s_openapi::serde_json::Value;

use super::fake::Fake;
use super::*;
use crate::plan::{Access, Backend, PortName, PortPlan, Protocol, Reach};

/// A packet filter that takes everything, and remembers scripts.
#[derive(Default)]
struct AnyFilter(Mutex<Vec<String>>);

#[async_trait]
impl Nft for AnyFilter {
    async fn apply(&self, script: &str) -> Result<(), NftError> {
        self.0.lock().expect("no test panics with it").push(script.to_owned());
        Ok(())
    }

    async fn change(&self, _table: &str, _changes: Vec<ElementChange>) -> Result<(), NftError> {
        Ok(())
    }

    async fn list(&self, _table: &str) -> Result<Option<Value>, NftError> {
        Ok(None)
    }

    fn monitor(&self, _tables: &[&str]) -> Result<mpsc::Receiver<()>, NftError> {
        Ok(mpsc::channel(1).1)
    }
}

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

struct World {
    kernel: Arc<Fake>,
    mode: Ipvs,
    plan: Plan,
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let kernel = Arc::new(Fake::default());
        kernel.with(|state| state.addresses.own = BTreeSet::from([NODE]));
        let ranges = Ranges { pods: "10.42.0.0/16".to_owned(), services: "10.43.0.0/16".to_owned() };
        let mode =
            Ipvs::new(kernel.clone(), Arc::new(AnyFilter::default()), TaskTracker::new(), ranges, settings);
        Self { kernel, mode, plan: Plan::default() }
    }

    /// Brings one port to a plan, and says which changes that took.
    async fn apply(&mut self, service: &str, port: Option<PortPlan>) -> Vec<Change> {
        let name = PortName {
            namespace: "shop".to_owned(),
            service: service.to_owned(),
            port: String::new(),
            protocol: Protocol::Tcp,
        };
        let old = self.plan.ports.remove(&name);
        self.plan.ports.extend(port.clone().map(|port| (name.clone(), port)));
        self.kernel.with(|state| state.changes.clear());
        let changes = Changes::from([(name, PortChange { old, new: port })]);
        self.mode.reconcile(&self.plan, &changes).await.expect("the fake takes it");
        self.kernel.with(|state| std::mem::take(&mut state.changes))
    }

    async fn look_again(&mut self) -> Vec<Change> {
        self.mode.doubt();
        self.mode.reconcile(&self.plan, &Changes::new()).await.expect("the fake takes it");
        self.kernel.with(|state| std::mem::take(&mut state.changes))
    }

    fn connections(&self, service: VirtualService, pod: u8, connections: u32) {
        self.kernel.with(|state| {
            let held = state.services.get_mut(&service).expect("it is there");
            held.destinations.get_mut(&backend(pod)).expect("it is there").connections = connections;
        });
    }
}

fn backend(pod: u8) -> Backend {
    (Ipv4Addr::new(10, 42, 0, pod), 8080)
}

fn at(address: Ipv4Addr, port: u16) -> VirtualService {
    VirtualService { address, protocol: 6, port }
}

fn rr(persistence: Option<u32>) -> Scheduling {
    Scheduling { scheduler: "rr".to_owned(), persistence }
}

/// A cluster IP, a load balancer's address and a node port; the latter two may be bound to local backends.
fn port(pods: &[u8], local: Option<&[u8]>) -> PortPlan {
    let access = |reach| Access {
        reach,
        local_only: local.is_some() && reach != Reach::ClusterIp,
        sources: Vec::new(),
    };
    PortPlan {
        frontends: BTreeMap::from([
            (Frontend::Address(CLUSTER_IP, Protocol::Tcp, 80), access(Reach::ClusterIp)),
            (Frontend::Address(BALANCER, Protocol::Tcp, 80), access(Reach::LoadBalancer)),
            (Frontend::NodePort(Protocol::Tcp, 30080), access(Reach::External)),
        ]),
        cluster: pods.iter().map(|pod| backend(*pod)).collect(),
        local: local.unwrap_or_default().iter().map(|pod| backend(*pod)).collect(),
        affinity: None,
    }
}

fn pods(world: &World, service: VirtualService) -> Vec<(u8, u32)> {
    world.kernel.with(|state| {
        let destinations = &state.services[&service].destinations;
        destinations.iter().map(|((address, _), load)| (address.octets()[3], load.weight)).collect()
    })
}

#[tokio::test]
async fn every_address_of_a_port_is_a_virtual_service_and_goes_with_it() {
    let mut world = World::new();
    world.apply("web", Some(port(&[1, 2], None))).await;
    for service in [at(CLUSTER_IP, 80), at(BALANCER, 80), at(NODE, 30080)] {
        assert_eq!(pods(&world, service), [(1, 1), (2, 1)], "{service:?}");
        assert_eq!(world.kernel.with(|state| state.services[&service].scheduling.clone()), rr(None));
    }
    let held = world.kernel.with(|state| state.addresses.held.clone());
    assert_eq!(held, BTreeSet::from([CLUSTER_IP, BALANCER]));
    world.apply("web", None).await;
    assert!(world.kernel.with(|state| state.services.is_empty() && state.addresses.held.is_empty()));
}

#[tokio::test]
async fn a_change_is_its_difference_and_nothing_else_is_read() {
    let mut world = World::new();
    world.apply("web", Some(port(&[1, 2], None))).await;
    let looks = world.kernel.with(|state| state.looks);
    let changes = world.apply("web", Some(port(&[1, 3], None))).await;
    let expected = |service| {
        [Change::AddDestination(service, backend(3), 1), Change::RemoveDestination(service, backend(2))]
    };
    let services = [at(CLUSTER_IP, 80), at(NODE, 30080), at(BALANCER, 80)];
    assert_eq!(changes, services.into_iter().flat_map(expected).collect::<Vec<_>>());
    assert_eq!(world.apply("web", Some(port(&[1, 3], None))).await, [], "nothing new");
    assert_eq!(world.kernel.with(|state| state.looks), looks);
    assert_eq!(world.look_again().await, [], "and all is as it should be");
}

#[tokio::test]
async fn a_destination_goes_when_its_connections_have_ended() {
    let mut world = World::new();
    let web = at(CLUSTER_IP, 80);
    world.apply("web", Some(port(&[1, 2], None))).await;
    world.connections(web, 2, 3);
    world.apply("web", Some(port(&[1], None))).await;
    assert_eq!(pods(&world, web), [(1, 1), (2, 0)], "no new connections, but those that it has");
    assert_eq!(pods(&world, at(BALANCER, 80)), [(1, 1)]);
    assert_eq!(world.look_again().await, [], "not yet");
    // It comes back before it was gone.
    assert_eq!(
        world.apply("web", Some(port(&[1, 2], None))).await.first(),
        Some(&Change::SetDestination(web, backend(2), 1))
    );
    world.apply("web", Some(port(&[], None))).await;
    assert_eq!(pods(&world, web), [(2, 0)], "the service stays for it");
    world.connections(web, 2, 0);
    assert_eq!(world.look_again().await, [Change::RemoveDestination(web, backend(2))]);
}

#[tokio::test]
async fn affinity_is_persistence_and_may_change() {
    let mut world = World::new();
    world.apply("web", Some(port(&[1], None))).await;
    let sticky = PortPlan { affinity: Some(Duration::from_secs(10)), ..port(&[1], None) };
    let changes = world.apply("web", Some(sticky)).await;
    assert_eq!(changes.len(), 3);
    assert!(changes.contains(&Change::SetService(at(CLUSTER_IP, 80), rr(Some(10)))), "{changes:?}");
}

#[tokio::test]
async fn what_is_bound_to_its_node_leads_elsewhere_only_when_none_is_here() {
    let mut world = World::new();
    world.apply("web", Some(port(&[1, 2], Some(&[2])))).await;
    assert_eq!(pods(&world, at(CLUSTER_IP, 80)), [(1, 1), (2, 1)]);
    assert_eq!(pods(&world, at(BALANCER, 80)), [(2, 1)]);
    assert_eq!(pods(&world, at(NODE, 30080)), [(2, 1)]);
    world.apply("web", Some(port(&[1], Some(&[])))).await;
    assert_eq!(pods(&world, at(BALANCER, 80)), [(1, 1)], "for pods: the filter keeps others away");
}

#[tokio::test]
async fn what_others_delete_add_or_change_is_repaired() {
    let mut world = World::new();
    world.apply("web", Some(port(&[1], None))).await;
    let wanted = world.kernel.with(|state| state.services.clone());
    let stranger = at(Ipv4Addr::new(10, 43, 0, 77), 99);
    world.kernel.with(|state| {
        state.services.remove(&at(CLUSTER_IP, 80));
        let held = state.services.get_mut(&at(BALANCER, 80)).expect("it is there");
        held.destinations.clear();
        held.scheduling = rr(Some(7));
        state.services.insert(stranger, Held { scheduling: rr(None), destinations: BTreeMap::new() });
        state.addresses.held = BTreeSet::from([stranger.address]);
    });
    world.look_again().await;
    assert_eq!(world.kernel.with(|state| state.services.clone()), wanted);
    let held = world.kernel.with(|state| state.addresses.held.clone());
    assert_eq!(held, BTreeSet::from([CLUSTER_IP, BALANCER]));
}

#[tokio::test]
async fn the_kernel_is_looked_at_again_when_the_sync_period_is_over() {
    let sync_period = Duration::from_secs(7);
    let mut world = World::with(Settings { sync_period, ..Settings::default() });
    assert_eq!(world.mode.next_look(), None, "nothing is known yet");
    let began = Instant::now();
    world.apply("web", Some(port(&[1], None))).await;
    let next = world.mode.next_look().expect("there is something to look for");
    assert!((began + sync_period..=Instant::now() + sync_period).contains(&next));
    world.apply("web", Some(port(&[1, 2], None))).await;
    assert_eq!(world.mode.next_look(), Some(next), "a change is no look");
    world.look_again().await;
    assert!(world.mode.next_look() > Some(next));
}

/// Nobody told of the damage yet: the change that meets it repairs it too.
#[tokio::test]
async fn a_change_that_the_kernel_refuses_reads_it_anew() {
    let mut world = World::new();
    world.apply("web", Some(port(&[1], None))).await;
    world.kernel.with(|state| state.services.clear());
    world.apply("web", Some(port(&[1, 2], None))).await;
    assert_eq!(pods(&world, at(BALANCER, 80)), [(1, 1), (2, 1)]);
}

#[tokio::test]
async fn node_ports_follow_the_nodes_addresses_and_those_are_never_held() {
    let mut world = World::new();
    let mut web = port(&[1], None);
    let access = Access { reach: Reach::External, local_only: false, sources: Vec::new() };
    web.frontends.insert(Frontend::Address(NODE, Protocol::Tcp, 80), access);
    world.apply("web", Some(web)).await;
    assert_eq!(pods(&world, at(NODE, 80)), [(1, 1)]);
    let held = world.kernel.with(|state| state.addresses.held.clone());
    assert_eq!(held, BTreeSet::from([CLUSTER_IP, BALANCER]));
    let other = Ipv4Addr::new(192, 0, 2, 2);
    world.kernel.with(|state| state.addresses.own = BTreeSet::from([other]));
    world.look_again().await;
    assert_eq!(pods(&world, at(other, 30080)), [(1, 1)]);
    world.kernel.with(|state| {
        assert!(!state.services.contains_key(&at(NODE, 30080)), "it is no address of the node any more");
        assert!(state.addresses.held.contains(&NODE), "and so must be held");
    });
}

#[tokio::test]
async fn the_first_by_name_has_what_two_claim_and_excluded_addresses_are_somebody_elses() {
    let exclude = vec![Network::parse("203.0.113.0/24").expect("a network")];
    let mut world = World::with(Settings { exclude, ..Settings::default() });
    let theirs = at(Ipv4Addr::new(203, 0, 113, 5), 443);
    let held = Held {
        scheduling: rr(None),
        destinations: BTreeMap::from([(backend(9), Load { weight: 5, connections: 0 })]),
    };
    world.kernel.with(|state| drop(state.services.insert(theirs, held.clone())));
    world.apply("b", Some(port(&[2], None))).await;
    world.apply("a", Some(port(&[1], None))).await;
    assert_eq!(pods(&world, at(CLUSTER_IP, 80)), [(1, 1)]);
    world.apply("a", None).await;
    assert_eq!(pods(&world, at(CLUSTER_IP, 80)), [(2, 1)]);
    assert_eq!(world.kernel.with(|state| state.services[&theirs].clone()), held);
}

#[tokio::test]
async fn it_is_looked_at_from_time_to_time() {
    let mut world = World::new();
    assert_eq!(world.mode.next_look(), None);
    world.apply("web", Some(port(&[1], None))).await;
    let next = world.mode.next_look().expect("a time");
    assert!(next > Instant::now() && next <= Instant::now() + Duration::from_secs(30));
    world.apply("web", Some(port(&[2], None))).await;
    assert_eq!(world.mode.next_look(), Some(next), "changes do not put it off");
    world.look_again().await;
    assert!(world.mode.next_look() > Some(next), "a look does");
}
