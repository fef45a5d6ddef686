//! Several nodes, made by `skiff cluster`: pods reach pods on other nodes, and nothing is left of a cluster, however far its
//! making got. What dying parts cost is in `outages`.

#![expect(clippy::disallowed_methods, reason = "an end-to-end test is what starts the processes under test")]

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::machine::{binary, missing, repository, until};
use crate::outages;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector: {matchLabels: {app: web}}
      tolerations:
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers:
        - name: web
          image: skiff.local/busybox:1.35
          command:
            - sh
            - -c
            - |
              mkdir -p /www/cgi-bin
              hostname > /www/index.html
              cp /bin/busybox /www/busybox
              printf '#!/bin/sh\necho\necho $REMOTE_ADDR\n' > /www/cgi-bin/from
              chmod +x /www/cgi-bin/from
              exec httpd -f -p 8080 -h /www
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
        # One that resolves names as applications do.
        - {name: client, image: "skiff.local/nginx:1.22", command: [sh, -c, "while :; do sleep 1; done"]}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// The containers of a node.
pub const TASKS: &str =
    "ctr --address /var/lib/skiff/agent/containerd/containerd.sock --namespace k8s.io tasks list";

/// What says why a cluster does not do as it should.
const QUESTIONS: [&str; 5] = [
    "get nodes,pods -A -o wide",
    "get nodes -o jsonpath='{range .items[*]}{.metadata.name} is tainted: {.spec.taints}{\"\\n\"}{end}'",
    "get nodes -o jsonpath='{range .items[*]}{.metadata.name}: {range .status.conditions[*]}{.type}={.status} {end}{\"\\n\"}{end}'",
    "get leases -n kube-system",
    "get events -A --sort-by=.metadata.creationTimestamp",
];

/// A cluster of several nodes, in a folder of its own.
pub struct Cluster {
    root: PathBuf,
}

impl Cluster {
    /// A place for one; `None`, loudly, where that is impossible and nobody insists on it.
    pub fn place(name: &str) -> Option<Cluster> {
        if let Some(missing) = missing() {
            assert!(std::env::var_os("SKIFF_REQUIRE_CONTAINERD").is_none(), "cannot run: {missing}");
            eprintln!("SKIPPED {name}: {missing}");
            return None;
        }
        let cluster = Cluster { root: repository().join("out/clusters").join(name) };
        cluster.skiff("delete").expect("nothing is left of an earlier run");
        Some(cluster)
    }

    pub fn folder(&self) -> PathBuf {
        self.root.join("default")
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("cluster").args(words).env("SKIFF_CLUSTERS", &self.root);
        command.current_dir(repository()).stdin(Stdio::null());
        command
    }

    /// `skiff cluster` with words between blanks as its arguments.
    pub fn skiff(&self, words: &str) -> Result<String, String> {
        text(self.command(&words.split(' ').collect::<Vec<_>>()).output().expect("it starts"))
    }

    pub fn create(&self, arguments: &str) {
        let images = "--image out/images/busybox.tar --image out/images/nginx.tar";
        self.skiff(&format!("create {images} {arguments}")).unwrap_or_else(|error| panic!("{error}"));
    }

    /// A line of shell on a node.
    pub fn on(&self, node: &str, line: &str) -> Result<String, String> {
        text(self.command(&["exec", node, "--", "sh", "-c", line]).output().expect("it starts"))
    }

    pub fn kubectl(&self, line: &str) -> Result<String, String> {
        let kubeconfig = self.folder().join("kubeconfig");
        let line = format!("out/bin/kubectl --kubeconfig {} {line}", kubeconfig.display());
        text(Command::new("sh").args(["-c", &line]).current_dir(repository()).output().expect("a shell"))
    }

    pub fn must(&self, line: &str) -> String {
        self.kubectl(line).unwrap_or_else(|error| panic!("{line}: {error}\n{}", self.diagnosis()))
    }

