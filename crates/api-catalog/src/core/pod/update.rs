//! What may change in a pod after it was made: very little, and its status by rules.

use api_machinery::field::Errors;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::fill::{each_mut, keep_old, set, text};

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
    let mut unchanged = munged(new, old);
    if !before.get("schedulingGates").is_empty() {
        narrowed(&mut unchanged, &spec, &before, e);
    }
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
    spec
}

/// A pod that waits at a gate may be narrowed down, never widened.
fn narrowed(unchanged: &mut Value, spec: &At, before: &At, e: &mut Errors) {
    let old = before.value().cloned().unwrap_or_default();
    let (labels, labels_before) = (spec.get("nodeSelector"), before.get("nodeSelector"));
    if !labels_before.entries().all(|(key, value)| labels.key(key).value() == value.value()) {
        labels.invalid(e, "only additions to spec.nodeSelector are allowed (no mutations or deletions)");
    }
    keep_old(unchanged, &old, "nodeSelector");
    let (affinity, affinity_before) = (spec.get("affinity"), before.get("affinity"));
    narrowed_affinity(&affinity.get("nodeAffinity"), &affinity_before.get("nodeAffinity"), e);
    let mut affinity = affinity.value().cloned().unwrap_or_else(|| json!({}));
    keep_old(&mut affinity, old.get("affinity").unwrap_or(&Value::Null), "nodeAffinity");
    set(unchanged, "affinity", affinity);
}

/// Terms are alternatives, so none may come; the requirements of one all hold, so they may.
fn narrowed_affinity(new: &At, old: &At, e: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let (required, required_before) = (new.get(REQUIRED), old.get(REQUIRED));
    let (terms, terms_before) = (required.get("nodeSelectorTerms"), required_before.get("nodeSelectorTerms"));
    if terms_before.is_empty() {
        return;
    }
    if terms.len() != terms_before.len() {
        return terms.invalid(e, "no additions/deletions to non-empty NodeSelectorTerms list are allowed");
    }
    for (term, before) in terms.items().zip(terms_before.items()) {
        let lists = ["matchExpressions", "matchFields"];
        let was_empty = lists.iter().all(|list| before.get(list).is_empty());
        let added_only = lists.iter().all(|list| {
            let (now, then) = (term.get(list), before.get(list));
            (now.is_empty() || !was_empty) && now.array().starts_with(then.array())
        });
        if !added_only {
            term.invalid(e, "only additions are allowed (no mutations or deletions)");
        }
    }
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
