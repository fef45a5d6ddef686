//! Load balancers' addresses, source ranges and traffic policies, as clients outside, pods and the node see them.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use kube_proxy::ProxyMode;
use kube_proxy::plan::{Frontend, Network, PortPlan, Protocol};
use tokio::time::timeout;

use crate::pods::{
    Elsewhere, GATEWAY, NODE, OUTSIDE, SERVICE, SILENCE, Site, address, ask, at, ip, pod, seen_by, serve,
    site, target,
};
use crate::{World, plan, port};

/// An address that a load balancer gave; packets to it come to the node.
const BALANCER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

fn balancer(pods: impl IntoIterator<Item = u8>) -> PortPlan {
    port(Frontend::Address(BALANCER, Protocol::Tcp, 80), target(pods, 8080))
}

/// A site whose clients outside send the balancer's addresses to the node, with a pod on another node that is outside.
async fn routed() -> Site {
    let site = site().await;
    let via = NODE.to_string();
    site.outside.run(async move { ip(&["route", "add", "198.51.100.0/24", "via", &via]).await }).await;
    ip(&["route", "add", "198.51.100.0/24", "dev", "cni0"]).await;
    for (there, name) in site.pods.iter().zip(1..) {
        serve(there, name).await;
    }
    site
}

async fn silent(client: &Elsewhere, to: Ipv4Addr) -> bool {
    client.run(timeout(SILENCE, ask(at(to, 80)))).await.is_err()
}

every_mode!(a_load_balancers_address_leads_to_pods_and_refuses_without_any);
async fn a_load_balancers_address_leads_to_pods_and_refuses_without_any(mut world: World) {
    let site = routed().await;
    world.apply(&plan([balancer([1])])).await;
    let (name, _) = site.outside.run(ask(at(BALANCER, 80))).await.unwrap();
    assert_eq!(name, 1);
    let (name, client) = site.pods[1].run(ask(at(BALANCER, 80))).await.unwrap();
    // Upstream's layout lets whoever uses such an address come from the node.
    let gateway = IpAddr::V4(GATEWAY.parse().unwrap());
    let expected = if world.kind == ProxyMode::Iptables { gateway } else { IpAddr::V4(pod(2)) };
    assert_eq!((name, client), (1, expected), "a pod does not leave its node for it");
    assert_eq!(ask(at(BALANCER, 80)).await.unwrap().0, 1, "nor does the node");
    world.apply(&plan([balancer([])])).await;
    let refused = site.outside.run(ask(at(BALANCER, 80))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
}

every_mode!(source_ranges_say_whom_a_load_balancers_address_answers);
async fn source_ranges_say_whom_a_load_balancers_address_answers(mut world: World) {
    let site = routed().await;
    let restricted = |range: &str| {
        let mut port = balancer([1]);
        let access = port.frontends.values_mut().next().unwrap();
        access.sources = vec![Network::parse("203.0.113.0/24").unwrap(), Network::parse(range).unwrap()];
        plan([port])
    };
    world.apply(&restricted("192.0.2.8/29")).await;
    assert_eq!(site.outside.run(ask(at(BALANCER, 80))).await.unwrap().0, 1, "it is in a range");
    world.apply(&restricted("192.0.2.16/29")).await;
    assert!(silent(&site.outside, BALANCER).await, "it is in none");
}

every_mode!(external_traffic_that_stays_on_its_node_keeps_its_source);
async fn external_traffic_that_stays_on_its_node_keeps_its_source(mut world: World) {
    let site = routed().await;
    let local = |all: &[u8], here: &[u8]| {
        let mut port = balancer(all.iter().copied());
        let node_port = crate::port(Frontend::NodePort(Protocol::Tcp, 30080), []);
        port.frontends.extend(node_port.frontends);
        port.frontends.values_mut().for_each(|access| access.local_only = true);
        plan([PortPlan { local: target(here.iter().copied(), 8080), ..port }])
    };
    world.apply(&local(&[1, 2], &[2])).await;
    for to in [at(BALANCER, 80), at(NODE, 30080)] {
        assert_eq!(seen_by(&site.outside, to, 10).await, [2].into(), "{to}");
        let (_, client) = site.outside.run(ask(to)).await.unwrap();
        assert_eq!(client, IpAddr::V4(OUTSIDE), "the pod sees who asks at {to}");
        // A virtual service is the same for everybody, also in upstream's mode.
        let all = if world.kind == ProxyMode::Ipvs { [2].into() } else { [1, 2].into() };
        assert_eq!(seen_by(&site.pods[0], to, 40).await, all, "what pods reach at {to}");
    }
    world.apply(&local(&[1], &[])).await;
    assert!(silent(&site.outside, BALANCER).await, "none is here, but the Service is not gone");
    assert_eq!(site.pods[1].run(ask(at(BALANCER, 80))).await.unwrap().0, 1);
}

every_mode!(internal_traffic_that_stays_on_its_node_reaches_only_its_pods);
async fn internal_traffic_that_stays_on_its_node_reaches_only_its_pods(mut world: World) {
    let site = routed().await;
    let local = |here: &[u8]| {
        let mut port = port(address(80, Protocol::Tcp), target([1, 2], 8080));
        port.frontends.values_mut().for_each(|access| access.local_only = true);
        plan([PortPlan { local: target(here.iter().copied(), 8080), ..port }])
    };
    world.apply(&local(&[2])).await;
    assert_eq!(seen_by(&site.pods[0], at(SERVICE, 80), 10).await, [2].into());
    world.apply(&local(&[])).await;
    assert!(silent(&site.pods[0], SERVICE).await, "none is here, but the Service is not gone");
}
