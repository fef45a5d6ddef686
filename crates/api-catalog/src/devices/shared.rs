//! What claims, classes and slices have in common: names, configurations, taints, lists and maps with a limit.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;

use crate::at::At;
use crate::check;
use crate::core::driver_name;

pub(super) const MOST_SELECTORS: usize = 32;
pub(super) const MOST_REQUESTS: usize = 32;
pub(super) const MOST_CONFIGURATIONS: usize = 32;
/// The most attributes and capacities of one device.
pub(super) const MOST_NAMED: usize = 32;
/// The longest identifier, in bytes.
const LONGEST_IDENTIFIER: usize = 32;
/// The longest name of a pool, in bytes.
const LONGEST_POOL: usize = 253;
/// The most bytes that a driver's own data has as JSON.
const LONGEST_DATA: usize = 10 << 10;
const MOST_BINDING_CONDITIONS: usize = 4;

/// Checks each item of a list; a list that is too long only for its length. Says whether it was not.
pub(super) fn each<'v>(
    list: &At<'_, 'v>,
    most: usize,
    e: &mut Errors,
    check: impl Fn(&At<'_, 'v>, &mut Errors),
) -> bool {
    if list.len() > most {
        list.too_many(e, list.len(), most);
        return false;
    }
    list.items().for_each(|item| check(&item, e));
    true
}

/// As [`each`], and no two items have the same text in a field, or are the same text if it is none.
pub(super) fn each_once<'v>(
    list: &At<'_, 'v>,
    most: usize,
    field: &str,
    e: &mut Errors,
    check: impl Fn(&At<'_, 'v>, &mut Errors),
) {
    if !each(list, most, e, check) {
        return;
    }
    let mut seen = BTreeSet::new();
    for item in list.items() {
        let key = if field.is_empty() {
            item.text()
        } else {
            item.value().map_or("", |v| crate::fill::text(v, field))
        };
        if !seen.insert(key) {
            item.duplicate_as(e, key);
        }
    }
}

/// The name of a pool: DNS subdomains with slashes between.
pub(super) fn pool_name(name: &At, e: &mut Errors) {
    if !name.must_be_set(e) {
        return;
    }
    if name.text().len() > LONGEST_POOL {
        name.too_long(e, LONGEST_POOL);
    }
    for part in name.text().split('/') {
        for message in names::is_dns1123_subdomain(part) {
            name.invalid_as(e, part, message);
        }
    }
}

/// A DNS label, such as the name of a device or of a request.
pub(super) fn label(name: &At, e: &mut Errors) {
    name.all_invalid(e, names::is_dns1123_label(name.text()));
}

/// The name of an attribute or a capacity, `id` or `domain/id`; errors are about `at`.
pub(super) fn qualified(at: &At, name: &str, e: &mut Errors) {
    match name.split('/').collect::<Vec<_>>()[..] {
        [id] => identifier(at, id, e),
        [domain, id] => {
            if domain.is_empty() {
                at.invalid_as(e, "", "the domain must not be empty");
            } else {
                for message in names::is_dns1123_subdomain(&domain.to_lowercase()) {
                    at.invalid_as(e, domain, message);
                }
            }
            if id.is_empty() {
                at.invalid_as(e, "", "the name must not be empty");
            } else {
                identifier(at, id, e);
            }
        }
        _ => at.invalid_as(e, name, "must not contain more than one slash"),
    }
}

/// A name that says its domain.
pub(super) fn fully_qualified(at: &At, e: &mut Errors) {
    qualified(at, at.text(), e);
    if !at.text().contains('/') {
        at.invalid(e, "a fully qualified name must be a domain and a name separated by a slash");
    }
}

fn identifier(at: &At, id: &str, e: &mut Errors) {
    if id.len() > LONGEST_IDENTIFIER {
        at.too_long(e, LONGEST_IDENTIFIER);
    }
    for message in names::is_c_identifier(id) {
        at.invalid_as(e, id, message);
    }
}

/// What a driver is told about devices that it prepares.
pub(super) fn configuration(config: &At, e: &mut Errors) {
    let opaque = config.get("opaque");
    if !opaque.is_set() {
        return opaque.required(e, "");
    }
    driver_name(&opaque.get("driver"), e);
    raw(&opaque.get("parameters"), e);
}

/// A JSON object of somebody else's kind.
pub(super) fn raw(at: &At, e: &mut Errors) {
    match at.value() {
        None => at.required(e, ""),
        Some(value) if value.to_string().len() > LONGEST_DATA => at.too_long(e, LONGEST_DATA),
        Some(value) if !value.is_object() => {
            at.invalid_as(e, "<value omitted>", "must be a valid JSON object");
        }
        Some(_) => {}
    }
}

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

/// A taint of a device.
pub(super) fn taint(taint: &At, e: &mut Errors) {
    let key = taint.get("key");
    key.all_invalid(e, names::is_qualified_name(key.text()));
    check::name(&taint.get("value"), names::is_valid_label_value, e);
    check::required_one_of(&taint.get("effect"), EFFECTS, e);
}

/// A toleration of such taints.
pub(super) fn toleration(toleration: &At, e: &mut Errors) {
    let (key, operator, value) = (toleration.get("key"), toleration.get("operator"), toleration.get("value"));
    check::name(&key, names::is_qualified_name, e);
    match operator.text() {
        "Exists" if !value.is_empty() => value.invalid(e, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => value.all_invalid(e, names::is_valid_label_value(value.text())),
        _ => check::required_one_of(&operator, &["Equal", "Exists"], e),
    }
    check::one_of(&toleration.get("effect"), EFFECTS, e);
}

/// Conditions that a pod's binding waits for, and those that end the wait.
pub(super) fn binding_conditions(device: &At, e: &mut Errors) {
    let (wanted, failures) = (device.get("bindingConditions"), device.get("bindingFailureConditions"));
    for list in [&wanted, &failures] {
        each(list, MOST_BINDING_CONDITIONS, e, |name, e| {
            name.all_invalid(e, names::is_qualified_name(name.text()));
        });
    }
    for list in [&wanted, &failures] {
        let mut seen = BTreeSet::new();
        for name in list.items() {
            if !seen.insert(name.text()) {
                name.duplicate(e);
            }
        }
    }
    for name in failures.items() {
        if wanted.texts().any(|other| other == name.text()) {
            name.invalid(e, "bindingFailureConditions must not overlap with bindingConditions");
        }
    }
    match (wanted.is_empty(), failures.is_empty()) {
        (true, false) => {
            wanted.invalid(e, "bindingConditions are required to use bindingFailureConditions");
        }
        (false, true) => {
            failures.invalid(e, "bindingFailureConditions are required to use bindingConditions");
        }
        _ => {}
    }
}
