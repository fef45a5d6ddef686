//! An address range of either family, as arithmetic needs it: the bits that all its addresses share.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A range in CIDR form whose base has no bit outside the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Range {
    base: IpAddr,
    prefix: u8,
}

/// A text that is not a range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid CIDR address: {0}")]
pub struct ParseRangeError(String);

impl Range {
    /// Whether addresses are of version 4.
    #[must_use]
    pub fn is_v4(&self) -> bool {
        self.base.is_ipv4()
    }

    /// The shared bits.
    #[must_use]
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    fn width(&self) -> u8 {
        if self.is_v4() { 32 } else { 128 }
    }

    fn bits(&self) -> u128 {
        match self.base {
            IpAddr::V4(address) => u128::from(address.to_bits()),
            IpAddr::V6(address) => address.to_bits(),
        }
    }

    /// Whether an address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Range) -> bool {
        let shared = self.prefix.min(other.prefix);
        self.is_v4() == other.is_v4() && top(self, shared) == top(other, shared)
    }

    /// How many ranges of `prefix` shared bits this one is divided into; none if it is smaller than one of them.
    #[must_use]
    pub fn parts(&self, prefix: u8) -> u128 {
        match prefix.checked_sub(self.prefix) {
            Some(bits) if prefix <= self.width() => 1_u128.checked_shl(u32::from(bits)).unwrap_or(u128::MAX),
            _ => 0,
        }
    }

    /// The part with this number; `None` beyond the last.
    #[must_use]
    pub fn part(&self, prefix: u8, number: u128) -> Option<Range> {
        if number >= self.parts(prefix) {
            return None;
        }
        let bits = self.bits() | number.checked_shl(u32::from(self.width() - prefix)).unwrap_or(0);
        Some(Range { base: address(bits, self.is_v4()), prefix })
    }

    /// The numbers of the parts that share an address with `other`, first and last.
    #[must_use]
    pub fn parts_within(&self, prefix: u8, other: &Range) -> Option<(u128, u128)> {
        if !self.overlaps(other) || self.parts(prefix) == 0 {
            return None;
        }
        if other.prefix <= self.prefix {
            return Some((0, self.parts(prefix) - 1));
        }
        let shift = u32::from(self.width() - prefix);
        let number = |bits: u128| (bits ^ self.bits()).checked_shr(shift).unwrap_or(0);
        let host = u32::from(other.width() - other.prefix);
        let last = other.bits() | 1_u128.checked_shl(host).map_or(u128::MAX, |size| size - 1);
        Some((number(other.bits()), number(last)))
    }
}

/// The first `prefix` bits of a range's base.
fn top(range: &Range, prefix: u8) -> u128 {
    range.bits().checked_shr(u32::from(range.width() - prefix)).unwrap_or(0)
}

fn address(bits: u128, v4: bool) -> IpAddr {
    if v4 {
        // The upper bits are zero by construction.
        IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap_or_default()))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }
}

impl FromStr for Range {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseRangeError(text.to_owned());
        let (base, prefix) = text.split_once('/').ok_or_else(fail)?;
        let base: IpAddr = base.parse().map_err(|_| fail())?;
        let prefix: u8 = prefix.parse().map_err(|_| fail())?;
        let range = Range { base, prefix };
        if prefix > range.width() {
            return Err(fail());
        }
        let host = u32::from(range.width() - prefix);
        let bits = range.bits().checked_shr(host).unwrap_or(0).checked_shl(host).unwrap_or(0);
        Ok(Range { base: address(bits, range.is_v4()), prefix })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.base, self.prefix)
    }
}
