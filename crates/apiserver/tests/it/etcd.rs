//! Several API servers on one etcd: what one writes the other reads, nothing is given out twice, and what is promised
//! while the quorum is lost.

#[path = "../../../store/tests/it/etcd/harness.rs"]
mod harness;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::catalog::Catalog;
use apiserver::proxy::NoKubelets;
use apiserver::types::{Body, Gate, Lookup};
use apiserver::{ApiServer, Config, Dependencies};
use http::Response;
use serde_json::{Value, json};
use store::EtcdStore;
use tokio::time::Instant;

use self::harness::Etcd;
use crate::fixture::{Events, OpenGate, read, request, tester, text};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// What is promised of a write without quorum, and of the way back.
const PROMISE: Duration = Duration::from_secs(10);

/// One of several servers.
struct Face(Arc<ApiServer>);

impl Face {
    async fn new(etcd: &Etcd, seed: u64, config: Config) -> Face {
        let dependencies = Dependencies {
            store: Arc::new(EtcdStore::open(etcd.options("ours")).await.expect("opened")),
            catalog: Catalog::built_in(),
            clock: Clock::system(),
            entropy: Entropy::seeded(seed),
            kubelets: Arc::new(NoKubelets),
        };
        let gate = |_: Arc<dyn Lookup>| Arc::new(OpenGate) as Arc<dyn Gate>;
        Face(ApiServer::start(config, dependencies, gate).await.expect("a server"))
    }

