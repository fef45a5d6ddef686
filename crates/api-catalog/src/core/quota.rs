//! ResourceQuotas and LimitRanges.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::quantity::Quantity;
use api_machinery::resource::{Cell, Column};
use serde_json::Value;

use crate::at::At;
use crate::check::{self, resources};
use crate::entry::{columns, computed};
use crate::fill::{each_mut, get, object_at, set_if_absent, text};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Request", "string", 0, computed(|quota, _| used(quota, false))),
        ("Limit", "string", 0, computed(|quota, _| used(quota, true))),
        ("Age", "string", 0, Cell::Age),
    ])
}

fn used(quota: &Value, limits: bool) -> Value {
    let hard = quota["status"]["hard"].as_object().into_iter().flatten();
    let pieces: Vec<String> = hard
        .filter(|(name, _)| name.starts_with("limits.") == limits)
        .map(|(name, hard)| {
            let now = match text(&quota["status"]["used"], name) {
                "" => "0",
                now => now,
            };
            format!("{name}: {now}/{}", hard.as_str().unwrap_or("0"))
        })
        .collect();
    Value::from(pieces.join(", "))
}

pub(crate) fn validate_quota(quota: &Value, e: &mut Errors) {
    let root = At::root(quota);
    let spec = root.get("spec");
    for (name, quantity) in spec.get("hard").entries() {
        quota_name(&quantity, name, e);
        resources::quantity(&quantity, name, e);
    }
    scopes(&spec, e);
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const CONTRADICTIONS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];
const OPERATOR: &str = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";

fn scopes(spec: &At, e: &mut Errors) {
    let (plain, selector) = (spec.get("scopes"), spec.get("scopeSelector"));
    let named: Vec<&str> = plain.items().map(|scope| scope.text()).collect();
    for scope in &named {
        if !SCOPES.contains(scope) {
            plain.invalid(e, "unsupported scope");
        }
        fitting(spec, scope, &plain, &plain, e);
    }
    contradictions(&named, &plain, &plain, e);
    let expressions = selector.get("matchExpressions");
    let mut selected = Vec::new();
    for requirement in expressions.items() {
        let (scope, operator) = (requirement.get("scopeName"), requirement.get("operator"));
        if !SCOPES.contains(&scope.text()) {
            expressions.get("scopeName").invalid_as(e, scope.text(), "unsupported scope");
        }
        fitting(spec, scope.text(), &expressions, &selector, e);
        let has_values = !matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass");
        if has_values && SCOPES.contains(&scope.text()) && operator.text() != "Exists" {
            expressions.get("operator").invalid_as(e, operator.text(), OPERATOR);
        }
        let values = requirement.get("values");
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => expressions.get("values").required(
                e,
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            ),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" if !values.is_empty() => expressions.get("values").invalid_as(
                e,
                values.value().cloned(),
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            ),
            "Exists" | "DoesNotExist" => {}
            other => expressions.get("operator").invalid_as(e, other, "not a valid selector operator"),
        }
        selected.push(scope.text());
    }
    contradictions(&selected, &expressions, &plain, e);
}

/// What cannot be limited within a scope: objects in it have nothing of it.
fn fitting(spec: &At, scope: &str, at: &At, shown: &At, e: &mut Errors) {
    let compute = ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    let fits = |name: &str| match scope {
        "BestEffort" => name == "pods",
        "VolumeAttributesClass" => matches!(name, "persistentvolumeclaims" | "requests.storage"),
        known if SCOPES.contains(&known) => compute.contains(&name),
        _ => true,
    };
    let hard = spec.get("hard");
    for _ in hard.entries().filter(|(name, _)| is_standard(name) && !fits(name)) {
        at.invalid_as(e, shown.value().cloned(), "unsupported scope applied to resource");
    }
}

fn contradictions(named: &[&str], at: &At, shown: &At, e: &mut Errors) {
    for pair in CONTRADICTIONS {
        if pair.iter().all(|scope| named.contains(scope)) {
            at.invalid_as(e, shown.value().cloned(), "conflicting scopes");
        }
    }
}

const COUNTS: [&str; 10] = [
    "pods",
    "services",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "configmaps",
    "persistentvolumeclaims",
    "services.nodeports",
    "services.loadbalancers",
    "cpu",
];
const AMOUNTS: [&str; 9] = [
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.storage",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];

fn is_standard(name: &str) -> bool {
    COUNTS.contains(&name) || AMOUNTS.contains(&name)
}

/// What can be limited: resources, `requests.` and `limits.` of them, and counts of objects.
fn quota_name(at: &At, name: &str, e: &mut Errors) {
    let messages = api_machinery::names::is_qualified_name(name);
    let sound = messages.is_empty();
    for message in messages {
        at.invalid_as(e, name, message);
    }
    let known = is_standard(name) || name.contains("hugepages-");
    if sound && !name.contains('/') && !known {
        at.invalid_as(e, name, "must be a standard resource for quota");
    }
}

pub(crate) fn validate_quota_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    for field in ["scopes", "scopeSelector"] {
        let (spec, before) = (new.get("spec"), old.get("spec"));
        check::immutable(&spec.get(field), &before.get(field), e);
    }
}

