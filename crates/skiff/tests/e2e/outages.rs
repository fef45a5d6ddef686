//! Parts of a cluster of several nodes die, are cut off or are drained, on real packets and containers: what serves goes on
//! serving, what is lost is replaced, nothing is there twice, and nobody is evicted because of somebody else's trouble.

#![expect(clippy::disallowed_methods, reason = "an outage takes its time")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cluster::{Cluster, Pod, TASKS};
use crate::load::Load;
use crate::machine::{repository, until};

/// How long the control plane is away.
const OUTAGE: Duration = Duration::from_secs(60);

/// A pod whose container will crash.
const MORTAL: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: mortal, labels: {app: mortal}}
spec:
  nodeName: node-3
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: "skiff.local/busybox:1.35", command: [sh, -c, "while :; do sleep 1; done"]}]
"#;

/// What is asked for as soon as somebody can be asked.
const LATER: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: later}
spec:
  replicas: 2
  selector: {matchLabels: {app: later}}
  template:
    metadata: {labels: {app: later}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: web
          image: skiff.local/busybox:1.35
          command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: later}
spec: {selector: {app: later}, ports: [{port: 80, targetPort: 8080}]}
"#;

/// The address and the node of each endpoint of a Service that is ready.
fn endpoints(cluster: &Cluster, service: &str) -> BTreeSet<(String, String)> {
    let slices = cluster.get(&format!("endpointslices -l kubernetes.io/service-name={service}"));
    let lists = slices["items"].as_array().into_iter().flatten();
    let all = lists.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let ready = all.filter(|endpoint| endpoint["conditions"]["ready"] == true);
    ready.map(|endpoint| (word(&endpoint["addresses"][0]), word(&endpoint["nodeName"]))).collect()
}

/// The endpoints are exactly so many ready pods.
fn leads_to_all(cluster: &Cluster, service: &str, count: usize) -> bool {
    let pods = cluster.pods(service).into_iter().filter(|pod| pod.ready);
    let pods: BTreeSet<_> = pods.map(|pod| (pod.address, pod.node)).collect();
    pods.len() == count && endpoints(cluster, service) == pods
}

/// The status of the condition `Ready` of a node.
fn ready(node: &str) -> String {
    format!("get node {node} -o jsonpath='{{.status.conditions[?(@.type==\"Ready\")].status}}'")
}

fn restarts(cluster: &Cluster, app: &str) -> String {
    let path = "{.items[*].status.containerStatuses[*].restartCount}";
    cluster.must(&format!("get pods -l app={app} -o jsonpath='{path}'"))
}

/// The containers that run on a node, sandboxes among them.
fn running(cluster: &Cluster, node: &str) -> Vec<String> {
    let list = cluster.on(node, TASKS).unwrap_or_default();
    list.lines().filter(|line| line.ends_with("RUNNING")).map(str::to_owned).collect()
}

/// The control plane is killed and stays away for a minute, while requests come from another node through a Service, and a
/// container crashes. The application is the Deployment `web`.
pub fn control_plane_is_away_for_a_minute(cluster: &Cluster) {
    cluster.apply(MORTAL);
    cluster.must("wait --for=condition=Ready pod/mortal --timeout=60s");
    let mortal = cluster.pods("mortal").pop().expect("a pod");
    let doomed = cluster.process(&mortal, "main");
    let whole = running(cluster, &mortal.node).len();

    let load = Load::start(cluster, "node-2");
    cluster.on("node-1", "exec pkill -9 -f \"skiff serve[r]\"").expect("killed");
    let away = Instant::now();
    cluster.kubectl("get nodes --request-timeout=2s").expect_err("nobody answers");
    cluster.on(&mortal.node, &format!("kill -9 {doomed}")).expect("it crashes");
    until(40, "its kubelet restarts the crashed container", || {
        let tasks = running(cluster, &mortal.node);
        tasks.len() == whole && !tasks.iter().any(|task| task.split_whitespace().any(|word| word == doomed))
    });
    cluster.kubectl("get nodes --request-timeout=2s").expect_err("still nobody answers");
    std::thread::sleep(OUTAGE.saturating_sub(away.elapsed()));

    let back = Instant::now();
    cluster.skiff("start node-1").expect("started");
    converges(cluster, back);
    load.end();
    assert_eq!(restarts(cluster, "web"), "0 0 0 0 0 0 0 0");
    cluster.must("delete deployment/later service/later pod/mortal --timeout=60s");
}