    async fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Response<Body> {
        let (parts, body) = request(method, path, body).into_parts();
        self.0.call(tester(), http::Request::from_parts(parts, body.into())).await
    }

    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        read(self.call(method, path, body).await).await
    }

    async fn must(&self, method: &str, path: &str, body: Option<&Value>) -> Value {
        let (code, value) = self.send(method, path, body).await;
        assert!((200..300).contains(&code), "{method} {path}: {code} {value}");
        value
    }

    async fn watch(&self, path: &str) -> Events {
        let response = self.call("GET", path, None).await;
        assert_eq!(response.status(), 200, "{path}");
        Events::new(response)
    }
}

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"n": "0"}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_writes_the_other_reads_and_watches() {
    let etcd = Etcd::start(1).await;
    // Both at once, as after a power cut: what must exist is made once.
    let (a, b) = tokio::join!(Face::new(&etcd, 1, Config::default()), Face::new(&etcd, 2, Config::default()));
    let at =
        a.must("GET", MAPS, None).await["metadata"]["resourceVersion"].as_str().expect("text").to_owned();
    let path = format!("{MAPS}?watch=true&resourceVersion={at}");
    let (mut by_a, mut by_b) = (a.watch(&path).await, b.watch(&path).await);
    for number in 0..15 {
        let (writer, reader) = if number % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("m{number}");
        let made = writer.must("POST", MAPS, Some(&map(&name))).await;
        // Neither a list, nor a get, nor a get that any state will do for once that revision is named, is behind.
        let listed = reader.must("GET", MAPS, None).await;
        let names = listed["items"].as_array().expect("items").iter().map(|item| &item["metadata"]["name"]);
        assert_eq!(names.filter(|listed| **listed == *name).count(), 1);
        assert_eq!(reader.must("GET", &format!("{MAPS}/{name}"), None).await, made);
        let revision = made["metadata"]["resourceVersion"].as_str().expect("text");
        let cached = reader.must("GET", &format!("{MAPS}/{name}?resourceVersion={revision}"), None).await;
        assert_eq!(cached, made);
        // A write that is based on what another server wrote.
        let mut changed = made.clone();
        changed["data"]["n"] = "1".into();
        let changed = reader.must("PUT", &format!("{MAPS}/{name}"), Some(&changed)).await;
        let (code, status) = writer.send("PUT", &format!("{MAPS}/{name}"), Some(&made)).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
        for events in [&mut by_a, &mut by_b] {
            let first = events.next().await.expect("the watch goes on");
            assert_eq!((&first["type"], &first["object"]), (&json!("ADDED"), &made));
            let second = events.next().await.expect("the watch goes on");
            assert_eq!((&second["type"], &second["object"]), (&json!("MODIFIED"), &changed));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_and_ports_are_given_once_by_all_servers_together() {
    let etcd = Etcd::start(1).await;
    let config = Config { node_ports: 30000..=30019, ..Config::default() };
    let (a, b) = (Face::new(&etcd, 1, config.clone()).await, Face::new(&etcd, 1, config).await);
    let made = (0..30).map(|number| {
        // The same seed: they try the same ports.
        let face = if number % 2 == 0 { &a } else { &b };
        let service = json!({"metadata": {"name": format!("s{number}")},
            "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
        async move { face.send("POST", SERVICES, Some(&service)).await }
    });
    let answers = futures::future::join_all(made).await;
    let (good, bad): (Vec<_>, Vec<_>) = answers.into_iter().partition(|(code, _)| *code == 201);
    let addresses: BTreeSet<&str> =
        good.iter().filter_map(|(_, made)| made["spec"]["clusterIP"].as_str()).collect();
    let ports: BTreeSet<u64> =
        good.iter().filter_map(|(_, made)| made["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    assert_eq!((good.len(), addresses.len(), ports.len()), (20, 20, 20), "none twice, and all");
    assert!(bad.iter().all(|(code, _)| *code == 422), "{bad:?}");
}

/// What still works without a quorum, and what says that it does not.
async fn without_quorum(strict: &Face, stale: &Face) {
    let begin = Instant::now();
    let (code, status) = strict.send("POST", MAPS, Some(&map("late"))).await;
    assert!(begin.elapsed() < PROMISE, "{:?}", begin.elapsed());
    let message = status["message"].as_str().unwrap_or_default();
    assert!(code == 500 && message.starts_with("etcdserver: request timed out"), "{code} {status}");
    for face in [strict, stale] {
        assert_eq!(face.must("GET", &format!("{MAPS}/m?resourceVersion=0"), None).await["data"]["n"], "0");
        assert_eq!(
            face.must("GET", &format!("{MAPS}?resourceVersion=0"), None).await["items"]
                .as_array()
                .map(Vec::len),
            Some(1)
        );
        let health = face.call("GET", "/readyz?verbose", None).await;
        assert_eq!(health.status(), 500);
        let health = String::from_utf8(text(health).await.to_vec()).expect("text");
        assert!(health.contains("[-]etcd failed: etcdserver: request timed out"), "{health}");
        assert!(health.contains("[+]ping ok") && health.contains("readyz check failed"), "{health}");
        assert_eq!(face.send("GET", "/livez", None).await.0, 200, "nobody is helped by a restart");
    }
    for path in [format!("{MAPS}/m"), MAPS.to_owned()] {
        let begin = Instant::now();
        let (code, status) = strict.send("GET", &path, None).await;
        assert_eq!(code, 500, "{status}");
        let answer = stale.call("GET", &path, None).await;
        assert_eq!(answer.status(), 200, "{path}");
        let warning = answer.headers()["warning"].to_str().expect("text");
        assert!(warning.starts_with("299 - ") && warning.contains("may be out of date"), "{warning}");
        assert!(begin.elapsed() < PROMISE, "{:?}", begin.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_reads_of_the_cache_and_watches_go_on() {
    let mut etcd = Etcd::start(3).await;
    let config = Config { stale_reads_without_quorum: true, ..Config::default() };
    let strict = Face::new(&etcd, 1, Config::default()).await;
    let stale = Face::new(&etcd, 2, config).await;
    strict.must("POST", MAPS, Some(&map("m"))).await;
    stale.must("GET", MAPS, None).await;
    let mut watches =
        [strict.watch(&format!("{MAPS}?watch=true")).await, stale.watch(&format!("{MAPS}?watch=true")).await];
    for events in &mut watches {
        assert_eq!(events.brief().await, "ADDED m");
    }
    etcd.kill(0);
    etcd.kill(1);
    without_quorum(&strict, &stale).await;
    etcd.run(0);
    etcd.run(1);
    let begin = Instant::now();
    while strict.send("POST", MAPS, Some(&map("after"))).await.0 != 201 {
        assert!(begin.elapsed() < PROMISE, "{:?} to resume", begin.elapsed());
    }
    assert_eq!(strict.send("GET", "/readyz", None).await.0, 200);
    let answer = stale.call("GET", MAPS, None).await;
    assert_eq!((answer.status().as_u16(), answer.headers().get("warning")), (200, None));
    for events in &mut watches {
        // The write that was given up may have happened after all; whoever lists or watches learns which.
        let next = events.brief().await;
        assert!(next == "ADDED after" || next == "ADDED late", "{next}");
    }
}
