//! `pods/NAME/eviction`: a deletion that disruption budgets may refuse.

use std::sync::Arc;

use api_machinery::clock::rfc3339;
use api_machinery::meta;
use api_machinery::selector::LabelSelector;
use api_machinery::status::{ApiError, Cause};
use http::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::delete::{DeleteOptions, delete_object};
use super::lens::Lens;
use super::owner::Owner;
use super::update::{Change, Wanted};
use super::{SERVER, current, not_found, status_of};
use crate::request::admit::Admission;
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::Lookup;

/// Most evictions that a budget remembers as not yet seen by its controller.
const MOST_DISRUPTED: usize = 2000;

/// Rounds of an eviction whose pod keeps changing.
const ATTEMPTS: usize = 16;

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
    let admission = Admission::creating(call, options.dry_run, &value);
    let mut warnings = Vec::new();
    admission.mutate(server, Some(&mut eviction), &mut warnings).await?;
    admission.check(server, Some(&mut eviction), &mut warnings).await?;
    let mut delete = DeleteOptions::of(eviction.get("deleteOptions").unwrap_or(&json!({})))?;
    delete.dry_run |= options.dry_run;
    delete.admitted = true;
    let mut rounds = ATTEMPTS;
    while !attempt(server, call, &delete, &mut warnings).await? {
        rounds -= 1;
        if rounds == 0 {
            return Err(ApiError::stale("", "pods", &call.info.name));
        }
    }
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(Answer::value(status).with_code(StatusCode::CREATED).with_warnings(warnings))
}

/// Asks the pod's budget and deletes it; `false` when the pod was not what the answer was about any more.
async fn attempt(
    server: &ApiServer,
    call: &ResourceCall,
    options: &DeleteOptions,
    warnings: &mut Vec<String>,
) -> Result<bool, ApiError> {
    let mut delete = options.clone();
    let pod = current(server, call).await?.and_then(|pod| pod.value()).ok_or_else(|| not_found(call))?;
    let budgets = budgets_of(server, call, &pod).await?;
    if budgets.len() > 1 {
        return Err(ApiError::internal(
            "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
        ));
    }
    let mut unasked = false;
    match budgets.first() {
        Some(budget) if must_ask(&pod, budget) => spend(server, call, budget, &delete).await?,
        // It goes without asking because of how it is: not if it is otherwise by then.
        Some(_) if !meta::is_deleting(&pod) && delete.resource_version.is_none() => {
            unasked = true;
            delete.resource_version = Some(meta::resource_version(&pod).to_owned());
        }
        Some(_) | None => {}
    }
    // Whom the budget was asked about, not a namesake that came meanwhile.
    delete.uid = delete.uid.or_else(|| Some(meta::uid(&pod).to_owned()));
    let mut target = call.about(&call.namespace, &call.info.name);
    target.info_mut().subresource.clear();
    match delete_object(server, &target, &delete, warnings).await {
        Err(error) if unasked && error.code() == 409 => Ok(false),
        deleted => deleted.map(|_| true),
    }
}

/// The budgets of the namespace that guard a pod, as they are now.
async fn budgets_of(
    server: &ApiServer,
    call: &ResourceCall,
    pod: &Value,
) -> Result<Vec<Arc<Value>>, ApiError> {
    server.lookup().fresh().await?;
    let mut budgets = server.cache().list("policy", "poddisruptionbudgets", Some(&call.namespace)).await?;
    budgets.retain(|budget| {
        LabelSelector::from_object(budget.pointer("/spec/selector"))
            .is_ok_and(|selector| selector.matches(meta::labels(pod)))
    });
    Ok(budgets)
}

