//! What can be read off a pod: its quality-of-service class.

use std::collections::BTreeMap;

use api_machinery::quantity::Quantity;
use serde_json::Value;

/// `Guaranteed`, `Burstable` or `BestEffort`, from the CPU and memory of containers.
pub fn qos_class(spec: &Value) -> &'static str {
    let pod_level = &spec["resources"];
    if ["requests", "limits"].iter().any(|list| has_compute(&pod_level[*list])) {
        return class_of(std::iter::once(pod_level));
    }
    let containers = ["initContainers", "containers"].into_iter();
    let containers = containers.flat_map(|list| spec[list].as_array().into_iter().flatten());
    class_of(containers.map(|container| &container["resources"]))
}

fn has_compute(list: &Value) -> bool {
    compute(list).next().is_some()
}

/// CPU and memory that are not zero.
fn compute(list: &Value) -> impl Iterator<Item = (&str, Quantity)> {
    let list = list.as_object().into_iter().flatten();
    list.filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory"))
        .filter_map(|(name, value)| Some((name.as_str(), Quantity::from_json(value)?)))
        .filter(|(_, quantity)| !quantity.is_zero() && !quantity.is_negative())
}

fn class_of<'a>(all: impl Iterator<Item = &'a Value>) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for resources in all {
        let requests: BTreeMap<&str, Quantity> = compute(&resources["requests"]).collect();
        let limits: BTreeMap<&str, Quantity> = compute(&resources["limits"]).collect();
        any |= !requests.is_empty() || !limits.is_empty();
        // A limit without a request is a request too.
        guaranteed &= limits.len() == 2
            && limits.iter().all(|(name, limit)| requests.get(name).is_none_or(|request| request == limit));
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::qos_class;
    use serde_json::json;

    #[test]
    fn classes() {
        let spec = |resources| json!({"containers": [{"resources": resources}]});
        let exact =
            json!({"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"cpu": "1000m", "memory": "1Gi"}});
        assert_eq!(qos_class(&spec(exact.clone())), "Guaranteed");
        assert_eq!(qos_class(&spec(json!({"limits": {"cpu": 1, "memory": "1Gi"}}))), "Guaranteed");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "1"}}))), "Burstable");
        assert_eq!(qos_class(&spec(json!({"requests": {"cpu": "0"}}))), "BestEffort");
        assert_eq!(qos_class(&spec(json!({"requests": {"example.com/gpu": "1"}}))), "BestEffort");
        let two = json!({"containers": [{"resources": exact}, {}]});
        assert_eq!(qos_class(&two), "Burstable");
    }
}
