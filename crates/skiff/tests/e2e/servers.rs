//! Three servers on three etcd members: what one writes another reads, nothing is given out twice, and what the death of
//! a server, of a leader, and of members of the etcd costs.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, assert_gone, processes, text, traces};
use crate::machine::until;

const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// The certificate by which a server asks its etcd, which has the address of the member beside it.
const ETCD: &str = "cd /var/lib/skiff/etcd && exec etcdctl --endpoints https://127.0.0.1:2379 \
                    --cacert ca.crt --cert client.pem --key client.pem";

/// The API as the administrator: through the balancer, or of one server.
struct Api<'a> {
    cluster: &'a Cluster,
    node: Option<&'static str>,
}

impl Api<'_> {
    /// What asks; it gives up after `seconds`, if that is not zero.
    fn curl(&self, seconds: u64, words: &[&str], path: &str) -> Command {
        let tls = self.cluster.folder().join("nodes/node-1/var-lib/skiff/server/tls");
        let limit = seconds.to_string();
        let (ca, own) = (tls.join("ca.pem"), tls.join("admin.pem"));
        let (ca, own) = (ca.to_string_lossy(), own.to_string_lossy());
        let mut all = vec!["-s", "--no-buffer", "--max-time", &limit, "--cacert", &ca, "--cert", &own];
        all.extend(words);
        let Some(node) = self.node else {
            let port = std::fs::read_to_string(self.cluster.folder().join("port")).expect("a port");
            let mut command = Command::new("curl");
            command.args(all).arg(format!("https://127.0.0.1:{}{path}", port.trim()));
            command.stdin(Stdio::null());
            return command;
        };
        let url = format!("https://127.0.0.1:6443{path}");
        let mut words = vec!["exec", node, "--", "curl"];
        words.extend(all);
        words.push(&url);
        self.cluster.command(&words)
    }

    /// The code, 0 for no answer, and the answer.
    fn send(&self, seconds: u64, method: &str, path: &str, body: &Value) -> (u16, String) {
        let body = body.to_string();
        let mut words = vec!["-w", "\n%{http_code}", "-X", method];
        if body != "null" {
            words.extend(["-H", "content-type: application/json", "-d", &body]);
        }
        let output = self.curl(seconds, &words, path).output().expect("curl starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let (answer, code) = said.rsplit_once('\n').unwrap_or(("", "0"));
        (code.parse().unwrap_or(0), answer.to_owned())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        let (code, answer) = self.send(20, "GET", path, &Value::Null);
        (code, serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    /// Makes a ConfigMap; says whether that was acknowledged.
    fn write(&self, name: &str) -> bool {
        self.send(20, "POST", MAPS, &map(name)).0 == 201
    }

    fn watch(&self) -> Watch {
        let mut command = self.curl(0, &[], &format!("{MAPS}?watch=true&labelSelector=seen%3Dyes"));
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("curl starts");
        let (tell, told) = channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Watch { child, told }
    }
}

/// An open watch.
struct Watch {
    child: Child,
    told: Receiver<String>,
}

impl Watch {
    fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for an event that mentions this.
    fn tells(&self, seconds: u64, what: &str) -> bool {
        let end = Instant::now() + Duration::from_secs(seconds);
        while let Ok(line) = self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            if line.contains(what) {
                return true;
            }
        }
        false
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child");
    }
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"seen": "yes"}}})
}

fn place(name: &str) -> Option<Cluster> {
    let cluster = Cluster::place(name)?;
    cluster.create("--nodes 3 --servers 3");
    Some(cluster)
}

