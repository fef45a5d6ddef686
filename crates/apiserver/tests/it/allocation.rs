//! Addresses and node ports of Services when many ask at once, and when there are few.

use std::collections::BTreeSet;
use std::sync::Arc;

use apiserver::Config;
use apiserver::proxy::NoKubelets;
use serde_json::{Value, json};
use store::simdisk::SimDisk;

use crate::fixture::Fixture;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}})
}

async fn small() -> Fixture {
    let config = Config {
        service_cidr: "10.43.0.0/27".parse().expect("a range"),
        node_ports: 30000..=30019,
        ..Config::default()
    };
    Fixture::with(config, Arc::new(NoKubelets), SimDisk::new(1)).await
}

/// 28 addresses are free (32 without the first, the last, `kubernetes` and DNS), but only 20 ports.
#[tokio::test(start_paused = true)]
async fn nothing_is_given_twice_and_everything_is_given() {
    let fixture = small().await;
    let names: Vec<String> = (0..24).map(|number| format!("s{number}")).collect();
    let made = names.iter().map(|name| {
        let fixture = &fixture;
        async move { fixture.send("POST", SERVICES, Some(&service(name))).await }
    });
    let answers = futures::future::join_all(made).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(code, _)| *code == 201);
    assert_eq!(good.len(), 20, "every port is given");
    let addresses: BTreeSet<&str> =
        good.iter().filter_map(|(_, made)| made["spec"]["clusterIP"].as_str()).collect();
    let ports: BTreeSet<u64> =
        good.iter().filter_map(|(_, made)| made["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    assert_eq!((addresses.len(), ports.len()), (20, 20), "none is given twice");
    for (code, status) in bad {
        assert_eq!(code, 422, "{status}");
        let message = status["message"].as_str().expect("a message");
        assert!(
            message.contains(
                "spec.ports[0].nodePort: Internal error: failed to allocate a nodePort: range is full"
            ),
            "{message}"
        );
    }
    // What is released can be given again, and only once.
    let first = good[0].1["metadata"]["name"].as_str().expect("a name");
    fixture.must("DELETE", &format!("{SERVICES}/{first}"), None).await;
    let again = fixture.must("POST", SERVICES, Some(&service("again"))).await;
    assert_eq!(again["spec"]["ports"][0]["nodePort"], good[0].1["spec"]["ports"][0]["nodePort"]);
    assert_eq!(fixture.send("POST", SERVICES, Some(&service("no"))).await.0, 422);
}

#[tokio::test(start_paused = true)]
async fn a_chosen_port_goes_to_one_of_those_who_want_it() {
    let fixture = small().await;
    let made = (0..8).map(|number| {
        let fixture = &fixture;
        let mut wanted = service(&format!("s{number}"));
        wanted["spec"]["ports"][0]["nodePort"] = 30007.into();
        async move { fixture.send("POST", SERVICES, Some(&wanted)).await }
    });
    let answers = futures::future::join_all(made).await;
    assert_eq!(answers.iter().filter(|(code, _)| *code == 201).count(), 1);
    for (_, status) in answers.iter().filter(|(code, _)| *code != 201) {
        let message = status["message"].as_str().expect("a message");
        assert!(
            message
                .contains("spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated"),
            "{message}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn addresses_run_out_with_a_name() {
    let fixture = small().await;
    for number in 0..28 {
        let made = json!({"metadata": {"name": format!("s{number}")}, "spec": {"ports": [{"port": 80}]}});
        fixture.must("POST", SERVICES, Some(&made)).await;
    }
    let made = json!({"metadata": {"name": "last"}, "spec": {"ports": [{"port": 80}]}});
    let (code, status) = fixture.send("POST", SERVICES, Some(&made)).await;
    assert_eq!(code, 422);
    let message = status["message"].as_str().expect("a message");
    assert!(message.contains("failed to allocate a serviceIP: range is full"), "{message}");
}

/// A collection that is deleted gives everything back, and so does a service whose last finalizer goes.
#[tokio::test(start_paused = true)]
async fn every_way_to_go_releases() {
    let fixture = small().await;
    for round in 0..3 {
        for number in 0..20 {
            let mut made = service(&format!("s{number}"));
            made["metadata"]["finalizers"] = json!(["example.com/x"]);
            fixture.must("POST", SERVICES, Some(&made)).await;
        }
        fixture.must("DELETE", &format!("{SERVICES}?fieldSelector=metadata.name!%3Dkubernetes"), None).await;
        for number in 0..20 {
            let mut kept = fixture.must("GET", &format!("{SERVICES}/s{number}"), None).await;
            kept["metadata"]["finalizers"] = json!([]);
            fixture.must("PUT", &format!("{SERVICES}/s{number}"), Some(&kept)).await;
        }
        let left = fixture.must("GET", SERVICES, None).await;
        assert_eq!(left["items"].as_array().map(Vec::len), Some(1), "round {round}");
    }
}
