//! What clients see: spread over the backends, refusal where nothing answers, repair.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use host::nft::Nft;
use host::process;
use kube_proxy::apply::read;
use kube_proxy::plan::{Frontend, Plan, Protocol};
use kube_proxy::rules::{self, TABLE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::{isolated, service};

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

#[test]
fn connections_spread_over_all_backends_and_node_ports_lead_to_them_too() {
    isolated(async |mut world| {
        backends(3).await;
        let (frontend, pods) = service(9, 3);
        let plan = Plan::from([(frontend, pods.clone()), (Frontend::NodePort(Protocol::Tcp, 30080), pods)]);
        world.apply(&plan).await;
        for address in [at(9), (Ipv4Addr::new(10, 42, 0, 1), 30080).into()] {
            let mut seen = BTreeSet::new();
            for _ in 0..60 {
                seen.insert(ask(address).await.unwrap());
            }
            assert_eq!(seen, BTreeSet::from([1, 2, 3]), "60 connections to {address}");
        }
    });
}

#[test]
fn what_nothing_answers_is_refused_at_once() {
    isolated(async |mut world| {
        world.apply(&Plan::new()).await;
        let refused = ask(at(9)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
        let unreachable = ask((Ipv4Addr::new(10, 42, 7, 7), 80).into()).await.unwrap_err();
        assert!(
            matches!(unreachable.kind(), ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable),
            "a pod address of another node stays here: {unreachable}"
        );
    });
}

#[test]
fn a_change_is_a_difference_and_leads_to_the_same_rules_as_a_fresh_start() {
    isolated(async |mut world| {
        let steps: [&[(u8, u8)]; 6] =
            [&[(9, 3)], &[(9, 3), (8, 5)], &[(9, 2), (8, 5)], &[(8, 1)], &[], &[(9, 3), (7, 3), (6, 250)]];
        for step in steps {
            let plan: Plan = step.iter().map(|(last, count)| service(*last, *count)).collect();
            world.apply(&plan).await;
            let listing = world.nft.list(TABLE).await.unwrap().expect("the table is there");
            let wanted = rules::build(&plan, &world.ranges);
            assert_eq!(rules::difference(Some(&read(&listing)), &wanted), None, "after {step:?}");
        }
    });
}

#[test]
fn what_others_delete_is_noticed_and_put_back() {
    isolated(async |mut world| {
        backends(2).await;
        let mut touched = world.nft.monitor().unwrap();
        let plan: Plan = [service(9, 2)].into();
        // The monitor is a program: its first word says that it listens.
        while timeout(Duration::from_millis(50), touched.recv()).await.is_err() {
            process::run("nft", &["add", "table", "ip", "somebody-elses"]).await.unwrap();
        }
        world.applier.doubt();
        world.apply(&plan).await;
        for damage in [
            vec!["delete", "table", "ip", TABLE],
            vec!["flush", "map", "ip", TABLE, "service-frontends"],
            vec!["flush", "chain", "ip", TABLE, "translate-out"],
            vec![
                "add",
                "element",
                "ip",
                TABLE,
                "service-frontends",
                "{ 10.43.0.77 . tcp . 99 : goto service-pick-2 }",
            ],
        ] {
            while touched.try_recv().is_ok() {}
            process::run("nft", &damage).await.unwrap();
            timeout(PATIENCE, touched.recv())
                .await
                .unwrap_or_else(|_| panic!("the monitor tells of {damage:?}"))
                .expect("the monitor lives");
            world.applier.doubt();
            world.apply(&plan).await;
            assert!(ask(at(9)).await.is_ok(), "after {damage:?}");
            let listing = world.nft.list(TABLE).await.unwrap().unwrap();
            assert_eq!(rules::difference(Some(&read(&listing)), &rules::build(&plan, &world.ranges)), None);
        }
    });
}
