//! Label selectors: the string form `a=b,c in (d,e),!f` and the object form of `spec.selector`.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::{Map, Value};

use super::SelectorError;
use crate::field::{Errors, Path, go_quote};
use crate::names;

/// A conjunction of requirements, or nothing at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

/// One label key and what its value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Operator {
    Equals,
    DoubleEquals,
    NotEquals,
    In,
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

impl Requirement {
    /// A requirement whose key and values are well formed.
    pub fn new(
        key: impl Into<String>,
        operator: Operator,
        values: impl IntoIterator<Item = String>,
    ) -> Result<Requirement, SelectorError> {
        let requirement = Requirement { key: key.into(), operator, values: values.into_iter().collect() };
        let mut errors = Errors::new();
        requirement.check(&mut errors);
        if errors.is_empty() {
            Ok(requirement)
        } else {
            Err(SelectorError(crate::field::aggregate(&errors.into_vec())))
        }
    }

    fn check(&self, errors: &mut Errors) {
        check_key(&self.key, &Path::new("key"), errors);
        let path = Path::new("values");
        let shown = || Value::from_iter(self.values.iter().cloned());
        let wrong = match self.operator {
            Operator::In | Operator::NotIn if self.values.is_empty() => {
                "for 'in', 'notin' operators, values set can't be empty"
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals if self.values.len() != 1 => {
                "exact-match compatibility requires one single value"
            }
            Operator::Exists | Operator::DoesNotExist if !self.values.is_empty() => {
                "values set must be empty for exists and does not exist"
            }
            Operator::GreaterThan | Operator::LessThan if self.values.len() != 1 => {
                "for 'Gt', 'Lt' operators, exactly one value is required"
            }
            _ => "",
        };
        if !wrong.is_empty() {
            errors.invalid(&path, shown(), wrong);
        }
        for (index, value) in self.values.iter().enumerate() {
            let at = path.index(index);
            let ordered = matches!(self.operator, Operator::GreaterThan | Operator::LessThan);
            if ordered && value.parse::<i64>().is_err() {
                errors.invalid(&at, value.as_str(), "for 'Gt', 'Lt' operators, the value must be an integer");
            }
            let messages = names::is_valid_label_value(value);
            if !messages.is_empty() {
                errors.invalid(&at.key(&self.key), value.as_str(), messages.join("; "));
            }
        }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it is compared.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it is compared with.
    pub fn values(&self) -> &BTreeSet<String> {
        &self.values
    }

    /// Whether a label with this value, or its absence, is what is required.
    pub fn allows(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In => {
                value.is_some_and(|value| self.values.contains(value))
            }
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(|value| self.values.contains(value)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|bound| bound.parse::<i64>().ok());
                match (value.and_then(|value| value.parse::<i64>().ok()), bound) {
                    (Some(value), Some(bound)) if self.operator == Operator::GreaterThan => value > bound,
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

fn check_key(key: &str, path: &Path<'_>, errors: &mut Errors) {
    let messages = names::is_qualified_name(key);
    if !messages.is_empty() {
        errors.invalid(path, key, messages.join("; "));
    }
}

impl LabelSelector {
    /// Selects everything.
    pub fn everything() -> LabelSelector {
        LabelSelector::default()
    }

    /// Selects nothing.
    pub fn nothing() -> LabelSelector {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    /// Selects what has all of these labels; the labels are taken as they are.
    pub fn from_set(labels: &Map<String, Value>) -> LabelSelector {
        let requirements = labels
            .iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: BTreeSet::from([value.as_str().unwrap_or("").to_owned()]),
            })
            .collect();
        LabelSelector { requirements, nothing: false }
    }

    /// Selects what meets all of these.
    pub fn of(mut requirements: Vec<Requirement>) -> LabelSelector {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// Selects what meets these, too.
    pub fn and(mut self, more: impl IntoIterator<Item = Requirement>) -> LabelSelector {
        self.requirements.extend(more);
        self.requirements.sort_by(|a, b| a.key.cmp(&b.key));
        self
    }

    /// Reads the string form.
    pub fn parse(text: &str) -> Result<LabelSelector, SelectorError> {
        let mut parser = Parser { tokens: tokens(text), at: 0 };
        parser.selector().map(LabelSelector::of).map_err(SelectorError)
    }

    /// Reads the object form (`matchLabels`, `matchExpressions`). Absence selects nothing, an empty object
    /// everything.
    pub fn from_object(selector: Option<&Value>) -> Result<LabelSelector, SelectorError> {
        let Some(selector) = selector.and_then(Value::as_object) else { return Ok(LabelSelector::nothing()) };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or("").to_owned();
                requirements.push(Requirement::new(key, Operator::Equals, [value])?);
            }
        }
        for expression in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or("");
            let operator = match text("operator") {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    let message = format!("{} is not a valid label selector operator", go_quote(other));
                    return Err(SelectorError(message));
                }
            };
            let values = expression.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned);
            requirements.push(Requirement::new(text("key"), operator, values)?);
        }
        Ok(LabelSelector::of(requirements))
    }

