//! What slices of devices and rules that taint devices must be.

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use super::capacity;
use super::shared::{MOST_NAMED, binding_conditions, each, each_once, label, pool_name, qualified, taint};
use crate::at::At;
use crate::check;
use crate::core::driver_name;
use crate::core::pod::scheduling::node_selector;

const MOST_DEVICES: usize = 128;
/// With taints or counters.
const MOST_ADVANCED_DEVICES: usize = 64;
const MOST_TAINTS: usize = 16;
const MOST_COUNTER_SETS: usize = 8;
const MOST_COUNTERS: usize = 32;
const MOST_CONSUMPTIONS: usize = 2;
const MOST_CONDITIONS: usize = 8;
/// The longest text of an attribute, in bytes.
const LONGEST_TEXT: usize = 64;
const NOT_TRUE: &str = "must be either unset or set to true";
const WHERE: &str =
    "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
const WHERE_DEVICE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
const NOT_PER_DEVICE: &str = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";

pub(super) fn slice(slice: &Value, old: Option<&Value>, e: &mut Errors) {
    let root = At::root(slice);
    let spec = root.get("spec");
    let (driver, pool) = (spec.get("driver"), spec.get("pool"));
    let name = pool.get("name");
    driver_name(&driver, e);
    pool_name(&name, e);
    let (count, generation) = (pool.get("resourceSliceCount"), pool.get("generation"));
    if count.int().unwrap_or(0) <= 0 {
        count.invalid_as(e, count.int().unwrap_or(0), "must be greater than zero");
    }
    if generation.int().unwrap_or(0) < 0 {
        generation.invalid(e, "must be greater than or equal to zero");
    }
    if let Some(old) = old {
        let (before, node) = (At::root(old), spec.get("nodeName"));
        let was = before.get("spec");
        check::immutable(&name, &was.get("pool").get("name"), e);
        check::immutable(&driver, &was.get("driver"), e);
        check::immutable(&node, &was.get("nodeName"), e);
    }
    placement(&spec, e);
    let (devices, counters) = (spec.get("devices"), spec.get("sharedCounters"));
    if devices.is_set() && counters.is_set() {
        spec.invalid_as(e, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let used =
        |field| devices.array().iter().any(|d| d[field].as_array().is_some_and(|list| !list.is_empty()));
    let most = if used("taints") || used("consumesCounters") { MOST_ADVANCED_DEVICES } else { MOST_DEVICES };
    let per_device = spec.get("perDeviceNodeSelection").flag();
    let known = old.and_then(|old| old["spec"]["devices"].as_array());
    each_once(&devices, most, "name", e, |one, e| {
        let was = known.into_iter().flatten().find(|was| was["name"] == one.get("name").text());
        device(one, was, per_device, e);
    });
    each_once(&counters, MOST_COUNTER_SETS, "name", e, |set, e| counter_set(set, "name", e));
}

/// Where the devices of a slice are: on one node, on some, on all, or each elsewhere.
fn placement(spec: &At, e: &mut Errors) {
    let flags = [("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")];
    let said = places(spec, "must be either unset or set to a non-empty string", &flags, e);
    let selector = spec.get("nodeSelector");
    let terms = selector.get("nodeSelectorTerms");
    if selector.is_set() && terms.len() != 1 {
        terms.invalid(e, "must have exactly one node selector term");
    }
    match said.len() {
        0 => spec.required(e, WHERE),
        1 => {}
        _ => spec.invalid_as(
            e,
            format!("{{{}}}", said.join(", ")),
            format!("{WHERE}, but multiple fields are set"),
        ),
    }
}

/// The fields that say where something is, as upstream spells them.
fn places(at: &At, blank: &str, flags: &[(&'static str, &'static str)], e: &mut Errors) -> Vec<&'static str> {
    let mut said = Vec::new();
    let (node, selector) = (at.get("nodeName"), at.get("nodeSelector"));
    if node.is_set() && node.is_empty() {
        node.invalid(e, blank);
    } else if node.is_set() {
        said.push("`nodeName`");
        check::name(&node, names::is_dns1123_subdomain, e);
    }
    if selector.is_set() {
        said.push("`nodeSelector`");
        node_selector(&selector, e);
    }
    for (field, word) in flags {
        let flag = at.get(field);
        match flag.value() {
            Some(Value::Bool(true)) => said.push(word),
            Some(_) => flag.invalid(e, NOT_TRUE),
            None => {}
        }
    }
    said
}

fn device(device: &At, old: Option<&Value>, per_device: bool, e: &mut Errors) {
    label(&device.get("name"), e);
    let (attributes, capacity) = (device.get("attributes"), device.get("capacity"));
    let named = attributes.len_of_map() + capacity.len_of_map();
    if named > MOST_NAMED {
        let detail = format!("the total number of attributes and capacities must not exceed {MOST_NAMED}");
        device.invalid_as(e, named, detail);
    }
    for (name, value) in attributes.entries() {
        qualified(&attributes, name, e);
        attribute(&attributes.key(name), value.object().map_or(0, serde_json::Map::len), e);
    }
    let changed = |at: &At, field: &str| old.is_none_or(|old| !check::same(at.value(), old.get(field)));
    if changed(&capacity, "capacity") {
        let shared = device.get("allowMultipleAllocations").flag();
        for (name, _) in capacity.entries() {
            qualified(&capacity, name, e);
            let one = capacity.key(name);
            if shared {
                capacity::policy(&one, e);
            } else if one.get("requestPolicy").is_set() {
                one.get("requestPolicy").forbidden(e, "allowMultipleAllocations must be true");
            }
        }
    }
    let taints = device.get("taints");
    if changed(&taints, "taints") {
        each(&taints, MOST_TAINTS, e, taint);
    }
    each_once(&device.get("consumesCounters"), MOST_CONSUMPTIONS, "counterSet", e, |set, e| {
        counter_set(set, "counterSet", e);
    });
    device_placement(device, per_device, e);
    binding_conditions(device, e);
}

fn device_placement(device: &At, per_device: bool, e: &mut Errors) {
    if !per_device {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| device.get(field).is_set()) {
            device.invalid_as(e, Value::Null, NOT_PER_DEVICE);
        }
        return;
    }
    let said = places(device, "must not be empty", &[("allNodes", "`allNodes`")], e);
    match said.len() {
        0 => device.required(e, WHERE_DEVICE),
        1 => {}
        _ => device.invalid_as(e, format!("{{{}}}", said.join(", ")), WHERE_DEVICE),
    }
}

