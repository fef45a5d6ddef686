//! Validation of a pod's volumes and of the mounts and devices in its containers.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use serde_json::Value;

use super::containers::{VOLUME_FIELDS, field_ref, resource_ref};
use crate::at::At;
use crate::check::table::{LABEL, Rule, Table, follow};
use crate::check::{self, resources};

/// Every source of a volume's content, and what its fields must be.
pub(crate) const SOURCES: &[(&str, Rule)] = &[
    ("awsElasticBlockStore", Rule::Object(&[("volumeID", Rule::Required)])),
    ("azureDisk", Rule::Object(&[("diskName", Rule::Required), ("diskURI", Rule::Required)])),
    ("azureFile", Rule::Object(&[("secretName", Rule::Required), ("shareName", Rule::Required)])),
    ("cephfs", Rule::Object(&[("monitors", Rule::Required)])),
    ("cinder", Rule::Object(&[("volumeID", Rule::Required)])),
    ("configMap", Rule::Check(config_map)),
    ("csi", Rule::Object(&[("driver", Rule::Required)])),
    ("downwardAPI", Rule::Check(downward_api)),
    ("emptyDir", Rule::Check(empty_dir)),
    ("ephemeral", Rule::Check(ephemeral)),
    ("fc", Rule::Check(|_, _| {})),
    ("flexVolume", Rule::Object(&[("driver", Rule::Required)])),
    ("flocker", Rule::Check(|_, _| {})),
    ("gcePersistentDisk", Rule::Object(&[("pdName", Rule::Required)])),
    ("gitRepo", Rule::Object(&[("repository", Rule::Required)])),
    ("glusterfs", Rule::Object(&[("endpoints", Rule::Required), ("path", Rule::Required)])),
    ("hostPath", Rule::Check(host_path)),
    ("image", Rule::Object(&[("pullPolicy", Rule::OneOf(&["Always", "IfNotPresent", "Never"]))])),
    ("iscsi", Rule::Object(&[("targetPortal", Rule::Required), ("iqn", Rule::Required)])),
    ("nfs", Rule::Check(nfs)),
    ("persistentVolumeClaim", Rule::Object(&[("claimName", Rule::Required)])),
    ("photonPersistentDisk", Rule::Object(&[("pdID", Rule::Required)])),
    ("portworxVolume", Rule::Object(&[("volumeID", Rule::Required)])),
    ("projected", Rule::Check(projected)),
    ("quobyte", Rule::Object(&[("registry", Rule::Required), ("volume", Rule::Required)])),
    ("rbd", Rule::Object(&[("monitors", Rule::Required), ("image", Rule::Required)])),
    ("scaleIO", Rule::Object(&[("gateway", Rule::Required), ("system", Rule::Required)])),
    ("secret", Rule::Check(secret)),
    ("storageos", Rule::Check(|_, _| {})),
    ("vsphereVolume", Rule::Object(&[("volumePath", Rule::Required)])),
];

pub(crate) fn volumes(list: &At, e: &mut Errors) {
    for volume in list.items() {
        check::required_name(&volume.get("name"), LABEL, e);
        let mut found = 0;
        for source in SOURCES {
            let at = volume.get(source.0);
            if !at.is_set() {
                continue;
            }
            found += 1;
            if found > 1 {
                at.forbidden(e, "may not specify more than 1 volume type");
            } else {
                follow(&volume, std::slice::from_ref(source), e);
            }
        }
        if found == 0 {
            volume.required(e, "must specify a volume type");
        }
    }
    check::unique_field(list, "name", e);
}

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

fn file_mode(mode: &At, e: &mut Errors) {
    if mode.int().is_some_and(|mode| !(0..=0o777).contains(&mode)) {
        mode.invalid(e, MODE);
    }
}

const KEY_TO_PATH: &Table = &[
    ("key", Rule::Required),
    ("path", Rule::Required),
    ("path", Rule::Check(local_path)),
    ("mode", Rule::Check(file_mode)),
];

fn secret(source: &At, e: &mut Errors) {
    source.get("secretName").must_be_set(e);
    follow(source, &[("defaultMode", Rule::Check(file_mode)), ("items", Rule::Each(KEY_TO_PATH))], e);
}

