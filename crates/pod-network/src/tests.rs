//! What follows from nodes, and which lines bring a kernel there: tables.

use std::net::IpAddr;

use host::links::{Entry, Holdings, Route, Underlay, Vxlan};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use crate::difference::{Difference, difference};
use crate::plan::{DEVICE, Mode, Plan, mac, plan, pod_mtu};

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn underlay(address: &str, prefix: u8, mtu: u32) -> Underlay {
    Underlay { link: "eth0".to_owned(), mtu, address: ip(address), prefix }
}

fn node(name: &str, address: &str, ranges: &[&str], mac: Option<&str>) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": name, "annotations": mac.map(|mac| json!({"skiff.local/vtep-mac": mac}))},
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
        "status": {"addresses": [
            {"type": "Hostname", "address": name}, {"type": "InternalIP", "address": address},
        ]},
    }))
    .expect("a node")
}

const MAC_B: &str = "0e:53:ac:1e:00:03";

fn nodes() -> Vec<Node> {
    vec![
        node("a", "172.30.0.2", &["10.42.0.0/24"], Some("0e:53:ac:1e:00:02")),
        node("b", "172.30.0.3", &["10.42.1.0/24"], Some(MAC_B)),
        node("far", "172.31.0.4", &["10.42.2.0/24"], Some("0E:53:AC:1F:00:04")),
        node("new", "172.30.0.5", &[], Some("0e:53:ac:1e:00:05")),
        node("thief", "172.30.0.6", &["10.42.0.0/24", "10.42.1.0/24"], Some("0e:53:ac:1e:00:06")),
        node("evil", "172.30.0.7", &["10.42.3.0/24"], Some("aa dev lo; x:00:00")),
    ]
}

fn planned(mode: Mode) -> Plan {
    plan(&nodes(), "a", mode, &underlay("172.30.0.2", 24, 1500))
}

fn said(plan: &Plan) -> Vec<String> {
    let routes =
        plan.routes.iter().map(|route| format!("{} via {} {}", route.destination, route.gateway, route.link));
    let neighbours = plan.neighbours.iter().map(|entry| format!("{} is {}", entry.address, entry.mac));
    let forwarding = plan.forwarding.iter().map(|entry| format!("{} at {}", entry.mac, entry.address));
    routes.chain(neighbours).chain(forwarding).collect()
}

#[test]
fn packets_get_as_large_as_the_way_allows() {
    let cases = [
        (Mode::Vxlan, "172.30.0.2", 1500, 1450),
        (Mode::Auto, "172.30.0.2", 1500, 1450),
        (Mode::Direct, "172.30.0.2", 1500, 1500),
        (Mode::Vxlan, "172.30.0.2", 9001, 8951),
        (Mode::Vxlan, "172.30.0.2", 1300, 1280),
        (Mode::Vxlan, "fd00::2", 1500, 1430),
        (Mode::Vxlan, "127.0.0.1", 65536, 1450),
        (Mode::Direct, "127.0.0.1", 65536, 1500),
    ];
    for (mode, address, link, expected) in cases {
        assert_eq!(pod_mtu(mode, &underlay(address, 24, link)), expected, "{mode:?} {address} {link}");
    }
}

#[test]
fn wrapped_packets_have_a_route_a_neighbour_and_a_node() {
    let plan = planned(Mode::Vxlan);
    let expected = [
        "10.42.1.0/24 via 10.42.1.0 skiff-vxlan",
        "10.42.2.0/24 via 10.42.2.0 skiff-vxlan",
        "10.42.1.0 is 0e:53:ac:1e:00:03",
        "10.42.2.0 is 0e:53:ac:1f:00:04",
        "0e:53:ac:1e:00:03 at 172.30.0.3",
        "0e:53:ac:1f:00:04 at 172.31.0.4",
    ];
    assert_eq!(said(&plan), expected);
    let device = plan.device.expect("a device");
    assert_eq!((device.mac.as_str(), device.mtu), ("0e:53:ac:1e:00:02", 1450));
    assert_eq!(device.addresses.into_iter().collect::<Vec<_>>(), [ip("10.42.0.0")]);
}

#[test]
fn unwrapped_packets_have_a_route_to_nodes_on_the_same_link() {
    let direct = planned(Mode::Direct);
    let near = ["10.42.1.0/24 via 172.30.0.3 eth0", "10.42.3.0/24 via 172.30.0.7 eth0"];
    assert_eq!(said(&direct), near);
    assert_eq!(direct.device, None);
    let auto = said(&planned(Mode::Auto));
    let far = "10.42.2.0/24 via 10.42.2.0 skiff-vxlan";
    assert_eq!(auto[..3], [near[0], far, near[1]]);
    assert_eq!(auto[3..], ["10.42.2.0 is 0e:53:ac:1f:00:04", "0e:53:ac:1f:00:04 at 172.31.0.4"]);
}

#[test]
fn both_families_are_planned_alike() {
    let mut both = vec![node("a", "172.30.0.2", &["10.42.0.0/24", "fd00::/64"], None)];
    both.push(node("b", "172.30.0.3", &["10.42.1.0/24", "fd00:0:0:1::/64"], Some(MAC_B)));
    let plan = plan(&both, "a", Mode::Vxlan, &underlay("172.30.0.2", 24, 1500));
    assert_eq!(plan.device.as_ref().expect("a device").addresses.len(), 2);
    assert_eq!(
        said(&plan)[..2],
        ["10.42.1.0/24 via 10.42.1.0 skiff-vxlan", "fd00:0:0:1::/64 via fd00:0:0:1:: skiff-vxlan"]
    );
    assert_eq!(plan.forwarding.len(), 1, "one node behind one hardware address");
}

