//! A second machine, with its own network, processes and mounts, joins with a token; and what is said when it cannot.

use crate::machine::{Cluster, Form, NODE, binary, until};
use crate::neighbour::Neighbour;

/// The address of the machine that joins.
const SECOND: &str = "172.30.0.3";
const NAME: &str = "second";

/// Starts the agent on the machine that joins.
fn start(machine: &Neighbour<'_>, arguments: &str) {
    let agent = format!(
        "agent --server https://{NODE}:6443 --data-dir {} --node-name {NAME} --node-ip {SECOND} --cgroup-root {} {arguments}",
        machine.data().display(),
        machine.cgroup(),
    );
    machine.start(&[("agent.log", agent)]);
}

/// What an agent says that cannot join.
fn refused(cluster: &Cluster, arguments: &str) -> String {
    let line = format!(
        "ip netns exec {NAME} timeout 20 {} --log-level error agent --server https://{NODE}:6443 \
         --data-dir {}/nowhere --node-ip {SECOND} {arguments}",
        binary().display(),
        cluster.state().display()
    );
    cluster.try_inside(&line).expect_err("it must not join")
}

fn token(cluster: &Cluster, arguments: &str) -> String {
    cluster.inside(&format!(
        "{} token --data-dir {} {arguments}",
        binary().display(),
        cluster.data().display()
    ))
}

#[test]
fn a_machine_joins_with_a_token_and_needs_it_once() {
    let Some(cluster) = Cluster::start("join", Form::Server) else { return };
    let machine = Neighbour::connect(&cluster, NAME, SECOND);
    let command = token(&cluster, "create --ttl 1h --description test");
    let full = command.split_whitespace().last().expect("a token").to_owned();
    assert!(
        command.starts_with(&format!("skiff agent --server https://{NODE}:6443 --token K10")),
        "{command}"
    );
    let id = full.rsplit_once("::").expect("a full token").1.split_once('.').expect("a token").0.to_owned();
    let list = token(&cluster, "list");
    assert!(list.contains(&id) && !list.contains(full.rsplit_once('.').expect("a secret").1), "{list}");

    what_is_said_when_it_cannot(&cluster, &full);

    start(&machine, &format!("--token {full}"));
    cluster.kubectl(&format!("wait --for=create node/{NAME} --timeout=30s"));
    cluster.kubectl(&format!("wait --for=condition=Ready node/{NAME} --timeout=60s"));
    let requests = "get csr -o jsonpath='{range .items[*]}{.spec.signerName} {.status.conditions[*].type}{\"\\n\"}{end}'";
    until(20, "three certificates", || {
        let found = cluster.kubectl(requests);
        found.lines().count() == 3 && found.lines().all(|line| line.ends_with("Approved"))
    });
    cluster.kubectl(&format!(
        "run there --image=skiff.local/busybox:1.35 --overrides='{{\"spec\": {{\"nodeName\": \"{NAME}\"}}}}' \
         -- sh -c 'echo hello; exec sleep 1000'"
    ));
    cluster.kubectl("wait --for=condition=Ready pod/there --timeout=60s");
    // Logs come from a kubelet whose certificate the CA signed.
    assert_eq!(cluster.kubectl("logs there"), "hello");

    // The token is gone, the machine is switched off and on: it is still the node that it was.
    assert!(token(&cluster, &format!("delete {id}")).contains("deleted"));
    machine.switch_off();
    let before = cluster
        .kubectl(&format!("get node {NAME} -o jsonpath='{{.status.nodeInfo.bootID}} {{.metadata.uid}}'"));
    let lease = format!("get lease -n kube-node-lease {NAME} -o jsonpath='{{.spec.renewTime}}'");
    let renewed = cluster.kubectl(&lease);
    start(&machine, "");
    until(30, "the node is back", || cluster.kubectl(&lease) != renewed);
    let after = cluster
        .kubectl(&format!("get node {NAME} -o jsonpath='{{.status.nodeInfo.bootID}} {{.metadata.uid}}'"));
    assert_eq!(before, after);
    assert_eq!(cluster.kubectl(requests).lines().count(), 3, "it asked for nothing again");
}

fn what_is_said_when_it_cannot(cluster: &Cluster, full: &str) {
    let (pin, short) = full.rsplit_once("::").expect("a full token");
    let zeros = "0".repeat(64);
    let short_lived = token(cluster, "create --ttl 1s");
    let short_lived = short_lived.split_whitespace().last().expect("a token").to_owned();
    let gone =
        short_lived.rsplit_once("::").expect("a full token").1.split_once('.').expect("a token").0.to_owned();
    until(20, "the token expires", || !token(cluster, "list").contains(&gone));
    let (id, _) = short.split_once('.').expect("a token");
    let table = [
        (format!("--token K10{zeros}::{short}"), "the CA of"),
        (format!("--token {short} --ca-cert-hash sha256:{zeros}"), "the CA of"),
        (format!("--token {short}"), "--ca-cert-hash"),
        (format!("--token {pin}::{id}.0000000000000000"), "its secret is another"),
        (format!("--token {pin}::zzzzzz.0000000000000000"), "there is no token zzzzzz"),
        (format!("--token {short_lived}"), "it has expired"),
        (format!("--token {full} --node-name skiff-node"), "is taken by a node that is alive"),
        (String::new(), "give --token"),
    ];
    for (arguments, why) in table {
        let said = refused(cluster, &arguments);
        assert!(said.contains(why), "{arguments}: {said}");
    }
    let nodes = cluster.kubectl("get nodes -o name");
    assert_eq!(nodes, "node/skiff-node", "nobody joined");
}
