//! Ten thousand Services: how long until all are on the data plane, and how long for one endpoint more or less. The
//! bounds here leave room for a debug build and a busy machine; `make bench` has the promised ones.

use std::net::Ipv4Addr;
use std::time::Duration;

use kube_proxy::ProxyMode;
use kube_proxy::plan::{Frontend, PortPlan, Protocol};
use tokio::time::Instant;

use crate::{isolated_in, plan, port};

const SERVICES: u32 = 10_000;

fn at(number: u32, moved: u32) -> PortPlan {
    let address = |base: u32, number| Ipv4Addr::from(base + number);
    let (services, pods) = (0x0a2b_1000, 0x0a2a_1000);
    let frontend = Frontend::Address(address(services, number), Protocol::Tcp, 80);
    port(frontend, [(address(pods, number * 2), 8080), (address(pods, number * 2 + 1 + moved), 8080)])
}

#[test]
fn ten_thousand_services_and_a_change() {
    isolated_in(ProxyMode::Nftables, async |mut world| {
        let mut wanted = plan((0..SERVICES).map(|number| at(number, 0)));
        let start = Instant::now();
        world.apply(&wanted).await;
        let all = start.elapsed();
        let names: Vec<_> = wanted.ports.keys().cloned().collect();
        let mut times = Vec::new();
        for (place, name) in names.iter().step_by(100).enumerate() {
            let number = u32::try_from(place).unwrap();
            let change = kube_proxy::plan::PortChange {
                old: wanted.ports.get(name).cloned(),
                new: Some(PortPlan { frontends: wanted.ports[name].frontends.clone(), ..at(number, 20_000) }),
            };
            wanted.ports.extend(change.new.clone().map(|new| (name.clone(), new)));
            let changes = [(name.clone(), change)].into();
            let start = Instant::now();
            world.mode.reconcile(&wanted, &changes).await.unwrap();
            times.push(start.elapsed());
        }
        times.sort();
        let (median, slow) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        println!("figures: {SERVICES} Services {all:?}, one change {median:?} (median) {slow:?} (p99)");
        assert!(all < Duration::from_secs(20), "{all:?}");
        assert!(slow < Duration::from_millis(200), "{slow:?}");
    });
}
