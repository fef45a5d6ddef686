//! The virtual server of this machine. Requests are carried out by the kernel while they are sent, on a thread that may
//! wait.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rustix::net::{RecvFlags, SocketFlags, netdevice, netlink::GENERIC};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::{
    Addresses, Change, Destination, Held, Ipvs, IpvsError, LINK, Load, Services, VirtualService, address,
    wire,
};
use crate::netlink::{self, Socket, messages};
use crate::network::SERVICE_LINK;
use crate::process;

/// The switches, and what each must be: connections are tracked, so that their sources can be translated and replies find
/// back; a connection ends with its destination; who comes back to a destination that shall have no new connections is
/// given another.
const SWITCHES: [(&str, &str); 3] = [
    ("net/ipv4/vs/conntrack", "1"),
    ("net/ipv4/vs/expire_nodest_conn", "1"),
    ("net/ipv4/vs/expire_quiescent_template", "1"),
];
/// Before Linux 5.9 a client port that comes again costs its new connection a second, unless this is off.
const REUSE: (&str, &str) = ("net/ipv4/vs/conn_reuse_mode", "0");
const STRICT_ARP: [(&str, &str); 2] =
    [("net/ipv4/conf/all/arp_ignore", "1"), ("net/ipv4/conf/all/arp_announce", "2")];
/// Changes that are sent to the kernel at once.
const BATCH: usize = 256;
/// The group of those who are told of changes of IPv4 addresses.
const ADDRESS_CHANGES: u32 = 1 << 4;

/// The virtual server of this machine, in the network namespace of the thread that uses this value first.
pub struct Kernel {
    tasks: TaskTracker,
    virtual_server: Mutex<Option<Arc<Mutex<Server>>>>,
    routes: Mutex<Option<Arc<Mutex<Socket>>>>,
}

/// A conversation with the virtual server.
struct Server {
    socket: Socket,
    family: u16,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, IpvsError> + Send + 'static,
) -> Result<T, IpvsError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| IpvsError::Connection(error.into()))?
}

