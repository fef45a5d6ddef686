//! The kernel's own interface to the packet filter, as far as speed demands it: elements of maps change in one message
//! instead of a program that reads everything first, and changes by others are told with the table that they touch.
//! Tables, chains and rules are left to the program.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What happens to an element of a map or set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementChange {
    /// The map or set.
    pub map: String,
    /// The key as the kernel holds it.
    pub key: Vec<u8>,
    /// What becomes of it.
    pub change: Change,
}

/// What becomes of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is deleted.
    Delete,
    /// It comes, in a set.
    Member,
    /// It comes, with a value as the kernel holds it.
    Data(Vec<u8>),
    /// It comes, with a verdict.
    Verdict(Verdict),
}

/// What a packet that matches does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing any more.
    Drop,
    /// It goes on in a chain.
    Goto(String),
    /// It goes through a chain and comes back.
    Jump(String),
}

const IPV4: u8 = 2;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM << 8 | 14;
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const NESTED: u16 = 0x8000;
const HEADER: usize = 16;
/// Elements in one message: an attribute's length is 16 bits.
const ELEMENTS: usize = 300;
/// Room for what the kernel says while nobody listens.
const BUFFER: usize = 32 << 20;
/// The group of those who are told of every change of the packet filter.
const CHANGES: u32 = 1 << 6;

fn socket(groups: u32, flags: SocketFlags) -> io::Result<OwnedFd> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC | flags,
        Some(netlink::NETFILTER),
    )?;
    sockopt::set_socket_recv_buffer_size_force(&socket, BUFFER)?;
    rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// A connection to the packet filter of the network namespace that it was opened in.
pub struct Connection {
    socket: OwnedFd,
    port: u32,
}

impl Connection {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        let socket = socket(0, SocketFlags::empty())?;
        let address = SocketAddrNetlink::try_from(rustix::net::getsockname(&socket)?)?;
        Ok(Self { socket, port: address.pid() })
    }

    /// By what name the kernel tells others of our changes.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Changes elements of a table of the `ip` family in the given order, all of them or none. The kernel works while
    /// this call lasts.
    pub fn change(&self, table: &str, changes: &[ElementChange]) -> io::Result<()> {
        let (batch, last) = batch(table, changes);
        sockopt::set_socket_send_buffer_size_force(&self.socket, batch.len() * 2 + (1 << 16))?;
        let sent = rustix::net::send(&self.socket, &batch, SendFlags::empty())?;
        if sent != batch.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.answers(last)
    }

    /// Every message is answered before the call that sent it returns; the first bad answer counts.
    fn answers(&self, last: u32) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 17];
        let (mut outcome, mut complete) = (Ok(()), false);
        loop {
            let (length, _) = match rustix::net::recv(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok(received) => received,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for message in messages(&buffer[..length]).filter(|message| message.kind == ERROR) {
                let code = message.body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                complete |= message.sequence == last || code != 0;
                if code != 0 && outcome.is_ok() {
                    outcome = Err(io::Error::from_raw_os_error(-code));
                }
            }
        }
        match complete {
            true => outcome,
            false => Err(io::Error::other("the packet filter did not answer")),
        }
    }
}

/// The messages of a transaction, and the number of the last that is answered.
fn batch(table: &str, changes: &[ElementChange]) -> (Vec<u8>, u32) {
    let mut batch = Vec::with_capacity(changes.len() * 96 + 64);
    let mut number = 0;
    message(&mut batch, BATCH_BEGIN, REQUEST, number, (0, SUBSYSTEM), |_| {});
    let alike = |one: &ElementChange, other: &ElementChange| {
        one.map == other.map && (one.change == Change::Delete) == (other.change == Change::Delete)
    };
    for group in changes.chunk_by(alike).flat_map(|group| group.chunks(ELEMENTS)) {
        let (kind, flags) = match group[0].change {
            Change::Delete => (DELETE_ELEMENTS, REQUEST | ACK),
            _ => (NEW_ELEMENTS, REQUEST | ACK | CREATE),
        };
        number += 1;
        message(&mut batch, kind, flags, number, (IPV4, 0), |out| {
            attribute(out, 1, |out| text(out, table));
            attribute(out, 2, |out| text(out, &group[0].map));
            attribute(out, 3 | NESTED, |out| group.iter().for_each(|change| element(out, change)));
        });
    }
    message(&mut batch, BATCH_END, REQUEST, number + 1, (0, SUBSYSTEM), |_| {});
    (batch, number)
}

fn element(out: &mut Vec<u8>, ElementChange { key, change, .. }: &ElementChange) {
    attribute(out, 1 | NESTED, |out| {
        attribute(out, 1 | NESTED, |out| attribute(out, 1, |out| out.extend_from_slice(key)));
        match change {
            Change::Delete | Change::Member => {}
            Change::Data(data) => {
                attribute(out, 2 | NESTED, |out| attribute(out, 1, |out| out.extend_from_slice(data)));
            }
            Change::Verdict(verdict) => {
                attribute(out, 2 | NESTED, |out| {
                    attribute(out, 2 | NESTED, |out| verdict_body(out, verdict))
                });
            }
        }
    });
}