    /// What a person would look at first.
    fn diagnosis(&self) -> String {
        let asked = QUESTIONS.map(|line| self.kubectl(line).unwrap_or_else(|error| error));
        let logs = self.kubectl("get nodes -o jsonpath='{.items[*].metadata.name}'").unwrap_or_default();
        let logs = logs.split_whitespace().map(|node| {
            let line = "tail -n 40 /var/lib/skiff/skiff.log; tail -n 20 /var/lib/skiff/agent/agent.log; df -i /var/lib/skiff; df /var/lib/skiff";
            format!("{node}:\n{}", self.on(node, line).unwrap_or_else(|error| error))
        });
        asked.into_iter().chain(logs).collect::<Vec<_>>().join("\n")
    }

    /// Applies manifests.
    pub fn apply(&self, manifest: &str) {
        let file = self.folder().join("web.yaml");
        std::fs::write(&file, manifest).expect("a manifest");
        self.must(&format!("apply -f {}", file.display()));
    }

    /// The process that is the switch between nodes.
    pub fn switch(&self) -> String {
        let line = format!("exec pgrep --oldest --full 'cluster run-switch {}$'", self.folder().display());
        text(Command::new("sh").args(["-c", &line]).output().expect("a shell")).expect("it runs")
    }

    /// What kubectl prints as JSON.
    pub fn get(&self, what: &str) -> Value {
        serde_json::from_str(&self.must(&format!("get {what} -o json"))).expect("kubectl prints JSON")
    }

    /// The pods of an application that nobody has told to go.
    pub fn pods(&self, app: &str) -> Vec<Pod> {
        let list = self.get(&format!("pods -l app={app}"));
        let items = list["items"].as_array().expect("a list");
        let staying = items.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let pod = |pod: &Value| Pod {
            name: word(&pod["metadata"]["name"]),
            node: word(&pod["spec"]["nodeName"]),
            address: word(&pod["status"]["podIP"]),
            ready: pod["status"]["containerStatuses"]
                .as_array()
                .is_some_and(|containers| containers.iter().all(|container| container["ready"] == true)),
        };
        staying.map(pod).collect()
    }

    /// The address of the application's Service.
    pub fn service(&self) -> String {
        self.must("get service web -o jsonpath='{.spec.clusterIP}'")
    }

    /// The process of a pod's container, as its node counts.
    pub fn process(&self, pod: &Pod, container: &str) -> String {
        let id = self.must(&format!(
            "get pod {} -o jsonpath='{{.status.containerStatuses[?(@.name==\"{container}\")].containerID}}'",
            pod.name
        ));
        let find =
            format!("{TASKS} | awk '$1 == \"{}\" {{ print $2 }}'", id.trim_start_matches("containerd://"));
        self.on(&pod.node, &find).expect("a process")
    }

