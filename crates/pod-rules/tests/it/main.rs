//! The rules against tables of pods and nodes written as JSON.

mod affinity;
mod resources;
mod status;
mod taints;

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::Value;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).expect("a pod")
}

fn node(value: Value) -> Node {
    serde_json::from_value(value).expect("a node")
}
