//! Load balancers without a cloud, used by another machine on the link of the nodes: an address is reached, moves when its node
//! dies, outlives the control plane, and is nobody's once the Service is gone.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, text};
use crate::components::{self, ELECTION, Node};
use crate::machine::{self, Form, until};
use crate::neighbour::Neighbour;

/// Its pod is where nobody announces, so that a node that dies takes nothing with it but the address.
const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      nodeSelector: {kubernetes.io/hostname: node-1}
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: skiff.local/busybox:1.35
          command: [sh, -c, "mkdir /www; echo served > /www/index.html; exec httpd -f -p 8080 -h /www"]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: LoadBalancer, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

const LEASES: &str = "get leases --namespace skiff-load-balancers";
const HOLDERS: &str = "-o jsonpath='{.items[*].spec.holderIdentity}'";
/// What is promised for a node that dies.
const MOVED: Duration = Duration::from_secs(5);

/// A machine on the switch, which is no node. It ends with the test.
struct Client {
    first: Child,
}

impl Client {
    /// On the bridge of this name, in the network of the process `switch`.
    fn connect(switch: &str, bridge: &str) -> Client {
        let first = Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn();
        let client = Client { first: first.expect("unshare starts") };
        let namespace =
            |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/net")).ok();
        let own = namespace("self");
        until(30, "the client has a network of its own", || {
            namespace(&client.pid()).is_some_and(|its| Some(its) != own)
        });
        let lines = format!(
            "ip link add client type veth peer name eth0 netns {} && ip link set client master {bridge} up",
            client.pid()
        );
        within(switch, &lines).expect("a cable");
        client
            .run("ip link set lo up && ip address add 172.30.0.150/24 dev eth0 && ip link set eth0 up")
            .expect("an address");
        client
    }

    fn pid(&self) -> String {
        self.first.id().to_string()
    }

    fn run(&self, line: &str) -> Result<String, String> {
        within(&self.pid(), line)
    }

    /// One request.
    fn ask(&self, address: &str) -> Result<String, String> {
        self.run(&format!("curl -s --max-time 2 http://{address}/"))
    }

    /// Who said that he has the address, if anybody.
    fn knows(&self, address: &str) -> Option<String> {
        let known = self.run(&format!("ip neighbour show to {address}")).expect("a list");
        known.split_whitespace().skip_while(|word| *word != "lladdr").nth(1).map(str::to_owned)
    }

    /// Forgets who has the address, and asks.
    fn ask_anew(&self, address: &str) -> Result<String, String> {
        self.run("ip neighbour flush dev eth0")?;
        self.ask(address)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let ended = self.first.kill().and_then(|()| self.first.wait());
        if !std::thread::panicking() {
            ended.expect("the client ends");
        }
    }
}

/// A line of shell in the network of a process.
fn within(process: &str, line: &str) -> Result<String, String> {
    let namespace = format!("--net=/proc/{process}/ns/net");
    text(Command::new("nsenter").args([&namespace, "--", "sh", "-c", line]).output().expect("nsenter starts"))
}

#[test]
fn an_address_is_reached_moves_with_its_node_and_is_nobodys_in_the_end() {
    let Some(cluster) = Cluster::place("balancers") else { return };
    cluster.create("--nodes 3");
    let client = Client::connect(&cluster.switch(), "cluster0");
    cluster.must("label node node-1 node.kubernetes.io/exclude-from-external-load-balancers=");
    cluster.apply(WEB);
    cluster.must("rollout status deployment/web --timeout=90s");
    let ip = "get service web -o jsonpath='{.status.loadBalancer.ingress[0].ip}'";
    until(60, "an address is given", || cluster.must(ip).starts_with("172.30.0."));
    let address = cluster.must(ip);
    until(60, "the address is reached", || client.ask(&address).is_ok_and(|answer| answer == "served"));

    let holder = || cluster.must(&format!("{LEASES} {address} -o jsonpath='{{.spec.holderIdentity}}'"));
    let first = holder();
    assert!(["node-2", "node-3"].contains(&first.as_str()), "{first}");
    let began = Instant::now();
    cluster.skiff(&format!("kill {first}")).expect("killed");
    // The kernel may pass packets on for a moment after the last process of a machine of namespaces.
    until(60, "the address is reached by another node", || holder() != first && client.ask(&address).is_ok());
    let took = began.elapsed();
    eprintln!("the address moved within {took:?}");
    assert!(took < MOVED, "{took:?}");
    assert!(["node-2", "node-3"].contains(&holder().as_str()), "{}", holder());
    for _ in 0..20 {
        client.ask_anew(&address).expect("it is reached");
    }

    control_plane_dies(&cluster, &client, &address);

    cluster.must("delete service web --timeout=60s");
    // The proxies may forget the address before it is given up.
    until(60, "nobody answers", || client.ask_anew(&address).is_err() && client.knows(&address).is_none());
    until(60, "nobody is elected any more", || cluster.must(&format!("{LEASES} {HOLDERS}")).is_empty());
}

