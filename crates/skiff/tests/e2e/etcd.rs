//! The etcd of three servers: what the death of one member, of two, and of the leader costs, a member whose files are
//! damaged, and servers that it is not for. The same without servers is in `crates/store`.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test lives in real time")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, text};
use crate::machine::until;
use crate::servers::{Api, MAPS, NODES, SERVER, map, place};

/// What is promised of one member's loss, of the leader's too.
const ONE_LOST: Duration = Duration::from_secs(3);
/// What is promised of an answer without quorum, and of the way back.
const PROMISE: Duration = Duration::from_secs(10);
/// When nothing was lost.
const AT_EASE: Duration = Duration::from_secs(30);
/// The certificate by which a server asks its etcd, which has the address of the member beside it.
const ETCD: &str = "cd /var/lib/skiff/etcd && exec etcdctl --endpoints https://127.0.0.1:2379 \
                    --cacert ca.crt --cert client.pem --key client.pem";

fn kill_member(cluster: &Cluster, node: &str) {
    cluster.on(node, "exec pkill -9 -x etcd").expect("killed");
}

fn member_is_well(cluster: &Cluster, node: &str) -> bool {
    cluster.on(node, &format!("{ETCD} endpoint health")).is_ok()
}

fn etcd_leader(cluster: &Cluster) -> Option<&'static str> {
    let leads = |node: &&str| {
        let status = cluster.on(node, &format!("{ETCD} endpoint status -w json")).ok()?;
        let status: Value = serde_json::from_str(&status).ok()?;
        let status = &status[0]["Status"];
        Some(status["leader"].is_u64() && status["leader"] == status["header"]["member_id"])
    };
    NODES.into_iter().find(|node| leads(node).unwrap_or(false))
}

/// Writes on, and remembers what was acknowledged.
#[derive(Default)]
struct Writer {
    begun: usize,
    acknowledged: Vec<String>,
}

impl Writer {
    /// Tries until a write is acknowledged, which must be within this time.
    fn write(&mut self, api: &Api, limit: Duration, when: &str) {
        let began = Instant::now();
        loop {
            self.begun += 1;
            let name = format!("w{}", self.begun);
            let done = api.write(&name);
            let took = began.elapsed();
            assert!(took < limit, "no write within {limit:?} {when}: {took:?}");
            if done {
                eprintln!("a write {took:?} {when}");
                self.acknowledged.push(name);
                return;
            }
        }
    }

    /// Nothing that was acknowledged is missing.
    fn check(&self, api: &Api) {
        let (code, list) = api.get(MAPS);
        assert_eq!(code, 200);
        let items = list["items"].as_array().expect("a list");
        let found: BTreeSet<&str> =
            items.iter().filter_map(|item| item["metadata"]["name"].as_str()).collect();
        let lost: Vec<&String> =
            self.acknowledged.iter().filter(|name| !found.contains(name.as_str())).collect();
        assert!(lost.is_empty(), "{lost:?} of {} writes are lost", self.acknowledged.len());
    }
}

/// The server that answers with what it last knew while there is no quorum.
const STALE: &str = "node-2";

#[test]
fn members_of_the_etcd_die_and_come_back() {
    let Some(cluster) = place("members") else { return };
    let api = Api { cluster: &cluster, node: None };
    let mut writer = Writer::default();
    strangers_are_refused(&cluster);
    restart_with(&cluster, STALE, "--stale-reads-without-quorum");
    let soak: usize = std::env::var("SKIFF_SOAK").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    // The last cycle of five, or of fifty, looks at everything.
    for cycle in 1..5 * soak.clamp(1, 10) {
        let (first, second) = (NODES[cycle % 3], NODES[(cycle + 1) % 3]);
        writer.write(&api, AT_EASE, "before");
        kill_member(&cluster, first);
        writer.write(&api, ONE_LOST, &format!("after the death of {first}'s member"));
        kill_member(&cluster, second);
        no_write_is_acknowledged(&api, cycle);
        start(&cluster, [first, second]);
        writer.write(&api, PROMISE, "after the quorum came back");
        for node in [first, second] {
            until(60, "the member is back", || member_is_well(&cluster, node));
        }
    }
    writer.check(&api);
    two_of_three_are_lost(&cluster, &mut writer);
    the_leader_is_cut_off(&cluster, &mut writer);
    a_member_is_damaged(&cluster, &mut writer);
    for node in NODES {
        writer.check(&Api { cluster: &cluster, node: Some(node) });
    }
}

