//! Devices: when a taint was added, and claims of devices that others use (administrative access), which only namespaces
//! with a label may have. What devices are given to whom is the scheduler's to say.

use api_machinery::clock::{Clock, rfc3339};
use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::name;
use crate::references::items;
use crate::types::{AdmissionRequest, Lookup, Operation};

const GROUP: &str = "resource.k8s.io";
const LABEL: &str = "resource.kubernetes.io/admin-access";

/// Writes down when a taint was added, or what a rule's does became another.
pub fn admit(clock: &Clock, request: &mut AdmissionRequest<'_>) {
    if request.resource.group != GROUP || !request.info.subresource.is_empty() {
        return;
    }
    let (old, plural) = (request.old, &*request.resource.plural);
    let Some(spec) = request.object.as_deref_mut().and_then(|object| object.get_mut("spec")) else { return };
    let now = Value::from(rfc3339(clock.now()));
    match plural {
        "devicetaintrules" => {
            let Some(taint) = spec.get_mut("taint").and_then(Value::as_object_mut) else { return };
            let before = old.and_then(|old| old.pointer("/spec/taint"));
            let stale = before.is_some_and(|before| {
                taint.get("effect") != before.get("effect")
                    && taint.get("timeAdded") == before.get("timeAdded")
            });
            if stale || taint.get("timeAdded").is_none_or(Value::is_null) {
                taint.insert("timeAdded".to_owned(), now);
            }
        }
        "resourceslices" => {
            let devices = spec.get_mut("devices").and_then(Value::as_array_mut).into_iter().flatten();
            let taints = devices.filter_map(|device| device.get_mut("taints").and_then(Value::as_array_mut));
            for taint in taints.flatten().filter_map(Value::as_object_mut) {
                if taint.get("timeAdded").is_none_or(Value::is_null) {
                    taint.insert("timeAdded".to_owned(), now.clone());
                }
            }
        }
        _ => {}
    }
}

/// Refuses administrative access where the namespace does not allow it.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(object) = request.object.as_deref().filter(|_| request.resource.group == GROUP) else {
        return Ok(());
    };
    let Some(path) = asked_for(request, object) else { return Ok(()) };
    let namespace = lookup.get("", "namespaces", "", &request.info.namespace).await?;
    if namespace.is_some_and(|namespace| meta::label(&namespace, LABEL) == Some("true")) {
        return Ok(());
    }
    let mut errors = Errors::new();
    let why =
        format!("admin access to devices requires the `{LABEL}: true` label on the containing namespace");
    errors.forbidden(&Path::new(&path), why);
    Err(ApiError::invalid(GROUP, &request.resource.kind, name(request), errors))
}

/// Where administrative access is asked for, or allocated for the first time.
fn asked_for(request: &AdmissionRequest<'_>, object: &Value) -> Option<String> {
    let exactly = |request: &Value| request["exactly"]["adminAccess"] == true;
    let allocated = |result: &Value| result["adminAccess"] == true;
    let results =
        |object: &Value| items(&object["status"]["allocation"]["devices"], "results").position(allocated);
    match (&*request.resource.plural, request.operation, request.info.subresource.as_str()) {
        ("resourceclaims", Operation::Create, "") => {
            let at = items(&object["spec"]["devices"], "requests").position(exactly)?;
            Some(format!("spec.devices.requests[{at}].adminAccess"))
        }
        ("resourceclaimtemplates", Operation::Create, "") => {
            let at = items(&object["spec"]["spec"]["devices"], "requests").position(exactly)?;
            Some(format!("spec.devices.requests[{at}].adminAccess"))
        }
        ("resourceclaims", Operation::Update, "status")
            if request.old.is_none_or(|old| results(old).is_none()) =>
        {
            Some(format!("status.allocation.devices.results[{}].adminAccess", results(object)?))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;
    use serde_json::json;

    #[tokio::test]
    async fn administrative_access_takes_a_label() {
        let lookup = Objects::of(&[
            ("", "namespaces", json!({"metadata": {"name": "a"}})),
            ("", "namespaces", json!({"metadata": {"name": "b", "labels": {LABEL: "true"}}})),
        ]);
        let request = |access| json!({"devices": {"requests": [{}, {"exactly": {"adminAccess": access}}]}});
        let claim = |access| json!({"metadata": {"name": "c"}, "spec": request(access)});
        let template = json!({"metadata": {"name": "c"}, "spec": {"spec": request(true)}});
        let status = |access| json!({"metadata": {"name": "c"}, "status": {"allocation": {"devices": {"results": [{"adminAccess": access}]}}}});
        let none = json!({"metadata": {"name": "c"}});
        let create = Operation::Create;
        let update = Operation::Update;
        let requested = Some("spec.devices.requests[1].adminAccess");
        let table = [
            ("resourceclaims", create, "", "a", claim(true), None, requested),
            ("resourceclaims", create, "", "a", claim(false), None, None),
            ("resourceclaims", create, "", "b", claim(true), None, None),
            ("resourceclaimtemplates", create, "", "a", template, None, requested),
            ("resourceclaims", update, "", "a", claim(true), Some(claim(true)), None),
            (
                "resourceclaims",
                update,
                "status",
                "a",
                status(true),
                Some(none),
                Some("status.allocation.devices.results[0].adminAccess"),
            ),
            ("resourceclaims", update, "status", "a", status(true), Some(status(true)), None),
        ];
        for (plural, operation, subresource, namespace, object, old, want) in table {
            let kind = resource(GROUP, "ResourceClaim", plural, Scope::Namespaced);
            let mut write = Write::new(operation, kind, namespace, Some(object), old).to(subresource, "c");
            let error = check(&*lookup, &write.request()).await.err();
            let field =
                error.and_then(|error| error.details().map(|details| details.causes[0].field.clone()));
            assert_eq!(field.as_deref(), want, "{operation:?} {plural}/{subresource} in {namespace}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn taints_say_since_when() {
        let clock = Clock::simulated("2026-01-01T00:00:00Z".parse().expect("a time"));
        let admitted = |plural, object: Value, old: Option<Value>| {
            let kind = resource(GROUP, "Kind", plural, Scope::Cluster);
            let operation = if old.is_some() { Operation::Update } else { Operation::Create };
            let mut write = Write::new(operation, kind, "", Some(object), old);
            admit(&clock, &mut write.request());
            write.object.expect("an object")
        };
        let rule =
            |effect: &str, time: Value| json!({"spec": {"taint": {"effect": effect, "timeAdded": time}}});
        let (then, now) = (json!("2025-01-01T00:00:00Z"), json!("2026-01-01T00:00:00Z"));
        let time = |rule: Value| rule["spec"]["taint"]["timeAdded"].clone();
        assert_eq!(time(admitted("devicetaintrules", rule("None", Value::Null), None)), now);
        assert_eq!(time(admitted("devicetaintrules", rule("None", then.clone()), None)), then);
        let old = || Some(rule("None", then.clone()));
        assert_eq!(time(admitted("devicetaintrules", rule("NoExecute", then.clone()), old())), now);
        assert_eq!(time(admitted("devicetaintrules", rule("None", then.clone()), old())), then);
        let slice = json!({"spec": {"devices": [{"taints": [{"key": "a"}]}, {}]}});
        let made = admitted("resourceslices", slice, None);
        assert_eq!(made["spec"]["devices"][0]["taints"][0]["timeAdded"], now);
    }
}
