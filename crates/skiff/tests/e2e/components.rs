//! Every component in a process of its own: how the other tests start them so, and what only that form has: leader
//! election, health and metrics of each, and flags that are refused.

use std::path::{Path, PathBuf};

use crate::machine::{Cluster, Form, NODE, until};
use crate::neighbour::Neighbour;

/// How the processes of the control plane are found.
pub const CONTROL_PLANE: [&str; 3] =
    ["skiff kube-apiserver", "skiff kube-scheduler", "skiff kube-controller-manager"];
/// How those of the node are.
pub const NODE_SIDE: [&str; 5] =
    ["skiff kubelet", "skiff kube-proxy", "skiff pod-network", "skiff announcer", "skiff dns"];

const RANGES: &str = "--cluster-cidr 10.42.0.0/16 --service-cluster-ip-range 10.43.0.0/16";

/// Starts API server, scheduler and controllers, the latter with some further flags.
pub fn start_control_plane(cluster: &Cluster, controllers: &str) {
    let pki = cluster.kubeconfig();
    let pki = pki.parent().map(Path::display).expect("a folder");
    cluster.start_skiff(
        "kube-apiserver.log",
        &format!(
            "kube-apiserver --data-dir {} --advertise-address {NODE} --tls-cert-file {pki}/apiserver.crt \
             --tls-private-key-file {pki}/apiserver.key --client-ca-file {pki}/ca.crt \
             --service-cluster-ip-range 10.43.0.0/16 --service-account-issuer https://kubernetes.default.svc.cluster.local \
             --service-account-signing-key-file {pki}/sa.key --kubelet-client-certificate {pki}/kubelet-client.crt \
             --kubelet-client-key {pki}/kubelet-client.key --kubelet-certificate-authority {pki}/ca.crt \
             --authorization-mode=Node,RBAC",
            cluster.data().display()
        ),
    );
    start_scheduler(cluster, "kube-scheduler.log", 10259);
    cluster.start_skiff(
        "kube-controller-manager.log",
        &format!(
            "kube-controller-manager --kubeconfig {pki}/controller-manager.kubeconfig --root-ca-file {pki}/ca.crt \
             --cluster-signing-cert-file {pki}/ca.crt --cluster-signing-key-file {pki}/ca.key \
             --allocate-node-cidrs {RANGES} {ELECTION} {controllers}"
        ),
    );
}

/// A dead leader is missed sooner than by default, or tests would wait for it.
pub const ELECTION: &str =
    "--leader-elect-lease-duration 3s --leader-elect-renew-deadline 2s --leader-elect-retry-period 500ms";

fn start_scheduler(cluster: &Cluster, log: &str, port: u16) {
    let kubeconfig = cluster.kubeconfig().with_file_name("scheduler.kubeconfig");
    let kubeconfig = kubeconfig.display();
    cluster.start_skiff(
        log,
        &format!("kube-scheduler --kubeconfig {kubeconfig} --secure-port {port} {ELECTION}"),
    );
}

/// A node whose parts are processes of their own.
pub struct Node<'a> {
    pub name: &'a str,
    pub address: &'a str,
    pub data: PathBuf,
    /// Below which cgroup its pods' are.
    pub cgroup: String,
    /// Further flags of its kubelet.
    pub kubelet: &'a str,
}

