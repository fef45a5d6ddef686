//! Validation of a pod's volumes and of the mounts and devices in its containers.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use serde_json::Value;

use super::containers::{VOLUME_FIELDS, field_ref, resource_ref};
use crate::at::At;
use crate::check::table::{LABEL, Rule, SUBDOMAIN, Table, follow};
use crate::check::{self, resources};
use crate::core::driver_name;

/// Every source of a volume's content, and what its fields must be.
pub(crate) const SOURCES: &[(&str, Rule)] = &[
    ("awsElasticBlockStore", Rule::Object(&[("volumeID", Rule::Required)])),
    ("azureDisk", Rule::Object(&[("diskName", Rule::Required), ("diskURI", Rule::Required)])),
    ("azureFile", Rule::Object(&[("secretName", Rule::Required), ("shareName", Rule::Required)])),
    ("cephfs", Rule::Object(&[("monitors", Rule::Required)])),
    ("cinder", Rule::Object(&[("volumeID", Rule::Required)])),
    ("configMap", Rule::Check(config_map)),
    ("csi", Rule::Check(csi)),
    ("downwardAPI", Rule::Check(downward_api)),
    ("emptyDir", Rule::Check(empty_dir)),
    ("ephemeral", Rule::Check(ephemeral)),
    ("fc", Rule::Check(fibre_channel)),
    ("flexVolume", Rule::Object(&[("driver", Rule::Required)])),
    ("flocker", Rule::Check(flocker)),
    ("gcePersistentDisk", Rule::Object(&[("pdName", Rule::Required)])),
    ("gitRepo", Rule::Object(&[("repository", Rule::Required)])),
    ("glusterfs", Rule::Object(&[("endpoints", Rule::Required), ("path", Rule::Required)])),
    ("hostPath", Rule::Check(host_path)),
    ("image", Rule::Object(&[("pullPolicy", Rule::OneOf(&["Always", "IfNotPresent", "Never"]))])),
    ("iscsi", Rule::Check(iscsi)),
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

/// The highest number of a disk behind one address.
const MOST_LUN: i64 = 255;

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

fn csi(source: &At, e: &mut Errors) {
    driver_name(&source.get("driver"), e);
    let secret = source.get("nodePublishSecretRef");
    if secret.is_set() {
        check::required_name(&secret.get("name"), SUBDOMAIN, e);
    }
}

fn fibre_channel(source: &At, e: &mut Errors) {
    let (targets, ids, lun) = (source.get("targetWWNs"), source.get("wwids"), source.get("lun"));
    match (targets.is_empty(), ids.is_empty()) {
        (true, true) => targets.required(e, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            targets.invalid(e, "targetWWNs and wwids can not be specified simultaneously");
        }
        _ => {}
    }
    if !targets.is_empty() {
        match lun.is_set() {
            true => check::between(&lun, 0, MOST_LUN, e),
            false => lun.required(e, "lun is required if targetWWNs is specified"),
        }
    }
}

fn flocker(source: &At, e: &mut Errors) {
    let (name, id) = (source.get("datasetName"), source.get("datasetUUID"));
    match (name.is_empty(), id.is_empty()) {
        (true, true) => source.required(e, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            source.invalid_as(e, "resource", detail);
        }
        _ => {}
    }
    if name.text().contains('/') {
        name.invalid(e, "must not contain '/'");
    }
}

fn iscsi(source: &At, e: &mut Errors) {
    source.get("targetPortal").must_be_set(e);
    let name = source.get("iqn");
    if name.must_be_set(e) {
        match name.text().get(..3) {
            Some("iqn" | "eui" | "naa") if !is_iscsi_name(name.text()) => {
                name.invalid(e, "must be valid format")
            }
            Some("iqn" | "eui" | "naa") => {}
            _ => name.invalid(e, "must be valid format starting with iqn, eui, or naa"),
        }
    }
    check::between(&source.get("lun"), 0, MOST_LUN, e);
    let login = ["chapAuthDiscovery", "chapAuthSession"].iter().any(|field| source.get(field).flag());
    if login && !source.get("secretRef").is_set() {
        source.get("secretRef").required(e, "");
    }
}

/// `iqn.2026-01.com.example:disk`, `eui.` and 16 letters, or `naa.` and 32.
fn is_iscsi_name(name: &str) -> bool {
    let letters = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_alphanumeric());
    let Some((kind, rest)) = name.split_once('.') else { return false };
    match kind {
        "eui" => letters(rest, 16),
        "naa" => letters(rest, 32),
        _ => {
            let Some((date, rest)) = rest.split_once('.') else { return false };
            let digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
            let dated = date.split_once('-').is_some_and(|(year, month)| digits(year, 4) && digits(month, 2));
            let Some((domain, disk)) = rest.split_once(':') else { return false };
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.');
            let odd = |c: char| c.is_whitespace() || ",;*&$|".contains(c);
            dated
                && !domain.is_empty()
                && domain.bytes().all(plain)
                && !disk.is_empty()
                && !disk.contains(odd)
        }
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
        "clusterTrustBundle" => trust_bundle(part, e),
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

/// One bundle by its name, or all of a signer.
fn trust_bundle(source: &At, e: &mut Errors) {
    let (name, signer) = (source.get("name"), source.get("signerName"));
    let (selector, path) = (source.get("labelSelector"), source.get("path"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => source.invalid(e, "only one of name and signerName may be used"),
        (true, false) => {
            if name.is_empty() {
                name.required(e, "must be a valid object name");
            }
            for message in crate::certificates::bundle_name(name.text()) {
                name.invalid_text(e, format!("not a valid clustertrustbundlename: {message}"));
            }
            if selector.is_set() {
                selector.invalid(e, "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.is_empty() {
                signer.required(e, "must be a valid signer name");
            }
            crate::certificates::validate_signer(&signer, e);
            check::label_selector(&selector, e);
        }
        (false, false) => source.required(e, "either name or signerName must be specified"),
    }
    if path.must_be_set(e) {
        local_path(&path, e);
    }
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
