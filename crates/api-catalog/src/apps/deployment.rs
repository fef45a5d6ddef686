//! Deployments.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, object_at, set_if_absent, text};
use crate::print::{container_names, images, number, selector};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Ready", "string", 0, computed(ready)),
        ("Up-to-date", "integer", 0, computed(|d, _| Value::from(number(&d["status"]["updatedReplicas"])))),
        ("Available", "integer", 0, computed(|d, _| Value::from(number(&d["status"]["availableReplicas"])))),
        ("Age", "string", 0, Cell::Age),
        ("Containers", "string", 1, computed(|d, _| container_names(&d["spec"]["template"]["spec"]))),
        ("Images", "string", 1, computed(|d, _| images(&d["spec"]["template"]["spec"]))),
        ("Selector", "string", 1, computed(|d, _| selector(&d["spec"]["selector"]))),
    ])
}

fn ready(deployment: &Value, _: Timestamp) -> Value {
    let wanted = number(&deployment["spec"]["replicas"]);
    Value::from(format!("{}/{wanted}", number(&deployment["status"]["readyReplicas"])))
}

pub(crate) fn default(deployment: &mut Value) {
    super::template_defaults(deployment);
    let Some(spec) = object_at(deployment, &["spec"]) else { return };
    fill(
        spec,
        &[
            ("replicas", Fill::Int(1)),
            ("revisionHistoryLimit", Fill::Int(10)),
            ("progressDeadlineSeconds", Fill::Int(600)),
        ],
    );
    let Some(strategy) = object_at(spec, &["strategy"]) else { return };
    fill(strategy, &[("type", Fill::Text("RollingUpdate"))]);
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object_at(strategy, &["rollingUpdate"])
    {
        set_if_absent(rolling, "maxUnavailable", "25%");
        set_if_absent(rolling, "maxSurge", "25%");
    }
}

pub(crate) fn validate(deployment: &Value, e: &mut Errors) {
    let root = At::root(deployment);
    let spec = root.get("spec");
    check::not_negative(&spec.get("replicas"), e);
    super::selector_and_template(&spec, "ReplicaSet", e);
    strategy(&spec.get("strategy"), e);
    check::not_negative(&spec.get("minReadySeconds"), e);
    check::not_negative(&spec.get("revisionHistoryLimit"), e);
    let (deadline, ready) = (spec.get("progressDeadlineSeconds"), spec.get("minReadySeconds"));
    check::not_negative(&deadline, e);
    if let Some(seconds) = deadline.int()
        && seconds <= ready.int().unwrap_or(0)
    {
        deadline.invalid(e, "must be greater than minReadySeconds");
    }
}

fn strategy(strategy: &At, e: &mut Errors) {
    let rolling = strategy.get("rollingUpdate");
    match strategy.get("type").text() {
        "Recreate" if rolling.is_set() => {
            rolling.forbidden(e, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            rolling.required(e, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => rolling_update(&rolling, e),
        "" => strategy.get("type").required(e, ""),
        _ => strategy.get("type").not_supported(e, &["Recreate", "RollingUpdate"]),
    }
}

/// `maxUnavailable` and `maxSurge`, not both zero.
fn rolling_update(rolling: &At, e: &mut Errors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    check::int_or_percent(&unavailable, e);
    check::int_or_percent(&surge, e);
    let zero = |at: &At| at.int() == Some(0) || check::percent_of(at) == Some(0);
    if zero(&unavailable) && zero(&surge) {
        unavailable.invalid(e, "may not be 0 when `maxSurge` is 0");
    }
    check::at_most_all(&unavailable, e);
}
