//! Quantities such as `1.5Gi`.

use std::cmp::Ordering;
use std::rc::Rc;

use api_machinery::quantity::{Notation, Quantity};

use super::{Line, Opaque, text};
use crate::cost::Charge::{One, Text as Walked};
use crate::value::{EvalError, Value};

pub(super) const LINES: &[Line] = &[
    ("quantity", "(string) -> kubernetes.Quantity", Walked(0), |_, args| {
        Quantity::parse(text(&args[0])?).map(value).map_err(|error| EvalError::failed(error.to_string()))
    }),
    ("isQuantity", "(string) -> bool", Walked(0), |_, args| {
        Ok(Value::Bool(Quantity::parse(text(&args[0])?).is_ok()))
    }),
    ("sign", "kubernetes.Quantity.() -> int", One, |_, args| {
        Ok(Value::Int(of(&args[0])?.nanos().signum() as i64))
    }),
    ("isInteger", "kubernetes.Quantity.() -> bool", One, |_, args| {
        Ok(Value::Bool(units(&args[0])?.is_some()))
    }),
    ("asInteger", "kubernetes.Quantity.() -> int", One, |_, args| {
        let found = units(&args[0])?.map(Value::Int);
        found.ok_or(EvalError::failed("cannot convert value to integer"))
    }),
    ("asApproximateFloat", "kubernetes.Quantity.() -> double", One, |_, args| {
        Ok(Value::Double(of(&args[0])?.nanos() as f64 / 1e9))
    }),
    ("isGreaterThan", "kubernetes.Quantity.(kubernetes.Quantity) -> bool", One, |_, args| {
        Ok(Value::Bool(compared(args)?.is_gt()))
    }),
    ("isLessThan", "kubernetes.Quantity.(kubernetes.Quantity) -> bool", One, |_, args| {
        Ok(Value::Bool(compared(args)?.is_lt()))
    }),
    ("compareTo", "kubernetes.Quantity.(kubernetes.Quantity) -> int", One, |_, args| {
        Ok(Value::Int(compared(args)? as i64))
    }),
    ("add", "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity", One, |_, args| {
        Ok(value(of(&args[0])?.plus(of(&args[1])?)))
    }),
    ("add", "kubernetes.Quantity.(int) -> kubernetes.Quantity", One, |_, args| {
        Ok(value(of(&args[0])?.plus(whole(&args[1])?)))
    }),
    ("sub", "kubernetes.Quantity.(kubernetes.Quantity) -> kubernetes.Quantity", One, |_, args| {
        Ok(value(of(&args[0])?.minus(of(&args[1])?)))
    }),
    ("sub", "kubernetes.Quantity.(int) -> kubernetes.Quantity", One, |_, args| {
        Ok(value(of(&args[0])?.minus(whole(&args[1])?)))
    }),
];

fn value<'a>(quantity: Quantity) -> Value<'a> {
    Value::Opaque(Rc::new(Opaque::Quantity(quantity)))
}

fn of(value: &Value<'_>) -> Result<Quantity, EvalError> {
    match value {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Quantity(quantity) => Ok(*quantity),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn whole(value: &Value<'_>) -> Result<Quantity, EvalError> {
    super::int(value).map(|units| Quantity::from_units(units, Notation::DecimalSi))
}

fn units(value: &Value<'_>) -> Result<Option<i64>, EvalError> {
    let nanos = of(value)?.nanos();
    Ok((nanos % 1_000_000_000 == 0).then(|| i64::try_from(nanos / 1_000_000_000).ok()).flatten())
}

fn compared(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    Ok(of(&args[0])?.cmp(&of(&args[1])?))
}