    /// A line of shell in a pod's network, with the pod's files.
    fn in_pod(&self, pod: &Pod, line: &str) -> Result<String, String> {
        let process = self.process(pod, "client");
        let enter = [
            "exec", &pod.node, "--", "nsenter", "--target", &process, "--net", "--mount", "--", "/bin/sh",
            "-c", line,
        ];
        text(self.command(&enter).output().expect("it starts"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::env::var_os("SKIFF_KEEP").is_none() {
            let ended = self.skiff("delete");
            // A second panic would hide the first.
            if !std::thread::panicking() {
                ended.expect("nothing is left");
            }
        }
    }
}

#[derive(Debug)]
pub struct Pod {
    pub name: String,
    pub node: String,
    pub address: String,
    pub ready: bool,
}

pub fn text(output: Output) -> Result<String, String> {
    let out = String::from_utf8_lossy(&output.stdout).trim_end().to_owned();
    match output.status.success() {
        true => Ok(out),
        false => Err(format!("{}: {out}{}", output.status, String::from_utf8_lossy(&output.stderr))),
    }
}

#[test]
fn nodes_are_one_network_and_do_without_their_control_plane() {
    let Some(cluster) = Cluster::place("network") else { return };
    cluster.create("--nodes 4");
    cluster.apply(WEB);
    cluster.must("rollout status deployment/web --timeout=90s");

    pods_reach_each_other(&cluster);
    network_is_repaired(&cluster);
    outages::control_plane_is_away_for_a_minute(&cluster);
    outages::server_is_cut_off(&cluster);
}

/// By address, by Service and by name, and whoever is asked sees who asks.
fn pods_reach_each_other(cluster: &Cluster) {
    let pods = cluster.pods("web");
    let nodes: BTreeSet<&str> = pods.iter().map(|pod| pod.node.as_str()).collect();
    assert_eq!(nodes.len(), 4, "one on each node: {pods:?}");
    for from in &pods {
        for to in &pods {
            let line = format!("timeout 5 wget -q -O - http://{}:8080/cgi-bin/from", to.address);
            let seen =
                cluster.in_pod(from, &line).unwrap_or_else(|error| panic!("{from:?} to {to:?}: {error}"));
            assert!(seen.contains(&from.address), "{to:?} saw {seen} instead of {from:?}");
        }
        for place in [cluster.service(), "web".to_owned(), "web.default.svc.cluster.local".to_owned()] {
            let line = format!(
                "for i in $(seq 40); do timeout 5 wget -q -O - http://{place}/ || echo failed; done | sort -u"
            );
            let answers =
                cluster.in_pod(from, &line).unwrap_or_else(|error| panic!("{from:?} to {place}: {error}"));
            assert_eq!(answers.lines().count(), 4, "from {from:?} to {place}: {answers}");
        }
    }
    let sizes = cluster.on("node-2", "ip -o link show skiff-pods; ip -o link show skiff-vxlan");
    assert_eq!(sizes.expect("links").matches("mtu 1450").count(), 2);
    // Many packets as large as they may be: the program is larger than half a million bytes.
    let far = pods.iter().find(|pod| pod.node == "node-3").expect("a pod on node-3");
    let line = format!("curl -s --max-time 10 http://{}:8080/busybox | wc -c", far.address);
    let size: u64 =
        cluster.on("node-2", &line).expect("large packets pass").trim().parse().expect("a number");
    assert!(size > 500_000, "{size}");
}

/// What somebody deletes comes back.
fn network_is_repaired(cluster: &Cluster) {
    let pods = cluster.pods("web");
    let far = pods.iter().find(|pod| pod.node == "node-3").expect("a pod on node-3");
    cluster.on("node-2", "ip link delete skiff-vxlan").expect("deleted");
    let line = format!("curl -s --max-time 1 http://{}:8080/", far.address);
    until(10, "the device is made again", || cluster.on("node-2", &line).is_ok());
}

/// All of this machine that a cluster could leave behind, apart from processes.
pub fn traces(cluster: &Cluster) -> Vec<String> {
    let folder = cluster.folder();
    let shell = |line: &str| text(Command::new("sh").args(["-c", line]).output().expect("a shell"));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let ours = |line: &&str| line.contains(&*folder.to_string_lossy());
    let mut found: Vec<String> = mounts.lines().filter(ours).map(str::to_owned).collect();
    for line in [
        "ip -brief link",
        "ip route",
        "nft list tables",
        "find /sys/fs/cgroup -path '*skiff-default*' -type d",
    ] {
        found.push(shell(line).unwrap_or_else(|error| error));
    }
    found.push(format!("files: {}", folder.exists()));
    found
}

/// The namespaces of all processes whose arguments mention the cluster, and those processes.
pub fn processes(cluster: &Cluster) -> (BTreeSet<PathBuf>, Vec<PathBuf>) {
    let folder = cluster.folder().to_string_lossy().into_owned();
    let mut namespaces = BTreeSet::new();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&words).contains(&folder) {
            namespaces.extend(namespaces_of(&entry.path()));
            found.push(entry.path());
        }
    }
    (namespaces, found)
}

