//! What PersistentVolumes and PersistentVolumeClaims must be.

use api_machinery::field::{Errors, Path};
use api_machinery::names;
use api_machinery::resource::copy_field;
use serde_json::Value;

use crate::at::At;
use crate::check::table::{Rule, Table, follow};
use crate::check::{self, resources};
use crate::core::pod::scheduling::node_selector;
use crate::core::pod::volumes;
use crate::fill::{object_at, remove, set, text};

const ACCESS_MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: &[&str] = &["Block", "Filesystem"];
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// The longest name of a CSI driver, in bytes.
const LONGEST_DRIVER: usize = 63;

pub(crate) fn validate_claim(claim: &Value, e: &mut Errors) {
    let root = At::root(claim);
    claim_spec(&root.get("spec"), e);
}

pub(crate) fn claim_spec(spec: &At, e: &mut Errors) {
    let modes = spec.get("accessModes");
    if modes.is_empty() {
        modes.required(e, "at least 1 access mode is required");
    }
    check::label_selector(&spec.get("selector"), e);
    access_modes(&modes, e);
    let wanted = spec.get("resources");
    let requests = wanted.get("requests");
    let (size, asked) = (wanted.key("storage"), requests.key("storage"));
    // Upstream's path leaves `requests` out.
    match resources::parse(&asked) {
        None if asked.is_set() => resources::quantity(&asked, "storage", e),
        None => size.required(e, ""),
        Some(amount) if amount.is_zero() || amount.is_negative() => {
            size.invalid_as(e, resources::shown(&asked), POSITIVE);
        }
        Some(_) => {}
    }
    check::name(&spec.get("storageClassName"), names::is_dns1123_subdomain, e);
    supported(&spec.get("volumeMode"), VOLUME_MODES, e);
    data_sources(spec, e);
    check::name(&spec.get("volumeAttributesClassName"), names::is_dns1123_subdomain, e);
}

const POSITIVE: &str = "must be greater than zero";

fn supported(at: &At, values: &[&str], e: &mut Errors) {
    if at.is_set() && !values.contains(&at.text()) {
        at.not_supported(e, values);
    }
}

fn data_sources(spec: &At, e: &mut Errors) {
    let (source, reference) = (spec.get("dataSource"), spec.get("dataSourceRef"));
    for source in [&source, &reference].into_iter().filter(|source| source.is_set()) {
        let (kind, group) = (source.get("kind"), source.get("apiGroup"));
        source.get("name").must_be_set(e);
        kind.must_be_set(e);
        if group.is_empty() && kind.text() != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            source.invalid_as(e, kind.text(), why);
        }
        check::name(&group, names::is_dns1123_subdomain, e);
    }
    let elsewhere = reference.get("namespace");
    check::name(&elsewhere, names::is_dns1123_label, e);
    if !(source.is_set() && reference.is_set()) {
        return;
    }
    if !elsewhere.is_empty() {
        spec.invalid_as(e, source.path(), "may not be specified when dataSourceRef.namespace is specified");
        return;
    }
    let same = |field| check::same(source.get(field).value(), reference.get(field).value());
    if !["apiGroup", "kind", "name"].into_iter().all(same) {
        spec.invalid_as(e, source.path(), "must match dataSourceRef");
    }
}

fn access_modes(modes: &At, e: &mut Errors) {
    for mode in modes.texts().filter(|mode| !ACCESS_MODES.contains(mode)) {
        modes.not_supported_as(e, mode, ACCESS_MODES);
    }
    let (alone, shared): (Vec<&str>, Vec<&str>) = modes
        .texts()
        .filter(|mode| ACCESS_MODES.contains(mode))
        .partition(|mode| *mode == "ReadWriteOncePod");
    if !alone.is_empty() && !shared.is_empty() {
        modes.forbidden(e, "may not use ReadWriteOncePod with other access modes");
    }
}

