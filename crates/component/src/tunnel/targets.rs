//! What a server may reach through a tunnel: the node's own kubelet, its own pods and, where it is told so, Services. Pure.
//!
//! Everything else is refused whatever the server says: a tunnel is no way into the network that the node is in, nor to
//! what listens on the node for itself. Pods that share the node's network are reached at the ports that they declare. A
//! target is a literal address: the node resolves nothing.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{PoisonError, RwLock};

use api_machinery::tunnel::{Block, is_ordinary};

/// Why a target is not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not an address and a port.
    #[error("{0:?} is not an address and a port")]
    Malformed(String),
    /// It is none that the node lets through.
    #[error("{0} may not be reached through the tunnel of this node")]
    Forbidden(SocketAddr),
}

/// The rules of one node.
#[derive(Debug, Default)]
pub struct Targets {
    /// Where the node's kubelet is.
    pub kubelet: Vec<SocketAddr>,
    /// The Services' range, if they may be reached.
    pub services: Option<Block>,
    pods: RwLock<Vec<Block>>,
    host_network: RwLock<BTreeSet<SocketAddr>>,
}

impl Targets {
    /// The node's kubelet and, if a range is given, Services.
    pub fn new(kubelet: Vec<SocketAddr>, services: Option<Block>) -> Targets {
        Targets { kubelet, services, ..Targets::default() }
    }

    /// The ranges of the node's pods, from now on.
    pub fn set_pods(&self, ranges: Vec<Block>) {
        *self.pods.write().unwrap_or_else(PoisonError::into_inner) = ranges;
    }

    /// Where pods on the node's own network listen, from now on.
    pub fn set_host_network(&self, addresses: BTreeSet<SocketAddr>) {
        *self.host_network.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The address of a target such as `10.42.1.7:80` that may be reached.
    pub fn check(&self, target: &str) -> Result<SocketAddr, Refused> {
        let address: SocketAddr = target.parse().map_err(|_| Refused::Malformed(target.to_owned()))?;
        let of_a_pod = || self.in_ranges(address.ip()) || self.on_host_network(&address);
        if self.kubelet.contains(&address) || (is_ordinary(address.ip()) && of_a_pod()) {
            return Ok(address);
        }
        Err(Refused::Forbidden(address))
    }

    fn on_host_network(&self, address: &SocketAddr) -> bool {
        self.host_network.read().unwrap_or_else(PoisonError::into_inner).contains(address)
    }

    fn in_ranges(&self, address: IpAddr) -> bool {
        let pods = self.pods.read().unwrap_or_else(PoisonError::into_inner);
        pods.iter().chain(&self.services).any(|block| block.contains(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_the_nodes_own() {
        let kubelet = "192.0.2.7:10250".parse().expect("an address");
        let targets = Targets::new(vec![kubelet], None);
        assert!(targets.check("10.42.1.7:80").is_err(), "no range is known yet");
        targets.set_pods(vec![
            "10.42.1.0/24".parse().expect("a range"),
            "fd00:1::/64".parse().expect("a range"),
        ]);
        for good in ["192.0.2.7:10250", "10.42.1.7:80", "10.42.1.7:10250", "[fd00:1::7]:443"] {
            assert_eq!(targets.check(good), Ok(good.parse().expect("an address")), "{good}");
        }
        for bad in [
            "192.0.2.7:22",
            "192.0.2.8:10250",
            "127.0.0.1:10250",
            "127.0.0.1:10248",
            "169.254.169.254:80",
            "0.0.0.0:10250",
            "10.42.2.7:80",
            "10.43.0.1:443",
            "[::1]:10250",
            "[::ffff:10.42.1.7]:80",
        ] {
            let address = bad.parse().expect("an address");
            assert_eq!(targets.check(bad), Err(Refused::Forbidden(address)), "{bad}");
        }
        for odd in ["", "10.42.1.7", "node:10250", "localhost:10250", "10.42.1.7:99999", "10.42.1.7:80/x"] {
            assert_eq!(targets.check(odd), Err(Refused::Malformed(odd.to_owned())), "{odd}");
        }
    }

    #[test]
    fn pods_on_the_nodes_network_are_reached_at_their_ports() {
        let kubelet = "192.0.2.7:10250".parse().expect("an address");
        let targets = Targets::new(vec![kubelet], None);
        let known = |list: &[&str]| list.iter().map(|text| text.parse().expect("an address")).collect();
        targets.set_host_network(known(&["192.0.2.7:9100", "127.0.0.1:22", "169.254.169.254:80"]));
        assert!(targets.check("192.0.2.7:9100").is_ok());
        for bad in ["192.0.2.7:22", "192.0.2.8:9100", "127.0.0.1:22", "169.254.169.254:80"] {
            assert!(matches!(targets.check(bad), Err(Refused::Forbidden(_))), "{bad}");
        }
        targets.set_host_network(BTreeSet::new());
        assert!(targets.check("192.0.2.7:9100").is_err(), "the pod has gone");
    }

    #[test]
    fn a_range_that_is_too_large_opens_nothing_of_the_nodes_own() {
        let targets = Targets::new(Vec::new(), Some("10.43.0.0/16".parse().expect("a range")));
        targets.set_pods(vec!["0.0.0.0/0".parse().expect("a range"), "::/0".parse().expect("a range")]);
        for bad in [
            "127.0.0.1:1",
            "169.254.169.254:80",
            "0.0.0.1:1",
            "224.0.0.1:1",
            "255.255.255.255:1",
            "[::1]:1",
            "[fe80::1]:1",
        ] {
            assert!(matches!(targets.check(bad), Err(Refused::Forbidden(_))), "{bad}");
        }
        targets.set_pods(Vec::new());
        assert!(targets.check("10.43.0.1:443").is_ok(), "Services, since it was told so");
        assert!(targets.check("10.42.0.1:443").is_err());
    }
}
