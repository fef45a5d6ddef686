//! Conversions between types, and sizes.

use std::rc::Rc;

use super::{Line, Outcome, text};
use crate::cost::Charge::{Decode, Encode, One, Text as Walked};
use crate::eval::Context;
use crate::time::{Duration, Timestamp};
use crate::value::{EvalError, Value};

pub(super) const LINES: &[Line] = &[
    ("size", "(string) -> int", One, size),
    ("size", "(bytes) -> int", One, size),
    ("size", "(list(A)) -> int", One, size),
    ("size", "(map(A, B)) -> int", One, size),
    ("size", "string.() -> int", One, size),
    ("size", "bytes.() -> int", One, size),
    ("size", "list(A).() -> int", One, size),
    ("size", "map(A, B).() -> int", One, size),
    ("type", "(A) -> type(A)", One, |_, args| Ok(Value::Type(Rc::new(args[0].ty())))),
    ("dyn", "(A) -> dyn", One, same),
    ("int", "(int) -> int", One, same),
    ("int", "(uint) -> int", One, to_int),
    ("int", "(double) -> int", One, to_int),
    ("int", "(string) -> int", One, to_int),
    ("int", "(timestamp) -> int", One, to_int),
    ("int", "(duration) -> int", One, to_int),
    ("uint", "(uint) -> uint", One, same),
    ("uint", "(int) -> uint", One, to_uint),
    ("uint", "(double) -> uint", One, to_uint),
    ("uint", "(string) -> uint", One, to_uint),
    ("double", "(double) -> double", One, same),
    ("double", "(int) -> double", One, to_double),
    ("double", "(uint) -> double", One, to_double),
    ("double", "(string) -> double", One, to_double),
    ("bool", "(bool) -> bool", One, same),
    ("bool", "(string) -> bool", One, to_bool),
    ("string", "(string) -> string", One, same),
    ("string", "(bool) -> string", One, to_string),
    ("string", "(int) -> string", One, to_string),
    ("string", "(uint) -> string", One, to_string),
    ("string", "(double) -> string", One, to_string),
    ("string", "(bytes) -> string", Decode, to_string),
    ("string", "(timestamp) -> string", One, to_string),
    ("string", "(duration) -> string", One, to_string),
    ("string", "(net.IP) -> string", One, to_string),
    ("string", "(net.CIDR) -> string", One, to_string),
    ("bytes", "(bytes) -> bytes", One, same),
    ("bytes", "(string) -> bytes", Encode, |_, args| Ok(Value::Bytes(text(&args[0])?.as_bytes().into()))),
    ("timestamp", "(timestamp) -> timestamp", One, same),
    ("timestamp", "(int) -> timestamp", One, |_, args| {
        let found = Timestamp::from_seconds(super::int(&args[0])?);
        found.map(Value::Timestamp).ok_or(EvalError::failed("timestamp overflow"))
    }),
    ("timestamp", "(string) -> timestamp", Walked(0), |_, args| {
        let found = Timestamp::parse(text(&args[0])?).map(Value::Timestamp);
        found.ok_or_else(|| EvalError::failed(format!("invalid timestamp: {:?}", shown(&args[0]))))
    }),
    ("duration", "(duration) -> duration", One, same),
    ("duration", "(int) -> duration", One, |_, args| Ok(Value::Duration(Duration(super::int(&args[0])?)))),
    ("duration", "(string) -> duration", Walked(0), |_, args| {
        let found = Duration::parse(text(&args[0])?).map(Value::Duration);
        found.ok_or_else(|| EvalError::failed(format!("time: invalid duration {:?}", shown(&args[0]))))
    }),
];

fn same<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(args[0].clone())
}

fn size<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Int(i64::try_from(args[0].size()).unwrap_or(i64::MAX)))
}

fn conversion(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::failed(format!("type conversion error from '{}' to '{to}'", value.ty()))
}

fn to_int<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::failed("integer overflow");
    Ok(Value::Int(match &args[0] {
        Value::Uint(value) => i64::try_from(*value).map_err(|_| overflow())?,
        // Both ends of the range are not numbers that a double can hold.
        Value::Double(value) if value.abs() < 9_223_372_036_854_775_807.0 => *value as i64,
        Value::Double(_) => return Err(overflow()),
        Value::String(text) => text.as_str().parse().map_err(|_| conversion(&args[0], "int"))?,
        Value::Timestamp(value) => value.seconds(),
        Value::Duration(value) => value.0,
        _ => return Err(EvalError::NoOverload),
    }))
}

fn to_uint<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::failed("unsigned integer overflow");
    Ok(Value::Uint(match &args[0] {
        Value::Int(value) => u64::try_from(*value).map_err(|_| overflow())?,
        Value::Double(value) if (0.0..18_446_744_073_709_551_615.0).contains(value) => *value as u64,
        Value::Double(_) => return Err(overflow()),
        Value::String(text) => text.as_str().parse().map_err(|_| conversion(&args[0], "uint"))?,
        _ => return Err(EvalError::NoOverload),
    }))
}

fn to_double<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Double(match &args[0] {
        Value::Int(value) => *value as f64,
        Value::Uint(value) => *value as f64,
        Value::String(text) => text.as_str().parse().map_err(|_| conversion(&args[0], "double"))?,
        _ => return Err(EvalError::NoOverload),
    }))
}

fn to_bool<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match text(&args[0])? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
        _ => Err(conversion(&args[0], "bool")),
    }
}

fn to_string<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    if let Value::Bytes(bytes) = &args[0] {
        let decoded = std::str::from_utf8(bytes);
        return decoded
            .map(Value::text)
            .map_err(|_| EvalError::failed("invalid UTF-8 in bytes, cannot convert to string"));
    }
    Ok(Value::text(shown(&args[0])))
}

/// A scalar as text.
pub(super) fn shown(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Double(value) => double(*value),
        Value::String(text) => text.as_str().to_owned(),
        Value::Timestamp(value) => value.to_string(),
        Value::Duration(value) => value.to_string(),
        Value::Type(ty) => type_name(ty),
        Value::Opaque(opaque) => match &**opaque {
            super::Opaque::Ip(ip) => ip.to_string(),
            super::Opaque::Cidr(cidr) => cidr.to_string(),
            _ => opaque.ty().to_string(),
        },
        other => other.ty().to_string(),
    }
}

/// The name of a type at run time, which knows nothing of what is inside.
pub(super) fn type_name(ty: &crate::types::Type) -> String {
    use crate::types::Type;
    match ty {
        Type::Timestamp => "google.protobuf.Timestamp".to_owned(),
        Type::Duration => "google.protobuf.Duration".to_owned(),
        Type::Null => "null_type".to_owned(),
        other => other.to_string().split('(').next().unwrap_or_default().to_owned(),
    }
}

/// The shortest text that reads back, with an exponent for what is very large or small, as Go writes it.
fn double(value: f64) -> String {
    if value.is_infinite() {
        return if value > 0.0 { "+Inf".to_owned() } else { "-Inf".to_owned() };
    }
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e21).contains(&magnitude) || value.is_nan() {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}
