//! The scheduler: filters, scores, messages, the queue and the whole state against tables and stories, and the loop against
//! a small API of its own.

mod api;
mod filters;
mod looping;
mod preemption;
mod queue;
mod relations;
mod scores;
mod stories;

use std::sync::Arc;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Pod};
use scheduler::columns::Columns;
use scheduler::demand::{Demand, Usage};
use serde_json::{Value, json};

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("default", name)
}

/// Lays the second value over the first.
fn merge(base: &mut Value, over: &Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (field, value) in over {
                merge(base.entry(field).or_insert(Value::Null), value);
            }
        }
        (base, over) => *base = over.clone(),
    }
}

/// A node with four CPUs, 8 GiB and room for ten pods, changed by `over`.
fn node(name: &str, over: &Value) -> Arc<Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "pods": "10"}},
    });
    merge(&mut node, over);
    Arc::new(serde_json::from_value(node).expect("a node"))
}

/// A pod that asks for nothing, changed by `over`.
fn pod(name: &str, over: &Value) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "resourceVersion": "1",
                     "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c"}]},
    });
    merge(&mut pod, over);
    Arc::new(serde_json::from_value(pod).expect("a pod"))
}

/// A spec whose container asks for this.
fn asking(requests: Value) -> Value {
    json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}})
}

fn demand(over: &Value) -> Demand {
    Demand::of(pod("new", over))
}

fn columns(nodes: &[(&str, Value)]) -> Columns {
    let mut columns = Columns::default();
    for (name, over) in nodes {
        columns.set_node(name, node(name, over));
    }
    columns
}

fn place(columns: &mut Columns, name: &str, on: &str, over: &Value) {
    let pod = pod(name, over);
    columns.place(&key(name), &format!("uid-{name}"), on, Usage::of(&pod), false);
}
