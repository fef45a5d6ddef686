//! IP addresses and ranges of them. Strict: no leading zeros, no zones, no IPv4 in IPv6.

use std::fmt;
use std::net::IpAddr;
use std::rc::Rc;

use super::{Line, Opaque, text};
use crate::cost::Charge::{InRange, One, RangeInRange, Text as Walked};
use crate::value::{EvalError, Value};

pub(super) const LINES: &[Line] = &[
    ("ip", "(string) -> net.IP", Walked(0), |_, args| parse_ip(text(&args[0])?).map(ip)),
    ("isIP", "(string) -> bool", Walked(0), |_, args| Ok(Value::Bool(parse_ip(text(&args[0])?).is_ok()))),
    ("ip.isCanonical", "(string) -> bool", Walked(0), |_, args| {
        let source = text(&args[0])?;
        Ok(Value::Bool(parse_ip(source)?.to_string() == source))
    }),
    ("family", "net.IP.() -> int", One, |_, args| {
        Ok(Value::Int(if address(&args[0])?.is_ipv4() { 4 } else { 6 }))
    }),
    ("isUnspecified", "net.IP.() -> bool", One, |_, args| {
        Ok(Value::Bool(address(&args[0])?.is_unspecified()))
    }),
    ("isLoopback", "net.IP.() -> bool", One, |_, args| Ok(Value::Bool(address(&args[0])?.is_loopback()))),
    ("isLinkLocalMulticast", "net.IP.() -> bool", One, |_, args| {
        Ok(Value::Bool(match address(&args[0])? {
            IpAddr::V4(ip) => ip.octets()[..3] == [224, 0, 0],
            IpAddr::V6(ip) => ip.segments()[0] & 0xff0f == 0xff02,
        }))
    }),
    ("isLinkLocalUnicast", "net.IP.() -> bool", One, |_, args| {
        Ok(Value::Bool(match address(&args[0])? {
            IpAddr::V4(ip) => ip.is_link_local(),
            IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
        }))
    }),
    ("isGlobalUnicast", "net.IP.() -> bool", One, |_, args| {
        let ip = address(&args[0])?;
        let local = match ip {
            IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
            IpAddr::V6(ip) => ip.segments()[0] & 0xffc0 == 0xfe80,
        };
        Ok(Value::Bool(!(local || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast())))
    }),
    ("cidr", "(string) -> net.CIDR", Walked(0), |_, args| parse_cidr(text(&args[0])?).map(cidr)),
    ("isCIDR", "(string) -> bool", Walked(0), |_, args| Ok(Value::Bool(parse_cidr(text(&args[0])?).is_ok()))),
    ("containsIP", "net.CIDR.(net.IP) -> bool", InRange(false), |_, args| {
        Ok(Value::Bool(range(&args[0])?.contains(address(&args[1])?)))
    }),
    ("containsIP", "net.CIDR.(string) -> bool", InRange(true), |_, args| {
        Ok(Value::Bool(range(&args[0])?.contains(parse_ip(text(&args[1])?)?)))
    }),
    ("containsCIDR", "net.CIDR.(net.CIDR) -> bool", RangeInRange(false), |_, args| {
        Ok(Value::Bool(range(&args[0])?.contains_range(range(&args[1])?)))
    }),
    ("containsCIDR", "net.CIDR.(string) -> bool", RangeInRange(true), |_, args| {
        Ok(Value::Bool(range(&args[0])?.contains_range(parse_cidr(text(&args[1])?)?)))
    }),
    ("ip", "net.CIDR.() -> net.IP", One, |_, args| Ok(ip(range(&args[0])?.address))),
    ("masked", "net.CIDR.() -> net.CIDR", One, |_, args| Ok(cidr(range(&args[0])?.masked()))),
    ("prefixLength", "net.CIDR.() -> int", One, |_, args| Ok(Value::Int(i64::from(range(&args[0])?.prefix)))),
];

/// An address and how many of its bits name the range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// As it was written: bits behind the prefix may be set.
    pub address: IpAddr,
    /// Bits.
    pub prefix: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl Cidr {
    fn masked(self) -> Cidr {
        let address = match self.address {
            IpAddr::V4(ip) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V4((u32::from(ip) & mask).into())
            }
            IpAddr::V6(ip) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                IpAddr::V6((u128::from(ip) & mask).into())
            }
        };
        Cidr { address, ..self }
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4() && Cidr { address, ..self }.masked() == self.masked()
    }

    fn contains_range(self, other: Cidr) -> bool {
        self.prefix <= other.prefix && self.contains(other.address)
    }
}

fn ip<'a>(address: IpAddr) -> Value<'a> {
    Value::Opaque(Rc::new(Opaque::Ip(address)))
}

fn cidr<'a>(cidr: Cidr) -> Value<'a> {
    Value::Opaque(Rc::new(Opaque::Cidr(cidr)))
}

fn parse_ip(source: &str) -> Result<IpAddr, EvalError> {
    let parsed: Result<IpAddr, _> = source.parse();
    match parsed {
        Ok(IpAddr::V6(ip)) if ip.to_ipv4_mapped().is_some() => {
            Err(EvalError::failed(format!("IPv4-mapped IPv6 address {source:?} is not allowed")))
        }
        Ok(ip) => Ok(ip),
        Err(_) => {
            Err(EvalError::failed(format!("IP Address {source:?} parse error during conversion from string")))
        }
    }
}

fn parse_cidr(source: &str) -> Result<Cidr, EvalError> {
    let wrong = || EvalError::failed("network address parse error during conversion from string");
    let (address, prefix) = source.split_once('/').ok_or_else(wrong)?;
    let address = parse_ip(address)?;
    let plain =
        prefix.bytes().all(|byte| byte.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
    let most = if address.is_ipv4() { 32 } else { 128 };
    match prefix.parse::<u8>() {
        Ok(prefix) if plain && prefix <= most => Ok(Cidr { address, prefix }),
        _ => Err(wrong()),
    }
}

fn address(value: &Value<'_>) -> Result<IpAddr, EvalError> {
    match value {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(ip) => Ok(*ip),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn range(value: &Value<'_>) -> Result<Cidr, EvalError> {
    match value {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Cidr(cidr) => Ok(*cidr),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}
