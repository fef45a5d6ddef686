//! `autoscaling/v1`: one target for CPU in the spec, and all else that `v2` can say in annotations, as upstream keeps it
//! for clients that only know `v1`. An annotation that does not read as what it should be is dropped, as upstream does.

use api_machinery::resource::ViewOf;
use serde_json::{Map, Value, json};

use super::metrics::{Part, to_v1, to_v2};
use crate::fill::{at, at_mut, get, object_at, remove, set, text};

pub(super) const VIEW: ViewOf = ViewOf {
    group: "autoscaling",
    version: "v2",
    plural: "horizontalpodautoscalers",
    to_stored,
    from_stored,
};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// `v1`'s only target, in spec and status.
const CPU_TARGET: &str = "targetCPUUtilizationPercentage";
const CPU_CURRENT: &str = "currentCPUUtilizationPercentage";

fn to_stored(autoscaler: &mut Value) {
    let metrics = take(autoscaler, METRICS);
    let (current, conditions) = (take(autoscaler, CURRENT), take(autoscaler, CONDITIONS));
    let behavior = take(autoscaler, BEHAVIOR);
    if let Some(spec) = at_mut(autoscaler, &["spec"]) {
        let cpu = remove(spec, CPU_TARGET).filter(|percent| !percent.is_null()).map(|percent| {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            json!({"type": "Resource", "resource": {"name": "cpu", "target": target}})
        });
        let all: Vec<Value> = converted(metrics.as_ref(), |m| to_v2(m, Part::Target)).chain(cpu).collect();
        if !all.is_empty() {
            set(spec, "metrics", all);
        }
        if let Some(behavior) = behavior {
            set(spec, "behavior", renamed(&behavior, &uncapitalized));
        }
    }
    if let Some(status) = at_mut(autoscaler, &["status"]) {
        remove(status, CPU_CURRENT);
        let current: Vec<Value> = converted(current.as_ref(), |m| to_v2(m, Part::Current)).collect();
        if !current.is_empty() {
            set(status, "currentMetrics", current);
        }
        if let Some(conditions) = conditions.filter(Value::is_array) {
            set(status, "conditions", conditions);
        }
    }
    set(autoscaler, "apiVersion", "autoscaling/v2");
}

fn from_stored(autoscaler: &mut Value) {
    let mut notes = Map::new();
    let mut note = |key: &str, value: Value| {
        if value.as_array().is_none_or(|all| !all.is_empty()) {
            notes.insert(key.to_owned(), Value::from(value.to_string()));
        }
    };
    if let Some(spec) = at_mut(autoscaler, &["spec"]) {
        let mut metrics = list(remove(spec, "metrics"));
        if let Some(index) = metrics.iter().position(is_cpu_target) {
            let cpu = metrics.remove(index);
            set(spec, CPU_TARGET, cpu["resource"]["target"]["averageUtilization"].clone());
        }
        note(METRICS, metrics.iter().filter_map(|metric| to_v1(metric, Part::Target)).collect());
        if let Some(behavior) = remove(spec, "behavior").filter(Value::is_object) {
            note(BEHAVIOR, renamed(&behavior, &capitalized));
        }
    }
    if let Some(status) = at_mut(autoscaler, &["status"]) {
        let current = list(remove(status, "currentMetrics"));
        let cpu = current.iter().find(|metric| text(&metric["resource"], "name") == "cpu");
        if let Some(percent) = cpu.and_then(|cpu| at(cpu, &["resource", "current", "averageUtilization"])) {
            set(status, CPU_CURRENT, percent.clone());
        }
        note(CURRENT, current.iter().filter_map(|metric| to_v1(metric, Part::Current)).collect());
        note(CONDITIONS, Value::from(list(remove(status, "conditions"))));
    }
    if !notes.is_empty()
        && let Some(Value::Object(annotations)) = object_at(autoscaler, &["metadata", "annotations"])
    {
        annotations.extend(notes);
    }
    set(autoscaler, "apiVersion", "autoscaling/v1");
}

fn is_cpu_target(metric: &Value) -> bool {
    let resource = &metric["resource"];
    text(metric, "type") == "Resource"
        && text(resource, "name") == "cpu"
        && get(&resource["target"], "averageUtilization").is_some()
}

fn list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

fn converted<'a>(
    metrics: Option<&'a Value>,
    convert: impl Fn(&Value) -> Option<Value> + 'a,
) -> impl Iterator<Item = Value> + 'a {
    metrics.and_then(Value::as_array).into_iter().flatten().filter_map(convert)
}

/// Takes an annotation out and reads it.
fn take(autoscaler: &mut Value, key: &str) -> Option<Value> {
    let annotations = at_mut(autoscaler, &["metadata", "annotations"])?;
    let note = remove(annotations, key)?;
    serde_json::from_str(note.as_str()?).ok()
}

/// The annotation about behaviour has its fields' names as Go has them, with capitals.
fn renamed(value: &Value, name: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => {
            fields.iter().map(|(field, value)| (name(field), renamed(value, name))).collect()
        }
        Value::Array(items) => items.iter().map(|item| renamed(item, name)).collect(),
        other => other.clone(),
    }
}

fn capitalized(field: &str) -> String {
    let mut rest = field.chars();
    rest.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(rest).collect()
}

fn uncapitalized(field: &str) -> String {
    let mut rest = field.chars();
    rest.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(rest).collect()
}