/// Everything is right again within half a minute, and what is new is done.
fn converges(cluster: &Cluster, back: Instant) {
    let left = || 30_u64.saturating_sub(back.elapsed().as_secs());
    until(left(), "the API server is back", || cluster.kubectl("get --raw /readyz").is_ok());
    cluster.apply(LATER);
    until(left(), "the crash is known", || restarts(cluster, "mortal") == "1");
    cluster.must(&format!("wait --for=condition=Ready node --all --timeout={}s", left()));
    until(left(), "the new Deployment is ready", || leads_to_all(cluster, "later", 2));
    until(left(), "the old one has its endpoints", || leads_to_all(cluster, "web", 4));
    let line = format!(
        "curl -s --max-time 1 http://{}/",
        cluster.must("get service later -o jsonpath='{.spec.clusterIP}'")
    );
    until(left(), "the new Service answers", || cluster.on("node-4", &line).is_ok());
    assert!(back.elapsed() <= Duration::from_secs(30), "{:?}", back.elapsed());
    eprintln!("converged {:?} after the start", back.elapsed());
}

/// Name, identity and fate of all pods.
fn fates(cluster: &Cluster) -> Vec<String> {
    let path =
        r#"{range .items[*]}{.metadata.name} {.metadata.uid} {.metadata.deletionTimestamp}{"\n"}{end}"#;
    let list = cluster.must(&format!("get pods -o jsonpath='{path}'"));
    list.lines().map(str::to_owned).collect()
}

/// All nodes but the server's own lose it for longer than they may be silent; their pods tolerate that for five seconds.
/// Whoever is lost first, and whoever is heard again last, loses nothing.
pub fn server_is_cut_off(cluster: &Cluster) {
    let before = fates(cluster);
    let reach = "curl -s -k --max-time 1 https://172.30.0.2:6443/healthz";
    cluster.on("node-2", reach).expect("the server is reached");
    cluster.skiff("partition node-1").expect("cut off");
    cluster.on("node-2", reach).expect_err("the server is not reached");

    let kubectl = repository().join("out/bin/kubectl");
    let inside = |line: &str| {
        let kubeconfig = "/var/lib/skiff/server/cred/admin.kubeconfig";
        let line = format!("{} --kubeconfig {kubeconfig} {line}", kubectl.display());
        cluster.on("node-1", &line).unwrap_or_else(|error| panic!("{line}: {error}"))
    };
    for node in ["node-2", "node-3", "node-4"] {
        until(70, "a silent node is known", || inside(&ready(node)) == "Unknown");
    }
    // In this time each of them would be emptied, one every ten seconds, were it alone.
    std::thread::sleep(Duration::from_secs(15));
    let evicting = "get nodes -o jsonpath='{.items[*].spec.taints[?(@.effect==\"NoExecute\")].key}'";
    assert_eq!(inside(evicting), "");

    cluster.skiff("heal").expect("healed");
    for node in ["node-2", "node-3", "node-4"] {
        until(60, "a node is heard again", || {
            cluster.kubectl(&ready(node)).is_ok_and(|status| status == "True")
        });
    }
    until(30, "all endpoints are back", || leads_to_all(cluster, "web", 4));
    assert_eq!(fates(cluster), before);
    let events = cluster.must("get events --field-selector reason=TaintManagerEviction -o name");
    assert_eq!(events, "", "nobody was marked for deletion");
    assert_eq!(restarts(cluster, "web"), "0 0 0 0 0 0 0 0");
}

