//! PodSecurity: namespaces say by labels which of the published security levels their pods must keep, and of which version.
//! What breaks the enforced level is refused, what breaks another is warned of; workloads are warned of for their templates,
//! and whoever makes a namespace stricter hears of the pods that are there.
//!
//! Deliberately absent: exemptions and other defaults than `privileged`, which upstream reads from a file; what is audited is
//! traced.

mod baseline;
mod levels;
mod restricted;
mod words;

use std::collections::BTreeMap;

use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use self::levels::{Level, Policy, Standard};
use self::words::Violation;
use super::{forbidden, is};
use crate::references::{items, spec, text};
use crate::types::{AdmissionRequest, Lookup, Operation};

/// Subresources of pods that leave alone what the levels are about.
const IGNORED: [&str; 8] = ["attach", "binding", "eviction", "exec", "log", "portforward", "proxy", "status"];
/// Where workloads have what their pods are made of.
const TEMPLATES: [(&str, &str, &str); 8] = [
    ("", "podtemplates", "/template"),
    ("", "replicationcontrollers", "/spec/template"),
    ("apps", "daemonsets", "/spec/template"),
    ("apps", "deployments", "/spec/template"),
    ("apps", "replicasets", "/spec/template"),
    ("apps", "statefulsets", "/spec/template"),
    ("batch", "cronjobs", "/spec/jobTemplate/spec/template"),
    ("batch", "jobs", "/spec/template"),
];
/// Pods that are looked at when a namespace becomes stricter.
const MOST_PODS: usize = 3000;

/// Refuses, or says what there is to warn of.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<Vec<String>, ApiError> {
    let Some(object) = request.object.as_deref() else { return Ok(Vec::new()) };
    let resource = request.resource;
    if !matches!(request.operation, Operation::Create | Operation::Update) {
        return Ok(Vec::new());
    }
    if is(request, "namespaces", "") {
        return namespace(lookup, request, object).await;
    }
    if resource.group.is_empty() && resource.plural == "pods" {
        let subresource = request.info.subresource.as_str();
        let same =
            request.operation == Operation::Update && request.old.is_some_and(|old| !matters(object, old));
        if IGNORED.contains(&subresource) || same {
            return Ok(Vec::new());
        }
        return pod(&policy(lookup, request).await?, request, object);
    }
    let place =
        TEMPLATES.iter().find(|(group, plural, _)| resource.group == *group && resource.plural == *plural);
    let template = place.and_then(|(_, _, pointer)| object.pointer(pointer));
    match template.filter(|template| template.is_object() && request.info.subresource.is_empty()) {
        Some(template) => Ok(told(&policy(lookup, request).await?, request, template)),
        None => Ok(Vec::new()),
    }
}