fn attribute(attribute: &At, values: usize, e: &mut Errors) {
    let (text, version) = (attribute.get("string"), attribute.get("version"));
    if text.text().len() > LONGEST_TEXT {
        text.too_long(e, LONGEST_TEXT);
    }
    if version.is_set() {
        if !is_semver(version.text()) {
            version.invalid(e, "must be a string compatible with semver.org spec 2.0.0");
        }
        if version.text().len() > LONGEST_TEXT {
            version.too_long(e, LONGEST_TEXT);
        }
    }
    if values != 1 {
        let shown = attribute.value().filter(|_| values > 0).cloned().unwrap_or_else(|| "".into());
        attribute.invalid_as(e, shown, "exactly one value must be specified");
    }
}

/// `1.2.3-rc.1+build`.
fn is_semver(text: &str) -> bool {
    let (rest, build) = text.split_once('+').map_or((text, None), |(rest, build)| (rest, Some(build)));
    let (core, release) = rest.split_once('-').map_or((rest, None), |(core, release)| (core, Some(release)));
    let is_word =
        |word: &str| !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let is_number = |word: &str| {
        !word.is_empty()
            && word.bytes().all(|b| b.is_ascii_digit())
            && (word == "0" || !word.starts_with('0'))
    };
    let is_release =
        |word: &str| is_word(word) && (is_number(word) || !word.bytes().all(|b| b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(is_number)
        && release.is_none_or(|release| release.split('.').all(is_release))
        && build.is_none_or(|build| build.split('.').all(is_word))
}

/// Counters of a pool, or what a device takes of them.
fn counter_set(set: &At, name: &str, e: &mut Errors) {
    check::required_name(&set.get(name), names::is_dns1123_label, e);
    let counters = set.get("counters");
    if counters.is_empty() {
        counters.required(e, "");
    } else if counters.len_of_map() > MOST_COUNTERS {
        counters.too_many(e, counters.len_of_map(), MOST_COUNTERS);
    } else {
        for (name, _) in counters.entries() {
            for message in names::is_dns1123_label(name) {
                counters.invalid_as(e, name, message);
            }
        }
    }
}

pub(super) fn taint_rule(rule: &Value, e: &mut Errors) {
    let root = At::root(rule);
    let spec = root.get("spec");
    let selector = spec.get("deviceSelector");
    let (driver, pool, device) = (selector.get("driver"), selector.get("pool"), selector.get("device"));
    if driver.is_set() {
        driver_name(&driver, e);
    }
    if pool.is_set() {
        pool_name(&pool, e);
    }
    if device.is_set() {
        label(&device, e);
    }
    taint(&spec.get("taint"), e);
}

pub(super) fn taint_rule_status(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    check::conditions(&root.get("status").get("conditions"), MOST_CONDITIONS, e);
}

#[cfg(test)]
mod tests {
    use super::is_semver;

    #[test]
    fn versions() {
        for good in ["0.0.0", "1.2.3", "1.2.3-rc.1", "1.2.3+b.01", "1.0.0-0a.-"] {
            assert!(is_semver(good), "{good}");
        }
        for bad in ["", "1", "1.2", "01.2.3", "1.2.3-", "1.2.3-01", "1.2.3+", "v1.2.3", "1.2.3-é"] {
            assert!(!is_semver(bad), "{bad}");
        }
    }
}
