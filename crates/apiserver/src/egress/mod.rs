//! How the server reaches what is inside the cluster, kubelets, pods and Services: through the tunnel that the destination's
//! node has opened, and directly where there is none.
//!
//! No name is resolved here: a destination is an address that was looked up in objects and checked, once. What is spoken over
//! a connection is not known here either.

pub mod connect;
pub mod service;
mod tunnel;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use api_machinery::status::ApiError;
use api_machinery::tunnel::{Block, TIMEOUT, dial_error};
use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use self::service::{ServicePort, Trust};
use self::tunnel::{DialError, Tunnel};
use crate::references::{items, text};
use crate::types::Lookup;

/// How long a connection may take to be made.
const DIAL: Duration = Duration::from_secs(5);
/// Tunnels of one node that are kept: it may reach this server in more ways than one. The oldest makes room.
const PER_NODE: usize = 4;
/// Endpoints of a Service that are tried before there is none.
const ATTEMPTS: usize = 3;

/// What goes through tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// Nothing; no node may open one.
    Disabled,
    /// What is for kubelets.
    Agent,
    /// What is for kubelets and pods.
    #[default]
    Pod,
    /// What is for kubelets, pods and Services.
    Cluster,
}

/// Where a connection goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// The kubelet of a node.
    Kubelet {
        /// The node's name.
        node: String,
        /// The kubelet's address.
        address: SocketAddr,
    },
    /// A pod, or what else is on a node that is known.
    Pod {
        /// The node's name.
        node: String,
        /// The pod's address.
        address: SocketAddr,
    },
    /// Anything that has an address: its node, if it has one, is found by that.
    Address(SocketAddr),
}

impl Destination {
    /// The address.
    pub fn address(&self) -> SocketAddr {
        match self {
            Destination::Kubelet { address, .. }
            | Destination::Pod { address, .. }
            | Destination::Address(address) => *address,
        }
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("dial tcp {address}: {why}")]
pub struct EgressError {
    /// Where it would have gone.
    pub address: SocketAddr,
    /// Why, in upstream's words where it has some.
    pub why: String,
}

/// Why there is no connection to a Service.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// There is none, or nobody who serves it.
    #[error("{}", .0.message())]
    Unresolved(ApiError),
    /// None of those who serve it can be reached.
    #[error(transparent)]
    Unreachable(#[from] EgressError),
}

/// A stream of bytes in both directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// A connection, whichever way it goes.
pub type Stream = Box<dyn Connection>;

/// Makes connections into the cluster.
#[async_trait]
pub trait Egress: Send + Sync {
    /// A connection to `to`. Takes a few seconds at most.
    async fn dial(&self, to: &Destination) -> Result<Stream, EgressError>;
}

/// The ways that there are: tunnels, and the network.
pub struct Routes {
    mode: Mode,
    services: Option<Block>,
    tunnels: Tunnels,
    lookup: Arc<dyn Lookup>,
    turn: AtomicUsize,
}

impl Routes {
    /// No tunnels yet. Reads nodes through `lookup`; `services` is the Services' range.
    pub fn new(mode: Mode, services: Option<Block>, lookup: Arc<dyn Lookup>) -> Routes {
        Routes { mode, services, tunnels: Tunnels::default(), lookup, turn: AtomicUsize::default() }
    }

    /// A connection to one of those who serve a port of a Service, each in turn; the next ones if it cannot be reached. And
    /// which address it is to.
    pub async fn connect_service(
        &self,
        namespace: &str,
        name: &str,
        port: ServicePort<'_>,
        trust: Trust,
    ) -> Result<(Stream, SocketAddr), ServiceError> {
        let found = service::endpoints(&*self.lookup, namespace, name, port, trust).await;
        let several = found.map_err(ServiceError::Unresolved)?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut attempts =
            several.iter().cycle().skip(turn % several.len()).take(ATTEMPTS.min(several.len()));
        let mut to = attempts.next().expect("a Service is never served nowhere");
        loop {
            match self.dial(to).await {
                Ok(stream) => return Ok((stream, to.address())),
                Err(error) => {
                    let Some(next) = attempts.next() else { return Err(error.into()) };
                    tracing::debug!(%error, "trying the next endpoint");
                    to = next;
                }
            }
        }
    }

    /// How many tunnels a node has open.
    pub fn tunnels(&self, node: &str) -> usize {
        self.tunnels.of(node).len()
    }

