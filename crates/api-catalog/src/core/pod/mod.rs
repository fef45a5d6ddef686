//! Pods: defaults, validation, what may change, and what tables show. Templates share defaults and validation.

pub(crate) mod binding;
pub(crate) mod columns;
pub(crate) mod containers;
pub(crate) mod defaults;
mod ephemeral;
pub(crate) mod handlers;
mod resize;
pub(crate) mod scheduling;
pub(crate) mod security;
pub(crate) mod status;
pub(crate) mod update;
pub(crate) mod validate;
pub(crate) mod volumes;

use api_machinery::resource::{Rules, Selectable, copy_field, drop_status};
use serde_json::{Value, json};

use crate::entry::{selectable as plain, selectable_flag};
use crate::fill::{keep_old, set, text};

pub(crate) fn rules() -> Rules {
    Rules {
        default: defaults::pod,
        validate: validate::pod,
        validate_create: validate::new_pod,
        validate_update: update::validate,
        validate_status_update: update::validate_status,
        prepare_create,
        graceful_delete: Some(grace_period),
        parts: &[ephemeral::PART, resize::PART],
        ..Rules::default()
    }
}

pub(crate) fn selectable() -> Vec<Selectable> {
    let mut fields = plain(&[
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.schedulerName",
        "spec.serviceAccountName",
        "status.phase",
        "status.podIP",
        "status.nominatedNodeName",
    ]);
    fields.push(selectable_flag("spec.hostNetwork"));
    fields
}

fn prepare_create(pod: &mut Value) {
    drop_status(pod);
    let class = status::qos_class(&pod["spec"]);
    set(pod, "status", json!({"phase": "Pending", "qosClass": class}));
    let gated = pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty());
    if gated {
        let condition = json!({"type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates", "lastProbeTime": null,
            "lastTransitionTime": null});
        set(&mut pod["status"], "conditions", json!([condition]));
    }
}

/// Makes of a pod what it was, for subresources through which one part of its spec changes; gives back the spec that was sent.
/// Who may change that part may not label the pod, or hold it.
fn restored(new: &mut Value, old: &Value) -> Value {
    let wanted = new["spec"].take();
    for field in ["spec", "status"] {
        copy_field(new, old, field);
    }
    for field in ["labels", "annotations", "ownerReferences", "finalizers"] {
        keep_old(&mut new["metadata"], &old["metadata"], field);
    }
    wanted
}

/// How long a pod may take to end: at once if nothing runs.
fn grace_period(pod: &Value, requested: Option<i64>) -> i64 {
    let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64();
    let period = requested.or(own).unwrap_or(30);
    let unassigned = text(&pod["spec"], "nodeName").is_empty();
    let ended = matches!(text(&pod["status"], "phase"), "Failed" | "Succeeded");
    match period {
        _ if unassigned || ended => 0,
        negative if negative < 0 => 1,
        period => period,
    }
}
