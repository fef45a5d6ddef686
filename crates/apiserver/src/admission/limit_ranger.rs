//! LimitRanger: what containers get that do not say what they need, and how much and how little is allowed in a namespace.

use api_machinery::meta;
use api_machinery::quantity::Quantity;
use api_machinery::status::ApiError;
use pod_rules::amounts::{self, Amounts, Side};
use serde_json::{Value, json};

use super::{created, forbidden, is};
use crate::references::{items, spec, text};
use crate::types::{AdmissionRequest, Lookup, Operation};

const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Containers by what messages call them. Ephemeral ones have no resources of their own.
const CONTAINERS: [(&str, &str); 2] = [("containers", "container"), ("initContainers", "init container")];
/// From here on thousandths do not fit.
const MAX_MILLI: i64 = i64::MAX / 1000;

/// Gives new pods the defaults of their namespace.
pub async fn admit(lookup: &dyn Lookup, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let namespace = request.info.namespace.clone();
    let Some(pod) = created(request, "pods") else { return Ok(()) };
    for range in lookup.list("", "limitranges", Some(&namespace)).await? {
        if !meta::is_deleting(&range) {
            complete(pod, &range);
        }
    }
    Ok(())
}

fn complete(pod: &mut Value, range: &Value) {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    for limit in limits_of(range, "Container") {
        requests.extend(amounts::read(limit.get("defaultRequest")));
        limits.extend(amounts::read(limit.get("default")));
    }
    let mut told = Vec::new();
    for (list, word) in CONTAINERS {
        let containers =
            pod.get_mut("spec").and_then(|spec| spec.get_mut(list)).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let name = text(container, "/name").to_owned();
            for (side, defaults, what) in [("requests", &requests, "request"), ("limits", &limits, "limit")] {
                let set = fill(container, side, defaults);
                if !set.is_empty() {
                    told.push(format!("{} {what} for {word} {name}", set.join(", ")));
                }
            }
        }
    }
    if !told.is_empty() {
        meta::set_annotation(pod, ANNOTATION, &format!("LimitRanger plugin set: {}", told.join("; ")));
    }
}

/// Sets what a container leaves open; says what that was.
fn fill(container: &mut Value, side: &str, defaults: &Amounts) -> Vec<String> {
    if !container["resources"].is_object() {
        container["resources"] = json!({});
    }
    let list = &mut container["resources"][side];
    if !list.is_object() {
        if defaults.is_empty() {
            return Vec::new();
        }
        *list = json!({});
    }
    let missing: Vec<String> = defaults.keys().filter(|name| list.get(name).is_none()).cloned().collect();
    for name in &missing {
        list[name] = defaults[name].to_string().into();
    }
    missing
}

fn limits_of<'a>(range: &'a Value, kind: &'a str) -> impl Iterator<Item = &'a Value> {
    items(spec(range), "limits").filter(move |limit| text(limit, "/type") == kind)
}

/// Refuses what is too much or too little.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let creates = request.operation == Operation::Create;
    let updates = request.operation == Operation::Update;
    let pod = (creates && is(request, "pods", "")) || (updates && is(request, "pods", "resize"));
    let claim = (creates || updates) && is(request, "persistentvolumeclaims", "");
    let Some(object) = request.object.as_deref().filter(|_| pod || claim) else { return Ok(()) };
    if updates && meta::is_deleting(object) {
        return Ok(());
    }
    for range in lookup.list("", "limitranges", Some(&request.info.namespace)).await? {
        if meta::is_deleting(&range) {
            continue;
        }
        let mut found = if pod { of_pod(object, &range) } else { of_claim(object, &range) };
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|why| seen.insert(why.clone()));
        match found.as_slice() {
            [] => {}
            [why] => return Err(forbidden(request, why)),
            several => return Err(forbidden(request, format_args!("[{}]", several.join(", ")))),
        }
    }
    Ok(())
}

fn of_pod(pod: &Value, range: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for limit in items(spec(range), "limits") {
        match text(limit, "/type") {
            "Container" => {
                for container in CONTAINERS.iter().flat_map(|(list, _)| items(spec(pod), list)) {
                    let (requests, limits) = (Side::Requests.of(container), Side::Limits.of(container));
                    judge("Container", limit, &requests, &limits, &mut found);
                }
            }
            "Pod" => {
                let sum = |side| amounts::of_pod(pod, side);
                judge("Pod", limit, &sum(Side::Requests), &sum(Side::Limits), &mut found);
            }
            _ => {}
        }
    }
    found
}

