//! The formats that texts of custom resources may be required to have. Any other format is ignored, as upstream ignores it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api_machinery::names;
use api_machinery::quantity::Quantity;
use cel::time::Duration;

/// A format by the name that the schema has for it.
#[derive(Debug)]
pub(super) struct Format {
    pub name: &'static str,
    check: fn(&str) -> bool,
}

impl Format {
    /// Whether a text has it.
    pub fn fits(&self, text: &str) -> bool {
        (self.check)(text)
    }
}

const fn format(name: &'static str, check: fn(&str) -> bool) -> Format {
    Format { name, check }
}

static TEXTS: [Format; 28] = [
    format("bsonobjectid", |text| text.len() == 24 && is_hex(text)),
    format("uri", is_uri),
    format("email", is_email),
    format("hostname", is_hostname),
    format("ipv4", |text| is_address(text) && text.contains('.')),
    format("ipv6", |text| is_address(text) && text.contains(':')),
    format("cidr", is_cidr),
    format("mac", is_mac),
    format("uuid", |text| is_uuid(text, None)),
    format("uuid3", |text| is_uuid(text, Some('3'))),
    format("uuid4", |text| is_uuid(text, Some('4'))),
    format("uuid5", |text| is_uuid(text, Some('5'))),
    format("isbn", |text| is_isbn10(text) || is_isbn13(text)),
    format("isbn10", is_isbn10),
    format("isbn13", is_isbn13),
    format("creditcard", is_credit_card),
    format("ssn", is_ssn),
    format("hexcolor", |text| {
        let digits = text.strip_prefix('#').unwrap_or(text);
        matches!(digits.len(), 3 | 6) && is_hex(digits)
    }),
    format("rgbcolor", is_rgb),
    format("byte", is_base64),
    format("password", |_| true),
    format("date", is_date),
    format("duration", is_duration),
    format("date-time", is_date_time),
    format("datetime", is_date_time),
    format("quantity", |text| Quantity::parse(text).is_ok()),
    format("k8s-short-name", |text| names::is_dns1123_label(text).is_empty()),
    format("k8s-long-name", |text| names::is_dns1123_subdomain(text).is_empty()),
];

/// Those of numbers say no more than what a value of another type should have been.
static NUMBERS: [(&str, Format); 4] = [
    ("integer", format("int32", |_| true)),
    ("integer", format("int64", |_| true)),
    ("number", format("float", |_| true)),
    ("number", format("double", |_| true)),
];

