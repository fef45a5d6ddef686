//! Scopes: which pods and claims a quota is about.

use serde_json::Value;

/// One requirement of `scopes` or `scopeSelector`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    name: String,
    operator: String,
    values: Vec<String>,
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

impl Scope {
    /// All requirements of a quota.
    pub(super) fn of(quota: &Value) -> Vec<Scope> {
        let plain = items(quota, "/spec/scopes").map(|scope| Scope {
            name: scope.as_str().unwrap_or_default().to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = items(quota, "/spec/scopeSelector/matchExpressions").map(|requirement| Scope {
            name: text(requirement, "/scopeName").to_owned(),
            operator: text(requirement, "/operator").to_owned(),
            values: items(requirement, "/values").filter_map(Value::as_str).map(str::to_owned).collect(),
        });
        plain.chain(selected).collect()
    }

    /// Whether an object whose property has these values fits: at most one for pods, several for claims under way.
    fn fits(&self, found: &[&str]) -> bool {
        let listed = found.iter().any(|value| self.values.iter().any(|wanted| wanted == value));
        match self.operator.as_str() {
            "Exists" => !found.is_empty(),
            "DoesNotExist" => found.is_empty(),
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    }

    pub(super) fn has_pod(&self, pod: &Value) -> bool {
        let terminates = || {
            pod.pointer("/spec/activeDeadlineSeconds")
                .and_then(Value::as_i64)
                .is_some_and(|seconds| seconds >= 0)
        };
        let best_effort = || text(pod, "/status/qosClass") == "BestEffort";
        match self.name.as_str() {
            "Terminating" => terminates(),
            "NotTerminating" => !terminates(),
            "BestEffort" => best_effort(),
            "NotBestEffort" => !best_effort(),
            "CrossNamespacePodAffinity" => looks_elsewhere(pod),
            "PriorityClass" => {
                let class = text(pod, "/spec/priorityClassName");
                self.fits(if class.is_empty() { &[] } else { std::slice::from_ref(&class) })
            }
            _ => false,
        }
    }

    pub(super) fn has_claim(&self, claim: &Value) -> bool {
        const CLASSES: [&str; 3] = [
            "/spec/volumeAttributesClassName",
            "/status/currentVolumeAttributesClassName",
            "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
        ];
        let classes =
            CLASSES.map(|pointer| text(claim, pointer)).into_iter().filter(|class| !class.is_empty());
        self.name == "VolumeAttributesClass" && self.fits(&classes.collect::<Vec<_>>())
    }
}

/// Whether the pod wants to be with, or away from, pods of other namespaces.
fn looks_elsewhere(pod: &Value) -> bool {
    let elsewhere = |term: &Value| {
        items(term, "/namespaces").next().is_some()
            || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
    };
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |list: &str| format!("/spec/affinity/{kind}/{list}DuringSchedulingIgnoredDuringExecution");
        items(pod, &at("required")).any(elsewhere)
            || items(pod, &at("preferred")).filter_map(|term| term.get("podAffinityTerm")).any(elsewhere)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scoped(scope: &str) -> Scope {
        let quota = json!({"spec": {"scopes": [scope]}});
        Scope::of(&quota).remove(0)
    }

    #[test]
    fn pods() {
        let plain = json!({"status": {"qosClass": "BestEffort"}});
        let asks = json!({"status": {"qosClass": "Burstable"}});
        let ends = json!({"spec": {"activeDeadlineSeconds": 5}});
        let ranked = json!({"spec": {"priorityClassName": "high"}});
        let term = |term: Value| {
            json!({"spec": {"affinity": {"podAntiAffinity": {
            "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 1, "podAffinityTerm": term}]}}}})
        };
        let table = [
            ("Terminating", &ends, true),
            ("Terminating", &plain, false),
            ("NotTerminating", &plain, true),
            ("NotTerminating", &ends, false),
            ("BestEffort", &plain, true),
            ("BestEffort", &asks, false),
            ("NotBestEffort", &asks, true),
            ("NotBestEffort", &plain, false),
            ("PriorityClass", &ranked, true),
            ("PriorityClass", &plain, false),
            ("CrossNamespacePodAffinity", &plain, false),
            ("CrossNamespacePodAffinity", &term(json!({"topologyKey": "a"})), false),
            ("CrossNamespacePodAffinity", &term(json!({"namespaces": ["b"]})), true),
            ("CrossNamespacePodAffinity", &term(json!({"namespaceSelector": {}})), true),
            ("VolumeAttributesClass", &plain, false),
        ];
        for (scope, pod, want) in table {
            assert_eq!(scoped(scope).has_pod(pod), want, "{scope} {pod}");
        }
    }

    #[test]
    fn selectors() {
        let table = [
            ("Exists", json!([]), [true, false]),
            ("DoesNotExist", json!([]), [false, true]),
            ("In", json!(["high"]), [true, false]),
            ("In", json!(["low"]), [false, false]),
            ("NotIn", json!(["high"]), [false, true]),
            ("NotIn", json!(["low"]), [true, true]),
        ];
        for (operator, values, want) in table {
            let requirement = |name: &str| {
                let expression = json!({"scopeName": name, "operator": operator, "values": values});
                Scope::of(&json!({"spec": {"scopeSelector": {"matchExpressions": [expression]}}})).remove(0)
            };
            let pods = [json!({"spec": {"priorityClassName": "high"}}), json!({"spec": {}})];
            let claims =
                [json!({"status": {"currentVolumeAttributesClassName": "high"}}), json!({"spec": {}})];
            assert_eq!(
                pods.map(|pod| requirement("PriorityClass").has_pod(&pod)),
                want,
                "{operator} {values}"
            );
            assert_eq!(claims.map(|claim| requirement("VolumeAttributesClass").has_claim(&claim)), want);
        }
    }
}
