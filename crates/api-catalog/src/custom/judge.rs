//! Values held against what a schema says of them, in upstream's words.
//!
//! What was there before and has not changed is not held against anybody: a schema may have become stricter since.

use api_machinery::correlate::Earlier;
use api_machinery::field::{ErrorKind, FieldError, Path, go_quote};
use serde_json::{Map, Number, Value};

use super::check::{Bound, Check, Combined, List, More, Numbers};

/// Adds what is wrong with a value; `old` is what it was, if that can be told.
pub(super) fn judge(
    check: &Check,
    value: &Value,
    old: Option<&Value>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    Judge { errors }.at(check, value, old, path);
}

/// How much of a schema a value agrees with: of several that it does not satisfy, the closest one is told.
type Agreement = u64;

struct Judge<'e> {
    errors: &'e mut Vec<FieldError>,
}

impl Judge<'_> {
    fn at(&mut self, check: &Check, value: &Value, old: Option<&Value>, path: &Path<'_>) -> Agreement {
        let start = self.errors.len();
        let mut agreement = self.types(check, value, path) + 1;
        let more = check.more.as_deref();
        if value.is_null() {
            self.enumeration(more, value, path);
        } else {
            agreement += 1;
            if let Some(combined) = more.and_then(|more| more.combined.as_deref()) {
                agreement += self.combined(combined, value, old, path);
            }
            agreement += match value {
                Value::String(text) => self.text(more, text, path),
                Value::Number(number) => self.number(more, number, path),
                Value::Array(items) => self.items(check, items, old, path),
                _ => 0,
            };
            self.enumeration(more, value, path);
            if let Value::Object(fields) = value {
                agreement += self.fields(check, fields, old, path);
            }
        }
        if self.errors.len() > start && old == Some(value) {
            self.errors.truncate(start);
        }
        agreement
    }

    fn push(&mut self, kind: ErrorKind, path: &Path<'_>, value: Option<String>, detail: String) {
        self.errors.push(FieldError { kind, field: path.to_string(), value, detail });
    }

    fn invalid(&mut self, path: &Path<'_>, value: String, says: String) {
        self.push(ErrorKind::Invalid, path, Some(value), format!("{path} in body {says}"));
    }

    /// What concerns a value as a whole has no path in upstream's answers.
    fn whole(&mut self, detail: String) {
        let (field, value) = ("<nil>".to_owned(), Some("\"\"".to_owned()));
        self.errors.push(FieldError { kind: ErrorKind::Invalid, field, value, detail });
    }

    fn types(&mut self, check: &Check, value: &Value, path: &Path<'_>) -> Agreement {
        if check.types.is_any() || (value.is_null() && check.nullable) {
            return 1;
        }
        let (name, format) = match value {
            Value::Null => ("null", ""),
            Value::Bool(_) => ("boolean", ""),
            Value::Number(number) if number.is_i64() => ("integer", "int64"),
            Value::Number(_) => ("number", "float64"),
            Value::String(_) => ("string", ""),
            Value::Array(_) => ("array", ""),
            Value::Object(_) => ("object", ""),
        };
        let whole = value.as_f64().is_some_and(|number| number.fract() == 0.0);
        let as_integer = name == "number" && whole && check.types.has("integer");
        if check.types.has(name) || as_integer || (name == "integer" && check.types.has("number")) {
            return 1;
        }
        let (expected, actual) = match check.format() {
            Some(wanted) if !matches!(value, Value::String(_) | Value::Array(_) | Value::Null) => {
                (wanted.name.to_owned(), format)
            }
            _ => (check.types.names(), name),
        };
        let shown = go_quote(actual);
        let detail = format!("{path} in body must be of type {expected}: {shown}");
        self.push(ErrorKind::TypeInvalid, path, Some(shown), detail);
        0
    }

    fn combined(
        &mut self,
        combined: &Combined,
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
    ) -> Agreement {
        let mut agreement = 0;
        let place = || go_quote(&path.to_string());
        if !combined.any_of.is_empty() {
            let found = self.alternatives(&combined.any_of, value, old, path);
            agreement += found.agreement;
            if found.valid == 0 {
                self.whole(format!("{} must validate at least one schema (anyOf)", place()));
                self.errors.extend(found.closest);
            }
        }
        if !combined.one_of.is_empty() {
            let found = self.alternatives(&combined.one_of, value, old, path);
            agreement += found.agreement;
            if found.valid != 1 {
                let why = match found.valid {
                    0 => "Found none valid".to_owned(),
                    several => format!("Found {several} valid alternatives"),
                };
                self.whole(format!("{} must validate one and only one schema (oneOf). {why}", place()));
                self.errors.extend(found.closest);
            }
        }
        if !combined.all_of.is_empty() {
            let mut valid = 0;
            for check in &combined.all_of {
                let before = self.errors.len();
                agreement += self.at(check, value, old, path);
                valid += usize::from(self.errors.len() == before);
            }
            if valid < combined.all_of.len() {
                let why = if valid == 0 { ". None validated" } else { "" };
                self.whole(format!("{} must validate all the schemas (allOf){why}", place()));
            }
        }
        if let Some(not) = &combined.not {
            let before = self.errors.len();
            self.at(not, value, old, path);
            if self.errors.len() == before {
                self.whole(format!("{} must not validate the schema (not)", place()));
            } else {
                self.errors.truncate(before);
            }
        }
        agreement
    }

    fn alternatives(
        &mut self,
        checks: &[Check],
        value: &Value,
        old: Option<&Value>,
        path: &Path<'_>,
    ) -> Alternatives {
        let mut found = Alternatives { valid: 0, agreement: 0, closest: Vec::new() };
        let mut best = None;
        for check in checks {
            let before = self.errors.len();
            let agreement = self.at(check, value, old, path);
            let wrong = self.errors.split_off(before);
            if wrong.is_empty() {
                found.agreement = if found.valid == 0 { agreement } else { found.agreement };
                found.valid += 1;
                found.closest.clear();
            } else if found.valid == 0 && best.is_none_or(|best| agreement > best) {
                best = Some(agreement);
                found.agreement = agreement;
                found.closest = wrong;
            }
        }
        found
    }

    fn enumeration(&mut self, more: Option<&More>, value: &Value, path: &Path<'_>) {
        let Some(more) = more.filter(|more| !more.enumeration.is_empty()) else { return };
        let equal = |allowed: &Value| match (allowed, value) {
            (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
            (allowed, value) => allowed == value,
        };
        if more.enumeration.iter().any(equal) {
            return;
        }
        let shown = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let names: Vec<String> = more.enumeration.iter().map(|value| go_quote(&shown(value))).collect();
        let actual = match value {
            Value::Null | Value::String(_) => go_quote(&shown(value)),
            other => other.to_string(),
        };
        let detail = format!("supported values: {}", names.join(", "));
        self.push(ErrorKind::NotSupported, path, Some(actual), detail);
    }

    fn text(&mut self, more: Option<&More>, text: &str, path: &Path<'_>) -> Agreement {
        let Some(more) = more else { return 1 };
        let length = || size(text.chars().count());
        if let Some(most) = more.max_length.filter(|most| size(text.len()) > *most && length() > *most) {
            self.push(ErrorKind::TooLong, path, None, format!("may not be more than {most} bytes"));
        } else if let Some(least) = more.min_length.filter(|least| length() < *least) {
            self.invalid(path, go_quote(text), format!("should be at least {least} chars long"));
        } else if let Some(pattern) = &more.pattern {
            let source = &pattern.source;
            match pattern.compiled() {
                Ok(compiled) if compiled.is_match(text) => {}
                Ok(_) => self.invalid(path, go_quote(text), format!("should match '{source}'")),
                Err(error) => {
                    let says = format!("should match '{source}, but pattern is invalid: {error}'");
                    self.invalid(path, go_quote(text), says);
                }
            }
        }
        if let Some(format) = more.format.filter(|format| !format.fits(text)) {
            let shown = go_quote(text);
            let detail = format!("{path} in body must be of type {}: {shown}", format.name);
            self.push(ErrorKind::TypeInvalid, path, Some(shown), detail);
            return 0;
        }
        1
    }

    fn number(&mut self, more: Option<&More>, number: &Number, path: &Path<'_>) -> Agreement {
        let numbers = more.and_then(|more| more.numbers.as_deref());
        let Some(Numbers { maximum, minimum, multiple_of }) = numbers else { return 1 };
        let start = self.errors.len();
        if let Some(factor) = *multiple_of
            && !is_multiple(number, factor)
        {
            let factor = if factor < 1.0 { float(factor) } else { limit(number, factor) };
            self.invalid(path, shown(number), format!("should be a multiple of {factor}"));
        }
        if let Some(bound) = maximum.filter(|bound| exceeds(number, bound, 1)) {
            let than = if bound.exclusive { "less than" } else { "less than or equal to" };
            let says = format!("should be {than} {}", limit(number, bound.limit));
            self.invalid(path, shown(number), says);
        }
        if let Some(bound) = minimum.filter(|bound| exceeds(number, bound, -1)) {
            let than = if bound.exclusive { "greater than" } else { "greater than or equal to" };
            let says = format!("should be {than} {}", limit(number, bound.limit));
            self.invalid(path, shown(number), says);
        }
        u64::from(self.errors.len() == start)
    }

    fn items(&mut self, check: &Check, items: &[Value], old: Option<&Value>, path: &Path<'_>) -> Agreement {
        let mut agreement = 1;
        if let Some(inner) = &check.items {
            let keys = if let List::Map(keys) = check.list() { &keys[..] } else { &[] };
            let earlier = Earlier::new(keys, old, items.len());
            for (index, item) in items.iter().enumerate() {
                agreement += self.at(inner, item, earlier.of(item), &path.index(index));
            }
        }
        let Some(more) = check.more.as_deref() else { return agreement };
        let count = size(items.len());
        if let Some(least) = more.min_items.filter(|least| count < *least) {
            self.invalid(path, count.to_string(), format!("should have at least {least} items"));
        }
        if let Some(most) = more.max_items.filter(|most| count > *most) {
            self.too_many(count, most, path);
        }
        if more.unique_items && super::objects::duplicates(items.iter()).next().is_some() {
            self.invalid(path, "\"\"".to_owned(), "shouldn't contain duplicates".to_owned());
        }
        agreement
    }

    fn too_many(&mut self, count: u32, most: u32, path: &Path<'_>) {
        let items = if most == 1 { "item" } else { "items" };
        let detail = format!("must have at most {most} {items}");
        self.push(ErrorKind::TooMany, path, Some(count.to_string()), detail);
    }

    fn fields(
        &mut self,
        check: &Check,
        fields: &Map<String, Value>,
        old: Option<&Value>,
        path: &Path<'_>,
    ) -> Agreement {
        let count = size(fields.len());
        let more = check.more.as_deref();
        if let Some(least) = more.and_then(|more| more.min_properties).filter(|least| count < *least) {
            self.invalid(path, count.to_string(), format!("should have at least {least} properties"));
            return 0;
        }
        if let Some(most) = more.and_then(|more| more.max_properties).filter(|most| count > *most) {
            self.too_many(count, most, path);
            return 0;
        }
        let mut agreement = 0;
        for (name, value) in fields {
            if let Some(inner) = check.property(name) {
                let old = old.and_then(|old| old.get(name));
                agreement += self.at(inner, value, old, &path.child(name));
            }
        }
        for name in more.map(|more| &more.required[..]).unwrap_or_default() {
            if !fields.contains_key(&**name) {
                self.push(ErrorKind::Required, &path.child(name), None, String::new());
            }
        }
        agreement
    }
}

