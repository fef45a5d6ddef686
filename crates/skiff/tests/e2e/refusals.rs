//! What cannot start says why, before anything was done: ports that are taken and ranges that lead nowhere. What a node hears
//! that cannot join is in `join.rs`, what components alone hear in `components.rs`, whom an etcd is not for in `etcd.rs`.

use crate::machine::{Cluster, Form, NODE, binary, until};

/// Whoever has the ports that a server and a kubelet want.
const PORTS: [u16; 2] = [6443, 10250];

#[test]
fn what_cannot_start_says_why_and_leaves_nothing() {
    let Some(cluster) = Cluster::machine("refusals", Form::Server) else { return };
    for port in PORTS {
        cluster.inside(&format!(
            "setsid openssl s_server -quiet -nocert -accept {port} -HTTP </dev/null >/dev/null 2>&1 &"
        ));
        let listens = format!("ss -Hltn 'sport = :{port}' | grep -q .");
        until(30, "the port is taken", || cluster.try_inside(&listens).is_ok());
    }
    let traces = || cluster.inside("ip link; ip address; ip route show table all; nft list tables");
    let before = traces();
    let server = |arguments: &str| format!("server --https-listen-port 7443 {arguments}");
    let agent = |arguments: &str| {
        let token = "abcdef.0123456789abcdef --ca-cert-hash sha256:";
        format!("agent --server https://{NODE}:6443 --token {token}{} {arguments}", "0".repeat(64))
    };
    let table = [
        ("server".to_owned(), "cannot listen on 0.0.0.0:6443: Address already in use"),
        (server("--cluster-cidr nonsense"), "--cluster-cidr: invalid CIDR address: nonsense"),
        (server("--service-cidr 10.43.0.0"), "--service-cidr"),
        (
            server("--cluster-cidr 10.42.0.0/25"),
            "--cluster-cidr: cluster CIDR 10.42.0.0/25 is smaller than a",
        ),
        (
            server("--cluster-cidr 172.30.0.0/16"),
            "--cluster-cidr: 172.30.0.0/16 overlaps with the node's own address 172.30.0.2",
        ),
        (
            server("--service-cidr 172.30.0.0/24"),
            "--service-cidr: 172.30.0.0/24 overlaps with the node's own address 172.30.0.2",
        ),
        (
            server("--cluster-cidr 10.0.0.0/8"),
            "--cluster-cidr: cluster CIDR 10.0.0.0/8 overlaps with service CIDR 10.43.0.0/16",
        ),
        (
            server("--service-cidr 10.42.7.0/24"),
            "--cluster-cidr: cluster CIDR 10.42.0.0/16 overlaps with service CIDR 10.42.7.0/24",
        ),
        (
            server("--load-balancer-pool 172.30.0.0/24"),
            "--load-balancer-pool: 172.30.0.0/24 overlaps with the node's own address 172.30.0.2",
        ),
        (agent(""), "the kubelet cannot listen on 172.30.0.2:10250: Address already in use"),
        (
            agent("--service-cidr 10.42.0.0/16"),
            "--cluster-cidr: cluster CIDR 10.42.0.0/16 overlaps with service CIDR 10.42.0.0/16",
        ),
        (
            agent("--cluster-cidr 172.0.0.0/8"),
            "--cluster-cidr: 172.0.0.0/8 overlaps with the node's own address 172.30.0.2",
        ),
    ];
    let data = cluster.data();
    for (arguments, words) in table {
        let said = cluster
            .try_inside(&format!(
                "timeout 60 {} --log-level error {arguments} --data-dir {} --node-ip {NODE}",
                binary().display(),
                data.display()
            ))
            .expect_err(&arguments);
        assert!(said.contains(words), "{arguments}: {said}");
        assert!(!data.exists(), "{arguments}: files are left");
        assert!(cluster.process(&data.display().to_string()).is_err(), "{arguments}: a process is left");
    }
    assert_eq!(traces(), before, "links, addresses, routes and rules are as they were");
}
