//! DaemonSets.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, object_at, set, set_if_absent, text};
use crate::print::{container_names, images, labels, number, selector};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        (
            "Desired",
            "integer",
            0,
            computed(|d, _| Value::from(number(&d["status"]["desiredNumberScheduled"]))),
        ),
        (
            "Current",
            "integer",
            0,
            computed(|d, _| Value::from(number(&d["status"]["currentNumberScheduled"]))),
        ),
        ("Ready", "integer", 0, computed(|d, _| Value::from(number(&d["status"]["numberReady"])))),
        (
            "Up-to-date",
            "integer",
            0,
            computed(|d, _| Value::from(number(&d["status"]["updatedNumberScheduled"]))),
        ),
        ("Available", "integer", 0, computed(|d, _| Value::from(number(&d["status"]["numberAvailable"])))),
        (
            "Node Selector",
            "string",
            0,
            computed(|d, _| labels(&d["spec"]["template"]["spec"]["nodeSelector"])),
        ),
        ("Age", "string", 0, Cell::Age),
        ("Containers", "string", 1, computed(|d, _| container_names(&d["spec"]["template"]["spec"]))),
        ("Images", "string", 1, computed(|d, _| images(&d["spec"]["template"]["spec"]))),
        ("Selector", "string", 1, computed(|d, _| selector(&d["spec"]["selector"]))),
    ])
}

pub(crate) fn default(set: &mut Value) {
    super::template_defaults(set);
    let Some(spec) = object_at(set, &["spec"]) else { return };
    fill(spec, &[("revisionHistoryLimit", Fill::Int(10))]);
    let Some(strategy) = object_at(spec, &["updateStrategy"]) else { return };
    fill(strategy, &[("type", Fill::Text("RollingUpdate"))]);
    if text(strategy, "type") == "RollingUpdate"
        && let Some(rolling) = object_at(strategy, &["rollingUpdate"])
    {
        set_if_absent(rolling, "maxUnavailable", 1);
        set_if_absent(rolling, "maxSurge", 0);
    }
}

/// Counts of a status.
pub(crate) const COUNTS: [&str; 7] = [
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
];

pub(crate) fn prepare_create(object: &mut Value) {
    let status = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0});
    set(object, "status", status);
}

pub(crate) fn validate(set: &Value, e: &mut Errors) {
    let root = At::root(set);
    let spec = root.get("spec");
    super::selector_and_template(&spec, "DaemonSet", e);
    check::not_negative(&spec.get("minReadySeconds"), e);
    check::not_negative(&spec.get("revisionHistoryLimit"), e);
    let strategy = spec.get("updateStrategy");
    match strategy.get("type").text() {
        "OnDelete" => {}
        "RollingUpdate" if !strategy.get("rollingUpdate").is_set() => {
            strategy.get("rollingUpdate").required(e, "")
        }
        "RollingUpdate" => rolling_update(&strategy.get("rollingUpdate"), e),
        _ => strategy.get("type").not_supported(e, &["OnDelete", "RollingUpdate"]),
    }
}

/// Exactly one of `maxUnavailable` and `maxSurge` is in use.
fn rolling_update(rolling: &At, e: &mut Errors) {
    let (unavailable, surge) = (rolling.get("maxUnavailable"), rolling.get("maxSurge"));
    for at in [&unavailable, &surge] {
        check::int_or_percent(at, e);
        check::at_most_all(at, e);
    }
    let zero = |at: &At| at.int().unwrap_or(0) == 0 && check::percent_of(at).unwrap_or(0) == 0;
    match (zero(&unavailable), zero(&surge)) {
        (false, false) => surge.invalid(e, "may not be set when maxUnavailable is non-zero"),
        (true, true) => unavailable.required(e, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}
