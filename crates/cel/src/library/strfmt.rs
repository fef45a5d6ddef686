//! `"...%s...".format([...])`.

use super::{Outcome, text};
use crate::eval::Context;
use crate::value::{EvalError, Value};

/// The most digits behind the point that can be asked for.
const MAX_PRECISION: usize = 1000;

pub(super) fn format<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let Value::List(list) = &args[1] else { return Err(EvalError::NoOverload) };
    let mut out = String::new();
    let mut characters = text(&args[0])?.chars().peekable();
    let mut next = 0;
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        if characters.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut precision = None;
        if characters.next_if_eq(&'.').is_some() {
            let mut digits = String::new();
            while let Some(digit) = characters.next_if(char::is_ascii_digit) {
                digits.push(digit);
            }
            let parsed: usize = digits.parse().map_err(|_| problem("unable to find end of precision"))?;
            if parsed > MAX_PRECISION {
                return Err(problem("precision is too large"));
            }
            precision = Some(parsed);
        }
        let verb = characters.next().ok_or_else(|| problem("unexpected end of string"))?;
        let value = list.get(next).ok_or_else(|| EvalError::failed(format!("index {next} out of range")))?;
        next += 1;
        let before = out.len();
        clause(cx, verb, precision, &value, &mut out)?;
        cx.charge_text(out.len() - before)?;
    }
    Ok(Value::text(out))
}

fn problem(what: &str) -> EvalError {
    EvalError::failed(format!("could not parse formatting clause: {what}"))
}

fn refused(verb: &str, value: &Value<'_>) -> EvalError {
    EvalError::failed(format!("error during formatting: {verb} clause can't be used on {}", value.ty()))
}

fn clause<'a>(
    cx: &mut Context<'_, 'a>,
    verb: char,
    precision: Option<usize>,
    value: &Value<'a>,
    out: &mut String,
) -> Result<(), EvalError> {
    match verb {
        's' => plain(cx, value, out, 0)?,
        'd' => match value {
            Value::Int(number) => out.push_str(&number.to_string()),
            Value::Uint(number) => out.push_str(&number.to_string()),
            _ => return Err(refused("decimal", value)),
        },
        'f' | 'e' => {
            let number = match value {
                Value::Double(number) => *number,
                Value::Int(number) => *number as f64,
                Value::Uint(number) => *number as f64,
                _ => return Err(refused("fixed-point", value)),
            };
            let precision = precision.unwrap_or(6);
            out.push_str(&if verb == 'f' {
                format!("{number:.precision$}")
            } else {
                scientific(number, precision)
            });
        }
        'b' => match value {
            Value::Int(number) => out.push_str(&signed(*number, |n| format!("{n:b}"))),
            Value::Uint(number) => out.push_str(&format!("{number:b}")),
            Value::Bool(flag) => out.push(if *flag { '1' } else { '0' }),
            _ => return Err(refused("binary", value)),
        },
        'o' => match value {
            Value::Int(number) => out.push_str(&signed(*number, |n| format!("{n:o}"))),
            Value::Uint(number) => out.push_str(&format!("{number:o}")),
            _ => return Err(refused("octal", value)),
        },
        'x' | 'X' => {
            let digits = match value {
                Value::Int(number) => signed(*number, |n| format!("{n:x}")),
                Value::Uint(number) => format!("{number:x}"),
                Value::String(text) => text.as_str().bytes().map(|byte| format!("{byte:02x}")).collect(),
                Value::Bytes(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
                _ => return Err(refused("hex", value)),
            };
            out.push_str(&if verb == 'X' { digits.to_uppercase() } else { digits });
        }
        other => return Err(problem(&format!("unrecognized formatting clause \"{other}\""))),
    }
    Ok(())
}

fn signed(number: i64, digits: impl Fn(u64) -> String) -> String {
    let sign = if number < 0 { "-" } else { "" };
    format!("{sign}{}", digits(number.unsigned_abs()))
}

fn scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Values as `%s` shows them; text within lists and maps as it is. As deep as values can be.
fn plain<'a>(
    cx: &mut Context<'_, 'a>,
    value: &Value<'a>,
    out: &mut String,
    depth: usize,
) -> Result<(), EvalError> {
    if depth > crate::eval::MAX_VALUE_DEPTH {
        return Err(EvalError::failed("value nests too deeply"));
    }
    match value {
        Value::List(list) => {
            out.push('[');
            for (index, item) in list.iter().enumerate() {
                cx.charge_work(1)?;
                if index > 0 {
                    out.push_str(", ");
                }
                plain(cx, &item, out, depth + 1)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            out.push('{');
            for (index, (key, item)) in map.iter().enumerate() {
                cx.charge_work(1)?;
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&super::conversions::shown(&key.value()));
                out.push_str(": ");
                plain(cx, &item, out, depth + 1)?;
            }
            out.push('}');
        }
        Value::Bytes(bytes) => out.push_str(&String::from_utf8_lossy(bytes)),
        Value::Double(number) if number.is_nan() => out.push_str("NaN"),
        Value::Double(number) if number.is_infinite() => {
            out.push_str(if *number > 0.0 { "Infinity" } else { "-Infinity" });
        }
        Value::Optional(_) | Value::Opaque(_) => return Err(refused("string", value)),
        scalar => out.push_str(&super::conversions::shown(scalar)),
    }
    Ok(())
}
