//! Lists: order, sums, extremes, positions; and lists as sets.

use std::cmp::Ordering;

use super::operators::{compare, contains, equal};
use super::{Line, Outcome};
use crate::cost::Charge::{Pairs, Walk};
use crate::eval::Context;
use crate::time::Duration;
use crate::value::{EvalError, List, Value};

macro_rules! for_types {
    ($name:literal, $call:expr, $($signature:literal),*) => { &[$(($name, $signature, Walk, $call as super::Call)),*] };
}

const SORTED: &[Line] = for_types!(
    "isSorted",
    is_sorted,
    "list(int).() -> bool",
    "list(uint).() -> bool",
    "list(double).() -> bool",
    "list(bool).() -> bool",
    "list(duration).() -> bool",
    "list(timestamp).() -> bool",
    "list(string).() -> bool",
    "list(bytes).() -> bool"
);
const MIN: &[Line] = for_types!(
    "min",
    |_, args| extreme(args, Ordering::Less),
    "list(int).() -> int",
    "list(uint).() -> uint",
    "list(double).() -> double",
    "list(bool).() -> bool",
    "list(duration).() -> duration",
    "list(timestamp).() -> timestamp",
    "list(string).() -> string",
    "list(bytes).() -> bytes"
);
const MAX: &[Line] = for_types!(
    "max",
    |_, args| extreme(args, Ordering::Greater),
    "list(int).() -> int",
    "list(uint).() -> uint",
    "list(double).() -> double",
    "list(bool).() -> bool",
    "list(duration).() -> duration",
    "list(timestamp).() -> timestamp",
    "list(string).() -> string",
    "list(bytes).() -> bytes"
);
const OTHERS: [Line; 9] = [
    ("sum", "list(int).() -> int", Walk, |cx, args| sum(cx, args, Value::Int(0))),
    ("sum", "list(uint).() -> uint", Walk, |cx, args| sum(cx, args, Value::Uint(0))),
    ("sum", "list(double).() -> double", Walk, |cx, args| sum(cx, args, Value::Double(0.0))),
    ("sum", "list(duration).() -> duration", Walk, |cx, args| sum(cx, args, Value::Duration(Duration(0)))),
    ("indexOf", "list(A).(A) -> int", Walk, |cx, args| index_of(cx, args, false)),
    ("lastIndexOf", "list(A).(A) -> int", Walk, |cx, args| index_of(cx, args, true)),
    ("sets.contains", "(list(A), list(A)) -> bool", Pairs(1), |cx, args| {
        let [Value::List(a), Value::List(b)] = args else { return Err(EvalError::NoOverload) };
        Ok(Value::Bool(holds_all(cx, a, b)?))
    }),
    ("sets.equivalent", "(list(A), list(A)) -> bool", Pairs(2), |cx, args| {
        let [Value::List(a), Value::List(b)] = args else { return Err(EvalError::NoOverload) };
        Ok(Value::Bool(holds_all(cx, a, b)? && holds_all(cx, b, a)?))
    }),
    ("sets.intersects", "(list(A), list(A)) -> bool", Pairs(1), |cx, args| {
        let [Value::List(a), Value::List(b)] = args else { return Err(EvalError::NoOverload) };
        for item in b.iter() {
            if contains(cx, a, &item)? {
                return Ok(Value::Bool(true));
            }
        }
        Ok(Value::Bool(false))
    }),
];

pub(super) const LINES: &[Line] = &{
    let mut lines = [OTHERS[0]; 33];
    let mut index = 0;
    while index < 8 {
        lines[index] = SORTED[index];
        lines[8 + index] = MIN[index];
        lines[16 + index] = MAX[index];
        index += 1;
    }
    index = 0;
    while index < 9 {
        lines[24 + index] = OTHERS[index];
        index += 1;
    }
    lines
};

fn list<'v, 'a>(value: &'v Value<'a>) -> Result<&'v List<'a>, EvalError> {
    match value {
        Value::List(list) => Ok(list),
        _ => Err(EvalError::NoOverload),
    }
}

fn is_sorted<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let mut last: Option<Value<'a>> = None;
    for item in list(&args[0])?.iter() {
        if let Some(last) = &last
            && compare(last, &item)? == Some(Ordering::Greater)
        {
            return Ok(Value::Bool(false));
        }
        last = Some(item);
    }
    Ok(Value::Bool(true))
}

fn extreme<'a>(args: &[Value<'a>], wanted: Ordering) -> Outcome<'a> {
    let mut best: Option<Value<'a>> = None;
    for item in list(&args[0])?.iter() {
        let better = match &best {
            None => true,
            Some(best) => compare(&item, best)? == Some(wanted),
        };
        if better {
            best = Some(item);
        }
    }
    let name = if wanted.is_lt() { "min" } else { "max" };
    best.ok_or_else(|| EvalError::failed(format!("{name} called on empty list")))
}

fn sum<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>], zero: Value<'a>) -> Outcome<'a> {
    let add = super::function("_+_").ok_or(EvalError::NoOverload)?;
    let mut total = zero;
    for item in list(&args[0])?.iter() {
        let pair = [total, item];
        let fitting =
            add.overloads.iter().find(|o| o.params.iter().zip(&pair).all(|(ty, v)| super::fits(ty, v)));
        total = (fitting.ok_or(EvalError::NoOverload)?.call)(cx, &pair)?;
    }
    Ok(total)
}

fn index_of<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let mut found = -1;
    for (index, item) in list(&args[0])?.iter().enumerate() {
        if equal(cx, &item, &args[1])? {
            found = i64::try_from(index).unwrap_or(i64::MAX);
            if !last {
                break;
            }
        }
    }
    Ok(Value::Int(found))
}

fn holds_all<'a>(cx: &mut Context<'_, 'a>, list: &List<'a>, wanted: &List<'a>) -> Result<bool, EvalError> {
    for item in wanted.iter() {
        if !contains(cx, list, &item)? {
            return Ok(false);
        }
    }
    Ok(true)
}