fn of_claim(claim: &Value, range: &Value) -> Vec<String> {
    let (requests, kind) = (Side::Requests.of(spec(claim)), "PersistentVolumeClaim");
    let mut found = Vec::new();
    for limit in limits_of(range, kind) {
        for (name, least) in amounts::read(limit.get("min")) {
            found.extend(too_little(kind, &name, least, requests.get(&name), None));
        }
        for (name, most) in amounts::read(limit.get("max")) {
            let usage = format!("maximum {name} usage per {kind} is {most}");
            match requests.get(&name) {
                None => found.push(format!("{usage}.  No request is specified")),
                Some(asked) if *asked > most => found.push(format!("{usage}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    found
}

fn judge(kind: &str, limit: &Value, requests: &Amounts, limits: &Amounts, found: &mut Vec<String>) {
    for (name, least) in amounts::read(limit.get("min")) {
        found.extend(too_little(kind, &name, least, requests.get(&name), limits.get(&name)));
    }
    for (name, most) in amounts::read(limit.get("max")) {
        found.extend(too_much(kind, &name, most, requests.get(&name), limits.get(&name)));
    }
    for (name, ratio) in amounts::read(limit.get("maxLimitRequestRatio")) {
        found.extend(too_far(kind, &name, ratio, requests.get(&name), limits.get(&name)));
    }
}

type Found<'a> = Option<&'a Quantity>;

fn too_little(kind: &str, name: &str, least: Quantity, request: Found, limit: Found) -> Option<String> {
    let usage = format!("minimum {name} usage per {kind} is {least}");
    match (request, limit) {
        (None, _) => Some(format!("{usage}.  No request is specified")),
        (Some(request), _) if *request < least => Some(format!("{usage}, but request is {request}")),
        (_, Some(limit)) if *limit < least => Some(format!("{usage}, but limit is {limit}")),
        _ => None,
    }
}

fn too_much(kind: &str, name: &str, most: Quantity, request: Found, limit: Found) -> Option<String> {
    let usage = format!("maximum {name} usage per {kind} is {most}");
    match (request, limit) {
        (_, None) => Some(format!("{usage}.  No limit is specified")),
        (_, Some(limit)) if *limit > most => Some(format!("{usage}, but limit is {limit}")),
        (Some(request), _) if *request > most => Some(format!("{usage}, but request is {request}")),
        _ => None,
    }
}

/// The limit must not be more than so many times the request.
fn too_far(kind: &str, name: &str, most: Quantity, request: Found, limit: Found) -> Option<String> {
    let usage = format!("{name} max limit to request ratio per {kind} is {most}");
    let some = |amount: Found| amount.copied().filter(|amount| !amount.is_zero());
    let Some(request) = some(request) else {
        return Some(format!("{usage}, but no request is specified or request is 0"));
    };
    let Some(limit) = some(limit) else {
        return Some(format!("{usage}, but no limit is specified or limit is 0"));
    };
    let small = [request, limit, most].iter().all(|amount| amount.units() < MAX_MILLI);
    let number = |amount: Quantity| if small { amount.millis() as f64 } else { amount.units() as f64 };
    let ratio = number(limit) / number(request);
    let allowed = if most.units() <= MAX_MILLI { most.millis() as f64 / 1000.0 } else { most.units() as f64 };
    (ratio > allowed).then(|| format!("{usage}, but provided ratio is {ratio:.6}"))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;
    use std::sync::Arc;

    fn ranges(limits: Value) -> Arc<Objects> {
        let range = json!({"metadata": {"name": "r", "namespace": "a"}, "spec": {"limits": limits}});
        Objects::of(&[("", "limitranges", range)])
    }

    fn pods(operation: Operation, spec: Value) -> Write {
        let pod = json!({"metadata": {"name": "p"}, "spec": spec});
        Write::new(operation, resource("", "Pod", "pods", Scope::Namespaced), "a", Some(pod), None)
    }

    #[tokio::test]
    async fn defaults() {
        let lookup = ranges(
            json!([{"type": "Container", "default": {"cpu": "1", "memory": "1Gi"}, "defaultRequest": {"cpu": "100m"}}]),
        );
        let spec = json!({
            "containers": [{"name": "c"}, {"name": "d", "resources": {"limits": {"cpu": "2", "memory": "5Mi"}}}],
            "initContainers": [{"name": "i", "resources": {"requests": {"cpu": "1m"}}}],
        });
        let mut write = pods(Operation::Create, spec);
        admit(&*lookup, &mut write.request()).await.expect("admitted");
        let pod = write.object.expect("still there");
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1", "memory": "1Gi"}})
        );
        assert_eq!(
            pod["spec"]["containers"][1]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "2", "memory": "5Mi"}})
        );
        assert_eq!(
            pod["spec"]["initContainers"][0]["resources"],
            json!({"requests": {"cpu": "1m"}, "limits": {"cpu": "1", "memory": "1Gi"}})
        );
        let want = "LimitRanger plugin set: cpu request for container c; cpu, memory limit for container c; \
                    cpu request for container d; cpu, memory limit for init container i";
        assert_eq!(meta::annotation(&pod, ANNOTATION), Some(want));
        let mut update = pods(Operation::Update, json!({"containers": [{"name": "c"}]}));
        admit(&*lookup, &mut update.request()).await.expect("admitted");
        assert_eq!(update.object.expect("still there")["spec"], json!({"containers": [{"name": "c"}]}));
    }

    fn cpu(request: &str, limit: &str) -> Value {
        let side = |amount: &str| if amount.is_empty() { json!({}) } else { json!({"cpu": amount}) };
        json!({"containers": [{"name": "c", "resources": {"requests": side(request), "limits": side(limit)}}]})
    }

    #[tokio::test]
    async fn too_much_and_too_little() {
        let two = json!({"containers": [cpu("1", "1")["containers"][0], cpu("2", "2")["containers"][0]]});
        let of = |kind: &str, rule: &str, amount: &str| json!([{"type": kind, rule: {"cpu": amount}}]);
        let table = [
            (of("Container", "min", "1"), cpu("1", "1"), ""),
            (
                of("Container", "min", "1"),
                cpu("", ""),
                "minimum cpu usage per Container is 1.  No request is specified",
            ),
            (
                of("Container", "min", "1"),
                cpu("500m", "2"),
                "minimum cpu usage per Container is 1, but request is 500m",
            ),
            (
                of("Container", "min", "1"),
                cpu("1", "900m"),
                "minimum cpu usage per Container is 1, but limit is 900m",
            ),
            (of("Container", "max", "1"), cpu("1", "1"), ""),
            (
                of("Container", "max", "1"),
                cpu("1", ""),
                "maximum cpu usage per Container is 1.  No limit is specified",
            ),
            (
                of("Container", "max", "1"),
                cpu("1", "2"),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                of("Container", "max", "1"),
                cpu("2", "1"),
                "maximum cpu usage per Container is 1, but request is 2",
            ),
            (of("Container", "maxLimitRequestRatio", "2"), cpu("1", "2"), ""),
            (
                of("Container", "maxLimitRequestRatio", "1500m"),
                cpu("1", "2"),
                "cpu max limit to request ratio per Container is 1500m, but provided ratio is 2.000000",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                cpu("0", "2"),
                "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
            ),
            (
                of("Container", "maxLimitRequestRatio", "2"),
                cpu("1", ""),
                "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
            ),
            (of("Pod", "max", "3"), two.clone(), ""),
            (of("Pod", "max", "2"), two.clone(), "maximum cpu usage per Pod is 2, but limit is 3"),
            (of("Pod", "min", "4"), two, "minimum cpu usage per Pod is 4, but request is 3"),
            (
                json!([{"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "1"}}]),
                cpu("", ""),
                "[minimum cpu usage per Container is 1.  No request is specified, maximum cpu usage per Container is 1.  No limit is specified]",
            ),
        ];
        for (limits, spec, want) in table {
            let mut write = pods(Operation::Create, spec.clone());
            let found = check(&*ranges(limits.clone()), &write.request()).await.err();
            let found = found.map(|error| error.message().replace("pods \"p\" is forbidden: ", ""));
            assert_eq!(found.unwrap_or_default(), want, "{limits} {spec}");
        }
    }

    #[tokio::test]
    async fn claims() {
        let lookup = ranges(
            json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]),
        );
        for (storage, want) in [
            ("1Gi", ""),
            ("500Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
        ] {
            for operation in [Operation::Create, Operation::Update] {
                let claim = json!({"metadata": {"name": "p"}, "spec": {"resources": {"requests": {"storage": storage}}}});
                let kind = resource("", "PersistentVolumeClaim", "persistentvolumeclaims", Scope::Namespaced);
                let mut write = Write::new(operation, kind, "a", Some(claim), None);
                let found = check(&*lookup, &write.request()).await.err();
                let found = found
                    .map(|error| error.message().split("forbidden: ").nth(1).unwrap_or_default().to_owned());
                assert_eq!(found.unwrap_or_default(), want, "{storage}");
            }
        }
    }
}
