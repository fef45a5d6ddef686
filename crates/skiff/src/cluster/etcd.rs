//! The etcd of a cluster with several servers: a member on each server's node, with certificates of a CA that only this
//! machine keeps. A member that ended is started again by `skiff cluster start`, not by itself, as with everything else.

use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, Result};
use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::pki::{EtcdPki, write_if_changed};
use host::process::Identity;

use super::layout::{self, DATA_DIR, Layout};
use super::nodes;

/// The program, as Debian installs it.
const PROGRAM: &str = "etcd";
/// Where clients reach a member.
const CLIENTS: u16 = 2379;
/// Where members reach each other.
const PEERS: u16 = 2380;
/// What a node has for its member and its server, below the data directory.
const FOLDER: &str = "etcd";
const CA: &str = "ca.crt";
const MEMBER: &str = "member.pem";
const CLIENT: &str = "client.pem";

/// Starts a node's member, unless it runs.
pub async fn start(layout: &Layout, first: Identity, known: &[String], node: &str) -> Result<()> {
    let servers = layout.description()?.servers;
    let is_member =
        |words: &[String]| words.first().is_some_and(|program| Path::new(program).ends_with(PROGRAM));
    let others = host::machines::others_of(first).context("cannot read /proc")?;
    if others.iter().any(|other| is_member(&other.arguments())) {
        return Ok(());
    }
    let number = layout::number(known, node)?;
    certificates(layout, number, node)?;
    let log = format!("{DATA_DIR}/etcd.log");
    let words = arguments(&layout.name, &known[..servers], number);
    nodes::run_daemon(first, &log, words).await.with_context(|| format!("cannot start etcd on {node}"))
}

/// What a node's member and server show, made anew when it ends soon.
fn certificates(layout: &Layout, number: usize, node: &str) -> Result<()> {
    let (clock, entropy) = (Clock::system(), Entropy::from_os());
    let folder = layout.folder.join("etcd-ca");
    let pki = EtcdPki::load_or_create(&folder, &clock, &entropy).context("the CA of etcd")?;
    let address = IpAddr::V4(layout::address(number));
    let member = pki.member(node, address).context("a certificate for etcd")?;
    let client = pki.client().context("a certificate for etcd's client")?;
    let own = layout.data_dir(node).join(FOLDER);
    for (file, text) in [(CA, pki.ca_certificate()), (MEMBER, &member), (CLIENT, &client)] {
        write_if_changed(&own.join(file), text).context("cannot give a node its etcd's certificates")?;
    }
    Ok(())
}

fn inside(file: &str) -> String {
    format!("{DATA_DIR}/{FOLDER}/{file}")
}

fn url(number: usize, port: u16) -> String {
    format!("https://{}:{port}", layout::address(number))
}

/// The command line of a member.
fn arguments(cluster: &str, members: &[String], number: usize) -> Vec<String> {
    let all = members.iter().enumerate().map(|(number, name)| format!("{name}={}", url(number, PEERS)));
    let all: Vec<String> = all.collect();
    let clients = format!("{},https://127.0.0.1:{CLIENTS}", url(number, CLIENTS));
    let flags = [
        ("--name", members[number].clone()),
        ("--data-dir", inside("data")),
        ("--listen-peer-urls", url(number, PEERS)),
        ("--initial-advertise-peer-urls", url(number, PEERS)),
        ("--listen-client-urls", clients),
        ("--advertise-client-urls", url(number, CLIENTS)),
        ("--initial-cluster", all.join(",")),
        ("--initial-cluster-token", cluster.to_owned()),
        // The members are on one machine: a lost leader is replaced within a second, split votes included.
        ("--heartbeat-interval", "100".to_owned()),
        ("--election-timeout", "500".to_owned()),
        ("--cert-file", inside(MEMBER)),
        ("--key-file", inside(MEMBER)),
        ("--trusted-ca-file", inside(CA)),
        ("--peer-cert-file", inside(MEMBER)),
        ("--peer-key-file", inside(MEMBER)),
        ("--peer-trusted-ca-file", inside(CA)),
    ];
    let flags = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
    let alone = ["--client-cert-auth", "--peer-client-cert-auth"].map(str::to_owned);
    std::iter::once(PROGRAM.to_owned()).chain(flags).chain(alone).collect()
}

/// What a server is told of its etcd: the member beside it first.
pub fn server_arguments(servers: usize, number: usize) -> Vec<String> {
    let members = (number..servers).chain(0..number).map(|number| url(number, CLIENTS));
    let members: Vec<String> = members.collect();
    let flags = [
        ("--datastore-endpoint", members.join(",")),
        ("--datastore-cafile", inside(CA)),
        ("--datastore-certfile", inside(CLIENT)),
        ("--datastore-keyfile", inside(CLIENT)),
    ];
    flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_knows_all_and_a_server_asks_its_own_first() {
        let members = ["node-1", "node-2", "node-3"].map(str::to_owned);
        let words = arguments("dev", &members, 1).join(" ");
        let all =
            "node-1=https://172.30.0.2:2380,node-2=https://172.30.0.3:2380,node-3=https://172.30.0.4:2380";
        assert!(words.starts_with("etcd --name node-2 ") && words.contains(all), "{words}");
        assert!(words.contains("--client-cert-auth --peer-client-cert-auth"), "{words}");
        let asked = server_arguments(3, 1);
        let order = "https://172.30.0.3:2379,https://172.30.0.4:2379,https://172.30.0.2:2379";
        assert_eq!(asked[1], order);
    }
}
