//! Messages of the kernel's virtual server as bytes (linux/ip_vs.h, linux/genetlink.h). Pure.

use std::net::Ipv4Addr;

use super::{Change, Destination, Load, Scheduling, VirtualService};
use crate::netlink::{ACK, DUMP, NESTED, REQUEST, attribute, attributes, message, text};

/// The family's name; its number is the kernel's choice.
const NAME: &str = "IPVS";
/// The family that knows all families.
const CONTROL: u16 = 0x10;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;

const NEW_SERVICE: u8 = 1;
const SET_SERVICE: u8 = 2;
const DELETE_SERVICE: u8 = 3;
const GET_SERVICE: u8 = 4;
const NEW_DESTINATION: u8 = 5;
const SET_DESTINATION: u8 = 6;
const DELETE_DESTINATION: u8 = 7;
const GET_DESTINATION: u8 = 8;
const FLUSH: u8 = 17;

/// What a message is about.
const SERVICE: u16 = 1;
const DESTINATION: u16 = 2;

/// Attributes of a service.
mod service {
    pub(super) const FAMILY: u16 = 1;
    pub(super) const PROTOCOL: u16 = 2;
    pub(super) const ADDRESS: u16 = 3;
    pub(super) const PORT: u16 = 4;
    pub(super) const SCHEDULER: u16 = 6;
    pub(super) const FLAGS: u16 = 7;
    pub(super) const TIMEOUT: u16 = 8;
    pub(super) const NETMASK: u16 = 9;
}

/// Attributes of a destination.
mod destination {
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const PORT: u16 = 2;
    pub(super) const METHOD: u16 = 3;
    pub(super) const WEIGHT: u16 = 4;
    pub(super) const UPPER: u16 = 5;
    pub(super) const LOWER: u16 = 6;
    pub(super) const ACTIVE: u16 = 7;
    pub(super) const INACTIVE: u16 = 8;
    pub(super) const FAMILY: u16 = 11;
}

const IPV4: u16 = 2;
/// A client stays with its destination.
const PERSISTENT: u32 = 1;
/// Flags that are the caller's to choose; others are the kernel's own.
const CHOSEN: u32 = PERSISTENT | 4 | 8 | 16;
/// Destinations are reached by translating addresses.
const TRANSLATE: u32 = 0;

/// Asks for the family's number.
pub(super) fn family_request() -> Vec<u8> {
    let mut out = Vec::new();
    generic(&mut out, CONTROL, REQUEST | ACK, 0, GET_FAMILY, |out| {
        attribute(out, FAMILY_NAME, |out| text(out, NAME));
    });
    out
}

/// The number in the answer.
pub(super) fn family(body: &[u8]) -> Option<u16> {
    let (_, value) = attributes(body.get(4..)?).find(|(kind, _)| *kind == FAMILY_ID)?;
    Some(u16::from_ne_bytes(*value.first_chunk()?))
}

fn generic(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    command: u8,
    body: impl FnOnce(&mut Vec<u8>),
) {
    message(out, kind, flags, sequence, |out| {
        out.extend([command, 1, 0, 0]);
        body(out);
    });
}

/// Asks for a change.
pub(super) fn change(out: &mut Vec<u8>, family: u16, sequence: u32, change: &Change) {
    let (command, service, scheduling) = match change {
        Change::AddService(service, scheduling) => (NEW_SERVICE, service, Some(scheduling)),
        Change::SetService(service, scheduling) => (SET_SERVICE, service, Some(scheduling)),
        Change::RemoveService(service) => (DELETE_SERVICE, service, None),
        Change::AddDestination(service, ..) => (NEW_DESTINATION, service, None),
        Change::SetDestination(service, ..) => (SET_DESTINATION, service, None),
        Change::RemoveDestination(service, _) => (DELETE_DESTINATION, service, None),
    };
    generic(out, family, REQUEST | ACK, sequence, command, |out| {
        attribute(out, SERVICE | NESTED, |out| service_body(out, *service, scheduling));
        match change {
            Change::AddDestination(_, to, weight) | Change::SetDestination(_, to, weight) => {
                attribute(out, DESTINATION | NESTED, |out| destination_body(out, *to, Some(*weight)));
            }
            Change::RemoveDestination(_, to) => {
                attribute(out, DESTINATION | NESTED, |out| destination_body(out, *to, None));
            }
            _ => {}
        }
    });
}

/// Asks for every service.
pub(super) fn services_request(family: u16) -> Vec<u8> {
    let mut out = Vec::new();
    generic(&mut out, family, REQUEST | DUMP, 0, GET_SERVICE, |_| {});
    out
}

/// Asks for every destination of a service.
pub(super) fn destinations_request(family: u16, of: VirtualService) -> Vec<u8> {
    let mut out = Vec::new();
    generic(&mut out, family, REQUEST | DUMP, 0, GET_DESTINATION, |out| {
        attribute(out, SERVICE | NESTED, |out| service_body(out, of, None));
    });
    out
}

