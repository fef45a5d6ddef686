//! Operators: arithmetic that overflows into errors, order and equality over all numbers, indexing, membership.

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Line, Outcome};
use crate::cost::Charge;
use crate::eval::Context;
use crate::types::ListKind;
use crate::value::{EvalError, Key, List, Map, Value};

use Charge::{AddList, AddText, Compare, Free, Items, One};

macro_rules! comparison {
    ($name:literal, $test:expr) => {
        [
            comparison!($name, "(bool, bool) -> bool", One, $test),
            comparison!($name, "(int, int) -> bool", One, $test),
            comparison!($name, "(int, double) -> bool", One, $test),
            comparison!($name, "(int, uint) -> bool", One, $test),
            comparison!($name, "(uint, uint) -> bool", One, $test),
            comparison!($name, "(uint, double) -> bool", One, $test),
            comparison!($name, "(uint, int) -> bool", One, $test),
            comparison!($name, "(double, double) -> bool", One, $test),
            comparison!($name, "(double, int) -> bool", One, $test),
            comparison!($name, "(double, uint) -> bool", One, $test),
            comparison!($name, "(string, string) -> bool", Compare, $test),
            comparison!($name, "(bytes, bytes) -> bool", Compare, $test),
            comparison!($name, "(timestamp, timestamp) -> bool", One, $test),
            comparison!($name, "(duration, duration) -> bool", One, $test),
        ]
    };
    ($name:literal, $signature:literal, $charge:expr, $test:expr) => {
        ($name, $signature, $charge, (|_, args| ordered(args, $test)) as super::Call)
    };
}

const LESS: [Line; 14] = comparison!("_<_", Ordering::is_lt);
const LESS_EQUAL: [Line; 14] = comparison!("_<=_", Ordering::is_le);
const GREATER: [Line; 14] = comparison!("_>_", Ordering::is_gt);
const GREATER_EQUAL: [Line; 14] = comparison!("_>=_", Ordering::is_ge);

const OTHERS: [Line; 41] = [
    // The evaluator decides these three itself, since not every argument is evaluated.
    ("_&&_", "(bool, bool) -> bool", Free, |_, _| Err(EvalError::NoOverload)),
    ("_||_", "(bool, bool) -> bool", Free, |_, _| Err(EvalError::NoOverload)),
    ("_?_:_", "(bool, A, A) -> A", Free, |_, _| Err(EvalError::NoOverload)),
    ("!_", "(bool) -> bool", One, |_, args| match args {
        [Value::Bool(value)] => Ok(Value::Bool(!value)),
        _ => Err(EvalError::NoOverload),
    }),
    ("_==_", "(A, A) -> bool", Compare, |cx, args| Ok(Value::Bool(equal(cx, &args[0], &args[1])?))),
    ("_!=_", "(A, A) -> bool", Compare, |cx, args| Ok(Value::Bool(!equal(cx, &args[0], &args[1])?))),
    ("@in", "(A, list(A)) -> bool", Items(1), is_in),
    ("@in", "(A, map(A, B)) -> bool", One, is_in),
    ("_[_]", "(list(A), int) -> A", One, index),
    ("_[_]", "(map(A, B), A) -> B", One, index),
    ("_[_]", "(optional_type(list(A)), int) -> optional_type(A)", One, optional_index),
    ("_[_]", "(optional_type(map(A, B)), A) -> optional_type(B)", One, optional_index),
    ("_[?_]", "(list(A), int) -> optional_type(A)", One, optional_index),
    ("_[?_]", "(map(A, B), A) -> optional_type(B)", One, optional_index),
    ("_[?_]", "(optional_type(list(A)), int) -> optional_type(A)", One, optional_index),
    ("_[?_]", "(optional_type(map(A, B)), A) -> optional_type(B)", One, optional_index),
    ("_+_", "(int, int) -> int", One, arithmetic),
    ("_+_", "(uint, uint) -> uint", One, arithmetic),
    ("_+_", "(double, double) -> double", One, |_, args| doubles(args, |a, b| a + b)),
    ("_+_", "(string, string) -> string", AddText, |_, args| {
        Ok(Value::text([super::text(&args[0])?, super::text(&args[1])?].concat()))
    }),
    ("_+_", "(bytes, bytes) -> bytes", AddText, |_, args| match args {
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([&a[..], &b[..]].concat().into())),
        _ => Err(EvalError::NoOverload),
    }),
    ("_+_", "(list(A), list(A)) -> list(A)", AddList, |cx, args| match args {
        [Value::List(a), Value::List(b)] => join_lists(cx, a, b),
        _ => Err(EvalError::NoOverload),
    }),
    ("_+_", "(timestamp, duration) -> timestamp", One, moved),
    ("_+_", "(duration, timestamp) -> timestamp", One, moved),
    ("_+_", "(duration, duration) -> duration", One, moved),
    ("_-_", "(int, int) -> int", One, |_, args| ints(args, i64::checked_sub, "integer overflow")),
    ("_-_", "(uint, uint) -> uint", One, |_, args| {
        uints(args, u64::checked_sub, "unsigned integer overflow")
    }),
    ("_-_", "(double, double) -> double", One, |_, args| doubles(args, |a, b| a - b)),
    ("_-_", "(timestamp, timestamp) -> duration", One, moved_back),
    ("_-_", "(timestamp, duration) -> timestamp", One, moved_back),
    ("_-_", "(duration, duration) -> duration", One, moved_back),
    ("_*_", "(int, int) -> int", One, |_, args| ints(args, i64::checked_mul, "integer overflow")),
    ("_*_", "(uint, uint) -> uint", One, |_, args| {
        uints(args, u64::checked_mul, "unsigned integer overflow")
    }),
    ("_*_", "(double, double) -> double", One, |_, args| doubles(args, |a, b| a * b)),
    ("_/_", "(int, int) -> int", One, divide),
    ("_/_", "(uint, uint) -> uint", One, |_, args| uints(args, u64::checked_div, "division by zero")),
    ("_/_", "(double, double) -> double", One, |_, args| doubles(args, |a, b| a / b)),
    ("_%_", "(int, int) -> int", One, divide_rest),
    ("_%_", "(uint, uint) -> uint", One, |_, args| uints(args, u64::checked_rem, "modulus by zero")),
    ("-_", "(int) -> int", One, negate),
    ("-_", "(double) -> double", One, negate),
];