fn size(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

struct Alternatives {
    valid: usize,
    agreement: Agreement,
    closest: Vec<FieldError>,
}

/// Whether a number is beyond a bound, in the direction of the sign.
fn exceeds(number: &Number, bound: &Bound, sign: i8) -> bool {
    let order = match number.as_i64() {
        // Limits of whole numbers are whole numbers, as far as they can be.
        Some(whole) => whole.cmp(&(bound.limit as i64)) as i8,
        None => {
            number.as_f64().and_then(|number| number.partial_cmp(&bound.limit)).map_or(0, |order| order as i8)
        }
    };
    order == sign || (order == 0 && bound.exclusive)
}

fn is_multiple(number: &Number, factor: f64) -> bool {
    if let Some(whole) = number.as_i64()
        && factor >= 1.0
    {
        return whole % (factor as i64) == 0;
    }
    let number = number.as_f64().unwrap_or_default();
    let times = if factor < 1.0 { 1.0 / factor * number } else { number / factor };
    // What cannot be told from a whole number by a computer is one.
    (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
}

fn shown(number: &Number) -> String {
    match number.as_i64() {
        Some(whole) => whole.to_string(),
        None => float(number.as_f64().unwrap_or_default()),
    }
}

/// A limit in the form of the number that it limits.
fn limit(number: &Number, limit: f64) -> String {
    if number.is_i64() { (limit as i64).to_string() } else { float(limit) }
}

/// Go's `%v` of a number with a fraction.
fn float(number: f64) -> String {
    if number == 0.0 || (1e-4..1e21).contains(&number.abs()) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
    format!("{digits}e{sign}{exponent:0>2}")
}