fn config_map(source: &At, e: &mut Errors) {
    source.get("name").must_be_set(e);
    follow(source, &[("defaultMode", Rule::Check(file_mode)), ("items", Rule::Each(KEY_TO_PATH))], e);
}

fn downward_api(source: &At, e: &mut Errors) {
    follow(source, &[("defaultMode", Rule::Check(file_mode))], e);
    for item in source.get("items").items() {
        downward_item(&item, e);
    }
}

fn downward_item(item: &At, e: &mut Errors) {
    let (path, field, resource) = (item.get("path"), item.get("fieldRef"), item.get("resourceFieldRef"));
    if path.must_be_set(e) {
        local_path(&path, e);
    }
    match (field.is_set(), resource.is_set()) {
        (true, true) => item.invalid_as(
            e,
            "resource",
            "fieldRef and resourceFieldRef can not be specified simultaneously",
        ),
        (true, false) => field_ref(&field, VOLUME_FIELDS, e),
        (false, true) => resource_ref(&resource, true, e),
        (false, false) => item.required(e, "one of fieldRef and resourceFieldRef is required"),
    }
    file_mode(&item.get("mode"), e);
}

fn empty_dir(source: &At, e: &mut Errors) {
    let limit = source.get("sizeLimit");
    if limit.is_set() && resources::parse(&limit).is_none_or(|limit| limit.is_negative()) {
        limit.forbidden(e, "SizeLimit field must be a valid resource quantity");
    }
    let medium = source.get("medium");
    if !matches!(medium.text(), "" | "Memory") && !medium.text().starts_with("HugePages") {
        medium.not_supported(e, &["", "HugePages", "Memory"]);
    }
}

fn ephemeral(source: &At, e: &mut Errors) {
    let template = source.get("volumeClaimTemplate");
    if !template.is_set() {
        return template.required(e, "");
    }
    crate::core::claim_spec(&template.get("spec"), e);
}

const HOST_PATH_TYPES: &[&str] =
    &["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];

fn host_path(source: &At, e: &mut Errors) {
    let (path, kind) = (source.get("path"), source.get("type"));
    if !path.must_be_set(e) {
        return;
    }
    no_backsteps(&path, e);
    check::one_of(&kind, HOST_PATH_TYPES, e);
}

fn nfs(source: &At, e: &mut Errors) {
    source.get("server").must_be_set(e);
    let path = source.get("path");
    if path.must_be_set(e) && !path.text().starts_with('/') {
        path.invalid(e, "must be an absolute path");
    }
}

/// The sources of a projected volume's parts.
const PARTS: [&str; 6] =
    ["clusterTrustBundle", "configMap", "downwardAPI", "podCertificate", "secret", "serviceAccountToken"];

fn projected(source: &At, e: &mut Errors) {
    file_mode(&source.get("defaultMode"), e);
    let mut paths = BTreeSet::new();
    for part in source.get("sources").items() {
        let mut found = 0;
        for kind in PARTS {
            let at = part.get(kind);
            if !at.is_set() {
                continue;
            }
            found += 1;
            if found > 1 {
                at.forbidden(e, "may not specify more than 1 volume type per source");
            } else {
                projected_part(kind, &at, &mut paths, e);
            }
        }
        if found == 0 {
            part.required(e, "must specify a projected volume type");
        }
    }
}

fn projected_part<'v>(kind: &str, part: &At<'_, 'v>, paths: &mut BTreeSet<&'v str>, e: &mut Errors) {
    match kind {
        "secret" | "configMap" => {
            part.get("name").must_be_set(e);
            follow(part, &[("items", Rule::Each(KEY_TO_PATH))], e);
        }
        "downwardAPI" => {
            for item in part.get("items").items() {
                downward_item(&item, e);
            }
        }
        "serviceAccountToken" => token(part, e),
        _ => {}
    }
    let unique = |at: &At<'_, 'v>, paths: &mut BTreeSet<&'v str>, e: &mut Errors| {
        if !at.is_empty() && !paths.insert(at.text()) {
            at.invalid(e, "conflicting duplicate paths");
        }
    };
    for item in part.get("items").items() {
        unique(&item.get("path"), paths, e);
    }
    unique(&part.get("path"), paths, e);
}

