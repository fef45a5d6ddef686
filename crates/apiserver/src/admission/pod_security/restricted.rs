//! The checks that the level `restricted` has beyond those of `baseline`, in upstream's order.

use std::collections::BTreeSet;

use serde_json::Value;

use super::baseline::{masked_proc, seccomp_fields};
use super::words::{Violation, has_own_users, named, plural, quoted, security, setters, which};
use crate::references::{containers, items, spec, text};

type Check = (&'static str, u32, fn(&Value, u32) -> Option<Violation>);

/// Each with its name and the minor version since which there is it.
pub(super) static CHECKS: [Check; 7] = [
    ("allowPrivilegeEscalation", 8, escalation),
    ("capabilities_restricted", 22, capabilities),
    ("procMount_restricted", 35, masked_proc),
    ("restrictedVolumes", 0, volumes),
    ("runAsNonRoot", 0, non_root),
    ("runAsUser", 23, user),
    ("seccompProfile_restricted", 19, seccomp),
];

/// What these checks say in the place of those of `baseline`, and since when.
pub(super) const OVERRIDES: [(&str, u32, &str); 4] = [
    ("capabilities_restricted", 22, "capabilities_baseline"),
    ("procMount_restricted", 35, "procMount"),
    ("restrictedVolumes", 0, "hostPathVolumes"),
    ("seccompProfile_restricted", 19, "seccompProfile_baseline"),
];

/// Volumes that hold nothing of the machine's and nothing of a network's that its administrators have not allowed.
const VOLUMES: [&str; 9] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "image",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
const TRUE: Option<&Value> = Some(&Value::Bool(true));
const FALSE: Option<&Value> = Some(&Value::Bool(false));

/// What is Linux's is not asked of pods for Windows.
fn is_windows(pod: &Value, minor: u32) -> bool {
    minor >= 25 && text(pod, "/spec/os/name") == "windows"
}

fn escalation(pod: &Value, minor: u32) -> Option<Violation> {
    let bad = which(pod, |container| security(container, "/allowPrivilegeEscalation") != FALSE);
    let detail = || format!("{} must set securityContext.allowPrivilegeEscalation=false", named(&bad));
    let broken = !bad.is_empty() && !is_windows(pod, minor);
    broken.then(|| Violation::new("allowPrivilegeEscalation != false", detail()))
}

/// Which containers add which capabilities that are not allowed.
pub(super) fn added(pod: &Value, allowed: &[&str]) -> Option<String> {
    let others = |container: &Value| -> Vec<String> {
        let added = security(container, "/capabilities/add").and_then(Value::as_array).into_iter().flatten();
        let others = added.filter_map(Value::as_str).filter(|name| !allowed.contains(name));
        others.map(str::to_owned).collect()
    };
    let bad = which(pod, |container| !others(container).is_empty());
    let all: BTreeSet<String> = containers(pod).flat_map(others).collect();
    let list = quoted(all.iter().map(String::as_str));
    (!bad.is_empty())
        .then(|| format!("{} must not include {list} in securityContext.capabilities.add", named(&bad)))
}

fn capabilities(pod: &Value, minor: u32) -> Option<Violation> {
    if is_windows(pod, minor) {
        return None;
    }
    let keeps = which(pod, |container| {
        let dropped = security(container, "/capabilities/drop").and_then(Value::as_array);
        !dropped.into_iter().flatten().any(|name| name == "ALL")
    });
    let keeps = (!keeps.is_empty())
        .then(|| format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", named(&keeps)));
    let details: Vec<String> = keeps.into_iter().chain(added(pod, &["NET_BIND_SERVICE"])).collect();
    (!details.is_empty()).then(|| Violation::new("unrestricted capabilities", details.join("; ")))
}

fn volumes(pod: &Value, _: u32) -> Option<Violation> {
    let kind = |volume: &Value| -> String {
        let sources = volume.as_object().into_iter().flatten();
        let mut set = sources.filter(|(field, source)| *field != "name" && !source.is_null());
        set.next().map_or("unknown", |(field, _)| field.as_str()).to_owned()
    };
    let allowed = |volume: &&Value| VOLUMES.contains(&kind(volume).as_str());
    let bad: Vec<&Value> = items(spec(pod), "volumes").filter(|volume| !allowed(volume)).collect();
    if bad.is_empty() {
        return None;
    }
    let kinds: BTreeSet<String> = bad.iter().map(|volume| kind(volume)).collect();
    let (word, uses) = (plural(bad.len(), "volume", "volumes"), plural(bad.len(), "uses", "use"));
    let types = plural(kinds.len(), "restricted volume type", "restricted volume types");
    let names = quoted(bad.iter().map(|volume| text(volume, "/name")));
    let kinds = quoted(kinds.iter().map(String::as_str));
    Some(Violation::new("restricted volume types", format!("{word} {names} {uses} {types} {kinds}")))
}

fn non_root(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    let (field, reason) = ("/runAsNonRoot", "runAsNonRoot != true");
    if let Some(who) = setters(pod, |holder| security(holder, field) == FALSE) {
        return Some(Violation::new(
            reason,
            format!("{who} must not set securityContext.runAsNonRoot=false"),
        ));
    }
    let whole = security(spec(pod), field) == TRUE;
    let silent = which(pod, |container| security(container, field).is_none() && !whole);
    let detail = || format!("pod or {} must set securityContext.runAsNonRoot=true", named(&silent));
    (!silent.is_empty()).then(|| Violation::new(reason, detail()))
}

fn user(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && has_own_users(pod) {
        return None;
    }
    let who = setters(pod, |holder| security(holder, "/runAsUser").and_then(Value::as_i64) == Some(0))?;
    Some(Violation::new("runAsUser=0", format!("{who} must not set runAsUser=0")))
}

fn seccomp(pod: &Value, minor: u32) -> Option<Violation> {
    if is_windows(pod, minor) {
        return None;
    }
    if let Some(bad) = seccomp_fields(pod) {
        return Some(bad);
    }
    let field = "/seccompProfile";
    let whole = security(spec(pod), field).is_some();
    let silent = which(pod, |container| security(container, field).is_none() && !whole);
    let wanted = "must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"";
    (!silent.is_empty())
        .then(|| Violation::new("seccompProfile", format!("pod or {} {wanted}", named(&silent))))
}
