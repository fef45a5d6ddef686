//! What may change in a pod after it was made: very little, and its status by rules.

use api_machinery::field::Errors;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::fill::{each_mut, get, keep_old, set, text};

const WHAT_MAY: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks an update of the main resource.
pub(crate) fn validate(new: &Value, old: &Value, e: &mut Errors) {
    let (root, old_root) = (At::root(new), At::root(old));
    annotations(&root, &old_root, e);
    let (spec, before) = (root.get("spec"), old_root.get("spec"));
    for list in ["containers", "initContainers"] {
        let (now, then) = (spec.get(list), before.get(list));
        if now.len() != then.len() {
            return now.forbidden(e, "pod updates may not add or remove containers");
        }
    }
    if !deadline(&spec.get("activeDeadlineSeconds"), &before.get("activeDeadlineSeconds"), e) {
        return;
    }
    only_added_tolerations(&spec.get("tolerations"), &before.get("tolerations"), e);
    only_removed_gates(&spec.get("schedulingGates"), &before.get("schedulingGates"), e);
    let unchanged = munged(new, old);
    if !check::same(Some(&unchanged), old.get("spec")) {
        let changed = changed_fields(&unchanged, &old["spec"]);
        spec.forbidden(e, &format!("{WHAT_MAY}\n{changed}"));
    }
}

fn annotations(new: &At, old: &At, e: &mut Errors) {
    const MIRROR: &str = "kubernetes.io/config.mirror";
    let (metadata, before) = (new.get("metadata"), old.get("metadata"));
    let (annotations, before) = (metadata.get("annotations"), before.get("annotations"));
    let (mirror, mirror_before) = (annotations.key(MIRROR), before.key(MIRROR));
    match (mirror.is_set(), mirror_before.is_set()) {
        (true, false) => mirror.forbidden(e, "may not add mirror pod annotation"),
        (_, true) if mirror.value() != mirror_before.value() => {
            mirror.forbidden(e, "may not remove or update mirror pod annotation");
        }
        _ => {}
    }
}

/// A deadline may be set, and may come closer.
fn deadline(new: &At, old: &At, e: &mut Errors) -> bool {
    let before = e.len();
    match (new.int(), old.int()) {
        (Some(now), _) if !(0..=i64::from(i32::MAX)).contains(&now) => {
            new.invalid(e, api_machinery::names::inclusive_range(0, i64::from(i32::MAX)));
        }
        (Some(now), Some(then)) if now > then => {
            new.invalid(e, "must be less than or equal to previous value")
        }
        (None, Some(_)) => new.invalid(e, "must not update from a positive integer to nil value"),
        _ => {}
    }
    e.len() == before
}

fn only_added_tolerations(new: &At, old: &At, e: &mut Errors) {
    let essence = |toleration: &Value| {
        let mut toleration = toleration.clone();
        crate::fill::remove(&mut toleration, "tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = new.array().iter().map(essence).collect();
    let kept = |t: &Value| now.iter().any(|n| check::same(Some(n), Some(&essence(t))));
    if !old.array().iter().all(kept) {
        new.forbidden(e, "existing toleration can not be modified except its tolerationSeconds");
    }
}

fn only_removed_gates(new: &At, old: &At, e: &mut Errors) {
    for gate in new.items() {
        let name = gate.get("name").text();
        if !old.array().iter().any(|old| text(old, "name") == name) {
            let detail = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            new.forbidden(e, &detail);
        }
    }
}

/// The new spec with everything that may change as it was.
fn munged(new: &Value, old: &Value) -> Value {
    let mut spec = new.get("spec").cloned().unwrap_or_default();
    let before = old.get("spec").cloned().unwrap_or_default();
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> =
            before[list].as_array().into_iter().flatten().map(|c| c["image"].clone()).collect();
        for (container, image) in each_mut(&mut spec, list).zip(images) {
            set(container, "image", image);
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep_old(&mut spec, &before, field);
    }
    let grace = "terminationGracePeriodSeconds";
    let was_negative = before[grace].as_i64().is_some_and(|seconds| seconds < 0);
    if was_negative && spec[grace].as_i64() == Some(1) {
        keep_old(&mut spec, &before, grace);
    }
    let gated = before["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if gated && only_added(get(&spec, "nodeSelector"), get(&before, "nodeSelector")) {
        keep_old(&mut spec, &before, "nodeSelector");
    }
    spec
}

/// A pod that waits at a gate may be narrowed down, never widened.
fn only_added(new: Option<&Value>, old: Option<&Value>) -> bool {
    let old = old.and_then(Value::as_object).into_iter().flatten();
    old.into_iter().all(|(key, value)| new.and_then(|n| n.get(key)) == Some(value))
}

/// The fields of the spec that differ, a line each.
fn changed_fields(new: &Value, old: &Value) -> String {
    let keys =
        |v: &Value| v.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect::<Vec<_>>();
    let mut names: Vec<String> = keys(new);
    names.extend(keys(old));
    names.sort();
    names.dedup();
    let differing = names.into_iter().filter(|name| !check::same(new.get(name), old.get(name)));
    let line = |name: String| {
        let show = |v: &Value| v.get(&name).map(Value::to_string).unwrap_or_else(|| "<unset>".to_owned());
        format!("  spec.{name}: {} -> {}", show(old), show(new))
    };
    differing.map(line).collect::<Vec<_>>().join("\n")
}

/// Checks an update through `/status`.
pub(crate) fn validate_status(new: &Value, old: &Value, e: &mut Errors) {
    let (root, old_root) = (At::root(new), At::root(old));
    annotations(&root, &old_root, e);
    let (status, before) = (root.get("status"), old_root.get("status"));
    let nominated = status.get("nominatedNodeName");
    check::name(&nominated, api_machinery::names::is_dns1123_subdomain, e);
    check::one_of(&status.get("phase"), &["Failed", "Pending", "Running", "Succeeded", "Unknown"], e);
    let policy = text(&old["spec"], "restartPolicy");
    if policy != "Always" {
        no_revival(&status.get("containerStatuses"), &before.get("containerStatuses"), policy, e);
    }
    for ip in status.get("podIPs").items() {
        check::ip(&ip.get("ip"), e);
    }
}

/// A container that ended for good does not run again.
fn no_revival(new: &At, old: &At, policy: &str, e: &mut Errors) {
    for (index, before) in old.items().enumerate() {
        let state = before.get("state");
        let ended = state.get("terminated");
        let may_restart = policy == "OnFailure" && ended.get("exitCode").int().unwrap_or(0) != 0;
        if !ended.is_set() || may_restart {
            continue;
        }
        let name = before.get("name").text();
        let revived = new
            .array()
            .iter()
            .any(|now| text(now, "name") == name && crate::fill::at(now, &["state", "terminated"]).is_none());
        if revived {
            new.index(index).get("state").forbidden(e, "may not be transitioned to non-terminated state");
        }
    }
}