    /// Whether nothing is excluded.
    pub fn is_empty(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Whether everything is excluded.
    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    /// All requirements, sorted by key; none also for a selector of nothing.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }

    /// The value that a label must have, if there is just one.
    pub fn exact(&self, key: &str) -> Option<&str> {
        self.requirements.iter().find_map(|requirement| match requirement.operator {
            Operator::Equals | Operator::DoubleEquals | Operator::In
                if requirement.key == key && requirement.values.len() == 1 =>
            {
                requirement.values.first().map(String::as_str)
            }
            _ => None,
        })
    }

    /// Whether an object is selected whose labels have the values that `value_of` says.
    pub fn matches_with<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        !self.nothing
            && self.requirements.iter().all(|requirement| requirement.allows(value_of(&requirement.key)))
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        self.matches_with(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let values = || self.values.iter().map(String::as_str).collect::<Vec<_>>().join(",");
        let key = &self.key;
        match self.operator {
            Operator::Exists => write!(out, "{key}"),
            Operator::DoesNotExist => write!(out, "!{key}"),
            Operator::Equals => write!(out, "{key}={}", values()),
            Operator::DoubleEquals => write!(out, "{key}=={}", values()),
            Operator::NotEquals => write!(out, "{key}!={}", values()),
            Operator::GreaterThan => write!(out, "{key}>{}", values()),
            Operator::LessThan => write!(out, "{key}<{}", values()),
            Operator::In => write!(out, "{key} in ({})", values()),
            Operator::NotIn => write!(out, "{key} notin ({})", values()),
        }
    }
}

/// The string form. Upstream prints a selector of nothing as the empty string too; so does this.
impl fmt::Display for LabelSelector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(out, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// Checks the object form field by field, as validation of a spec does.
pub fn validate_label_selector(selector: &Value, path: &Path<'_>, errors: &mut Errors) {
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        crate::meta::validate_labels(labels, &path.child("matchLabels"), errors);
    }
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (index, expression) in expressions.into_iter().flatten().enumerate() {
        let list = path.child("matchExpressions");
        validate_expression(expression, &list.index(index), errors);
    }
}

fn validate_expression(expression: &Value, path: &Path<'_>, errors: &mut Errors) {
    let text = |field: &str| expression.get(field).and_then(Value::as_str).unwrap_or("");
    let values: &[Value] = expression.get("values").and_then(Value::as_array).map_or(&[], Vec::as_slice);
    match text("operator") {
        "In" | "NotIn" => {
            if values.is_empty() {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&path.child("values"), detail);
            }
        }
        "Exists" | "DoesNotExist" => {
            if !values.is_empty() {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&path.child("values"), detail);
            }
        }
        other => errors.invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    for message in names::is_qualified_name(text("key")) {
        errors.invalid(&path.child("key"), text("key"), message);
    }
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or("");
        for message in names::is_valid_label_value(value) {
            errors.invalid(&path.child("values").index(index), value, message);
        }
    }
}

/// A word or a sign. `in` and `notin` are words, and operators where one is expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'a str),
    Bad(&'a str),
    End,
}

