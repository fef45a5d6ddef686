//! Where things of a cluster are on this machine, and what its nodes are called.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::flags::PodNetwork;

/// The whole machine's /var/lib inside a node is a folder of the node's own, in which Skiff has its usual one.
pub const DATA_DIR: &str = "/var/lib/skiff";
/// The binary inside a node.
pub const PROGRAM: &str = "/run/skiff/skiff";

/// The port of API servers, and of the switch in their place.
pub const SERVER_PORT: u16 = 6443;
/// The address of the switch.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// Addresses for load balancers: behind those of all nodes that there can be.
pub const LOAD_BALANCERS: &str = "172.30.0.200-172.30.0.250";

/// The file in a node's data directory that holds the token with which it joins.
pub const TOKEN: &str = "join-token";

/// The files of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The cluster's name.
    pub name: String,
    /// Everything is below it.
    pub folder: PathBuf,
}

/// What is remembered of how a cluster was made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Description {
    /// Names of its nodes; the first ones are servers.
    pub nodes: Vec<String>,
    /// How many servers there are; several share an etcd.
    #[serde(default = "one")]
    pub servers: usize,
    /// How pods reach pods on other nodes.
    pub pod_network: PodNetwork,
    /// Whether there is a way out.
    #[serde(default)]
    pub internet: bool,
}

fn one() -> usize {
    1
}

impl Description {
    /// Where nodes reach the API servers.
    pub fn endpoint(&self) -> String {
        let host = if self.servers > 1 { SWITCH } else { address(0) };
        format!("https://{host}:{SERVER_PORT}")
    }
}

/// Where clusters are kept.
pub fn root(given: Option<PathBuf>) -> Result<PathBuf> {
    let home =
        || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share/skiff/clusters"));
    let root = given.or_else(home).context("--data-dir is needed where HOME is not set")?;
    std::fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    root.canonicalize().with_context(|| format!("cannot find {}", root.display()))
}

/// Names of the clusters that are kept there.
pub fn clusters(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).with_context(|| format!("cannot read {}", root.display()))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.extend(entry.file_name().into_string());
        }
    }
    names.sort();
    Ok(names)
}

/// A node's place in the list, from 0.
pub fn number(known: &[String], node: &str) -> Result<usize> {
    let place = known.iter().position(|known| known == node);
    place.with_context(|| format!("there is no node {node:?}; there are {}", known.join(", ")))
}

/// A node's address.
pub fn address(number: usize) -> Ipv4Addr {
    // At most 100 nodes.
    Ipv4Addr::new(172, 30, 0, u8::try_from(number + 2).unwrap_or(u8::MAX))
}

impl Layout {
    /// The files of a cluster, whether it exists or not.
    pub fn new(root: &Path, name: &str) -> Result<Layout> {
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > 40 || !name.bytes().all(fine) || name.starts_with('-') {
            bail!("a cluster's name has at most 40 lower case letters, digits and hyphens, not {name:?}");
        }
        Ok(Layout { name: name.to_owned(), folder: root.join(name) })
    }

    /// The files of the cluster in this folder.
    pub fn at(folder: &Path) -> Result<Layout> {
        let name =
            folder.file_name().and_then(|name| name.to_str()).context("a cluster's folder has a name")?;
        Layout::new(folder.parent().context("a cluster's folder is in another")?, name)
    }

    /// How it was made.
    pub fn description(&self) -> Result<Description> {
        let path = self.description_file();
        let text = std::fs::read(&path)
            .with_context(|| format!("there is no cluster {:?} (skiff cluster list)", self.name))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    /// Names of its nodes.
    pub fn nodes(&self) -> Result<Vec<String>> {
        Ok(self.description()?.nodes)
    }

    /// The file that remembers how it was made.
    pub fn description_file(&self) -> PathBuf {
        self.folder.join("cluster.json")
    }

    /// The kubeconfig for this machine.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A node's own folder.
    pub fn node(&self, node: &str) -> PathBuf {
        self.folder.join("nodes").join(node)
    }

    /// What a node sees as /var/lib.
    pub fn var_lib(&self, node: &str) -> PathBuf {
        self.node(node).join("var-lib")
    }

    /// What a node sees as the data directory.
    pub fn data_dir(&self, node: &str) -> PathBuf {
        self.var_lib(node).join("skiff")
    }

    /// Where the control plane writes the token with which nodes join.
    pub fn node_token(&self, server: &str) -> PathBuf {
        self.data_dir(server).join("server/node-token")
    }

    /// The cgroup below which those of the nodes are; no other cluster of this machine has it.
    pub fn cgroup(&self) -> String {
        format!("/skiff-{}-{:016x}", self.name, self.mark())
    }

    /// Tells this cluster from all others of this machine, in names that have no room for its folder.
    pub fn mark(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.folder.hash(&mut hasher);
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_lead_elsewhere() {
        let root = Path::new("/clusters");
        assert_eq!(Layout::new(root, "dev-1").expect("fine").folder, root.join("dev-1"));
        for bad in ["", "..", "a/b", "A", "-x", "a.b", &"x".repeat(41)] {
            assert!(Layout::new(root, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn clusters_of_one_name_in_two_places_have_different_cgroups() {
        let of = |root: &str| Layout::new(Path::new(root), "dev").expect("fine").cgroup();
        assert_ne!(of("/a"), of("/b"));
        assert_eq!(of("/a"), of("/a"));
        assert!(of("/a").starts_with("/skiff-dev-"));
    }

    #[test]
    fn nodes_are_known_by_name_and_place() {
        let known = ["node-1".to_owned(), "node-2".to_owned()];
        assert_eq!(address(number(&known, "node-2").expect("known")), Ipv4Addr::new(172, 30, 0, 3));
        let error = number(&known, "node-9").expect_err("unknown").to_string();
        assert_eq!(error, r#"there is no node "node-9"; there are node-1, node-2"#);
    }
}
