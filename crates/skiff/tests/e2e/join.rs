//! A second machine, with its own network, processes and mounts, joins with a token; and what is said when it cannot.

use std::path::Path;

use api_machinery::VERSION;

use crate::machine::{Cluster, Form, NODE, binary, until};
use crate::neighbour::Neighbour;
use crate::versions::other_binary;

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

/// What an agent says that cannot join the server at this port. It has nothing afterwards. (Its address is one where no
/// kubelet listens, whoever joined before.)
fn refused(cluster: &Cluster, port: u16, arguments: &str) -> String {
    refused_as(cluster, &binary(), port, arguments)
}

/// The same of another program.
fn refused_as(cluster: &Cluster, program: &Path, port: u16, arguments: &str) -> String {
    let data = cluster.state().join("nowhere");
    let line = format!(
        "ip netns exec {NAME} timeout 60 {} --log-level error agent --server https://{NODE}:{port} \
         --data-dir {} --node-ip 127.0.0.9 {arguments}",
        program.display(),
        data.display()
    );
    let said = cluster.try_inside(&line).expect_err("it must not join");
    assert!(!data.exists(), "{said}");
    said
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
    let mut machine = Neighbour::connect(&cluster, NAME, SECOND);
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
    versions_too_far_apart_are_refused(&cluster, &full);

    // The node is one minor version behind its control plane, as in the middle of an upgrade.
    let other = cluster.state().join("other");
    let older = other_binary(&cluster, &other, -1);
    machine.set_program(&other);
    start(&machine, &format!("--token {full}"));
    cluster.kubectl(&format!("wait --for=create node/{NAME} --timeout=30s"));
    cluster.kubectl(&format!("wait --for=condition=Ready node/{NAME} --timeout=60s"));
    let log = std::fs::read_to_string(cluster.state().join(format!("{NAME}-agent.log"))).expect("a log");
    assert!(
        log.contains(&format!("this node is of version {older}, and its server of {VERSION}: update")),
        "{log}"
    );
    assert_eq!(kubelets(&cluster), format!("{older} {VERSION}"));
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
    a_token_is_used_again(&cluster, &full);
    machine.switch_off();
    let before = cluster
        .kubectl(&format!("get node {NAME} -o jsonpath='{{.status.nodeInfo.bootID}} {{.metadata.uid}}'"));
    let lease = format!("get lease -n kube-node-lease {NAME} -o jsonpath='{{.spec.renewTime}}'");
    let renewed = cluster.kubectl(&lease);
    // Now it is the one that is ahead: an upgrade that began with the wrong side works, too.
    let newer = other_binary(&cluster, &other, 1);
    start(&machine, "");
    until(30, "the node is back", || cluster.kubectl(&lease) != renewed);
    let after = cluster
        .kubectl(&format!("get node {NAME} -o jsonpath='{{.status.nodeInfo.bootID}} {{.metadata.uid}}'"));
    assert_eq!(before, after);
    until(60, "the node says its new version", || kubelets(&cluster) == format!("{newer} {VERSION}"));
    cluster.kubectl("wait --for=condition=Ready pod/there --timeout=60s");
    until(30, "the node answers", || cluster.try_kubectl("logs there").is_ok_and(|words| words == "hello"));
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
        let said = refused(cluster, 6443, &arguments);
        assert!(said.contains(why), "{arguments}: {said}");
    }
    clocks_differ(cluster, full);
    let nodes = cluster.kubectl("get nodes -o name");
    assert_eq!(nodes, "node/skiff-node", "nobody joined");
    assert_eq!(cluster.kubectl("get csr -o name"), "", "nobody asked for a certificate");
}

/// A server whose answers are of another time. (No namespace has a clock of its own: the server is one of canned answers.)
fn clocks_differ(cluster: &Cluster, full: &str) {
    for (port, other, words) in [(7443, "1 hour", " s behind it;"), (7444, "-1 hour", " s ahead of it;")] {
        let folder = cluster.state().join(format!("clock-{port}"));
        let (folder, path) = (folder.display(), "api/v1/namespaces/kube-public/configmaps");
        cluster.inside(&format!(
            "mkdir -p {folder}/{path} && cd {folder} && \
             openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=other -keyout key -out certificate 2>/dev/null && \
             setsid openssl s_server -quiet -accept {port} -key key -cert certificate -HTTP </dev/null >log 2>&1 &"
        ));
        let listens = format!("ss -Hltn 'sport = :{port}' | grep -q .");
        until(30, "the other server listens", || cluster.try_inside(&listens).is_ok());
        cluster.inside(&format!(
            "date=$(LC_ALL=C date -u -d '{other}' '+%a, %d %b %Y %H:%M:%S GMT') && \
             printf 'HTTP/1.0 200 OK\\r\\nDate: %s\\r\\nContent-Length: 2\\r\\n\\r\\n{{}}' \"$date\" \
             >{folder}/{path}/cluster-info"
        ));
        let said = refused(cluster, port, &format!("--token {full}"));
        for words in ["the clocks differ: this node's says", words, "is NTP running on both?"] {
            assert!(said.contains(words), "{said}");
        }
    }
}

/// Tokens are good for any number of nodes until they expire or are deleted, as upstream. So a token that was used before is
/// refused to whoever says that he is a node that joined with it, and to everybody once it is gone.
fn a_token_is_used_again(cluster: &Cluster, full: &str) {
    let said = refused(cluster, 6443, &format!("--token {full} --node-name {NAME}"));
    assert!(said.contains(&format!("the name \"{NAME}\" is taken by a node that is alive")), "{said}");
    let (id, _) = full.rsplit_once("::").and_then(|(_, short)| short.split_once('.')).expect("a full token");
    assert!(token(cluster, &format!("delete {id}")).contains("deleted"));
    let said = refused(cluster, 6443, &format!("--token {full} --node-name third"));
    assert!(said.contains(&format!("there is no token {id} (any more)")), "{said}");
    let nodes = cluster.kubectl("get nodes -o name");
    assert_eq!(
        nodes.lines().collect::<Vec<_>>(),
        [&format!("node/{NAME}"), "node/skiff-node"],
        "nobody joined"
    );
}

/// The versions of all nodes' kubelets.
fn kubelets(cluster: &Cluster) -> String {
    cluster.kubectl("get nodes -o jsonpath='{.items[*].status.nodeInfo.kubeletVersion}'")
}

/// Two minor versions ahead of the server, or four behind.
fn versions_too_far_apart_are_refused(cluster: &Cluster, full: &str) {
    let program = cluster.state().join("other");
    for (minors, why) in [(2, "at most 1 minor version ahead"), (-4, "at most 3 minor versions behind")] {
        let version = other_binary(cluster, &program, minors);
        let said = refused_as(cluster, &program, 6443, &format!("--token {full} --node-name refused"));
        let wanted = format!("this node is of version {version}, and its server of {VERSION}");
        assert!(said.contains(&wanted) && said.contains(why), "{said}");
    }
    assert_eq!(cluster.kubectl("get nodes -o name"), "node/skiff-node", "nobody joined");
    assert_eq!(cluster.kubectl("get csr -o name"), "", "nobody asked for a certificate");
}