impl<'a> Token<'a> {
    fn text(self) -> &'a str {
        match self {
            Token::Word(text) | Token::Sign(text) | Token::Bad(text) => text,
            Token::End => "",
        }
    }
}

const SIGNS: [&str; 9] = ["==", "!=", "=", "!", "(", ")", ",", ">", "<"];

fn is_sign(character: char) -> bool {
    matches!(character, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\r' | '\n')
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let token = match SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            Some(sign) => Token::Sign(&rest[..sign.len()]),
            None => {
                let end = rest.find(|c| is_sign(c) || is_space(c)).unwrap_or(rest.len());
                if rest[..end].contains('\0') { Token::Bad(&rest[..end]) } else { Token::Word(&rest[..end]) }
            }
        };
        rest = rest[token.text().len()..].trim_start_matches(is_space);
        tokens.push(token);
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.at).copied().unwrap_or(Token::End)
    }

    fn next(&mut self) -> Token<'a> {
        let token = self.peek();
        self.at += 1;
        token
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut requirements = Vec::new();
        loop {
            match self.peek() {
                Token::End => return Ok(requirements),
                Token::Word(_) | Token::Sign("!") => {}
                other => {
                    let found = other.text();
                    return Err(format!("found '{found}', expected: !, identifier, or 'end of string'"));
                }
            }
            let requirement = self.requirement();
            requirements.push(requirement.map_err(|error| format!("unable to parse requirement: {error}"))?);
            match self.next() {
                Token::End => return Ok(requirements),
                Token::Sign(",") => match self.peek() {
                    Token::Word(_) | Token::Sign("!") => {}
                    other => return Err(format!("found '{}', expected: identifier after ','", other.text())),
                },
                other => {
                    return Err(format!("found '{}', expected: ',' or 'end of string'", other.text()));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let negated = self.peek() == Token::Sign("!");
        if negated {
            self.next();
        }
        let key = match self.next() {
            Token::Word(key) => key,
            other => return Err(format!("found '{}', expected: identifier", other.text())),
        };
        let mut errors = Errors::new();
        // Upstream has no path here and prints it as Go prints a nil.
        check_key(key, &Path::new("<nil>"), &mut errors);
        if let Some(error) = errors.iter().next() {
            return Err(error.to_string());
        }
        if negated || matches!(self.peek(), Token::End | Token::Sign(",")) {
            let operator = if negated { Operator::DoesNotExist } else { Operator::Exists };
            return Requirement::new(key, operator, []).map_err(|error| error.0);
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.value()?],
        };
        Requirement::new(key, operator, values.into_iter().map(str::to_owned)).map_err(|error| error.0)
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next().text() {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            "=" => Operator::Equals,
            "==" => Operator::DoubleEquals,
            "!=" => Operator::NotEquals,
            ">" => Operator::GreaterThan,
            "<" => Operator::LessThan,
            other => return Err(format!("found '{other}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    /// The value after `=` and its like; the empty one may be left out.
    fn value(&mut self) -> Result<&'a str, String> {
        match self.peek() {
            Token::End | Token::Sign(",") => Ok(""),
            Token::Word(value) => {
                self.next();
                Ok(value)
            }
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    /// `(a,b)`; empty values may be left out.
    fn values(&mut self) -> Result<Vec<&'a str>, String> {
        match self.next() {
            Token::Sign("(") => {}
            other => return Err(format!("found '{}' expected: '('", other.text())),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Word(value) => {
                    self.next();
                    values.push(value);
                }
                Token::Sign("," | ")") => values.push(""),
                other if values.is_empty() => {
                    return Err(format!("found '{}', expected: ',', ')' or identifier", other.text()));
                }
                other => return Err(format!("found '{}', expected: ',', or identifier", other.text())),
            }
            match self.next() {
                Token::Sign(",") => {}
                Token::Sign(")") => return Ok(values),
                other => return Err(format!("found '{}', expected: ',' or ')'", other.text())),
            }
        }
    }
}

#[cfg(test)]
mod tests;