async fn policy(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<Policy, ApiError> {
    let name = &request.info.namespace;
    let namespace = lookup.get("", "namespaces", "", name).await?;
    let namespace =
        namespace.ok_or_else(|| ApiError::internal(format_args!("failed to lookup namespace {name}")))?;
    Ok(Policy::of(&namespace).0)
}

fn pod(policy: &Policy, request: &AdmissionRequest<'_>, pod: &Value) -> Result<Vec<String>, ApiError> {
    let violations = violations(&policy.enforce, pod);
    if violations.is_empty() {
        return Ok(told(policy, request, pod));
    }
    let details = words::details(&violations);
    Err(forbidden(request, format_args!("violates PodSecurity \"{}\": {details}", policy.enforce)))
}

/// What is warned of and what is only noted.
fn told(policy: &Policy, request: &AdmissionRequest<'_>, pod: &Value) -> Vec<String> {
    let would = |standard: &Standard| {
        let violations = violations(standard, pod);
        let details = words::details(&violations);
        (!violations.is_empty()).then(|| format!("would violate PodSecurity \"{standard}\": {details}"))
    };
    if let Some(audit) = would(&policy.audit) {
        let (namespace, plural) = (&request.info.namespace, &request.resource.plural);
        tracing::debug!(%namespace, %plural, name = super::name(request), audit, "pod security");
    }
    would(&policy.warn).into_iter().collect()
}

/// What a pod, or the template of pods, breaks of a standard.
fn violations(standard: &Standard, pod: &Value) -> Vec<Violation> {
    let minor = standard.minor;
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let restricted = restricted::CHECKS.iter().filter(|_| standard.level == Level::Restricted);
    let checks = baseline::CHECKS.iter().chain(restricted);
    let stricter = |id: &str| {
        let overriding = restricted::OVERRIDES.iter().find(|(_, _, overridden)| *overridden == id);
        standard.level == Level::Restricted && overriding.is_some_and(|(_, since, _)| *since <= minor)
    };
    let due = checks.filter(|(id, since, _)| *since <= minor && !stricter(id));
    due.filter_map(|(_, _, check)| check(pod, minor)).collect()
}

/// Whether an update changes anything that the levels look at: images, containers, and what old annotations say.
fn matters(new: &Value, old: &Value) -> bool {
    let annotation = |key: &str| meta::annotation(new, key) != meta::annotation(old, key);
    if annotation(words::SECCOMP_POD) {
        return true;
    }
    let changed = |container: &Value, before: Option<&Value>| {
        let name = text(container, "/name");
        before.is_none_or(|before| text(before, "/image") != text(container, "/image"))
            || annotation(&format!("{}{name}", words::SECCOMP_CONTAINER))
    };
    let lists = ["containers", "initContainers"].iter().any(|list| {
        let (new, old): (Vec<&Value>, Vec<&Value>) =
            (items(spec(new), list).collect(), items(spec(old), list).collect());
        new.len() != old.len()
            || new.iter().zip(old).any(|(container, before)| changed(container, Some(before)))
    });
    let late = items(spec(new), "ephemeralContainers").any(|container| {
        let name = text(container, "/name");
        changed(
            container,
            items(spec(old), "ephemeralContainers").find(|before| text(before, "/name") == name),
        )
    });
    lists || late
}

/// Labels must make sense where they are new, and stricter ones may not fit the pods that are there.
async fn namespace(
    lookup: &dyn Lookup,
    request: &AdmissionRequest<'_>,
    namespace: &Value,
) -> Result<Vec<String>, ApiError> {
    let (new, errors) = Policy::of(namespace);
    let before = request.old.map(Policy::of);
    let shown = |errors: &Errors| errors.iter().map(ToString::to_string).collect::<Vec<String>>();
    let known = before.as_ref().map(|(_, errors)| shown(errors)).unwrap_or_default();
    if !errors.is_empty() && shown(&errors) != known {
        return Err(ApiError::invalid("", "Namespace", meta::name(namespace), errors));
    }
    let Some((old, _)) = before else { return Ok(Vec::new()) };
    let (new, old) = (new.enforce, old.enforce);
    let relaxed = new.minor == old.minor && new.level <= old.level;
    if new == old || new.level == Level::Privileged || relaxed {
        return Ok(Vec::new());
    }
    let name = meta::name(namespace);
    let pods = lookup.list("", "pods", Some(name)).await?;
    Ok(existing(name, &new, &pods.iter().map(|pod| &**pod).collect::<Vec<_>>()))
}

/// What there is to say of pods that break a level that they were not made under.
fn existing(namespace: &str, standard: &Standard, pods: &[&Value]) -> Vec<String> {
    let mut broken: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for pod in pods.iter().take(MOST_PODS) {
        let violations = violations(standard, pod);
        if !violations.is_empty() {
            broken.entry(words::reasons(&violations)).or_default().push(meta::name(pod));
        }
    }
    let mut warnings = Vec::new();
    if pods.len() > MOST_PODS {
        let all = pods.len();
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {MOST_PODS} of {all} existing pods"
        ));
    }
    if !broken.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = broken
        .into_iter()
        .map(|(reasons, names)| {
            let first = names.iter().min().copied().unwrap_or_default();
            match names.len() {
                1 => format!("{first}: {reasons}"),
                2 => format!("{first} (and 1 other pod): {reasons}"),
                more => format!("{first} (and {} other pods): {reasons}", more - 1),
            }
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}

#[cfg(test)]
mod tests;
