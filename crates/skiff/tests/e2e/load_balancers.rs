//! Load balancers without a cloud, used by another machine on the link of the nodes: an address is reached, moves when its node
//! dies, outlives the control plane, and is nobody's once the Service is gone.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, text};
use crate::machine::until;

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
/// What is promised for a node that dies.
const MOVED: Duration = Duration::from_secs(5);

/// A machine on the switch, which is no node. It ends with the test.
struct Client {
    first: Child,
}

impl Client {
    fn connect(cluster: &Cluster) -> Client {
        let first = Command::new("unshare").args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn();
        let client = Client { first: first.expect("unshare starts") };
        let namespace =
            |process: &str| std::fs::read_link(Path::new("/proc").join(process).join("ns/net")).ok();
        let own = namespace("self");
        until(30, "the client has a network of its own", || {
            namespace(&client.pid()).is_some_and(|its| Some(its) != own)
        });
        let switch = cluster.switch();
        let lines = format!(
            "ip link add client type veth peer name eth0 netns {} && ip link set client master cluster0 up",
            client.pid()
        );
        within(&switch, &lines).expect("a cable");
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

    /// Whether somebody said that he has the address.
    fn knows(&self, address: &str) -> bool {
        self.run(&format!("ip neighbour show to {address}")).expect("a list").contains("lladdr")
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
    let client = Client::connect(&cluster);
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
    until(60, "nobody answers", || client.ask_anew(&address).is_err() && !client.knows(&address));
    until(60, "nobody is elected any more", || cluster.must(&format!("{LEASES} -o name")).is_empty());
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
