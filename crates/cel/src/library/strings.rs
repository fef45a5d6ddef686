//! Strings. Positions and lengths count characters, not bytes.

use super::{Line, Outcome, int, text};
use crate::cost::Charge::{Contains, Join, Quote, Replace, Split, Text as Walked};
use crate::eval::Context;
use crate::value::{EvalError, Value};

pub(super) const LINES: &[Line] = &[
    ("contains", "string.(string) -> bool", Contains, |_, args| {
        Ok(Value::Bool(text(&args[0])?.contains(text(&args[1])?)))
    }),
    ("startsWith", "string.(string) -> bool", Walked(1), |_, args| {
        Ok(Value::Bool(text(&args[0])?.starts_with(text(&args[1])?)))
    }),
    ("endsWith", "string.(string) -> bool", Walked(1), |_, args| {
        Ok(Value::Bool(text(&args[0])?.ends_with(text(&args[1])?)))
    }),
    ("charAt", "string.(int) -> string", Walked(0), char_at),
    ("indexOf", "string.(string) -> int", Walked(0), index_of),
    ("indexOf", "string.(string, int) -> int", Walked(0), index_of),
    ("lastIndexOf", "string.(string) -> int", Walked(0), last_index_of),
    ("lastIndexOf", "string.(string, int) -> int", Walked(0), last_index_of),
    ("lowerAscii", "string.() -> string", Walked(0), |_, args| {
        Ok(Value::text(text(&args[0])?.to_ascii_lowercase()))
    }),
    ("upperAscii", "string.() -> string", Walked(0), |_, args| {
        Ok(Value::text(text(&args[0])?.to_ascii_uppercase()))
    }),
    ("trim", "string.() -> string", Walked(0), |_, args| Ok(Value::text(text(&args[0])?.trim()))),
    ("replace", "string.(string, string) -> string", Replace, replace),
    ("replace", "string.(string, string, int) -> string", Replace, replace),
    ("split", "string.(string) -> list(string)", Split, split),
    ("split", "string.(string, int) -> list(string)", Split, split),
    ("substring", "string.(int) -> string", Walked(0), substring),
    ("substring", "string.(int, int) -> string", Walked(0), substring),
    ("join", "list(string).() -> string", Join, join),
    ("join", "list(string).(string) -> string", Join, join),
    ("strings.quote", "(string) -> string", Quote, |_, args| Ok(Value::text(quote(text(&args[0])?)))),
    ("format", "string.(list(dyn)) -> string", Walked(0), super::strfmt::format),
];

/// The byte where a character begins, or the end.
fn byte_of(text: &str, position: usize) -> usize {
    text.char_indices().nth(position).map_or(text.len(), |(byte, _)| byte)
}

fn in_range(position: i64, length: usize) -> Result<usize, EvalError> {
    match usize::try_from(position) {
        Ok(found) if found <= length => Ok(found),
        _ => Err(EvalError::failed(format!("index out of range: {position}"))),
    }
}

fn char_at<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let text = text(&args[0])?;
    let position = in_range(int(&args[1])?, text.chars().count())?;
    Ok(Value::text(text.chars().nth(position).map(String::from).unwrap_or_default()))
}

fn position(found: Option<usize>, text: &str) -> Value<'static> {
    let count = found.map(|byte| text[..byte].chars().count());
    Value::Int(count.and_then(|count| i64::try_from(count).ok()).unwrap_or(-1))
}

fn index_of<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted) = (text(&args[0])?, text(&args[1])?);
    let from = args.get(2).map_or(Ok(0), int)?;
    if wanted.is_empty() {
        return Ok(Value::Int(from));
    }
    let start = byte_of(text, in_range(from, text.chars().count())?);
    Ok(position(text[start..].find(wanted).map(|byte| byte + start), text))
}

fn last_index_of<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let (text, wanted) = (text(&args[0])?, text(&args[1])?);
    let length = text.chars().count();
    let until = match args.get(2) {
        Some(last) => in_range(int(last)?, length)?,
        None => length,
    };
    // What is found begins at `until` or before.
    let end = byte_of(text, until.saturating_add(wanted.chars().count()));
    Ok(position(text[..end].rfind(wanted), text))
}

fn replace<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let (source, from, to) = (text(&args[0])?, text(&args[1])?, text(&args[2])?);
    let most = match args.get(3) {
        Some(most) => usize::try_from(int(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let found = if from.is_empty() { source.chars().count() + 1 } else { source.matches(from).count() };
    cx.charge_text(source.len().saturating_add(found.min(most).saturating_mul(to.len())))?;
    Ok(Value::text(source.replacen(from, to, most)))
}

fn split<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let (source, separator) = (text(&args[0])?, text(&args[1])?);
    let most = match args.get(2).map(int).transpose()? {
        Some(0) => return Ok(Value::list(Vec::new())),
        Some(most) => usize::try_from(most).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let count =
        if separator.is_empty() { source.chars().count() } else { source.matches(separator).count() + 1 };
    cx.charge_made(count.min(most))?;
    let parts = if separator.is_empty() {
        characters(source, most)
    } else {
        source.splitn(most, separator).collect()
    };
    Ok(Value::list(parts.into_iter().map(Value::text).collect()))
}

/// Single characters; the last part is what is left.
fn characters(source: &str, most: usize) -> Vec<&str> {
    let mut starts: Vec<usize> = source.char_indices().map(|(byte, _)| byte).take(most).collect();
    starts.push(source.len());
    let mut parts: Vec<&str> = starts.windows(2).map(|pair| &source[pair[0]..pair[1]]).collect();
    if let Some(last) = parts.last_mut() {
        *last = &source[starts[starts.len() - 2]..];
    }
    parts
}

fn substring<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let source = text(&args[0])?;
    let length = source.chars().count();
    let start = in_range(int(&args[1])?, length)?;
    let end = match args.get(2) {
        Some(end) => in_range(int(end)?, length)?,
        None => length,
    };
    if start > end {
        return Err(EvalError::failed(format!("invalid substring range. start: {start}, end: {end}")));
    }
    Ok(Value::text(&source[byte_of(source, start)..byte_of(source, end)]))
}

fn join<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let Value::List(list) = &args[0] else { return Err(EvalError::NoOverload) };
    let separator = args.get(1).map_or(Ok(""), text)?;
    let mut joined = String::new();
    for (index, item) in list.iter().enumerate() {
        let item = text(&item)?.to_owned();
        cx.charge_text(separator.len() + item.len())?;
        if index > 0 {
            joined.push_str(separator);
        }
        joined.push_str(&item);
    }
    Ok(Value::text(joined))
}

fn quote(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 2);
    out.push('"');
    for character in source.chars() {
        match character {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            plain => out.push(plain),
        }
    }
    out.push('"');
    out
}