impl Server {
    /// `None` when the kernel knows no virtual server.
    fn open() -> io::Result<Option<Self>> {
        let socket = Socket::open(Some(GENERIC))?;
        let mut family = None;
        match socket.dump(&wire::family_request(), |message| family = wire::family(message.body)) {
            Ok(()) => Ok(family.map(|family| Self { socket, family })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn destinations(&self, of: VirtualService) -> io::Result<BTreeMap<Destination, Load>> {
        let mut found = BTreeMap::new();
        self.socket.dump(&wire::destinations_request(self.family, of), |message| {
            found.extend(wire::destination(message.body));
        })?;
        Ok(found)
    }

    fn services(&self) -> io::Result<Services> {
        let mut found = Vec::new();
        self.socket.dump(&wire::services_request(self.family), |message| {
            found.extend(wire::service(message.body));
        })?;
        let with = |(service, scheduling)| {
            let destinations = self.destinations(service)?;
            Ok((service, Held { scheduling, destinations }))
        };
        found.into_iter().map(with).collect()
    }

    fn change(&self, changes: &[Change]) -> Result<(), IpvsError> {
        for batch in changes.chunks(BATCH) {
            let (mut bytes, mut last) = (Vec::new(), 0);
            for (sequence, change) in (0..).zip(batch) {
                wire::change(&mut bytes, self.family, sequence, change);
                last = sequence;
            }
            self.socket.send(&bytes).map_err(IpvsError::Connection)?;
            self.socket.answers(last).map_err(|netlink::Refused { sequence, source }| {
                let change = usize::try_from(sequence).ok().and_then(|place| batch.get(place));
                match (change, source.kind()) {
                    (
                        Some(Change::AddService(_, scheduling) | Change::SetService(_, scheduling)),
                        io::ErrorKind::NotFound,
                    ) => IpvsError::Scheduler { scheduler: scheduling.scheduler.clone() },
                    _ => IpvsError::Refused { change: format!("{change:?}"), source },
                }
            })?;
        }
        Ok(())
    }
}

/// The number of a link, if there is one of this name.
fn link(name: &str) -> io::Result<Option<u32>> {
    let socket = netlink::bound(None, 0, SocketFlags::empty())?;
    match netdevice::name_to_index(&socket, name) {
        Ok(number) => Ok(Some(number)),
        Err(rustix::io::Errno::NODEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn addresses(routes: &Socket, held: Option<u32>, others: Option<u32>) -> io::Result<Addresses> {
    let mut found = Addresses::default();
    routes.dump(&address::list_request(), |message| match address::read(message.kind, message.body) {
        Some((link, address)) if Some(link) == held => drop(found.held.insert(address)),
        Some((link, address)) if Some(link) != others && !address.is_loopback() => {
            found.own.insert(address);
        }
        _ => {}
    })?;
    Ok(found)
}

fn hold(routes: &Socket, link: u32, changes: &[(Ipv4Addr, bool)]) -> Result<(), IpvsError> {
    for (address, come) in changes {
        let mut bytes = Vec::new();
        address::change(&mut bytes, 0, link, *address, *come);
        routes.send(&bytes).map_err(IpvsError::Connection)?;
        if let Err(netlink::Refused { source, .. }) = routes.answers(0) {
            let known = if *come { io::ErrorKind::AlreadyExists } else { io::ErrorKind::AddrNotAvailable };
            if source.kind() != known {
                let what = if *come { "address" } else { "end of address" };
                return Err(IpvsError::Refused { change: format!("{what} {address}"), source });
            }
        }
    }
    Ok(())
}

fn switch((switch, value): (&'static str, &'static str)) -> Result<(), IpvsError> {
    let path = Path::new("/proc/sys").join(switch);
    std::fs::write(path, value).map_err(|source| IpvsError::Switch { switch, value, source })
}

/// Whether a kernel is older than 5.9.
fn before_5_9(release: &str) -> bool {
    let mut numbers =
        release.split(|letter: char| !letter.is_ascii_digit()).map_while(|part| part.parse().ok());
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version < (5, 9)
}

fn release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

impl Kernel {
    /// Nothing is opened yet. Monitors run on `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        Self { tasks, virtual_server: Mutex::default(), routes: Mutex::default() }
    }

    /// Opened by the calling thread, whose network namespace counts. The module is asked for when it is not there.
    async fn server(&self) -> Result<Arc<Mutex<Server>>, IpvsError> {
        if let Some(server) = &*lock(&self.virtual_server) {
            return Ok(server.clone());
        }
        let mut opened = Server::open().map_err(IpvsError::Connection)?;
        let mut reason = "it is not loaded".to_owned();
        if opened.is_none() {
            if let Err(error) = process::run("modprobe", &["ip_vs"]).await {
                reason = error.to_string();
            }
            opened = Server::open().map_err(IpvsError::Connection)?;
        }
        let server = opened.ok_or_else(|| IpvsError::Absent { release: release(), reason })?;
        Ok(lock(&self.virtual_server).insert(Arc::new(Mutex::new(server))).clone())
    }

    fn routes(&self) -> Result<Arc<Mutex<Socket>>, IpvsError> {
        let mut routes = lock(&self.routes);
        if let Some(routes) = &*routes {
            return Ok(routes.clone());
        }
        let socket = Socket::open(None).map_err(IpvsError::Connection)?;
        Ok(routes.insert(Arc::new(Mutex::new(socket))).clone())
    }
}

#[async_trait]
impl Ipvs for Kernel {
    async fn prepare(&self, strict_arp: bool) -> Result<(), IpvsError> {
        self.server().await?;
        SWITCHES.into_iter().try_for_each(switch)?;
        if before_5_9(&release()) {
            switch(REUSE)?;
        }
        if strict_arp {
            STRICT_ARP.into_iter().try_for_each(switch)?;
        }
        if link(LINK).map_err(IpvsError::Connection)?.is_none()
            && process::run("ip", &["link", "add", LINK, "type", "dummy"]).await.is_err()
        {
            // Dummy links are not in every kernel.
            process::run("ip", &["link", "add", LINK, "type", "bridge"]).await?;
        }
        Ok(())
    }

    async fn services(&self) -> Result<Services, IpvsError> {
        let server = self.server().await?;
        blocking(move || lock(&server).services().map_err(IpvsError::Connection)).await
    }

    async fn destinations(
        &self,
        of: Vec<VirtualService>,
    ) -> Result<BTreeMap<VirtualService, BTreeMap<Destination, Load>>, IpvsError> {
        let server = self.server().await?;
        blocking(move || {
            let server = lock(&server);
            let found = of.into_iter().map(|service| Ok((service, server.destinations(service)?)));
            found.collect::<io::Result<_>>().map_err(IpvsError::Connection)
        })
        .await
    }

    async fn change(&self, changes: Vec<Change>) -> Result<(), IpvsError> {
        let server = self.server().await?;
        blocking(move || lock(&server).change(&changes)).await
    }

    async fn addresses(&self) -> Result<Addresses, IpvsError> {
        let routes = self.routes()?;
        let held = link(LINK).map_err(IpvsError::Connection)?;
        let others = link(SERVICE_LINK).map_err(IpvsError::Connection)?;
        blocking(move || addresses(&lock(&routes), held, others).map_err(IpvsError::Connection)).await
    }

    async fn hold(&self, come: Vec<Ipv4Addr>, gone: Vec<Ipv4Addr>) -> Result<(), IpvsError> {
        let changes: Vec<_> =
            come.into_iter().map(|one| (one, true)).chain(gone.into_iter().map(|one| (one, false))).collect();
        if changes.is_empty() {
            return Ok(());
        }
        let routes = self.routes()?;
        let link = match link(LINK).map_err(IpvsError::Connection)? {
            Some(link) => link,
            None => return Err(IpvsError::Connection(io::Error::other(format!("the link {LINK} is gone")))),
        };
        blocking(move || hold(&lock(&routes), link, &changes)).await
    }

    fn monitor(&self) -> Result<mpsc::Receiver<()>, IpvsError> {
        let own = lock(&*self.routes()?).port();
        let open = || process::watch(netlink::bound(None, ADDRESS_CHANGES, SocketFlags::NONBLOCK)?);
        let socket = open().map_err(IpvsError::Connection)?;
        let (sender, receiver) = mpsc::channel(1);
        self.tasks.spawn(async move {
            tokio::select! {
                error = tell(socket, own, &sender) => {
                    tracing::warn!(%error, "changes of addresses are no longer seen");
                }
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }
}

/// Tells of changes that somebody else made, until the system refuses.
async fn tell(mut socket: AsyncFd<OwnedFd>, own: u32, news: &mpsc::Sender<()>) -> io::Error {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read =
            |socket: &mut OwnedFd| Ok(rustix::net::recv(&*socket, &mut buffer, RecvFlags::DONTWAIT)?.0);
        let by_others = match socket.async_io_mut(Interest::READABLE, read).await {
            Ok(length) => messages(&buffer[..length])
                .any(|message| message.port != own && address::read(message.kind, message.body).is_some()),
            // More happened than the kernel could keep.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => true,
            Err(error) => return error,
        };
        // A full channel already says what this says.
        if by_others && let Err(mpsc::error::TrySendError::Closed(())) = news.try_send(()) {
            std::future::pending::<()>().await;
        }
    }
}

/// Takes away the link, and with it whatever the virtual server has: without the link nothing there is a proxy's, and
/// nothing is touched. Whether there was something.
///
/// # Errors
/// The system refuses.
pub async fn clear() -> Result<bool, IpvsError> {
    if link(LINK).map_err(IpvsError::Connection)?.is_none() {
        return Ok(false);
    }
    if let Some(Server { socket, family }) = Server::open().map_err(IpvsError::Connection)? {
        socket.send(&wire::flush_request(family)).map_err(IpvsError::Connection)?;
        socket.answers(0).map_err(|refused| IpvsError::Connection(refused.source))?;
    }
    process::run("ip", &["link", "delete", LINK]).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart_by_their_numbers() {
        for (release, older) in
            [("6.1.0-56-cloud-amd64", false), ("5.9", false), ("5.8.18", true), ("4.19.0", true), ("", true)]
        {
            assert_eq!(before_5_9(release), older, "{release}");
        }
    }

    #[tokio::test]
    async fn a_kernel_without_it_says_so_or_has_it() {
        let kernel = Kernel::new(TaskTracker::new());
        match kernel.services().await {
            Ok(_) => {}
            Err(error @ IpvsError::Absent { .. }) => {
                let text = error.to_string();
                assert!(text.contains("module ip_vs is missing") && text.contains(&release()), "{text}");
            }
            Err(IpvsError::Connection(error)) => {
                assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
            }
            Err(other) => panic!("{other}"),
        }
    }
}