#[test]
fn hardware_addresses_are_local_and_of_one_machine() {
    assert_eq!(mac(ip("172.30.0.2")), "0e:53:ac:1e:00:02");
    assert_eq!(mac(ip("fd00::1:2")), "0e:53:00:01:00:02");
}

/// What a kernel holds when the plan was applied.
fn applied(plan: &Plan) -> Holdings {
    Holdings {
        vxlan: plan.device.as_ref().map(|device| Vxlan {
            mac: device.mac.clone(),
            mtu: device.mtu,
            up: true,
            id: 1,
            port: 8472,
            local: Some(device.local),
            addresses: device.addresses.iter().copied().collect(),
        }),
        routes: plan.routes.iter().cloned().collect(),
        neighbours: plan.neighbours.iter().cloned().collect(),
        forwarding: plan.forwarding.iter().cloned().collect(),
    }
}

#[test]
fn what_is_right_is_left_alone() {
    for mode in [Mode::Vxlan, Mode::Direct, Mode::Auto] {
        let plan = planned(mode);
        assert_eq!(difference(&plan, &applied(&plan)), Difference::default(), "{mode:?}");
        assert!(!difference(&plan, &Holdings::default()).is_empty(), "{mode:?}");
    }
}

/// A change of what is held, and the lines that undo it.
type Damage = (&'static str, fn(&mut Holdings), &'static [&'static str]);

const DAMAGES: &[Damage] = &[
    (
        "a route is gone",
        |held| drop(held.routes.remove(0)),
        &["route replace 10.42.1.0/24 via 10.42.1.0 dev skiff-vxlan onlink protocol 83"],
    ),
    (
        "a neighbour is gone",
        |held| drop(held.neighbours.remove(0)),
        &["neighbour replace 10.42.1.0 lladdr 0e:53:ac:1e:00:03 dev skiff-vxlan nud permanent"],
    ),
    (
        "a forwarding entry is gone",
        |held| drop(held.forwarding.remove(0)),
        &["fdb replace 0e:53:ac:1e:00:03 dev skiff-vxlan dst 172.30.0.3 self permanent"],
    ),
    (
        "the device is off",
        |held| held.vxlan.as_mut().expect("a device").up = false,
        &["link set skiff-vxlan up"],
    ),
    (
        "the device is too large",
        |held| held.vxlan.as_mut().expect("a device").mtu = 1500,
        &["link set skiff-vxlan mtu 1450"],
    ),
    (
        "another address",
        |held| held.vxlan.as_mut().expect("a device").addresses = vec![ip("10.42.9.0")],
        &["address replace 10.42.0.0/32 dev skiff-vxlan", "address delete 10.42.9.0/32 dev skiff-vxlan"],
    ),
    (
        "a node that is gone",
        |held| {
            held.routes.push(Route {
                destination: "10.42.9.0/24".to_owned(),
                gateway: ip("10.42.9.0"),
                link: DEVICE.to_owned(),
            });
            held.neighbours.push(Entry { mac: "0e:53:00:00:00:09".to_owned(), address: ip("10.42.9.0") });
            held.forwarding.push(Entry { mac: "0e:53:00:00:00:09".to_owned(), address: ip("172.30.0.9") });
        },
        &[
            "neighbour delete 10.42.9.0 dev skiff-vxlan",
            "route delete 10.42.9.0/24 via 10.42.9.0 dev skiff-vxlan protocol 83",
            "fdb delete 0e:53:00:00:00:09 dev skiff-vxlan dst 172.30.0.9 self",
        ],
    ),
    (
        "a node that moved",
        |held| held.forwarding[0].address = ip("172.30.0.9"),
        &[
            "fdb delete 0e:53:ac:1e:00:03 dev skiff-vxlan dst 172.30.0.9 self",
            "fdb replace 0e:53:ac:1e:00:03 dev skiff-vxlan dst 172.30.0.3 self permanent",
        ],
    ),
];

#[test]
fn what_is_wrong_is_put_right_and_nothing_else_is_touched() {
    let plan = planned(Mode::Vxlan);
    for (what, damage, expected) in DAMAGES {
        let mut held = applied(&plan);
        damage(&mut held);
        let lines = difference(&plan, &held);
        let all: Vec<&String> = lines.ip.iter().chain(&lines.bridge).collect();
        assert_eq!(all, *expected, "{what}");
    }
}

#[test]
fn a_device_of_another_network_is_made_anew_with_everything_on_it() {
    let plan = planned(Mode::Vxlan);
    let mut held = applied(&plan);
    held.vxlan.as_mut().expect("a device").local = Some(ip("172.30.0.200"));
    let lines = difference(&plan, &held);
    assert_eq!(lines.ip[0], "link delete skiff-vxlan");
    assert!(lines.ip[1].starts_with("link add skiff-vxlan "), "{lines:?}");
    let fresh = difference(&plan, &Holdings::default());
    assert_eq!((&lines.ip[1..], &lines.bridge), (&fresh.ip[..], &fresh.bridge));
}

#[test]
fn nothing_stays_when_packets_are_no_longer_wrapped() {
    let lines = difference(&planned(Mode::Direct), &applied(&planned(Mode::Vxlan)));
    assert_eq!(lines.bridge, Vec::<String>::new());
    assert_eq!(
        lines.ip,
        [
            "link delete skiff-vxlan",
            "route replace 10.42.1.0/24 via 172.30.0.3 dev eth0 protocol 83",
            "route replace 10.42.3.0/24 via 172.30.0.7 dev eth0 protocol 83",
        ]
    );
}