impl Node<'_> {
    /// The only node of most clusters.
    pub fn first(cluster: &Cluster) -> Node<'static> {
        let cgroup = format!("/skiff-{}", cluster.name());
        Node { name: "skiff-node", address: NODE, data: cluster.data(), cgroup, kubelet: "" }
    }

    /// The command lines of kubelet, service proxy, pod network, announcer and DNS, each with the name of its log.
    pub fn programs(&self, cluster: &Cluster) -> [(&'static str, String); 5] {
        let Node { name, address, data, cgroup, kubelet } = self;
        let pki = cluster.kubeconfig();
        let pki = pki.parent().map(Path::display).expect("a folder");
        let network = format!("--kubeconfig {pki}/kube-proxy.kubeconfig {RANGES} --cluster-dns 10.43.0.10");
        let kubelet = format!(
            "kubelet --kubeconfig {pki}/{name}.kubeconfig --hostname-override {name} --root-dir {} --node-ip {address} \
             --cluster-dns 10.43.0.10 --cgroup-root {cgroup} --tls-cert-file {pki}/{name}-serving.crt \
             --tls-private-key-file {pki}/{name}-serving.key --client-ca-file {pki}/ca.crt --network-plugin-mtu 1450 {kubelet}",
            data.display(),
        );
        let pods = format!(
            "pod-network --kubeconfig {pki}/kube-proxy.kubeconfig --node-kubeconfig {pki}/{name}.kubeconfig \
             --hostname-override {name} --node-ip {address}"
        );
        let announcer = format!(
            "announcer --kubeconfig {pki}/announcer.kubeconfig --hostname-override {name} --node-ip {address}"
        );
        [
            ("kubelet.log", kubelet),
            ("kube-proxy.log", format!("kube-proxy {network} --hostname-override {name}")),
            ("pod-network.log", pods),
            ("announcer.log", announcer),
            ("dns.log", format!("dns {network}")),
        ]
    }
}

/// Starts the node's side.
pub fn start_node(cluster: &Cluster, node: &Node<'_>) {
    for (log, arguments) in node.programs(cluster) {
        cluster.start_skiff(log, &arguments);
    }
}

const SLEEPER: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleeper}
spec:
  replicas: 1
  selector: {matchLabels: {app: sleeper}}
  template:
    metadata: {labels: {app: sleeper}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: "skiff.local/busybox:1.35", command: [sleep, "1000"]}]
"#;

#[test]
fn one_leads_and_each_says_how_it_is() {
    let Some(cluster) = Cluster::start("alone", Form::Components) else { return };
    let holder = |name: &str| holder(&cluster, name);
    assert!(holder("kube-controller-manager").starts_with("skiff-node_"));

    let first = holder("kube-scheduler");
    start_scheduler(&cluster, "second-scheduler.log", 10260);
    health(&cluster);
    metrics(&cluster);
    assert_eq!(holder("kube-scheduler"), first, "who leads goes on");
    cluster.kill_nine("secure-port 10259");
    until(10, "the second scheduler leads", || holder("kube-scheduler") != first);
    cluster.apply(SLEEPER);
    cluster.kubectl("rollout status deployment/sleeper --timeout=60s");
    deposed(&cluster);
    refused(&cluster);
    what_others_wrote_is_kept(&cluster);
    leaders_are_told_to_end(&cluster);
}

fn holder(cluster: &Cluster, name: &str) -> String {
    let lease = format!("get lease {name} --namespace kube-system");
    cluster.kubectl(&format!("{lease} -o jsonpath='{{.spec.holderIdentity}}'"))
}

/// The Leases are nobody's when they have ended, and whoever waits need not wait until they run out.
fn leaders_are_told_to_end(cluster: &Cluster) {
    start_scheduler(cluster, "third-scheduler.log", 10259);
    for name in ["kube-scheduler", "kube-controller-manager"] {
        until(30, name, || holder(cluster, name).starts_with("skiff-node_"));
        let process = cluster.process(&format!("skiff {name}")).expect("it leads");
        cluster.inside(&format!("kill {process}"));
        cluster.wait_for_end(&process);
        assert_eq!(holder(cluster, name), "", "{name}");
    }
}

/// A kubelet leaves alone what it does not know of its node's status, which a newer version may have written.
fn what_others_wrote_is_kept(cluster: &Cluster) {
    let node = "node/skiff-node";
    let newer = r#"{"status": {"features": {"supplementalGroupsPolicy": true}, "volumesInUse": ["a"]}}"#;
    cluster.kubectl(&format!("patch {node} --subresource=status --type=merge -p '{newer}'"));
    let beat = ".status.conditions[?(@.type==\"Ready\")].lastHeartbeatTime";
    let before = cluster.wait_for(10, node, beat, |time| !time.is_empty());
    cluster.replace_node();
    cluster.wait_for(60, node, beat, |time| time != before);
    cluster.wait_for(10, node, ".status.features.supplementalGroupsPolicy", |kept| kept == "true");
    cluster.wait_for(10, node, ".status.volumesInUse[*]", |kept| kept == "a");
}

