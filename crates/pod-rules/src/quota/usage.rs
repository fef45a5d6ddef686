//! What one object costs.

use std::collections::{BTreeMap, BTreeSet};

use api_machinery::meta;
use api_machinery::quantity::{Notation, Quantity};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::amounts::{self, Amounts, Side};

const STANDARD: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";
const OF_CLASS: &str = ".storageclass.storage.k8s.io/";
pub(super) const SERVICES: [&str; 4] =
    ["services", "services.nodeports", "services.loadbalancers", "count/services"];

/// A number of objects.
pub(super) fn number(count: i64) -> Quantity {
    Quantity::from_units(count, Notation::DecimalSi)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn items<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    object.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// Whether a resource belongs to somebody: `example.com/gpu`.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

pub(super) fn is_of_pods(name: &str) -> bool {
    if matches!(name, "pods" | "count/pods") || STANDARD.contains(&name) || name.starts_with(HUGE_PAGES) {
        return true;
    }
    match (name.strip_prefix("requests."), name.strip_prefix("limits.")) {
        (Some(asked), _) => STANDARD.contains(&asked) || asked.starts_with(HUGE_PAGES) || is_extended(asked),
        (_, Some(limited)) => STANDARD.contains(&limited),
        (None, None) => false,
    }
}

pub(super) fn is_of_claims(name: &str) -> bool {
    const NAMES: [&str; 3] = ["persistentvolumeclaims", "requests.storage", "count/persistentvolumeclaims"];
    let of_class = || name.split_once(OF_CLASS).is_some_and(|(_, rest)| NAMES[..2].contains(&rest));
    NAMES.contains(&name) || of_class()
}

/// What these amounts are called where they are limited.
fn computed(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut all = Amounts::new();
    for (name, amount) in requests {
        let standard = STANDARD.contains(&name.as_str()) || name.starts_with(HUGE_PAGES);
        if standard {
            all.insert(name.clone(), *amount);
        }
        if standard || is_extended(name) {
            all.insert(format!("requests.{name}"), *amount);
        }
    }
    let limited = limits.iter().filter(|(name, _)| STANDARD.contains(&name.as_str()));
    all.extend(limited.map(|(name, amount)| (format!("limits.{name}"), *amount)));
    all
}

/// A pod that has ended, or should have long ago, costs nothing but its place in the store.
pub(super) fn of_pod(pod: &Value, now: Timestamp) -> Amounts {
    let mut all = Amounts::new();
    if !has_ended(pod, now) {
        all = computed(&amounts::of_pod(pod, Side::Requests), &amounts::of_pod(pod, Side::Limits));
        all.insert("pods".to_owned(), number(1));
    }
    all.insert("count/pods".to_owned(), number(1));
    all
}

/// When a pod that is being deleted stops to cost anything, whether it is gone by then or not.
pub fn given_up_at(pod: &Value) -> Option<Timestamp> {
    let grace = SignedDuration::from_secs(meta::deletion_grace_period_seconds(pod)?);
    meta::deletion_timestamp(pod)?.checked_add(grace).ok()
}

fn has_ended(pod: &Value, now: Timestamp) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        || given_up_at(pod).is_some_and(|at| now > at)
}

/// Which of the required names containers do not speak about, and which containers these are: what is limited for CPU and
/// memory has to be said of each.
pub fn missing_requests<'a>(pod: &Value, required: impl Iterator<Item = &'a str>) -> Option<String> {
    let pod_level = |list: &str| {
        pod.pointer(list)
            .and_then(Value::as_object)
            .is_some_and(|list| list.keys().any(|name| crate::resources::is_pod_level(name)))
    };
    if pod_level("/spec/resources/requests") || pod_level("/spec/resources/limits") {
        return None;
    }
    let basic = |name: &&str| matches!(name.rsplit('.').next(), Some("cpu" | "memory"));
    let required: BTreeSet<&str> = required.filter(basic).collect();
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let containers = items(pod, "/spec/containers").chain(items(pod, "/spec/initContainers"));
    for container in containers {
        let said = computed(&Side::Requests.of(container), &Side::Limits.of(container));
        for name in required.iter().filter(|name| !said.contains_key(**name)) {
            missing.entry(*name).or_default().insert(text(container, "/name"));
        }
    }
    if missing.is_empty() {
        return None;
    }
    let of = |(name, containers): (&str, BTreeSet<&str>)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    Some(format!("must specify {}", missing.into_iter().map(of).collect::<Vec<_>>().join("; ")))
}

