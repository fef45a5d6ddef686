//! Addresses of links as bytes (linux/if_addr.h): those that the virtual server answers come and go by the thousand, too
//! many for a program each. Pure.

use std::net::Ipv4Addr;

use crate::netlink::{ACK, CREATE, DUMP, REQUEST, attribute, attributes, message};

const NEW: u16 = 20;
const DELETE: u16 = 21;
const GET: u16 = 22;
const IPV4: u8 = 2;
const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;

/// Asks for every IPv4 address of this machine.
pub(super) fn list_request() -> Vec<u8> {
    let mut out = Vec::new();
    message(&mut out, GET, REQUEST | DUMP, 0, |out| out.extend([IPV4, 0, 0, 0, 0, 0, 0, 0]));
    out
}

/// Asks that an address comes to a link, by number, or goes.
pub(super) fn change(out: &mut Vec<u8>, sequence: u32, link: u32, address: Ipv4Addr, come: bool) {
    let (kind, flags) = if come { (NEW, REQUEST | ACK | CREATE) } else { (DELETE, REQUEST | ACK) };
    message(out, kind, flags, sequence, |out| {
        // A network of one, reachable from everywhere.
        out.extend([IPV4, 32, 0, 0]);
        out.extend(link.to_ne_bytes());
        for kind in [LOCAL, ADDRESS] {
            attribute(out, kind, |out| out.extend(address.octets()));
        }
    });
}

/// An address in the kernel's list, or in what it tells of changes: the number of its link, and the address.
pub(super) fn read(kind: u16, body: &[u8]) -> Option<(u32, Ipv4Addr)> {
    let (header, rest) = body.split_first_chunk::<8>()?;
    if ![NEW, DELETE].contains(&kind) || header[0] != IPV4 {
        return None;
    }
    let link = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
    let (_, address) = attributes(rest).find(|(kind, _)| *kind == LOCAL)?;
    Some((link, Ipv4Addr::from(*address.first_chunk::<4>()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::messages;

    #[test]
    fn an_address_is_read_as_it_was_written() {
        let address = Ipv4Addr::new(10, 43, 0, 9);
        let mut bytes = Vec::new();
        change(&mut bytes, 1, 7, address, true);
        change(&mut bytes, 2, 7, address, false);
        let kinds: Vec<u16> = messages(&bytes).map(|message| message.kind).collect();
        assert_eq!((kinds, bytes.len()), (vec![NEW, DELETE], 80));
        for message in messages(&bytes) {
            assert_eq!(read(message.kind, message.body), Some((7, address)));
            for end in 0..16 {
                assert_eq!(read(message.kind, &message.body[..end]), None, "cut at {end}");
            }
        }
        assert_eq!(read(NEW + 4, &bytes[16..40]), None, "a route");
    }
}
