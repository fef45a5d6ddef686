//! `autoscaling`: HorizontalPodAutoscalers, stored as `v2`; `v1` is a view of it.

mod metrics;
mod print;
mod validate;
mod view;

use std::sync::Arc;

use api_machinery::resource::{Cell, Column, Resource, Rules};
use api_machinery::schema::Arena;
use serde_json::{Value, json};

use crate::entry::{Family, columns, computed, texts, with_status};
use crate::fill::{Fill, fill, get, object_at, set};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let v2 = Family { arena, group: "autoscaling", version: "v2", package: "io.k8s.api.autoscaling.v2" };
    let v1 = Family { arena, group: "autoscaling", version: "v1", package: "io.k8s.api.autoscaling.v1" };
    let autoscaler = |family: &Family| Resource {
        short_names: texts(&["hpa"]),
        categories: texts(&["all"]),
        subresources: with_status(),
        columns: table(),
        rules: Rules {
            default: defaults,
            validate: validate::autoscaler,
            validate_status_update: validate::status,
            ..Rules::default()
        },
        ..family.kind("HorizontalPodAutoscaler", "horizontalpodautoscalers")
    };
    vec![autoscaler(&v2), Resource { view_of: Some(view::VIEW), ..autoscaler(&v1) }]
}

fn table() -> Vec<Column> {
    columns(&[
        ("Reference", "string", 0, computed(print::reference)),
        ("Targets", "string", 0, computed(print::targets)),
        ("MinPods", "string", 0, computed(print::least)),
        ("MaxPods", "string", 0, computed(print::most)),
        ("Replicas", "string", 0, computed(print::replicas)),
        ("Age", "string", 0, Cell::Age),
    ])
}

/// Without a metric, an autoscaler aims at 80 % of the requested CPU.
fn defaults(autoscaler: &mut Value) {
    let Some(spec) = object_at(autoscaler, &["spec"]) else { return };
    fill(spec, &[("minReplicas", Fill::Int(1))]);
    if get(spec, "metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        set(spec, "metrics", json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]));
    }
    if let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) {
        let by = |kind: &str, value: i64| json!({"type": kind, "value": value, "periodSeconds": 15});
        default_rules(behavior, "scaleUp", json!([by("Pods", 4), by("Percent", 100)]));
        default_rules(behavior, "scaleDown", json!([by("Percent", 100)]));
        if let Some(up) = object_at(behavior, &["scaleUp"]) {
            fill(up, &[("stabilizationWindowSeconds", Fill::Int(0))]);
        }
    }
}

fn default_rules(behavior: &mut Value, direction: &str, policies: Value) {
    let Some(rules) = object_at(behavior, &[direction]) else { return };
    fill(rules, &[("selectPolicy", Fill::Text("Max"))]);
    if get(rules, "policies").is_none() {
        set(rules, "policies", policies);
    }
}
