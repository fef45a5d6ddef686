//! Sets of fields: which places of an object somebody owns.
//!
//! A set is a tree in the shape of the object. It borrows names and keys from the objects that it was read off, so that
//! making one costs little more than the walk. What the places mean is [`super::typed`]'s to say, and how they are written
//! [`super::fields_v1`]'s.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

use serde_json::{Number, Value};

use crate::field::go_quote;

/// One step of the way to a field.
#[derive(Clone, Debug)]
pub enum Element<'a> {
    /// A field of an object, or an entry of a map.
    Field(Cow<'a, str>),
    /// The item of a list that has these values in its key fields; in order of the fields' names.
    Key(Vec<(Cow<'a, str>, Cow<'a, Value>)>),
    /// This member of a set.
    Value(Cow<'a, Value>),
    /// The item at this position.
    Index(i64),
}

impl Element<'_> {
    fn rank(&self) -> u8 {
        match self {
            Element::Field(_) => 0,
            Element::Key(_) => 1,
            Element::Value(_) => 2,
            Element::Index(_) => 3,
        }
    }
}

impl Ord for Element<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Element::Field(a), Element::Field(b)) => a.cmp(b),
            (Element::Key(a), Element::Key(b)) => {
                let pairs = a.iter().zip(b).map(|((name, value), (other, theirs))| {
                    name.cmp(other).then_with(|| compare_values(value, theirs))
                });
                pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
            }
            (Element::Value(a), Element::Value(b)) => compare_values(a, b),
            (Element::Index(a), Element::Index(b)) => a.cmp(b),
            _ => self.rank().cmp(&other.rank()),
        }
    }
}

impl PartialOrd for Element<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Element<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Element<'_> {}

/// As conflicts name it: `.spec`, `[name="a"]`, `[=1]`, `[0]`.
impl fmt::Display for Element<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Value| match value {
            Value::String(text) => go_quote(text),
            other => other.to_string(),
        };
        match self {
            Element::Field(name) => write!(out, ".{name}"),
            Element::Key(fields) => {
                let pairs: Vec<String> =
                    fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
                write!(out, "[{}]", pairs.join(","))
            }
            Element::Value(value) => write!(out, "[={}]", shown(value)),
            Element::Index(index) => write!(out, "[{index}]"),
        }
    }
}

/// A total order of values in which numbers are equal when they mean the same.
pub(super) fn compare_values(a: &Value, b: &Value) -> Ordering {
    let rank = |value: &Value| match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        Value::Number(_) => 2,
        Value::String(_) => 3,
        Value::Array(_) => 4,
        Value::Object(_) => 5,
    };
    match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => compare_numbers(a, b),
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Array(a), Value::Array(b)) => {
            let pairs = a.iter().zip(b).map(|(a, b)| compare_values(a, b));
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        (Value::Object(a), Value::Object(b)) => {
            let pairs = a.iter().zip(b).map(|((key, value), (other, theirs))| {
                key.cmp(other).then_with(|| compare_values(value, theirs))
            });
            pairs.fold(Ordering::Equal, Ordering::then).then(a.len().cmp(&b.len()))
        }
        _ => rank(a).cmp(&rank(b)),
    }
}

fn compare_numbers(a: &Number, b: &Number) -> Ordering {
    match (whole(a), whole(b)) {
        (Ok(a), Ok(b)) => a.cmp(&b),
        (Ok(a), Err(b)) => between(a, b),
        (Err(a), Ok(b)) => between(b, a).reverse(),
        (Err(a), Err(b)) => a.total_cmp(&b),
    }
}

/// A number as what it means: whole, or not.
fn whole(number: &Number) -> Result<i128, f64> {
    if let Some(value) = number.as_i64() {
        return Ok(value.into());
    }
    if let Some(value) = number.as_u64() {
        return Ok(value.into());
    }
    let value = number.as_f64().unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "looked at just before")]
    if value.fract() == 0.0 && value.abs() < 1e30 { Ok(value as i128) } else { Err(value) }
}

fn between(whole: i128, broken: f64) -> Ordering {
    if broken.abs() >= 1e30 {
        return if broken > 0.0 { Ordering::Less } else { Ordering::Greater };
    }
    #[expect(clippy::cast_possible_truncation, reason = "looked at just before")]
    let floor = broken.floor() as i128;
    if whole <= floor { Ordering::Less } else { Ordering::Greater }
}