/// Nobody can be elected; who answers goes on.
fn control_plane_dies(cluster: &Cluster, client: &Client, address: &str) {
    cluster.on("node-1", "exec pkill -9 -f \"skiff serve[r]\"").expect("killed");
    cluster.kubectl("get nodes --request-timeout=2s").expect_err("nobody answers");
    let until_then = Instant::now() + Duration::from_secs(6);
    while Instant::now() < until_then {
        client.ask_anew(address).expect("it is reached");
    }
    cluster.skiff("start node-1").expect("started");
    until(60, "the API server is back", || cluster.kubectl("get --raw /readyz").is_ok());
    client.ask_anew(address).expect("it is reached");
}

const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
const SECOND: &str = "second";

/// Gives addresses of a pool, as nobody but itself.
fn start_manager(cluster: &machine::Cluster) {
    let config = cluster.state().join("cloud.yaml");
    std::fs::write(&config, "bareMetal: {pools: [172.30.0.200-172.30.0.201]}\n").expect("a configuration");
    let kubeconfig = cluster.kubeconfig().with_file_name("cloud-controller-manager.kubeconfig");
    cluster.start_skiff(
        "cloud-controller-manager.log",
        &format!(
            "cloud-controller-manager --kubeconfig {} --cloud-provider bare-metal --cloud-config {} {ELECTION}",
            kubeconfig.display(),
            config.display()
        ),
    );
}

/// Two nodes of components that wait for the cloud, and the cloud.
fn start_components(cluster: &machine::Cluster) {
    cluster.prepare();
    components::start_control_plane(cluster, "");
    cluster.wait_for_server();
    let external = "--cloud-provider=external";
    components::start_node(cluster, &Node { kubelet: external, ..Node::first(cluster) });
    Neighbour::connect(cluster, SECOND, "172.30.0.3").start_components(external);
    for node in ["skiff-node", SECOND] {
        cluster.kubectl(&format!("wait --for=create node/{node} --timeout=60s"));
        let taints = cluster.kubectl(&format!("get node {node} -o jsonpath='{{.spec.taints[*].key}}'"));
        assert!(taints.contains(UNINITIALIZED), "{node}: {taints}");
    }
    start_manager(cluster);
    cluster.wait_for(60, "nodes", ".items[*].spec.taints[*].key", |keys| !keys.contains(UNINITIALIZED));
    cluster.kubectl("wait --for=condition=Ready node --all --timeout=60s");
}

/// `skiff announcer` as nobody but itself, on the nodes of a cluster whose parts are all processes of their own, and addresses
/// from `skiff cloud-controller-manager`.
#[test]
fn components_give_an_address_and_announce_it() {
    let Some(cluster) = machine::Cluster::machine("announced", Form::Components) else { return };
    start_components(&cluster);
    let client = Client::connect(cluster.holder(), "node0");
    cluster.apply(&WEB.replace("node-1", "skiff-node"));
    cluster.kubectl("rollout status deployment/web --timeout=90s");
    let given = ".status.loadBalancer.ingress[0].ip";
    let address = cluster.wait_for(60, "service/web", given, |address| address.starts_with("172.30.0.20"));
    until(60, "the address is reached", || client.ask_anew(&address).is_ok_and(|answer| answer == "served"));

    let hardware = |node: &str| {
        let link =
            if node == SECOND { "ip netns exec second ip link show eth0" } else { "ip link show node0" };
        cluster.inside(&format!("{link} | sed -n 's/.*ether \\([^ ]*\\).*/\\1/p'"))
    };
    let holder = || cluster.kubectl(&format!("{LEASES} {address} -o jsonpath='{{.spec.holderIdentity}}'"));
    let first = holder();
    assert_eq!(client.knows(&address), Some(hardware(&first)), "{first} is elected");
    let other = if first == SECOND { "skiff-node" } else { SECOND };
    let began = Instant::now();
    cluster.kill_nine(&format!("skiff announcer .*{first}"));
    until(60, "the other node answers", || {
        client.ask_anew(&address).is_ok() && client.knows(&address) == Some(hardware(other))
    });
    let took = began.elapsed();
    assert!(took < MOVED, "{took:?}");
    its_role_is_small(&cluster);

    cluster.kubectl("delete service web --timeout=60s");
    until(60, "nobody answers", || client.ask_anew(&address).is_err() && client.knows(&address).is_none());
    until(60, "nobody is elected any more", || cluster.kubectl(&format!("{LEASES} {HOLDERS}")).is_empty());
    let logs = "announcer.log second-announcer.log cloud-controller-manager.log";
    let denied = cluster.try_inside(&format!("cd {} && grep -i forbidden {logs}", cluster.state().display()));
    assert!(denied.is_err(), "a role is too small: {denied:?}");
}

fn its_role_is_small(cluster: &machine::Cluster) {
    for (what, may) in [
        ("list services", true),
        ("update leases --namespace skiff-load-balancers", true),
        ("update leases --namespace kube-system", false),
        ("update leases --namespace kube-node-lease", false),
        ("get secrets", false),
        ("list pods", false),
        ("patch nodes", false),
        ("patch services/status", false),
    ] {
        let answer = cluster.inside(&format!(
            "out/bin/kubectl --kubeconfig {} auth can-i --as skiff:announcer {what} 2>/dev/null || true",
            cluster.kubeconfig().display()
        ));
        assert_eq!(answer, if may { "yes" } else { "no" }, "{what}");
    }
}
