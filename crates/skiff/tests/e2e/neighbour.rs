//! A second machine on the link of a cluster's first: with its own network, processes and mounts. It ends with the first, or
//! when it is switched off.

use std::path::{Path, PathBuf};

use crate::components::Node;
use crate::machine::{Cluster, NODE, binary};

/// The other machine.
pub struct Neighbour<'a> {
    cluster: &'a Cluster,
    name: &'a str,
    /// Its address.
    pub address: &'a str,
    program: PathBuf,
}

impl<'a> Neighbour<'a> {
    /// Makes its network; nothing runs there yet.
    pub fn connect(cluster: &'a Cluster, name: &'a str, address: &'a str) -> Neighbour<'a> {
        // The link's name has no room for long ones.
        let link = format!("veth{}", address.rsplit('.').next().expect("an address"));
        cluster.inside(&format!(
            "mkdir -p /run/netns; mount -t tmpfs none /run/netns; ip netns add {name}; ip link add {link} type veth peer name eth0 netns {name}; \
             ip link set {link} master node0 up; in='ip netns exec {name}'; $in ip link set lo up; \
             $in ip address add {address}/24 dev eth0; $in ip link set eth0 up; $in ip route add default via {NODE}"
        ));
        let neighbour = Neighbour { cluster, name, address, program: binary() };
        let images = neighbour.data().join("agent/images");
        std::fs::create_dir_all(&images).expect("a folder for images");
        for archive in ["busybox.tar", "nginx.tar"] {
            let from = cluster.data().join("agent/images").join(archive);
            std::fs::copy(from, images.join(archive)).expect("an image archive");
        }
        neighbour
    }

    /// Runs everything from now on from this file.
    pub fn set_program(&mut self, program: &Path) {
        self.program = program.to_owned();
    }

    /// Where it keeps everything.
    pub fn data(&self) -> PathBuf {
        self.cluster.state().join(self.name)
    }

    /// Below which cgroup its pods' are.
    pub fn cgroup(&self) -> String {
        format!("/skiff-{}-{}", self.cluster.name(), self.name)
    }

    /// Switches it on, with these instances of its program: each its arguments and its log.
    pub fn start(&self, programs: &[(&str, String)]) {
        let (cluster, name) = (self.cluster, self.name);
        let mut script = format!("hostname {name}; ");
        for (log, arguments) in programs {
            let log = cluster.state().join(format!("{name}-{log}"));
            script.push_str(&format!("{} {arguments} >>{} 2>&1 & ", self.program.display(), log.display()));
        }
        // (`ip netns exec` would hide the cgroups.)
        cluster.inside(&format!(
            "setsid nsenter --net=/run/netns/{name} unshare --mount --uts --pid --fork --mount-proc --kill-child -- \
             sh -c '{script} while :; do wait; sleep 1; done' {} </dev/null >/dev/null 2>&1 &",
            self.mark()
        ));
    }

    /// Switches it on as a node whose parts are processes of their own.
    pub fn start_components(&self, kubelet: &str) {
        self.cluster.certify_node(self.name, self.address);
        let node = Node {
            name: self.name,
            address: self.address,
            data: self.data(),
            cgroup: self.cgroup(),
            kubelet,
        };
        self.start(&node.programs(self.cluster));
    }

    /// Switches it off: everything on it ends at once.
    pub fn switch_off(&self) {
        let maker = self.cluster.process(&format!("^unshare .*{}$", self.mark())).expect("it is on");
        let first = self.cluster.inside(&format!("exec pgrep --parent {maker}"));
        self.cluster.inside(&format!("kill -9 {first}"));
        // It has ended when all others of its namespace have, with all that they held.
        self.cluster.wait_for_end(&first);
    }

    fn mark(&self) -> String {
        format!("skiff-neighbour-{}", self.name)
    }
}
