//! Jobs.

use api_machinery::clock;
use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::core::pod;
use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, get, object_at, set, set_if_absent, text};
use crate::print::{container_names, images, number, selector};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Status", "string", 0, computed(state)),
        ("Completions", "string", 0, computed(completions)),
        ("Duration", "string", 0, computed(took)),
        ("Age", "string", 0, Cell::Age),
        ("Containers", "string", 1, computed(|j, _| container_names(&j["spec"]["template"]["spec"]))),
        ("Images", "string", 1, computed(|j, _| images(&j["spec"]["template"]["spec"]))),
        ("Selector", "string", 1, computed(|j, _| selector(&j["spec"]["selector"]))),
    ])
}

fn state(job: &Value, _: Timestamp) -> Value {
    let conditions = || job["status"]["conditions"].as_array().into_iter().flatten();
    let has = |kind: &str| conditions().any(|c| text(c, "type") == kind && text(c, "status") == "True");
    let word = match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if meta::is_deleting(job) => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    };
    Value::from(word)
}

fn completions(job: &Value, _: Timestamp) -> Value {
    let done = number(&job["status"]["succeeded"]);
    let (wanted, parallel) = (get(&job["spec"], "completions"), number(&job["spec"]["parallelism"]));
    Value::from(match wanted {
        Some(wanted) => format!("{done}/{}", number(wanted)),
        None if parallel > 1 => format!("{done}/1 of {parallel}"),
        None => format!("{done}/1"),
    })
}

fn took(job: &Value, now: Timestamp) -> Value {
    let time = |field: &str| job["status"][field].as_str().and_then(clock::parse);
    Value::from(match (time("startTime"), time("completionTime")) {
        (None, _) => String::new(),
        (Some(start), end) => {
            api_machinery::table::human_duration(end.unwrap_or(now).as_second() - start.as_second())
        }
    })
}

pub(crate) fn default(job: &mut Value) {
    if let Some(spec) = object_at(job, &["spec"]) {
        spec_defaults(spec);
    }
    let labels = job.pointer("/spec/template/metadata/labels").filter(|l| l.is_object()).cloned();
    if let (Some(labels), None) = (labels, meta::labels(job).filter(|l| !l.is_empty())) {
        meta::metadata_mut(job).insert("labels".to_owned(), labels);
    }
}

pub(crate) fn spec_defaults(spec: &mut Value) {
    if let Some(template) = object_at(spec, &["template"]) {
        pod::defaults::template(template);
    }
    if get(spec, "completions").is_none() && get(spec, "parallelism").is_none() {
        set(spec, "completions", 1);
    }
    fill(
        spec,
        &[
            ("parallelism", Fill::Int(1)),
            ("completionMode", Fill::Text("NonIndexed")),
            ("suspend", Fill::Flag(false)),
            ("manualSelector", Fill::Flag(false)),
        ],
    );
    let per_index = get(spec, "backoffLimitPerIndex").is_some();
    set_if_absent(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    let has_policy = get(spec, "podFailurePolicy").is_some();
    set_if_absent(spec, "podReplacementPolicy", if has_policy { "Failed" } else { "TerminatingOrFailed" });
    if get(spec, "manualSelector") == Some(&Value::Bool(false)) {
        crate::fill::remove(spec, "manualSelector");
    }
}

/// Pods of a job are known by its uid: selector and labels are generated from it.
pub(crate) fn prepare_create(job: &mut Value) {
    set(job, "status", json!({}));
    let (uid, name) = (meta::uid(job).to_owned(), meta::name(job).to_owned());
    if job["spec"]["manualSelector"] == true || uid.is_empty() {
        return;
    }
    let Some(spec) = object_at(job, &["spec"]) else { return };
    if let Some(labels) = object_at(spec, &["template", "metadata", "labels"]) {
        for (key, value) in [
            ("batch.kubernetes.io/controller-uid", &uid),
            ("batch.kubernetes.io/job-name", &name),
            ("controller-uid", &uid),
            ("job-name", &name),
        ] {
            set(labels, key, value.clone());
        }
    }
    if get(spec, "selector").is_none() {
        set(spec, "selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}));
    }
}

pub(crate) fn validate(job: &Value, e: &mut Errors) {
    let root = At::root(job);
    validate_spec(&root.get("spec"), e);
}

pub(crate) fn validate_spec(spec: &At, e: &mut Errors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check::not_negative(&spec.get(field), e);
    }
    let mode = spec.get("completionMode");
    check::one_of(&mode, &["Indexed", "NonIndexed"], e);
    if mode.text() == "Indexed" && !spec.get("completions").is_set() {
        spec.get("completions").required(e, "when completion mode is Indexed");
    }
    if spec.get("backoffLimitPerIndex").is_set() && mode.text() != "Indexed" {
        spec.get("backoffLimitPerIndex").invalid(e, "requires indexed completion mode");
    }
    check::label_selector(&spec.get("selector"), e);
    check::one_of(&spec.get("podReplacementPolicy"), &["Failed", "TerminatingOrFailed"], e);
    let template = spec.get("template");
    let pod = template.get("spec");
    pod::validate::template(&template, e);
    // What a job wants of restarts has no default.
    let policy = pod.get("restartPolicy");
    if matches!(policy.text(), "" | "Always") {
        policy.required_value(e, &["OnFailure", "Never"]);
    }
    if spec.get("podFailurePolicy").is_set() && policy.text() != "Never" {
        policy.invalid(e, "only \"Never\" is supported when podFailurePolicy is specified");
    }
}

/// While a job is not suspended only its counts may change.
const FIXED: [&str; 6] =
    ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy", "selector"];

pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    for field in FIXED {
        check::immutable(&spec.get(field), &before.get(field), e);
    }
    if spec.get("completionMode").text() != "Indexed" {
        check::immutable(&spec.get("completions"), &before.get("completions"), e);
    }
    let started = old.get("status").get("startTime").is_set();
    let suspended = before.get("suspend").flag() && !started;
    if !suspended {
        check::immutable(&spec.get("template"), &before.get("template"), e);
    }
}
