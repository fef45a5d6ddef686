//! Nobody grants more than he holds: a role may only be written by who holds all of its rules, and bound by who holds
//! them or may `bind` it. The verbs `escalate` and `bind` and the group `system:masters` lift that.

use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::rbac::GROUP;
use super::rules::{Rule, go_list, missing};
use super::{Authorizer, MASTERS};
use crate::types::{AdmissionRequest, Operation, RequestInfo};

/// Checks a write of a role or binding; anything else passes.
pub async fn check(authorizer: &Authorizer, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.resource.group != GROUP || !matches!(request.operation, Operation::Create | Operation::Update)
    {
        return Ok(());
    }
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    if request.user.in_group(MASTERS) || only_collector_fields_changed(object, request.old) {
        return Ok(());
    }
    match &*request.resource.plural {
        "roles" | "clusterroles" => role(authorizer, request, object).await,
        "rolebindings" | "clusterrolebindings" => binding(authorizer, request, object).await,
        _ => Ok(()),
    }
}

/// The garbage collector may take away owners and finalizers of what it could not grant.
fn only_collector_fields_changed(new: &Value, old: Option<&Value>) -> bool {
    let strip = |object: &Value| {
        let mut object = object.clone();
        for field in ["ownerReferences", "finalizers", "managedFields"] {
            meta::metadata_mut(&mut object).remove(field);
        }
        object
    };
    old.is_some_and(|old| strip(new) == strip(old))
}

async fn role(authorizer: &Authorizer, request: &AdmissionRequest<'_>, role: &Value) -> Result<(), ApiError> {
    if may(authorizer, request, "escalate", &request.resource.plural, &request.info.name).await? {
        return Ok(());
    }
    holds(authorizer, request, role, &Rule::of_role(role)).await?;
    let aggregated = role.get("aggregationRule").filter(|rule| !rule.is_null());
    let before = request.old.and_then(|old| old.get("aggregationRule"));
    if aggregated.is_some() && aggregated != before {
        let all = || vec!["*".to_owned()];
        let everything = [
            Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
            Rule { verbs: all(), urls: all(), ..Rule::default() },
        ];
        let held = holds(authorizer, request, role, &everything).await;
        return held.map_err(|_| {
            refuse(request, role, "must have cluster-admin privileges to use the aggregationRule".to_owned())
        });
    }
    Ok(())
}

async fn binding(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    binding: &Value,
) -> Result<(), ApiError> {
    let text = |field: &str| {
        binding.get("roleRef").and_then(|role| role.get(field)).and_then(Value::as_str).unwrap_or_default()
    };
    let (kind, name) = (text("kind"), text("name"));
    let plural = if kind == "Role" { "roles" } else { "clusterroles" };
    if may(authorizer, request, "bind", plural, name).await? {
        return Ok(());
    }
    match authorizer.rbac().role(kind, name, &request.info.namespace).await? {
        Ok(rules) => holds(authorizer, request, binding, &rules).await,
        Err(_) => Err(ApiError::not_found(GROUP, plural, name)),
    }
}

async fn may(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    verb: &str,
    resource: &str,
    name: &str,
) -> Result<bool, ApiError> {
    let info = RequestInfo {
        verb: verb.to_owned(),
        api_group: GROUP.to_owned(),
        api_version: "v1".to_owned(),
        resource: resource.to_owned(),
        namespace: request.info.namespace.clone(),
        name: name.to_owned(),
        is_resource: true,
        ..RequestInfo::default()
    };
    authorizer.allows(request.user, &info).await
}

/// Passes if the user holds all of `wanted`, or names what is missing.
async fn holds(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    object: &Value,
    wanted: &[Rule],
) -> Result<(), ApiError> {
    let (held, errors) = authorizer.rbac().rules(request.user, &request.info.namespace).await?;
    let missing = missing(held.iter(), wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut why = format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        request.user.name,
        go_list(&request.user.groups),
        missing.join("\n")
    );
    if !errors.is_empty() {
        why.push_str(&format!("; resolution errors: [{}]", errors.join(" ")));
    }
    Err(refuse(request, object, why))
}

fn refuse(request: &AdmissionRequest<'_>, object: &Value, why: String) -> ApiError {
    ApiError::forbidden(GROUP, &request.resource.plural, meta::name(object), why)
}
