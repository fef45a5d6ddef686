//! ARP on one Ethernet link: packets as values, their encoding and decoding (pure and bounded), and a packet socket behind
//! a trait. What is asked, answered or announced is decided elsewhere; no table of neighbours is kept.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;

use async_trait::async_trait;
use rustix::fd::OwnedFd;
use rustix::net::addr::SocketAddrStorage;
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrAny, SocketFlags, SocketType};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A hardware address of Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MacAddress(pub [u8; 6]);

impl MacAddress {
    /// Everybody on the link.
    pub const BROADCAST: Self = Self([0xff; 6]);
    /// In a question, the hardware address that is asked for.
    pub const UNKNOWN: Self = Self([0; 6]);
}

impl fmt::Display for MacAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(formatter, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Who has the target's address?
    Request,
    /// The sender has the sender's address.
    Reply,
}

/// A machine, or what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Station {
    /// Its hardware address.
    pub mac: MacAddress,
    /// Its address.
    pub address: Ipv4Addr,
}

/// One ARP packet for IPv4 on Ethernet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it is.
    pub operation: Operation,
    /// Who says so.
    pub sender: Station,
    /// Whom it is about, or for.
    pub target: Station,
}

/// An Ethernet header and a packet.
const FRAME: usize = 42;
const ETHERTYPE: [u8; 2] = [0x08, 0x06];
/// Ethernet and IPv4, with addresses of 6 and 4 bytes.
const KINDS: [u8; 6] = [0, 1, 0x08, 0x00, 6, 4];

/// The frame that carries a packet to a station, or to all.
#[must_use]
pub fn encode(to: MacAddress, packet: &Packet) -> [u8; FRAME] {
    let Packet { operation, sender, target } = packet;
    let operation: [u8; 2] = match operation {
        Operation::Request => [0, 1],
        Operation::Reply => [0, 2],
    };
    let parts: [&[u8]; 9] = [
        &to.0,
        &sender.mac.0,
        &ETHERTYPE,
        &KINDS,
        &operation,
        &sender.mac.0,
        &sender.address.octets(),
        &target.mac.0,
        &target.address.octets(),
    ];
    let mut frame = [0; FRAME];
    let mut rest = &mut frame[..];
    for part in parts {
        let (place, after) = rest.split_at_mut(part.len());
        place.copy_from_slice(part);
        rest = after;
    }
    frame
}

/// The packet in a frame; `None` for anything else, and for what was cut off. Padding is allowed behind it.
#[must_use]
pub fn decode(frame: &[u8]) -> Option<Packet> {
    let frame: &[u8; FRAME] = frame.first_chunk()?;
    if frame[12..14] != ETHERTYPE || frame[14..20] != KINDS {
        return None;
    }
    let operation = match frame[20..22] {
        [0, 1] => Operation::Request,
        [0, 2] => Operation::Reply,
        _ => return None,
    };
    let station = |at: usize| {
        let mac = *frame[at..].first_chunk()?;
        let address: [u8; 4] = *frame[at + 6..].first_chunk()?;
        Some(Station { mac: MacAddress(mac), address: address.into() })
    };
    Some(Packet { operation, sender: station(22)?, target: station(32)? })
}

/// A link on which ARP is spoken.
#[async_trait]
pub trait Wire: Send + Sync {
    /// Our own hardware address on it, as it is now.
    ///
    /// # Errors
    /// The link is gone.
    fn hardware_address(&self) -> io::Result<MacAddress>;

    /// Sends to a station, or to all.
    ///
    /// # Errors
    /// The link is down or gone, or has no room for the moment.
    fn send(&self, to: MacAddress, packet: &Packet) -> io::Result<()>;

    /// The next packet of somebody else. May be dropped while it waits; nothing gets lost.
    ///
    /// # Errors
    /// The link went down or is gone.
    async fn receive(&self) -> io::Result<Packet>;
}

/// A link of this machine.
#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<OwnedFd>,
}

/// `struct sockaddr_ll`: family, protocol, link, kind of link, kind of packet, length of the hardware address, the address.
const SOCKADDR: usize = 20;
const HARDWARE_LENGTH: usize = 11;
/// A link that goes down is an error without anything to read.
const HEARD: Interest = Interest::READABLE.add(Interest::ERROR);

impl PacketSocket {
    /// A socket on a link of the network namespace that this thread is in, by the link's name.
    ///
    /// # Errors
    /// There is no such link, or the rights to it are missing.
    pub fn open(link: &str) -> io::Result<Self> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        // Without a protocol it receives nothing before it is bound, whatever other links bring.
        let socket = net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
        let index = net::netdevice::name_to_index(&socket, link)?;
        net::bind(&socket, &link_address(index))?;
        Ok(Self { socket: crate::process::watch_for(socket, HEARD)? })
    }
}

