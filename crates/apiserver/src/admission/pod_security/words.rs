//! What violations are called, and the parts that checks have in common.

use serde_json::Value;

use crate::references::{containers, text};

pub(super) const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
pub(super) const SECCOMP_CONTAINER: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// What is broken, and by what.
pub(super) struct Violation {
    reason: String,
    detail: String,
}

impl Violation {
    pub(super) fn new(reason: impl Into<String>, detail: impl Into<String>) -> Violation {
        Violation { reason: reason.into(), detail: detail.into() }
    }
}

/// The reasons alone.
pub(super) fn reasons(violations: &[Violation]) -> String {
    violations.iter().map(|violation| violation.reason.as_str()).collect::<Vec<_>>().join(", ")
}

/// The reasons with what is behind each.
pub(super) fn details(violations: &[Violation]) -> String {
    let shown = violations.iter().map(|violation| match violation.detail.as_str() {
        "" => violation.reason.clone(),
        detail => format!("{} ({detail})", violation.reason),
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// `"a", "b"`.
pub(super) fn quoted<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() { String::new() } else { format!("\"{}\"", names.join("\", \"")) }
}

/// The singular or the plural.
pub(super) fn plural<'a>(count: usize, one: &'a str, several: &'a str) -> &'a str {
    if count == 1 { one } else { several }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn named(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names.iter().copied()))
}

/// The names of the containers of which something holds.
pub(super) fn which(pod: &Value, holds: impl Fn(&Value) -> bool) -> Vec<&str> {
    containers(pod).filter(|container| holds(container)).map(|container| text(container, "/name")).collect()
}

/// A field of the security context of a pod or a container, if it is set.
pub(super) fn security<'a>(holder: &'a Value, field: &str) -> Option<&'a Value> {
    holder.get("securityContext")?.pointer(field).filter(|value| !value.is_null())
}

/// Who sets something that is bad: the pod, containers, or both. `None` if nobody does.
pub(super) fn setters(pod: &Value, bad: impl Fn(&Value) -> bool) -> Option<String> {
    let own = pod.get("spec").is_some_and(&bad).then(|| "pod".to_owned());
    let containers = which(pod, &bad);
    let of_containers = (!containers.is_empty()).then(|| named(&containers));
    let all: Vec<String> = own.into_iter().chain(of_containers).collect();
    (!all.is_empty()).then(|| all.join(" and "))
}

/// Values that are not allowed, in order, each once, at a field of the security context of the pod and its containers.
pub(super) fn values<'a>(pod: &'a Value, field: &str, allowed: &[&str]) -> Vec<&'a str> {
    let holders = pod.get("spec").into_iter().chain(containers(pod));
    let found = holders.filter_map(|holder| security(holder, field)).filter_map(Value::as_str);
    let mut bad: Vec<&str> = found.filter(|value| !allowed.contains(value)).collect();
    bad.sort_unstable();
    bad.dedup();
    bad
}

/// Whether the pod's users are not the machine's: what would be dangerous for those is not for these.
pub(super) fn has_own_users(pod: &Value) -> bool {
    pod.pointer("/spec/hostUsers") == Some(&Value::Bool(false))
}
