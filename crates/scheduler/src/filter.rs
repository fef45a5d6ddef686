//! Whether a pod can run on a node, and if not, why: the first filter that says no, in upstream's order and words.

use std::borrow::Cow;

use k8s_openapi::api::core::v1::{Node, Taint};
use pod_rules::{affinity, ports, taints};

use crate::columns::{Column, Columns};
use crate::demand::Demand;
use crate::neighbours::{Against, Neighbours};

/// The filter that said no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reject {
    /// The pod names its nodes, and this is not one of them.
    NotNamed,
    /// The node takes no new pods.
    Unschedulable,
    /// The node has a taint that the pod does not tolerate.
    Taint,
    /// Node selector or required node affinity.
    Affinity,
    /// A host port is taken.
    Ports,
    /// Something runs short.
    Resources(Shortage),
    /// The pods around.
    Pods(Against),
    /// The pod claims devices, and nobody allocates them: it would run without.
    Devices,
}

/// What a node has too little of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    /// Room for another pod.
    pub pods: bool,
    /// CPU.
    pub cpu: bool,
    /// Memory.
    pub memory: bool,
    /// Ephemeral storage.
    pub ephemeral: bool,
    /// Other resources, by their position among those that the pod asks for.
    pub extended: Vec<usize>,
    /// Whether more is asked for than the node would have without any pod.
    pub hopeless: bool,
}

impl Reject {
    /// Filters are asked in this order.
    fn order(&self) -> u8 {
        match self {
            Reject::NotNamed => 0,
            Reject::Unschedulable => 1,
            Reject::Taint => 2,
            Reject::Affinity => 3,
            Reject::Ports => 4,
            Reject::Resources(_) => 5,
            Reject::Pods(Against::SpreadLabel | Against::Spread) => 6,
            Reject::Pods(Against::Near | Against::Apart | Against::OthersApart) => 7,
            Reject::Devices => 8,
        }
    }

    /// Whether fewer pods on the node could change the answer.
    pub fn depends_on_pods(&self) -> bool {
        match self {
            Reject::Ports => true,
            Reject::Resources(shortage) => !shortage.hopeless,
            Reject::Pods(against) => !matches!(against, Against::SpreadLabel | Against::Near),
            Reject::NotNamed | Reject::Unschedulable | Reject::Taint | Reject::Affinity | Reject::Devices => {
                false
            }
        }
    }

    /// Upstream's words; several if several resources run short.
    pub fn reasons<'a>(&self, demand: &'a Demand) -> Vec<Cow<'a, str>> {
        let text = match self {
            Reject::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Reject::Unschedulable => "node(s) were unschedulable",
            Reject::Taint => "node(s) had untolerated taint(s)",
            Reject::Affinity => "node(s) didn't match Pod's node affinity/selector",
            Reject::Ports => "node(s) didn't have free ports for the requested pod ports",
            Reject::Resources(shortage) => return shortage.reasons(demand),
            Reject::Pods(Against::SpreadLabel) => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Reject::Pods(Against::Spread) => "node(s) didn't match pod topology spread constraints",
            Reject::Pods(Against::Near) => "node(s) didn't match pod affinity rules",
            Reject::Pods(Against::Apart) => "node(s) didn't match pod anti-affinity rules",
            Reject::Pods(Against::OthersApart) => "node(s) didn't satisfy existing pods anti-affinity rules",
            Reject::Devices => "cannot allocate all claims",
        };
        vec![Cow::Borrowed(text)]
    }
}

impl Shortage {
    fn reasons<'a>(&self, demand: &'a Demand) -> Vec<Cow<'a, str>> {
        let fixed = [
            (self.pods, "Too many pods"),
            (self.cpu, "Insufficient cpu"),
            (self.memory, "Insufficient memory"),
            (self.ephemeral, "Insufficient ephemeral-storage"),
        ];
        let fixed = fixed.into_iter().filter(|(short, _)| *short).map(|(_, text)| Cow::Borrowed(text));
        let names = demand.usage.requests.extended.keys().enumerate();
        let others = names.filter(|(position, _)| self.extended.contains(position));
        fixed.chain(others.map(|(_, name)| Cow::Owned(format!("Insufficient {name}")))).collect()
    }

    fn any(&self) -> bool {
        self.pods || self.cpu || self.memory || self.ephemeral || !self.extended.is_empty()
    }
}