pub(super) fn of_service(service: &Value) -> Amounts {
    let ports = |explicit: bool| {
        let ports = items(service, "/spec/ports");
        let counted =
            ports.filter(|port| !explicit || port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0);
        i64::try_from(counted.count()).unwrap_or(i64::MAX)
    };
    let allocates = service.pointer("/spec/allocateLoadBalancerNodePorts") != Some(&Value::Bool(false));
    // Node ports may not have been given out yet: what is meant counts.
    let (node_ports, balancers) = match text(service, "/spec/type") {
        "NodePort" => (ports(false), 0),
        "LoadBalancer" => (ports(!allocates), 1),
        _ => (0, 0),
    };
    let amounts = [1, node_ports, balancers, 1].map(number);
    SERVICES.iter().zip(amounts).map(|(name, amount)| ((*name).to_owned(), amount)).collect()
}

pub(super) fn of_claim(claim: &Value) -> Amounts {
    let old = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class");
    let class = old.unwrap_or_else(|| text(claim, "/spec/storageClassName"));
    let storage = |pointer: &str| claim.pointer(pointer).and_then(Quantity::from_json);
    let asked =
        storage("/spec/resources/requests/storage").max(storage("/status/allocatedResources/storage"));
    let mut all = Amounts::from([("count/persistentvolumeclaims".to_owned(), number(1))]);
    let counted = [("persistentvolumeclaims", Some(number(1))), ("requests.storage", asked)];
    for (name, amount) in counted {
        let Some(amount) = amount else { continue };
        all.insert(name.to_owned(), amount);
        if !class.is_empty() {
            all.insert(format!("{class}{OF_CLASS}{name}"), amount);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_pod_costs() {
        let pod = json!({"spec": {"containers": [{"name": "c", "resources": {
            "requests": {"cpu": "100m", "ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "2"},
            "limits": {"cpu": "1", "memory": "64Mi"},
        }}]}});
        let want = json!({
            "pods": "1", "count/pods": "1", "cpu": "100m", "requests.cpu": "100m", "limits.cpu": "1", "limits.memory": "64Mi",
            "ephemeral-storage": "1Gi", "requests.ephemeral-storage": "1Gi", "hugepages-2Mi": "4Mi",
            "requests.hugepages-2Mi": "4Mi", "requests.example.com/gpu": "2",
        });
        assert_eq!(amounts::write(&of_pod(&pod, Timestamp::UNIX_EPOCH)), want);
        let late: Timestamp = "2026-01-01T00:01:00Z".parse().expect("a time");
        let stuck = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30},
            "spec": pod["spec"]});
        assert_eq!(amounts::write(&of_pod(&stuck, late)), json!({"count/pods": "1"}));
        let soon: Timestamp = "2026-01-01T00:00:30Z".parse().expect("a time");
        assert!(of_pod(&stuck, soon).contains_key("pods"));
    }

    #[test]
    fn what_has_to_be_said() {
        let container = |name: &str, resources: Value| json!({"name": name, "resources": resources});
        let pod = json!({"spec": {
            "containers": [container("a", json!({"requests": {"cpu": "1"}})), container("b", json!({}))],
            "initContainers": [container("i", json!({"limits": {"cpu": "1"}}))],
        }});
        let required = ["requests.cpu", "limits.cpu", "pods", "requests.ephemeral-storage"];
        let said = missing_requests(&pod, required.into_iter());
        assert_eq!(said.as_deref(), Some("must specify limits.cpu for: a,b; requests.cpu for: b,i"));
        assert_eq!(missing_requests(&pod, ["pods"].into_iter()), None);
        let whole = json!({"spec": {"resources": {"limits": {"cpu": "1"}}, "containers": [{"name": "c"}]}});
        assert_eq!(missing_requests(&whole, ["cpu"].into_iter()), None);
    }

    #[test]
    fn what_services_and_claims_cost() {
        let ports = json!([{"port": 1}, {"port": 2, "nodePort": 30000}]);
        let table = [
            (json!({"type": "ClusterIP", "ports": ports}), ["0", "0"]),
            (json!({"type": "NodePort", "ports": ports}), ["2", "0"]),
            (json!({"type": "LoadBalancer", "ports": ports}), ["2", "1"]),
            (
                json!({"type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false}),
                ["1", "1"],
            ),
        ];
        for (spec, want) in table {
            let usage = of_service(&json!({"spec": spec}));
            let found = ["services.nodeports", "services.loadbalancers"].map(|name| usage[name].to_string());
            assert_eq!(found, want, "{spec}");
        }
        let claim = json!({"spec": {"storageClassName": "gold", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"allocatedResources": {"storage": "2Gi"}}});
        let want = json!({
            "count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1", "requests.storage": "2Gi",
            "gold.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "gold.storageclass.storage.k8s.io/requests.storage": "2Gi",
        });
        assert_eq!(amounts::write(&of_claim(&claim)), want);
    }
}
