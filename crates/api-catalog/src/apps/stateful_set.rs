//! StatefulSets.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::core::volume_claim_defaults;
use crate::entry::{columns, computed};
use crate::fill::{Fill, each_mut, fill, object_at, set, set_if_absent, text};
use crate::print::{container_names, images, number};

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Ready", "string", 0, computed(ready)),
        ("Age", "string", 0, Cell::Age),
        ("Containers", "string", 1, computed(|s, _| container_names(&s["spec"]["template"]["spec"]))),
        ("Images", "string", 1, computed(|s, _| images(&s["spec"]["template"]["spec"]))),
    ])
}

fn ready(set: &Value, _: Timestamp) -> Value {
    Value::from(format!("{}/{}", number(&set["status"]["readyReplicas"]), number(&set["spec"]["replicas"])))
}

pub(crate) fn default(object: &mut Value) {
    super::template_defaults(object);
    let Some(spec) = object_at(object, &["spec"]) else { return };
    fill(
        spec,
        &[
            ("podManagementPolicy", Fill::Text("OrderedReady")),
            ("replicas", Fill::Int(1)),
            ("revisionHistoryLimit", Fill::Int(10)),
        ],
    );
    if let Some(strategy) = object_at(spec, &["updateStrategy"]) {
        fill(strategy, &[("type", Fill::Text("RollingUpdate"))]);
        if text(strategy, "type") == "RollingUpdate"
            && let Some(rolling) = object_at(strategy, &["rollingUpdate"])
        {
            set_if_absent(rolling, "partition", 0);
        }
    }
    if let Some(policy) = object_at(spec, &["persistentVolumeClaimRetentionPolicy"]) {
        fill(policy, &[("whenDeleted", Fill::Text("Retain")), ("whenScaled", Fill::Text("Retain"))]);
    }
    for claim in each_mut(spec, "volumeClaimTemplates") {
        set_if_absent(claim, "apiVersion", "v1");
        set_if_absent(claim, "kind", "PersistentVolumeClaim");
        set(claim, "status", json!({"phase": "Pending"}));
        volume_claim_defaults(claim);
    }
}

pub(crate) fn validate(set: &Value, e: &mut Errors) {
    let root = At::root(set);
    let spec = root.get("spec");
    let management = spec.get("podManagementPolicy");
    match management.text() {
        "" => management.required(e, ""),
        "OrderedReady" | "Parallel" => {}
        _ => management.invalid(e, "must be 'OrderedReady' or 'Parallel'"),
    }
    strategy(&spec.get("updateStrategy"), e);
    check::not_negative(&spec.get("replicas"), e);
    check::not_negative(&spec.get("minReadySeconds"), e);
    check::not_negative(&spec.get("revisionHistoryLimit"), e);
    let ordinals = spec.get("ordinals");
    check::not_negative(&ordinals.get("start"), e);
    let retention = spec.get("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        check::one_of(&retention.get(field), &["Delete", "Retain"], e);
    }
    super::selector_and_template(&spec, "StatefulSet", e);
    for claim in spec.get("volumeClaimTemplates").items() {
        let metadata = claim.get("metadata");
        check::required_name(&metadata.get("name"), api_machinery::names::is_dns1123_subdomain, e);
    }
}

fn strategy(strategy: &At, e: &mut Errors) {
    let (kind, rolling) = (strategy.get("type"), strategy.get("rollingUpdate"));
    match kind.text() {
        "" => kind.required(e, ""),
        "OnDelete" if rolling.is_set() => {
            rolling.invalid(e, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            check::not_negative(&rolling.get("partition"), e);
            let unavailable = rolling.get("maxUnavailable");
            check::int_or_percent(&unavailable, e);
            check::at_most_all(&unavailable, e);
            if unavailable.int() == Some(0) || check::percent_of(&unavailable) == Some(0) {
                unavailable.invalid(e, "cannot be 0");
            }
        }
        _ => kind.invalid(e, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

/// What may change after creation.
const MUTABLE: [&str; 7] = [
    "minReadySeconds",
    "ordinals",
    "persistentVolumeClaimRetentionPolicy",
    "replicas",
    "revisionHistoryLimit",
    "template",
    "updateStrategy",
];

pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let root = At::root(new);
    let spec = root.get("spec");
    let rest = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        if let Some(map) = spec.as_object_mut() {
            map.retain(|field, _| !MUTABLE.contains(&field.as_str()));
        }
        spec
    };
    if !check::same(Some(&rest(new)), Some(&rest(old))) {
        spec.forbidden(e, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden");
    }
}
