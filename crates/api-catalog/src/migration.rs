//! `storagemigration.k8s.io/v1`: requests to write all objects of a resource anew, in the form that they are stored in now.
//!
//! A controller carries them out; what it has reached stays reached.

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::resource::{Resource, Rules};
use api_machinery::schema::Arena;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{Family, with_status};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.storagemigration.v1";
    let family = Family { arena, group: "storagemigration.k8s.io", version: "v1", package };
    vec![Resource {
        subresources: with_status(),
        rules: Rules {
            validate: |migration, e| {
                let root = At::root(migration);
                let spec = root.get("spec");
                let wanted = spec.get("resource");
                let resource = wanted.get("resource");
                if resource.is_empty() {
                    resource.required(e, "resource is required");
                }
            },
            validate_update,
            validate_status_update,
            allow_unconditional_update: false,
            ..Rules::default()
        },
        ..family.cluster_kind("StorageVersionMigration", "storageversionmigrations")
    }]
}

fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    for field in ["group", "resource"] {
        let [is, was] =
            [new, old].map(|migration| migration["spec"]["resource"][field].as_str().unwrap_or(""));
        if is != was {
            // Upstream leaves the way there out.
            At::root(new).get(field).invalid_as(e, is, check::IMMUTABLE);
        }
    }
}

fn is_true(migration: &Value, kind: &str) -> bool {
    let mut conditions = migration["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == kind && condition["status"] == "True")
}

fn validate_status_update(new: &Value, old: &Value, e: &mut Errors) {
    let (root, before) = (At::root(new), At::root(old));
    let (status, was) = (root.get("status"), before.get("status"));
    let (version, conditions) = (status.get("resourceVersion"), status.get("conditions"));
    if !version.is_empty() {
        match version.text().parse::<i64>() {
            Ok(number) if number < 0 => version.invalid_as(e, number, check::NEGATIVE),
            Ok(_) => {}
            Err(_) => {
                let text = version.text();
                let detail = format!(
                    "failed to parse resource version {text:?}: strconv.ParseInt: parsing {text:?}: invalid syntax"
                );
                version.invalid(e, detail);
            }
        }
    }
    check::conditions(&conditions, usize::MAX, e);
    let known = was.get("resourceVersion");
    if !known.is_empty() && known.text() != version.text() {
        version.invalid_text(e, "resourceVersion cannot be updated");
    }
    let [running, succeeded, failed] = ["Running", "Succeeded", "Failed"].map(|kind| is_true(new, kind));
    let wrong = [
        (succeeded && failed, "Both success and failed conditions cannot be true at the same time"),
        (succeeded && running, "Running condition cannot be true when success condition is true"),
        (failed && running, "Running condition cannot be true when failed condition is true"),
        (is_true(old, "Succeeded") && !succeeded, "Success condition cannot be set to false once it is true"),
        (is_true(old, "Failed") && !failed, "Failed condition cannot be set to false once it is true"),
    ];
    for (_, detail) in wrong.into_iter().filter(|(wrong, _)| *wrong) {
        conditions.invalid(e, detail);
    }
}
