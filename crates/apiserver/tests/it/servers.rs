//! Several servers on one store: where the Service `kubernetes` leads while they come and go.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::catalog::Catalog;
use apiserver::proxy::NoKubelets;
use apiserver::types::{Gate, Lookup};
use apiserver::{ApiServer, Config, Dependencies};
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};
use tokio::time::{Instant, timeout};

use crate::fixture::{OpenGate, read, request, tester};

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";

pub async fn server(store: &Arc<EmbeddedStore>, last: u8) -> Arc<ApiServer> {
    let config = Config {
        advertise_address: IpAddr::from([192, 0, 2, last]),
        shared_store: true,
        ..Config::default()
    };
    let dependencies = Dependencies {
        store: store.clone(),
        catalog: Catalog::built_in(),
        clock: Clock::system(),
        entropy: Entropy::seeded(u64::from(last)),
        kubelets: Arc::new(NoKubelets),
    };
    let gate = |_: Arc<dyn Lookup>| Arc::new(OpenGate) as Arc<dyn Gate>;
    ApiServer::start(config, dependencies, gate).await.expect("a server")
}

pub async fn call(server: &Arc<ApiServer>, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
    let (parts, body) = request(method, path, body).into_parts();
    read(server.call(tester(), http::Request::from_parts(parts, body.into())).await).await
}

/// Where the Service leads by both objects, which must agree; nothing while they do not.
async fn places(server: &Arc<ApiServer>) -> Vec<String> {
    let (_, endpoints) = call(server, "GET", ENDPOINTS, None).await;
    let (_, slice) = call(server, "GET", SLICE, None).await;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let old: Vec<String> =
        list(&endpoints["subsets"][0]["addresses"]).iter().map(|address| text(&address["ip"])).collect();
    let new: Vec<String> =
        list(&slice["endpoints"]).iter().map(|endpoint| text(&endpoint["addresses"][0])).collect();
    if old == new { old } else { Vec::new() }
}

/// Waits until the Service leads to exactly these; says how long that took.
async fn lead_to(server: &Arc<ApiServer>, wanted: &[&str]) -> Duration {
    let begin = Instant::now();
    let reached = timeout(Duration::from_secs(120), async {
        while places(server).await != wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if reached.await.is_err() {
        panic!("{:?} instead of {wanted:?}", places(server).await);
    }
    begin.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_service_leads_to_the_servers_that_are_there() {
    let store = EmbeddedStore::open(Arc::new(SimDisk::new(1)), Options::simulated(1)).expect("a store");
    let store = Arc::new(store);
    let (a, b) = (server(&store, 1).await, server(&store, 2).await);
    lead_to(&a, &["192.0.2.1", "192.0.2.2"]).await;

    // One that says once that it is there, and never again.
    let lease = json!({
        "metadata": {"name": "apiserver-192.0.2.3", "labels": {"apiserver.kubernetes.io/identity": "kube-apiserver"}},
        "spec": {"holderIdentity": "192.0.2.3", "leaseDurationSeconds": 15},
    });
    assert_eq!(call(&b, "POST", LEASES, Some(&lease)).await.0, 201);
    let begin = Instant::now();
    lead_to(&a, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;

    // What somebody breaks or deletes is mended.
    let nowhere = json!({"metadata": {"name": "kubernetes"}});
    assert_eq!(call(&b, "PUT", ENDPOINTS, Some(&nowhere)).await.0, 200);
    assert_eq!(call(&b, "DELETE", SLICE, None).await.0, 200);
    lead_to(&b, &["192.0.2.1", "192.0.2.2", "192.0.2.3"]).await;

    lead_to(&a, &["192.0.2.1", "192.0.2.2"]).await;
    assert!(begin.elapsed() >= Duration::from_secs(14), "{:?}", begin.elapsed());
    assert_eq!(call(&a, "GET", &format!("{LEASES}/apiserver-192.0.2.3"), None).await.0, 404);

    // One that ends in order is not waited for.
    b.stop().await;
    let took = lead_to(&a, &["192.0.2.1"]).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // The last one leaves its address to those that come after it.
    a.stop().await;
    let again = server(&store, 2).await;
    lead_to(&again, &["192.0.2.2"]).await;
    again.stop().await;
}
