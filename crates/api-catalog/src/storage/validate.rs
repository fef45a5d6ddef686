//! What classes, drivers, capacities and attachments of volumes must be.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use crate::at::At;
use crate::check::{self, resources};
use crate::core::{driver_name, inline_volume};

/// The most parameters of a class, and the most bytes of all of them.
const MOST_PARAMETERS: usize = 512;
const LONGEST_PARAMETERS: usize = 256 * 1024;
/// The longest name that a driver gives a node, in bytes.
const LONGEST_NODE_ID: usize = 256;
/// The shortest and the longest life of a token, in seconds.
const TOKEN_LIFE: (i64, i64) = (600, 1 << 32);
/// The shortest period of asking a driver how many volumes a node takes, in seconds.
const SHORTEST_PERIOD: i64 = 10;

/// Fields that nothing changes.
pub(super) fn fixed(new: &Value, old: &Value, fields: &[&str], e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    for field in fields {
        if !check::same(new.get(field).value(), old.get(field).value()) {
            new.get(field).forbidden(e, &format!("updates to {field} are forbidden."));
        }
    }
}

pub(super) fn class(class: &Value, e: &mut Errors) {
    let root = At::root(class);
    provisioner(&root.get("provisioner"), e);
    parameters(&root.get("parameters"), e);
    check::one_of(&root.get("reclaimPolicy"), &["Delete", "Retain"], e);
    check::required_one_of(&root.get("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"], e);
    let mut terms = Vec::new();
    for term in root.get("allowedTopologies").items() {
        let expressions = term.get("matchLabelExpressions");
        let known = topology_term(&expressions, e);
        if terms.contains(&known) {
            expressions.duplicate_as(e, "");
        }
        terms.push(known);
    }
}

pub(super) fn class_update(new: &Value, old: &Value, e: &mut Errors) {
    fixed(new, old, &["parameters", "provisioner", "reclaimPolicy"], e);
    let (new, old) = (At::root(new), At::root(old));
    check::immutable(&new.get("volumeBindingMode"), &old.get("volumeBindingMode"), e);
}

fn provisioner(provisioner: &At, e: &mut Errors) {
    if provisioner.must_be_set(e) {
        let name = provisioner.text().to_lowercase();
        for message in names::is_qualified_name(&name) {
            provisioner.invalid_as(e, name.as_str(), message);
        }
    }
}

fn parameters(parameters: &At, e: &mut Errors) {
    if parameters.len_of_map() > MOST_PARAMETERS {
        return parameters.too_long(e, MOST_PARAMETERS);
    }
    let mut size = 0;
    for (key, value) in parameters.entries() {
        if key.is_empty() {
            parameters.invalid_as(e, key, "field can not be empty.");
        }
        size += key.len() + value.text().len();
    }
    if size > LONGEST_PARAMETERS {
        parameters.too_long(e, LONGEST_PARAMETERS);
    }
}

/// The labels of a topology, which two terms must not have in common: keys and values.
fn topology_term<'v>(expressions: &At<'_, 'v>, e: &mut Errors) -> BTreeSet<(&'v str, Vec<&'v str>)> {
    let mut term = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for expression in expressions.items() {
        let (key, values) = (expression.get("key"), expression.get("values"));
        values.must_be_set(e);
        let mut seen = BTreeSet::new();
        for value in values.items() {
            if !seen.insert(value.text()) {
                value.duplicate(e);
            }
        }
        key.all_invalid(e, names::is_qualified_name(key.text()));
        if !keys.insert(key.text()) {
            key.duplicate(e);
        }
        term.insert((key.text(), seen.into_iter().collect()));
    }
    term
}

pub(super) fn driver(driver: &Value, e: &mut Errors) {
    let root = At::root(driver);
    let spec = root.get("spec");
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    check::one_of(&spec.get("fsGroupPolicy"), &policies, e);
    let mut audiences = BTreeSet::new();
    for request in spec.get("tokenRequests").items() {
        let (audience, life) = (request.get("audience"), request.get("expirationSeconds"));
        if !audiences.insert(audience.text()) {
            audience.duplicate_as(e, audience.text());
            continue;
        }
        match life.int() {
            Some(seconds) if seconds < TOKEN_LIFE.0 => {
                life.invalid(e, "may not specify a duration less than 10 minutes");
            }
            Some(seconds) if seconds > TOKEN_LIFE.1 => {
                life.invalid(e, "may not specify a duration larger than 2^32 seconds");
            }
            _ => {}
        }
    }
    let modes = spec.get("volumeLifecycleModes");
    for mode in modes.texts().filter(|mode| !["Persistent", "Ephemeral"].contains(mode)) {
        modes.not_supported_as(e, mode, &["Persistent", "Ephemeral"]);
    }
    let period = spec.get("nodeAllocatableUpdatePeriodSeconds");
    if period.int().is_some_and(|seconds| seconds < SHORTEST_PERIOD) {
        period.invalid(e, "must be greater than or equal to 10 seconds");
    }
}