/// Asks that every service goes.
pub(super) fn flush_request(family: u16) -> Vec<u8> {
    let mut out = Vec::new();
    generic(&mut out, family, REQUEST | ACK, 0, FLUSH, |_| {});
    out
}

fn service_body(out: &mut Vec<u8>, service: VirtualService, scheduling: Option<&Scheduling>) {
    attribute(out, service::FAMILY, |out| out.extend(IPV4.to_ne_bytes()));
    attribute(out, service::PROTOCOL, |out| out.extend(u16::from(service.protocol).to_ne_bytes()));
    attribute(out, service::ADDRESS, |out| address_body(out, service.address));
    attribute(out, service::PORT, |out| out.extend(service.port.to_be_bytes()));
    let Some(Scheduling { scheduler, persistence }) = scheduling else { return };
    attribute(out, service::SCHEDULER, |out| text(out, scheduler));
    attribute(out, service::FLAGS, |out| {
        let flags = if persistence.is_some() { PERSISTENT } else { 0 };
        out.extend(flags.to_ne_bytes());
        out.extend(CHOSEN.to_ne_bytes());
    });
    attribute(out, service::TIMEOUT, |out| out.extend(persistence.unwrap_or(0).to_ne_bytes()));
    // Every client for itself.
    attribute(out, service::NETMASK, |out| out.extend(u32::MAX.to_ne_bytes()));
}

fn destination_body(out: &mut Vec<u8>, (address, port): Destination, weight: Option<u32>) {
    attribute(out, destination::ADDRESS, |out| address_body(out, address));
    attribute(out, destination::PORT, |out| out.extend(port.to_be_bytes()));
    attribute(out, destination::FAMILY, |out| out.extend(IPV4.to_ne_bytes()));
    let Some(weight) = weight else { return };
    // No bounds on connections.
    for (kind, value) in [
        (destination::METHOD, TRANSLATE),
        (destination::WEIGHT, weight),
        (destination::UPPER, 0),
        (destination::LOWER, 0),
    ] {
        attribute(out, kind, |out| out.extend(value.to_ne_bytes()));
    }
}

/// There is room for an address of either version.
fn address_body(out: &mut Vec<u8>, address: Ipv4Addr) {
    out.extend(address.octets());
    out.extend([0; 12]);
}

/// A service in the kernel's list; `None` for what is none of ours: IPv6, and what is chosen by a packet's mark.
pub(super) fn service(body: &[u8]) -> Option<(VirtualService, Scheduling)> {
    let (mut protocol, mut address, mut port, mut flags) = (None, None, None, 0);
    let (mut scheduler, mut timeout) = (String::new(), 0);
    for (kind, value) in inside(body, SERVICE)? {
        match kind {
            service::FAMILY if short(value)? != IPV4 => return None,
            service::PROTOCOL => protocol = Some(short(value)?),
            service::ADDRESS => address = Some(Ipv4Addr::from(*value.first_chunk::<4>()?)),
            service::PORT => port = Some(u16::from_be_bytes(*value.first_chunk()?)),
            service::SCHEDULER => {
                scheduler = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
            }
            service::FLAGS => flags = word(value)?,
            service::TIMEOUT => timeout = word(value)?,
            _ => {}
        }
    }
    let protocol = u8::try_from(protocol?).ok()?;
    let persistence = (flags & PERSISTENT != 0).then_some(timeout);
    Some((VirtualService { address: address?, protocol, port: port? }, Scheduling { scheduler, persistence }))
}

/// A destination in the kernel's list.
pub(super) fn destination(body: &[u8]) -> Option<(Destination, Load)> {
    let (mut address, mut port, mut load) = (None, None, Load::default());
    for (kind, value) in inside(body, DESTINATION)? {
        match kind {
            destination::ADDRESS => address = Some(Ipv4Addr::from(*value.first_chunk::<4>()?)),
            destination::PORT => port = Some(u16::from_be_bytes(*value.first_chunk()?)),
            destination::WEIGHT => load.weight = word(value)?,
            destination::ACTIVE | destination::INACTIVE => {
                load.connections = load.connections.saturating_add(word(value)?);
            }
            destination::FAMILY if short(value)? != IPV4 => return None,
            _ => {}
        }
    }
    Some(((address?, port?), load))
}

fn inside(body: &[u8], what: u16) -> Option<impl Iterator<Item = (u16, &[u8])>> {
    let (_, inner) = attributes(body.get(4..)?).find(|(kind, _)| *kind == what)?;
    Some(attributes(inner))
}

fn short(value: &[u8]) -> Option<u16> {
    Some(u16::from_ne_bytes(*value.first_chunk()?))
}

