//! What a change costs, and that many small ones lead to the same rules as one large one.

use super::*;
use crate::plan::{
    Access, Changes, Frontend, Network, PortChange, PortName, PortPlan, Protocol, Ranges, Reach,
};
use std::net::Ipv4Addr;
use std::time::Duration;

fn ranges() -> Ranges {
    Ranges { pods: "10.42.0.0/16".to_owned(), services: "10.43.0.0/16".to_owned() }
}

fn name(service: &str) -> PortName {
    PortName {
        namespace: "shop".to_owned(),
        service: service.to_owned(),
        port: String::new(),
        protocol: Protocol::Tcp,
    }
}

fn backends(pods: &[u8]) -> Vec<(Ipv4Addr, u16)> {
    pods.iter().map(|pod| (Ipv4Addr::new(10, 42, 0, *pod), 8080)).collect()
}

/// A Service on a cluster IP, a node port and a load balancer's address for some.
fn port(last: u8, pods: &[u8], local: &[u8], affinity: bool) -> PortPlan {
    let access = |reach, local_only, sources| Access { reach, local_only, sources };
    let address = |a, b, c| Frontend::Address(Ipv4Addr::new(a, b, c, last), Protocol::Tcp, 80);
    let sources = vec![Network::parse("203.0.113.0/24").unwrap()];
    PortPlan {
        frontends: BTreeMap::from([
            (address(10, 43, 0), access(Reach::ClusterIp, false, Vec::new())),
            (address(192, 0, 2), access(Reach::LoadBalancer, !local.is_empty(), sources)),
            (
                Frontend::NodePort(Protocol::Tcp, 30000 + u16::from(last)),
                access(Reach::External, !local.is_empty(), Vec::new()),
            ),
        ]),
        cluster: backends(pods),
        local: backends(local),
        affinity: affinity.then_some(Duration::from_secs(10)),
    }
}

fn change(service: &str, old: Option<&PortPlan>, new: Option<&PortPlan>) -> Changes {
    let change = PortChange { old: old.cloned(), new: new.cloned() };
    Changes::from([(name(service), change)])
}

#[test]
fn an_endpoint_that_is_replaced_changes_elements_alone() {
    let (old, new) = (port(9, &[1, 2], &[], false), port(9, &[1, 3], &[], false));
    let mut ledger = Ledger::new(Translator::Maps, &ranges());
    ledger.apply(&change("web", None, Some(&old)));
    let transaction = ledger.apply(&change("web", Some(&old), Some(&new)));
    assert_eq!((transaction.before.as_str(), transaction.after.as_str()), ("", ""));
    let count = |map: &str| (transaction.gone[map].len(), transaction.come[map].len());
    assert_eq!([count("service-slot-1"), count("node-slot-1"), count("hairpin")], [(2, 2), (1, 1), (1, 1)]);
    assert_eq!(transaction.gone.len(), 3, "{transaction:?}");
}

#[test]
fn steps_lead_to_the_same_rules_as_a_fresh_start() {
    let steps = [
        ("a", port(9, &[1, 2], &[], false)),
        ("b", port(8, &[2, 3, 4], &[3], false)),
        ("a", port(9, &[2], &[2], true)),
        ("c", port(9, &[5], &[], false)),
        ("b", port(8, &[], &[], false)),
        ("a", port(9, &[2, 7, 8], &[8], true)),
        ("c", port(7, &[1, 2, 3, 4, 5], &[], true)),
    ];
    let (mut ledger, mut plan) = (Ledger::new(Translator::Maps, &ranges()), Plan::default());
    for (service, port) in steps {
        let old = plan.ports.insert(name(service), port.clone());
        ledger.apply(&change(service, old.as_ref(), Some(&port)));
        assert_eq!(ledger.ruleset(), build(&plan, &ranges()), "after {service}");
    }
    for (service, port) in plan.ports.clone() {
        ledger.apply(&change(&service.service, Some(&port), None));
    }
    assert_eq!(ledger.ruleset(), base(&ranges()), "nothing is left");
}

#[test]
fn the_first_by_name_has_what_two_claim() {
    let (mine, other) = (port(9, &[1], &[], false), port(9, &[2], &[], false));
    let frontend = Key::Address(Ipv4Addr::new(10, 43, 0, 9), Protocol::Tcp, 80);
    let mut ledger = Ledger::new(Translator::Maps, &ranges());
    let mut answering = |changes| {
        ledger.apply(&changes);
        ledger.ruleset().maps["service-slot-0"].elements[&frontend].clone()
    };
    let pod = |number| Value::Backend(Ipv4Addr::new(10, 42, 0, number), 8080);
    assert_eq!(answering(change("b", None, Some(&other))), pod(2));
    assert_eq!(answering(change("a", None, Some(&mine))), pod(1));
    assert_eq!(answering(change("a", Some(&mine), None)), pod(2));
}

#[test]
fn no_difference_is_nothing_to_do() {
    let plan = Plan { ports: BTreeMap::from([(name("a"), port(9, &[1, 2], &[1], true))]), ..Plan::default() };
    let ruleset = build(&plan, &ranges());
    assert!(difference(Some(&ruleset), &ruleset).is_empty());
    let to_nothing = difference(Some(&ruleset), &base(&ranges()));
    assert!(to_nothing.come.is_empty() && !to_nothing.after.is_empty());
}

#[test]
fn keys_and_values_are_read_as_nft_writes_them() {
    for (text, key, bytes) in [
        (
            "10.43.0.9 . tcp . 80",
            Key::Address(Ipv4Addr::new(10, 43, 0, 9), Protocol::Tcp, 80),
            &[10, 43, 0, 9, 6, 0, 0, 0, 0, 80, 0, 0][..],
        ),
        ("udp . 30053", Key::Node(Protocol::Udp, 30053), &[17, 0, 0, 0, 0x75, 0x65, 0, 0]),
        (
            "10.42.0.1 . 10.42.0.2",
            Key::Pair(Ipv4Addr::new(10, 42, 0, 1), Ipv4Addr::new(10, 42, 0, 2)),
            &[10, 42, 0, 1, 10, 42, 0, 2],
        ),
    ] {
        assert_eq!(Key::parse(text), Some(key), "{text}");
        assert_eq!(key.bytes(), bytes, "{text}");
    }
    assert_eq!(Key::parse("17 . 30053"), Some(Key::Node(Protocol::Udp, 30053)), "without /etc/protocols");
    assert_eq!(Key::parse("10.43.0.9 . icmp . 80"), None);
    assert_eq!(Value::parse("goto service-pick-2"), Some(Value::Goto("service-pick-2".into())));
    assert_eq!(Value::parse("10.42.0.1 . 8080"), Some(Value::Backend(Ipv4Addr::new(10, 42, 0, 1), 8080)));
    assert_eq!(Value::parse("accept"), None);
}
