//! Plans on a real kernel, in a network namespace without a way out: applied, damaged, repaired, removed. Needs root;
//! without it the tests say loudly that they were skipped, unless SKIFF_REQUIRE_CONTAINERD demands the real parts.

use std::time::Duration;

use host::links::{self, Monitor, Underlay};
use host::process::run;
use k8s_openapi::api::core::v1::Node;
use pod_network::plan::{DEVICE, Mode, PROTOCOL, Plan, plan};
use serde_json::json;

/// Runs a scenario on this thread, which has moved into a namespace of its own with one link.
fn isolated(scenario: impl AsyncFnOnce(Underlay)) {
    if let Err(error) = host::network::isolate() {
        assert!(
            std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(),
            "cannot make a network namespace: {error}"
        );
        eprintln!("SKIPPED: cannot make a network namespace ({error}); run as root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let lines = [
            "link set lo up",
            "link add eth0 type bridge",
            "address add 172.30.0.2/24 dev eth0",
            "link set eth0 up",
            "route add unreachable 10.42.0.0/16",
        ];
        links::ip(&lines.map(str::to_owned)).await.expect("a link");
        let address = "172.30.0.2".parse().expect("an address");
        let underlay = links::underlay(address).await.expect("the link has it");
        assert_eq!((underlay.link.as_str(), underlay.mtu, underlay.prefix), ("eth0", 1500, 24));
        scenario(underlay).await;
    });
}

fn planned(others: u8, mode: Mode, underlay: &Underlay) -> Plan {
    let node = |number: u8| -> Node {
        serde_json::from_value(json!({
            "metadata": {
                "name": format!("n{number}"),
                "annotations": {"skiff.local/vtep-mac": format!("0e:53:ac:1e:00:{number:02x}")},
            },
            "spec": {"podCIDRs": [format!("10.42.{number}.0/24"), format!("fd42:0:0:{number:x}::/64")]},
            "status": {"addresses": [{"type": "InternalIP", "address": format!("172.30.0.{number}")}]},
        }))
        .expect("a node")
    };
    let nodes: Vec<Node> = (2..3 + others).map(node).collect();
    plan(&nodes, "n2", mode, underlay)
}

/// The kernel holds the plan and no more.
async fn holds(plan: &Plan) {
    let held = links::holdings(DEVICE, PROTOCOL).await.expect("readable");
    let left = pod_network::difference::difference(plan, &held);
    assert!(left.is_empty(), "{left:?} of {held:?}");
    assert_eq!(held.routes.len(), plan.routes.len());
    assert_eq!(held.forwarding.len(), plan.forwarding.len());
}

async fn line(program: &str, words: &str) {
    let words: Vec<&str> = words.split(' ').collect();
    run(program, &words).await.expect("allowed");
}

#[test]
fn a_plan_is_applied_repaired_and_replaced() {
    isolated(async |underlay| {
        let two = planned(2, Mode::Vxlan, &underlay);
        pod_network::apply(&two).await.expect("applied");
        holds(&two).await;
        let route = run("ip", &["route", "get", "10.42.3.7"]).await.expect("a route");
        let route = String::from_utf8_lossy(&route.stdout).into_owned();
        assert!(route.contains("dev skiff-vxlan") && route.contains("src 10.42.2.0"), "{route}");
        run("ip", &["route", "get", "10.42.200.7"]).await.expect_err("no node has this range");

        for (program, damage) in [
            ("ip", "route delete 10.42.3.0/24"),
            ("ip", "neighbour flush dev skiff-vxlan nud permanent"),
            ("bridge", "fdb delete 0e:53:ac:1e:00:03 dev skiff-vxlan dst 172.30.0.3 self"),
            ("ip", "link set skiff-vxlan down"),
            ("ip", "link set skiff-vxlan mtu 1200"),
            ("ip", "link delete skiff-vxlan"),
            ("ip", "address flush dev skiff-vxlan scope global"),
        ] {
            line(program, damage).await;
            pod_network::apply(&two).await.expect("repaired");
            holds(&two).await;
        }
        let one = planned(1, Mode::Vxlan, &underlay);
        pod_network::apply(&one).await.expect("applied");
        holds(&one).await;
        let direct = Plan { routes: Default::default(), ..planned(0, Mode::Direct, &underlay) };
        pod_network::apply(&direct).await.expect("applied");
        holds(&direct).await;
    });
}

#[test]
fn direct_routes_go_by_the_link_itself() {
    isolated(async |underlay| {
        let mut direct = planned(2, Mode::Direct, &underlay);
        direct.routes.retain(|route| !route.destination.contains(':'));
        pod_network::apply(&direct).await.expect("applied");
        holds(&direct).await;
        let route = run("ip", &["route", "get", "10.42.3.7"]).await.expect("a route");
        let route = String::from_utf8_lossy(&route.stdout).into_owned();
        assert!(route.contains("via 172.30.0.3 dev eth0"), "{route}");
    });
}

#[test]
fn what_others_change_is_told() {
    isolated(async |underlay| {
        let plan = planned(2, Mode::Vxlan, &underlay);
        pod_network::apply(&plan).await.expect("applied");
        let mut monitor = Monitor::start().expect("a socket");
        let limit = Duration::from_secs(10);
        for (program, damage) in [
            ("ip", "route delete 10.42.3.0/24"),
            ("ip", "neighbour delete 10.42.3.0 dev skiff-vxlan"),
            ("bridge", "fdb delete 0e:53:ac:1e:00:04 dev skiff-vxlan dst 172.30.0.4 self"),
            ("ip", "link delete skiff-vxlan"),
        ] {
            line(program, damage).await;
            let told = tokio::time::timeout(limit, monitor.changed()).await;
            told.unwrap_or_else(|_| panic!("not told: {damage}")).expect("readable");
        }
    });
}
