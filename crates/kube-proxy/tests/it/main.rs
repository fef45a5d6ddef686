//! The rules on a real kernel, with real packets, in a network namespace without a way out. Needs root and nft; without
//! them the tests say loudly that they were skipped, unless SKIFF_REQUIRE_CONTAINERD demands the real parts.

mod packets;
mod pods;
mod process;

use std::net::Ipv4Addr;
use std::sync::Arc;

use host::network::{self, Held};
use host::nft::NftProgram;
use kube_proxy::apply::Applier;
use kube_proxy::plan::{Frontend, Plan, Protocol, Ranges, Target};
use tokio_util::task::TaskTracker;

/// Runs a scenario on this thread, which has moved into a namespace of its own with the ranges held.
fn isolated(scenario: impl AsyncFnOnce(World)) {
    if let Err(error) = network::isolate() {
        assert!(
            std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(),
            "cannot make a network namespace: {error}"
        );
        eprintln!("SKIPPED: cannot make a network namespace ({error}); run as root to test the packet rules");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let held = Held {
            pods: "10.42.0.0/16".to_owned(),
            services: "10.43.0.0/16".to_owned(),
            local: vec![Ipv4Addr::new(10, 43, 0, 10)],
        };
        network::hold(&held).await.unwrap();
        network::hold(&held).await.expect("holding twice is holding");
        scenario(World::new()).await;
    });
}

struct World {
    nft: Arc<NftProgram>,
    applier: Applier,
    ranges: Ranges,
}

impl World {
    fn new() -> Self {
        let nft = Arc::new(NftProgram::new(TaskTracker::new()));
        let ranges = Ranges { pods: "10.42.0.0/16".to_owned(), services: "10.43.0.0/16".to_owned() };
        Self { applier: Applier::new(nft.clone()), nft, ranges }
    }

    async fn apply(&mut self, plan: &Plan) {
        let ruleset = kube_proxy::rules::build(plan, &self.ranges);
        for flow in self.applier.reconcile(&ruleset).await.unwrap() {
            kube_proxy::conntrack::forget(&flow).await.unwrap();
        }
    }
}

/// `count` backends on addresses of the pod range.
fn service(last: u8, count: u8) -> (Frontend, Target) {
    let frontend = Frontend::Address(Ipv4Addr::new(10, 43, 0, last), Protocol::Tcp, 80);
    let backends: Vec<_> = (1..=count).map(|pod| (Ipv4Addr::new(10, 42, 0, pod), 8080)).collect();
    (frontend, backends.into())
}