/// Starts what does not run, at the same time: two members need each other.
fn start(cluster: &Cluster, nodes: [&str; 2]) {
    cluster.skiff(&format!("start {} {}", nodes[0], nodes[1])).expect("started");
}

/// Replaces a node's server by one that has this flag too.
fn restart_with(cluster: &Cluster, node: &'static str, flag: &str) {
    let line = format!(
        "old=$(pgrep --oldest -f \"{SERVER}\") && words=$(tr '\\0' ' ' </proc/$old/cmdline) && kill -9 $old && \
         timeout 60 tail --pid $old -f /dev/null && setsid --fork $words {flag} >>/var/lib/skiff/skiff.log 2>&1 </dev/null"
    );
    cluster.on(node, &line).expect("a server is started");
    let api = Api { cluster, node: Some(node) };
    until(60, "it is ready", || api.get("/readyz").0 == 200);
}

/// A write that cannot be, which is said soon and clearly.
fn no_write_is_acknowledged(api: &Api, number: usize) {
    let began = Instant::now();
    let (code, answer) = api.send(30, "POST", MAPS, &map(&format!("late-{number}")));
    assert!(code == 500 && answer.contains("etcdserver: request timed out"), "{code} {answer}");
    assert!(began.elapsed() < PROMISE, "{:?}", began.elapsed());
}

/// The code and the headers and body of an answer, which must come soon.
fn answer(api: &Api, path: &str) -> String {
    let began = Instant::now();
    let said = text(api.curl(20, &["--include"], path).output().expect("curl starts")).expect("an answer");
    assert!(began.elapsed() < PROMISE, "{path}: {:?}", began.elapsed());
    said
}

/// A server that says that it is not ready, because of its etcd and nothing else.
fn is_not_ready(api: &Api) -> bool {
    let (code, said) = api.send(20, "GET", "/readyz?verbose", &Value::Null);
    let mut failed = said.lines().filter(|line| line.starts_with("[-]"));
    code == 500 && said.contains("[-]etcd failed") && failed.all(|line| line.starts_with("[-]etcd"))
}

fn two_of_three_are_lost(cluster: &Cluster, writer: &mut Writer) {
    let api = Api { cluster, node: Some("node-1") };
    let mut watch = api.watch();
    writer.write(&api, AT_EASE, "before");
    let first = writer.acknowledged.last().expect("a write").clone();
    assert!(watch.tells(30, &format!("\"{first}\"")), "the watch has begun");
    let line = format!("exec pgrep --oldest -f \"{SERVER}\"");
    let pids = || NODES.map(|node| cluster.on(node, &line).expect("a server"));
    let before = pids();
    kill_member(cluster, "node-2");
    kill_member(cluster, "node-3");

    no_write_is_acknowledged(&api, 100);
    let one = format!("{MAPS}/{first}");
    for path in [format!("{one}?resourceVersion=0"), format!("{MAPS}?resourceVersion=0")] {
        for node in NODES {
            let said = answer(&Api { cluster, node: Some(node) }, &path);
            assert!(said.contains(" 200") && said.contains(&first), "{node}: {said}");
            assert!(
                !said.to_lowercase().contains("\nwarning:"),
                "who asks for the past gets what he asks for: {said}"
            );
        }
    }
    for path in [&one, MAPS] {
        let said = answer(&api, path);
        assert!(said.contains(" 500"), "who asks for the newest state hears the truth: {said}");
        let said = answer(&Api { cluster, node: Some(STALE) }, path);
        let warned = said
            .to_lowercase()
            .contains("\nwarning: 299 - \"the store has no quorum: this is the last known");
        assert!(said.contains(" 200") && said.contains(&first) && warned, "{said}");
    }
    for node in NODES {
        until(30, "it says which check failed", || is_not_ready(&Api { cluster, node: Some(node) }));
    }
    // With the balancer it is the same, although no server is ready.
    let through = Api { cluster, node: None };
    assert_eq!(through.get(&format!("{one}?resourceVersion=0")).0, 200);
    assert!(!watch.ended(), "the watch goes on");
    assert_eq!(pids(), before, "nothing crashed");

    start(cluster, ["node-2", "node-3"]);
    let healed = Instant::now();
    writer.write(&api, PROMISE, "after the quorum came back");
    let last = writer.acknowledged.last().expect("a write");
    assert!(watch.tells(30, &format!("\"{last}\"")), "the watch goes on");
    for node in NODES {
        let api = Api { cluster, node: Some(node) };
        until(30, "it is ready", || api.get("/readyz").0 == 200 && api.get(&one).0 == 200);
    }
    eprintln!("everything goes on {:?} after the quorum came back", healed.elapsed());
    assert!(healed.elapsed() < PROMISE, "{:?}", healed.elapsed());
    assert_eq!(pids(), before, "nothing crashed");
    writer.check(&through);
}

