//! The way out of a laptop's cluster, only for one that asks for it. The laptop is a machine of namespaces, and the world
//! another network namespace, so that no packet leaves this machine.

use crate::machine::{Cluster, Form, binary, repository, until};

/// The laptop's address in the world.
const LAPTOP: &str = "198.51.100.1";
/// A web server there, which has no route to anything but the laptop.
const WORLD: &str = "203.0.113.10";
/// A web server on another network of the laptop's.
const HOME: &str = "192.0.2.2";

/// A laptop, the world and a network at home. Names are known to a server on the laptop's loopback only.
fn laptop(name: &str) -> Option<Cluster> {
    let laptop = Cluster::machine(name, Form::Server)?;
    let network = |name: &str, link: &str, here: &str, there: &str| {
        format!(
            "ip netns add {name}; ip link add {link} type veth peer name eth0 netns {name}; \
             ip address add {here}/24 dev {link}; ip link set {link} up; ip -n {name} link set lo up; \
             ip -n {name} address add {there}/24 dev eth0; ip -n {name} link set eth0 up; "
        )
    };
    let names = laptop.state().join("resolv.conf");
    laptop.inside(&format!(
        "set -e; {}{} ip -n world address add {WORLD}/32 dev lo; ip -n home route add default via 192.0.2.1; \
         ip -n world route add 192.0.2.0/24 via {LAPTOP}; ip route replace default via 198.51.100.2; \
         echo nameserver 127.0.0.53 >{names}; mount --bind {names} /etc/resolv.conf; \
         echo 0 >/proc/sys/net/ipv4/ip_forward",
        network("world", "wan0", LAPTOP, "198.51.100.2"),
        network("home", "lan0", "192.0.2.1", HOME),
        names = names.display(),
    ));
    let script = repository().join("crates/skiff/tests/e2e/outside.py");
    for (place, what) in [
        ("ip netns exec world", format!("web {WORLD}")),
        ("ip netns exec home", format!("web {HOME}")),
        ("", format!("names 127.0.0.53 {WORLD}")),
    ] {
        let script = script.display();
        laptop.inside(&format!("setsid {place} python3 {script} {what} </dev/null >/dev/null 2>&1 &"));
    }
    until(30, "the world answers", || laptop.try_inside(&fetch(WORLD)).is_ok());
    until(30, "home answers", || laptop.try_inside(&fetch(HOME)).is_ok());
    Some(laptop)
}

fn fetch(place: &str) -> String {
    format!("curl -s --max-time 2 http://{place}/")
}

/// The start of a command that is about one cluster of the laptop.
fn skiff(laptop: &Cluster, cluster: &str) -> String {
    let (root, name) = (laptop.state().join("clusters"), format!("{}-{cluster}", laptop.name()));
    format!("SKIFF_CLUSTERS={} {} cluster --name {name}", root.display(), binary().display())
}

fn create(laptop: &Cluster, cluster: &str, flags: &str) {
    laptop
        .inside(&format!("{} create --nodes 1 --image out/images/nginx.tar {flags}", skiff(laptop, cluster)));
}

/// What a new pod prints that fetches from here, by name and by address.
fn pod_fetches(laptop: &Cluster, cluster: &str) -> String {
    let kubectl = format!("{} kubectl --", skiff(laptop, cluster));
    let ask =
        |place: &str| format!("timeout 10 wget -q -O - http://{place}/ 2>/dev/null || echo none; echo;");
    let script = format!("{}{}", ask("anything.example"), ask(WORLD));
    laptop.inside(&format!(
        "{kubectl} run fetch --image=skiff.local/nginx:1.22 --restart=Never -- sh -c '{script}' && \
         {kubectl} wait --for=jsonpath='{{.status.phase}}'=Succeeded pod/fetch --timeout=90s"
    ));
    laptop.inside(&format!("{kubectl} logs fetch"))
}

fn forwards(laptop: &Cluster) -> bool {
    laptop.inside("cat /proc/sys/net/ipv4/ip_forward") == "1"
}