fn token(source: &At, e: &mut Errors) {
    let (seconds, path) = (source.get("expirationSeconds"), source.get("path"));
    match seconds.int() {
        Some(..600) => seconds.invalid(e, "may not specify a duration less than 10 minutes"),
        Some(4_294_967_297..) => seconds.invalid(e, "may not specify a duration larger than 2^32 seconds"),
        _ => {}
    }
    if path.must_be_set(e) {
        local_path(&path, e);
    }
}

/// A path within a volume that names nothing reserved.
fn local_path(path: &At, e: &mut Errors) {
    descending(path, e);
    if path.text().starts_with("..") && !path.text().starts_with("../") {
        path.invalid(e, "must not start with '..'");
    }
}

/// A path that leads down from where it starts.
pub(crate) fn descending(path: &At, e: &mut Errors) {
    if path.text().starts_with('/') {
        path.invalid(e, "must be a relative path");
    }
    no_backsteps(path, e);
}

pub(crate) fn no_backsteps(path: &At, e: &mut Errors) {
    if path.text().split('/').any(|step| step == "..") {
        path.invalid(e, "must not contain '..'");
    }
}

/// `volumeMounts` and `volumeDevices` of a container.
pub(crate) fn mounts(container: &At, volumes: &At, e: &mut Errors) {
    let (mounts, devices) = (container.get("volumeMounts"), container.get("volumeDevices"));
    let declared: BTreeSet<&str> = volumes.array().iter().filter_map(|v| v.get("name")?.as_str()).collect();
    let texts = |list: &[Value], field: &str| -> BTreeSet<String> {
        list.iter().filter_map(|v| v.get(field)?.as_str()).map(str::to_owned).collect()
    };
    let device_paths = texts(devices.array(), "devicePath");
    let mut seen = BTreeSet::new();
    for mount in mounts.items() {
        let path = mount.get("mountPath");
        known_volume(&mount.get("name"), &declared, e);
        path.must_be_set(e);
        if !seen.insert(path.text()) {
            path.invalid_text(e, "must be unique");
        }
        if device_paths.contains(path.text()) {
            path.invalid(e, "must not already exist as a path in volumeDevices");
        }
        sub_paths(&mount, e);
        propagation(&mount, container, e);
    }
    devices_of(&devices, &declared, &texts(mounts.array(), "mountPath"), e);
}

fn known_volume(name: &At, declared: &BTreeSet<&str>, e: &mut Errors) {
    if name.must_be_set(e) && !declared.contains(name.text()) {
        name.not_found(e);
    }
}

fn sub_paths(mount: &At, e: &mut Errors) {
    let (plain, expanded) = (mount.get("subPath"), mount.get("subPathExpr"));
    if !plain.is_empty() {
        descending(&plain, e);
    }
    if !expanded.is_empty() {
        if !plain.is_empty() {
            expanded.invalid(e, "subPathExpr and subPath are mutually exclusive");
        }
        descending(&expanded, e);
    }
}

fn propagation(mount: &At, container: &At, e: &mut Errors) {
    let mode = mount.get("mountPropagation");
    check::one_of(&mode, &["Bidirectional", "HostToContainer", "None"], e);
    let context = container.get("securityContext");
    if mode.text() == "Bidirectional" && !context.get("privileged").flag() {
        mode.forbidden(e, "Bidirectional mount propagation is available only to privileged containers");
    }
    let recursive = mount.get("recursiveReadOnly");
    check::one_of(&recursive, &["Disabled", "Enabled", "IfPossible"], e);
    if matches!(recursive.text(), "Enabled" | "IfPossible") && !mount.get("readOnly").flag() {
        recursive.forbidden(e, "may only be specified when readOnly is true");
    }
}

fn devices_of(devices: &At, declared: &BTreeSet<&str>, mounted: &BTreeSet<String>, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for device in devices.items() {
        let path = device.get("devicePath");
        known_volume(&device.get("name"), declared, e);
        path.must_be_set(e);
        if !seen.insert(path.text()) {
            path.invalid_text(e, "must be unique");
        }
        no_backsteps(&path, e);
        if mounted.contains(path.text()) {
            path.invalid(e, "must not already exist as a path in volumeMounts");
        }
    }
}
