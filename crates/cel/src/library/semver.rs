//! Semantic versions, of semver.org 2.0.0.

use std::cmp::Ordering;
use std::rc::Rc;

use super::{Line, Opaque, Outcome, text};
use crate::cost::Charge::{One, Text as Walked};
use crate::eval::Context;
use crate::value::{EvalError, Value};

pub(super) const LINES: &[Line] = &[
    ("semver", "(string) -> kubernetes.Semver", Walked(0), semver),
    ("semver", "(string, bool) -> kubernetes.Semver", Walked(0), semver),
    ("isSemver", "(string) -> bool", Walked(0), is_semver),
    ("isSemver", "(string, bool) -> bool", Walked(0), is_semver),
    ("major", "kubernetes.Semver.() -> int", One, |_, args| part(args, 0)),
    ("minor", "kubernetes.Semver.() -> int", One, |_, args| part(args, 1)),
    ("patch", "kubernetes.Semver.() -> int", One, |_, args| part(args, 2)),
    ("isGreaterThan", "kubernetes.Semver.(kubernetes.Semver) -> bool", One, |_, args| {
        Ok(Value::Bool(of(&args[0])?.compare(of(&args[1])?).is_gt()))
    }),
    ("isLessThan", "kubernetes.Semver.(kubernetes.Semver) -> bool", One, |_, args| {
        Ok(Value::Bool(of(&args[0])?.compare(of(&args[1])?).is_lt()))
    }),
    ("compareTo", "kubernetes.Semver.(kubernetes.Semver) -> int", One, |_, args| {
        Ok(Value::Int(of(&args[0])?.compare(of(&args[1])?) as i64))
    }),
];

/// A version. What is built is not compared and not kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre_release: Vec<Part>,
}

/// A part of a pre-release: numbers come before words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Number(u64),
    Word(String),
}

impl Semver {
    fn parse(source: &str) -> Result<Semver, &'static str> {
        let (rest, build) =
            source.split_once('+').map_or((source, None), |(rest, build)| (rest, Some(build)));
        let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts[..] else { return Err("No Major.Minor.Patch elements found") };
        let numbers = [number(major)?, number(minor)?, number(patch)?];
        let words = |text: &str| text.split('.').all(|part| !part.is_empty() && part.chars().all(is_word));
        if !pre.is_none_or(words) || !build.is_none_or(words) {
            return Err("Invalid character(s) found in prerelease or build");
        }
        let pre_release = pre.map_or(Ok(Vec::new()), |pre| pre.split('.').map(part_of).collect())?;
        Ok(Semver { numbers, pre_release })
    }

    /// Without a leading `v`, missing parts or leading zeros.
    fn normalised(source: &str) -> String {
        let source = source.trim();
        let source = source.strip_prefix('v').unwrap_or(source);
        let end = source.find(['-', '+']).unwrap_or(source.len());
        let (core, rest) = source.split_at(end);
        let mut parts: Vec<&str> = core.split('.').collect();
        parts.resize(parts.len().max(3), "0");
        let trimmed: Vec<&str> = parts
            .iter()
            .map(|part| match part.trim_start_matches('0') {
                "" if !part.is_empty() => "0",
                trimmed => trimmed,
            })
            .collect();
        format!("{}{rest}", trimmed.join("."))
    }

    fn compare(&self, other: &Semver) -> Ordering {
        self.numbers.cmp(&other.numbers).then_with(|| {
            // What is released comes after what leads to it.
            match (self.pre_release.is_empty(), other.pre_release.is_empty()) {
                (true, false) => Ordering::Greater,
                (false, true) => Ordering::Less,
                _ => self.pre_release.cmp(&other.pre_release),
            }
        })
    }
}

fn is_word(character: char) -> bool {
    character.is_ascii_alphanumeric() || character == '-'
}

fn number(text: &str) -> Result<u64, &'static str> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("Invalid character(s) found in version number");
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err("Version number must not contain leading zeroes");
    }
    text.parse().map_err(|_| "Version number is too large")
}

fn part_of(text: &str) -> Result<Part, &'static str> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        number(text).map(Part::Number)
    } else {
        Ok(Part::Word(text.to_owned()))
    }
}

fn parsed(args: &[Value<'_>]) -> Result<Result<Semver, &'static str>, EvalError> {
    let source = text(&args[0])?;
    Ok(match args.get(1) {
        Some(Value::Bool(true)) => Semver::parse(&Semver::normalised(source)),
        _ => Semver::parse(source),
    })
}

fn semver<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    let version = parsed(args)?.map_err(EvalError::failed)?;
    Ok(Value::Opaque(Rc::new(Opaque::Semver(version))))
}

fn is_semver<'a>(_: &mut Context<'_, 'a>, args: &[Value<'a>]) -> Outcome<'a> {
    Ok(Value::Bool(parsed(args)?.is_ok()))
}

fn of<'v>(value: &'v Value<'_>) -> Result<&'v Semver, EvalError> {
    match value {
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Semver(version) => Ok(version),
            _ => Err(EvalError::NoOverload),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn part<'a>(args: &[Value<'a>], index: usize) -> Outcome<'a> {
    Ok(Value::Int(i64::try_from(of(&args[0])?.numbers[index]).unwrap_or(i64::MAX)))
}
