//! Just enough DER to write a certificate. Subject, key and alternative names are taken over as they were sent, byte for
//! byte, which is why no certificate library writes this.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// One element: tag, length, contents.
pub fn element(tag: u8, contents: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    let length = contents.len();
    match u8::try_from(length) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = length.to_be_bytes();
            let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            // At most eight bytes.
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(contents);
    out
}

/// `SEQUENCE`.
pub fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    element(0x30, &parts.concat())
}

/// `[N] EXPLICIT`.
pub fn explicit(number: u8, contents: &[u8]) -> Vec<u8> {
    element(0xa0 | number, contents)
}

/// A positive integer whose first byte is below 0x80 and not zero.
pub fn integer(bytes: &[u8]) -> Vec<u8> {
    element(0x02, bytes)
}

/// `BIT STRING` of whole bytes.
pub fn bits(bytes: &[u8]) -> Vec<u8> {
    element(0x03, &[&[0], bytes].concat())
}

/// `BIT STRING` of flags: the first is the highest bit of the first byte.
pub fn flags(byte: u8) -> Vec<u8> {
    let unused = if byte == 0 { 0 } else { byte.trailing_zeros() as u8 };
    element(0x03, &[unused, byte])
}

/// A point in time, as certificates write it.
pub fn time(time: Timestamp) -> Vec<u8> {
    let zoned = time.to_zoned(TimeZone::UTC);
    let late = zoned.year() >= 2050;
    let (tag, year) = match late {
        true => (0x18, format!("{:04}", zoned.year())),
        false => (0x17, format!("{:02}", zoned.year() % 100)),
    };
    let rest = zoned.strftime("%m%d%H%M%SZ");
    element(tag, format!("{year}{rest}").as_bytes())
}

/// An extension of a certificate: an encoded identifier, and encoded contents.
pub fn extension(identifier: &[u8], critical: bool, contents: &[u8]) -> Vec<u8> {
    let identifier = element(0x06, identifier);
    let contents = element(0x04, contents);
    match critical {
        true => sequence(&[&identifier, &[0x01, 0x01, 0xff], &contents]),
        false => sequence(&[&identifier, &contents]),
    }
}