fn number(budget: &Value, pointer: &str) -> i64 {
    budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether losing the pod costs its budget anything. Pods that have ended, or never began, disrupt nothing; one that is
/// not healthy, nothing while enough others are, or when the budget says so.
fn must_ask(pod: &Value, budget: &Value) -> bool {
    let phase = pod.pointer("/status/phase").and_then(Value::as_str).unwrap_or_default();
    if meta::is_deleting(pod) || matches!(phase, "Succeeded" | "Failed" | "Pending") {
        return false;
    }
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let healthy =
        conditions.into_iter().flatten().any(|one| one["type"] == "Ready" && one["status"] == "True");
    let wanted = number(budget, "/status/desiredHealthy");
    let enough = wanted > 0 && number(budget, "/status/currentHealthy") >= wanted;
    let always =
        budget.pointer("/spec/unhealthyPodEvictionPolicy").is_some_and(|policy| policy == "AlwaysAllow");
    healthy || !(always || enough)
}

/// Takes one disruption from a budget: by comparing and committing its status, so that two evictions never share one.
async fn spend(
    server: &ApiServer,
    call: &ResourceCall,
    budget: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let kind = ("policy", "v1", "poddisruptionbudgets");
    let target = status_of(server, call, kind, meta::name(budget))?;
    let owner = Owner::of(server, &target, &Lens::Status, SERVER);
    let change = Change {
        call: &target,
        lens: &Lens::Status,
        dry_run: options.dry_run,
        options: json!({}),
        admit: false,
        owner: Some(&owner),
    };
    let (pod, now) = (call.info.name.as_str(), server.clock().now());
    match change
        .run(server, &mut Vec::new(), &|budget| taken(budget.clone(), pod, now).map(Wanted::from))
        .await
    {
        Ok(_) => Ok(()),
        // Its budget has gone meanwhile.
        Err(error) if error.code() == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// A budget with one disruption less, for this pod; or why it cannot be.
fn taken(mut budget: Value, pod: &str, now: Timestamp) -> Result<Value, ApiError> {
    let name = meta::name(&budget).to_owned();
    if number(&budget, "/status/observedGeneration") < meta::generation(&budget) {
        return Err(refusal(
            format!("The disruption budget {name} is still being processed by the server."),
            10,
        ));
    }
    let allowed = number(&budget, "/status/disruptionsAllowed");
    let forbidden = |why| Err(ApiError::forbidden("policy", "poddisruptionbudgets", &name, why));
    if allowed < 0 {
        return forbidden("pdb disruptions allowed is negative");
    }
    let told = budget.pointer("/status/disruptedPods").and_then(Value::as_object);
    if told.is_some_and(|pods| pods.len() > MOST_DISRUPTED) {
        return forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    if allowed == 0 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            number(&budget, "/status/desiredHealthy"),
            number(&budget, "/status/currentHealthy")
        );
        return Err(refusal(why, 0));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    if !budget["status"]["disruptedPods"].is_object() {
        budget["status"]["disruptedPods"] = json!({});
    }
    budget["status"]["disruptedPods"][pod] = rfc3339(now).into();
    if allowed == 1 {
        exhausted(&mut budget, now);
    }
    Ok(budget)
}

/// The condition `DisruptionAllowed` becomes false.
fn exhausted(budget: &mut Value, now: Timestamp) {
    let generation = budget["status"]["observedGeneration"].clone();
    let conditions = &mut budget["status"]["conditions"];
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    let Some(conditions) = conditions.as_array_mut() else { return };
    conditions.retain(|condition| condition["type"] != "DisruptionAllowed");
    conditions.push(json!({
        "type": "DisruptionAllowed", "status": "False", "reason": "InsufficientPods", "message": "",
        "observedGeneration": generation, "lastTransitionTime": rfc3339(now),
    }));
}

fn refusal(why: String, retry_after: u32) -> ApiError {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    ApiError::too_many_requests(text, retry_after).with_cause(Cause {
        reason: "DisruptionBudget".to_owned(),
        message: why,
        field: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(allowed: i64) -> Value {
        json!({"metadata": {"name": "b", "generation": 2}, "status": {
            "observedGeneration": 2, "disruptionsAllowed": allowed, "desiredHealthy": 2, "currentHealthy": 2,
        }})
    }

    #[test]
    fn a_disruption_is_spent_once() {
        let now = Timestamp::UNIX_EPOCH;
        let spent = taken(budget(1), "p", now).expect("one is left");
        assert_eq!(spent["status"]["disruptionsAllowed"], 0);
        assert_eq!(spent["status"]["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z"}));
        assert_eq!(spent["status"]["conditions"][0]["reason"], "InsufficientPods");
        let error = taken(spent, "q", now).expect_err("none is left");
        assert_eq!(error.code(), 429);
        assert_eq!(error.message(), "Cannot evict pod as it would violate the pod's disruption budget.");
        let mut stale = budget(5);
        stale["metadata"]["generation"] = 3.into();
        assert_eq!(taken(stale, "p", now).expect_err("not yet looked at").code(), 429);
        assert_eq!(taken(budget(-1), "p", now).expect_err("nonsense").code(), 403);
    }

    #[test]
    fn who_costs_the_budget_nothing_need_not_ask() {
        let pod = |phase: &str, ready: &str| json!({"metadata": {}, "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}});
        let short = json!({"status": {"desiredHealthy": 3, "currentHealthy": 2}});
        let always =
            json!({"spec": {"unhealthyPodEvictionPolicy": "AlwaysAllow"}, "status": short["status"]});
        let table = [
            ("Running", "True", budget(0), true),
            ("Running", "False", budget(0), false),
            ("Running", "False", short.clone(), true),
            ("Running", "False", always.clone(), false),
            ("Running", "True", always, true),
            ("Pending", "False", short.clone(), false),
            ("Succeeded", "False", short, false),
        ];
        for (phase, ready, budget, asks) in table {
            assert_eq!(must_ask(&pod(phase, ready), &budget), asks, "{phase} {ready} {budget}");
        }
    }
}
