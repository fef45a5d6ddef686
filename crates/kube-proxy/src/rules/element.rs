//! Elements of our maps: what the keys and values are, as nft writes them and as the kernel holds them.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;

use crate::plan::Protocol;

/// A map of ours that every Service shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapName {
    /// Pods that may meet themselves through a service.
    Hairpin,
    /// Addresses outside of the service range that refuse, having no backends.
    Refused,
    /// Addresses that answer only some clients, and the chains that say which.
    Restricted,
    /// Addresses that the node holds for the kernel's virtual server.
    Held,
    /// What the virtual server answers at them.
    Served,
    /// Addresses or node ports, and the chains that choose their backends.
    Frontends(Family),
    /// The K-th backend of each address or node port.
    Slot(Family, u16),
}

/// Address frontends and node ports have keys of different shapes, and clients outside may reach other backends than
/// those inside: each has maps and chains of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// Addresses.
    Service,
    /// Node ports.
    Node,
    /// Addresses for clients outside, where they may reach this node's pods only.
    ServiceLocal,
    /// Node ports for clients outside, where they may reach this node's pods only.
    NodeLocal,
}

impl Family {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Service, Self::Node, Self::ServiceLocal, Self::NodeLocal];

    /// How names of maps and chains begin.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Node => "node",
            Self::ServiceLocal => "service-local",
            Self::NodeLocal => "node-local",
        }
    }

    /// The type of the key, and how a packet gives it.
    pub fn key(self) -> (&'static str, &'static str) {
        match self {
            Self::Service | Self::ServiceLocal => {
                ("ipv4_addr . inet_proto . inet_service", "ip daddr . meta l4proto . th dport")
            }
            Self::Node | Self::NodeLocal => ("inet_proto . inet_service", "meta l4proto . th dport"),
        }
    }
}

impl MapName {
    /// As nft writes it after `type`.
    pub fn kind(self) -> String {
        match self {
            Self::Hairpin => "ipv4_addr . ipv4_addr".to_owned(),
            Self::Refused | Self::Served => Family::Service.key().0.to_owned(),
            Self::Held => "ipv4_addr".to_owned(),
            Self::Restricted => format!("{} : verdict", Family::Service.key().0),
            Self::Frontends(family) => format!("{} : verdict", family.key().0),
            Self::Slot(family, _) => format!("{} : ipv4_addr . inet_service", family.key().0),
        }
    }
}

impl fmt::Display for MapName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hairpin => write!(formatter, "hairpin"),
            Self::Refused => write!(formatter, "refused"),
            Self::Restricted => write!(formatter, "restricted"),
            Self::Held => write!(formatter, "held"),
            Self::Served => write!(formatter, "served"),
            Self::Frontends(family) => write!(formatter, "{}-frontends", family.prefix()),
            Self::Slot(family, slot) => write!(formatter, "{}-slot-{slot}", family.prefix()),
        }
    }
}

/// The key of an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A service address.
    Address(Ipv4Addr, Protocol, u16),
    /// A node port.
    Node(Protocol, u16),
    /// A source and a destination.
    Pair(Ipv4Addr, Ipv4Addr),
    /// An address with all its ports.
    Host(Ipv4Addr),
}

impl Key {
    /// Reads what nft writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split(" . ").collect::<Vec<_>>()[..] {
            [address, protocol, port] => {
                Some(Self::Address(address.parse().ok()?, Protocol::named(protocol)?, port.parse().ok()?))
            }
            [one, other] => match Protocol::named(one) {
                Some(protocol) => Some(Self::Node(protocol, other.parse().ok()?)),
                None => Some(Self::Pair(one.parse().ok()?, other.parse().ok()?)),
            },
            [address] => Some(Self::Host(address.parse().ok()?)),
            _ => None,
        }
    }

    /// As the kernel holds it: every part is filled up to four bytes.
    pub fn bytes(self) -> Vec<u8> {
        match self {
            Self::Address(address, protocol, port) => {
                let port = port.to_be_bytes();
                [&address.octets()[..], &[protocol.number(), 0, 0, 0], &port, &[0, 0]].concat()
            }
            Self::Node(protocol, port) => {
                let port = port.to_be_bytes();
                vec![protocol.number(), 0, 0, 0, port[0], port[1], 0, 0]
            }
            Self::Pair(one, other) => [one.octets(), other.octets()].concat(),
            Self::Host(address) => address.octets().to_vec(),
        }
    }
}

/// The value of an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// In a set.
    Nothing,
    /// On to a chain.
    Goto(Arc<str>),
    /// To a chain and back.
    Jump(Arc<str>),
    /// Not at all, and without a word.
    Drop,
    /// Translate to this.
    Backend(Ipv4Addr, u16),
}

impl Value {
    /// Reads what nft writes.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            None if text.is_empty() => Some(Self::Nothing),
            None if text == "drop" => Some(Self::Drop),
            Some(("goto", chain)) => Some(Self::Goto(chain.into())),
            Some(("jump", chain)) => Some(Self::Jump(chain.into())),
            _ => {
                let (address, port) = text.split_once(" . ")?;
                Some(Self::Backend(address.parse().ok()?, port.parse().ok()?))
            }
        }
    }
}
