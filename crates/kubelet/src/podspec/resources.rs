//! Requests and limits: quality of service, cgroups, and the kernel's units.

use std::collections::BTreeMap;

use api_machinery::quantity::Quantity;
use cri::messages::LinuxContainerResources;
use host::cgroup::Limits;
use k8s_openapi::api::core::v1::{Container, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as ApiQuantity;

use super::{all_containers, spec};

const PERIOD: u64 = 100_000;
const LEAST_QUOTA: i64 = 1000;
const LEAST_SHARES: i64 = 2;
/// From this priority on a pod is the node's own (`system-cluster-critical`).
const CRITICAL: i32 = 2_000_000_000;

/// What the node has, for scores and `resourceFieldRef` without limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NodeResources {
    /// Thousandths of CPUs that pods may use.
    pub cpu_millis: i64,
    /// Bytes of memory that pods may use.
    pub memory: i64,
    /// Bytes of memory in the machine.
    pub memory_capacity: i64,
    /// Bytes of local disk.
    pub ephemeral_storage: i64,
}

/// Which processes the kernel takes together when memory runs out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OomScope {
    /// The one that it picked (cgroup version 1 knows no other way).
    Process,
    /// All of the container.
    Container,
}

/// The quantity under `name`, if there is one and it is well-formed.
#[must_use]
pub fn quantity(list: Option<&BTreeMap<String, ApiQuantity>>, name: &str) -> Option<Quantity> {
    Quantity::parse(&list?.get(name)?.0).ok()
}

fn limit(container: &Container, name: &str) -> Option<Quantity> {
    let limits = container.resources.as_ref()?.limits.as_ref();
    quantity(limits, name).filter(|quantity| !quantity.is_zero())
}

fn request(container: &Container, name: &str) -> Option<Quantity> {
    let requests = container.resources.as_ref()?.requests.as_ref();
    quantity(requests, name).filter(|quantity| !quantity.is_zero()).or_else(|| limit(container, name))
}

/// The pod's quality-of-service class.
#[must_use]
pub fn qos_class(pod: &Pod) -> &'static str {
    pod_rules::qos::class(pod).name()
}

/// The pod's cgroup.
#[must_use]
pub fn pod_cgroup(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos_class(pod) {
        "Guaranteed" => format!("{root}/pod{uid}"),
        "Burstable" => format!("{root}/burstable/pod{uid}"),
        _ => format!("{root}/besteffort/pod{uid}"),
    }
}

/// The limits of the pod's cgroup: what its containers may have together at any time, where each of them has a limit.
/// Init containers run one after another, sidecars beside everything after them.
#[must_use]
pub fn pod_limits(pod: &Pod) -> Limits {
    let limited = |name: &str| all_containers(pod).all(|container| limit(container, name).is_some());
    let most = |name: &str, amount: fn(Quantity) -> i64| {
        let found = most_at_once(pod, |container| limit(container, name).map_or(0, amount));
        Some(found).filter(|found| *found > 0 && limited(name))
    };
    let requested = most_at_once(pod, |container| request(container, "cpu").map_or(0, Quantity::millis));
    Limits {
        cpu_shares: u64::try_from(shares(requested)).ok(),
        cpu_quota: most("cpu", Quantity::millis).map(quota),
        cpu_period: PERIOD,
        memory: most("memory", Quantity::units),
    }
}

fn most_at_once(pod: &Pod, amount: impl Fn(&Container) -> i64) -> i64 {
    let (mut beside, mut most) = (0_i64, 0_i64);
    for container in spec(pod).init_containers.iter().flatten() {
        let own = amount(container);
        most = most.max(beside.saturating_add(own));
        if container.restart_policy.as_deref() == Some("Always") {
            beside = beside.saturating_add(own);
        }
    }
    let regular =
        spec(pod).containers.iter().fold(beside, |sum, container| sum.saturating_add(amount(container)));
    most.max(regular)
}

/// One container's limits in the kernel's units.
#[must_use]
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    node: &NodeResources,
    scope: OomScope,
) -> LinuxContainerResources {
    let cpu = limit(container, "cpu").map_or(0, Quantity::millis);
    let requested = request(container, "cpu").map_or(0, Quantity::millis);
    let mut unified = BTreeMap::new();
    if scope == OomScope::Container {
        unified.insert("memory.oom.group".to_owned(), "1".to_owned());
    }
    LinuxContainerResources {
        cpu_period: i64::try_from(PERIOD).expect("a small constant"),
        cpu_quota: if cpu > 0 { quota(cpu) } else { 0 },
        cpu_shares: shares(requested),
        memory_limit_in_bytes: limit(container, "memory").map_or(0, Quantity::units),
        oom_score_adj: oom_score(pod, container, node),
        unified,
        ..LinuxContainerResources::default()
    }
}

fn shares(millis: i64) -> i64 {
    (millis * 1024 / 1000).clamp(LEAST_SHARES, 262_144)
}

fn quota(millis: i64) -> i64 {
    (millis * 100).max(LEAST_QUOTA)
}

/// The less of the machine's memory a burstable container asked for, the sooner it goes.
fn oom_score(pod: &Pod, container: &Container, node: &NodeResources) -> i64 {
    if spec(pod).priority.unwrap_or(0) >= CRITICAL {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let asked = request(container, "memory").map_or(0, Quantity::units);
            let share = i128::from(asked) * 1000 / i128::from(node.memory_capacity.max(1));
            i64::try_from(1000 - share).unwrap_or(3).clamp(3, 999)
        }
    }
}
