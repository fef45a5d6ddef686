//! What both ends of a tunnel must agree on: a node opens a connection to an API server, and the server reaches the node's
//! kubelet and pods through it.
//!
//! The node asks for [`PATH`]`/NODE` with an upgrade to [`PROTOCOL`]. From then on the server speaks HTTP/2 as the client:
//! each stream is a CONNECT to a literal address and port, which the node makes or refuses. Nothing here opens anything.

use std::io::{Error, ErrorKind};
use std::net::IpAddr;

/// Where a node asks for its tunnel; its name follows behind a slash.
pub const PATH: &str = "/v1-skiff/connect";
/// What the connection is upgraded to.
pub const PROTOCOL: &str = "skiff-tunnel";
/// Streams of one tunnel at the same time.
pub const STREAMS: u32 = 256;
/// What may wait in one stream of a tunnel for its reader.
pub const STREAM_BYTES: u32 = 128 << 10;
/// What may wait in all of them: readers that do not read keep nobody else waiting.
pub const CONNECTION_BYTES: u32 = STREAMS * STREAM_BYTES;

/// Why a connection was not made, in the words that every Kubernetes client knows.
pub fn dial_error(error: &Error) -> String {
    let known = match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused",
        ErrorKind::ConnectionReset => "connect: connection reset by peer",
        ErrorKind::HostUnreachable => "connect: no route to host",
        ErrorKind::NetworkUnreachable => "connect: network is unreachable",
        ErrorKind::TimedOut => TIMEOUT,
        _ => return error.to_string(),
    };
    known.to_owned()
}

/// The same for one that took too long.
pub const TIMEOUT: &str = "i/o timeout";

/// Whether an address leads to one other machine at most, and neither back to the one that connects nor to a cloud's metadata.
/// Neither end connects to any other, whatever a Node, a pod or an EndpointSlice names.
pub fn is_ordinary(address: IpAddr) -> bool {
    let odd = match address {
        IpAddr::V4(address) => {
            address.is_loopback()
                || address.is_link_local()
                || address.is_multicast()
                || address.is_broadcast()
                || address.octets()[0] == 0
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_unspecified()
                || address.is_unicast_link_local()
                || address.is_multicast()
                || address.to_ipv4_mapped().is_some()
        }
    };
    !odd
}

/// A range of addresses such as `10.42.1.0/24` or `fd00:1::/64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Block {
    base: IpAddr,
    prefix: u8,
}

/// Not a range of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct BadBlock(String);

impl std::str::FromStr for Block {
    type Err = BadBlock;

    fn from_str(text: &str) -> Result<Block, BadBlock> {
        let parsed =
            text.split_once('/').and_then(|(base, prefix)| Some((base.parse().ok()?, prefix.parse().ok()?)));
        match parsed {
            Some((base @ IpAddr::V4(_), prefix @ 0..=32))
            | Some((base @ IpAddr::V6(_), prefix @ 0..=128)) => Ok(Block { base, prefix }),
            _ => Err(BadBlock(text.to_owned())),
        }
    }
}

impl Block {
    /// Whether an address is in the range. An IPv4 address in IPv6 clothes is in none.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (base, address, width) = match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                (u128::from(base.to_bits()), u128::from(address.to_bits()), 32)
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => (base.to_bits(), address.to_bits(), 128),
            _ => return false,
        };
        let free = width - u32::from(self.prefix);
        (base ^ address).checked_shr(free).unwrap_or(0) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_block() {
        let table = [
            ("10.42.1.0/24", "10.42.1.0", true),
            ("10.42.1.7/24", "10.42.1.255", true),
            ("10.42.1.0/24", "10.42.2.0", false),
            ("10.42.1.0/24", "::ffff:10.42.1.1", false),
            ("0.0.0.0/0", "255.255.255.255", true),
            ("10.0.0.1/32", "10.0.0.1", true),
            ("10.0.0.1/32", "10.0.0.2", false),
            ("fd00:1::/64", "fd00:1::7", true),
            ("fd00:1::/64", "fd00:1:0:1::7", false),
            ("::/0", "fe80::1", true),
            ("::/0", "1.2.3.4", false),
        ];
        for (block, address, wanted) in table {
            let block: Block = block.parse().expect("a block");
            assert_eq!(block.contains(address.parse().expect("an address")), wanted, "{block:?} {address}");
        }
        for bad in ["", "10.0.0.0", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/x", "a/8"] {
            assert!(bad.parse::<Block>().is_err(), "{bad}");
        }
    }

    #[test]
    fn where_users_do_not_lead_a_server_or_a_node() {
        let odd = [
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "0.0.0.0",
            "0.1.2.3",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:10.42.0.7",
        ];
        for address in odd {
            assert!(!is_ordinary(address.parse().expect("an address")), "{address}");
        }
        for address in ["10.42.0.7", "192.0.2.1", "fd00::7", "2001:db8::1"] {
            assert!(is_ordinary(address.parse().expect("an address")), "{address}");
        }
    }

    #[test]
    fn failures_have_their_usual_words() {
        let words = |kind: ErrorKind| dial_error(&Error::from(kind));
        assert_eq!(words(ErrorKind::ConnectionRefused), "connect: connection refused");
        assert_eq!(words(ErrorKind::TimedOut), "i/o timeout");
        assert_eq!(dial_error(&Error::other("odd")), "odd");
    }
}