/// What the parser makes of operators.
pub(super) const LINES: &[Line] = &{
    let mut lines = [LESS[0]; 41 + 4 * 14];
    let mut index = 0;
    while index < 14 {
        lines[index] = LESS[index];
        lines[14 + index] = LESS_EQUAL[index];
        lines[28 + index] = GREATER[index];
        lines[42 + index] = GREATER_EQUAL[index];
        index += 1;
    }
    index = 0;
    while index < 41 {
        lines[56 + index] = OTHERS[index];
        index += 1;
    }
    lines
};

fn ints<'a>(args: &[Value<'a>], op: fn(i64, i64) -> Option<i64>, why: &'static str) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => op(*a, *b).map(Value::Int).ok_or(EvalError::Failed(why.into())),
        _ => Err(EvalError::NoOverload),
    }
}

fn uints<'a>(args: &[Value<'a>], op: fn(u64, u64) -> Option<u64>, why: &'static str) -> Outcome<'a> {
    match args {
        [Value::Uint(a), Value::Uint(b)] => op(*a, *b).map(Value::Uint).ok_or(EvalError::Failed(why.into())),
        _ => Err(EvalError::NoOverload),
    }
}

fn doubles<'a>(args: &[Value<'a>], op: fn(f64, f64) -> f64) -> Outcome<'a> {
    match args {
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(op(*a, *b))),
        _ => Err(EvalError::NoOverload),
    }
}

fn arithmetic<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(_), _] => ints(args, i64::checked_add, "integer overflow"),
        _ => uints(args, u64::checked_add, "unsigned integer overflow"),
    }
}

fn divide<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let by_zero = matches!(args, [_, Value::Int(0)]);
    ints(args, i64::checked_div, if by_zero { "division by zero" } else { "integer overflow" })
}

fn divide_rest<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let by_zero = matches!(args, [_, Value::Int(0)]);
    ints(args, i64::checked_rem, if by_zero { "modulus by zero" } else { "integer overflow" })
}

fn negate<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(value)] => {
            value.checked_neg().map(Value::Int).ok_or(EvalError::failed("integer overflow"))
        }
        [Value::Double(value)] => Ok(Value::Double(-value)),
        _ => Err(EvalError::NoOverload),
    }
}

