//! Checks that several kinds share: numbers, names, labels, selectors, addresses, immutability.
//!
//! Each takes a place and reports there. Checks of whole structures (pods, resources) have modules of their own.

pub(crate) mod resources;
pub(crate) mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;

use api_machinery::field::{Errors, Path};
use api_machinery::{names, selector};
use serde_json::Value;

use crate::at::At;

/// The detail of a value below zero.
pub const NEGATIVE: &str = "must be greater than or equal to 0";
/// The detail of a field that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// A check of a name, without a path.
pub(crate) type NameCheck = fn(&str) -> Vec<String>;

/// An integer, if there is one, is not below zero.
pub(crate) fn not_negative(at: &At, e: &mut Errors) {
    if at.int().is_some_and(|n| n < 0) {
        at.invalid(e, NEGATIVE);
    }
}

/// An integer, if there is one, is between two bounds.
pub(crate) fn between(at: &At, low: i64, high: i64, e: &mut Errors) {
    if at.int().is_some_and(|n| n < low || n > high) {
        at.invalid(e, names::inclusive_range(low, high));
    }
}

/// A text, if there is one, is one of a few.
pub(crate) fn one_of(at: &At, supported: &[&str], e: &mut Errors) {
    if at.is_set() && !at.text().is_empty() && !supported.contains(&at.text()) {
        at.not_supported(e, supported);
    }
}

/// A text is there and is one of a few.
pub(crate) fn required_one_of(at: &At, supported: &[&str], e: &mut Errors) {
    if at.must_be_set(e) && !supported.contains(&at.text()) {
        at.not_supported(e, supported);
    }
}

/// A text, if there is one, passes a check of names.
pub(crate) fn name(at: &At, check: NameCheck, e: &mut Errors) {
    if !at.is_empty() {
        at.all_invalid(e, check(at.text()));
    }
}

/// A text is there and passes a check of names.
pub(crate) fn required_name(at: &At, check: NameCheck, e: &mut Errors) {
    if at.must_be_set(e) {
        at.all_invalid(e, check(at.text()));
    }
}

/// A map of labels.
pub(crate) fn labels(at: &At, e: &mut Errors) {
    if let Some(map) = at.object() {
        api_machinery::meta::validate_labels(map, &Path::new(&at.path()), e);
    }
}

/// A label selector in its object form.
pub(crate) fn label_selector(at: &At, e: &mut Errors) {
    if let Some(value) = at.value() {
        selector::validate_label_selector(value, &Path::new(&at.path()), e);
    }
}

/// The list's items differ in a text field, named so in the error.
pub(crate) fn unique_field(list: &At, field: &str, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let value = item.get(field);
        if !value.is_empty() && !seen.insert(value.text()) {
            value.duplicate(e);
        }
    }
}

/// A field that has a value may not get another, nor lose it.
pub(crate) fn immutable(new: &At, old: &At, e: &mut Errors) {
    if !same(new.value(), old.value()) {
        new.invalid(e, IMMUTABLE);
    }
}

/// Equal as the API sees it: absent, null and empty are the same.
pub(crate) fn same(new: Option<&Value>, old: Option<&Value>) -> bool {
    let blank = |v: &Value| match v {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    match (new.filter(|v| !blank(v)), old.filter(|v| !blank(v))) {
        (None, None) => true,
        (Some(Value::Object(new)), Some(Value::Object(old))) => {
            let keys: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
            keys.into_iter().all(|key| same(new.get(key), old.get(key)))
        }
        (Some(Value::Array(new)), Some(Value::Array(old))) => {
            new.len() == old.len() && new.iter().zip(old).all(|(n, o)| same(Some(n), Some(o)))
        }
        (new, old) => new == old,
    }
}

/// An IP address as upstream reads one: no zone, no leading zeros.
pub(crate) fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

/// A text is an IP address.
pub(crate) fn ip(at: &At, e: &mut Errors) {
    if parse_ip(at.text()).is_none() {
        at.invalid_text(e, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
    }
}

/// An address range such as `10.0.0.0/8`: the address and the number of bits.
pub(crate) fn parse_cidr(text: &str) -> Option<(IpAddr, u8)> {
    let (address, bits) = text.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let plain = !bits.is_empty() && bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit());
    let bits: u8 = bits.parse().ok().filter(|_| plain)?;
    let max = if address.is_ipv4() { 32 } else { 128 };
    (bits <= max).then_some((address, bits))
}

/// A text is an address range.
pub(crate) fn cidr(at: &At, e: &mut Errors) {
    if parse_cidr(at.text()).is_none() {
        at.invalid_text(e, "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
    }
}

/// A port by number or by name.
pub(crate) fn port(at: &At, e: &mut Errors) {
    match at.value() {
        Some(Value::String(name)) => at.all_invalid(e, names::is_valid_port_name(name)),
        Some(Value::Number(_)) => port_number(at, e),
        // Absent is 0 in Go.
        _ => at.invalid_as(e, 0, names::inclusive_range(1, 65535)),
    }
}

/// A port by number.
pub(crate) fn port_number(at: &At, e: &mut Errors) {
    for message in names::is_valid_port_num(at.int().unwrap_or(0)) {
        at.invalid_as(e, at.int().unwrap_or(0), message);
    }
}

/// A number, or a percentage such as `25%`: what it says.
pub(crate) fn percent_of(at: &At) -> Option<i64> {
    let digits = at.text().strip_suffix('%')?;
    let digits = (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then_some(digits)?;
    digits.parse().ok()
}

/// A number that is not negative, or a percentage.
pub(crate) fn int_or_percent(at: &At, e: &mut Errors) {
    match at.value() {
        None => {}
        Some(Value::String(_)) if percent_of(at).is_some() => {}
        Some(Value::String(_)) => at.invalid(
            e,
            "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
        ),
        _ => not_negative(at, e),
    }
}

/// A percentage is 100 at most.
pub(crate) fn at_most_all(at: &At, e: &mut Errors) {
    if percent_of(at).is_some_and(|percent| percent > 100) {
        at.invalid(e, "must not be greater than 100%");
    }
}

/// The reason of a condition, as upstream's expression has it.
fn is_reason(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b',' | b':');
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.bytes().all(inner)
        && !text.ends_with([',', ':'])
}

const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
const LONGEST_REASON: usize = 1 << 10;
const LONGEST_MESSAGE: usize = 32 << 10;

/// Conditions, each of another type.
pub(crate) fn conditions(list: &At, most: usize, e: &mut Errors) {
    if list.len() > most {
        list.too_many(e, list.len(), most);
    }
    let mut seen = BTreeSet::new();
    for condition in list.items() {
        let (kind, reason) = (condition.get("type"), condition.get("reason"));
        if !seen.insert(kind.text()) {
            kind.duplicate(e);
        }
        kind.all_invalid(e, names::is_qualified_name(kind.text()));
        let status = condition.get("status");
        if !["False", "True", "Unknown"].contains(&status.text()) {
            status.not_supported(e, &["False", "True", "Unknown"]);
        }
        not_negative(&condition.get("observedGeneration"), e);
        condition.get("lastTransitionTime").must_be_set(e);
        if reason.must_be_set(e) && !is_reason(reason.text()) {
            reason.invalid(e, REASON);
        }
        for (text, longest) in [(&reason, LONGEST_REASON), (&condition.get("message"), LONGEST_MESSAGE)] {
            if text.text().len() > longest {
                text.too_long(e, longest);
            }
        }
    }
}
