//! What a pod asks of a node: containers at once, init containers one after the other, sidecars beside both, overhead,
//! and pod-level requests that replace the sum. Reads what is asked in the spec, not what is used.

use std::collections::BTreeMap;

use api_machinery::quantity::Quantity;
use k8s_openapi::api::core::v1::{Container, Node, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;

/// CPU in thousandths that a container without a request counts as when nodes are compared.
pub const DEFAULT_MILLI_CPU: i64 = 100;
/// Memory in bytes that a container without a request counts as when nodes are compared.
pub const DEFAULT_MEMORY: i64 = 200 * 1024 * 1024;

/// Amounts of what nodes have and pods ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// All others (extended resources, huge pages) by name, in whole units.
    pub extended: BTreeMap<String, i64>,
}

/// A list of resources as objects have it.
pub type List = BTreeMap<String, Text>;

/// The amount behind a quantity, by the unit its resource is counted in. What is no quantity counts as nothing: the API
/// does not let it in.
fn amount(name: &str, text: &Text) -> i64 {
    let quantity = Quantity::parse(&text.0).unwrap_or(Quantity::ZERO);
    if name == "cpu" { quantity.millis() } else { quantity.units() }
}

impl Resources {
    /// The amounts of a list. `pods` is no resource that a pod asks for; see [`allowed_pods`].
    pub fn of(list: Option<&List>) -> Resources {
        let mut resources = Resources::default();
        for (name, text) in list.into_iter().flatten().filter(|(name, _)| *name != "pods") {
            *resources.slot(name) = amount(name, text);
        }
        resources
    }

    fn slot(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.milli_cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral_storage,
            _ => self.extended.entry(name.to_owned()).or_default(),
        }
    }

    fn merge(&mut self, other: &Resources, with: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = with(self.milli_cpu, other.milli_cpu);
        self.memory = with(self.memory, other.memory);
        self.ephemeral_storage = with(self.ephemeral_storage, other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let slot = self.extended.entry(name.clone()).or_default();
            *slot = with(*slot, *amount);
        }
    }

    /// Adds other amounts.
    pub fn add(&mut self, other: &Resources) {
        self.merge(other, i64::saturating_add);
    }

    /// Takes other amounts away; less than nothing is possible, so that adding them again restores what was.
    pub fn subtract(&mut self, other: &Resources) {
        self.merge(other, i64::saturating_sub);
    }

    /// The larger of both, resource by resource.
    pub fn raise_to(&mut self, other: &Resources) {
        self.merge(other, i64::max);
    }

    /// Whether nothing is asked for.
    pub fn is_zero(&self) -> bool {
        self.milli_cpu == 0
            && self.memory == 0
            && self.ephemeral_storage == 0
            && self.extended.values().all(|amount| *amount == 0)
    }
}

/// What pods can have of a node.
pub fn allocatable(node: &Node) -> Resources {
    Resources::of(node.status.as_ref().and_then(|status| status.allocatable.as_ref()))
}

/// How many pods a node takes.
pub fn allowed_pods(node: &Node) -> i64 {
    let list = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
    list.and_then(|list| list.get("pods")).map_or(0, |text| amount("pods", text))
}

/// Whether an init container is a sidecar: it runs on beside all that start after it.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// What the pod asks for.
pub fn requests(pod: &Pod) -> Resources {
    total(pod, &|container| {
        Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
    })
}

/// What the pod counts as when nodes are compared: a container without a request for CPU or memory is given a small one.
pub fn nonzero_requests(pod: &Pod) -> Resources {
    total(pod, &|container| {
        let list = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let mut resources = Resources::of(list);
        let asks = |name: &str| list.is_some_and(|list| list.contains_key(name));
        if !asks("cpu") {
            resources.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") {
            resources.memory = DEFAULT_MEMORY;
        }
        resources
    })
}

fn total(pod: &Pod, requests_of: &dyn Fn(&Container) -> Resources) -> Resources {
    let Some(spec) = &pod.spec else { return Resources::default() };
    let mut running = Resources::default();
    for container in &spec.containers {
        running.add(&requests_of(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let own = requests_of(container);
        if is_sidecar(container) {
            running.add(&own);
            sidecars.add(&own);
            starting.raise_to(&sidecars);
        } else {
            let mut together = sidecars.clone();
            together.add(&own);
            starting.raise_to(&together);
        }
    }
    running.raise_to(&starting);
    let whole = spec.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    for (name, text) in whole.into_iter().flatten().filter(|(name, _)| is_pod_level(name)) {
        *running.slot(name) = amount(name, text);
    }
    running.add(&Resources::of(spec.overhead.as_ref()));
    running
}

/// Whether a resource can be asked for by the pod as a whole.
pub fn is_pod_level(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}