/// A container's `default` is its `max`, its `defaultRequest` its `default` or `min`.
pub(crate) fn limit_range_defaults(range: &mut Value) {
    let Some(spec) = range.get_mut("spec") else { return };
    for limit in each_mut(spec, "limits").filter(|l| text(l, "type") == "Container") {
        for (from, to) in [("max", "default"), ("default", "defaultRequest"), ("min", "defaultRequest")] {
            let Some(amounts) = get(limit, from).and_then(Value::as_object).cloned() else { continue };
            if let Some(target) = object_at(limit, &[to]) {
                for (name, amount) in amounts {
                    set_if_absent(target, &name, amount);
                }
            }
        }
    }
}

pub(crate) fn validate_limit_range(range: &Value, e: &mut Errors) {
    let root = At::root(range);
    let spec = root.get("spec");
    let limits = spec.get("limits");
    for limit in limits.items() {
        limit_type(&limit.get("type"), e);
        let mut names = BTreeSet::new();
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            let amounts = limit.get(list);
            if limit.get("type").text() == "Pod" && list.starts_with("default") && !amounts.is_empty() {
                amounts.forbidden(e, "may not be specified when `type` is 'Pod'");
                continue;
            }
            for (name, quantity) in amounts.entries() {
                match limit.get("type").text() {
                    "Pod" | "Container" => resources::container_name(&quantity, name, e),
                    _ => resources::name(&quantity, name, e),
                }
                resources::quantity(&quantity, name, e);
                names.insert(name);
            }
        }
        let bounds = ["min", "max"].map(|list| limit.get(list).key("storage").is_set());
        if limit.get("type").text() == "PersistentVolumeClaim" && bounds == [false, false] {
            limit
                .get("limits")
                .required(e, "either minimum or maximum storage value is required, but neither was provided");
        }
        for name in names {
            order(&limit, name, e);
            ratio(&limit, name, e);
        }
    }
    check::unique_field(&limits, "type", e);
}

fn limit_type(at: &At, e: &mut Errors) {
    let name = at.text();
    let messages = api_machinery::names::is_qualified_name(name);
    let sound = messages.is_empty();
    for message in messages {
        at.invalid(e, message);
    }
    if sound && !name.contains('/') && !["Container", "PersistentVolumeClaim", "Pod"].contains(&name) {
        at.invalid(e, "must be a standard limit type or fully qualified");
    }
}

/// From the least to the most that there may be of something: each with what it is called, where what is wrong is said to
/// be, and with which value.
fn order(limit: &At, name: &str, e: &mut Errors) {
    const PAIRS: [(&str, &str, &str, &str, &str); 6] = [
        ("min", "max", "min", "min", "min value {} is greater than max value {}"),
        (
            "min",
            "defaultRequest",
            "defaultRequest",
            "defaultRequest",
            "min value {} is greater than default request value {}",
        ),
        (
            "defaultRequest",
            "max",
            "defaultRequest",
            "defaultRequest",
            "default request value {} is greater than max value {}",
        ),
        (
            "defaultRequest",
            "default",
            "defaultRequest",
            "defaultRequest",
            "default request value {} is greater than default limit value {}",
        ),
        ("min", "default", "default", "min", "min value {} is greater than default value {}"),
        ("default", "max", "default", "max", "default value {} is greater than max value {}"),
    ];
    let amount = |list: &str| limit.get(list).value().and_then(|list| Quantity::from_json(list.get(name)?));
    for (low, high, place, shown, words) in PAIRS {
        let (Some(low), Some(high)) = (amount(low), amount(high)) else { continue };
        if low > high {
            let detail = words.replacen("{}", &low.to_string(), 1).replacen("{}", &high.to_string(), 1);
            let shown = amount(shown).map(|amount| amount.to_string());
            limit.get(place).key(name).invalid_as(e, shown, detail);
        }
    }
    let overcommits = !resources::is_extended(name) && !name.starts_with("hugepages-");
    if let (Some(most), Some(asked)) = (amount("default"), amount("defaultRequest"))
        && !overcommits
        && most != asked
    {
        let detail = format!("default value {most} must equal to defaultRequest value {asked} in {name}");
        limit.get("defaultRequest").key(name).invalid_as(e, asked.to_string(), detail);
    }
}

fn ratio(limit: &At, name: &str, e: &mut Errors) {
    let amount = |list: &str| limit.get(list).value().and_then(|list| Quantity::from_json(list.get(name)?));
    let Some(ratio) = amount("maxLimitRequestRatio") else { return };
    let ratios = limit.get("maxLimitRequestRatio");
    let at = ratios.key(name);
    if ratio.millis() < 1000 {
        at.invalid_as(e, ratio.to_string(), format!("ratio {ratio} is less than 1"));
    }
    if let (Some(min), Some(max)) = (amount("min"), amount("max")) {
        let most = max.nanos() as f64 / min.nanos() as f64;
        if ratio.nanos() as f64 / 1e9 > most {
            at.invalid_as(e, ratio.to_string(), format!("ratio {ratio} is greater than max/min = {most:.6}"));
        }
    }
}