fn namespaces_of(process: &Path) -> Vec<PathBuf> {
    let own = |kind: &str| std::fs::read_link(Path::new("/proc/self/ns").join(kind)).ok();
    let kinds = ["net", "mnt", "pid"].into_iter();
    let of = |kind: &str| {
        std::fs::read_link(process.join("ns").join(kind))
            .ok()
            .filter(|found| Some(found) != own(kind).as_ref())
    };
    kinds.filter_map(of).collect()
}

/// Nobody is in any of the namespaces any more.
pub fn assert_gone(cluster: &Cluster, namespaces: &BTreeSet<PathBuf>) {
    assert_eq!(processes(cluster).1, Vec::<PathBuf>::new());
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let inside = namespaces_of(&entry.path()).into_iter().any(|own| namespaces.contains(&own));
        assert!(!inside, "{} is left", entry.path().display());
    }
}

#[test]
fn nothing_is_left_of_a_cluster() {
    let Some(cluster) = Cluster::place("traces") else { return };
    let before = traces(&cluster);
    cluster.create("--nodes 2");
    let again = cluster.skiff("create").expect_err("it is there");
    assert!(again.contains("exists already"), "{again}");
    assert!(cluster.skiff("list").expect("a list").contains("default              2        2"));
    assert_ne!(traces(&cluster), before, "the test sees what a cluster is");
    let (namespaces, _) = processes(&cluster);
    assert!(namespaces.len() >= 7, "{namespaces:?}");
    cluster.skiff("stop node-2").expect("stopped");
    cluster.skiff("delete").expect("deleted");
    assert_gone(&cluster, &namespaces);
    assert_eq!(traces(&cluster), before);
}

/// Makes a cluster, and lets it hear a signal once a file of it is there, which must end it. What INT is sent to is what
/// Ctrl-C reaches: the process and whatever it has started, apart from what is to stay.
pub fn interrupt(cluster: &Cluster, words: &str, file: &str, signal: &str) {
    let mut making = cluster.command(&words.split(' ').collect::<Vec<_>>());
    let making = making.process_group(0).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut making = making.expect("it starts");
    until(60, file, || cluster.folder().join(file).exists());
    let (namespaces, _) = processes(cluster);
    let group = if signal == "INT" { "-" } else { "" };
    let who = format!("{group}{}", making.id());
    let told = Command::new("kill").args([&format!("-{signal}"), "--", &who]).output();
    text(told.expect("kill starts")).expect("it is told");
    assert!(!making.wait().expect("it ends").success(), "{signal} at {file}");
    if signal == "KILL" {
        cluster.skiff("delete").expect("deleted");
    }
    assert_gone(cluster, &namespaces);
}

/// Told to stop, killed, or failing: at any time.
#[test]
fn nothing_is_left_of_a_cluster_that_was_not_finished() {
    let Some(cluster) = Cluster::place("unfinished") else { return };
    let before = traces(&cluster);
    for (file, signal) in [
        ("cluster.json", "INT"),
        ("nodes/node-1/state", "INT"),
        ("nodes/node-2/state", "TERM"),
        ("kubeconfig", "INT"),
        ("nodes/node-1/state", "KILL"),
        ("nodes/node-2/var-lib/skiff/join-token", "KILL"),
    ] {
        interrupt(&cluster, "create --nodes 2", file, signal);
        assert_eq!(traces(&cluster), before, "{signal} at {file}");
    }
    let refused = cluster.skiff("create --nodes 2 --image /no/such.tar").expect_err("no such file");
    assert!(refused.contains("/no/such.tar is not an image archive"), "{refused}");
    let late = cluster.skiff("create --nodes 2 --timeout 0").expect_err("nobody is that fast");
    assert!(late.contains("not ready within 0ns: node-1 has not joined"), "{late}");
    assert_eq!(traces(&cluster), before);
}
