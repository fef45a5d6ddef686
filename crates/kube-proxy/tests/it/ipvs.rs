//! What only the mode `ipvs` has: virtual services that others delete, connections that outlive their backend's place in
//! the Service, processes of the node that must not be reached at Services' addresses, and the way from and to other modes.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use host::ipvs::{Change, Ipvs as _, Kernel, LINK, Services, VirtualService};
use host::nft::NftProgram;
use host::process::run;
use kube_proxy::apply::Mode;
use kube_proxy::ipvs::{Ipvs, Settings};
use kube_proxy::plan::{Frontend, Plan, Protocol};
use kube_proxy::{ProxyMode, clean};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::packets::{ask, at, backends};
use crate::process::{Told, surroundings};
use crate::{World, changes, isolated_in, plan, port, ranges, service};

const PATIENCE: Duration = Duration::from_secs(30);
const WEB: VirtualService = VirtualService { address: Ipv4Addr::new(10, 43, 0, 9), protocol: 6, port: 80 };

fn kernel() -> Kernel {
    Kernel::new(TaskTracker::new())
}

async fn weights(kernel: &Kernel) -> Vec<(u8, u32)> {
    let services: Services = kernel.services().await.unwrap();
    let destinations = &services[&WEB].destinations;
    destinations.iter().map(|((address, _), load)| (address.octets()[3], load.weight)).collect()
}

#[test]
fn ipvs_services_and_addresses_that_others_delete_are_put_back() {
    isolated_in(ProxyMode::Ipvs, async |mut world| {
        backends(2).await;
        let kernel = kernel();
        let plan = plan([service(9, 2)]);
        world.apply(&plan).await;
        let mut touched = world.mode.monitor().unwrap();
        // The kernel tells nobody of this one.
        kernel.change(vec![Change::RemoveService(WEB)]).await.unwrap();
        world.mode.doubt();
        world.apply(&plan).await;
        assert_eq!(weights(&kernel).await, [(1, 1), (2, 1)]);
        assert!(ask(at(9)).await.is_ok());
        for damage in [
            &["address", "delete", "10.43.0.9/32", "dev", LINK][..],
            &["link", "delete", LINK],
            &["address", "add", "10.43.0.77/32", "dev", LINK],
        ] {
            run("ip", damage).await.unwrap();
            timeout(PATIENCE, touched.recv()).await.expect("the monitor tells of it").expect("it lives");
            world.mode.doubt();
            world.apply(&plan).await;
            assert!(ask(at(9)).await.is_ok(), "after {damage:?}");
        }
        let held = kernel.addresses().await.unwrap().held;
        assert_eq!(held, BTreeSet::from([Ipv4Addr::new(10, 43, 0, 9)]), "and what is none of its goes");
    });
}

/// The proxy as a whole: the kernel tells nobody of virtual services that others delete, so they are looked for.
#[test]
fn ipvs_services_that_others_delete_come_back_by_the_sync_period() {
    isolated_in(ProxyMode::Ipvs, async |world| {
        drop(world);
        let kernel = kernel();
        let (what, mut told) = mpsc::unbounded_channel();
        let (_answer, answers) = watch::channel(true);
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (context, config) = surroundings(ProxyMode::Ipvs, answers, &tasks, &shutdown);
        let nft = Arc::new(NftProgram::new(tasks.clone()));
        let settings = Settings { sync_period: Duration::from_millis(200), ..Settings::default() };
        let mode = Box::new(Ipvs::new(Arc::new(self::kernel()), nft, tasks.clone(), ranges(), settings));
        let proxy = tasks.spawn(kube_proxy::run_with(context, config, Box::new(Told { mode, what })));
        let mut held = async || {
            while !kernel.services().await.unwrap().contains_key(&WEB) {
                timeout(PATIENCE, told.recv()).await.expect("it looks").expect("the proxy lives");
            }
        };
        held().await;
        for _ in 0..2 {
            kernel.change(vec![Change::RemoveService(WEB)]).await.unwrap();
            held().await;
        }
        shutdown.cancel();
        proxy.await.unwrap().unwrap();
    });
}

#[test]
fn ipvs_connections_end_with_their_clients_and_not_with_their_backends_place() {
    isolated_in(ProxyMode::Ipvs, async |mut world| {
        // A pod that echoes, for as long as its client likes.
        run("ip", &["link", "add", "pods", "type", "bridge"]).await.unwrap();
        run("ip", &["link", "set", "pods", "up"]).await.unwrap();
        run("ip", &["address", "add", "10.42.0.1/24", "dev", "pods"]).await.unwrap();
        let listener = TcpListener::bind((Ipv4Addr::new(10, 42, 0, 1), 8080)).await.unwrap();
        let tasks = TaskTracker::new();
        tasks.spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (mut reader, mut writer) = stream.split();
            tokio::io::copy(&mut reader, &mut writer).await.expect("the client ends it well");
        });
        let kernel = kernel();
        world.apply(&plan([service(9, 1)])).await;
        let mut stream = timeout(PATIENCE, TcpStream::connect(at(9))).await.unwrap().unwrap();
        let mut echo = async || {
            stream.write_all(b"?").await.unwrap();
            let mut answer = [0];
            timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
        };
        echo().await;
        world.apply(&plan([service(9, 0)])).await;
        echo().await;
        assert_eq!(weights(&kernel).await, [(1, 0)]);
        let refused = ask(at(9)).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "a new one: {refused}");
    });
}