    /// The open tunnels by which `to` is reached, best first; none where it is reached directly.
    async fn tunnels_to(&self, to: &Destination) -> Vec<Arc<Tunnel>> {
        match to {
            Destination::Kubelet { node, .. } if self.mode >= Mode::Agent => self.tunnels.of(node),
            Destination::Pod { node, .. } if self.mode >= Mode::Pod => self.tunnels.of(node),
            Destination::Address(address) if self.mode >= Mode::Pod && !self.tunnels.is_empty() => {
                let address = address.ip();
                if self.mode >= Mode::Cluster && self.services.is_some_and(|block| block.contains(address)) {
                    // Every node takes part in every Service.
                    return self.tunnels.any();
                }
                let nodes = self.lookup.list("", "nodes", None).await.unwrap_or_else(|error| {
                    tracing::warn!(message = error.message(), "nodes cannot be read; dialing directly");
                    Vec::new()
                });
                let node = nodes.iter().find(|node| is_on(node, address));
                node.map(|node| self.tunnels.of(api_machinery::meta::name(node))).unwrap_or_default()
            }
            _ => Vec::new(),
        }
    }

    async fn dial_tunnels(
        &self,
        tunnels: &[Arc<Tunnel>],
        address: SocketAddr,
    ) -> Result<Stream, EgressError> {
        let mut why = String::new();
        for tunnel in tunnels {
            match tunnel.dial(address).await {
                Ok(stream) => return Ok(stream),
                Err(DialError::Gone(what)) => why = what,
                // The node tried: another tunnel to it makes no difference.
                Err(DialError::Refused(why)) => return Err(EgressError { address, why }),
            }
        }
        Err(EgressError { address, why })
    }
}

#[async_trait]
impl Egress for Routes {
    async fn dial(&self, to: &Destination) -> Result<Stream, EgressError> {
        let address = to.address();
        let timeout = |_| EgressError { address, why: TIMEOUT.to_owned() };
        let tunnels = self.tunnels_to(to).await;
        if !tunnels.is_empty() {
            return tokio::time::timeout(DIAL, self.dial_tunnels(&tunnels, address))
                .await
                .map_err(timeout)?;
        }
        let direct = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Stream)
        };
        let made: std::io::Result<Stream> = tokio::time::timeout(DIAL, direct).await.map_err(timeout)?;
        made.map_err(|error| EgressError { address, why: dial_error(&error) })
    }
}

/// Whether an address is one of a node's pods, or the node's own.
fn is_on(node: &Value, address: IpAddr) -> bool {
    let status = node.get("status").unwrap_or(&Value::Null);
    let mut own = items(status, "addresses").filter_map(|entry| text(entry, "/address").parse().ok());
    pod_ranges(node).any(|range| range.contains(address)) || own.any(|own: IpAddr| own == address)
}

/// The ranges of a node's pods.
fn pod_ranges(node: &Value) -> impl Iterator<Item = Block> + '_ {
    let several = node.pointer("/spec/podCIDRs").and_then(Value::as_array).into_iter().flatten();
    let one = node.pointer("/spec/podCIDR").into_iter();
    several.chain(one).filter_map(Value::as_str).filter_map(|range| range.parse().ok())
}

/// The tunnels that are open, by node.
#[derive(Default)]
struct Tunnels(Mutex<BTreeMap<String, Vec<Arc<Tunnel>>>>);

impl Tunnels {
    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Vec<Arc<Tunnel>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds one; the node's oldest ends if there are too many.
    fn add(&self, node: &str, tunnel: Arc<Tunnel>) {
        let mut all = self.lock();
        let own = all.entry(node.to_owned()).or_default();
        own.push(tunnel);
        if own.len() > PER_NODE {
            own.remove(0).end.cancel();
        }
    }

    fn remove(&self, node: &str, tunnel: &Arc<Tunnel>) {
        let mut all = self.lock();
        let Some(own) = all.get_mut(node) else { return };
        own.retain(|other| !Arc::ptr_eq(other, tunnel));
        if own.is_empty() {
            all.remove(node);
        }
    }

    fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// Those of a node, newest first.
    fn of(&self, node: &str) -> Vec<Arc<Tunnel>> {
        self.lock().get(node).map(|own| own.iter().rev().cloned().collect()).unwrap_or_default()
    }

    /// The newest ones of a few nodes.
    fn any(&self) -> Vec<Arc<Tunnel>> {
        self.lock().values().filter_map(|own| own.last()).take(PER_NODE).cloned().collect()
    }
}