fn word(value: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(*value.first_chunk()?))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;
    use crate::netlink::messages;

    const WEB: VirtualService =
        VirtualService { address: Ipv4Addr::new(10, 43, 0, 9), protocol: 6, port: 80 };

    fn encoded(of: &Change) -> Vec<u8> {
        let mut out = Vec::new();
        change(&mut out, 0x20, 7, of);
        out
    }

    /// Byte by byte what `ipvsadm -A -t 10.43.0.9:80 -s rr -p 60` sends, but for the kernel's numbers for us.
    #[test]
    fn a_service_is_written_as_the_kernel_reads_it() {
        let scheduling = Scheduling { scheduler: "rr".to_owned(), persistence: Some(60) };
        let bytes = encoded(&Change::AddService(WEB, scheduling));
        let expected: &[&[u8]] = &[
            &[104, 0, 0, 0, 0x20, 0, 5, 0, 7, 0, 0, 0, 0, 0, 0, 0],
            &[1, 1, 0, 0],
            &[84, 0, 1, 0x80],
            &[6, 0, 1, 0, 2, 0, 0, 0],
            &[6, 0, 2, 0, 6, 0, 0, 0],
            &[20, 0, 3, 0, 10, 43, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 4, 0, 0, 80, 0, 0],
            &[7, 0, 6, 0, b'r', b'r', 0, 0],
            &[12, 0, 7, 0, 1, 0, 0, 0, 0x1d, 0, 0, 0],
            &[8, 0, 8, 0, 60, 0, 0, 0],
            &[8, 0, 9, 0, 255, 255, 255, 255],
        ];
        assert_eq!(bytes, expected.concat());
    }

    #[test]
    fn a_destination_is_written_with_its_service() {
        let bytes = encoded(&Change::SetDestination(WEB, (Ipv4Addr::new(10, 42, 0, 1), 8080), 0));
        let tail: &[&[u8]] = &[
            &[72, 0, 2, 0x80],
            &[20, 0, 1, 0, 10, 42, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            &[6, 0, 2, 0, 0x1f, 0x90, 0, 0],
            &[6, 0, 11, 0, 2, 0, 0, 0],
            &[8, 0, 3, 0, 0, 0, 0, 0],
            &[8, 0, 4, 0, 0, 0, 0, 0],
            &[8, 0, 5, 0, 0, 0, 0, 0],
            &[8, 0, 6, 0, 0, 0, 0, 0],
        ];
        assert_eq!(bytes[16], SET_DESTINATION);
        assert!(bytes.ends_with(&tail.concat()), "{bytes:?}");
        let short = encoded(&Change::RemoveDestination(WEB, (Ipv4Addr::new(10, 42, 0, 1), 8080)));
        assert_eq!((short[16], short.len()), (DELETE_DESTINATION, bytes.len() - 32));
    }

    /// Wherever the kernel's answer ends too early, there is nothing, and no panic.
    #[test]
    fn what_was_written_is_read_and_what_is_cut_off_is_nothing() {
        for persistence in [None, Some(60)] {
            let scheduling = Scheduling { scheduler: "wlc".to_owned(), persistence };
            let bytes = encoded(&Change::AddService(WEB, scheduling.clone()));
            let message = messages(&bytes).next().expect("a message");
            assert_eq!(service(message.body), Some((WEB, scheduling)));
            for end in 0..message.body.len() {
                assert_eq!(service(&message.body[..end]), None, "cut at {end}");
            }
        }
        let to = (Ipv4Addr::new(10, 42, 0, 1), 8080);
        let mut body = vec![0; 4];
        attribute(&mut body, DESTINATION | NESTED, |out| {
            destination_body(out, to, Some(1));
            attribute(out, destination::ACTIVE, |out| out.extend(3_u32.to_ne_bytes()));
            attribute(out, destination::INACTIVE, |out| out.extend(4_u32.to_ne_bytes()));
        });
        assert_eq!(destination(&body), Some((to, Load { weight: 1, connections: 7 })));
        assert_eq!(destination(&body[..40]), None);
    }

    #[test]
    fn services_that_are_not_ours_to_read_are_passed_over() {
        let mut six = vec![0; 4];
        attribute(&mut six, SERVICE | NESTED, |out| {
            attribute(out, service::FAMILY, |out| out.extend(10_u16.to_ne_bytes()));
            attribute(out, service::PROTOCOL, |out| out.extend(6_u16.to_ne_bytes()));
        });
        assert_eq!(service(&six), None);
        let mut marked = vec![0; 4];
        attribute(&mut marked, SERVICE | NESTED, |out| {
            attribute(out, service::FAMILY, |out| out.extend(IPV4.to_ne_bytes()));
            attribute(out, 5, |out| out.extend(77_u32.to_ne_bytes()));
        });
        assert_eq!(service(&marked), None);
    }

    #[test]
    fn the_family_is_asked_for_by_name() {
        let bytes = family_request();
        assert_eq!(bytes[..4], 32_u32.to_le_bytes());
        assert_eq!(bytes[16..], [3, 1, 0, 0, 9, 0, 2, 0, b'I', b'P', b'V', b'S', 0, 0, 0, 0]);
        let mut answer = vec![1, 2, 0, 0];
        attribute(&mut answer, FAMILY_NAME, |out| text(out, NAME));
        attribute(&mut answer, FAMILY_ID, |out| out.extend(0x21_u16.to_ne_bytes()));
        assert_eq!(family(&answer), Some(0x21));
        assert_eq!(family(&answer[..16]), None);
    }
}
