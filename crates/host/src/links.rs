//! What the pod network between nodes needs of the kernel: one VXLAN device, routes of our own, neighbours and forwarding
//! entries. Read as facts, changed by batches of the `ip` and `bridge` programs, and watched for changes by others.
//! What should be there is decided elsewhere.

use std::net::{IpAddr, Ipv4Addr};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType};
use serde::Deserialize;
use tokio::io::unix::AsyncFd;

use crate::process::{Command, LinuxRunner, ProcessError, Runner};

/// Why links could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProcessError),
    /// A listing was not understood.
    #[error("{program} printed something unexpected: {source}")]
    Listing {
        /// Which program.
        program: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// No link has the address.
    #[error("no link of this machine has the address {0}")]
    NoSuchAddress(IpAddr),
    /// Watching could not begin.
    #[error("cannot watch links: {0}")]
    Monitor(std::io::Error),
}

/// What is to be known of any link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Whether it is switched on.
    pub up: bool,
    /// Its addresses of version 4.
    pub addresses: Vec<Ipv4Addr>,
}

/// The link by which a node reaches others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Its name.
    pub link: String,
    /// The most bytes of one packet.
    pub mtu: u32,
    /// The node's address on it.
    pub address: IpAddr,
    /// The bits of the address that neighbours share.
    pub prefix: u8,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Its hardware address.
    pub mac: String,
    /// The most bytes of one packet.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// The network's number.
    pub id: u32,
    /// Where packets are sent to and received at.
    pub port: u16,
    /// The address that packets are sent from.
    pub local: Option<IpAddr>,
    /// The addresses that it has, without those that the kernel gives itself.
    pub addresses: Vec<IpAddr>,
}

/// A route of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// CIDR.
    pub destination: String,
    /// The next machine.
    pub gateway: IpAddr,
    /// The link.
    pub link: String,
}

/// A pair of an address and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Hardware address.
    pub mac: String,
    /// A neighbour's address, or for a forwarding entry the node behind which it is.
    pub address: IpAddr,
}

/// Everything of the pod network that the kernel holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// The device, if it is there.
    pub vxlan: Option<Vxlan>,
    /// Routes that carry our protocol number.
    pub routes: Vec<Route>,
    /// Permanent neighbours on the device.
    pub neighbours: Vec<Entry>,
    /// Forwarding entries of the device.
    pub forwarding: Vec<Entry>,
}

#[derive(Deserialize)]
struct LinkRow {
    ifname: String,
    mtu: u32,
    #[serde(default)]
    address: String,
    #[serde(default)]
    flags: Vec<String>,
    linkinfo: Option<LinkInfo>,
    #[serde(default)]
    addr_info: Vec<AddressRow>,
}

impl LinkRow {
    fn is_up(&self) -> bool {
        self.flags.iter().any(|flag| flag == "UP")
    }
}

#[derive(Deserialize)]
struct LinkInfo {
    info_kind: Option<String>,
    info_data: Option<LinkData>,
}

#[derive(Deserialize)]
struct LinkData {
    id: Option<u32>,
    port: Option<u16>,
    local: Option<IpAddr>,
    local6: Option<IpAddr>,
}

#[derive(Deserialize)]
struct AddressRow {
    local: Option<IpAddr>,
    prefixlen: u8,
    scope: String,
}

