//! Bindings: a pod's assignment to a node.

use api_machinery::field::Errors;
use serde_json::Value;

use crate::at::At;

pub(crate) fn validate(binding: &Value, e: &mut Errors) {
    let root = At::root(binding);
    let target = root.get("target");
    let kind = target.get("kind");
    if !matches!(kind.text(), "" | "Node") {
        kind.not_supported(e, &["Node", "<empty>"]);
    }
    target.get("name").must_be_set(e);
}