/// Places below one, which come in any order and more than once, as a set keeps them.
pub(super) fn in_order<'a>(mut places: Vec<(Element<'a>, FieldSet<'a>)>) -> Vec<(Element<'a>, FieldSet<'a>)> {
    places.retain(|(_, inner)| !inner.is_empty());
    if places.is_sorted_by(|(a, _), (b, _)| a < b) {
        return places;
    }
    places.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut kept: Vec<(Element<'a>, FieldSet<'a>)> = Vec::with_capacity(places.len());
    for (element, inner) in places {
        match kept.last_mut().filter(|(last, _)| *last == element) {
            Some((_, mine)) => drop(mine.add(inner)),
            None => kept.push((element, inner)),
        }
    }
    kept
}

/// A set of places at and below one place of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet<'a> {
    /// Whether the place itself is in the set.
    pub(super) member: bool,
    /// The places below, in order, none of them empty.
    pub(super) inner: Vec<(Element<'a>, FieldSet<'a>)>,
}

impl<'a> FieldSet<'a> {
    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.inner.is_empty()
    }

    /// What is in the set at and below a step.
    pub(super) fn get(&self, element: &Element<'_>) -> Option<&FieldSet<'a>> {
        let at = self.inner.binary_search_by(|(known, _)| known.cmp(element)).ok()?;
        Some(&self.inner[at].1)
    }

    /// What is in the set at and below a field.
    pub(super) fn field(&self, name: &str) -> Option<&FieldSet<'a>> {
        self.get(&Element::Field(Cow::Borrowed(name)))
    }

    /// Adds places below a step; steps come in order.
    pub(super) fn push(&mut self, element: Element<'a>, inner: FieldSet<'a>) {
        if !inner.is_empty() {
            debug_assert!(self.inner.last().is_none_or(|(last, _)| *last < element));
            self.inner.push((element, inner));
        }
    }

    /// Adds all of another set; says whether anything was new.
    pub fn add(&mut self, other: FieldSet<'a>) -> bool {
        let mut grew = other.member && !self.member;
        self.member |= other.member;
        if other.inner.is_empty() {
            return grew;
        }
        let mine = std::mem::take(&mut self.inner);
        self.inner.reserve(mine.len().max(other.inner.len()));
        let (mut mine, mut theirs) = (mine.into_iter().peekable(), other.inner.into_iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (Some((mine, _)), Some((theirs, _))) => mine.cmp(theirs),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return grew,
            };
            match order {
                Ordering::Less => self.inner.extend(mine.next()),
                Ordering::Greater => {
                    grew = true;
                    self.inner.extend(theirs.next());
                }
                Ordering::Equal => {
                    if let (Some((element, mut inner)), Some((_, other))) = (mine.next(), theirs.next()) {
                        grew |= inner.add(other);
                        self.inner.push((element, inner));
                    }
                }
            }
        }
    }

    /// Takes away all of another set, place by place; says whether anything went.
    pub fn subtract(&mut self, other: &FieldSet<'_>) -> bool {
        let mut shrank = self.member && other.member;
        self.member &= !other.member;
        if other.inner.is_empty() {
            return shrank;
        }
        self.inner.retain_mut(|(element, inner)| {
            if let Some(gone) = other.get(element) {
                shrank |= inner.subtract(gone);
            }
            !inner.is_empty()
        });
        shrank
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &FieldSet<'_>) -> FieldSet<'a> {
        let mut both = FieldSet { member: self.member && other.member, inner: Vec::new() };
        for (element, inner) in &self.inner {
            if let Some(other) = other.get(element) {
                let common = inner.intersection(other);
                if !common.is_empty() {
                    both.inner.push((element.clone(), common));
                }
            }
        }
        both
    }

    /// Every place as its path, such as `.spec.containers[name="a"].image`: at each depth the places themselves before what
    /// is below them.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect(&mut String::new(), &mut paths);
        paths
    }

    fn collect(&self, path: &mut String, out: &mut Vec<String>) {
        let here = path.len();
        for (element, _) in self.inner.iter().filter(|(_, inner)| inner.member) {
            out.push(format!("{path}{element}"));
        }
        for (element, inner) in self.inner.iter().filter(|(_, inner)| !inner.inner.is_empty()) {
            path.push_str(&element.to_string());
            inner.collect(path, out);
            path.truncate(here);
        }
    }
}
