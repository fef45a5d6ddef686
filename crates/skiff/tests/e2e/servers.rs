//! Three servers on three etcd members: what one writes another reads, nothing is given out twice, and what the death of
//! a server and of leaders costs. That of members of the etcd is in `etcd.rs`.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cluster::{Cluster, interrupt, traces};
use crate::machine::until;

pub const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];
pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";
/// How a server's process is found; the shell that asks is none.
pub const SERVER: &str = "skiff serve[r]";
const SERVICES: &str = "/api/v1/namespaces/default/services";
/// A Lease is good for 15 s. Who waits for it looks every 2 s, or up to a fifth later, at it: once to see it renewed for the
/// last time, once to take it. One second is for asking who leads.
const TAKEN_OVER: Duration = Duration::from_millis(15_000 + 2 * 2_400 + 1_000);
/// One that is given up is taken when it is next looked at, and long before it would have run out, which is after 13 s at
/// the earliest. What is under way is finished before it is given up.
const GIVEN_UP: Duration = Duration::from_secs(8);

/// The API as the administrator: through the balancer, or of one server.
pub struct Api<'a> {
    pub cluster: &'a Cluster,
    pub node: Option<&'static str>,
}

impl Api<'_> {
    /// What asks; it gives up after `seconds`, if that is not zero.
    pub fn curl(&self, seconds: u64, words: &[&str], path: &str) -> Command {
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
    pub fn send(&self, seconds: u64, method: &str, path: &str, body: &Value) -> (u16, String) {
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

    pub fn get(&self, path: &str) -> (u16, Value) {
        let (code, answer) = self.send(20, "GET", path, &Value::Null);
        (code, serde_json::from_str(&answer).unwrap_or(Value::Null))
    }

    /// Makes a ConfigMap; says whether that was acknowledged.
    pub fn write(&self, name: &str) -> bool {
        self.send(20, "POST", MAPS, &map(name)).0 == 201
    }

    /// Follows ConfigMaps.
    pub fn watch(&self) -> Watch {
        self.watch_path(&format!("{MAPS}?watch=true&labelSelector=seen%3Dyes"))
    }

    /// What comes last, once the watch has ended, is the server's certificate.
    fn watch_path(&self, path: &str) -> Watch {
        let mut command = self.curl(0, &["-w", "%{certs}"], path);
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
pub struct Watch {
    child: Child,
    told: Receiver<String>,
}

impl Watch {
    pub fn ended(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Waits for an event that mentions this.
    pub fn tells(&self, seconds: u64, what: &str) -> bool {
        self.told_until(seconds, &[what]).is_some()
    }

    /// All that it told, up to a line that mentions one of these.
    fn told_until(&self, seconds: u64, what: &[&str]) -> Option<Vec<String>> {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut lines = Vec::new();
        while let Ok(line) = self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
            lines.push(line);
            if lines.last().is_some_and(|line| what.iter().any(|what| line.contains(what))) {
                return Some(lines);
            }
        }
        None
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child");
    }
}

pub fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"seen": "yes"}}})
}

pub fn place(name: &str) -> Option<Cluster> {
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
    leaders_end(&cluster, "KILL", "once", TAKEN_OVER);
    leaders_end(&cluster, "TERM", "again", GIVEN_UP);
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
    let watches: Vec<Watch> = (0..12).map(|_| all.watch()).collect();
    let direct = NODES.map(|node| Api { cluster, node: Some(node) }.watch());
    assert!(all.write("before"));
    let begun = |watch: &Watch| watch.tells(30, "\"before\"");
    assert!(watches.iter().all(begun) && direct.iter().all(begun), "all watches have begun");
    let died = under_load(all, || {
        kill(cluster, "node-2", SERVER);
        let died = Instant::now();
        for number in 0..20 {
            assert!(
                all.write(&format!("meanwhile-{number}")),
                "a new connection goes to a server that lives"
            );
        }
        died
    });
    eprintln!("20 writes after the death took {:?}", died.elapsed());
    let (goes_on, was_its) = ("\"meanwhile-19\"", "IP Address:172.30.0.3");
    for (watch, told) in direct.iter().zip([goes_on, was_its, goes_on]) {
        assert!(watch.tells(30, told), "that of the dead server ends, and no other");
    }
    // Each of those through the balancer goes on, or has ended and was the dead server's.
    let told = |watch: &Watch| watch.told_until(30, &[goes_on, was_its]).is_some();
    assert!(watches.iter().all(told), "a watch ended with a server that lives, or hangs");
}

