//! Names of chains as upstream computes them, so that whoever looks for a Service's chain finds it: sixteen characters of
//! the base32 of a SHA-256.

use sha2::{Digest, Sha256};

use crate::plan::{Backend, PortName};

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The chain of a port: `KUBE-SVC-`, `KUBE-SVL-`, `KUBE-EXT-` or `KUBE-FW-` and a hash.
pub fn port(prefix: &str, name: &PortName) -> String {
    format!("{prefix}{}", hash(&format!("{name}{}", name.protocol.name())))
}

/// The chain of a port's backend.
pub fn endpoint(name: &PortName, (address, port): &Backend) -> String {
    format!("KUBE-SEP-{}", hash(&format!("{name}{}{address}:{port}", name.protocol.name())))
}

/// Ten bytes are sixteen characters of five bits.
fn hash(text: &str) -> String {
    let digest = Sha256::digest(text.as_bytes());
    let bits = digest[..10].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    (0..16).rev().map(|place| char::from(ALPHABET[(bits >> (place * 5) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Protocol;
    use std::net::Ipv4Addr;

    /// Names that every cluster with upstream's proxy has.
    #[test]
    fn chains_have_the_names_that_hosts_know() {
        let name = |namespace: &str, service: &str, port: &str, protocol| PortName {
            namespace: namespace.to_owned(),
            service: service.to_owned(),
            port: port.to_owned(),
            protocol,
        };
        for (name, expected) in [
            (name("default", "kubernetes", "https", Protocol::Tcp), "KUBE-SVC-NPX46M4PTMTKRN6Y"),
            (name("kube-system", "kube-dns", "dns", Protocol::Udp), "KUBE-SVC-TCOU7JCQXEZGVUNU"),
            (name("kube-system", "kube-dns", "dns-tcp", Protocol::Tcp), "KUBE-SVC-ERIFXISQEP7F7OF4"),
            (name("ns1", "svc1", "p80", Protocol::Tcp), "KUBE-SVC-XPGD46QRK7WJZT7O"),
        ] {
            assert_eq!(port("KUBE-SVC-", &name), expected, "{name}");
        }
        let name = name("ns1", "svc1", "p80", Protocol::Tcp);
        assert_eq!(endpoint(&name, &(Ipv4Addr::new(10, 180, 0, 1), 80)), "KUBE-SEP-SXIVWICOYRO3J4NJ");
    }
}