pub(super) fn driver_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    // Upstream's name of the field.
    let attach = spec.get("attachRequired");
    if attach.flag() != before.get("attachRequired").flag() {
        spec.get("attachedRequired").invalid_as(e, attach.flag(), check::IMMUTABLE);
    }
    check::immutable(&spec.get("volumeLifecycleModes"), &before.get("volumeLifecycleModes"), e);
}

pub(super) fn node(node: &Value, e: &mut Errors) {
    let root = At::root(node);
    let spec = root.get("spec");
    let mut seen = BTreeSet::new();
    for driver in spec.get("drivers").items() {
        let (name, id) = (driver.get("name"), driver.get("nodeID"));
        driver_name(&name, e);
        id.must_be_set(e);
        if id.text().len() > LONGEST_NODE_ID {
            id.invalid(e, format!("must be {LONGEST_NODE_ID} characters or less"));
        }
        let allocatable = driver.get("allocatable");
        check::not_negative(&allocatable.get("count"), e);
        if !seen.insert(name.text()) {
            name.duplicate(e);
        }
        let mut keys = BTreeSet::new();
        for key in driver.get("topologyKeys").texts() {
            if key.is_empty() {
                driver.required(e, "");
            }
            if !keys.insert(key) {
                driver.duplicate_as(e, key);
            }
            for message in names::is_qualified_name(key) {
                driver.invalid_as(e, key, message);
            }
        }
    }
}

/// A driver that stays on a node stays as it is there, but for how many volumes it takes.
pub(super) fn node_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let (drivers, before) = (spec.get("drivers"), before.get("drivers"));
    for was in before.items() {
        for is in drivers.items().filter(|driver| driver.get("name").text() == was.get("name").text()) {
            let same = |field| check::same(is.get(field).value(), was.get(field).value());
            if !(same("nodeID") && same("topologyKeys")) {
                drivers.invalid_as(e, is.value().cloned(), check::IMMUTABLE);
            }
        }
    }
}

pub(super) fn capacity(capacity: &Value, e: &mut Errors) {
    let root = At::root(capacity);
    check::label_selector(&root.get("nodeTopology"), e);
    let (class, amount) = (root.get("storageClassName"), root.get("capacity"));
    class.all_invalid(e, names::is_dns1123_subdomain(class.text()));
    if amount.is_set() {
        resources::quantity(&amount, "storage", e);
    }
}

pub(super) fn capacity_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    for field in ["nodeTopology", "storageClassName"] {
        check::immutable(&new.get(field), &old.get(field), e);
    }
}

pub(super) fn attachment(attachment: &Value, e: &mut Errors) {
    let root = At::root(attachment);
    let spec = root.get("spec");
    spec.get("attacher").must_be_set(e);
    let source = spec.get("source");
    let (inline, named) = (source.get("inlineVolumeSpec"), source.get("persistentVolumeName"));
    const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
    match (inline.is_set(), named.is_set()) {
        (false, false) => source.required(e, ONE),
        (true, true) => source.forbidden(e, ONE),
        (false, true) if named.is_empty() => {
            named.required(e, "must specify non empty persistentVolumeName");
        }
        (false, true) => {}
        (true, false) => inline_volume(&inline, e),
    }
    let node = spec.get("nodeName");
    node.all_invalid(e, names::is_dns1123_subdomain(node.text()));
    let status = root.get("status");
    for field in ["attachError", "detachError"] {
        let error = status.get(field);
        let code = error.get("errorCode");
        if code.int().is_some_and(|code| code < 0) {
            code.invalid(e, names::inclusive_range(0, i64::from(i32::MAX)));
        }
    }
}

/// What `v1` asks for beyond what its predecessors did.
pub(super) fn new_attachment(attachment: &Value, e: &mut Errors) {
    let root = At::root(attachment);
    let spec = root.get("spec");
    driver_name(&spec.get("attacher"), e);
    let source = spec.get("source");
    let named = source.get("persistentVolumeName");
    if named.is_set() {
        named.all_invalid(e, names::is_dns1123_subdomain(named.text()));
    }
}

pub(super) fn attachment_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    check::immutable(&new.get("spec"), &old.get("spec"), e);
}

pub(super) fn attributes_class(class: &Value, e: &mut Errors) {
    let root = At::root(class);
    provisioner(&root.get("driverName"), e);
    let all = root.get("parameters");
    parameters(&all, e);
    if all.is_empty() {
        all.required(e, "must contain at least one key/value pair");
    }
}
