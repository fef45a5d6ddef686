//! What calendars and clocks show of timestamps and durations.

use jiff::Zoned;

use super::{Line, Outcome, text};
use crate::cost::Charge::One;
use crate::value::{EvalError, Value};

macro_rules! parts {
    ($($name:literal => $part:expr;)*) => {
        &[$(
            ($name, "timestamp.() -> int", One, |_, args| part(args, $part)),
            ($name, "timestamp.(string) -> int", One, |_, args| part(args, $part)),
        )*
            ("getHours", "duration.() -> int", One, |_, args| whole(args, 3_600_000_000_000)),
            ("getMinutes", "duration.() -> int", One, |_, args| whole(args, 60_000_000_000)),
            ("getSeconds", "duration.() -> int", One, |_, args| whole(args, 1_000_000_000)),
            ("getMilliseconds", "duration.() -> int", One, |_, args| whole(args, 1_000_000)),
        ]
    };
}

pub(super) const LINES: &[Line] = parts! {
    "getFullYear" => |at| i64::from(at.year());
    "getMonth" => |at| i64::from(at.month()) - 1;
    "getDate" => |at| i64::from(at.day());
    "getDayOfMonth" => |at| i64::from(at.day()) - 1;
    "getDayOfWeek" => |at| i64::from(at.weekday().to_sunday_zero_offset());
    "getDayOfYear" => |at| i64::from(at.day_of_year()) - 1;
    "getHours" => |at| i64::from(at.hour());
    "getMinutes" => |at| i64::from(at.minute());
    "getSeconds" => |at| i64::from(at.second());
    "getMilliseconds" => |at| i64::from(at.millisecond());
};

fn part<'a>(args: &[Value<'a>], part: fn(&Zoned) -> i64) -> Outcome<'a> {
    let zone = args.get(1).map(text).transpose()?.unwrap_or("UTC");
    match &args[0] {
        Value::Timestamp(at) => match at.at(zone) {
            Some(zoned) => Ok(Value::Int(part(&zoned))),
            None => Err(EvalError::failed(format!("unknown time zone {zone}"))),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn whole<'a>(args: &[Value<'a>], unit: i64) -> Outcome<'a> {
    match &args[0] {
        Value::Duration(value) => Ok(Value::Int(value.0 / unit)),
        _ => Err(EvalError::NoOverload),
    }
}
