//! The kernel's own interface to the packet filter, as far as speed demands it: elements of maps change in one message
//! instead of a program that reads everything first, and changes by others are told with the table that they touch.
//! Tables, chains and rules are left to the program.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::netlink::NETFILTER;
use rustix::net::{RecvFlags, SocketFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::netlink::{
    self, ACK, CREATE, Message, NESTED, REQUEST, Socket, attribute, attributes, messages, text,
};

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
/// Elements in one message: an attribute's length is 16 bits.
const ELEMENTS: usize = 300;
/// The group of those who are told of every change of the packet filter.
const CHANGES: u32 = 1 << 6;

/// A connection to the packet filter of the network namespace that it was opened in.
pub struct Connection(Socket);

impl Connection {
    /// Opens one.
    pub fn open() -> io::Result<Self> {
        Socket::open(Some(NETFILTER)).map(Self)
    }

    /// By what name the kernel tells others of our changes.
    pub fn port(&self) -> u32 {
        self.0.port()
    }

    /// Changes elements of a table of the `ip` family in the given order, all of them or none. The kernel works while
    /// this call lasts.
    pub fn change(&self, table: &str, changes: &[ElementChange]) -> io::Result<()> {
        let (batch, last) = batch(table, changes);
        self.0.send(&batch)?;
        self.0.answers(last).map_err(|refused| refused.source)
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

fn message(
    out: &mut Vec<u8>,
    kind: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (u8, u16),
    body: impl FnOnce(&mut Vec<u8>),
) {
    netlink::message(out, kind, flags, sequence, |out| {
        out.extend([family, 0]);
        out.extend(resource.to_be_bytes());
        body(out);
    });
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
        let socket = netlink::bound(Some(NETFILTER), CHANGES, SocketFlags::NONBLOCK)?;
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
        let (general, rest) = message.body.split_first_chunk::<4>()?;
        let (kind, name) = attributes(rest).next()?;
        let about_elements_or_rules = message.kind >> 8 == SUBSYSTEM && message.kind != SUBSYSTEM << 8 | 15;
        if kind != 1 || general[0] != IPV4 || !about_elements_or_rules {
            return None;
        }
        let name = name.split(|byte| *byte == 0).next()?;
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
