//! One Service in upstream's layout, and what a change of it rewrites.

use super::*;
use crate::plan::{Access, Frontend, Network, PortChange, PortPlan, Protocol, Reach};
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio_util::task::TaskTracker;

fn ranges() -> Ranges {
    Ranges { pods: "10.42.0.0/16".to_owned(), services: "10.43.0.0/16".to_owned() }
}

fn name() -> PortName {
    PortName {
        namespace: "ns1".to_owned(),
        service: "svc1".to_owned(),
        port: "p80".to_owned(),
        protocol: Protocol::Tcp,
    }
}

fn port(pods: &[u8], local: &[u8], affinity: Option<u64>) -> PortPlan {
    let access = |reach| Access { reach, local_only: false, sources: Vec::new() };
    let address = |a, b, c, d| Frontend::Address(Ipv4Addr::new(a, b, c, d), Protocol::Tcp, 80);
    let backends = |pods: &[u8]| pods.iter().map(|pod| (Ipv4Addr::new(10, 42, 0, *pod), 8080)).collect();
    let balancer = Access {
        local_only: true,
        sources: vec![Network::parse("203.0.113.0/24").unwrap()],
        ..access(Reach::LoadBalancer)
    };
    PortPlan {
        frontends: BTreeMap::from([
            (address(10, 43, 0, 9), access(Reach::ClusterIp)),
            (address(192, 0, 2, 10), balancer),
            (
                Frontend::NodePort(Protocol::Tcp, 30080),
                Access { local_only: true, ..access(Reach::External) },
            ),
        ]),
        cluster: backends(pods),
        local: backends(local),
        affinity: affinity.map(Duration::from_secs),
    }
}

fn of(rules: &[String]) -> Vec<&str> {
    rules.iter().map(String::as_str).collect()
}

#[test]
fn a_service_has_upstreams_chains() {
    let part = part(&name(), &port(&[1, 2], &[2], Some(10)), &ranges());
    let (hash, first, second) = ("XPGD46QRK7WJZT7O", "KUBE-SEP-", "KUBE-SEP-");
    let chains: Vec<&str> = part.own.keys().map(String::as_str).collect();
    assert_eq!(chains.len(), 6, "{chains:?}");
    assert!(chains[0] == format!("KUBE-EXT-{hash}") && chains[1] == format!("KUBE-FW-{hash}"));
    assert!(chains[2].starts_with(first) && chains[3].starts_with(second));
    let rules = &part.own[&format!("KUBE-SVC-{hash}")];
    assert_eq!(rules.len(), 5, "who is outside, two that remember, two that draw: {rules:?}");
    assert!(
        rules[1].contains("-m recent --name KUBE-SEP-") && rules[1].contains("--rcheck --seconds 10 --reap")
    );
    assert!(rules[3].contains("--probability 0.5000000000"), "{}", rules[3]);
    assert_eq!(
        of(&part.shared[&Shared::Services]),
        [
            "-m comment --comment \"ns1/svc1:p80 cluster IP\" -p tcp -m tcp -d 10.43.0.9/32 --dport 80 \
             -j KUBE-SVC-XPGD46QRK7WJZT7O",
            "-m comment --comment \"ns1/svc1:p80 loadbalancer IP\" -p tcp -m tcp -d 192.0.2.10/32 --dport 80 \
             -j KUBE-FW-XPGD46QRK7WJZT7O",
        ]
    );
    assert_eq!(part.own[&format!("KUBE-EXT-{hash}")].len(), 4, "pods, the node twice, and outside");
}

#[test]
fn without_backends_it_refuses_and_without_local_ones_it_drops() {
    let refusing = part(&name(), &port(&[], &[], None), &ranges());
    assert!(refusing.own.is_empty());
    assert!(refusing.shared[&Shared::Refused][0].ends_with("-j REJECT"));
    assert_eq!(refusing.shared[&Shared::ExternalRefused].len(), 2);
    let dropping = part(&name(), &port(&[1], &[], None), &ranges());
    let dropped = &dropping.shared[&Shared::ExternalRefused];
    assert!(dropped.iter().all(|rule| rule.ends_with("-j DROP")), "{dropped:?}");
    assert!(!dropping.shared.contains_key(&Shared::Refused));
}

#[test]
fn a_change_rewrites_only_the_chains_that_it_changes() {
    let mut mode = Iptables::new(Arc::new(NftProgram::new(TaskTracker::new())), ranges());
    let (one, other) = (port(&[1, 2], &[2], None), port(&[1, 3], &[3], None));
    let change = |old: Option<&PortPlan>, new: Option<&PortPlan>| {
        Changes::from([(name(), PortChange { old: old.cloned(), new: new.cloned() })])
    };
    mode.take(&change(None, Some(&one)));
    let script = mode.take(&change(Some(&one), Some(&other))).script();
    assert!(!script.contains(":KUBE-SERVICES"), "{script}");
    assert!(script.contains(":KUBE-SVC-XPGD46QRK7WJZT7O") && script.matches("\n-X KUBE-SEP-").count() == 1);
    let script = mode.take(&change(Some(&other), None)).script();
    assert!(script.contains(":KUBE-SERVICES") && script.contains("-X KUBE-SVC-XPGD46QRK7WJZT7O"), "{script}");
    assert_eq!(mode.wanted().len(), fixed(&ranges()).len() + Shared::ALL.len());
}

#[test]
fn what_is_whole_needs_no_repair_and_what_is_not_is_written() {
    let wanted = Chains::from([
        ((Table::Nat, "KUBE-SERVICES".to_owned()), vec!["-j KUBE-A".to_owned()]),
        ((Table::Nat, "KUBE-A".to_owned()), vec![]),
    ]);
    let jumps: String = [Table::Filter, Table::Nat]
        .into_iter()
        .map(|table| {
            let of = jumps().into_iter().filter(|(of, ..)| *of == table);
            let lines: String = of.map(|(_, chain, to, _)| format!("-A {chain} -m x -j {to}\n")).collect();
            format!("*{}\n{lines}", table.name())
        })
        .collect();
    let whole = format!("{jumps}:KUBE-A - [0:0]\n-A KUBE-SERVICES -j KUBE-A\nCOMMIT\n");
    assert_eq!(repair(&read(&whole), &wanted), "");
    for (damage, expected) in [
        (whole.replace("-A KUBE-SERVICES -j KUBE-A\n", ""), "-A KUBE-SERVICES -j KUBE-A"),
        (whole.replace(":KUBE-A", ":KUBE-OLD - [0:0]\n:KUBE-A"), "-X KUBE-OLD"),
        (whole.replace("-A PREROUTING -m x -j KUBE-SERVICES\n", ""), "-I PREROUTING"),
    ] {
        let script = repair(&read(&damage), &wanted);
        assert!(script.contains(expected), "{damage}\n{script}");
    }
    let foreign = whole.replace(":KUBE-A", ":KUBE-FIREWALL - [0:0]\n:KUBE-A");
    assert_eq!(repair(&read(&foreign), &wanted), "", "the kubelet's");
}
