//! `apiregistration.k8s.io/v1`: which server answers for a version of a group, this one or one that a Service of the cluster
//! leads to.
//!
//! Whether that one can be reached is for the API server to find out, and to write into the status.

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Resource, Rules, drop_status};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::entry::{Family, columns, computed, texts, with_status};
use crate::fill::{Fill, fill, text};

/// What is said of one whose version this server answers for.
fn local() -> Value {
    let message = "Local APIServices are always available";
    json!({"conditions": [{"type": "Available", "status": "True", "reason": "Local", "message": message}]})
}

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1";
    let family = Family { arena, group: "apiregistration.k8s.io", version: "v1", package };
    vec![Resource {
        categories: texts(&["api-extensions"]),
        subresources: with_status(),
        columns: columns(&[
            ("Service", "string", 0, computed(service)),
            ("Available", "string", 0, computed(available)),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            default: |registration| {
                if let Some(service) = registration.pointer_mut("/spec/service") {
                    fill(service, &[("port", Fill::Int(443))]);
                }
            },
            validate,
            validate_status_update,
            prepare_create: |registration| {
                drop_status(registration);
                let is_local = !registration["spec"]["service"].is_object();
                if let Some(fields) = registration.as_object_mut().filter(|_| is_local) {
                    fields.insert("status".to_owned(), local());
                }
            },
            name: names::path_segment_name,
            allow_unconditional_update: false,
            ..Rules::default()
        },
        ..family.cluster_kind("APIService", "apiservices")
    }]
}

fn validate(registration: &Value, e: &mut Errors) {
    let root = At::root(registration);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let (group, version) = (spec.get("group"), spec.get("version"));
    let (name, wanted) = (metadata.get("name"), format!("{}.{}", version.text(), group.text()));
    if !name.is_empty() && names::is_path_segment(name.text()).is_empty() && name.text() != wanted {
        name.invalid(e, format!("must be `spec.version+\".\"+spec.group`: {wanted:?}"));
    }
    if group.is_empty() && version.text() != "v1" {
        group.required(e, "only v1 may have an empty group and it better be legacy kube");
    }
    check::name(&group, names::is_dns1123_subdomain, e);
    version.all_invalid(e, names::is_dns1035_label(version.text()));
    priority(&spec.get("groupPriorityMinimum"), 20_000, e);
    priority(&spec.get("versionPriority"), 1000, e);
    place(&spec, e);
}

fn priority(at: &At, most: i64, e: &mut Errors) {
    let number = at.int().unwrap_or(0);
    if !(1..=most).contains(&number) {
        at.invalid_as(e, number, format!("must be positive and less than {most}"));
    }
}

/// Where the server is, and how it proves that it is that.
fn place(spec: &At, e: &mut Errors) {
    let (service, bundle, insecure) =
        (spec.get("service"), spec.get("caBundle"), spec.get("insecureSkipTLSVerify"));
    if !service.is_set() {
        if !bundle.is_empty() {
            let length = base64_length(bundle.text());
            bundle.invalid_as(e, format!("{length} bytes"), "local APIServices may not have a caBundle");
        }
        if insecure.flag() {
            insecure.invalid(e, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    }
    for field in ["namespace", "name"] {
        service.get(field).must_be_set(e);
    }
    check::port_number(&service.get("port"), e);
    if insecure.flag() && !bundle.is_empty() {
        insecure.invalid(e, "may not be true if caBundle is present");
    }
}

/// How many bytes a base64 text stands for.
fn base64_length(text: &str) -> usize {
    text.len() / 4 * 3 - text.bytes().rev().take_while(|byte| *byte == b'=').count().min(2)
}

fn validate_status_update(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    for condition in status.get("conditions").items() {
        let at = condition.get("status");
        if !matches!(at.text(), "True" | "False" | "Unknown") {
            at.not_supported(e, &["True", "False", "Unknown"]);
        }
    }
}

fn service(registration: &Value, _: Timestamp) -> Value {
    match &registration["spec"]["service"] {
        Value::Object(_) => {
            let service = &registration["spec"]["service"];
            format!("{}/{}", text(service, "namespace"), text(service, "name")).into()
        }
        _ => "Local".into(),
    }
}

fn available(registration: &Value, _: Timestamp) -> Value {
    let mut conditions = registration["status"]["conditions"].as_array().into_iter().flatten();
    let Some(condition) = conditions.find(|one| one["type"] == "Available") else { return "Unknown".into() };
    match (text(condition, "status"), text(condition, "reason")) {
        (status @ "True", _) | (status, "") => status.into(),
        (status, reason) => format!("{status} ({reason})").into(),
    }
}
