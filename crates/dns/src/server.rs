//! The sockets: UDP datagrams and TCP connections in, answers out. Bounded: queries in flight, connections, idle time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::entropy::Entropy;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::answer::{Transport, Verdict, answer, followed, server_failure};
use crate::forward::{Upstreams, forward, read_frame, write_frame};
use crate::{Config, Error, SharedZone};

const FORWARDS_AT_ONCE: usize = 256;
const CONNECTIONS: usize = 128;
const IDLE: Duration = Duration::from_secs(10);
/// No query is larger.
const QUERY: usize = 4096;

/// Bound sockets, not yet served.
pub struct Server {
    udp: UdpSocket,
    tcp: TcpListener,
    shared: Shared,
}

#[derive(Clone)]
struct Shared {
    zone: SharedZone,
    upstreams: Upstreams,
    entropy: Entropy,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
}

impl Server {
    /// Takes the address, both UDP and TCP.
    pub async fn bind(config: &Config, zone: SharedZone, entropy: Entropy) -> Result<Self, Error> {
        let failed = |source| Error::Listen { address: config.listen, source };
        let tcp = TcpListener::bind(config.listen).await.map_err(failed)?;
        let udp = UdpSocket::bind(tcp.local_addr().map_err(failed)?).await.map_err(failed)?;
        let shared = Shared {
            zone,
            upstreams: config.upstreams.clone(),
            entropy,
            forwards: Arc::new(Semaphore::new(FORWARDS_AT_ONCE)),
            connections: Arc::new(Semaphore::new(CONNECTIONS)),
        };
        Ok(Self { udp, tcp, shared })
    }

    /// The address that was taken, for a port that was left open.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.udp.local_addr()
    }

    /// Serves on `tasks` until shutdown.
    pub fn start(self, tasks: &TaskTracker, shutdown: &CancellationToken) {
        let Self { udp, tcp, shared } = self;
        let datagrams = serve_udp(Arc::new(udp), shared.clone(), tasks.clone());
        let connections = serve_tcp(tcp, shared, tasks.clone());
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(datagrams));
        tasks.spawn(shutdown.clone().run_until_cancelled_owned(connections));
    }
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Shared, tasks: TaskTracker) {
    let mut buffer = vec![0; QUERY];
    loop {
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                // An earlier answer met a closed port; the socket itself is fine.
                tracing::debug!(%error, "no datagram");
                continue;
            }
        };
        let query = &buffer[..length];
        let zone = shared.zone();
        match answer(&zone, query, Transport::Udp) {
            Verdict::Answer(bytes) => send(&socket, &bytes, client).await,
            Verdict::Ignore => {}
            verdict @ (Verdict::Forward | Verdict::Follow(_)) => {
                let (socket, shared, query) = (socket.clone(), shared.clone(), query.to_vec());
                tasks.spawn(async move {
                    if let Some(bytes) = shared.with_help(verdict, &query, Transport::Udp).await {
                        send(&socket, &bytes, client).await;
                    }
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, bytes: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, client).await {
        tracing::debug!(%client, %error, "an answer was not sent");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Shared, tasks: TaskTracker) {
    loop {
        let Ok(permit) = shared.connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, client)) => {
                let shared = shared.clone();
                tasks.spawn(async move {
                    if let Err(error) = converse(stream, &shared).await {
                        tracing::debug!(%client, %error, "connection closed");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept; waiting for descriptors");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Queries one after the other until the client closes or falls silent.
async fn converse(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    while let Ok(query) = timeout(IDLE, read_frame(&mut stream)).await {
        let query = query?;
        let verdict = answer(&shared.zone(), &query, Transport::Tcp);
        if let Some(bytes) = shared.with_help(verdict, &query, Transport::Tcp).await {
            write_frame(&mut stream, &bytes).await?;
        }
    }
    Ok(())
}

impl Shared {
    fn zone(&self) -> Arc<crate::zone::Zone> {
        self.zone.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// The answer that a verdict asks for. Without an upstream's help where it is needed, or when too many wait for it
    /// already, it is SERVFAIL.
    async fn with_help(&self, verdict: Verdict, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let answer =
            match verdict {
                Verdict::Answer(bytes) => return Some(bytes),
                Verdict::Ignore => return None,
                Verdict::Forward => self.outside(query, transport).await,
                Verdict::Follow(other) => self.outside(&other, transport).await.and_then(|outside| {
                    match followed(&self.zone(), query, &outside, transport) {
                        Verdict::Answer(bytes) => Some(bytes),
                        Verdict::Forward | Verdict::Follow(_) | Verdict::Ignore => None,
                    }
                }),
            };
        answer.or_else(|| server_failure(query))
    }

    async fn outside(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let _permit = self.forwards.try_acquire().ok()?;
        forward(&self.upstreams.now(), query, transport, &self.entropy).await
    }
}
