//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or cannot be reached, unless it says
//! otherwise.

use serde_json::{Value, json};

use super::{is, list_mut};
use crate::types::{AdmissionRequest, Operation};

const KEYS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const SECONDS: i64 = 300;

/// Adds what is missing.
pub fn admit(request: &mut AdmissionRequest<'_>) {
    if !is(request, "pods", "") || !matches!(request.operation, Operation::Create | Operation::Update) {
        return;
    }
    let Some(spec) = request.object.as_deref_mut().and_then(|pod| pod.get_mut("spec")) else { return };
    if !spec.is_object() {
        return;
    }
    let existing = spec.get("tolerations").and_then(Value::as_array).cloned().unwrap_or_default();
    let missing: Vec<&str> =
        KEYS.into_iter().filter(|key| !existing.iter().any(|t| tolerates(t, key))).collect();
    if missing.is_empty() {
        return;
    }
    let Some(tolerations) = list_mut(spec, "tolerations") else { return };
    tolerations.extend(missing.into_iter().map(
        |key| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS}),
    ));
}

fn tolerates(toleration: &Value, key: &str) -> bool {
    let is = |field: &str, value: &str| {
        let found = toleration.get(field).and_then(Value::as_str).unwrap_or_default();
        found.is_empty() || found == value
    };
    is("key", key) && is("effect", "NoExecute")
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Write, resource};
    use super::*;
    use api_machinery::resource::Scope;

    #[test]
    fn only_what_is_missing() {
        let not_ready =
            json!({"key": KEYS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let unreachable =
            json!({"key": KEYS[1], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
        let own =
            json!({"key": KEYS[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let scheduling = json!({"key": KEYS[0], "operator": "Exists", "effect": "NoSchedule"});
        let table = [
            (json!({}), json!([not_ready, unreachable])),
            (json!({"tolerations": null}), json!([not_ready, unreachable])),
            (json!({"tolerations": [own]}), json!([own, unreachable])),
            (json!({"tolerations": [scheduling]}), json!([scheduling, not_ready, unreachable])),
            (json!({"tolerations": [{"operator": "Exists"}]}), json!([{"operator": "Exists"}])),
        ];
        for (spec, want) in table {
            let pod = json!({"spec": spec});
            let pods = resource("", "Pod", "pods", Scope::Namespaced);
            let mut write = Write::new(Operation::Create, pods, "a", Some(pod), None);
            admit(&mut write.request());
            assert_eq!(write.object.expect("still there")["spec"]["tolerations"], want);
        }
    }
}
