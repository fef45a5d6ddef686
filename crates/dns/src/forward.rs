//! Outside names: a query is handed to the node's name servers in order, from a port and under an id of its own, so that
//! an answer cannot be guessed from outside. Bounded in time and number by the caller.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use api_machinery::entropy::Entropy;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::answer::Transport;

/// How long one name server may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The largest datagram that a name server may send.
const DATAGRAM: usize = 4096;

/// The name servers that are asked for outside names, in order.
#[derive(Clone, Debug)]
pub enum Upstreams {
    /// Always these.
    Fixed(Vec<SocketAddr>),
    /// Those of a resolv.conf as it is when somebody asks, since a machine may be taken to another network.
    File {
        /// The file.
        path: PathBuf,
        /// The address of who asks, for a file that names it.
        except: IpAddr,
    },
}

impl Upstreams {
    /// Those that this machine asks itself, without the one at `except`.
    pub fn of_this_machine(except: IpAddr) -> Upstreams {
        Upstreams::File { path: PathBuf::from("/etc/resolv.conf"), except }
    }

    /// As of now. A file that cannot be read names nobody.
    pub fn now(&self) -> Vec<SocketAddr> {
        match self {
            Upstreams::Fixed(servers) => servers.clone(),
            Upstreams::File { path, except } => match std::fs::read_to_string(path) {
                Ok(text) => name_servers(&text, *except),
                Err(error) => {
                    tracing::debug!(path = %path.display(), %error, "no name servers");
                    Vec::new()
                }
            },
        }
    }
}

/// The name servers in the text of a resolv.conf, without one (ourselves).
fn name_servers(resolv_conf: &str, except: IpAddr) -> Vec<SocketAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver"))
        .filter_map(|address| address.trim().parse().ok())
        .filter(|address| *address != except)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

/// The first answer that a name server gives, or `None` when none does.
pub async fn forward(
    upstreams: &[SocketAddr],
    query: &[u8],
    transport: Transport,
    entropy: &Entropy,
) -> Option<Vec<u8>> {
    let (id, rest) = query.split_first_chunk::<2>()?;
    let fresh = u16::try_from(entropy.below(1 << 16)).ok()?.to_be_bytes();
    let sent: Vec<u8> = fresh.iter().chain(rest).copied().collect();
    for upstream in upstreams {
        let attempt = async {
            match transport {
                Transport::Udp => udp(*upstream, &sent).await,
                Transport::Tcp => tcp(*upstream, &sent).await,
            }
        };
        match timeout(PATIENCE, attempt).await {
            Ok(Ok(mut answer)) => {
                answer[..2].copy_from_slice(id);
                return Some(answer);
            }
            Ok(Err(error)) => tracing::debug!(%upstream, %error, "a name server did not answer"),
            Err(_) => tracing::debug!(%upstream, "a name server took too long"),
        }
    }
    None
}

async fn udp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: SocketAddr = match upstream {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(upstream).await?;
    socket.send(query).await?;
    let mut answer = vec![0; DATAGRAM];
    loop {
        let length = socket.recv(&mut answer).await?;
        // Anything else is not the answer to this query; the real one may still come.
        if length >= 12 && answer[..2] == query[..2] && answer[2] & 0x80 != 0 {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn tcp(upstream: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(upstream).await?;
    write_frame(&mut stream, query).await?;
    let answer = read_frame(&mut stream).await?;
    if answer.len() < 12 || answer[..2] != query[..2] {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, "an answer to another query"));
    }
    Ok(answer)
}

/// A message with its length before it (RFC 1035, 4.2.2).
pub async fn write_frame(stream: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(message.len())
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "a message over 64 KiB"))?;
    let mut frame = Vec::with_capacity(message.len() + 2);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    stream.write_all(&frame).await
}

/// Reads a message with its length before it.
pub async fn read_frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_read_in_order_without_ourselves() {
        let text = "# comment\nsearch example.org\nnameserver 10.43.0.10\nnameserver 192.0.2.1\n nameserver 2001:db8::1\nnameserver x\n";
        let except = "10.43.0.10".parse().unwrap();
        let expected: Vec<SocketAddr> =
            ["192.0.2.1:53", "[2001:db8::1]:53"].map(|a| a.parse().unwrap()).into();
        assert_eq!(name_servers(text, except), expected);
    }

    #[test]
    fn a_file_is_read_whenever_somebody_asks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let upstreams = Upstreams::File { path: file.path().to_owned(), except: Ipv4Addr::LOCALHOST.into() };
        for address in ["192.0.2.1", "192.0.2.2"] {
            std::fs::write(file.path(), format!("nameserver {address}\n")).unwrap();
            assert_eq!(upstreams.now(), [SocketAddr::new(address.parse().unwrap(), 53)]);
        }
        drop(file);
        assert_eq!(upstreams.now(), []);
    }
}