/// They run on nodes with the label `disk=ssd`, and tolerate a node's trouble for five seconds.
const APPLICATION: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 10
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]
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
          command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
          resources: {requests: {cpu: 100m}}
          readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
          # Requests may come until every node knows that it goes.
          lifecycle: {preStop: {exec: {command: [sleep, "3"]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: web}
spec: {minAvailable: 2, selector: {matchLabels: {app: web}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 1
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms: [{matchExpressions: [{key: disk, operator: In, values: [ssd]}]}]
      tolerations:
        - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
        - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 5}
      containers: [{name: db, image: "skiff.local/busybox:1.35", command: [sh, -c, "while :; do sleep 1; done"]}]
"#;

#[test]
fn nodes_are_drained_and_die() {
    let Some(cluster) = Cluster::place("outages") else { return };
    cluster.create("--nodes 6");
    cluster.must("label node node-4 disk=ssd");
    cluster.apply(APPLICATION);
    cluster.must("rollout status deployment/web --timeout=90s");
    cluster.must("rollout status statefulset/db --timeout=90s");

    node_is_drained(&cluster);
    two_nodes_die(&cluster);
}

fn nodes_of(pods: &[Pod]) -> BTreeSet<&str> {
    pods.iter().map(|pod| pod.node.as_str()).collect()
}

/// Everything is on node-4, which is emptied under a budget while requests come.
fn node_is_drained(cluster: &Cluster) {
    assert_eq!(nodes_of(&cluster.pods("web")), ["node-4"].into());
    until(30, "the budget is known", || {
        cluster.must("get pdb web -o jsonpath='{.status.disruptionsAllowed}'") == "1"
    });
    cluster.must("label node node-5 node-6 disk=ssd");
    let load = Load::start(cluster, "node-2");
    cluster.must("cordon node-4");
    let drained = cluster.must("drain node-4 --ignore-daemonsets --timeout=120s 2>&1");
    cluster.must("rollout status deployment/web --timeout=60s");
    cluster.must("rollout status statefulset/db --timeout=60s");
    assert!(drained.contains("would violate the pod's disruption budget"), "one after the other: {drained}");
    assert!(drained.contains("pod/db-0 evicted"), "{drained}");
    assert_eq!(nodes_of(&cluster.pods("web")), ["node-5", "node-6"].into());
    assert_ne!(cluster.pods("db")[0].node, "node-4");
    cluster.must("uncordon node-4");
    until(30, "pods may come again", || {
        cluster.must("get node node-4 -o jsonpath='{.spec.unschedulable}{.spec.taints}'").is_empty()
    });
    load.end();
    assert_eq!(restarts(cluster, "web"), "0 0 0");
}

/// Both nodes of the application lose their power. Of those that are left one has no room, one is tainted, two have no
/// label: all goes to node-4. One comes back as it is; of the other somebody says that it does not.
fn two_nodes_die(cluster: &Cluster) {
    only_one_node_will_do(cluster);
    let db = cluster.pods("db").pop().expect("a pod");
    let (without, with) = if db.node == "node-5" { ("node-6", "node-5") } else { ("node-5", "node-6") };
    // A node that dies right after a sign of life is missed only when its whole grace is over.
    let signs = || {
        let leases = "get leases -n kube-node-lease node-5 node-6";
        cluster.must(&format!("{leases} -o jsonpath='{{.items[*].spec.renewTime}}'"))
    };
    until(60, "the last signs of life are seconds old", || {
        let before = signs();
        std::thread::sleep(Duration::from_secs(3));
        signs() == before
    });
    cluster.skiff("kill node-5 node-6").expect("killed");
    let died = Instant::now();
    for node in [without, with] {
        until(60, "the node is known to be dead", || cluster.must(&ready(node)) == "Unknown");
        eprintln!("{node} is not ready {:?} after its death", died.elapsed());
        assert!(died.elapsed() <= Duration::from_secs(50), "{:?}", died.elapsed());
        until(10, "its endpoints are gone", || {
            endpoints(cluster, "web").iter().all(|(_, place)| place != node)
        });
    }
    until(90, "its pods run where they may", || leads_to_all(cluster, "web", 3));
    assert_eq!(nodes_of(&cluster.pods("web")), ["node-4"].into());
    let waits = "get pod db-0 -o jsonpath='{.spec.nodeName} {.metadata.deletionTimestamp}'";
    let waiting = cluster.must(waits);
    assert!(waiting.starts_with(&format!("{with} 2")), "told to go, and not replaced: {waiting}");

    comes_back(cluster, without);
    assert_eq!(cluster.must(waits), waiting, "it waits");
    let taint = format!("taint node {with} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute");
    cluster.must(&taint);
    until(60, "the StatefulSet's pod moves", || {
        cluster.pods("db").first().is_some_and(|pod| pod.ready && pod.node != with)
    });
    let left = format!("get pods --field-selector spec.nodeName={with} -o name");
    until(60, "nothing is said to be there", || cluster.must(&left).is_empty());
    let settled = fates(cluster);
    comes_back(cluster, with);
    cluster.must(&format!("{taint}-"));
    assert_eq!(fates(cluster), settled);
    assert!(leads_to_all(cluster, "web", 3), "{:?}", cluster.pods("web"));
}

fn only_one_node_will_do(cluster: &Cluster) {
    cluster.must("label node node-2 node-3 disk=ssd");
    cluster.must("taint node node-2 reserved=others:NoSchedule");
    let room = cluster.must("get node node-3 -o jsonpath='{.status.allocatable.cpu}'");
    let room: u64 = match room.strip_suffix('m') {
        Some(room) => room.parse().expect("a number"),
        None => room.parse::<u64>().expect("a number") * 1000,
    };
    cluster.apply(&format!(
        r#"
apiVersion: v1
kind: Pod
metadata: {{name: filler}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {{kubernetes.io/hostname: node-3}}
  containers:
    - name: main
      image: skiff.local/busybox:1.35
      command: [sh, -c, "while :; do sleep 1; done"]
      resources: {{requests: {{cpu: {}m}}}}
"#,
        room - 50
    ));
    cluster.must("wait --for=condition=Ready pod/filler --timeout=60s");
}

/// Of what was told to go meanwhile nothing is left, and nothing of it runs.
fn comes_back(cluster: &Cluster, node: &str) {
    cluster.skiff(&format!("start {node}")).expect("started");
    until(60, "the node is back", || cluster.must(&ready(node)) == "True");
    let left = format!("get pods --field-selector spec.nodeName={node} -o name");
    until(60, "its pods are gone", || cluster.must(&left).is_empty());
    until(30, "nothing runs", || cluster.on(node, TASKS).is_ok() && running(cluster, node).is_empty());
}
