//! Regular expressions.

use super::{Line, Outcome, int, text};
use crate::cost::Charge::{Find, Matches};
use crate::eval::Context;
use crate::value::Value;

pub(super) const LINES: &[Line] = &[
    ("matches", "(string, string) -> bool", Matches, matches),
    ("matches", "string.(string) -> bool", Matches, matches),
    ("find", "string.(string) -> string", Find, |cx, args| {
        let subject = text(&args[0])?;
        let pattern = cx.pattern(text(&args[1])?, subject)?;
        Ok(Value::text(pattern.find(subject, 1).first().copied().unwrap_or_default()))
    }),
    ("findAll", "string.(string) -> list(string)", Find, find_all),
    ("findAll", "string.(string, int) -> list(string)", Find, find_all),
];

fn matches<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let subject = text(&args[0])?;
    let pattern = cx.pattern(text(&args[1])?, subject)?;
    Ok(Value::Bool(pattern.is_match(subject)))
}

fn find_all<'a>(cx: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let subject = text(&args[0])?;
    let pattern = cx.pattern(text(&args[1])?, subject)?;
    let most = match args.get(2) {
        Some(most) => usize::try_from(int(most)?).unwrap_or(usize::MAX),
        None => usize::MAX,
    };
    let found = pattern.find(subject, most);
    cx.charge_made(found.len())?;
    Ok(Value::list(found.into_iter().map(Value::text).collect()))
}