fn moved<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Timestamp(at), Value::Duration(by)] | [Value::Duration(by), Value::Timestamp(at)] => {
            at.plus(*by).map(Value::Timestamp).ok_or(EvalError::failed("timestamp overflow"))
        }
        [Value::Duration(a), Value::Duration(b)] => {
            let sum = a.0.checked_add(b.0).ok_or(EvalError::failed("duration overflow"))?;
            Ok(Value::Duration(crate::time::Duration(sum)))
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn moved_back<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            a.since(*b).map(Value::Duration).ok_or(EvalError::failed("timestamp overflow"))
        }
        [first, Value::Duration(by)] => {
            let back = by.0.checked_neg().ok_or(EvalError::failed("duration overflow"))?;
            moved(cx, &[first.clone(), Value::Duration(crate::time::Duration(back))])
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn ordered<'a>(args: &[Value<'a>], test: fn(Ordering) -> bool) -> Outcome<'a> {
    // Nothing is less or more than what is not a number.
    Ok(Value::Bool(compare(&args[0], &args[1])?.is_some_and(test)))
}

/// The order of two values of one type or of two numbers.
pub(super) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, EvalError> {
    Ok(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::String(a), Value::String(b)) => Some(a.as_str().cmp(b.as_str())),
        (Value::Bytes(a), Value::Bytes(b)) => Some(a.cmp(b)),
        (Value::Timestamp(a), Value::Timestamp(b)) => Some(a.cmp(b)),
        (Value::Duration(a), Value::Duration(b)) => Some(a.cmp(b)),
        _ => numeric(a, b).ok_or(EvalError::NoOverload)?,
    })
}

fn whole(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    }
}

/// The order of two numbers of any kind; nothing if one of them is none, `Some(None)` for what is not a number.
fn numeric(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    match (a, b) {
        (Value::Double(a), Value::Double(b)) => Some(a.partial_cmp(b)),
        (Value::Double(a), b) => whole(b).map(|b| against_whole(*a, b)),
        (a, Value::Double(b)) => whole(a).map(|a| against_whole(*b, a).map(Ordering::reverse)),
        _ => Some(Some(whole(a)?.cmp(&whole(b)?))),
    }
}

/// A double and a whole number, exactly.
fn against_whole(double: f64, whole: i128) -> Option<Ordering> {
    if double.is_nan() {
        return None;
    }
    // Conversions from floating point saturate far outside of what 64 bits hold.
    let floor = double.floor();
    let order = (floor as i128).cmp(&whole);
    Some(if order.is_eq() && double > floor { Ordering::Greater } else { order })
}

/// Whether two values are equal. Values of different types are not; numbers are compared as numbers. Charges for
/// what it looks at beyond the first level.
pub fn equal<'a>(cx: &mut Context<'_, 'a>, a: &Value<'a>, b: &Value<'a>) -> Result<bool, EvalError> {
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Optional(None), Value::Optional(None)) => true,
        (Value::Optional(Some(a)), Value::Optional(Some(b))) => equal(cx, a, b)?,
        (Value::List(a), Value::List(b)) => equal_lists(cx, a, b)?,
        (Value::Map(a), Value::Map(b)) => equal_maps(cx, a, b)?,
        (Value::Opaque(a), Value::Opaque(b)) => a.equals(b),
        _ => matches!(compare(a, b), Ok(Some(Ordering::Equal))),
    })
}

impl super::Opaque<'_> {
    fn equals(&self, other: &super::Opaque<'_>) -> bool {
        use super::Opaque::{Cidr, Format, Ip, Quantity, Semver, Url};
        match (self, other) {
            (Quantity(a), Quantity(b)) => a == b,
            (Url(a), Url(b)) => a == b,
            (Ip(a), Ip(b)) => a == b,
            (Cidr(a), Cidr(b)) => a == b,
            (Semver(a), Semver(b)) => a == b,
            (Format(a), Format(b)) => a.name == b.name,
            _ => false,
        }
    }
}

