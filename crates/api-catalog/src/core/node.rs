//! Nodes: what may change, and what tables show.

use std::collections::BTreeSet;

use api_machinery::field::{ErrorKind, Errors, FieldError, Path};
use api_machinery::names;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check::{self, resources};
use crate::entry::{columns, computed};
use crate::fill::{get, set_if_absent, text};
use crate::print::NONE;

pub(crate) fn table() -> Vec<Column> {
    let info = |field: &'static str| Cell::Path(format!(".status.nodeInfo.{field}").into());
    columns(&[
        ("Status", "string", 0, computed(state)),
        ("Roles", "string", 0, computed(roles)),
        ("Age", "string", 0, Cell::Age),
        ("Version", "string", 0, info("kubeletVersion")),
        ("Internal-IP", "string", 1, computed(|node, _| address(node, "InternalIP"))),
        ("External-IP", "string", 1, computed(|node, _| address(node, "ExternalIP"))),
        ("OS-Image", "string", 1, computed(|node, _| known(node, "osImage"))),
        ("Kernel-Version", "string", 1, computed(|node, _| known(node, "kernelVersion"))),
        ("Container-Runtime", "string", 1, computed(|node, _| known(node, "containerRuntimeVersion"))),
    ])
}

fn known(node: &Value, field: &str) -> Value {
    match text(&node["status"]["nodeInfo"], field) {
        "" => Value::from("<unknown>"),
        text => Value::from(text),
    }
}

fn state(node: &Value, _: Timestamp) -> Value {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let mut words: Vec<&str> = conditions
        .filter(|c| text(c, "type") == "Ready")
        .map(|c| if text(c, "status") == "True" { "Ready" } else { "NotReady" })
        .collect();
    if words.is_empty() {
        words.push("Unknown");
    }
    if node["spec"]["unschedulable"] == true {
        words.push("SchedulingDisabled");
    }
    Value::from(words.join(","))
}

fn roles(node: &Value, _: Timestamp) -> Value {
    let labels = node["metadata"]["labels"].as_object().into_iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.as_str() {
            "kubernetes.io/role" => value.as_str(),
            key => key.strip_prefix("node-role.kubernetes.io/"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    crate::print::joined(roles.into_iter())
}

fn address(node: &Value, kind: &str) -> Value {
    let mut addresses = node["status"]["addresses"].as_array().into_iter().flatten();
    let found = addresses.find(|a| text(a, "type") == kind);
    Value::from(found.map(|a| text(a, "address")).unwrap_or(NONE))
}

/// What can be allocated is what is there, if nothing else was said.
pub(crate) fn default(node: &mut Value) {
    let Some(capacity) = get(&node["status"], "capacity").cloned() else { return };
    if let Some(status) = node.get_mut("status").filter(|s| s.is_object()) {
        set_if_absent(status, "allocatable", capacity);
    }
}

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn validate(node: &Value, e: &mut Errors) {
    let root = At::root(node);
    let spec = root.get("spec");
    let ranges = spec.get("podCIDRs");
    for range in ranges.items() {
        check::cidr(&range, e);
    }
    let families =
        |v4: bool| ranges.texts().filter_map(check::parse_cidr).filter(|(ip, _)| ip.is_ipv4() == v4).count();
    if ranges.len() > 2 || (ranges.len() == 2 && (families(true) != 1 || families(false) != 1)) {
        ranges.invalid(e, "may specify no more than one CIDR for each IP family");
    }
    taints(&spec.get("taints"), e);
    validate_status(&root.get("status"), e);
}

fn taints(taints: &At, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        let (key, value) = (taint.get("key"), taint.get("value"));
        key.all_invalid(e, names::is_qualified_name(key.text()));
        value.all_invalid(e, names::is_valid_label_value(value.text()));
        check::required_one_of(&taint.get("effect"), &EFFECTS, e);
        if !seen.insert((key.text(), taint.get("effect").text())) {
            let detail = "taints must be unique by key and effect pair";
            e.push(FieldError::new(ErrorKind::Duplicate, &Path::new(&taint.path()), taint.value(), detail));
        }
    }
}

fn validate_status(status: &At, e: &mut Errors) {
    for list in ["capacity", "allocatable"] {
        for (name, quantity) in status.get(list).entries() {
            resources::name(&quantity, name, e);
            resources::quantity(&quantity, name, e);
        }
    }
    let mut seen = BTreeSet::new();
    for address in status.get("addresses").items() {
        if !seen.insert((address.get("type").text(), address.get("address").text())) {
            address.duplicate(e);
        }
    }
}

pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, old_spec) = (new.get("spec"), old.get("spec"));
    for (field, word) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
        let (now, before) = (spec.get(field), old_spec.get(field));
        if !before.is_empty() && !check::same(now.value(), before.value()) {
            now.forbidden(e, &format!("node updates may not change {word} except from \"\" to valid"));
        }
    }
}

pub(crate) fn validate_status_update(new: &Value, _: &Value, e: &mut Errors) {
    validate_status(&At::root(new).get("status"), e);
}
