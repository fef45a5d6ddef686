//! Validation of security contexts, of pods and of containers.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use serde_json::Value;

use crate::at::At;
use crate::check::table::{Rule, Table, follow};

const MAX_ID: i64 = i32::MAX as i64;

const POD: &Table = &[
    ("fsGroup", Rule::Between(0, MAX_ID)),
    ("runAsUser", Rule::Between(0, MAX_ID)),
    ("runAsGroup", Rule::Between(0, MAX_ID)),
    ("fsGroupChangePolicy", Rule::OneOf(&["Always", "OnRootMismatch"])),
    ("supplementalGroupsPolicy", Rule::OneOf(&["Merge", "Strict"])),
    ("seLinuxChangePolicy", Rule::OneOf(&["MountOption", "Recursive"])),
    ("seccompProfile", Rule::Check(seccomp)),
    ("appArmorProfile", Rule::Check(app_armor)),
    ("sysctls", Rule::Check(sysctls)),
];

const CONTAINER: &Table = &[
    ("runAsUser", Rule::Between(0, MAX_ID)),
    ("runAsGroup", Rule::Between(0, MAX_ID)),
    ("procMount", Rule::OneOf(&["Default", "Unmasked"])),
    ("seccompProfile", Rule::Check(seccomp)),
    ("appArmorProfile", Rule::Check(app_armor)),
];

/// `spec.securityContext`.
pub(crate) fn pod(spec: &At, e: &mut Errors) {
    let context = spec.get("securityContext");
    follow(&context, POD, e);
    for group in context.get("supplementalGroups").items() {
        crate::check::between(&group, 0, MAX_ID, e);
    }
}

/// `securityContext` of a container.
pub(crate) fn container(context: &At, e: &mut Errors) {
    follow(context, CONTAINER, e);
    // Privileges that are given cannot be denied.
    if context.get("allowPrivilegeEscalation").value() != Some(&Value::Bool(false)) {
        return;
    }
    if context.get("privileged").flag() {
        context.invalid(e, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true");
    }
    let capabilities = context.get("capabilities");
    if capabilities.get("add").texts().any(|c| c == "CAP_SYS_ADMIN") {
        context.invalid(
            e,
            "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
        );
    }
}

fn seccomp(profile: &At, e: &mut Errors) {
    let (kind, file) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "" => kind.required(e, "type is required when seccompProfile is set"),
        "Localhost" if !file.is_set() => file.required(e, "must be set when seccomp type is Localhost"),
        "Localhost" => super::volumes::descending(&file, e),
        "RuntimeDefault" | "Unconfined" if file.is_set() => {
            file.invalid(e, "can only be set when seccomp type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        _ => kind.not_supported(e, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

fn app_armor(profile: &At, e: &mut Errors) {
    let (kind, name) = (profile.get("type"), profile.get("localhostProfile"));
    match kind.text() {
        "" => kind.required(e, "type is required when appArmorProfile is set"),
        "Localhost" if !name.is_set() => name.required(e, "must be set when AppArmor type is Localhost"),
        "Localhost" if name.text().trim().is_empty() => {
            name.required(e, "must be set when AppArmor type is Localhost")
        }
        "Localhost" if name.text().trim() != name.text() => {
            name.invalid(e, "must not be padded with whitespace")
        }
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" if name.is_set() => {
            name.invalid(e, "can only be set when AppArmor type is Localhost");
        }
        "RuntimeDefault" | "Unconfined" => {}
        _ => kind.not_supported(e, &["Localhost", "RuntimeDefault", "Unconfined"]),
    }
}

const SYSCTL_MAX: usize = 253;
const SYSCTL: &str = "([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";

fn sysctls(list: &At, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for sysctl in list.items() {
        let name = sysctl.get("name");
        if !name.must_be_set(e) {
            continue;
        }
        if name.text().len() > SYSCTL_MAX || !name.text().split(['.', '/']).all(is_segment) {
            let detail = format!("must have at most {SYSCTL_MAX} characters and match regex ^{SYSCTL}$");
            name.invalid(e, detail);
        } else if !seen.insert(name.text()) {
            name.duplicate(e);
        }
    }
}

fn is_segment(segment: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    segment.bytes().all(|b| plain(b) || matches!(b, b'-' | b'_'))
        && segment.bytes().next().is_some_and(plain)
        && segment.bytes().last().is_some_and(plain)
}
