//! Validation of what decides where a pod may run: tolerations, affinity, spreading, gates.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::check::table::{LABEL, QUALIFIED, Rule, Table, follow};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub(crate) fn tolerations(list: &At, e: &mut Errors) {
    for toleration in list.items() {
        let (key, value) = (toleration.get("key"), toleration.get("value"));
        let (operator, effect) = (toleration.get("operator"), toleration.get("effect"));
        check::name(&key, QUALIFIED, e);
        if key.is_empty() && operator.text() != "Exists" {
            operator.invalid_text(
                e,
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            );
        }
        if toleration.get("tolerationSeconds").is_set() && effect.text() != "NoExecute" {
            effect.invalid_text(e, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator.text() {
            "" | "Equal" => {
                let messages = names::is_valid_label_value(value.text());
                if !messages.is_empty() {
                    operator.invalid_as(e, value.text(), messages.join(";"));
                }
            }
            "Exists" if !value.is_empty() => operator.invalid_as(
                e,
                toleration.value().cloned().unwrap_or_default(),
                "value must be empty when `operator` is 'Exists'",
            ),
            "Exists" => {}
            _ => operator.not_supported(e, &["Equal", "Exists"]),
        }
        check::one_of(&effect, EFFECTS, e);
    }
}

pub(crate) fn affinity(affinity: &At, e: &mut Errors) {
    let node = affinity.get("nodeAffinity");
    let required = node.get("requiredDuringSchedulingIgnoredDuringExecution");
    if required.is_set() {
        node_selector(&required, e);
    }
    for preferred in node.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
        weight(&preferred.get("weight"), e);
        node_term(&preferred.get("preference"), e);
    }
    for side in ["podAffinity", "podAntiAffinity"] {
        let side = affinity.get(side);
        for term in side.get("requiredDuringSchedulingIgnoredDuringExecution").items() {
            pod_term(&term, e);
        }
        for preferred in side.get("preferredDuringSchedulingIgnoredDuringExecution").items() {
            weight(&preferred.get("weight"), e);
            pod_term(&preferred.get("podAffinityTerm"), e);
        }
    }
}

/// Terms of which a node must meet one.
pub(crate) fn node_selector(selector: &At, e: &mut Errors) {
    let terms = selector.get("nodeSelectorTerms");
    if terms.is_empty() {
        terms.required(e, "must have at least one node selector term");
    }
    for term in terms.items() {
        node_term(&term, e);
    }
}

fn weight(weight: &At, e: &mut Errors) {
    let value = weight.int().unwrap_or(0);
    if !(1..=100).contains(&value) {
        weight.invalid_as(e, value, "must be in the range 1-100");
    }
}

fn node_term(term: &At, e: &mut Errors) {
    for requirement in term.get("matchExpressions").items() {
        let (key, operator, values) =
            (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" => {
                if values.is_empty() {
                    values.required(e, "must be specified when `operator` is 'In' or 'NotIn'");
                }
                for value in values.items() {
                    value.all_invalid(e, names::is_valid_label_value(value.text()));
                }
            }
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    values.forbidden(e, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    values.required(e, "must be specified single value when `operator` is 'Lt' or 'Gt'");
                }
            }
            _ => operator.invalid_text(e, "not a valid selector operator"),
        }
        key.all_invalid(e, QUALIFIED(key.text()));
    }
    for requirement in term.get("matchFields").items() {
        let (key, operator, values) =
            (requirement.get("key"), requirement.get("operator"), requirement.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.len() != 1 => {
                values.required(
                    e,
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
            "In" | "NotIn" => {}
            _ => operator.invalid_text(e, "not a valid selector operator"),
        }
        if key.text() != "metadata.name" {
            key.invalid_text(e, "not a valid field selector key");
        }
        for value in values.items() {
            value.all_invalid(e, names::is_dns1123_subdomain(value.text()));
        }
    }
}

const POD_TERM: &Table = &[("labelSelector", Rule::Selector), ("namespaceSelector", Rule::Selector)];

fn pod_term(term: &At, e: &mut Errors) {
    follow(term, POD_TERM, e);
    for namespace in term.get("namespaces").texts() {
        for message in LABEL(namespace) {
            term.get("namespace").invalid_as(e, namespace, message);
        }
    }
    for keys in ["matchLabelKeys", "mismatchLabelKeys"] {
        let keys = term.get(keys);
        if !keys.is_empty() && !term.get("labelSelector").is_set() {
            keys.forbidden(e, "must not be specified when labelSelector is not set");
        }
        for key in keys.items() {
            key.all_invalid(e, QUALIFIED(key.text()));
        }
    }
    topology_key(&term.get("topologyKey"), e);
}

fn topology_key(key: &At, e: &mut Errors) {
    if key.is_empty() {
        return key.required(e, "can not be empty");
    }
    key.all_invalid(e, QUALIFIED(key.text()));
}

const SPREAD: &Table = &[
    ("nodeAffinityPolicy", Rule::OneOf(&["Honor", "Ignore"])),
    ("nodeTaintsPolicy", Rule::OneOf(&["Honor", "Ignore"])),
    ("labelSelector", Rule::Selector),
];

pub(crate) fn spread(constraints: &At, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for constraint in constraints.items() {
        let (skew, least) = (constraint.get("maxSkew"), constraint.get("minDomains"));
        let (key, when) = (constraint.get("topologyKey"), constraint.get("whenUnsatisfiable"));
        if skew.int().unwrap_or(0) <= 0 {
            skew.invalid_as(e, skew.int().unwrap_or(0), "must be greater than zero");
        }
        topology_key(&key, e);
        if !matches!(when.text(), "DoNotSchedule" | "ScheduleAnyway") {
            when.not_supported(e, &["DoNotSchedule", "ScheduleAnyway"]);
        }
        if !seen.insert((key.text(), when.text())) {
            let pair = format!("{{{}, {}}}", key.text(), when.text());
            constraint.get("{topologyKey, whenUnsatisfiable}").duplicate_as(e, Value::from(pair));
        }
        match least.int() {
            Some(..=0) => least.invalid(e, "must be greater than zero"),
            Some(_) if when.text() == "ScheduleAnyway" => {
                least.invalid(
                    e,
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                );
            }
            _ => {}
        }
        follow(&constraint, SPREAD, e);
        let keys = constraint.get("matchLabelKeys");
        if !keys.is_empty() && !constraint.get("labelSelector").is_set() {
            keys.forbidden(e, "must not be specified when labelSelector is not set");
        }
        for key in keys.items() {
            key.all_invalid(e, QUALIFIED(key.text()));
        }
    }
}

pub(crate) fn gates(gates: &At, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for gate in gates.items() {
        let name = gate.get("name");
        // Upstream names the gate, not its name.
        for message in QUALIFIED(name.text()) {
            gate.invalid_as(e, name.text(), message);
        }
        if !seen.insert(name.text()) {
            name.duplicate(e);
        }
    }
}
