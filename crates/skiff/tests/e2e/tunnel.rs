//! A control plane without a node, and a node that it cannot reach: what is for the node goes through the tunnel that the node
//! opens. And certificates that are renewed while the node runs.

use crate::machine::{Cluster, Form, NODE, until};
use crate::neighbour::Neighbour;

const NAME: &str = "far";
const ADDRESS: &str = "172.30.0.3";

/// Two that serve: one at an address of its own, one at the node's.
const SERVED: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: skiff.local/busybox:1.35
      command: [sh, -c, "mkdir /www; echo served > /www/index.html; exec httpd -f -p 8080 -h /www"]
      ports: [{containerPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: host, labels: {app: host}}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
    - name: web
      image: skiff.local/busybox:1.35
      command: [sh, -c, "mkdir /www; echo on the host > /www/index.html; httpd -p 9101 -h /www; exec httpd -f -p 9100 -h /www"]
      ports: [{containerPort: 9100}]
---
apiVersion: v1
kind: Service
metadata: {name: host}
spec: {selector: {app: host}, ports: [{name: http, port: 80, targetPort: 9100}]}
"#;

/// A control plane without a node, started with these arguments as well.
fn control_plane(name: &str, arguments: &str) -> Option<Cluster> {
    let cluster = Cluster::machine(name, Form::Server)?;
    cluster.prepare();
    cluster.start_skiff("server.log", &format!("{} --disable-agent {arguments}", cluster.server_arguments()));
    cluster.wait_for_server();
    Some(cluster)
}

/// The node, and a pod on it that says hello.
fn node(cluster: &Cluster) -> Neighbour<'_> {
    let machine = Neighbour::connect(cluster, NAME, ADDRESS);
    let agent = format!(
        "agent --server https://{NODE}:6443 --token-file {} --data-dir {} --node-name {NAME} --node-ip {ADDRESS} --cgroup-root {}",
        cluster.data().join("server/node-token").display(),
        machine.data().display(),
        machine.cgroup(),
    );
    machine.start(&[("agent.log", agent)]);
    cluster.kubectl(&format!("wait --for=create node/{NAME} --timeout=60s"));
    cluster.kubectl(&format!("wait --for=condition=Ready node/{NAME} --timeout=60s"));
    cluster.kubectl("wait --for=create serviceaccount/default --timeout=30s");
    cluster.kubectl("run there --image=skiff.local/busybox:1.35 -- sh -c 'echo hello; exec sleep 1000'");
    cluster.kubectl("wait --for=condition=Ready pod/there --timeout=60s");
    machine
}

#[test]
fn what_the_control_plane_cannot_reach_it_reaches_through_the_nodes_tunnel() {
    let Some(cluster) = control_plane("tunnel", "") else { return };
    let machine = node(&cluster);
    // From now on the node's side must begin every connection.
    cluster.inside(&format!(
        "nft add table inet e2e; nft add chain inet e2e out '{{ type filter hook output priority 0; }}'; \
         nft add chain inet e2e in '{{ type filter hook input priority 0; }}'; \
         nft add rule inet e2e out ip daddr {ADDRESS} ct state new drop"
    ));
    let direct = format!("curl -sk --max-time 2 https://{ADDRESS}:10250/healthz");
    let refused = cluster.try_inside(&direct).expect_err("there is no direct way");
    assert!(refused.contains("28"), "curl says that it timed out: {refused}");
    until(60, "the tunnel is open", || cluster.try_kubectl("logs there").is_ok_and(|log| log == "hello"));
    what_runs_on_the_node_is_asked_through_the_server(&cluster);

    // No packet gets through any more, and nobody is told.
    cluster.inside(&format!(
        "nft insert rule inet e2e out ip daddr {ADDRESS} drop; nft insert rule inet e2e in ip saddr {ADDRESS} drop"
    ));
    let words = format!(
        "Get \"https://{ADDRESS}:10250/containerLogs/default/there/there\": dial tcp {ADDRESS}:10250: i/o timeout"
    );
    let error = cluster.try_kubectl("logs there").expect_err("it is cut");
    assert!(error.contains(&words), "{error}");
    let log = || std::fs::read_to_string(cluster.state().join("server.log")).expect("a log");
    until(60, "the server notices", || log().contains("a tunnel has ended"));
    let error = cluster.try_kubectl("logs there").expect_err("it is still cut");
    assert!(error.contains(&words), "{error}");

    cluster.inside("nft flush chain inet e2e in; nft flush chain inet e2e out");
    cluster.inside(&format!("nft add rule inet e2e out ip daddr {ADDRESS} ct state new drop"));
    until(90, "it comes back by itself", || {
        cluster.try_kubectl("logs there").is_ok_and(|log| log == "hello")
    });
    assert!(cluster.try_inside(&direct).is_err(), "there is still no other way");
    machine.switch_off();
}