/// Somebody takes the Lease by force: the leader ends, with upstream's words and exit code.
fn deposed(cluster: &Cluster) {
    let lease = "lease kube-scheduler --namespace kube-system";
    until(20, "the leader ends", || {
        cluster.kubectl(&format!(
            "patch {lease} --type=merge -p '{{\"spec\":{{\"holderIdentity\":\"thief\"}}}}'"
        ));
        cluster.process("skiff kube-scheduler").is_err()
    });
    let log = std::fs::read_to_string(cluster.state().join("second-scheduler.log")).expect("a log");
    assert!(log.contains("leaderelection lost"), "{log}");
}

fn health(cluster: &Cluster) {
    for url in [
        "https://127.0.0.1:10259",
        "https://127.0.0.1:10260",
        "https://127.0.0.1:10257",
        "http://127.0.0.1:10248",
        "http://127.0.0.1:10256",
    ] {
        for path in ["healthz", "livez", "readyz"] {
            let line = format!("curl -sk --max-time 5 -w ' %{{http_code}}' {url}/{path}");
            until(10, url, || cluster.try_inside(&line).is_ok_and(|answer| answer == "ok 200"));
        }
    }
}

/// For whom the API server allows it, and for nobody else.
fn metrics(cluster: &Cluster) {
    let ask = |header: &str, port: u16| {
        let format = "-w ' %{http_code}'";
        cluster.inside(&format!("curl -sk --max-time 5 {format} {header} https://127.0.0.1:{port}/metrics"))
    };
    assert!(ask("", 10259).ends_with(" 401"), "{}", ask("", 10259));
    cluster.kubectl("create serviceaccount reader");
    let token = cluster.kubectl("create token reader");
    let header = format!("-H 'Authorization: Bearer {token}'");
    assert!(ask(&header, 10259).ends_with(" 403"), "{}", ask(&header, 10259));
    cluster.kubectl("create clusterrole metrics --verb=get --non-resource-url=/metrics");
    cluster
        .kubectl("create clusterrolebinding metrics --clusterrole=metrics --serviceaccount=default:reader");
    until(10, "the right to read metrics", || ask(&header, 10259).ends_with(" 200"));
    let leads = |name: &str, value: u8| format!("leader_election_master_status{{name=\"{name}\"}} {value}\n");
    assert!(ask(&header, 10259).contains(&leads("kube-scheduler", 1)));
    assert!(ask(&header, 10260).contains(&leads("kube-scheduler", 0)));
    assert!(ask(&header, 10257).contains(&leads("kube-controller-manager", 1)));
}

