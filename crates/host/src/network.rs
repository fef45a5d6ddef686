//! The node's own part of the pod network: the switches of the kernel that routing pods needs, and the routes that
//! hold the pod and service ranges on this node, so that a packet to an address that nothing answers never leaves it.
//! Giving addresses to pods is the CNI plugins' work; translating service addresses is the proxy's.

use std::net::Ipv4Addr;
use std::path::Path;

use crate::process::{self, ProcessError};

/// The link that holds the service range and the addresses that the node answers itself. A bridge without ports: dummy
/// links are not in every kernel.
pub const SERVICE_LINK: &str = "skiff-services";

/// Why the node's network could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A program failed.
    #[error("{0}")]
    Program(#[from] ProcessError),
    /// A switch of the kernel is missing or refuses its value.
    #[error("cannot set {switch} to {value}: {source}")]
    Switch {
        /// Path below /proc/sys.
        switch: &'static str,
        /// The value it should have.
        value: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// What is held on this node.
#[derive(Clone, Debug)]
pub struct Held {
    /// Every pod of the cluster, CIDR.
    pub pods: String,
    /// Every ClusterIP, CIDR.
    pub services: String,
    /// Addresses of the service range that a process on this node answers.
    pub local: Vec<Ipv4Addr>,
}

/// Bridged packets pass the packet filter (a service of a pod on the same bridge), and packets are forwarded.
const SWITCHES: &[(&str, &str)] =
    &[("net/ipv4/ip_forward", "1"), ("net/bridge/bridge-nf-call-iptables", "1")];

/// Makes it so; safe to repeat. Ranges are held before anything else uses the network.
pub async fn hold(held: &Held) -> Result<(), NetworkError> {
    if !Path::new("/proc/sys/net/bridge").exists() {
        process::run("modprobe", &["br_netfilter"]).await?;
    }
    ip(&["route", "replace", "unreachable", &held.pods]).await?;
    if ip(&["link", "show", "dev", SERVICE_LINK]).await.is_err()
        && let Err(error) = ip(&["link", "add", SERVICE_LINK, "type", "bridge"]).await
    {
        // Another process of this node may have made it in between.
        ip(&["link", "show", "dev", SERVICE_LINK]).await.map_err(|_| error)?;
    }
    ip(&["link", "set", SERVICE_LINK, "up"]).await?;
    ip(&["link", "set", "lo", "up"]).await?;
    for address in &held.local {
        ip(&["address", "replace", &format!("{address}/32"), "dev", SERVICE_LINK]).await?;
    }
    ip(&["route", "replace", &held.services, "dev", SERVICE_LINK]).await?;
    for (switch, value) in SWITCHES {
        let path = Path::new("/proc/sys").join(switch);
        std::fs::write(&path, value).map_err(|source| NetworkError::Switch { switch, value, source })?;
    }
    Ok(())
}

async fn ip(arguments: &[&str]) -> Result<(), NetworkError> {
    process::run("ip", arguments).await?;
    Ok(())
}

/// Moves the calling thread, and the processes that it starts from now on, into a network namespace of their own without
/// any link but loopback. For tests: what they send cannot leave.
pub fn isolate() -> std::io::Result<()> {
    // SAFETY: only the network namespace is unshared; no memory or file descriptor table is affected.
    #[expect(unsafe_code, reason = "rustix marks unshare unsafe for its other flags")]
    unsafe {
        rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)?;
    }
    Ok(())
}
