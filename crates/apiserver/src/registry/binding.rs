//! `pods/NAME/binding` and `bindings`: a pod gets its node, once.

use api_machinery::clock::rfc3339;
use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::status::ApiError;
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lens::Lens;
use super::update::{Change, Wanted};
use crate::request::admit::Admission;
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;

/// Binds a pod to the node that the body names.
pub async fn bind(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut binding = decode::untyped(body)?;
    let kind = (meta::api_version(&binding), meta::kind(&binding));
    if !matches!(kind, ("v1" | "", "Binding" | "")) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version (v1)",
            kind.0
        )));
    }
    let name = match (call.info.name.as_str(), meta::name(&binding)) {
        ("", name) => name.to_owned(),
        (asked, "") => asked.to_owned(),
        (asked, name) if asked == name => name.to_owned(),
        (asked, name) => {
            return Err(ApiError::bad_request(format!(
                "name in URL does not match name in Binding object: {asked} and {name}"
            )));
        }
    };
    validate(&binding, &name)?;
    meta::set_name(&mut binding, &name);
    let value = options.to_value("CreateOptions");
    let admission = Admission::creating(call, options.dry_run, &value);
    let mut warnings = Vec::new();
    admission.mutate(server, Some(&mut binding), &mut warnings).await?;
    admission.check(server, Some(&mut binding), &mut warnings).await?;
    let now = server.clock().now();
    let mut pod = call.about(&call.namespace, &name);
    pod.info_mut().verb = "patch".to_owned();
    // The pod's entry, also when the request came through `bindings`.
    pod.stored = server.catalog().find("", "v1", "pods").ok_or_else(ApiError::no_such_path)?.clone();
    pod.resource = pod.stored.clone();
    let change = Change {
        call: &pod,
        lens: &Lens::Bind,
        dry_run: options.dry_run,
        options: value,
        admit: false,
        owner: None,
    };
    let bound = |pod: &Value| assign(pod.clone(), &binding, now).map(Wanted::from);
    change.run(server, &mut warnings, &bound).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::value(status).with_code(StatusCode::CREATED).with_warnings(warnings))
}

fn target(binding: &Value) -> &str {
    binding.pointer("/target/name").and_then(Value::as_str).unwrap_or_default()
}

fn validate(binding: &Value, name: &str) -> Result<(), ApiError> {
    let mut errors = Errors::new();
    let path = Path::new("target");
    let kind = binding.pointer("/target/kind").and_then(Value::as_str).unwrap_or_default();
    if !matches!(kind, "" | "Node") {
        errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
    }
    if target(binding).is_empty() {
        errors.required(&path.child("name"), "");
    }
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid("", "Binding", name, errors)) }
}

/// The pod on its node, or why not.
fn assign(mut pod: Value, binding: &Value, now: Timestamp) -> Result<Value, ApiError> {
    let name = meta::name(&pod).to_owned();
    let conflict = |why: String| Err(ApiError::conflict("", "pods/binding", &name, why));
    for (what, wanted, found) in [
        ("UID", meta::uid(binding), meta::uid(&pod)),
        ("ResourceVersion", meta::resource_version(binding), meta::resource_version(&pod)),
    ] {
        if !wanted.is_empty() && wanted != found {
            return conflict(format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            ));
        }
    }
    if meta::is_deleting(&pod) {
        return conflict(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if !node.is_empty() {
        return conflict(format!("pod {name} is already assigned to node {node:?}"));
    }
    if pod.pointer("/spec/schedulingGates").and_then(Value::as_array).is_some_and(|gates| !gates.is_empty()) {
        return conflict(format!("pod {name} has non-empty .spec.schedulingGates"));
    }
    pod["spec"]["nodeName"] = target(binding).into();
    for (key, value) in meta::annotations(binding).into_iter().flatten() {
        meta::set_annotation(&mut pod, key, value.as_str().unwrap_or_default());
    }
    set_scheduled(&mut pod, now);
    Ok(pod)
}

/// The condition `PodScheduled` becomes true.
fn set_scheduled(pod: &mut Value, now: Timestamp) {
    if !pod["status"].is_object() {
        pod["status"] = json!({});
    }
    let conditions = &mut pod["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    let mut scheduled = json!({
        "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": rfc3339(now),
    });
    match conditions.iter_mut().find(|condition| condition["type"] == "PodScheduled") {
        Some(existing) => {
            if existing["status"] == "True" {
                scheduled["lastTransitionTime"] = existing["lastTransitionTime"].clone();
            }
            *existing = scheduled;
        }
        None => conditions.push(scheduled),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_is_bound_once() {
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {}});
        let binding = json!({"metadata": {"name": "p", "annotations": {"a": "b"}}, "target": {"kind": "Node", "name": "n"}});
        let now = Timestamp::UNIX_EPOCH;
        let bound = assign(pod.clone(), &binding, now).expect("free");
        assert_eq!(bound["spec"]["nodeName"], "n");
        assert_eq!(bound["metadata"]["annotations"]["a"], "b");
        assert_eq!(bound["status"]["conditions"][0]["status"], "True");
        let error = assign(bound, &binding, now).expect_err("bound");
        assert_eq!(
            error.message(),
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to node \"n\""
        );
        let other = json!({"metadata": {"name": "p", "uid": "v"}, "target": {"name": "n"}});
        assert_eq!(assign(pod, &other, now).expect_err("another pod").code(), 409);
    }
}
