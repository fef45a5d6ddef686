//! PersistentVolumes and PersistentVolumeClaims: tables and defaults.

mod validate;

use api_machinery::resource::{Cell, Column};
use serde_json::{Value, json};

use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, get, object_at, set, set_if_absent, text};
use crate::print::access_modes;

pub(crate) use validate::{
    claim_spec, driver_name, inline_volume, validate_claim, validate_claim_update, validate_volume,
    validate_volume_update,
};

pub(crate) fn claim_table() -> Vec<Column> {
    columns(&[
        ("Status", "string", 0, computed(|claim, _| phase(claim))),
        ("Volume", "string", 0, computed(|claim, _| Value::from(text(&claim["spec"], "volumeName")))),
        (
            "Capacity",
            "string",
            0,
            computed(|claim, _| bound(claim, text(&claim["status"]["capacity"], "storage"))),
        ),
        (
            "Access Modes",
            "string",
            0,
            computed(|claim, _| bound(claim, &access_modes(&claim["status"]["accessModes"]))),
        ),
        (
            "StorageClass",
            "string",
            0,
            computed(|claim, _| Value::from(text(&claim["spec"], "storageClassName"))),
        ),
        ("VolumeAttributesClass", "string", 0, computed(attributes_class)),
        ("Age", "string", 0, Cell::Age),
        ("VolumeMode", "string", 1, computed(|claim, _| mode(&claim["spec"]))),
    ])
}

fn bound(claim: &Value, value: &str) -> Value {
    Value::from(if text(&claim["spec"], "volumeName").is_empty() { "" } else { value })
}

fn attributes_class(object: &Value, _: jiff::Timestamp) -> Value {
    match text(&object["spec"], "volumeAttributesClassName") {
        "" => Value::from("<unset>"),
        name => Value::from(name),
    }
}

fn mode(spec: &Value) -> Value {
    match text(spec, "volumeMode") {
        "" => Value::from("<unset>"),
        mode => Value::from(mode),
    }
}

fn phase(object: &Value) -> Value {
    let deleting = get(&object["metadata"], "deletionTimestamp").is_some();
    Value::from(if deleting { "Terminating" } else { text(&object["status"], "phase") })
}

pub(crate) fn volume_table() -> Vec<Column> {
    columns(&[
        (
            "Capacity",
            "string",
            0,
            computed(|volume, _| Value::from(text(&volume["spec"]["capacity"], "storage"))),
        ),
        (
            "Access Modes",
            "string",
            0,
            computed(|volume, _| Value::from(access_modes(&volume["spec"]["accessModes"]))),
        ),
        ("Reclaim Policy", "string", 0, Cell::Path(".spec.persistentVolumeReclaimPolicy".into())),
        ("Status", "string", 0, computed(|volume, _| phase(volume))),
        ("Claim", "string", 0, computed(claim_of)),
        (
            "StorageClass",
            "string",
            0,
            computed(|volume, _| Value::from(text(&volume["spec"], "storageClassName"))),
        ),
        ("VolumeAttributesClass", "string", 0, computed(attributes_class)),
        ("Reason", "string", 0, computed(|volume, _| Value::from(text(&volume["status"], "reason")))),
        ("Age", "string", 0, Cell::Age),
        ("VolumeMode", "string", 1, computed(|volume, _| mode(&volume["spec"]))),
    ])
}

fn claim_of(volume: &Value, _: jiff::Timestamp) -> Value {
    match get(&volume["spec"], "claimRef") {
        Some(claim) => Value::from(format!("{}/{}", text(claim, "namespace"), text(claim, "name"))),
        None => Value::from(""),
    }
}

pub(crate) fn claim_defaults(claim: &mut Value) {
    if let Some(spec) = object_at(claim, &["spec"]) {
        claim_spec_defaults(spec);
    }
}

/// Also of claim templates in stateful sets and pods.
pub(crate) fn claim_spec_defaults(spec: &mut Value) {
    fill(spec, &[("volumeMode", Fill::Text("Filesystem"))]);
    // One source of data has two names.
    if let Some(source) = get(spec, "dataSource").cloned() {
        set_if_absent(spec, "dataSourceRef", source);
    } else if let Some(source) = get(spec, "dataSourceRef").cloned() {
        let here = text(&source, "namespace").is_empty();
        let known = matches!(text(&source, "kind"), "PersistentVolumeClaim" | "VolumeSnapshot");
        if here && known {
            set(spec, "dataSource", source);
        }
    }
}

pub(crate) fn prepare_claim_create(claim: &mut Value) {
    set(claim, "status", json!({"phase": "Pending"}));
}

pub(crate) fn volume_defaults(volume: &mut Value) {
    if let Some(spec) = object_at(volume, &["spec"]) {
        fill(
            spec,
            &[
                ("persistentVolumeReclaimPolicy", Fill::Text("Retain")),
                ("volumeMode", Fill::Text("Filesystem")),
            ],
        );
        if let Some(path) = spec.get_mut("hostPath") {
            set_if_absent(path, "type", "");
        }
    }
}

pub(crate) fn prepare_volume_create(volume: &mut Value) {
    set(volume, "status", json!({"phase": "Pending"}));
}
