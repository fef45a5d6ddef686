//! ResourceQuotas and LimitRanges.

use api_machinery::field::Errors;
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
    let scopes = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    for scope in spec.get("scopes").items() {
        if !scopes.contains(&scope.text()) {
            spec.get("scopes").invalid(e, "unsupported scope");
        }
    }
}

/// What can be limited: resources, `requests.` and `limits.` of them, and counts of objects.
fn quota_name(at: &At, name: &str, e: &mut Errors) {
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
    let messages = api_machinery::names::is_qualified_name(name);
    let sound = messages.is_empty();
    for message in messages {
        at.invalid_as(e, name, message);
    }
    let known = COUNTS.contains(&name) || AMOUNTS.contains(&name) || name.contains("hugepages-");
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
    for limit in spec.get("limits").items() {
        check::required_one_of(&limit.get("type"), &["Container", "PersistentVolumeClaim", "Pod"], e);
        for list in ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"] {
            for (name, quantity) in limit.get(list).entries() {
                resources::name(&quantity, name, e);
                resources::quantity(&quantity, name, e);
            }
        }
        for (name, min) in limit.get("min").entries() {
            let most = limit.get("max");
            let max = most.key(name);
            if let (Some(low), Some(high)) = (resources::parse(&min), resources::parse(&max))
                && low > high
            {
                let detail = format!(
                    "min value {} is greater than max value {}",
                    resources::shown(&min),
                    resources::shown(&max)
                );
                min.invalid(e, detail);
            }
        }
    }
    check::unique_field(&spec.get("limits"), "type", e);
}