/// `proxy` of pods, Services and nodes, as kubectl asks for it.
fn what_runs_on_the_node_is_asked_through_the_server(cluster: &Cluster) {
    cluster.apply(SERVED);
    cluster.kubectl("wait --for=condition=Ready pod/web pod/host --timeout=60s");
    let raw = |path: &str| cluster.try_kubectl(&format!("get --raw /api/v1/{path}"));
    let table = [
        ("namespaces/default/services/web:80/proxy/", "served"),
        ("namespaces/default/services/http:web:http/proxy/index.html", "served"),
        ("namespaces/default/pods/web/proxy/", "served"),
        ("namespaces/default/pods/web:8080/proxy", "served"),
        ("namespaces/default/services/host:http/proxy/", "on the host"),
        ("namespaces/default/pods/host/proxy/", "on the host"),
        ("nodes/far:9100/proxy/", "on the host"),
        ("nodes/far/proxy/healthz", "ok"),
    ];
    for (path, wanted) in table {
        until(60, path, || raw(path).is_ok_and(|answer| answer == wanted));
    }
    // It listens on the node as well, but no pod says so.
    let error = raw("nodes/far:9101/proxy/").expect_err("it is not asked");
    let words = format!("{ADDRESS}:9101 may not be reached through the tunnel of this node");
    assert!(error.contains(&words), "{error}");
    // The same for programs that speak to `kubectl proxy`.
    let line = format!("out/bin/kubectl --kubeconfig {} proxy --port 8001", cluster.kubeconfig().display());
    cluster.inside(&format!("{line} </dev/null >/dev/null 2>&1 &"));
    let url = "http://127.0.0.1:8001/api/v1/namespaces/default/services/http:web:80/proxy/";
    until(60, "kubectl proxies", || {
        cluster.try_inside(&format!("curl -sf {url}")).is_ok_and(|page| page == "served")
    });
}

#[test]
fn certificates_are_renewed_while_the_node_runs() {
    let Some(cluster) = control_plane("renewal", "--cluster-signing-duration 30s") else { return };
    let machine = node(&cluster);
    let agent = cluster.process("skiff agent").expect("the agent runs");
    let pki = machine.data().join("agent/pki");
    let files = ["kubelet-client", "network", "kubelet-serving"].map(|name| pki.join(format!("{name}.pem")));
    let read = || files.clone().map(|file| std::fs::read_to_string(file).unwrap_or_default());
    let served = || {
        let line = format!(
            "openssl s_client -connect {ADDRESS}:10250 </dev/null 2>/dev/null | openssl x509 -noout -serial"
        );
        cluster.try_inside(&line)
    };
    until(60, "there are three certificates, and the kubelet serves with one", || {
        read().iter().all(|text| !text.is_empty()) && served().is_ok()
    });
    let (first, first_served) = (read(), served());
    let kept = cluster.state().join("first.pem");
    std::fs::write(&kept, &first[0]).expect("written");
    until(90, "each is another", || read().iter().zip(&first).all(|(new, old)| new != old));
    until(60, "the kubelet serves with the new one", || {
        let now = served();
        now.is_ok() && now != first_served
    });
    until(60, "the first is no good any more", || {
        cluster.try_inside(&format!("openssl x509 -in {} -noout -checkend 0", kept.display())).is_err()
    });

    // The node goes on as before, in the process that it was.
    let lease = format!("get lease -n kube-node-lease {NAME} -o jsonpath='{{.spec.renewTime}}'");
    let renewed = cluster.kubectl(&lease);
    until(60, "the node renews its lease", || cluster.kubectl(&lease) != renewed);
    until(60, "logs arrive", || cluster.try_kubectl("logs there").is_ok_and(|log| log == "hello"));
    cluster.kubectl("run later --image=skiff.local/busybox:1.35 -- sleep 1000");
    cluster.kubectl("wait --for=condition=Ready pod/later --timeout=60s");
    assert_eq!(cluster.process("skiff agent").as_ref(), Ok(&agent), "nothing was started again");
}
