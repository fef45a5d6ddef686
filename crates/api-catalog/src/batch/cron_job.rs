//! CronJobs.

use api_machinery::cron::Schedule;
use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use jiff::tz::TimeZone;
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
    if zone.is_set() {
        check_zone(&zone, e);
    }
    let template = spec.get("jobTemplate");
    super::job::validate_spec(&template.get("spec"), e);
}

/// The zone of a schedule is not part of it; and who names one means one that everybody knows.
fn check_schedule(at: &At, e: &mut Errors) {
    let text = at.text();
    if text.contains("TZ") {
        return at.invalid(e, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    }
    if let Err(problem) = Schedule::parse(text) {
        at.invalid(e, problem);
    }
}

fn check_zone(at: &At, e: &mut Errors) {
    let name = at.text();
    if name.is_empty() {
        at.invalid(e, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("Local") {
        at.invalid(e, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones");
    } else if TimeZone::get(name).is_err() {
        at.invalid(e, format!("unknown time zone {name}"));
    }
}
