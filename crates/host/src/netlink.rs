//! What all conversations with the kernel over netlink share: a socket, frames and attributes. Which families there are
//! and what their messages mean is the business of those who use this.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, sockopt};

/// The kernel says how a request went.
pub(crate) const ERROR: u16 = 2;
/// The kernel has said all.
const DONE: u16 = 3;
/// A message asks the kernel for something.
pub(crate) const REQUEST: u16 = 1;
/// The kernel shall say how it went.
pub(crate) const ACK: u16 = 4;
/// The kernel shall list everything.
pub(crate) const DUMP: u16 = 0x300;
/// What is not there shall be made.
pub(crate) const CREATE: u16 = 0x400;
/// An attribute holds attributes.
pub(crate) const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// Room for what the kernel says while nobody listens.
const BUFFER: usize = 32 << 20;

/// A request of several that the kernel refused.
#[derive(Debug)]
pub(crate) struct Refused {
    /// The request's number.
    pub(crate) sequence: u32,
    /// Why.
    pub(crate) source: io::Error,
}

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    port: u32,
}

/// A descriptor that listens to groups of a family.
pub(crate) fn bound(protocol: Option<Protocol>, groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | flags;
    let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER)?;
    rustix::net::bind(&fd, &netlink::SocketAddrNetlink::new(0, groups))?;
    Ok(fd)
}

impl Socket {
    /// Opens one for requests.
    pub(crate) fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = bound(protocol, 0, SocketFlags::empty())?;
        let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&fd)?)?;
        Ok(Self { fd, port: address.pid() })
    }

    /// By what name the kernel tells others of our changes.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Sends requests, which the kernel carries out while this call lasts.
    pub(crate) fn send(&self, requests: &[u8]) -> io::Result<()> {
        sockopt::set_socket_send_buffer_size_force(&self.fd, requests.len() * 2 + (1 << 16))?;
        match rustix::net::send(&self.fd, requests, SendFlags::empty())? {
            sent if sent == requests.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// What the kernel said to requests up to the one with the number `last`. Every request was answered before the call
    /// that sent it returned; the first bad answer counts.
    pub(crate) fn answers(&self, last: u32) -> Result<(), Refused> {
        let (mut outcome, mut complete) = (Ok(()), false);
        self.receive(|message| {
            if message.kind == ERROR {
                let code = message.code();
                complete |= message.sequence == last || code != 0;
                if code != 0 && outcome.is_ok() {
                    let source = io::Error::from_raw_os_error(-code);
                    outcome = Err(Refused { sequence: message.sequence, source });
                }
            }
            true
        })
        .map_err(|source| Refused { sequence: last, source })?;
        match complete {
            true => outcome,
            false => Err(Refused { sequence: last, source: io::Error::other("the kernel did not answer") }),
        }
    }

    /// Sends one request with the flag [`DUMP`] and hands on every message of the answer.
    pub(crate) fn dump(&self, request: &[u8], mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.send(request)?;
        let mut outcome = None;
        self.receive(|message| {
            match message.kind {
                ERROR | DONE if message.code() != 0 => {
                    outcome = Some(Err(io::Error::from_raw_os_error(-message.code())));
                }
                ERROR | DONE => outcome = Some(Ok(())),
                _ => each(message),
            }
            outcome.is_none()
        })?;
        outcome.unwrap_or_else(|| Err(io::Error::other("the kernel did not answer to the end")))
    }

    /// Hands on what is there, message by message, while `each` says so.
    fn receive(&self, mut each: impl FnMut(&Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 17];
        loop {
            let length = match rustix::net::recv(&self.fd, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            // What came with the last message of interest is looked at, too.
            let mut wanted = true;
            for message in messages(&buffer[..length]) {
                wanted &= each(&message);
            }
            if !wanted {
                return Ok(());
            }
        }
    }
}

/// Writes a message; `body` begins with the family's own header.
pub(crate) fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    body(out);
    let length = u32::try_from(out.len() - start).expect("a message is at most some 64 KiB");
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Writes an attribute.
pub(crate) fn attribute(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    body(out);
    let length = u16::try_from(out.len() - start).expect("so many elements fit into an attribute");
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

/// Writes a text with the zero that ends it.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().chain([0]));
}

/// A message from the kernel.
pub(crate) struct Message<'a> {
    /// What it is about.
    pub(crate) kind: u16,
    /// The number of the request that it answers.
    pub(crate) sequence: u32,
    /// Who caused it.
    pub(crate) port: u32,
    /// The family's own header, and attributes.
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// What an answer says: nothing wrong, or a negative number.
    fn code(&self) -> i32 {
        self.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code))
    }
}

/// The messages in what was received; one that was cut off ends at its cut.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER] = bytes.first_chunk()?;
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = usize::try_from(word(0)).ok().filter(|length| *length >= HEADER)?;
        let (kind, sequence, port) = (u16::from_ne_bytes([header[4], header[5]]), word(8), word(12));
        let end = length.min(bytes.len());
        let body = &bytes[HEADER..end];
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some(Message { kind, sequence, port, body })
    })
}

/// Attributes: kinds without flags, and values. What is cut off is not told.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let [length_low, length_high, kind_low, kind_high] = *bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([length_low, length_high]));
        let value = bytes.get(4..length)?;
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
        Some((u16::from_ne_bytes([kind_low, kind_high]) & 0x3fff, value))
    })
}
