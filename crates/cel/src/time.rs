//! Durations and timestamps as Go writes them, with its ranges: nanoseconds in 64 bits, years 1 to 9999.

use std::fmt;

use jiff::tz::{Offset, TimeZone};

/// Nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub i64);

/// An instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(jiff::Timestamp);

const SECOND: i128 = 1_000_000_000;
/// Seconds of 0001-01-01T00:00:00Z and of the last second of 9999.
const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;

impl Duration {
    /// Go's notation: `1h30m`, `1.5s`, `-300ms`, `0`.
    pub fn parse(text: &str) -> Option<Duration> {
        api_machinery::duration::nanoseconds(text).map(Duration)
    }
}

/// Seconds, as expressions see them: `5400s`, `0.5s`.
impl fmt::Display for Duration {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let magnitude = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        let (seconds, nanos) = (magnitude / 1_000_000_000, magnitude % 1_000_000_000);
        if nanos == 0 {
            return write!(out, "{sign}{seconds}s");
        }
        let fraction = format!("{nanos:09}");
        write!(out, "{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
    }
}

impl Timestamp {
    fn checked(instant: jiff::Timestamp) -> Option<Timestamp> {
        (FIRST..=LAST).contains(&instant.as_second()).then_some(Timestamp(instant))
    }

    /// RFC 3339.
    pub fn parse(text: &str) -> Option<Timestamp> {
        // jiff reads more than the standard has.
        let strict = text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T');
        let zoned = text.ends_with('Z') || text.get(text.len().saturating_sub(6)..).is_some_and(is_offset);
        if !strict || !zoned {
            return None;
        }
        text.parse().ok().and_then(Timestamp::checked)
    }

    /// A day, at its start.
    pub fn parse_date(text: &str) -> Option<Timestamp> {
        (text.len() == 10).then(|| Timestamp::parse(&format!("{text}T00:00:00Z")))?
    }

    /// So many seconds after 1970.
    pub fn from_seconds(seconds: i64) -> Option<Timestamp> {
        jiff::Timestamp::from_second(seconds).ok().and_then(Timestamp::checked)
    }

    /// Seconds after 1970, the fraction cut off.
    pub fn seconds(self) -> i64 {
        let nanos = self.0.as_nanosecond();
        i64::try_from(nanos.div_euclid(SECOND)).unwrap_or(i64::MAX)
    }

    /// Later.
    pub fn plus(self, duration: Duration) -> Option<Timestamp> {
        let nanos = self.0.as_nanosecond() + i128::from(duration.0);
        jiff::Timestamp::from_nanosecond(nanos).ok().and_then(Timestamp::checked)
    }

    /// The time from the other to this one.
    pub fn since(self, other: Timestamp) -> Option<Duration> {
        i64::try_from(self.0.as_nanosecond() - other.0.as_nanosecond()).ok().map(Duration)
    }

    /// As a calendar shows it in a zone: UTC, or a fixed offset such as `+02:00`.
    pub fn at(self, zone: &str) -> Option<jiff::Zoned> {
        let offset = match zone {
            "" | "UTC" | "Z" => Offset::UTC,
            text => {
                let (sign, digits) = match text.strip_prefix('-') {
                    Some(digits) => (-1, digits),
                    None => (1, text.strip_prefix('+').unwrap_or(text)),
                };
                let (hours, minutes) = digits.split_once(':')?;
                let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
                Offset::from_seconds(sign * (hours.checked_mul(3600)?.checked_add(minutes.checked_mul(60)?)?))
                    .ok()?
            }
        };
        Some(self.0.to_zoned(TimeZone::fixed(offset)))
    }
}

fn is_offset(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 6 && matches!(bytes[0], b'+' | b'-') && bytes[3] == b':'
}

impl fmt::Display for Timestamp {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            ("0", Some("0s")),
            ("1h30m", Some("5400s")),
            ("1.5s", Some("1.5s")),
            ("-300ms", Some("-0.3s")),
            ("1us1ns", Some("0.000001001s")),
            (".5m", Some("30s")),
            ("", None),
            ("5", None),
            ("1d", None),
            ("s", None),
            ("1.2.3s", None),
            ("9999999999999h", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Duration::parse(text).map(|d| d.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn timestamps() {
        let cases = [
            ("2023-01-02T03:04:05Z", Some("2023-01-02T03:04:05Z")),
            ("2023-01-02T03:04:05.25+02:00", Some("2023-01-02T01:04:05.25Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("0000-12-31T23:59:59Z", None),
            ("2023-01-02", None),
            ("2023-01-02 03:04:05Z", None),
            ("noon", None),
        ];
        for (text, expected) in cases {
            assert_eq!(Timestamp::parse(text).map(|t| t.to_string()).as_deref(), expected, "{text}");
        }
    }
}