#[test]
fn ipvs_addresses_of_services_do_not_lead_to_processes_of_the_node() {
    isolated_in(ProxyMode::Ipvs, async |mut world| {
        backends(1).await;
        let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 2222)).await.unwrap();
        let external = Ipv4Addr::new(198, 51, 100, 7);
        let balancer = port(Frontend::Address(external, Protocol::Tcp, 80), service(9, 1).cluster);
        world.apply(&plan([service(9, 1), balancer])).await;
        for address in [WEB.address, external] {
            let refused = timeout(PATIENCE, TcpStream::connect((address, 2222))).await.unwrap().unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{address}: {refused}");
        }
        let own = timeout(PATIENCE, TcpStream::connect((Ipv4Addr::new(10, 42, 0, 1), 2222))).await.unwrap();
        assert!(own.is_ok(), "at the node's own addresses they are reached");
        drop(everywhere);
    });
}

#[test]
fn ipvs_says_which_module_a_scheduler_lacks() {
    isolated_in(ProxyMode::Ipvs, async |world| {
        let nft = Arc::new(NftProgram::new(TaskTracker::new()));
        let settings = Settings { scheduler: "nonesuch".to_owned(), ..Settings::default() };
        let mut mode = Ipvs::new(Arc::new(kernel()), nft, TaskTracker::new(), ranges(), settings);
        drop(world);
        let plan = plan([service(9, 1)]);
        let error = mode.reconcile(&plan, &changes(&Plan::default(), &plan)).await.unwrap_err();
        assert!(error.to_string().contains("module ip_vs_nonesuch is missing"), "{error}");
    });
}

/// Nobody is kept waiting for a kernel that will never do it. Where it can, the proxy runs until it is told to end.
#[test]
fn the_proxy_ends_with_a_reason_where_the_kernel_lacks_ipvs() {
    isolated_in(ProxyMode::Nftables, async |_world| {
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let (_answer, answers) = watch::channel(false);
        let (context, config) = surroundings(ProxyMode::Ipvs, answers, &tasks, &shutdown);
        let nft = Arc::new(NftProgram::new(tasks.clone()));
        shutdown.cancel();
        let outcome = timeout(PATIENCE, kube_proxy::run(context, config, nft)).await.expect("it ends");
        match kernel().prepare(false).await {
            Ok(()) => outcome.unwrap(),
            Err(_) => {
                let text = outcome.unwrap_err().to_string();
                assert!(text.starts_with("--proxy-mode ipvs: the kernel "), "{text}");
                assert!(text.contains("module ip_vs is missing") && text.contains("--proxy-mode nftables"));
            }
        }
    });
}

#[test]
fn ipvs_hundreds_of_services_come_and_go() {
    isolated_in(ProxyMode::Ipvs, async |mut world| {
        backends(2).await;
        let kernel = kernel();
        let one = |number: u16| {
            let [high, low] = number.to_be_bytes();
            let address = Frontend::Address(Ipv4Addr::new(10, 43, high, low), Protocol::Tcp, 80);
            port(address, service(9, 2).cluster)
        };
        let plan = plan((256..556).map(one));
        world.apply(&plan).await;
        world.mode.doubt();
        world.apply(&plan).await;
        let services = kernel.services().await.unwrap();
        assert!(services.len() == 300 && services.values().all(|held| held.destinations.len() == 2));
        assert_eq!(kernel.addresses().await.unwrap().held.len(), 300);
        assert!(ask((Ipv4Addr::new(10, 43, 1, 7), 80).into()).await.is_ok());
        world.apply(&Plan::default()).await;
        assert_eq!(kernel.services().await.unwrap(), Services::new());
        assert_eq!(kernel.addresses().await.unwrap().held, BTreeSet::new());
    });
}

/// From mode to mode the Service answers, and nothing is left of the mode before.
#[test]
fn ipvs_and_other_modes_follow_each_other() {
    isolated_in(ProxyMode::Ipvs, async |world| {
        backends(2).await;
        let plan = plan([service(9, 2)]);
        let kernel = Arc::new(kernel());
        drop(world);
        let (nftables, ipvs, iptables) = (ProxyMode::Nftables, ProxyMode::Ipvs, ProxyMode::Iptables);
        for mode in [nftables, ipvs, iptables, ipvs, nftables, iptables, nftables] {
            let mut world = World::new(mode);
            world.apply(&plan).await;
            clean::others(mode).await.unwrap();
            assert!(ask(at(9)).await.is_ok(), "{mode:?}");
            let link = run("ip", &["link", "show", "dev", LINK]).await.is_ok();
            let services = !kernel.services().await.unwrap().is_empty();
            assert_eq!((link, services), (mode == ipvs, mode == ipvs), "{mode:?}");
            let chains = host::iptables::save().await.unwrap().contains(":KUBE-SERVICES");
            assert_eq!(chains, mode == iptables, "{mode:?}");
            let table = run("nft", &["list", "table", "ip", kube_proxy::rules::TABLE]).await.is_ok();
            assert_eq!(table, mode != iptables, "{mode:?}");
            world.apply(&Plan::default()).await;
            world.apply(&plan).await;
        }
    });
}