fn the_leader_is_cut_off(cluster: &Cluster, writer: &mut Writer) {
    let api = Api { cluster, node: None };
    until(60, "a member leads", || etcd_leader(cluster).is_some());
    let leader = etcd_leader(cluster).expect("a leader");
    cluster.skiff(&format!("partition {leader}")).expect("cut off");
    writer.write(&api, ONE_LOST, &format!("after {leader}, whose member led, was cut off"));
    let alone = Api { cluster, node: Some(leader) };
    no_write_is_acknowledged(&alone, 200);
    let said = answer(&alone, &format!("{MAPS}/w1?resourceVersion=0"));
    assert!(said.contains(" 200"), "{said}");
    until(30, "it says which check failed", || is_not_ready(&alone));
    cluster.skiff("heal").expect("healed");
    let began = Instant::now();
    until(60, "the server that was cut off serves again", || alone.get(&format!("{MAPS}/w1")).0 == 200);
    writer.write(&alone, PROMISE.saturating_sub(began.elapsed()), "and a read after it was healed");
    writer.check(&alone);
}

/// A member whose files are damaged does not come back; the others do without, and so does a server that starts.
fn a_member_is_damaged(cluster: &Cluster, writer: &mut Writer) {
    let api = Api { cluster, node: None };
    kill_member(cluster, "node-3");
    let damage =
        "dd if=/dev/zero of=/var/lib/skiff/etcd/data/member/snap/db bs=64k count=1 conv=notrunc status=none";
    cluster.on("node-3", damage).expect("damaged");
    cluster.skiff("start node-3").expect("started");
    writer.write(&api, ONE_LOST, "after a member was damaged");
    until(30, "it ends, and says why", || {
        let why = "tail -n 50 /var/lib/skiff/etcd.log | grep -q \"panic\\|fatal\" && ! pgrep -x etcd";
        cluster.on("node-3", why).is_ok()
    });
    restart_with(cluster, "node-3", "");
    writer.write(&Api { cluster, node: Some("node-3") }, AT_EASE, "by the server beside the damaged member");
}

/// A server of another cluster, which has another CA, and so does not find a way in by mistake.
fn strangers_are_refused(cluster: &Cluster) {
    let all = "get / --prefix --keys-only --limit 100000 | grep \"^/skiff\"";
    let before = cluster.on("node-1", &format!("{ETCD} {all}")).expect("the keys of our mark");
    let line = "cd /var/lib/skiff/etcd && timeout 60 /run/skiff/skiff --log-level error server --data-dir /tmp/other \
         --https-listen-port 7443 --disable-agent --node-ip 172.30.0.2 --datastore-endpoint https://127.0.0.1:2379 \
         --datastore-cafile ca.crt --datastore-certfile client.pem --datastore-keyfile client.pem";
    let said = cluster.on("node-1", line).expect_err("it must not start");
    assert!(said.contains("this etcd belongs to cluster") && !said.contains("status: 124"), "{said}");
    assert_eq!(cluster.on("node-1", &format!("{ETCD} {all}")).expect("the keys"), before);
}
