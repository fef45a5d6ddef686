//! `pods/NAME/eviction`: a deletion that disruption budgets may refuse.

use api_machinery::meta;
use api_machinery::selector::LabelSelector;
use api_machinery::status::{ApiError, Cause};
use http::StatusCode;
use serde_json::{Value, json};

use super::delete::{DeleteOptions, delete_object};
use super::{current, not_found};
use crate::request::admit::Admission;
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::{Lookup, Operation};

/// Evicts a pod.
pub async fn evict(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut eviction = decode::untyped(body)?;
    if !matches!(meta::kind(&eviction), "" | "Eviction") {
        return Err(ApiError::bad_request(format!("expected Eviction, found {}", meta::kind(&eviction))));
    }
    let name = meta::name(&eviction);
    if !name.is_empty() && name != call.info.name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let value = options.to_value("CreateOptions");
    let admission = Admission {
        call,
        operation: Operation::Create,
        old: None,
        dry_run: options.dry_run,
        options: &value,
    };
    let mut warnings = Vec::new();
    admission.mutate(server, Some(&mut eviction), &mut warnings).await?;
    admission.check(server, Some(&mut eviction), &mut warnings).await?;
    let mut delete = DeleteOptions::of(eviction.get("deleteOptions").unwrap_or(&json!({})))?;
    delete.dry_run |= options.dry_run;
    let pod = current(server, call).await?.and_then(|pod| pod.value()).ok_or_else(|| not_found(call))?;
    if must_ask(&pod) {
        ask_budgets(server, call, &pod).await?;
    }
    let mut target = call.about(&call.namespace, &call.info.name);
    target.info_mut().subresource.clear();
    delete_object(server, &target, &delete, &mut warnings).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::value(status).with_code(StatusCode::CREATED).with_warnings(warnings))
}

/// Pods that have ended, or never began, disrupt nothing.
fn must_ask(pod: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    !meta::is_deleting(pod) && !matches!(phase, "Succeeded" | "Failed" | "Pending")
}

async fn ask_budgets(server: &ApiServer, call: &ResourceCall, pod: &Value) -> Result<(), ApiError> {
    let budgets = server.cache().list("policy", "poddisruptionbudgets", Some(&call.namespace)).await?;
    for budget in budgets {
        let selector = LabelSelector::from_object(budget.pointer("/spec/selector"));
        if !selector.is_ok_and(|selector| selector.matches(meta::labels(pod))) {
            continue;
        }
        let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        if number("/status/observedGeneration") < meta::generation(&budget) {
            return Err(refusal(
                format!(
                    "The disruption budget {} is still being processed by the server.",
                    meta::name(&budget)
                ),
                10,
            ));
        }
        if number("/status/disruptionsAllowed") <= 0 {
            let why = format!(
                "The disruption budget {} needs {} healthy pods and has {} currently",
                meta::name(&budget),
                number("/status/desiredHealthy"),
                number("/status/currentHealthy")
            );
            return Err(refusal(why, 0));
        }
    }
    Ok(())
}

fn refusal(why: String, retry_after: u32) -> ApiError {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    ApiError::too_many_requests(text, retry_after).with_cause(Cause {
        reason: "DisruptionBudget".to_owned(),
        message: why,
        field: String::new(),
    })
}
