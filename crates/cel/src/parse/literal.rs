//! Numbers and strings as they are written. Escapes are those of the language's specification.

use super::lexer::Kind;
use crate::ast::Literal;

pub(super) fn double(text: &str) -> Result<Kind, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Kind::Literal(Literal::Double(value))),
        _ => Err("invalid double literal".to_owned()),
    }
}

pub(super) fn integer(text: &str, unsigned: bool) -> Result<Kind, String> {
    let hexadecimal = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"));
    let magnitude = match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse::<u64>(),
    };
    match (magnitude, unsigned) {
        (Ok(value), true) => Ok(Kind::Literal(Literal::Uint(value))),
        (Err(_), true) => Err("invalid uint literal".to_owned()),
        (Ok(value), false) if value == 1 << 63 => Ok(Kind::SmallestInt),
        (Ok(value), false) => match i64::try_from(value) {
            Ok(value) => Ok(Kind::Literal(Literal::Int(value))),
            Err(_) => Err("invalid int literal".to_owned()),
        },
        (Err(_), false) => Err("invalid int literal".to_owned()),
    }
}

pub(super) fn string(body: &[char], raw: bool) -> Option<Literal> {
    if raw {
        return Some(Literal::String(lines(body)));
    }
    let mut text = String::with_capacity(body.len());
    walk(body, |piece| match piece {
        Piece::Plain(c) | Piece::Code(c) => text.push(c),
        Piece::Byte(byte) => text.push(char::from(byte)),
    })?;
    Some(Literal::String(text))
}

pub(super) fn bytes(body: &[char], raw: bool) -> Option<Literal> {
    if raw {
        return Some(Literal::Bytes(lines(body).into_bytes()));
    }
    let mut bytes = Vec::with_capacity(body.len());
    let mut codes = false;
    walk(body, |piece| match piece {
        Piece::Plain(c) => bytes.extend(c.encode_utf8(&mut [0; 4]).bytes()),
        Piece::Byte(byte) => bytes.push(byte),
        Piece::Code(_) => codes = true,
    })?;
    // Code points have no place in bytes.
    (!codes).then_some(Literal::Bytes(bytes))
}

/// Line ends are always a line feed.
fn lines(body: &[char]) -> String {
    body.iter().collect::<String>().replace("\r\n", "\n").replace('\r', "\n")
}

enum Piece {
    Plain(char),
    /// `\x41` or `\101`: a code point in strings, a byte in bytes.
    Byte(u8),
    /// `\u` and `\U`.
    Code(char),
}

/// Tells the parts of a body in order; nothing if an escape is wrong.
fn walk(body: &[char], mut tell: impl FnMut(Piece)) -> Option<()> {
    let mut at = 0;
    while at < body.len() {
        let character = body[at];
        at += 1;
        if character == '\r' {
            at += usize::from(body.get(at) == Some(&'\n'));
            tell(Piece::Plain('\n'));
            continue;
        }
        if character != '\\' {
            tell(Piece::Plain(character));
            continue;
        }
        let escape = *body.get(at)?;
        at += 1;
        let number = |start: usize, length: usize, radix: u32| -> Option<u32> {
            let digits: String = body.get(start..start + length)?.iter().collect();
            digits.chars().all(|c| c.is_digit(radix)).then(|| u32::from_str_radix(&digits, radix).ok())?
        };
        let piece = match escape {
            'a' => Piece::Plain('\u{7}'),
            'b' => Piece::Plain('\u{8}'),
            'f' => Piece::Plain('\u{c}'),
            'n' => Piece::Plain('\n'),
            'r' => Piece::Plain('\r'),
            't' => Piece::Plain('\t'),
            'v' => Piece::Plain('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Piece::Plain(escape),
            'x' | 'X' => {
                at += 2;
                Piece::Byte(u8::try_from(number(at - 2, 2, 16)?).ok()?)
            }
            'u' | 'U' => {
                let length = if escape == 'u' { 4 } else { 8 };
                at += length;
                Piece::Code(char::from_u32(number(at - length, length, 16)?)?)
            }
            '0'..='3' => {
                at += 2;
                Piece::Byte(u8::try_from(number(at - 3, 3, 8)?).ok()?)
            }
            _ => return None,
        };
        tell(piece);
    }
    Some(())
}
