//! What clients see: spread over the backends, refusal where nothing answers, repair.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use host::nft::Nft;
use host::process;
use kube_proxy::ProxyMode;
use kube_proxy::nftables::read;
use kube_proxy::plan::{Frontend, Plan, PortPlan, Protocol};
use kube_proxy::rules::{self, TABLE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{World, isolated_in, plan, ranges, service};

const PATIENCE: Duration = Duration::from_secs(5);

/// Pods without containers: addresses on this host that answer with their own address.
pub async fn backends(count: u8) {
    let tasks = TaskTracker::new();
    process::run("ip", &["link", "add", "pods", "type", "bridge"]).await.unwrap();
    process::run("ip", &["link", "set", "pods", "up"]).await.unwrap();
    for pod in 1..=count {
        process::run("ip", &["address", "add", &format!("10.42.0.{pod}/24"), "dev", "pods"]).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::new(10, 42, 0, pod), 8080)).await.unwrap();
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                stream.write_all(&[pod]).await.expect("the test's client reads");
            }
        });
    }
}

pub async fn ask(address: SocketAddr) -> std::io::Result<u8> {
    let mut stream = timeout(PATIENCE, TcpStream::connect(address)).await??;
    let mut pod = [0];
    stream.read_exact(&mut pod).await?;
    Ok(pod[0])
}

pub fn at(last: u8) -> SocketAddr {
    (Ipv4Addr::new(10, 43, 0, last), 80).into()
}

/// The table holds what the plan says, and nothing else.
async fn holds(world: &World, plan: &Plan) -> rules::Transaction {
    let listing = world.nft.list(TABLE).await.unwrap().expect("the table is there");
    rules::difference(read(&listing).as_ref(), &rules::build(plan, &ranges()))
}

every_mode!(connections_spread_over_all_backends_and_node_ports_lead_to_them_too);
async fn connections_spread_over_all_backends_and_node_ports_lead_to_them_too(mut world: World) {
    backends(3).await;
    let web = service(9, 3);
    let node_port = crate::port(Frontend::NodePort(Protocol::Tcp, 30080), web.cluster.clone());
    world.apply(&plan([web, node_port])).await;
    for address in [at(9), (Ipv4Addr::new(10, 42, 0, 1), 30080).into()] {
        let mut seen = BTreeSet::new();
        for _ in 0..60 {
            seen.insert(ask(address).await.unwrap());
        }
        assert_eq!(seen, BTreeSet::from([1, 2, 3]), "60 connections to {address}");
    }
}

every_mode!(what_nothing_answers_is_refused_at_once);
async fn what_nothing_answers_is_refused_at_once(mut world: World) {
    world.apply(&plan([service(8, 0)])).await;
    for last in [8, 9] {
        let refused = ask(at(last)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{last}: {refused}");
    }
    let unreachable = ask((Ipv4Addr::new(10, 42, 7, 7), 80).into()).await.unwrap_err();
    assert!(
        matches!(unreachable.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable),
        "a pod address of another node stays here: {unreachable}"
    );
}

fn sticky(last: u8, count: u8) -> PortPlan {
    PortPlan { affinity: Some(Duration::from_secs(60)), ..service(last, count) }
}

#[test]
fn a_change_is_a_difference_and_leads_to_the_same_rules_as_a_fresh_start() {
    isolated_in(ProxyMode::Nftables, async |mut world| {
        let steps: [&[PortPlan]; 8] = [
            &[service(9, 3)],
            &[service(9, 3), service(8, 5)],
            &[service(9, 2), service(8, 5)],
            &[sticky(9, 2), service(8, 1)],
            &[sticky(9, 3), sticky(8, 1)],
            &[service(9, 3)],
            &[],
            &[service(9, 3), service(7, 3), service(6, 250)],
        ];
        for (number, step) in steps.into_iter().enumerate() {
            let plan = plan(step.to_vec());
            world.apply(&plan).await;
            let difference = holds(&world, &plan).await;
            assert!(difference.is_empty(), "after step {number}: {difference:?}");
        }
    });
}

every_mode!(what_others_delete_is_noticed_and_put_back);
async fn what_others_delete_is_noticed_and_put_back(mut world: World) {
    backends(2).await;
    let mut touched = world.mode.monitor().unwrap();
    let plan = plan([service(9, 2)]);
    world.apply(&plan).await;
    let nft: &[&[&str]] = &[
        &["delete", "table", "ip", TABLE],
        &["flush", "map", "ip", TABLE, "service-frontends"],
        &["flush", "chain", "ip", TABLE, "translate-out"],
        &[
            "add",
            "element",
            "ip",
            TABLE,
            "service-frontends",
            "{ 10.43.0.77 . tcp . 99 : goto service-pick-2 }",
        ],
        &["add", "element", "ip", TABLE, "service-frontends", "{ 10.43.0.77 . icmp . 99 : accept }"],
    ];
    let iptables: &[&[&str]] = &[
        &["-t", "nat", "-F", "KUBE-SERVICES"],
        &["-t", "nat", "-D", "OUTPUT", "1"],
        &["-t", "nat", "-F"],
        &["-t", "nat", "-N", "KUBE-SVC-AAAAAAAAAAAAAAAA"],
    ];
    let ipvs: &[&[&str]] = &[&["delete", "table", "ip", TABLE], &["flush", "set", "ip", TABLE, "served"]];
    let (program, damages) = match world.kind {
        ProxyMode::Nftables => ("nft", nft),
        ProxyMode::Ipvs => ("nft", ipvs),
        ProxyMode::Iptables => ("iptables", iptables),
    };
    assert!(touched.try_recv().is_err(), "what the proxy does itself is no news");
    for damage in damages {
        process::run(program, damage).await.unwrap();
        timeout(PATIENCE, touched.recv())
            .await
            .unwrap_or_else(|_| panic!("the monitor tells of {damage:?}"))
            .expect("the monitor lives");
        world.mode.doubt();
        world.apply(&plan).await;
        assert!(ask(at(9)).await.is_ok(), "after {damage:?}");
        if world.kind == ProxyMode::Nftables {
            assert!(holds(&world, &plan).await.is_empty(), "after {damage:?}");
        }
    }
}

/// Nobody told of the damage yet: the change that meets it repairs it too.
#[test]
fn a_change_that_the_kernel_refuses_reads_it_anew() {
    isolated_in(ProxyMode::Nftables, async |mut world| {
        backends(2).await;
        world.apply(&plan([service(9, 1)])).await;
        process::run("nft", &["flush", "map", "ip", TABLE, "service-frontends"]).await.unwrap();
        world.apply(&plan([service(9, 2)])).await;
        assert!(holds(&world, &world.plan).await.is_empty());
        assert!(ask(at(9)).await.is_ok());
    });
}