/// All ARP packets of a link.
fn link_address(index: u32) -> SocketAddrAny {
    let mut bytes = [0_u8; SOCKADDR];
    bytes[..2].copy_from_slice(&AddressFamily::PACKET.as_raw().to_ne_bytes());
    bytes[2..4].copy_from_slice(&ETHERTYPE);
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    let mut storage = MaybeUninit::<SocketAddrStorage>::zeroed();
    let length = u32::try_from(SOCKADDR).expect("a small number");
    // SAFETY: the storage has more room than that, for every kind of address, and the bytes are one of a link.
    #[expect(unsafe_code, reason = "rustix has no type for addresses of links")]
    unsafe {
        storage.as_mut_ptr().cast::<[u8; SOCKADDR]>().write_unaligned(bytes);
        SocketAddrAny::new(storage, length)
    }
}

/// The hardware address in the address of a link.
fn hardware(address: &SocketAddrAny) -> Option<MacAddress> {
    let length = usize::try_from(address.addr_len()).ok()?;
    // SAFETY: rustix promises that so many bytes are there, and they live as long as the address that is borrowed.
    #[expect(unsafe_code, reason = "rustix has no type for addresses of links")]
    let bytes = unsafe { std::slice::from_raw_parts(address.as_ptr().cast::<u8>(), length) };
    let (head, rest) = bytes.split_at_checked(HARDWARE_LENGTH + 1)?;
    let bytes = rest.first_chunk().filter(|_| head[HARDWARE_LENGTH] == 6)?;
    Some(MacAddress(*bytes))
}

#[async_trait]
impl Wire for PacketSocket {
    fn hardware_address(&self) -> io::Result<MacAddress> {
        let address = net::getsockname(self.socket.get_ref())?;
        hardware(&address)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the link is gone, or no Ethernet"))
    }

    fn send(&self, to: MacAddress, packet: &Packet) -> io::Result<()> {
        let frame = encode(to, packet);
        match net::send(self.socket.get_ref(), &frame, SendFlags::DONTWAIT)? {
            FRAME => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    async fn receive(&self) -> io::Result<Packet> {
        let read = |socket: &OwnedFd| {
            // What does not fit is padding, or no packet.
            let mut frame = [0; 64];
            let (length, _) = net::recv(socket, &mut frame, RecvFlags::DONTWAIT)?;
            Ok(decode(&frame[..length.min(frame.len())]))
        };
        loop {
            if let Some(packet) = self.socket.async_io(HEARD, read).await? {
                return Ok(packet);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn station(last: u8) -> Station {
        Station { mac: MacAddress([2, 0, 0, 0, 0, last]), address: Ipv4Addr::new(192, 0, 2, last) }
    }

    fn packet(operation: Operation) -> Packet {
        Packet { operation, sender: station(1), target: station(2) }
    }

    #[test]
    fn a_packet_survives_its_frame() {
        for operation in [Operation::Request, Operation::Reply] {
            let frame = encode(MacAddress::BROADCAST, &packet(operation));
            assert_eq!(decode(&frame), Some(packet(operation)));
            let padded = [&frame[..], &[0; 18]].concat();
            assert_eq!(decode(&padded), Some(packet(operation)));
        }
    }

    #[test]
    fn bytes_are_where_the_standard_wants_them() {
        let mut question = packet(Operation::Request);
        question.target.mac = MacAddress::UNKNOWN;
        let expected = [
            "ffffffffffff 020000000001 0806",
            "0001 0800 06 04 0001",
            "020000000001 c0000201",
            "000000000000 c0000202",
        ];
        let hex: String =
            encode(MacAddress::BROADCAST, &question).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, expected.concat().replace(' ', ""));
    }

    #[test]
    fn everything_else_is_no_packet() {
        let fine = encode(MacAddress::BROADCAST, &packet(Operation::Reply));
        for length in 0..FRAME {
            assert_eq!(decode(&fine[..length]), None, "cut off at {length}");
        }
        for (at, byte) in
            [(12, 0x86), (13, 0), (15, 6), (16, 0x86), (18, 8), (19, 16), (20, 1), (21, 3), (21, 0)]
        {
            let mut other = fine;
            other[at] = byte;
            assert_eq!(decode(&other), None, "byte {at} is {byte}");
        }
    }

    #[test]
    fn the_address_of_a_link_says_its_hardware() {
        assert_eq!(hardware(&link_address(7)), None, "a link that is gone has none");
    }
}
