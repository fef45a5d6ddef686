//! ResourceQuotas under many writers: what is stored is what was charged, over several servers too.

use std::sync::Arc;

use apiserver::ApiServer;
use futures::future::join_all;
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};

use crate::servers::{call, server};

const NAMESPACE: &str = "/api/v1/namespaces/default";

async fn send(server: &Arc<ApiServer>, method: &str, path: &str, body: Value) -> (u16, Value) {
    call(server, method, &format!("{NAMESPACE}/{path}"), Some(&body)).await
}

async fn must(server: &Arc<ApiServer>, method: &str, path: &str, body: Value) -> Value {
    let (code, value) = send(server, method, path, body).await;
    assert!((200..300).contains(&code), "{method} {path}: {code} {value}");
    value
}

/// A quota, and what its controller writes when it sees it. Every server knows it afterwards.
async fn limit(servers: &[Arc<ApiServer>], name: &str, hard: Value) {
    must(&servers[0], "POST", "resourcequotas", json!({"metadata": {"name": name}, "spec": {"hard": hard}}))
        .await;
    let used: Value =
        hard.as_object().into_iter().flatten().map(|(name, _)| (name.clone(), json!("0"))).collect();
    let path = format!("resourcequotas/{name}/status");
    let mut quota = json!({"metadata": {"name": name}, "status": {"hard": hard, "used": used}});
    quota = must(&servers[0], "PUT", &path, quota).await;
    for server in servers {
        let version = quota["metadata"]["resourceVersion"].as_str().expect("a version");
        let (code, _) =
            call(server, "GET", &format!("{NAMESPACE}/resourcequotas?resourceVersion={version}"), None).await;
        assert_eq!(code, 200);
    }
}

async fn used(server: &Arc<ApiServer>, name: &str) -> Value {
    let (_, quota) = call(server, "GET", &format!("{NAMESPACE}/resourcequotas/{name}"), None).await;
    quota["status"]["used"].clone()
}

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [
        {"name": "c", "image": "i", "resources": {"requests": {"cpu": "100m"}}}]}})
}

fn servers_of(store: &Arc<EmbeddedStore>, count: u8) -> impl Future<Output = Vec<Arc<ApiServer>>> {
    join_all((1..=count).map(|last| {
        let store = store.clone();
        async move { server(&store, last).await }
    }))
}

fn store() -> Arc<EmbeddedStore> {
    Arc::new(EmbeddedStore::open(Arc::new(SimDisk::new(1)), Options::simulated(1)).expect("a store"))
}

/// Fifty at once, where ten may be: through one server and through three.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn as_many_as_are_allowed_and_not_one_more() {
    for count in [1, 3] {
        let store = store();
        let servers = servers_of(&store, count).await;
        limit(&servers, "ten", json!({"pods": "10", "requests.cpu": "2"})).await;
        let answers = join_all((0..50).map(|number| {
            let server = &servers[number % servers.len()];
            async move { send(server, "POST", "pods", pod(&format!("p{number}"))).await }
        }))
        .await;
        let made = answers.iter().filter(|(code, _)| *code == 201).count();
        assert_eq!(made, 10, "{count} servers");
        for (_, status) in answers.iter().filter(|(code, _)| *code != 201) {
            let message = status["message"].as_str().expect("a message");
            assert!(
                message.ends_with(
                    "is forbidden: exceeded quota: ten, requested: pods=1, used: pods=10, limited: pods=10"
                ),
                "{message}"
            );
        }
        assert_eq!(used(&servers[0], "ten").await, json!({"pods": "10", "requests.cpu": "1"}));
        join_all(servers.iter().map(|server| server.stop())).await;
    }
}

/// What is not stored costs nothing: dry runs, names that are taken, and what another quota refuses.
#[tokio::test(start_paused = true)]
async fn nothing_is_charged_for_nothing() {
    let store = store();
    let servers = servers_of(&store, 1).await;
    let server = &servers[0];
    limit(&servers, "pods", json!({"pods": "5"})).await;
    must(server, "POST", "pods", pod("a")).await;
    must(server, "POST", "pods?dryRun=All", pod("b")).await;
    assert_eq!(send(server, "POST", "pods", pod("a")).await.0, 409);
    assert_eq!(used(server, "pods").await, json!({"pods": "1"}));
    limit(&servers, "zero", json!({"requests.cpu": "50m"})).await;
    let (code, status) = send(server, "POST", "pods", pod("c")).await;
    assert_eq!(code, 403, "{status}");
    let why = "pods \"c\" is forbidden: exceeded quota: zero, requested: requests.cpu=100m, used: requests.cpu=0, limited: requests.cpu=50m";
    assert_eq!(status["message"], why);
    let (code, _) = send(server, "POST", "pods?dryRun=All", pod("c")).await;
    assert_eq!(code, 403, "a dry run is judged too");
    assert_eq!(used(server, "pods").await, json!({"pods": "1"}));
}

/// A service that becomes something else is charged for what it becomes, also when its sender insists on a revision; who
/// owns the usage is the server.
#[tokio::test(start_paused = true)]
async fn changes_are_charged() {
    let store = store();
    let servers = servers_of(&store, 1).await;
    let server = &servers[0];
    limit(&servers, "edge", json!({"services.nodeports": "1", "count/services": "2"})).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    let mut service = must(server, "POST", "services", service).await;
    assert_eq!(used(server, "edge").await, json!({"services.nodeports": "0", "count/services": "1"}));
    service["spec"]["type"] = "NodePort".into();
    let mut service = must(server, "PUT", "services/s", service).await;
    assert_eq!(used(server, "edge").await, json!({"services.nodeports": "1", "count/services": "1"}));
    service["spec"]["ports"] = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let (code, status) = send(server, "PUT", "services/s", service).await;
    assert_eq!(code, 403);
    assert!(status["message"].as_str().is_some_and(|why| why.contains("exceeded quota: edge")), "{status}");
    let (_, quota) = call(server, "GET", &format!("{NAMESPACE}/resourcequotas/edge"), None).await;
    let fields = quota["metadata"]["managedFields"].as_array().expect("owners");
    assert!(
        fields.iter().any(|entry| entry["manager"] == "kube-apiserver" && entry["subresource"] == "status")
    );
}