/// What is wrong is said in words, and at once.
fn refused(cluster: &Cluster) {
    let pki = cluster.kubeconfig();
    let pki = pki.parent().map(Path::display).expect("a folder");
    let skiff = crate::machine::binary();
    let programs = Node::first(cluster).programs(cluster);
    let again = |name: &str| {
        let mut lines = programs.iter().map(|(_, line)| line);
        lines.find(|line| line.starts_with(name)).expect("a program").clone()
    };
    for (arguments, words) in [
        ("kube-scheduler --kubeconfig /none".to_owned(), "cannot read /none"),
        (
            format!("kube-scheduler --kubeconfig {pki}/scheduler.kubeconfig --profiling"),
            "unexpected argument '--profiling'",
        ),
        (
            format!(
                "kube-scheduler --kubeconfig {pki}/scheduler.kubeconfig --secure-port 0 --leader-elect-lease-duration 5s"
            ),
            "the lease duration must be greater than the renew deadline",
        ),
        (
            format!("kube-scheduler --kubeconfig {pki}/scheduler.kubeconfig --secure-port 6443"),
            "cannot listen on 0.0.0.0:6443",
        ),
        (
            format!(
                "kube-controller-manager --kubeconfig {pki}/controller-manager.kubeconfig --controllers=*,-weather"
            ),
            "is not in the list of known controllers",
        ),
        (
            format!(
                "kube-controller-manager --kubeconfig {pki}/controller-manager.kubeconfig --cluster-cidr 10.0.0.0/8 \
                 --service-cluster-ip-range 10.43.0.0/16"
            ),
            "--cluster-cidr: cluster CIDR 10.0.0.0/8 overlaps with service CIDR 10.43.0.0/16",
        ),
        (
            format!(
                "kube-proxy --kubeconfig {pki}/kube-proxy.kubeconfig --cluster-cidr 10.42.0.0/16 --cluster-dns 10.42.0.10 \
                 --service-cluster-ip-range 10.42.0.0/24 --healthz-bind-address 127.0.0.1:10299"
            ),
            "--cluster-cidr: cluster CIDR 10.42.0.0/16 overlaps with service CIDR 10.42.0.0/24",
        ),
        (format!("kube-scheduler --config {pki}/ca.crt"), "not a KubeSchedulerConfiguration"),
        (
            format!(
                "kube-proxy --kubeconfig {pki}/kube-proxy.kubeconfig {RANGES} --cluster-dns 10.43.0.10 --proxy-mode ebpf"
            ),
            "must be nftables, iptables or ipvs",
        ),
        (
            format!(
                "kubelet --kubeconfig {pki}/skiff-node.kubeconfig --config {pki}/ca.crt --healthz-port 0"
            ),
            "--config",
        ),
        // What is asked for a second time on a node.
        (format!("{} --healthz-port 0", again("kubelet")), ":10250: Address already in use"),
        (again("kube-proxy"), "--healthz-bind-address: cannot listen on 0.0.0.0:10256"),
    ] {
        let said =
            cluster.try_inside(&format!("timeout 10 {} {arguments}", skiff.display())).expect_err(&arguments);
        assert!(said.contains(words), "{arguments}: {said}");
    }
}

const PAIR: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: NAME, labels: {pod: NAME}}
spec:
  nodeName: HOST
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: skiff.local/busybox:1.35
      # Whom it was asked by, and a page that fills packets.
      command: [sh, -c, "mkdir -p /www/cgi-bin; printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' >/www/cgi-bin/who; chmod +x /www/cgi-bin/who; head -c 100000 /dev/zero >/www/large; exec httpd -f -p 8080 -h /www"]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
"#;

/// With `skiff pod-network` on each node, pods reach pods and Services of other nodes, and are known there by their own
/// addresses.
#[test]
fn pods_of_separate_components_reach_each_other_across_nodes() {
    let Some(cluster) = Cluster::start("network", Form::Components) else { return };
    let second = Neighbour::connect(&cluster, "second", "172.30.0.3");
    second.start_components("");
    cluster.kubectl("wait --for=create node/second --timeout=60s");
    cluster.kubectl("wait --for=condition=Ready node/second --timeout=60s");
    for (name, node) in [("here", "skiff-node"), ("there", "second")] {
        cluster.apply(&PAIR.replace("NAME", name).replace("HOST", node));
    }
    cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: pair}, spec: {selector: {pod: there}, ports: [{port: 80, targetPort: 8080}]}}",
    );
    cluster.kubectl("wait --for=condition=Ready pod/here pod/there --timeout=60s");
    let address = |pod: &str| cluster.kubectl(&format!("get pod {pod} -o jsonpath='{{.status.podIP}}'"));
    let (here, there) = (address("here"), address("there"));
    // Through the network of a pod's process: the images have no shell for kubectl to run.
    let ask = |pod: &str, what: &str| {
        let process = cluster.container_process(pod);
        cluster.try_inside(&format!("nsenter --target {process} --net -- curl -s --max-time 2 {what}"))
    };
    until(30, "the pods reach each other", || {
        ask("here", &format!("http://{there}:8080/cgi-bin/who")).is_ok_and(|by| by.contains(&here))
    });
    let size = ask("here", &format!("-o /dev/null -w '%{{size_download}}' http://{there}:8080/large"));
    assert_eq!(size.as_deref(), Ok("100000"));
    let service = cluster.kubectl("get service pair -o jsonpath='{.spec.clusterIP}'");
    let who = format!("http://{service}/cgi-bin/who");
    until(30, "the Service leads to the other node", || ask("here", &who).is_ok_and(|by| by.contains(&here)));
}
