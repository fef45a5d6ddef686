//! Cells of a table of autoscalers.

use api_machinery::quantity::Quantity;
use jiff::Timestamp;
use serde_json::Value;

use super::metrics::source;
use crate::fill::{at, get, text};
use crate::print::{NONE, number};

/// Metrics that a table shows before it only counts.
const SHOWN: usize = 2;

pub(super) fn reference(autoscaler: &Value, _: Timestamp) -> Value {
    let target = &autoscaler["spec"]["scaleTargetRef"];
    Value::from(format!("{}/{}", text(target, "kind"), text(target, "name")))
}

pub(super) fn least(autoscaler: &Value, _: Timestamp) -> Value {
    match get(&autoscaler["spec"], "minReplicas") {
        Some(least) => Value::from(least.to_string()),
        None => Value::from("<unset>"),
    }
}

pub(super) fn most(autoscaler: &Value, _: Timestamp) -> Value {
    Value::from(number(&autoscaler["spec"]["maxReplicas"]))
}

pub(super) fn replicas(autoscaler: &Value, _: Timestamp) -> Value {
    Value::from(number(&autoscaler["status"]["currentReplicas"]))
}

pub(super) fn targets(autoscaler: &Value, _: Timestamp) -> Value {
    let current = &autoscaler["status"]["currentMetrics"];
    let specs = autoscaler["spec"]["metrics"].as_array().map(Vec::as_slice).unwrap_or(&[]);
    let all: Vec<String> =
        specs.iter().enumerate().map(|(index, spec)| target(spec, &current[index])).collect();
    match all.len() {
        0 => Value::from(NONE),
        n if n > SHOWN => Value::from(format!("{} + {} more...", all[..SHOWN].join(", "), n - SHOWN)),
        _ => Value::from(all.join(", ")),
    }
}

/// One metric as `current/target`.
fn target(spec: &Value, status: &Value) -> String {
    let Some(kind) = source(text(spec, "type")) else { return "<unknown type>".to_owned() };
    let (source, current) = (&spec[kind.field], &status[kind.field]["current"]);
    let aim = &source["target"];
    let average = get(aim, "averageValue").is_some();
    match kind.field {
        "resource" | "containerResource" if average => {
            format!(
                "{}: {}/{}",
                text(source, "name"),
                amount(current, "averageValue"),
                amount(aim, "averageValue")
            )
        }
        "resource" | "containerResource" => {
            let percent = |value: &Value, unknown: &str| match get(value, "averageUtilization") {
                Some(percent) => format!("{percent}%"),
                None => unknown.to_owned(),
            };
            format!("{}: {}/{}", text(source, "name"), percent(current, "<unknown>"), percent(aim, "<auto>"))
        }
        "pods" => format!("{}/{}", amount(current, "averageValue"), amount(aim, "averageValue")),
        _ if average => format!("{}/{} (avg)", amount(current, "averageValue"), amount(aim, "averageValue")),
        _ => format!("{}/{}", amount(current, "value"), amount(aim, "value")),
    }
}

fn amount(values: &Value, field: &str) -> String {
    match at(values, &[field]).and_then(Quantity::from_json) {
        Some(quantity) => quantity.to_string(),
        None => "<unknown>".to_owned(),
    }
}
