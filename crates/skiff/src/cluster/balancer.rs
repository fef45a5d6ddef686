//! The way to the API servers of a cluster: a connection is passed on to one that is ready, in turn. Each server is asked
//! how it is all the time; connections to one that no longer answers are cut, so that their clients try again elsewhere.
//!
//! No byte of a connection is looked at: clients check by themselves who answers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at a time; more wait.
const CONNECTIONS: usize = 1000;
/// Between two questions to a server.
const INTERVAL: Duration = Duration::from_secs(1);
/// A server without quorum takes two seconds to say so.
const ANSWER: Duration = Duration::from_secs(3);
/// How long making a connection may take.
const CONNECT: Duration = Duration::from_secs(1);

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It does not answer.
    Silent,
    /// It answers, and says that it is not ready.
    Unready,
    /// It is ready.
    Ready,
}

struct Server {
    address: SocketAddr,
    /// How it is, and what ends the connections to it.
    state: Mutex<(State, CancellationToken)>,
}

impl Server {
    fn state(&self) -> MutexGuard<'_, (State, CancellationToken)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, new: State) {
        let mut known = self.state();
        if known.0 == new {
            return;
        }
        tracing::info!(server = %self.address, from = ?known.0, to = ?new, "a server changed");
        known.0 = new;
        if new == State::Silent {
            std::mem::take(&mut known.1).cancel();
        }
    }
}

/// What passes connections on.
pub struct Balancer {
    servers: Vec<Arc<Server>>,
    turn: AtomicUsize,
}

impl Balancer {
    /// For servers at these addresses. Until they were asked they count as ready.
    pub fn new(addresses: impl IntoIterator<Item = IpAddr>, port: u16) -> Balancer {
        let server = |address| {
            let state = Mutex::new((State::Ready, CancellationToken::new()));
            Arc::new(Server { address: SocketAddr::new(address, port), state })
        };
        Balancer { servers: addresses.into_iter().map(server).collect(), turn: AtomicUsize::new(0) }
    }

    /// Takes connections until that fails.
    pub async fn run(self, listeners: Vec<TcpListener>) -> Result<()> {
        let mut parts = JoinSet::new();
        for server in &self.servers {
            parts.spawn(ask(server.clone()));
        }
        let this = Arc::new(self);
        for listener in listeners {
            parts.spawn(this.clone().take(listener));
        }
        match parts.join_next().await {
            Some(ended) => ended.context("a part of the balancer failed")?,
            None => Ok(()),
        }
    }

    async fn take(self: Arc<Self>, listener: TcpListener) -> Result<()> {
        let mut connections = JoinSet::new();
        loop {
            while connections.len() >= CONNECTIONS {
                connections.join_next().await;
            }
            tokio::select! {
                accepted = listener.accept() => {
                    let (near, _) = accepted.context("cannot take a connection")?;
                    connections.spawn(self.clone().pass(near));
                }
                Some(ended) = connections.join_next() => match ended {
                    Ok(Err(error)) => tracing::debug!(%error, "a connection ended"),
                    Ok(Ok(())) => {}
                    Err(error) => tracing::warn!(%error, "a connection failed"),
                },
            }
        }
    }

    async fn pass(self: Arc<Self>, mut near: TcpStream) -> std::io::Result<()> {
        let mut why = std::io::Error::other("there is no server");
        for server in self.order() {
            let cut = server.state().1.clone();
            match tokio::time::timeout(CONNECT, TcpStream::connect(server.address)).await {
                Ok(Ok(mut far)) => {
                    let passing = tokio::io::copy_bidirectional(&mut near, &mut far);
                    return cut.run_until_cancelled(passing).await.unwrap_or(Ok((0, 0))).map(drop);
                }
                Ok(Err(error)) => why = error,
                Err(late) => why = late.into(),
            }
        }
        Err(why)
    }

    /// The best ones first, and of those that are equally good another one first each time.
    fn order(&self) -> Vec<Arc<Server>> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.servers.len().max(1);
        let (later, first) = self.servers.split_at(turn);
        let mut order: Vec<Arc<Server>> = first.iter().chain(later).cloned().collect();
        order.sort_by_key(|server| std::cmp::Reverse(server.state().0));
        order
    }
}

/// Asks a server how it is, again and again.
async fn ask(server: Arc<Server>) -> Result<()> {
    let url = format!("https://{}", server.address);
    // Nothing secret is sent, and a wrong answer does no more than send a client to who cannot prove its name.
    let client = component::connect::unverified(&url).context("cannot ask a server how it is")?;
    loop {
        let request = http::Request::get("/readyz").body(kube::client::Body::empty())?;
        let state = match tokio::time::timeout(ANSWER, client.send(request)).await {
            Ok(Ok(answer)) if answer.status().is_success() => State::Ready,
            Ok(Ok(_)) => State::Unready,
            Ok(Err(_)) | Err(_) => State::Silent,
        };
        server.note(state);
        tokio::time::sleep(INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    fn balancer(states: &[State]) -> Balancer {
        let made = Balancer::new((1u8..).zip(states).map(|(last, _)| IpAddr::from([192, 0, 2, last])), 1);
        made.servers.iter().zip(states).for_each(|(server, state)| server.note(*state));
        made
    }

    fn first_choices(balancer: &Balancer) -> Vec<u8> {
        let last = |server: &Arc<Server>| match server.address.ip() {
            IpAddr::V4(address) => address.octets()[3],
            IpAddr::V6(_) => 0,
        };
        (0..4).map(|_| last(&balancer.order()[0])).collect()
    }

    #[test]
    fn ready_servers_take_turns_and_others_are_the_last_resort() {
        use State::{Ready, Silent, Unready};
        assert_eq!(first_choices(&balancer(&[Ready, Ready, Ready])), [1, 2, 3, 1]);
        assert_eq!(first_choices(&balancer(&[Silent, Ready, Unready])), [2, 2, 2, 2]);
        assert_eq!(first_choices(&balancer(&[Silent, Unready, Unready])), [2, 2, 3, 2]);
        assert_eq!(balancer(&[Silent, Unready, Ready]).order().len(), 3);
    }

    #[tokio::test]
    async fn a_server_that_refuses_is_passed_over_and_one_that_falls_silent_is_cut_off() {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let far = TcpListener::bind((here, 0)).await.expect("a port");
        let port = far.local_addr().expect("an address").port();
        // Nobody listens at the first one.
        let balancer = Arc::new(Balancer::new([IpAddr::from([127, 0, 0, 2]), here], port));
        let listener = TcpListener::bind((here, 0)).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mut taking = JoinSet::new();
        taking.spawn(balancer.clone().take(listener));
        let mut near = TcpStream::connect(address).await.expect("taken");
        let (mut end, _) = far.accept().await.expect("passed on");
        near.write_all(b"ping").await.expect("written");
        let mut read = [0; 4];
        end.read_exact(&mut read).await.expect("read");
        assert_eq!(&read, b"ping");
        balancer.servers[1].note(State::Unready);
        end.write_all(b"pong").await.expect("written");
        near.read_exact(&mut read).await.expect("what is not ready may still answer");
        balancer.servers[1].note(State::Silent);
        assert_eq!(near.read(&mut read).await.expect("ended"), 0);
    }
}