#[test]
fn three_servers_are_one() {
    let Some(cluster) = place("servers") else { return };
    let all = Api { cluster: &cluster, node: None };
    one_writes_and_another_reads(&cluster);
    nothing_is_given_twice(&cluster);
    until(60, "the Service leads to all servers", || service_leads_to(&cluster, &[2, 3, 4]));
    a_server_dies_under_load(&cluster, &all);
    until(60, "the Service leads to those that are left", || service_leads_to(&cluster, &[2, 4]));
    cluster.skiff("start node-2").expect("started");
    until(60, "the Service leads to all servers again", || service_leads_to(&cluster, &[2, 3, 4]));
    a_leader_dies(&cluster);
}

fn one_writes_and_another_reads(cluster: &Cluster) {
    for (number, writer) in NODES.into_iter().enumerate() {
        let name = format!("from-{writer}");
        assert!(Api { cluster, node: Some(writer) }.write(&name), "{writer}");
        let reader = Api { cluster, node: Some(NODES[(number + 1) % 3]) };
        assert_eq!(reader.get(&format!("{MAPS}/{name}")).0, 200, "what {writer} wrote");
    }
}

/// Addresses and ports of Services that all servers make at the same time.
fn nothing_is_given_twice(cluster: &Cluster) {
    let each = 12;
    std::thread::scope(|scope| {
        for node in NODES {
            scope.spawn(move || {
                let api = Api { cluster, node: Some(node) };
                for number in 0..each {
                    let service = json!({
                        "apiVersion": "v1", "kind": "Service",
                        "metadata": {"name": format!("{node}-{number}"), "labels": {"given": "once"}},
                        "spec": {"type": "NodePort", "ports": [{"port": 80}]},
                    });
                    let (code, answer) = api.send(30, "POST", SERVICES, &service);
                    assert_eq!(code, 201, "{answer}");
                }
            });
        }
    });
    let (_, list) =
        Api { cluster, node: Some("node-3") }.get(&format!("{SERVICES}?labelSelector=given%3Donce"));
    let services = list["items"].as_array().expect("a list");
    let addresses: BTreeSet<String> =
        services.iter().map(|service| service["spec"]["clusterIP"].to_string()).collect();
    let ports: BTreeSet<String> =
        services.iter().map(|service| service["spec"]["ports"][0]["nodePort"].to_string()).collect();
    assert_eq!((services.len(), addresses.len(), ports.len()), (3 * each, 3 * each, 3 * each));
}

/// Whether the Service `kubernetes` leads to the servers at these addresses, by both objects that say so.
fn service_leads_to(cluster: &Cluster, last: &[u8]) -> bool {
    let wanted: Vec<String> = last.iter().map(|last| format!("172.30.0.{last}")).collect();
    let wanted = wanted.join(" ");
    [
        "endpoints kubernetes -o jsonpath='{.subsets[*].addresses[*].ip}'",
        "endpointslice kubernetes -o jsonpath='{.endpoints[*].addresses[*]}'",
    ]
    .iter()
    .all(|what| cluster.kubectl(&format!("get {what}")).is_ok_and(|found| found == wanted))
}

/// Only what was open to the server that dies ends; whoever asks anew is answered, at once.
fn a_server_dies_under_load(cluster: &Cluster, all: &Api) {
    let mut watches: Vec<Watch> = (0..12).map(|_| all.watch()).collect();
    assert!(all.write("before"));
    assert!(watches.iter().all(|watch| watch.tells(30, "\"before\"")), "all watches have begun");
    let stop = AtomicBool::new(false);
    let (failed, asked) = std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            let (mut failed, mut asked) = (0, 0);
            let began = Instant::now();
            while !stop.load(Ordering::Relaxed) && began.elapsed() < Duration::from_secs(120) {
                asked += 1;
                failed += usize::from(all.get(&format!("{MAPS}/before")).0 != 200);
            }
            (failed, asked)
        });
        until(30, "requests flow", || all.get(&format!("{MAPS}/before")).0 == 200);
        kill(cluster, "node-2", "skiff serve[r]");
        let died = Instant::now();
        for number in 0..20 {
            assert!(
                all.write(&format!("meanwhile-{number}")),
                "a new connection goes to a server that lives"
            );
        }
        eprintln!("20 writes after the death took {:?}", died.elapsed());
        stop.store(true, Ordering::Relaxed);
        load.join().expect("no panic")
    });
    assert!(failed <= 1, "only a request that was under way may fail: {failed} of {asked}");
    watches.retain_mut(|watch| !watch.ended());
    let ended = 12 - watches.len();
    eprintln!("{ended} of 12 watches ended, {failed} of {asked} requests failed");
    assert!((1..=8).contains(&ended), "{ended} of 12 watches were on one of three servers");
    assert!(watches.iter().all(|watch| watch.tells(30, "meanwhile-19")), "the others go on");
}