/// The format of this name, if values of the type can have it.
pub(super) fn find(name: &str, ty: &str) -> Option<&'static Format> {
    match ty {
        "" | "string" => TEXTS.iter().find(|format| format.name == name),
        _ => NUMBERS.iter().find(|(of, format)| *of == ty && format.name == name).map(|(_, format)| format),
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// An absolute URI or an absolute path.
fn is_uri(text: &str) -> bool {
    if text.is_empty() || text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
        return false;
    }
    let escapes = text.split('%').skip(1).all(|after| after.get(..2).is_some_and(is_hex));
    if text.starts_with('/') {
        return escapes;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let named = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    let Some(rest) = rest.strip_prefix("//") else { return named && escapes && !rest.is_empty() };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    named && escapes && is_host_and_port(host)
}

fn is_host_and_port(host: &str) -> bool {
    let port = match (host.strip_prefix('['), host.split_once(':')) {
        (Some(inside), _) => match inside.split_once(']') {
            Some((address, rest)) if address.parse::<Ipv6Addr>().is_ok() => {
                rest.strip_prefix(':').unwrap_or(rest)
            }
            _ => return false,
        },
        (None, Some((_, port))) => port,
        (None, None) => "",
    };
    port.bytes().all(|byte| byte.is_ascii_digit()) && !host.contains([' ', '<', '>', '"', '\\', '^', '`'])
}

/// An address with or without a name before it.
fn is_email(text: &str) -> bool {
    let text = text.trim();
    let address = match text.strip_suffix('>') {
        Some(inside) => match inside.rsplit_once('<') {
            Some((_, address)) => address,
            None => return false,
        },
        None => text,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |text: &str| {
        let fine = |c: char| c.is_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c);
        !text.is_empty() && text.chars().all(fine)
    };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (quoted || local.split('.').all(atom)) && (literal || domain.split('.').all(atom))
}

fn is_hostname(text: &str) -> bool {
    // Letters of all alphabets, and symbols.
    let letter =
        |c: char| c.is_ascii_alphanumeric() || "$+<=>^`|~".contains(c) || !(c.is_ascii() || c.is_control());
    let labels: Vec<&str> = text.split('.').collect();
    if text.len() > 255 || labels.iter().any(|label| label.len() > 63) {
        return false;
    }
    let ends = |label: &str| label.starts_with(letter) && label.ends_with(letter);
    match labels.split_last() {
        Some((only, [])) => {
            let rest: String = only.chars().skip(1).collect();
            let rest = rest.strip_prefix('-').unwrap_or(&rest);
            only.starts_with(letter) && rest.chars().all(letter)
        }
        Some((last, others)) => {
            let inner = |label: &&str| ends(label) && label.chars().all(|c| c == '-' || letter(c));
            let tight = last.chars().all(|c| c == '-' || letter(c)) && !last.contains("--");
            others.iter().all(inner) && last.chars().count() > 1 && ends(last) && tight
        }
        None => false,
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match (address.parse::<Ipv4Addr>(), address.parse::<Ipv6Addr>()) {
        (Ok(_), _) => 32,
        (_, Ok(_)) => 128,
        _ => return false,
    };
    is_digits(bits) && bits.parse::<u32>().is_ok_and(|bits| bits <= most)
}

fn is_mac(text: &str) -> bool {
    let groups = |separator: char, digits: usize, counts: [usize; 3]| {
        let groups: Vec<&str> = text.split(separator).collect();
        counts.contains(&groups.len()) && groups.iter().all(|group| group.len() == digits && is_hex(group))
    };
    groups(':', 2, [6, 8, 20]) || groups('-', 2, [6, 8, 20]) || groups('.', 4, [3, 4, 10])
}

/// Dashes may be left out. Versions 4 and 5 have a variant as well.
fn is_uuid(text: &str, version: Option<char>) -> bool {
    let mut digits = String::with_capacity(32);
    for c in text.chars() {
        match c {
            '-' if matches!(digits.len(), 8 | 12 | 16 | 20) => {}
            c if c.is_ascii_hexdigit() => digits.push(c.to_ascii_lowercase()),
            _ => return false,
        }
    }
    let at = |place: usize, wanted: &str| digits[place..].starts_with(|c| wanted.contains(c));
    let doubled = text.contains("--");
    digits.len() == 32
        && !doubled
        && version.is_none_or(|version| at(12, &version.to_string()) && (version == '3' || at(16, "89ab")))
}

fn without(text: &str, dropped: &[char]) -> String {
    text.chars().filter(|c| !dropped.contains(c)).collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = without(text, &['-', ' ']);
    let value = |(at, c): (usize, char)| match c {
        'X' if at == 9 => Some(10 * 10),
        c => c.to_digit(10).map(|digit| digit * (at as u32 + 1)),
    };
    let sum: Option<u32> = text.chars().enumerate().map(value).sum();
    text.len() == 10 && sum.is_some_and(|sum| sum.is_multiple_of(11))
}

fn is_isbn13(text: &str) -> bool {
    let text = without(text, &['-', ' ']);
    let value = |(at, c): (usize, char)| c.to_digit(10).map(|digit| digit * if at % 2 == 0 { 1 } else { 3 });
    let sum: Option<u32> = text.chars().enumerate().map(value).sum();
    text.len() == 13 && sum.is_some_and(|sum| sum.is_multiple_of(10))
}

/// A number of a known issuer whose last digit agrees with the others.
fn is_credit_card(text: &str) -> bool {
    let digits: Vec<u32> = text.chars().filter_map(|c| c.to_digit(10)).collect();
    let number: String = text.chars().filter(char::is_ascii_digit).collect();
    let begins = |prefixes: &[&str]| prefixes.iter().any(|prefix| number.starts_with(prefix));
    let known = match digits.len() {
        13 => begins(&["4"]),
        14 => begins(&["300", "301", "302", "303", "304", "305", "36", "38"]),
        15 => begins(&["34", "37", "2131", "1800"]),
        16 => begins(&["4", "51", "52", "53", "54", "55", "6011", "65", "35"]),
        _ => false,
    };
    let doubled = |(at, digit): (usize, &u32)| match at % 2 {
        0 => *digit,
        _ if *digit > 4 => digit * 2 - 9,
        _ => digit * 2,
    };
    known && digits.iter().rev().enumerate().map(doubled).sum::<u32>().is_multiple_of(10)
}

fn is_ssn(text: &str) -> bool {
    let mut rest = text;
    for (digits, last) in [(3, false), (2, false), (4, true)] {
        let Some((group, after)) = rest.split_at_checked(digits) else { return false };
        if !is_digits(group) {
            return false;
        }
        rest = if last { after } else { after.strip_prefix(['-', ' ']).unwrap_or(after) };
    }
    rest.is_empty()
}

fn is_rgb(text: &str) -> bool {
    let inside = text.strip_prefix("rgb(").and_then(|rest| rest.strip_suffix(')'));
    let channel = |part: &str| {
        let part = part.trim();
        is_digits(part) && (part == "0" || !part.starts_with('0')) && part.parse::<u8>().is_ok()
    };
    inside.is_some_and(|inside| inside.split(',').count() == 3 && inside.split(',').all(channel))
}

/// Padded, in the standard alphabet, and not empty.
fn is_base64(text: &str) -> bool {
    let digits = text.trim_end_matches('=');
    let plain = digits.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    !text.is_empty() && text.len().is_multiple_of(4) && plain && text.len() - digits.len() <= 2
}

fn is_date(text: &str) -> bool {
    let shape: Vec<usize> = text.split('-').map(str::len).collect();
    shape == [4, 2, 2] && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_date_time(text: &str) -> bool {
    let Some((date, time)) = text.split_once(['T', 't']) else { return false };
    let Some((clock, rest)) = time.split_at_checked(8) else { return false };
    let parts: Vec<&str> = clock.split(':').collect();
    let below = |part: &str, limit: u32| {
        part.len() == 2 && is_digits(part) && part.parse::<u32>().is_ok_and(|n| n < limit)
    };
    let clock = parts.len() == 3 && below(parts[0], 24) && below(parts[1], 60) && below(parts[2], 60);
    let zone = match rest.strip_prefix('.') {
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
        None => rest,
    };
    let offset = zone.strip_prefix(['+', '-']).and_then(|zone| zone.split_once(':'));
    let zone = matches!(zone, "Z" | "z")
        || offset.is_some_and(|(hours, minutes)| below(hours, 100) && below(minutes, 100));
    is_date(date) && clock && zone
}

/// Go's form, or numbers with units in words.
fn is_duration(text: &str) -> bool {
    const UNITS: &[&str] = &[
        "ns", "nano", "us", "µs", "micro", "ms", "milli", "s", "sec", "second", "m", "min", "minute", "h",
        "hr", "hour", "d", "day", "w", "wk", "week",
    ];
    if Duration::parse(text).is_some() {
        return true;
    }
    let mut rest = text.trim();
    let mut found = false;
    while !rest.is_empty() {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit());
        if unit.len() == rest.len() {
            return false;
        }
        let unit = unit.trim_start();
        let end = unit.find(|c: char| !c.is_alphabetic()).unwrap_or(unit.len());
        let word = unit[..end].to_lowercase();
        if !UNITS.contains(&word.strip_suffix('s').filter(|short| short.len() > 1).unwrap_or(&word))
            && !UNITS.contains(&word.as_str())
        {
            return false;
        }
        rest = unit[end..].trim_start();
        found = true;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_and_what_does_not() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "bsonobjectid",
                &["507f1f77bcf86cd799439011"],
                &["507f1f77bcf86cd79943901", "x07f1f77bcf86cd799439011"],
            ),
            (
                "uri",
                &["http://foo.bar#x", "/a/b", "urn:x", "https://[::1]:80/"],
                &["", "foo", "http://a b", "a%zz:", "http://x:y/"],
            ),
            (
                "email",
                &["a@b.c", "Bob <bob@example.com>", "\"a b\"@c.d"],
                &["a", "a@", "@b", "a@b@c d", "a b@c.d"],
            ),
            (
                "hostname",
                &["somewhere.com", "a.b-c.de", "localhost"],
                &["", "-a.com", "a..b", "a_b.com", "a.b"],
            ),
            ("ipv4", &["192.168.254.1"], &["256.1.1.1", "::1", "1.2.3"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "::g"]),
            ("cidr", &["10.0.0.0/8", "fd00::/64"], &["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8"]),
            ("mac", &["01:02:03:04:05:06", "0102.0304.0506"], &["01:02:03:04:05", "01-02:03-04:05-06"]),
            (
                "uuid",
                &["a8098c1a-f86e-11da-bd1a-00112444be1e", "a8098c1af86e11dabd1a00112444be1e"],
                &["a8098c1a", "a8098c1a--f86e-11da-bd1a-00112444be1e"],
            ),
            ("uuid3", &["bcd02e22-68f0-3046-a512-327cca9def8f"], &["bcd02e22-68f0-4046-a512-327cca9def8f"]),
            ("uuid4", &["025b0d74-00a2-4048-bf57-227c5111bb34"], &["025b0d74-00a2-4048-cf57-227c5111bb34"]),
            ("uuid5", &["886313e1-3b8a-5372-9b90-0c9aee199e5d"], &["886313e1-3b8a-4372-9b90-0c9aee199e5d"]),
            ("isbn", &["0321751043", "978-0321751041"], &["836217463", ""]),
            ("isbn10", &["0321751043", "080442957X"], &["0321751044"]),
            ("isbn13", &["978 3401013190"], &["978 3401013191"]),
            ("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111-1112", "111"]),
            ("ssn", &["111-11-1111", "111 11 1111", "111111111"], &["11-111-1111", "111-11-11111"]),
            ("hexcolor", &["#FFFFFF", "abc"], &["#FFFF", "#ggg"]),
            ("rgbcolor", &["rgb(100, 0,255)"], &["rgb(256,0,0)", "rgb(1,2)", "rgb(01,2,3)"]),
            ("byte", &["YWI=", "Zm9v"], &["", "a", "YW=I", "Y==="]),
            ("password", &["anything"], &[]),
            ("date", &["2026-02-28"], &["2026-02-30", "2026-2-3", "20260228"]),
            ("duration", &["1h30m", "22 ns", "3 days", "1 week 2 hours"], &["", "1", "soon", "3 fortnights"]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20+01:00"],
                &["noon", "2014-12-15T25:00:00Z", "2014-12-15T19:30:20", "2014-12-15T19:30:20.Z"],
            ),
            ("quantity", &["10Gi", "1.5"], &["10 Gi", "x"]),
            ("k8s-short-name", &["a-1"], &["A", "a.b", "-a"]),
            ("k8s-long-name", &["a-1.b"], &["A.b", "a..b"]),
        ];
        for (name, good, bad) in cases {
            let format = find(name, "string").expect(name);
            let fit: Vec<&str> = good.iter().chain(*bad).copied().filter(|text| format.fits(text)).collect();
            assert_eq!(fit, *good, "{name}");
        }
    }

    #[test]
    fn which_formats_are_looked_at() {
        assert!(find("int32", "integer").is_some() && find("double", "number").is_some());
        let ignored =
            [("int32", "string"), ("date", "integer"), ("nonsense", "string"), ("float", "integer")];
        assert!(ignored.iter().all(|(name, ty)| find(name, ty).is_none()));
    }
}