fn verdict_body(out: &mut Vec<u8>, verdict: &Verdict) {
    let (code, chain): (i32, _) = match verdict {
        Verdict::Drop => (0, None),
        Verdict::Jump(chain) => (-3, Some(chain)),
        Verdict::Goto(chain) => (-4, Some(chain)),
    };
    attribute(out, 1, |out| out.extend(code.to_be_bytes()));
    if let Some(chain) = chain {
        attribute(out, 2, |out| text(out, chain));
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend(text.bytes().chain([0]));
}

fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    body: impl FnOnce(&mut Vec<u8>),
) {
    let start = out.len();
    out.extend([0; 4]);
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    out.extend([0; 4]);
    out.extend([family, 0]);
    out.extend(resource.to_be_bytes());
    body(out);
    let length = u32::try_from(out.len() - start).expect("a message is at most some 64 KiB");
    out[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(out: &mut Vec<u8>, kind: u16, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend([0; 2]);
    out.extend(kind.to_ne_bytes());
    body(out);
    let length = u16::try_from(out.len() - start).expect("so many elements fit into an attribute");
    out[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    out.resize(out.len().next_multiple_of(4), 0);
}

struct Message<'a> {
    kind: u16,
    sequence: u32,
    port: u32,
    body: &'a [u8],
}

/// The messages in what was received; one that was cut off ends at its cut.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
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

/// A change that somebody made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    /// Who: a [`Connection::port`], or the number of the process, for a program that opens one connection.
    pub by: u32,
    /// The table of the `ip` family.
    pub table: String,
}

/// Tells of changes.
pub struct Monitor {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Monitor {
    /// Listens from now on.
    pub fn open() -> io::Result<Self> {
        let socket = socket(CHANGES, SocketFlags::NONBLOCK)?;
        Ok(Self { socket: crate::process::watch(socket)?, buffer: vec![0; 1 << 17] })
    }

    /// The next changes of tables of the `ip` family; `None` when some were lost.
    pub async fn next(&mut self) -> io::Result<Option<Vec<Touch>>> {
        let Self { socket, buffer } = self;
        let mut read = |socket: &OwnedFd| Ok(rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?.0);
        match socket.async_io_mut(Interest::READABLE, |socket| read(socket)).await {
            Ok(length) => Ok(Some(touches(&self.buffer[..length]))),
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// In every message about a table or what is in it, the table's name is the attribute of kind 1.
fn touches(bytes: &[u8]) -> Vec<Touch> {
    let touch = |message: Message<'_>| {
        let (general, attributes) = message.body.split_first_chunk::<4>()?;
        let [length_low, length_high, kind_low, kind_high, rest @ ..] = attributes else { return None };
        let length = usize::from(u16::from_ne_bytes([*length_low, *length_high])).checked_sub(4)?;
        let is_name = u16::from_ne_bytes([*kind_low, *kind_high]) == 1;
        let about_elements_or_rules = message.kind >> 8 == SUBSYSTEM && message.kind != SUBSYSTEM << 8 | 15;
        if !is_name || general[0] != IPV4 || !about_elements_or_rules {
            return None;
        }
        let name = rest.get(..length)?.split(|byte| *byte == 0).next()?;
        Some(Touch { by: message.port, table: String::from_utf8_lossy(name).into_owned() })
    };
    messages(bytes).filter_map(touch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_names_its_table_and_who_made_it() {
        let mut bytes = Vec::new();
        for (kind, family, table) in [
            (NEW_ELEMENTS, IPV4, "proxy"),
            (NEW_ELEMENTS, 10, "six"),
            (SUBSYSTEM << 8 | 15, IPV4, "generation"),
        ] {
            message(&mut bytes, kind, 0, 7, (family, 0), |out| attribute(out, 1, |out| text(out, table)));
        }
        bytes[12..16].copy_from_slice(&4711_u32.to_ne_bytes());
        assert_eq!(touches(&bytes), [Touch { by: 4711, table: "proxy".to_owned() }]);
        assert_eq!(touches(&bytes[..9]), [], "cut off");
    }

    #[test]
    fn many_elements_are_several_messages_of_one_transaction() {
        let change = |number: usize| ElementChange {
            map: format!("map-{}", number / 400),
            key: vec![0; 12],
            change: if number < 10 { Change::Delete } else { Change::Verdict(Verdict::Goto("c".repeat(60))) },
        };
        let changes: Vec<_> = (0..800).map(change).collect();
        let (bytes, last) = batch("proxy", &changes);
        let kinds: Vec<u16> = messages(&bytes).map(|message| message.kind).collect();
        let (new, delete) = (NEW_ELEMENTS, DELETE_ELEMENTS);
        assert_eq!(kinds, [BATCH_BEGIN, delete, new, new, new, new, BATCH_END]);
        assert_eq!(last, 5);
    }
}