/// The first filter that says no to the pod, which has these pods around it, on the node in this slot; `None` if it can run
/// there, or there is no node.
pub fn first_reject(
    columns: &Columns,
    slot: usize,
    demand: &Demand,
    around: &Neighbours<'_>,
) -> Option<Reject> {
    let node = columns.node(slot)?;
    if let Some(reject) = node_reject(node, demand) {
        return Some(reject);
    }
    if !demand.usage.ports.is_empty() && ports::conflict(&demand.usage.ports, columns.ports(slot)) {
        return Some(Reject::Ports);
    }
    let shortage = shortage(columns, slot, demand);
    if shortage.any() {
        return Some(Reject::Resources(shortage));
    }
    around.against(slot).map(Reject::Pods).or_else(|| demand.claims_devices.then_some(Reject::Devices))
}

/// The first of the filters that says no to a node whatever pods it has.
pub fn node_reject(node: &Node, demand: &Demand) -> Option<Reject> {
    let name = node.metadata.name.as_deref().unwrap_or("");
    if demand.named.as_ref().is_some_and(|names| !names.iter().any(|named| named == name)) {
        return Some(Reject::NotNamed);
    }
    let spec = node.spec.as_ref();
    if spec.is_some_and(|spec| spec.unschedulable == Some(true)) && !tolerates_cordon(demand) {
        return Some(Reject::Unschedulable);
    }
    let found = spec.and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let hard = [taints::NO_SCHEDULE, taints::NO_EXECUTE];
    if !found.is_empty() && taints::untolerated(&demand.pod, found, &hard).is_some() {
        return Some(Reject::Taint);
    }
    (demand.selective && !affinity::matches_required(&demand.pod, node)).then_some(Reject::Affinity)
}

/// What a change of a node means for a pod that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Help {
    /// Nothing.
    None,
    /// The filter that said no says yes, and a later one no: there is something new to say.
    News,
    /// The pod can run there.
    Room,
}

/// What it means for a pod that the node in a slot changed from `before`, or has more room (`None`). What the pods around
/// mean is only looked at when it is decided.
pub fn help(columns: &Columns, slot: usize, before: Option<&Node>, demand: &Demand) -> Help {
    match first_reject(columns, slot, demand, &Neighbours::default()) {
        None if columns.node(slot).is_some() => Help::Room,
        None => Help::None,
        Some(now) => match before.and_then(|before| node_reject(before, demand)) {
            Some(before) if before.order() < now.order() => Help::News,
            _ => Help::None,
        },
    }
}

/// Pods that tolerate the taint of an unschedulable node may run on one (those of daemon sets do).
fn tolerates_cordon(demand: &Demand) -> bool {
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: taints::NO_SCHEDULE.to_owned(),
        ..Taint::default()
    };
    taints::untolerated(&demand.pod, std::slice::from_ref(&taint), &[taints::NO_SCHEDULE]).is_none()
}

fn shortage(columns: &Columns, slot: usize, demand: &Demand) -> Shortage {
    let mut shortage = Shortage { pods: columns.pod_count.free(slot) < 1, ..Shortage::default() };
    let requests = &demand.usage.requests;
    let mut lacks = |column: Option<&Column>, amount: i64| {
        let (free, all) = column.map_or((0, 0), |column| (column.free(slot), column.allocatable[slot]));
        let short = amount > 0 && amount > free;
        shortage.hopeless |= short && amount > all;
        short
    };
    let cpu = lacks(Some(&columns.cpu), requests.milli_cpu);
    let memory = lacks(Some(&columns.memory), requests.memory);
    let ephemeral = lacks(Some(&columns.ephemeral), requests.ephemeral_storage);
    let mut extended = Vec::new();
    for (position, (name, amount)) in requests.extended.iter().enumerate() {
        if lacks(columns.extended.get(name), *amount) {
            extended.push(position);
        }
    }
    Shortage { cpu, memory, ephemeral, extended, ..shortage }
}
