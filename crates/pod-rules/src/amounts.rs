//! Exact amounts of resources, read off objects as they are on the wire: what quotas and limit ranges count in.
//!
//! Unlike [`crate::resources`] nothing is rounded to a node's units, and amounts keep the notation that they were written in.

use std::collections::BTreeMap;

use api_machinery::quantity::Quantity;
use serde_json::Value;

use crate::resources::is_pod_level;

/// Amounts by the name of what there is that much of.
pub type Amounts = BTreeMap<String, Quantity>;

/// The amounts of a list. What is no quantity is left out: the API does not let it in.
pub fn read(list: Option<&Value>) -> Amounts {
    let entries = list.and_then(Value::as_object).into_iter().flatten();
    entries.filter_map(|(name, value)| Some((name.clone(), Quantity::from_json(value)?))).collect()
}

/// The amounts as objects have them.
pub fn write(amounts: &Amounts) -> Value {
    amounts.iter().map(|(name, amount)| (name.clone(), Value::from(amount.to_string()))).collect()
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let sum = to.entry(name.clone()).or_insert(Quantity::ZERO);
        *sum = sum.plus(*amount);
    }
}

/// Raises amounts to others where those are more.
pub fn raise(to: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let most = to.entry(name.clone()).or_insert(*amount);
        if *amount > *most {
            *most = *amount;
        }
    }
}

/// What of a pod's resources is summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is asked for.
    Requests,
    /// What is allowed at most.
    Limits,
}

impl Side {
    fn field(self) -> &'static str {
        match self {
            Side::Requests => "requests",
            Side::Limits => "limits",
        }
    }

    /// One side of `resources`.
    pub fn of(self, holder: &Value) -> Amounts {
        read(holder.get("resources").and_then(|resources| resources.get(self.field())))
    }
}

fn items<'a>(holder: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    holder.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// What a pod as a whole asks for or is limited to: containers at once, init containers one after the other, sidecars beside
/// both, pod-level amounts instead of the sums, and overhead. While a container is being resized, the larger of what it has
/// and what it shall have counts.
pub fn of_pod(pod: &Value, side: Side) -> Amounts {
    let Some(spec) = pod.get("spec") else { return Amounts::new() };
    let mut running = Amounts::new();
    for container in items(spec, "containers") {
        add(&mut running, &of_container(pod, container, "containerStatuses", side));
    }
    let (mut sidecars, mut starting) = (Amounts::new(), Amounts::new());
    for container in items(spec, "initContainers") {
        let own = of_container(pod, container, "initContainerStatuses", side);
        if container.get("restartPolicy").is_some_and(|policy| policy == "Always") {
            add(&mut running, &own);
            add(&mut sidecars, &own);
            raise(&mut starting, &sidecars);
        } else {
            let mut together = sidecars.clone();
            add(&mut together, &own);
            raise(&mut starting, &together);
        }
    }
    raise(&mut running, &starting);
    running.extend(side.of(spec).into_iter().filter(|(name, _)| is_pod_level(name)));
    let mut overhead = read(spec.get("overhead"));
    if side == Side::Limits {
        // What is not limited stays so.
        overhead.retain(|name, _| running.get(name).is_some_and(|limit| !limit.is_zero()));
    }
    add(&mut running, &overhead);
    running
}

fn of_container(pod: &Value, container: &Value, statuses: &str, side: Side) -> Amounts {
    let mut own = side.of(container);
    let status = pod.get("status").and_then(|status| {
        items(status, statuses).find(|status| status.get("name") == container.get("name"))
    });
    let Some(status) = status else { return own };
    if side == Side::Requests {
        raise(&mut own, &read(status.get("allocatedResources")));
    }
    raise(&mut own, &side.of(status));
    own
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_as_a_whole() {
        let container =
            |cpu: &str| json!({"name": cpu, "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}});
        let sidecar =
            json!({"name": "s", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}});
        let table = [
            (json!({"containers": [container("100m"), container("200m")]}), "300m", "300m"),
            (
                json!({"containers": [container("1")], "initContainers": [container("3"), container("2")]}),
                "3",
                "3",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar.clone(), container("3")]}),
                "4",
                "3",
            ),
            (
                json!({"containers": [container("1")], "initContainers": [sidecar, container("100m")]}),
                "2",
                "1",
            ),
            (
                json!({"containers": [container("1")], "overhead": {"cpu": "10m", "memory": "1Mi"}}),
                "1010m",
                "1010m",
            ),
            (json!({"containers": [container("1")], "resources": {"requests": {"cpu": "5"}}}), "5", "1"),
        ];
        for (spec, requests, limits) in table {
            let pod = json!({"spec": spec});
            for (side, want) in [(Side::Requests, requests), (Side::Limits, limits)] {
                assert_eq!(of_pod(&pod, side)["cpu"].to_string(), want, "{side:?} of {pod}");
            }
        }
        let limits = of_pod(
            &json!({"spec": {"overhead": {"memory": "1Mi"}, "containers": [{"name": "c"}]}}),
            Side::Limits,
        );
        assert!(limits.is_empty(), "{limits:?}");
    }

    #[test]
    fn a_container_that_is_being_made_smaller_has_what_it_has() {
        let pod = json!({
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}}]},
            "status": {"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "2"},
                "resources": {"requests": {"cpu": "3"}, "limits": {"cpu": "4"}}}]},
        });
        assert_eq!(of_pod(&pod, Side::Requests)["cpu"].to_string(), "3");
        assert_eq!(of_pod(&pod, Side::Limits)["cpu"].to_string(), "4");
    }
}