fn equal_lists<'a>(cx: &mut Context<'_, 'a>, a: &List<'a>, b: &List<'a>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    cx.charge_work(a.len())?;
    match a.kind() {
        ListKind::Atomic => {
            for (a, b) in a.iter().zip(b.iter()) {
                if !equal(cx, &a, &b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        ListKind::Set => {
            cx.charge_work(a.len().saturating_mul(a.len()))?;
            for item in a.iter() {
                if !contains(cx, b, &item)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        ListKind::Map(keys) => {
            cx.charge_work(a.len().saturating_mul(a.len()))?;
            for item in a.iter() {
                let other = b.iter().find(|other| same_keys(keys, &item, other));
                let Some(other) = other else { return Ok(false) };
                if !equal(cx, &item, &other)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
    }
}

/// Whether two items of a list of objects are the same item. Keys are scalars.
fn same_keys(keys: &[String], a: &Value<'_>, b: &Value<'_>) -> bool {
    let (Value::Map(a), Value::Map(b)) = (a, b) else { return false };
    keys.iter().all(|key| {
        let name = crate::types::escape(key).unwrap_or_else(|| key.clone());
        match (a.field(&name), b.field(&name)) {
            (None, None) => true,
            (Some(a), Some(b)) => matches!(compare(&a, &b), Ok(Some(Ordering::Equal))),
            _ => false,
        }
    })
}

fn equal_maps<'a>(cx: &mut Context<'_, 'a>, a: &Map<'a>, b: &Map<'a>) -> Result<bool, EvalError> {
    if a.len() != b.len() {
        return Ok(false);
    }
    cx.charge_work(a.len())?;
    // Both sides are in the order of their keys.
    for ((key, value), (other_key, other)) in a.iter().zip(b.iter()) {
        if key != other_key || !equal(cx, &value, &other)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether a list has it.
pub(super) fn contains<'a>(
    cx: &mut Context<'_, 'a>,
    list: &List<'a>,
    wanted: &Value<'a>,
) -> Result<bool, EvalError> {
    for item in list.iter() {
        if equal(cx, &item, wanted)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_in<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [wanted, Value::List(list)] => Ok(Value::Bool(contains(cx, list, wanted)?)),
        [wanted, Value::Map(map)] => {
            Ok(Value::Bool(Key::of(wanted).is_some_and(|key| map.get(&key).is_some())))
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn index<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::List(list), position] => {
            let found = whole_index(position)?;
            let item = usize::try_from(found).ok().and_then(|found| list.get(found));
            item.ok_or_else(|| EvalError::failed(format!("index out of bounds: {found}")))
        }
        [Value::Map(map), key] => {
            // What cannot be a key is a key that no map has.
            let found = Key::of(key).and_then(|found| map.get(&found));
            found.ok_or_else(|| EvalError::NoKey(super::conversions::shown(key)))
        }
        _ => Err(EvalError::NoOverload),
    }
}

fn whole_index(position: &Value<'_>) -> Result<i64, EvalError> {
    match position {
        Value::Int(index) => Ok(*index),
        Value::Uint(index) => Ok(i64::try_from(*index).unwrap_or(i64::MAX)),
        Value::Double(index) if index.fract() == 0.0 => Ok(*index as i64),
        _ => Err(EvalError::NoOverload),
    }
}

fn optional_index<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let inner = match &args[0] {
        Value::Optional(None) => return Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => Value::clone(inner),
        other => other.clone(),
    };
    match index(cx, &[inner, args[1].clone()]) {
        Ok(value) => Ok(Value::some(value)),
        Err(EvalError::NoOverload) => Err(EvalError::NoOverload),
        Err(_) => Ok(Value::Optional(None)),
    }
}

/// `a + b`. Sets and lists that are known by keys are merged: what is in both stays in its place.
pub fn join_lists<'a>(cx: &mut Context<'_, 'a>, a: &List<'a>, b: &List<'a>) -> Outcome<'a> {
    cx.charge_made(a.len() + b.len())?;
    let mut items: Vec<Value<'a>> = a.iter().collect();
    match a.kind() {
        ListKind::Atomic => items.extend(b.iter()),
        ListKind::Set => {
            cx.charge_work(a.len().saturating_mul(b.len()))?;
            for item in b.iter() {
                if !contains(cx, a, &item)? {
                    items.push(item);
                }
            }
        }
        ListKind::Map(keys) => {
            cx.charge_work(a.len().saturating_mul(b.len()))?;
            for item in b.iter() {
                match items.iter_mut().find(|known| same_keys(keys, known, &item)) {
                    Some(known) => *known = item,
                    None => items.push(item),
                }
            }
        }
    }
    Ok(Value::List(List::Owned(Rc::new(items))))
}
