//! Priority: the number behind a pod's priority class, one default class at most, and the system's classes for ever.

use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::{forbidden, is};
use crate::references::text;
use crate::types::{AdmissionRequest, Lookup, Operation};

const GROUP: &str = "scheduling.k8s.io";
const CLASSES: &str = "priorityclasses";
const PREEMPT: &str = "PreemptLowerPriority";
/// What the cluster's own pods rely on.
const SYSTEM: [&str; 2] = ["system-node-critical", "system-cluster-critical"];

/// Resolves the class of a new pod; an update that leaves priority out keeps it.
pub async fn admit(lookup: &dyn Lookup, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    if !is(request, "pods", "") {
        return Ok(());
    }
    match request.operation {
        Operation::Create => create(lookup, request).await,
        Operation::Update => {
            let old = request.old;
            let Some(spec) = request.object.as_deref_mut().and_then(|pod| pod.get_mut("spec")) else {
                return Ok(());
            };
            for field in ["priority", "preemptionPolicy"] {
                let stored = old.and_then(|old| old.get("spec")?.get(field)).filter(|value| !value.is_null());
                if spec.get(field).is_none_or(Value::is_null)
                    && let Some(stored) = stored
                {
                    spec[field] = stored.clone();
                }
            }
            Ok(())
        }
        Operation::Delete | Operation::Connect => Ok(()),
    }
}

struct Resolved {
    name: String,
    priority: i64,
    policy: String,
}

async fn create(lookup: &dyn Lookup, request: &mut AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(spec) = request.object.as_deref().and_then(|pod| pod.get("spec")) else { return Ok(()) };
    let asked = text(spec, "/priorityClassName").to_owned();
    let given = spec.get("priority").and_then(Value::as_i64);
    let given_policy = text(spec, "/preemptionPolicy").to_owned();
    let resolved = match resolve(lookup, &asked).await? {
        Some(resolved) => resolved,
        None => return Err(forbidden(request, format_args!("no PriorityClass with name {asked} was found"))),
    };
    if let Some(given) = given.filter(|given| *given != resolved.priority) {
        return Err(forbidden(
            request,
            format_args!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                resolved.priority
            ),
        ));
    }
    if !given_policy.is_empty() && given_policy != resolved.policy {
        return Err(forbidden(
            request,
            format_args!(
                "the string value of PreemptionPolicy ({given_policy}) must not be provided in pod spec; priority admission controller computed {} from the given PriorityClass name",
                resolved.policy
            ),
        ));
    }
    let Some(spec) = request.object.as_deref_mut().and_then(|pod| pod.get_mut("spec")) else { return Ok(()) };
    if !resolved.name.is_empty() {
        spec["priorityClassName"] = resolved.name.into();
    }
    spec["priority"] = resolved.priority.into();
    spec["preemptionPolicy"] = resolved.policy.into();
    Ok(())
}

/// The named class or else the default; `None` if the named one does not exist.
async fn resolve(lookup: &dyn Lookup, asked: &str) -> Result<Option<Resolved>, ApiError> {
    let class = if asked.is_empty() {
        default_class(lookup).await?
    } else {
        let found = lookup.get(GROUP, CLASSES, "", asked).await?;
        if found.is_none() {
            return Ok(None);
        }
        found
    };
    let Some(class) = class else {
        return Ok(Some(Resolved { name: String::new(), priority: 0, policy: PREEMPT.to_owned() }));
    };
    let policy = text(&class, "/preemptionPolicy");
    Ok(Some(Resolved {
        name: meta::name(&class).to_owned(),
        priority: class.get("value").and_then(Value::as_i64).unwrap_or(0),
        policy: if policy.is_empty() { PREEMPT } else { policy }.to_owned(),
    }))
}

/// The default class; of several, which only a race can make, the one of least value.
async fn default_class(lookup: &dyn Lookup) -> Result<Option<std::sync::Arc<Value>>, ApiError> {
    let classes = lookup.list(GROUP, CLASSES, None).await?;
    let defaults = classes.into_iter().filter(|class| class.get("globalDefault") == Some(&Value::Bool(true)));
    Ok(defaults.min_by_key(|class| class.get("value").and_then(Value::as_i64)))
}

