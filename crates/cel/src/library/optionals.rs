//! Values that may be absent.

use super::{Line, Outcome};
use crate::cost::Charge::One;
use crate::eval::Context;
use crate::value::{EvalError, Value};

pub(super) const LINES: &[Line] = &[
    ("optional.of", "(A) -> optional_type(A)", One, |_, args| Ok(Value::some(args[0].clone()))),
    ("optional.none", "() -> optional_type(A)", One, |_, _| Ok(Value::Optional(None))),
    ("optional.ofNonZeroValue", "(A) -> optional_type(A)", One, |_, args| {
        Ok(if is_zero(&args[0]) { Value::Optional(None) } else { Value::some(args[0].clone()) })
    }),
    ("value", "optional_type(A).() -> A", One, |_, args| match &args[0] {
        Value::Optional(Some(inner)) => Ok(Value::clone(inner)),
        Value::Optional(None) => Err(EvalError::failed("optional.none() dereference")),
        _ => Err(EvalError::NoOverload),
    }),
    ("hasValue", "optional_type(A).() -> bool", One, |_, args| {
        Ok(Value::Bool(matches!(&args[0], Value::Optional(Some(_)))))
    }),
    ("orValue", "optional_type(A).(A) -> A", One, |_, args| match args {
        [Value::Optional(Some(inner)), _] => Ok(Value::clone(inner)),
        [_, other] => Ok(other.clone()),
        _ => Err(EvalError::NoOverload),
    }),
    ("or", "optional_type(A).(optional_type(A)) -> optional_type(A)", One, either),
];

fn either<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Optional(None), other] => Ok(other.clone()),
        [found, _] => Ok(found.clone()),
        _ => Err(EvalError::NoOverload),
    }
}

fn is_zero(value: &Value<'_>) -> bool {
    match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Optional(None) => true,
        Value::Double(value) => *value == 0.0,
        Value::Duration(value) => value.0 == 0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        _ => false,
    }
}
