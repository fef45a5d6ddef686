//! What an API server is told at start.
//!
//! Defaults are those of a single node; where certificates and keys are is not said here.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::aggregation::ProxyClient;
use crate::authn::front_proxy::RequestHeader;
use crate::egress::Mode;

/// An IPv4 range such as `10.43.0.0/16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The first address.
    pub base: Ipv4Addr,
    /// The length of the prefix.
    pub prefix: u8,
}

/// Not a range in the form `a.b.c.d/n`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.43.0.0/16")]
pub struct BadCidr(String);

impl std::str::FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Cidr, BadCidr> {
        let bad = || BadCidr(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = base.parse().map_err(|_| bad())?;
        let prefix: u8 = prefix.parse().map_err(|_| bad())?;
        if prefix > 32 {
            return Err(bad());
        }
        let mask = if prefix == 0 { 0 } else { u32::MAX << (32 - prefix) };
        Ok(Cidr { base: Ipv4Addr::from(u32::from(base) & mask), prefix })
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}/{}", self.base, self.prefix)
    }
}

impl Cidr {
    /// How many addresses there are.
    pub fn size(&self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }

    /// The address at a place in the range.
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        if offset >= self.size() {
            return None;
        }
        Some(Ipv4Addr::from(u32::from(self.base) + u32::try_from(offset).ok()?))
    }

    /// Whether an address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        u64::from(u32::from(address).wrapping_sub(u32::from(self.base))) < self.size()
    }
}

/// Settings of the API server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where Services get their addresses.
    pub service_cidr: Cidr,
    /// Where Services get their node ports.
    pub node_ports: RangeInclusive<u16>,
    /// The address that pods reach this server at.
    pub advertise_address: IpAddr,
    /// The port that it listens on.
    pub port: u16,
    /// The cluster address of DNS; a Service without selector is made for it.
    pub dns_address: Option<Ipv4Addr>,
    /// The largest body that is read.
    pub max_body: usize,
    /// How many connections are served at a time.
    pub max_connections: usize,
    /// How many long lists users are sent at a time.
    pub max_long_lists: usize,
    /// Whether the kubelet of a node may be at a loopback address, as on a machine that has no other.
    pub loopback_kubelets: bool,
    /// How long a request that is neither watch nor log may take.
    pub request_timeout: Duration,
    /// What `/version` says.
    pub git_version: String,
    /// How often old revisions are forgotten: those superseded before the last time.
    pub compact_every: Duration,
    /// How long events stay after they were last written.
    pub event_ttl: Duration,
    /// Whether other servers may be at the same store: then each says by a Lease that it is there.
    pub shared_store: bool,
    /// Whether reads that ask for the newest state get the last known one, with a warning, while the store has no quorum.
    pub stale_reads_without_quorum: bool,
    /// What goes through the tunnels that nodes open.
    pub egress: Mode,
    /// As whom aggregated servers are told who asks; as nobody if there is none, and they will not believe it.
    pub proxy_client: Option<ProxyClient>,
    /// What aggregated servers are told of how users prove who they are.
    pub authentication: Authentication,
}

/// How users prove who they are, as far as others who check that need to know.
#[derive(Clone, Debug, Default)]
pub struct Authentication {
    /// Who signs the certificates of clients, in PEM.
    pub client_ca: String,
    /// Which front proxies are believed, and how they say who asks.
    pub request_header: Option<RequestHeader>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            service_cidr: Cidr { base: Ipv4Addr::new(10, 43, 0, 0), prefix: 16 },
            node_ports: 30000..=32767,
            advertise_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            port: 6443,
            dns_address: Some(Ipv4Addr::new(10, 43, 0, 10)),
            max_body: 3 << 20,
            max_connections: 2048,
            max_long_lists: 400,
            loopback_kubelets: false,
            request_timeout: Duration::from_secs(60),
            git_version: api_machinery::VERSION.to_owned(),
            compact_every: Duration::from_secs(300),
            event_ttl: Duration::from_secs(3600),
            shared_store: false,
            stale_reads_without_quorum: false,
            egress: Mode::default(),
            proxy_client: None,
            authentication: Authentication::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let range: Cidr = "10.43.7.1/16".parse().expect("a range");
        assert_eq!(range.to_string(), "10.43.0.0/16");
        assert_eq!(range.nth(10), Some(Ipv4Addr::new(10, 43, 0, 10)));
        assert_eq!(range.nth(65536), None);
        assert!(range.contains(Ipv4Addr::new(10, 43, 255, 255)));
        assert!(!range.contains(Ipv4Addr::new(10, 44, 0, 0)));
        assert!(!range.contains(Ipv4Addr::new(10, 42, 255, 255)));
        assert!("10.43.0.0".parse::<Cidr>().is_err() && "10.43.0.0/33".parse::<Cidr>().is_err());
    }
}
