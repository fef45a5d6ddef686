//! PersistentVolumes and PersistentVolumeClaims.

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Column};
use serde_json::{Value, json};

use crate::at::At;
use crate::check::{self, resources};
use crate::entry::{columns, computed};
use crate::fill::{Fill, fill, get, object_at, set, set_if_absent, text};
use crate::print::access_modes;

const MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

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

pub(crate) fn validate_claim(claim: &Value, e: &mut Errors) {
    let root = At::root(claim);
    claim_spec(&root.get("spec"), e);
}

pub(crate) fn claim_spec(spec: &At, e: &mut Errors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required(e, "at least 1 access mode is required");
    }
    access_mode_values(&modes, e);
    check::label_selector(&spec.get("selector"), e);
    let wanted = spec.get("resources");
    let requests = wanted.get("requests");
    let storage = requests.key("storage");
    if !storage.is_set() {
        storage.required(e, "");
    }
    positive(&storage, e);
    check::name(&spec.get("storageClassName"), names::is_dns1123_subdomain, e);
    check::one_of(&spec.get("volumeMode"), &["Block", "Filesystem"], e);
}

fn access_mode_values(modes: &At, e: &mut Errors) {
    let mut alone = false;
    for mode in modes.items() {
        if !MODES.contains(&mode.text()) {
            modes.not_supported_as(e, mode.text(), &MODES);
        }
        alone |= mode.text() == "ReadWriteOncePod";
    }
    if alone && modes.len() > 1 {
        modes.forbidden(e, "may not use ReadWriteOncePod with other access modes");
    }
}

fn positive(amount: &At, e: &mut Errors) {
    if !amount.is_set() {
        return;
    }
    resources::quantity(amount, "storage", e);
    if resources::parse(amount).is_some_and(|q| q.is_zero()) {
        amount.invalid_text_or_value(e, "must be greater than zero");
    }
}

/// A bound claim may only grow; before it is bound, its volume may be set.
pub(crate) fn validate_claim_update(new: &Value, old: &Value, e: &mut Errors) {
    let mut allowed = new.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    let growing = text(&old["status"], "phase") == "Bound";
    if growing
        && let Some(size) = before.pointer("/resources/requests/storage")
        && let Some(requests) = object_at(&mut allowed, &["resources", "requests"])
    {
        set(requests, "storage", size.clone());
    }
    if text(&before, "volumeName").is_empty() {
        api_machinery::resource::copy_field(&mut allowed, &before, "volumeName");
    }
    api_machinery::resource::copy_field(&mut allowed, &before, "volumeAttributesClassName");
    let root = At::root(new);
    let spec = root.get("spec");
    if !check::same(Some(&allowed), Some(&before)) {
        spec.forbidden(e, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
    }
    let old = At::root(old);
    let (now, then) = (spec.get("resources"), old.get("spec"));
    let (now, then) = (now.get("requests"), then.get("resources"));
    let then = then.get("requests");
    let (size, size_before) = (now.key("storage"), then.key("storage"));
    if growing && resources::parse(&size) < resources::parse(&size_before) {
        now.get("storage").forbidden(e, "field can not be less than status.capacity");
    }
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

const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

pub(crate) fn validate_volume(volume: &Value, e: &mut Errors) {
    let root = At::root(volume);
    let spec = root.get("spec");
    let modes = spec.get("accessModes");
    modes.must_be_set(e);
    access_mode_values(&modes, e);
    let capacity = spec.get("capacity");
    capacity.must_be_set(e);
    if capacity.entries().any(|(name, _)| name != "storage") || capacity.len_of_map() > 1 {
        capacity.not_supported(e, &["storage"]);
    }
    positive(&capacity.key("storage"), e);
    check::one_of(&spec.get("persistentVolumeReclaimPolicy"), &["Delete", "Recycle", "Retain"], e);
    let set: Vec<&str> = SOURCES.into_iter().filter(|source| spec.get(source).is_set()).collect();
    if set.is_empty() {
        spec.required(e, "must specify a volume type");
    }
    for extra in set.iter().skip(1) {
        spec.get(extra).forbidden(e, "may not specify more than 1 volume type");
    }
    let host = spec.get("hostPath");
    if host.is_set() {
        host.get("path").must_be_set(e);
    }
    if spec.get("local").is_set() && !spec.get("nodeAffinity").is_set() {
        root.get("metadata").get("annotations").required(e, "Local volume requires node affinity");
    }
    check::name(&spec.get("storageClassName"), names::is_dns1123_subdomain, e);
    check::one_of(&spec.get("volumeMode"), &["Block", "Filesystem"], e);
}

pub(crate) fn validate_volume_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    for source in SOURCES {
        if !check::same(spec.get(source).value(), before.get(source).value()) {
            spec.get("persistentvolumesource")
                .forbidden(e, "spec.persistentvolumesource is immutable after creation");
        }
    }
    check::immutable(&spec.get("volumeMode"), &before.get("volumeMode"), e);
}