/// All of the laptop that a cluster could leave behind.
fn traces(laptop: &Cluster) -> String {
    laptop.inside(&format!(
        "ip -brief link; ip -brief address; ip route; ip rule; nft list ruleset; cat /proc/sys/net/ipv4/ip_forward; \
         ls -A {}; find /sys/fs/cgroup -path '*/skiff-{}*' -type d; ps -e -o args | grep 'cluster run-[a-z]'; cat /proc/self/mounts",
        laptop.state().join("clusters").display(),
        laptop.name()
    ))
}

#[test]
fn pods_reach_the_world_only_where_somebody_asked_for_it() {
    let Some(laptop) = laptop("internet") else { return };
    laptop.inside(&format!("mkdir -p {}", laptop.state().join("clusters").display()));
    let before = traces(&laptop);
    create(&laptop, "closed", "");
    assert_eq!(pod_fetches(&laptop, "closed").replace('\n', " ").trim(), "none  none");
    assert!(!forwards(&laptop));

    create(&laptop, "open", "--internet");
    // As the laptop, since the world would not know the way back to anybody else.
    assert_eq!(pod_fetches(&laptop, "open").lines().collect::<Vec<_>>(), [LAPTOP, LAPTOP]);
    let node = format!("{} exec node-1 -- {}", skiff(&laptop, "open"), fetch("anything.example"));
    assert_eq!(laptop.inside(&node), LAPTOP);
    laptop
        .try_inside(&format!("{} exec node-1 -- {}", skiff(&laptop, "closed"), fetch(WORLD)))
        .expect_err("no way");
    // Forwarding was switched on for the cluster, not for the world.
    let from_outside = format!("ip netns exec world {}", fetch(HOME));
    laptop.try_inside(&from_outside).expect_err("home is reached from outside");

    create(&laptop, "also", "--internet");
    laptop.inside(&format!("{} delete", skiff(&laptop, "open")));
    assert!(forwards(&laptop), "another cluster needs it");
    let node = format!("{} exec node-1 -- {}", skiff(&laptop, "also"), fetch(WORLD));
    assert_eq!(laptop.inside(&node), LAPTOP);
    laptop.inside(&format!("{} delete && {} delete", skiff(&laptop, "also"), skiff(&laptop, "closed")));
    assert_eq!(traces(&laptop), before);

    laptop.inside("echo 1 >/proc/sys/net/ipv4/ip_forward");
    assert_eq!(laptop.inside(&from_outside), "198.51.100.2", "the test would have seen it");
}

/// Told to stop or killed, at any time, on a laptop that forwards and on one that does not.
#[test]
fn nothing_is_left_of_a_way_out_that_was_not_finished() {
    let Some(laptop) = laptop("internet-unfinished") else { return };
    let folder = laptop.state().join("clusters").join(format!("{}-half", laptop.name()));
    laptop.inside(&format!("mkdir -p {}", laptop.state().join("clusters").display()));
    for forwarding in ["0", "1"] {
        laptop.inside(&format!("echo {forwarding} >/proc/sys/net/ipv4/ip_forward"));
        let before = traces(&laptop);
        for (moment, signal) in [
            ("[ -e cluster.json ]", "INT"),
            ("[ -e port ]", "KILL"),
            ("ip link show | grep -q cluster-", "KILL"),
            ("nft list tables | grep -q cluster-", "TERM"),
            ("nft list tables | grep -q cluster-", "KILL"),
            ("[ -e nodes/node-1/state ]", "KILL"),
        ] {
            let line = format!(
                "{} create --nodes 1 --internet >/dev/null 2>&1 & \
                 until [ -d {folder} ]; do sleep 0.01; done; cd {folder}; \
                 for i in $(seq 3000); do {{ {moment}; }} 2>/dev/null && break; sleep 0.01; done; \
                 kill -{signal} $!; wait $!",
                skiff(&laptop, "half"),
                folder = folder.display()
            );
            laptop.try_inside(&line).expect_err("it was interrupted");
            if signal == "KILL" {
                assert_ne!(traces(&laptop), before, "the test sees what there is of it");
                laptop.inside(&format!("{} delete", skiff(&laptop, "half")));
            }
            assert_eq!(traces(&laptop), before, "{signal} at {moment}");
        }
    }
}
