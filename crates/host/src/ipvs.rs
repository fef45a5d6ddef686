//! The kernel's virtual server behind a trait: virtual services and their destinations, and the link that holds their
//! addresses, so that packets to them are this machine's. All of it over netlink, since a cluster has thousands of each.
//! Knows nothing of what they are for, and decides nothing.

mod address;
mod kernel;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use kernel::{Kernel, clear};

use crate::process::ProcessError;

/// The link that holds addresses of virtual services, named as upstream names it. It is never up: an address needs no
/// more to be this machine's.
pub const LINK: &str = "kube-ipvs0";

/// Why a request to the virtual server failed.
#[derive(Debug, thiserror::Error)]
pub enum IpvsError {
    /// The kernel cannot do it at all.
    #[error(
        "the kernel {release} has no IPVS: its module ip_vs is missing ({reason}). Install the modules of this kernel, or \
         use --proxy-mode nftables"
    )]
    Absent {
        /// Which kernel.
        release: String,
        /// Why the module could not be had.
        reason: String,
    },
    /// The kernel cannot choose destinations in this way.
    #[error("the kernel has no IPVS scheduler {scheduler:?}: its module ip_vs_{scheduler} is missing")]
    Scheduler {
        /// Which.
        scheduler: String,
    },
    /// The kernel refused to be spoken to.
    #[error("cannot speak to the virtual server: {0}")]
    Connection(#[source] io::Error),
    /// The kernel refused a change; others may have been made.
    #[error("the virtual server refused {change}: {source}")]
    Refused {
        /// Which.
        change: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A switch of the kernel is missing or refuses its value.
    #[error("cannot set {switch} to {value}: {source}")]
    Switch {
        /// Path below /proc/sys.
        switch: &'static str,
        /// The value it should have.
        value: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The link could not be made or removed.
    #[error(transparent)]
    Program(#[from] ProcessError),
}

/// An address that clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VirtualService {
    /// The address.
    pub address: Ipv4Addr,
    /// The protocol's number in a packet's header.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

/// How a virtual service chooses a destination for a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// The kernel's name of the way to choose.
    pub scheduler: String,
    /// For how many seconds a client comes back to its destination.
    pub persistence: Option<u32>,
}

/// Who answers.
pub type Destination = (Ipv4Addr, u16);

/// What the kernel knows of a destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Its share of new connections; none at zero.
    pub weight: u32,
    /// Connections that it has, those that are ending included.
    pub connections: u32,
}

/// A virtual service as the kernel has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// How it chooses.
    pub scheduling: Scheduling,
    /// Among whom.
    pub destinations: BTreeMap<Destination, Load>,
}

/// Everything that the virtual server has, by address.
pub type Services = BTreeMap<VirtualService, Held>;

/// A change of the virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A service comes.
    AddService(VirtualService, Scheduling),
    /// A service chooses in another way.
    SetService(VirtualService, Scheduling),
    /// A service goes, with its destinations.
    RemoveService(VirtualService),
    /// A destination comes, with a weight.
    AddDestination(VirtualService, Destination, u32),
    /// A destination has another weight.
    SetDestination(VirtualService, Destination, u32),
    /// A destination goes; its connections are cut.
    RemoveDestination(VirtualService, Destination),
}

/// Addresses of this machine but those of loopback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses {
    /// On [`LINK`].
    pub held: BTreeSet<Ipv4Addr>,
    /// On links that Skiff does not hold addresses with.
    pub own: BTreeSet<Ipv4Addr>,
}

/// A virtual server.
#[async_trait]
pub trait Ipvs: Send + Sync {
    /// Makes it ready to be used, by its module, switches and link; safe to repeat. With `strict_arp`, only the link that
    /// has an address answers for it, so that somebody else may announce those that are held here.
    async fn prepare(&self, strict_arp: bool) -> Result<(), IpvsError>;

    /// All services.
    async fn services(&self) -> Result<Services, IpvsError>;

    /// The destinations of some services; none of one that is not there.
    async fn destinations(
        &self,
        of: Vec<VirtualService>,
    ) -> Result<BTreeMap<VirtualService, BTreeMap<Destination, Load>>, IpvsError>;

    /// Makes changes in the given order; the first refusal is the error.
    async fn change(&self, changes: Vec<Change>) -> Result<(), IpvsError>;

    /// This machine's addresses.
    async fn addresses(&self) -> Result<Addresses, IpvsError>;

    /// Addresses that come to the link, and such that go. One that is there already, or gone, is as good.
    async fn hold(&self, come: Vec<Ipv4Addr>, gone: Vec<Ipv4Addr>) -> Result<(), IpvsError>;

    /// A message whenever somebody else changed addresses of this machine. Of changes of services the kernel tells nobody.
    fn monitor(&self) -> Result<mpsc::Receiver<()>, IpvsError>;
}
