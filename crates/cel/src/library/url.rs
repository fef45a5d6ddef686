//! URLs: absolute ones with a host, or absolute paths.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::{Line, Opaque, Outcome, text};
use crate::cost::Charge::{One, Text as Walked};
use crate::eval::Context;
use crate::value::{EvalError, Key, Map, Text, Value};

pub(super) const LINES: &[Line] = &[
    ("url", "(string) -> kubernetes.URL", Walked(0), |_, args| {
        let source = text(&args[0])?;
        let url = Url::parse(source);
        let url = url.ok_or_else(|| {
            EvalError::failed(format!("URL parse error during conversion from string: {source}"))
        })?;
        Ok(Value::Opaque(Rc::new(Opaque::Url(url))))
    }),
    ("isURL", "(string) -> bool", Walked(0), |_, args| {
        Ok(Value::Bool(Url::parse(text(&args[0])?).is_some()))
    }),
    ("getScheme", "kubernetes.URL.() -> string", One, |_, args| {
        of(args).map(|url| Value::text(url.scheme.as_str()))
    }),
    ("getHost", "kubernetes.URL.() -> string", One, |_, args| {
        of(args).map(|url| Value::text(url.host.as_str()))
    }),
    ("getHostname", "kubernetes.URL.() -> string", One, |_, args| {
        of(args).map(|url| Value::text(url.host_parts().0))
    }),
    ("getPort", "kubernetes.URL.() -> string", One, |_, args| {
        of(args).map(|url| Value::text(url.host_parts().1))
    }),
    ("getEscapedPath", "kubernetes.URL.() -> string", One, |_, args| {
        of(args).map(|url| Value::text(url.path.as_str()))
    }),
    ("getQuery", "kubernetes.URL.() -> map(string, list(string))", One, query),
];

/// A URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: String,
    host: String,
    path: String,
    query: String,
}

impl Url {
    fn parse(source: &str) -> Option<Url> {
        let plain = |c: char| !c.is_control() && c != ' ' && c != '\u{7f}';
        if !source.chars().all(plain) {
            return None;
        }
        let (rest, _) = source.split_once('#').unwrap_or((source, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if rest.starts_with('/') && !rest.starts_with("//") {
            let path = escaped_path(rest)?;
            return Some(Url { scheme: String::new(), host: String::new(), path, query: query.to_owned() });
        }
        let (scheme, rest) = rest.split_once("://")?;
        let scheme_fits = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
        if !scheme_fits {
            return None;
        }
        let end = rest.find('/').unwrap_or(rest.len());
        let (authority, path) = rest.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let url = Url {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: escaped_path(path)?,
            query: query.to_owned(),
        };
        let (_, port) = url.host_parts();
        let port_fits = port.bytes().all(|byte| byte.is_ascii_digit());
        let brackets = host.starts_with('[') == host.contains(']');
        let hosts = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]%".contains(c) || !c.is_ascii();
        (port_fits && brackets && host.chars().all(hosts)).then_some(url)
    }

    /// Name and port.
    fn host_parts(&self) -> (&str, &str) {
        if let Some(rest) = self.host.strip_prefix('[') {
            let (name, rest) = rest.split_once(']').unwrap_or((rest, ""));
            return (name, rest.strip_prefix(':').unwrap_or(rest));
        }
        self.host.rsplit_once(':').unwrap_or((&self.host, ""))
    }
}

/// The path with everything escaped that must be; nothing if an escape is wrong.
fn escaped_path(path: &str) -> Option<String> {
    decoded(path, false)?;
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~!$&'()*+,;=:@/%".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    Some(out)
}

fn decoded(text: &str, plus: bool) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        match first {
            b'%' => {
                let digits = tail.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
                rest = &tail[2..];
            }
            b'+' if plus => bytes.push(b' '),
            other => bytes.push(*other),
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn of<'v>(args: &'v [Value<'_>]) -> Result<&'v Url, EvalError> {
    match &args[0] {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Url(url) => Ok(url),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn query<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let url = of(args)?;
    cx.charge_text(url.query.len())?;
    let mut values: BTreeMap<String, Vec<Value<'a>>> = BTreeMap::new();
    for pair in url.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // Pairs that are not well formed are left out, as upstream does.
        if let (Some(key), Some(value)) = (decoded(key, true), decoded(value, true)) {
            values.entry(key).or_default().push(Value::text(value));
        }
    }
    let entries =
        values.into_iter().map(|(key, list)| (Key::String(Text::Owned(key.into())), Value::list(list)));
    Ok(Value::Map(Map::Owned(Rc::new(entries.collect()))))
}