/// What several ask all the while, one after the other each. Whatever of it fails was under way when the server died.
fn under_load(all: &Api, kill: impl FnOnce() -> Instant) -> Instant {
    let (stop, failed, asked) = (AtomicBool::new(false), Mutex::new(Vec::new()), AtomicUsize::new(0));
    let died = std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let limit = Instant::now() + Duration::from_secs(120);
                while !stop.load(Ordering::Relaxed) && Instant::now() < limit {
                    let began = Instant::now();
                    if all.get(&format!("{MAPS}/before")).0 != 200 {
                        failed.lock().expect("no panic").push(began);
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        until(30, "requests flow", || asked.load(Ordering::Relaxed) > 8);
        let died = kill();
        stop.store(true, Ordering::Relaxed);
        died
    });
    let (failed, asked) = (failed.into_inner().expect("no panic"), asked.into_inner());
    eprintln!("{} of {asked} requests failed", failed.len());
    assert!(
        failed.len() <= 4 && failed.iter().all(|began| *began < died),
        "only what was under way may fail"
    );
    died
}

/// Others lead when the Leases have run out or were given up, and what the leaders had begun is finished once.
fn leaders_end(cluster: &Cluster, signal: &str, app: &str, within: Duration) {
    const LEASES: [&str; 2] = ["kube-controller-manager", "kube-scheduler"];
    let holder = |lease: &str| {
        let line = format!("get lease {lease} -n kube-system -o jsonpath='{{.spec.holderIdentity}}'");
        cluster.kubectl(&line).unwrap_or_default().split('_').next().unwrap_or_default().to_owned()
    };
    let leads = |lease: &str| NODES.into_iter().find(|node| *node == holder(lease));
    until(60, "somebody leads", || LEASES.iter().all(|lease| leads(lease).is_some()));
    let dead = LEASES.map(|lease| leads(lease).expect("somebody leads"));
    let alive = NODES.into_iter().find(|node| !dead.contains(node)).expect("two leaders of three servers");
    let pods = format!("/api/v1/namespaces/default/pods?watch=true&labelSelector=app%3D{app}");
    let pods = Api { cluster, node: Some(alive) }.watch_path(&pods);
    cluster.must(&format!(
        "create deployment {app} --image=skiff.local/busybox:1.35 --replicas=6 -- sleep 10000"
    ));
    for node in BTreeSet::from(dead) {
        send_signal(cluster, node, signal, SERVER);
    }
    let died = Instant::now();
    for (lease, dead) in LEASES.into_iter().zip(dead) {
        until(60, lease, || leads(lease).is_some_and(|leader| leader != dead));
        let took = died.elapsed();
        eprintln!("{lease}: another leads {took:?} after SIG{signal}");
        assert!(took < within, "{lease}: {took:?}");
    }
    cluster.must(&format!("rollout status deployment/{app} --timeout=120s"));
    assert_eq!(cluster.must(&format!("get replicasets -l app={app} -o name")).lines().count(), 1);
    // Nor was anything made twice and taken back: the watch tells of every pod that ever was.
    cluster.must(&format!("label pods -l app={app} finished=yes"));
    let mut made = BTreeSet::new();
    for line in pods.told_until(30, &["\"finished\":\"yes\""]).expect("the watch goes on") {
        let event: Value = serde_json::from_str(&line).expect("an event");
        made.insert(event["object"]["metadata"]["name"].to_string());
    }
    assert_eq!(made.len(), 6, "nothing was made twice: {made:?}");
    for node in BTreeSet::from(dead) {
        until(60, "its server has ended", || {
            cluster.on(node, &format!("exec pgrep -f \"{SERVER}\"")).is_err()
        });
        cluster.skiff(&format!("start {node}")).expect("started");
    }
}

pub fn kill(cluster: &Cluster, node: &str, what: &str) {
    send_signal(cluster, node, "KILL", what);
}

fn send_signal(cluster: &Cluster, node: &str, signal: &str, what: &str) {
    cluster.on(node, &format!("exec pkill -{signal} -f \"{what}\"")).expect("there is such a process");
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
        interrupt(&cluster, "create --nodes 3 --servers 3", file, signal);
        assert_eq!(traces(&cluster), before, "{signal} at {file}");
    }
}