/// Another leads when the Lease has run out, and what the dead one had begun is finished once.
fn a_leader_dies(cluster: &Cluster) {
    let holder = || {
        let lease = "get lease kube-controller-manager -n kube-system -o jsonpath='{.spec.holderIdentity}'";
        cluster.kubectl(lease).unwrap_or_default().split('_').next().unwrap_or_default().to_owned()
    };
    until(60, "somebody leads", || NODES.contains(&holder().as_str()));
    let leader = holder();
    cluster.must("create deployment once --image=skiff.local/busybox:1.35 --replicas=6 -- sleep 10000");
    kill(cluster, &leader, "skiff serve[r]");
    let died = Instant::now();
    until(40, "another leads", || NODES.contains(&holder().as_str()) && holder() != leader);
    eprintln!("another leads after {:?}", died.elapsed());
    cluster.must("rollout status deployment/once --timeout=120s");
    let made = |what: &str| cluster.must(&format!("get {what} -l app=once -o name")).lines().count();
    assert_eq!((made("replicasets"), made("pods")), (1, 6), "nothing was made twice");
    cluster.skiff(&format!("start {leader}")).expect("started");
}

fn kill(cluster: &Cluster, node: &str, what: &str) {
    cluster.on(node, &format!("exec pkill -9 -f \"{what}\"")).expect("killed");
}

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
    /// Tries until a write is acknowledged; says how long that took.
    fn write(&mut self, api: &Api, seconds: u64) -> Duration {
        let began = Instant::now();
        loop {
            self.begun += 1;
            let name = format!("w{}", self.begun);
            if api.write(&name) {
                self.acknowledged.push(name);
                return began.elapsed();
            }
            assert!(began.elapsed() < Duration::from_secs(seconds), "no write within {seconds} s");
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

#[test]
fn members_of_the_etcd_die_and_come_back() {
    let Some(cluster) = place("members") else { return };
    let api = Api { cluster: &cluster, node: None };
    let mut writer = Writer::default();
    let soak: usize = std::env::var("SKIFF_SOAK").ok().and_then(|times| times.parse().ok()).unwrap_or(1);
    for cycle in 0..5 * soak.clamp(1, 10) {
        let node = NODES[cycle % 3];
        writer.write(&api, 30);
        kill_member(&cluster, node);
        let took = writer.write(&api, 30);
        eprintln!("a write {took:?} after the death of {node}'s member");
        cluster.skiff(&format!("start {node}")).expect("started");
        until(60, "the member is back", || member_is_well(&cluster, node));
    }
    writer.check(&api);
    two_of_three_are_lost(&cluster, &mut writer);
    the_leader_is_cut_off(&cluster, &mut writer);
    for node in NODES {
        writer.check(&Api { cluster: &cluster, node: Some(node) });
    }
}

fn two_of_three_are_lost(cluster: &Cluster, writer: &mut Writer) {
    let api = Api { cluster, node: Some("node-1") };
    let watch = api.watch();
    writer.write(&api, 30);
    let first = writer.acknowledged.last().expect("a write").clone();
    assert!(watch.tells(30, &format!("\"{first}\"")), "the watch has begun");
    let server = "exec pgrep --oldest -f \"skiff serve[r]\"";
    let pids = || NODES.map(|node| cluster.on(node, server).expect("a server"));
    let before = pids();
    kill_member(cluster, "node-2");
    kill_member(cluster, "node-3");

    let began = Instant::now();
    let (code, answer) = api.send(30, "POST", MAPS, &map("late"));
    assert!(code == 500 && answer.contains("etcdserver: request timed out"), "{code} {answer}");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(api.get(&format!("{MAPS}/{first}?resourceVersion=0")).0, 200);
    assert_eq!(api.get(&format!("{MAPS}/{first}")).0, 500, "who asks for the newest state hears the truth");
    let (code, answer) = api.send(20, "GET", "/readyz?verbose", &Value::Null);
    assert!(code == 500 && answer.contains("[-]etcd failed"), "{code} {answer}");
    // With the balancer it is the same, although no server is ready.
    let through = Api { cluster, node: None };
    assert_eq!(through.get(&format!("{MAPS}/{first}?resourceVersion=0")).0, 200);
    assert_eq!(pids(), before, "nothing crashed");

    for node in ["node-2", "node-3"] {
        cluster.skiff(&format!("start {node}")).expect("started");
    }
    let took = writer.write(&api, 60);
    eprintln!("a write {took:?} after the quorum came back");
    let last = writer.acknowledged.last().expect("a write");
    assert!(watch.tells(60, &format!("\"{last}\"")), "the watch goes on");
    assert_eq!(pids(), before, "nothing crashed");
    writer.check(&through);
}

fn the_leader_is_cut_off(cluster: &Cluster, writer: &mut Writer) {
    let api = Api { cluster, node: None };
    until(60, "a member leads", || etcd_leader(cluster).is_some());
    let leader = etcd_leader(cluster).expect("a leader");
    cluster.skiff(&format!("partition {leader}")).expect("cut off");
    let took = writer.write(&api, 60);
    eprintln!("a write {took:?} after {leader}, whose member led, was cut off");
    let alone = Api { cluster, node: Some(leader) };
    let (code, answer) = alone.send(30, "POST", MAPS, &map("alone"));
    assert!(code == 500 && answer.contains("etcdserver: request timed out"), "{code} {answer}");
    cluster.skiff("heal").expect("healed");
    let began = Instant::now();
    until(60, "the server that was cut off serves again", || alone.get(&format!("{MAPS}/w1")).0 == 200);
    eprintln!("it serves again after {:?}", began.elapsed());
    writer.write(&alone, 30);
}

/// Told to stop, killed, or failing while there are servers and members of an etcd.
#[test]
fn nothing_is_left_of_servers_that_were_not_finished() {
    let Some(cluster) = Cluster::place("unfinished-servers") else { return };
    let before = traces(&cluster);
    let even = cluster.skiff("create --nodes 3 --servers 2").expect_err("an even number");
    assert!(even.contains("must be an odd number"), "{even}");
    for (file, signal) in [
        ("etcd-ca/ca.pem", "INT"),
        ("nodes/node-3/var-lib/skiff/etcd.log", "INT"),
        ("nodes/node-2/var-lib/skiff/server/cred/encryption.keys", "INT"),
        ("nodes/node-3/var-lib/skiff/skiff.log", "KILL"),
    ] {
        let mut making = cluster.command(&["create", "--nodes", "3", "--servers", "3"]);
        let mut making = making.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        until(60, file, || cluster.folder().join(file).exists());
        let (namespaces, _) = processes(&cluster);
        let told = Command::new("kill").args([&format!("-{signal}"), &making.id().to_string()]).output();
        text(told.expect("kill starts")).expect("it is told");
        assert!(!making.wait().expect("it ends").success(), "{signal} at {file}");
        if signal == "KILL" {
            cluster.skiff("delete").expect("deleted");
        }
        assert_gone(&cluster, &namespaces);
        assert_eq!(traces(&cluster), before, "{signal} at {file}");
    }
}
