//! CronJobs.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, get, object_at};
use crate::print::{NONE, container_names, images, or_none, selector, since};

/// Names of pods end in a timestamp and a suffix.
const MAX_NAME: usize = 52;

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Schedule", "string", 0, Cell::Path(".spec.schedule".into())),
        ("Timezone", "string", 0, computed(|j, _| or_none(crate::fill::text(&j["spec"], "timeZone")))),
        ("Suspend", "boolean", 0, computed(suspended)),
        (
            "Active",
            "integer",
            0,
            computed(|j, _| Value::from(j["status"]["active"].as_array().map_or(0, Vec::len))),
        ),
        ("Last Schedule", "string", 0, computed(last)),
        ("Age", "string", 0, Cell::Age),
        ("Containers", "string", 1, computed(|j, _| container_names(template(j)))),
        ("Images", "string", 1, computed(|j, _| images(template(j)))),
        ("Selector", "string", 1, computed(|j, _| selector(&j["spec"]["jobTemplate"]["spec"]["selector"]))),
    ])
}

fn template(job: &Value) -> &Value {
    &job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
}

fn suspended(job: &Value, _: Timestamp) -> Value {
    Value::from(if job["spec"]["suspend"] == true { "True" } else { "False" })
}

fn last(job: &Value, now: Timestamp) -> Value {
    match get(&job["status"], "lastScheduleTime") {
        Some(time) => Value::from(since(time, now)),
        None => Value::from(NONE),
    }
}

pub(crate) fn default(job: &mut Value) {
    let Some(spec) = object_at(job, &["spec"]) else { return };
    fill(
        spec,
        &[
            ("concurrencyPolicy", Fill::Text("Allow")),
            ("suspend", Fill::Flag(false)),
            ("successfulJobsHistoryLimit", Fill::Int(3)),
            ("failedJobsHistoryLimit", Fill::Int(1)),
        ],
    );
    // The job itself gets its defaults when it is made; its pods get theirs here.
    if let Some(template) = object_at(spec, &["jobTemplate", "spec", "template"]) {
        crate::core::pod::defaults::template(template);
    }
    object_at(spec, &["jobTemplate", "metadata"]);
}

pub(crate) fn validate(job: &Value, e: &mut Errors) {
    let root = At::root(job);
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    if metadata.get("name").text().len() > MAX_NAME {
        metadata.get("name").invalid(e, "must be no more than 52 characters");
    }
    let schedule = spec.get("schedule");
    if schedule.must_be_set(e) {
        check_schedule(&schedule, e);
    }
    check::not_negative(&spec.get("startingDeadlineSeconds"), e);
    check::required_one_of(&spec.get("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], e);
    check::not_negative(&spec.get("successfulJobsHistoryLimit"), e);
    check::not_negative(&spec.get("failedJobsHistoryLimit"), e);
    let zone = spec.get("timeZone");
    if zone.is_set() && zone.text().is_empty() {
        zone.invalid(e, "timeZone must be nil or non-empty string");
    }
    let template = spec.get("jobTemplate");
    super::job::validate_spec(&template.get("spec"), e);
}

const NICKNAMES: [&str; 7] =
    ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];
const RANGES: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];

fn check_schedule(at: &At, e: &mut Errors) {
    let text = at.text();
    if text.contains("TZ=") || text.contains("CRON_TZ=") {
        return at.invalid(e, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
    if NICKNAMES.contains(&text) || text.strip_prefix("@every ").is_some_and(|d| !d.is_empty()) {
        return;
    }
    if text.starts_with('@') {
        return at.invalid(e, format!("unrecognized descriptor: {text}"));
    }
    let fields: Vec<&str> = text.split_whitespace().collect();
    if fields.len() != RANGES.len() {
        return at.invalid(
            e,
            format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")),
        );
    }
    for (field, (low, high)) in fields.iter().zip(RANGES) {
        for part in field.split(',') {
            if let Err(problem) = check_part(part, low, high) {
                return at.invalid(e, problem);
            }
        }
    }
}

const NAMES: [&str; 19] = [
    "sun", "mon", "tue", "wed", "thu", "fri", "sat", "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug",
    "sep", "oct", "nov", "dec",
];

fn check_part(part: &str, low: u32, high: u32) -> Result<(), String> {
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step)),
        None => (part, None),
    };
    if let Some(step) = step {
        let step: u32 = step.parse().map_err(|_| format!("failed to parse int from {step}"))?;
        if step == 0 {
            return Err(format!("step of range should be a positive number: {part}"));
        }
    }
    if range == "*" || range == "?" {
        return Ok(());
    }
    let named = high == 12 || high == 6;
    let mut last = low;
    for end in range.splitn(2, '-') {
        if named && NAMES.contains(&end.to_lowercase().as_str()) {
            continue;
        }
        let number: u32 = end.parse().map_err(|_| format!("failed to parse int from {end}"))?;
        if number < low {
            return Err(format!("beginning of range ({number}) below minimum ({low}): {part}"));
        }
        if number > high {
            return Err(format!("end of range ({number}) above maximum ({high}): {part}"));
        }
        if number < last {
            return Err(format!("beginning of range ({last}) beyond end of range ({number}): {part}"));
        }
        last = number;
    }
    Ok(())
}
