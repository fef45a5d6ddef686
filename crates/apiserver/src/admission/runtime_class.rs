//! RuntimeClass: what a pod's runtime needs for itself, and the nodes that have it.

use std::sync::Arc;

use api_machinery::status::ApiError;
use pod_rules::amounts;
use serde_json::{Value, json};

use super::{created, forbidden, is, list_mut};
use crate::references::text;
use crate::types::{AdmissionRequest, Lookup, Operation};

const DIFFERENT: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// The class that a new pod names.
async fn class_of(
    lookup: &dyn Lookup,
    request: &AdmissionRequest<'_>,
) -> Result<Option<Arc<Value>>, ApiError> {
    let pod = request.object.as_deref();
    let name = pod.map(|pod| text(pod, "/spec/runtimeClassName")).unwrap_or_default();
    if request.operation != Operation::Create || !is(request, "pods", "") || name.is_empty() {
        return Ok(None);
    }
    let found = lookup.get("node.k8s.io", "runtimeclasses", "", name).await?;
    let missing = || forbidden(request, format_args!("pod rejected: RuntimeClass {name:?} not found"));
    found.ok_or_else(missing).map(Some)
}

fn overhead(class: &Value) -> Option<&Value> {
    class.pointer("/overhead/podFixed").filter(|overhead| overhead.is_object())
}

fn same(a: &Value, b: &Value) -> bool {
    amounts::read(Some(a)) == amounts::read(Some(b))
}

/// Adds what the class asks for.
pub async fn admit(lookup: &dyn Lookup, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(class) = class_of(lookup, request).await? else { return Ok(()) };
    let Some(spec) = created(request, "pods").and_then(|pod| pod.get_mut("spec")) else { return Ok(()) };
    let mut refusal = None;
    if let Some(overhead) = overhead(&class) {
        match spec.get("overhead").filter(|own| own.is_object()) {
            Some(own) if !same(own, overhead) => refusal = Some(DIFFERENT.to_owned()),
            _ => spec["overhead"] = overhead.clone(),
        }
    }
    let refusal = refusal.or_else(|| schedule(spec, class.get("scheduling")?));
    refusal.map_or(Ok(()), |why| Err(forbidden(request, why)))
}

/// Merges the class's nodes and tolerations into the pod's; says what contradicts.
fn schedule(spec: &mut Value, scheduling: &Value) -> Option<String> {
    let wanted = scheduling.get("nodeSelector").and_then(Value::as_object);
    if wanted.is_some_and(|wanted| !wanted.is_empty()) && !spec["nodeSelector"].is_object() {
        spec["nodeSelector"] = json!({});
    }
    for (key, value) in wanted.into_iter().flatten() {
        let own = spec["nodeSelector"].get(key).cloned();
        if let Some(own) = own.filter(|own| own != value) {
            let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            return Some(format!(
                "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {}; pod.spec.nodeSelector[{key}] = {}",
                shown(value),
                shown(&own)
            ));
        }
        spec["nodeSelector"][key] = value.clone();
    }
    let tolerations = scheduling.get("tolerations").and_then(Value::as_array);
    if let Some(more) = tolerations.filter(|more| !more.is_empty())
        && let Some(own) = list_mut(spec, "tolerations")
    {
        let new: Vec<Value> = more.iter().filter(|toleration| !own.contains(toleration)).cloned().collect();
        own.extend(new);
    }
    None
}

/// Overhead is the class's to say.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.operation != Operation::Create || !is(request, "pods", "") {
        return Ok(());
    }
    let class = class_of(lookup, request).await?;
    let own = request.object.as_deref().and_then(|pod| pod.pointer("/spec/overhead"));
    let own = own.filter(|own| own.is_object());
    let why = match (class.as_deref().and_then(overhead), own) {
        (Some(wanted), own) if !own.is_some_and(|own| same(own, wanted)) => DIFFERENT,
        (None, Some(_)) => {
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"
        }
        _ => return Ok(()),
    };
    Err(forbidden(request, why))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;

    #[tokio::test]
    async fn what_classes_add() {
        let toleration = json!({"key": "sandbox", "operator": "Exists"});
        let class = json!({"metadata": {"name": "sandbox"}, "handler": "h", "overhead": {"podFixed": {"cpu": "100m"}},
            "scheduling": {"nodeSelector": {"sandbox": "yes"}, "tolerations": [toleration]}});
        let plain = json!({"metadata": {"name": "plain"}, "handler": "h"});
        let lookup = Objects::of(&[
            ("node.k8s.io", "runtimeclasses", class),
            ("node.k8s.io", "runtimeclasses", plain),
        ]);
        let table = [
            (
                json!({"runtimeClassName": "sandbox", "nodeSelector": {"zone": "a"}, "overhead": {"cpu": "0.1"}, "tolerations": [toleration]}),
                Ok(
                    json!({"runtimeClassName": "sandbox", "nodeSelector": {"zone": "a", "sandbox": "yes"}, "overhead": {"cpu": "100m"}, "tolerations": [toleration]}),
                ),
            ),
            (
                json!({"runtimeClassName": "sandbox"}),
                Ok(
                    json!({"runtimeClassName": "sandbox", "nodeSelector": {"sandbox": "yes"}, "overhead": {"cpu": "100m"}, "tolerations": [toleration]}),
                ),
            ),
            (json!({"runtimeClassName": "plain"}), Ok(json!({"runtimeClassName": "plain"}))),
            (json!({}), Ok(json!({}))),
            (json!({"runtimeClassName": "sandbox", "overhead": {"cpu": "1"}}), Err(DIFFERENT)),
            (
                json!({"runtimeClassName": "sandbox", "nodeSelector": {"sandbox": "no"}}),
                Err(
                    "conflict: runtimeClass.scheduling.nodeSelector[sandbox] = yes; pod.spec.nodeSelector[sandbox] = no",
                ),
            ),
            (json!({"runtimeClassName": "x"}), Err("pod rejected: RuntimeClass \"x\" not found")),
            (
                json!({"runtimeClassName": "plain", "overhead": {"cpu": "1"}}),
                Err("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
            ),
        ];
        for (spec, want) in table {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            let mut write = Write::new(
                Operation::Create,
                resource("", "Pod", "pods", Scope::Namespaced),
                "a",
                Some(pod),
                None,
            );
            let mut result = admit(&*lookup, &mut write.request()).await;
            if result.is_ok() {
                result = check(&*lookup, &write.request()).await;
            }
            let found = result.map(|()| write.object.expect("still there")["spec"].clone());
            let found = found.map_err(|error| error.message().replace("pods \"p\" is forbidden: ", ""));
            assert_eq!(found, want.map_err(str::to_owned), "{spec}");
        }
    }
}