impl AddressRow {
    fn version_4(&self) -> Option<Ipv4Addr> {
        match self.local {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct RouteRow {
    dst: String,
    gateway: Option<IpAddr>,
    dev: Option<String>,
}

#[derive(Deserialize)]
struct NeighbourRow {
    dst: IpAddr,
    lladdr: Option<String>,
    #[serde(default)]
    state: Vec<String>,
}

#[derive(Deserialize)]
struct ForwardingRow {
    mac: String,
    dst: Option<IpAddr>,
}

/// Every link in the network of this thread.
///
/// # Errors
/// A program fails.
pub async fn all() -> Result<Vec<Link>, LinkError> {
    let rows: Vec<LinkRow> = listed("ip", &["-json", "address", "show"]).await?;
    let link = |row: LinkRow| Link {
        up: row.is_up(),
        addresses: row.addr_info.iter().filter_map(AddressRow::version_4).collect(),
        name: row.ifname,
    };
    Ok(rows.into_iter().map(link).collect())
}

/// The link that has the address.
///
/// # Errors
/// None has.
pub async fn underlay(address: IpAddr) -> Result<Underlay, LinkError> {
    let rows: Vec<LinkRow> = listed("ip", &["-json", "address", "show"]).await?;
    let found = rows.iter().find_map(|row| {
        let own = row.addr_info.iter().find(|own| own.local == Some(address))?;
        Some(Underlay { link: row.ifname.clone(), mtu: row.mtu, address, prefix: own.prefixlen })
    });
    found.ok_or(LinkError::NoSuchAddress(address))
}

/// What the kernel holds for a device and a routing protocol number.
///
/// # Errors
/// A program fails.
pub async fn holdings(device: &str, protocol: u8) -> Result<Holdings, LinkError> {
    let all: Vec<LinkRow> = listed("ip", &["-json", "-details", "address", "show"]).await?;
    let Some(row) = all.into_iter().find(|row| row.ifname == device) else {
        return Ok(Holdings { routes: routes(protocol).await?, ..Holdings::default() });
    };
    let neighbours: Vec<NeighbourRow> = listed("ip", &["-json", "neighbour", "show", "dev", device]).await?;
    let forwarding: Vec<ForwardingRow> = listed("bridge", &["-json", "fdb", "show", "dev", device]).await?;
    let permanent = |row: NeighbourRow| {
        let mac = row.lladdr.filter(|_| row.state.iter().any(|state| state == "PERMANENT"))?;
        Some(Entry { mac, address: row.dst })
    };
    Ok(Holdings {
        vxlan: vxlan(row),
        routes: routes(protocol).await?,
        neighbours: neighbours.into_iter().filter_map(permanent).collect(),
        forwarding: forwarding
            .into_iter()
            .filter_map(|row| Some(Entry { mac: row.mac, address: row.dst? }))
            .collect(),
    })
}

fn vxlan(row: LinkRow) -> Option<Vxlan> {
    let up = row.is_up();
    let info = row.linkinfo.filter(|info| info.info_kind.as_deref() == Some("vxlan"))?;
    let data = info.info_data?;
    let given = row.addr_info.iter().filter(|address| address.scope == "global");
    Some(Vxlan {
        addresses: given.filter_map(|address| address.local).collect(),
        mac: row.address,
        mtu: row.mtu,
        up,
        id: data.id?,
        port: data.port?,
        local: data.local.or(data.local6),
    })
}

async fn routes(protocol: u8) -> Result<Vec<Route>, LinkError> {
    let protocol = protocol.to_string();
    let mut found = Vec::new();
    for family in ["-4", "-6"] {
        let rows: Vec<RouteRow> =
            listed("ip", &["-json", family, "route", "show", "protocol", &protocol]).await?;
        found.extend(
            rows.into_iter().filter_map(|row| {
                Some(Route { destination: row.dst, gateway: row.gateway?, link: row.dev? })
            }),
        );
    }
    Ok(found)
}

/// An empty list is printed as nothing at all by some versions.
async fn listed<T: for<'a> Deserialize<'a>>(
    program: &'static str,
    arguments: &[&str],
) -> Result<Vec<T>, LinkError> {
    let mut command = Command::new(program).args(arguments.iter().copied());
    command.output_limit = 64 << 20;
    let output = LinuxRunner.run(&command).await?;
    if output.stdout.trim_ascii().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_slice(&output.stdout).map_err(|source| LinkError::Listing { program, source })
}

/// Runs lines as one batch of `ip`; all lines are tried, and the first refusal is the error.
///
/// # Errors
/// A line is refused.
pub async fn ip(lines: &[String]) -> Result<(), LinkError> {
    batch("ip", lines).await
}

/// Runs lines as one batch of `bridge`; all lines are tried, and the first refusal is the error.
///
/// # Errors
/// A line is refused.
pub async fn bridge(lines: &[String]) -> Result<(), LinkError> {
    batch("bridge", lines).await
}

async fn batch(program: &str, lines: &[String]) -> Result<(), LinkError> {
    if lines.is_empty() {
        return Ok(());
    }
    let text = format!("{}\n", lines.join("\n"));
    let command = Command::new(program).args(["-force", "-batch", "-"]).stdin(text);
    LinuxRunner.run(&command).await?;
    Ok(())
}

/// Tells when links, addresses, routes, neighbours or forwarding entries change, by whomever.
#[derive(Debug)]
pub struct Monitor {
    socket: AsyncFd<rustix::fd::OwnedFd>,
}

/// What the kernel calls the groups of links, neighbours, and addresses and routes of both versions.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x100 | 0x400;

impl Monitor {
    /// Changes from now on are noticed, in the network namespace of this thread.
    ///
    /// # Errors
    /// The system refuses.
    pub fn start() -> Result<Self, LinkError> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let open = || -> std::io::Result<_> {
            // The first protocol of netlink is about links and routes.
            let socket = net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
            net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            crate::process::watch(socket)
        };
        Ok(Self { socket: open().map_err(LinkError::Monitor)? })
    }

    /// Returns when something changed since the last return. Several changes are told as one; none is lost.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn changed(&mut self) -> Result<(), LinkError> {
        loop {
            let mut ready = self.socket.readable().await.map_err(LinkError::Monitor)?;
            if drain(ready.get_inner()).map_err(LinkError::Monitor)? {
                return Ok(());
            }
            ready.clear_ready();
        }
    }
}

/// Reads all messages that wait; whether there was one. What they say is not looked at: the caller reads the facts.
fn drain(socket: &rustix::fd::OwnedFd) -> std::io::Result<bool> {
    let mut buffer = [0_u8; 8192];
    let mut any = false;
    loop {
        match net::recv(socket, &mut buffer, RecvFlags::empty()) {
            Ok(_) => any = true,
            // More happened than the kernel could keep.
            Err(rustix::io::Errno::NOBUFS) => any = true,
            Err(rustix::io::Errno::AGAIN) => return Ok(any),
            Err(error) => return Err(error.into()),
        }
    }
}