/// There is one default class at most, and the system's are not deleted.
pub async fn check(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let classes = request.resource.group == GROUP && request.resource.plural == CLASSES;
    let doomed = request.old.filter(|_| classes && request.operation == Operation::Delete);
    if doomed.is_some_and(|class| SYSTEM.contains(&meta::name(class))) {
        return Err(forbidden(request, "this is a system priority class and cannot be deleted"));
    }
    let writes = matches!(request.operation, Operation::Create | Operation::Update);
    let wants =
        request.object.as_deref().is_some_and(|class| class.get("globalDefault") == Some(&Value::Bool(true)));
    if !classes || !writes || !wants {
        return Ok(());
    }
    match default_class(lookup).await? {
        Some(other)
            if request.operation == Operation::Create || meta::name(&other) != super::name(request) =>
        {
            let why = format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                meta::name(&other)
            );
            Err(forbidden(request, why))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Objects, Write, resource};
    use super::*;
    use api_machinery::resource::Scope;
    use serde_json::json;

    fn class(name: &str, value: i64, default: bool) -> (&'static str, &'static str, Value) {
        let class = json!({
            "metadata": {"name": name}, "value": value, "globalDefault": default, "preemptionPolicy": "Never",
        });
        (GROUP, CLASSES, class)
    }

    #[tokio::test]
    async fn classes_are_resolved() {
        let none = Objects::of(&[]);
        let some = Objects::of(&[class("high", 1000, false), class("usual", 10, true)]);
        let table = [
            (&none, json!({}), Ok(json!({"priority": 0, "preemptionPolicy": PREEMPT}))),
            (
                &some,
                json!({}),
                Ok(json!({"priorityClassName": "usual", "priority": 10, "preemptionPolicy": "Never"})),
            ),
            (
                &some,
                json!({"priorityClassName": "high", "priority": 1000}),
                Ok(json!({"priorityClassName": "high", "priority": 1000, "preemptionPolicy": "Never"})),
            ),
            (&some, json!({"priorityClassName": "x"}), Err("no PriorityClass with name x was found")),
            (
                &some,
                json!({"priorityClassName": "high", "priority": 7}),
                Err(
                    "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 1000 from the given PriorityClass name",
                ),
            ),
        ];
        for (lookup, spec, want) in table {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec});
            let pods = resource("", "Pod", "pods", Scope::Namespaced);
            let mut write = Write::new(Operation::Create, pods, "a", Some(pod), None);
            let result = admit(&**lookup, &mut write.request()).await;
            match (result, want) {
                (Ok(()), Ok(want)) => assert_eq!(write.object.expect("still there")["spec"], want),
                (Err(error), Err(want)) => {
                    assert_eq!(error.message(), format!("pods \"p\" is forbidden: {want}"))
                }
                (result, want) => panic!("{result:?} instead of {want:?}"),
            }
        }
    }

    #[tokio::test]
    async fn one_default_and_the_systems_own() {
        let lookup = Objects::of(&[class("usual", 10, true)]);
        for (operation, name, refused) in [
            (Operation::Create, "other", true),
            (Operation::Update, "usual", false),
            (Operation::Update, "other", true),
        ] {
            let object = json!({"metadata": {"name": name}, "value": 1, "globalDefault": true});
            let classes = resource(GROUP, "PriorityClass", CLASSES, Scope::Cluster);
            let mut write = Write::new(operation, classes, "", Some(object), None);
            let result = check(&*lookup, &write.request()).await;
            assert_eq!(result.is_err(), refused, "{operation:?} {name}");
        }
        for (name, refused) in
            [("usual", false), ("system-node-critical", true), ("system-cluster-critical", true)]
        {
            let old = json!({"metadata": {"name": name}, "value": 1});
            let classes = resource(GROUP, "PriorityClass", CLASSES, Scope::Cluster);
            let mut write = Write::new(Operation::Delete, classes, "", None, Some(old));
            assert_eq!(check(&*lookup, &write.request()).await.is_err(), refused, "{name}");
        }
    }
}
