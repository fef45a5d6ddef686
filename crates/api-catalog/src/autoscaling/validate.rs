//! What an autoscaler must be.

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use super::metrics::{self, SOURCES};
use crate::at::At;
use crate::check::{self, resources};

/// The longest that rules may look back, in seconds.
const LONGEST_WINDOW: i64 = 3600;
/// The longest period that a policy may be about, in seconds.
const LONGEST_PERIOD: i64 = 1800;

pub(super) fn autoscaler(autoscaler: &Value, e: &mut Errors) {
    let root = At::root(autoscaler);
    let spec = root.get("spec");
    let (least, most) = (spec.get("minReplicas"), spec.get("maxReplicas"));
    if least.int().is_some_and(|n| n < 1) {
        least.invalid(e, "must be greater than or equal to 1");
    }
    let highest = most.int().unwrap_or(0);
    if highest < 1 {
        most.invalid_as(e, highest, "must be greater than 0");
    }
    if least.int().is_some_and(|n| n > highest) {
        most.invalid_as(e, highest, "must be greater than or equal to `minReplicas`");
    }
    reference(&spec.get("scaleTargetRef"), e);
    for metric in spec.get("metrics").items() {
        source(&metric, e);
    }
    let behavior = spec.get("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.get(direction);
        if rules.is_set() {
            scaling_rules(&rules, e);
        }
    }
}

pub(super) fn status(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    check::not_negative(&status.get("currentReplicas"), e);
    check::not_negative(&status.get("desiredReplicas"), e);
}

fn reference(at: &At, e: &mut Errors) {
    check::required_name(&at.get("kind"), names::is_path_segment, e);
    check::required_name(&at.get("name"), names::is_path_segment, e);
}

/// Of the five sources, the one that `type` names is there, and no other.
fn source(metric: &At, e: &mut Errors) {
    let kind = metric.get("type");
    if kind.is_empty() {
        return kind.required(e, "must specify a metric source type");
    }
    let Some(known) = metrics::source(kind.text()) else {
        return kind.not_supported(e, &SOURCES.map(|source| source.kind));
    };
    let field = known.field;
    let source = metric.get(field);
    if source.is_set() {
        match field {
            "object" => object(&source, e),
            "external" => external(&source, e),
            "pods" => pods(&source, e),
            _ => resource(&source, field == "containerResource", e),
        }
    } else {
        source.required(e, "must populate information for the given metric source");
    }
    for other in SOURCES.iter().filter(|other| other.field != field) {
        if metric.get(other.field).is_set() {
            metric.get(other.field).forbidden(e, "must populate the given metric source only");
        }
    }
}

fn object(source: &At, e: &mut Errors) {
    reference(&source.get("describedObject"), e);
    identifier(&source.get("metric"), e);
    let target = source.get("target");
    aim(&target, e);
    if !target.get("value").is_set() && !target.get("averageValue").is_set() {
        target.get("averageValue").required(e, "must set either a target value or averageValue");
    }
}

fn external(source: &At, e: &mut Errors) {
    identifier(&source.get("metric"), e);
    let target = source.get("target");
    aim(&target, e);
    match (target.get("value").is_set(), target.get("averageValue").is_set()) {
        (false, false) => target
            .get("averageValue")
            .required(e, "must set either a target value for metric or a per-pod target"),
        (true, true) => target
            .get("value")
            .forbidden(e, "may not set both a target value for metric and a per-pod target"),
        _ => {}
    }
}

fn pods(source: &At, e: &mut Errors) {
    identifier(&source.get("metric"), e);
    let target = source.get("target");
    aim(&target, e);
    if !is_positive(&target.get("averageValue")) {
        target.get("averageValue").required(e, "must specify a positive target averageValue");
    }
}

fn resource(source: &At, of_container: bool, e: &mut Errors) {
    if source.get("name").is_empty() {
        source.get("name").required(e, "must specify a resource name");
    }
    if of_container && source.get("container").is_empty() {
        source.get("container").required(e, "must specify a container");
    }
    let target = source.get("target");
    aim(&target, e);
    match (target.get("averageUtilization").is_set(), target.get("averageValue").is_set()) {
        (false, false) => target
            .get("averageUtilization")
            .required(e, "must set either a target raw value or a target utilization"),
        (true, true) => target
            .get("averageValue")
            .forbidden(e, "may not set both a target raw value and a target utilization"),
        _ => {}
    }
}

fn identifier(metric: &At, e: &mut Errors) {
    let name = metric.get("name");
    if name.is_empty() {
        name.required(e, "must specify a metric name");
    } else {
        name.all_invalid(e, names::is_path_segment(name.text()));
    }
    check::label_selector(&metric.get("selector"), e);
}

fn aim(target: &At, e: &mut Errors) {
    let kind = target.get("type");
    if kind.is_empty() {
        kind.required(e, "must specify a metric target type");
    } else if !["Utilization", "Value", "AverageValue"].contains(&kind.text()) {
        kind.invalid_text(e, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        let amount = target.get(field);
        if amount.is_set() && !is_positive(&amount) {
            amount.invalid(e, "must be positive");
        }
    }
    if target.get("averageUtilization").int().is_some_and(|percent| percent < 1) {
        target.get("averageUtilization").invalid(e, "must be greater than 0");
    }
}

fn is_positive(amount: &At) -> bool {
    resources::parse(amount).is_some_and(|amount| !amount.is_zero() && !amount.is_negative())
}

fn scaling_rules(rules: &At, e: &mut Errors) {
    let window = rules.get("stabilizationWindowSeconds");
    if window.int().is_some_and(|seconds| seconds < 0) {
        window.invalid(e, "must be greater than or equal to zero");
    }
    if window.int().is_some_and(|seconds| seconds > LONGEST_WINDOW) {
        window.invalid(e, format!("must be less than or equal to {LONGEST_WINDOW}"));
    }
    check::one_of(&rules.get("selectPolicy"), &["Disabled", "Max", "Min"], e);
    let tolerance = rules.get("tolerance");
    if resources::parse(&tolerance).is_some_and(|tolerance| tolerance.is_negative()) {
        tolerance.invalid(e, check::NEGATIVE);
    }
    let policies = rules.get("policies");
    if policies.is_empty() {
        policies.required(e, "must specify at least one Policy");
    }
    for policy in policies.items() {
        let kind = policy.get("type");
        if !["Pods", "Percent"].contains(&kind.text()) {
            kind.not_supported(e, &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"] {
            let number = policy.get(field);
            if number.int().unwrap_or(0) <= 0 {
                number.invalid_as(e, number.int().unwrap_or(0), "must be greater than zero");
            }
        }
        if policy.get("periodSeconds").int().is_some_and(|seconds| seconds > LONGEST_PERIOD) {
            policy.get("periodSeconds").invalid(e, format!("must be less than or equal to {LONGEST_PERIOD}"));
        }
    }
}