/// A bound claim may get another size; before it is bound, its volume may be set, and its class where it had none.
pub(crate) fn validate_claim_update(new: &Value, old: &Value, e: &mut Errors) {
    let mut allowed = new.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    let size = before.pointer("/resources/requests/storage");
    if text(&new["status"], "phase") == "Bound"
        && let Some(size) = size
        && let Some(requests) = object_at(&mut allowed, &["resources", "requests"])
    {
        set(requests, "storage", size.clone());
    }
    if text(&before, "volumeName").is_empty() {
        copy_field(&mut allowed, &before, "volumeName");
    }
    let annotated = api_machinery::meta::annotation(old, CLASS_ANNOTATION);
    let class = new["spec"]["storageClassName"].as_str();
    if before["storageClassName"].is_null() && class.is_some() && (annotated.is_none() || annotated == class)
    {
        copy_field(&mut allowed, &before, "storageClassName");
    }
    copy_field(&mut allowed, &before, "volumeAttributesClassName");
    let (root, was) = (At::root(new), At::root(old));
    let (spec, then) = (root.get("spec"), was.get("spec"));
    if !check::same(Some(&allowed), Some(&before)) {
        spec.forbidden(e, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
    }
    smaller_size(new, old, e);
    same_volume_mode(&spec, &then, e);
    let (class, class_before) =
        (spec.get("volumeAttributesClassName"), then.get("volumeAttributesClassName"));
    if class_before.is_set() && !class.is_set() {
        class.forbidden(e, "update from non-nil value to nil is forbidden");
    } else if class_before.is_set() && !class_before.is_empty() && class.is_empty() {
        class.forbidden(e, "update from non-nil value to an empty string is forbidden");
    }
}

/// A size that was asked for and not reached may be taken back, down to what is there.
fn smaller_size(new: &Value, old: &Value, e: &mut Errors) {
    let amount = |object: &Value, way: &str| {
        object.pointer(way).and_then(api_machinery::quantity::Quantity::from_json)
    };
    let (now, then) =
        (amount(new, "/spec/resources/requests/storage"), amount(old, "/spec/resources/requests/storage"));
    if now < then && now <= amount(old, "/status/capacity/storage") {
        let path = "spec.resources.requests.storage";
        e.forbidden(&Path::new(path), "field can not be less than status.capacity");
    }
}

/// Upstream's path leaves `spec` out.
fn same_volume_mode(spec: &At, before: &At, e: &mut Errors) {
    let mode = spec.get("volumeMode");
    if !check::same(mode.value(), before.get("volumeMode").value()) {
        e.invalid(&Path::new("volumeMode"), mode.text(), check::IMMUTABLE);
    }
}

/// The sources of a volume in upstream's order; what a pod may use as well must be what it must be there.
const SOURCES: &[&str] = &[
    "hostPath",
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "flocker",
    "nfs",
    "rbd",
    "quobyte",
    "cephfs",
    "iscsi",
    "cinder",
    "fc",
    "flexVolume",
    "azureFile",
    "vsphereVolume",
    "photonPersistentDisk",
    "portworxVolume",
    "azureDisk",
    "scaleIO",
    "local",
    "storageos",
    "csi",
];
/// The sources that a pod cannot use, or not in this form.
const OWN: &Table = &[("csi", Rule::Check(csi)), ("local", Rule::Check(local))];

pub(crate) fn validate_volume(volume: &Value, e: &mut Errors) {
    let root = At::root(volume);
    let spec = root.get("spec");
    let modes = spec.get("accessModes");
    modes.must_be_set(e);
    access_modes(&modes, e);
    let capacity = spec.get("capacity");
    capacity.must_be_set(e);
    if !capacity.key("storage").is_set() || capacity.len_of_map() > 1 {
        capacity.not_supported_as(e, capacity.value().cloned(), &["storage"]);
    }
    for (name, amount) in capacity.entries() {
        resources::quantity(&amount, name, e);
        if resources::parse(&amount).is_some_and(|amount| amount.is_zero() || amount.is_negative()) {
            amount.invalid_text_or_value(e, POSITIVE);
        }
    }
    let policy = spec.get("persistentVolumeReclaimPolicy");
    check::one_of(&policy, &["Delete", "Recycle", "Retain"], e);
    let affinity = spec.get("nodeAffinity");
    if affinity.is_set() {
        let required = affinity.get("required");
        match required.is_set() {
            true => node_selector(&required, e),
            false => required.required(e, "must specify required node constraints"),
        }
    }
    source(&spec, e);
    let host = spec.get("hostPath");
    let root_of_host = !host.get("path").is_empty()
        && host.get("path").text().split('/').all(|step| matches!(step, "" | "."));
    if root_of_host && policy.text() == "Recycle" {
        policy.forbidden(e, "may not be 'recycle' for a hostPath mount of '/'");
    }
    check::name(&spec.get("storageClassName"), names::is_dns1123_subdomain, e);
    supported(&spec.get("volumeMode"), VOLUME_MODES, e);
    let class = spec.get("volumeAttributesClassName");
    if class.is_set() {
        match class.is_empty() {
            true => class.required(e, "an empty string is disallowed"),
            false => class.all_invalid(e, names::is_dns1123_subdomain(class.text())),
        }
        if !spec.get("csi").is_set() {
            spec.get("csi").required(e, "has to be specified when using volumeAttributesClassName");
        }
    }
}

/// Exactly one source.
fn source(spec: &At, e: &mut Errors) {
    let mut found = SOURCES.iter().filter(|source| spec.get(source).is_set());
    let Some(first) = found.next() else { return spec.required(e, "must specify a volume type") };
    let own = OWN.iter().find(|(source, _)| source == first);
    let known = own.or_else(|| volumes::SOURCES.iter().find(|(source, _)| source == first));
    follow(spec, known.map(std::slice::from_ref).unwrap_or_default(), e);
    if *first == "local" && !spec.get("nodeAffinity").is_set() {
        spec.get("nodeAffinity").required(e, "Local volume requires node affinity");
    }
    for extra in found {
        spec.get(extra).forbidden(e, "may not specify more than 1 volume type");
    }
}

fn local(source: &At, e: &mut Errors) {
    let path = source.get("path");
    if path.must_be_set(e) {
        volumes::no_backsteps(&path, e);
    }
}

fn csi(source: &At, e: &mut Errors) {
    const SECRETS: [&str; 5] = [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeStageSecretRef",
        "nodeExpandSecretRef",
    ];
    driver_name(&source.get("driver"), e);
    source.get("volumeHandle").must_be_set(e);
    for secret in SECRETS.map(|field| source.get(field)).iter().filter(|secret| secret.is_set()) {
        secret.get("name").must_be_set(e);
        secret.get("namespace").must_be_set(e);
    }
}

/// The name of a CSI driver.
pub(crate) fn driver_name(name: &At, e: &mut Errors) {
    if !name.must_be_set(e) {
        return;
    }
    if name.text().len() > LONGEST_DRIVER {
        name.too_long(e, LONGEST_DRIVER);
    }
    name.all_invalid(e, names::is_dns1123_subdomain(&name.text().to_lowercase()));
}

/// A volume that is part of its attachment: of a driver, and nobody's.
pub(crate) fn inline_volume(spec: &At, e: &mut Errors) {
    const NOT_INLINE: &str = "may not be specified in the context of inline volumes";
    let forbid = |field: &str, e: &mut Errors| {
        if !spec.get(field).is_empty() {
            spec.get(field).forbidden(e, NOT_INLINE);
        }
    };
    forbid("claimRef", e);
    forbid("capacity", e);
    let csi = spec.get("csi");
    if !csi.is_set() {
        csi.required(e, "has to be specified in the context of inline volumes");
    }
    let modes = spec.get("accessModes");
    modes.must_be_set(e);
    access_modes(&modes, e);
    let policy = spec.get("persistentVolumeReclaimPolicy");
    if !matches!(policy.text(), "" | "Retain") {
        policy.forbidden(e, "may only be Retain in the context of inline volumes");
    }
    forbid("nodeAffinity", e);
    source(spec, e);
    forbid("storageClassName", e);
    let mode = spec.get("volumeMode");
    if !matches!(mode.text(), "" | "Filesystem") {
        mode.forbidden(
            e,
            "may not specify volumeMode other than Filesystem in the context of inline volumes",
        );
    }
}

pub(crate) fn validate_volume_update(new: &Value, old: &Value, e: &mut Errors) {
    let (root, was) = (At::root(new), At::root(old));
    let (spec, before) = (root.get("spec"), was.get("spec"));
    // A secret for growing it may come later.
    let mut allowed = new["spec"].clone();
    if before.get("csi").is_set()
        && !before.get("csi").get("controllerExpandSecretRef").is_set()
        && let Some(csi) = allowed.get_mut("csi")
    {
        remove(csi, "controllerExpandSecretRef");
    }
    let changed = |source: &&&str| !check::same(allowed.get(**source), before.get(source).value());
    if SOURCES.iter().find(changed).is_some() {
        spec.get("persistentvolumesource")
            .forbidden(e, "spec.persistentvolumesource is immutable after creation");
    }
    same_volume_mode(&spec, &before, e);
    let affinity = before.get("nodeAffinity");
    if affinity.is_set() && !check::same(spec.get("nodeAffinity").value(), affinity.value()) {
        e.invalid(&Path::new("nodeAffinity"), new["spec"]["nodeAffinity"].clone(), check::IMMUTABLE);
    }
    let class = spec.get("volumeAttributesClassName");
    if before.get("volumeAttributesClassName").is_set() && !class.is_set() {
        class.forbidden(e, "update from non-nil value to nil is forbidden");
    }
}
