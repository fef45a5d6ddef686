//! Nodes and what their pods take, in columns: one array per property, one slot per node. A pod that comes or goes changes
//! a few numbers; nothing is rebuilt. Pods are in here from the moment a node is chosen (assumed), before the API agreed.
//!
//! A slot also exists for a node that is not (yet, or any more) there while pods are known to be on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Taint};
use pod_rules::ports::HostPort;
use pod_rules::resources;

use crate::crowd::Crowd;
use crate::demand::{Demand, Usage};

/// One resource on all nodes.
#[derive(Debug, Default)]
pub struct Column {
    /// What pods can have of it.
    pub allocatable: Vec<i64>,
    /// What pods asked for.
    pub requested: Vec<i64>,
}

impl Column {
    fn grow(&mut self, slots: usize) {
        self.allocatable.resize(slots, 0);
        self.requested.resize(slots, 0);
    }

    /// What is left on a node.
    pub fn free(&self, slot: usize) -> i64 {
        self.allocatable[slot].saturating_sub(self.requested[slot])
    }
}

/// A pod on a node.
#[derive(Debug)]
pub struct Placed {
    /// UID of the pod.
    pub uid: String,
    slot: usize,
    /// Whether the API has not said so yet.
    pub assumed: bool,
    /// What it takes.
    pub usage: Usage,
}

/// All nodes.
#[derive(Debug, Default)]
pub struct Columns {
    index: BTreeMap<String, usize>,
    vacant: Vec<usize>,
    names: Vec<String>,
    nodes: Vec<Option<Arc<Node>>>,
    present: usize,
    /// CPU in thousandths.
    pub cpu: Column,
    /// Memory in bytes.
    pub memory: Column,
    /// Ephemeral storage in bytes.
    pub ephemeral: Column,
    /// Every other resource by name.
    pub extended: BTreeMap<String, Column>,
    /// How many pods nodes take, and have.
    pub pod_count: Column,
    /// CPU and memory that pods count as in comparisons.
    pub counted_cpu: Vec<i64>,
    /// As [`Columns::counted_cpu`].
    pub counted_memory: Vec<i64>,
    ports: Vec<Vec<HostPort>>,
    priorities: Vec<BTreeMap<i32, usize>>,
    pods: BTreeMap<ObjectKey, Placed>,
    pods_on: Vec<BTreeSet<ObjectKey>>,
    owners: BTreeMap<String, BTreeMap<usize, i64>>,
    crowd: Crowd,
}

/// Which pod is known to be on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement<'a> {
    /// UID of the pod.
    pub uid: &'a str,
    /// Whether the API has not said so yet.
    pub assumed: bool,
}

impl Columns {
    /// How many slots there are, of nodes that are there or not.
    pub fn slots(&self) -> usize {
        self.nodes.len()
    }

    /// How many nodes there are.
    pub fn present(&self) -> usize {
        self.present
    }

    /// The node in a slot, if it is there.
    pub fn node(&self, slot: usize) -> Option<&Arc<Node>> {
        self.nodes[slot].as_ref()
    }

    /// The name that a slot belongs to.
    pub fn name(&self, slot: usize) -> &str {
        &self.names[slot]
    }

    /// The slot of a name.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// Who is where.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// As [`Columns::crowd`], for what namespaces are.
    pub fn crowd_mut(&mut self) -> &mut Crowd {
        &mut self.crowd
    }

    /// Prepares what a decision about a pod will ask.
    pub fn learn(&mut self, demand: &Demand) {
        self.crowd.learn(demand.usage.relations.as_deref(), &self.nodes);
    }

    /// The taints of a node that is there.
    pub fn taints(&self, slot: usize) -> &[Taint] {
        let node = self.nodes[slot].as_ref();
        node.and_then(|node| node.spec.as_ref()?.taints.as_deref()).unwrap_or_default()
    }

    /// Ports that pods take on a node.
    pub fn ports(&self, slot: usize) -> &[HostPort] {
        &self.ports[slot]
    }

    /// The lowest priority among the pods of a node.
    pub fn lowest_priority(&self, slot: usize) -> Option<i32> {
        self.priorities[slot].first_key_value().map(|(priority, _)| *priority)
    }

    /// The pods of a slot.
    pub fn pods_on(&self, slot: usize) -> impl Iterator<Item = (&ObjectKey, &Placed)> {
        self.pods_on[slot].iter().filter_map(|key| Some((key, self.pods.get(key)?)))
    }

    /// How many pods of a controller each node has; nodes without are absent.
    pub fn siblings(&self, owner: &str) -> Option<&BTreeMap<usize, i64>> {
        self.owners.get(owner)
    }

    /// Where a pod is.
    pub fn placement(&self, key: &ObjectKey) -> Option<Placement<'_>> {
        self.pods.get(key).map(|placed| Placement { uid: &placed.uid, assumed: placed.assumed })
    }

    fn slot_for(&mut self, name: &str) -> usize {
        if let Some(slot) = self.index.get(name) {
            return *slot;
        }
        let slot = self.vacant.pop().unwrap_or(self.nodes.len());
        let slots = self.nodes.len().max(slot + 1);
        self.nodes.resize(slots, None);
        self.names.resize(slots, String::new());
        self.ports.resize(slots, Vec::new());
        self.priorities.resize(slots, BTreeMap::new());
        self.pods_on.resize(slots, BTreeSet::new());
        self.counted_cpu.resize(slots, 0);
        self.counted_memory.resize(slots, 0);
        for column in [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pod_count] {
            column.grow(slots);
        }
        for column in self.extended.values_mut() {
            column.grow(slots);
        }
        name.clone_into(&mut self.names[slot]);
        self.index.insert(name.to_owned(), slot);
        slot
    }

    /// Gives a slot back that has neither a node nor pods.
    fn vacate(&mut self, slot: usize) {
        if self.nodes[slot].is_none() && self.pod_count.requested[slot] == 0 {
            self.index.remove(&self.names[slot]);
            self.names[slot].clear();
            self.vacant.push(slot);
        }
    }

    /// A node came or changed. If anything changed that decisions depend on, returns its slot, and what it was before.
    pub fn set_node(&mut self, name: &str, node: Arc<Node>) -> Option<(usize, Option<Arc<Node>>)> {
        let slot = self.slot_for(name);
        if self.nodes[slot].as_ref().is_some_and(|known| same(known, &node)) {
            return None;
        }
        let allocatable = resources::allocatable(&node);
        self.cpu.allocatable[slot] = allocatable.milli_cpu;
        self.memory.allocatable[slot] = allocatable.memory;
        self.ephemeral.allocatable[slot] = allocatable.ephemeral_storage;
        self.pod_count.allocatable[slot] = resources::allowed_pods(&node);
        for column in self.extended.values_mut() {
            column.allocatable[slot] = 0;
        }
        for (resource, amount) in allocatable.extended {
            self.extended_column(&resource).allocatable[slot] = amount;
        }
        self.crowd.set_node(slot, Some(&node));
        let before = self.nodes[slot].replace(node);
        if before.is_none() {
            self.present += 1;
        }
        Some((slot, before))
    }

    /// A node is gone; pods may still be known to be on it.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.slot(name) else { return };
        if self.nodes[slot].take().is_some() {
            self.present -= 1;
        }
        self.crowd.set_node(slot, None);
        let fixed = [&mut self.cpu, &mut self.memory, &mut self.ephemeral, &mut self.pod_count];
        for column in fixed.into_iter().chain(self.extended.values_mut()) {
            column.allocatable[slot] = 0;
        }
        self.vacate(slot);
    }

    fn extended_column(&mut self, resource: &str) -> &mut Column {
        let slots = self.nodes.len();
        let column = self.extended.entry(resource.to_owned()).or_default();
        column.grow(slots);
        column
    }

    /// A pod is on a node, or shall be (`assumed`). Returns the slot that it left or takes less of than before.
    pub fn place(
        &mut self,
        key: &ObjectKey,
        uid: &str,
        node: &str,
        usage: Usage,
        assumed: bool,
    ) -> Option<usize> {
        if let Some(known) = self.pods.get_mut(key)
            && known.uid == uid
            && known.usage == usage
            && self.names[known.slot] == node
        {
            known.assumed = assumed;
            return None;
        }
        let left = self.remove_pod(key);
        let slot = self.slot_for(node);
        self.count(slot, &usage, 1);
        self.ports[slot].extend(usage.ports.iter().cloned());
        *self.priorities[slot].entry(usage.priority).or_default() += 1;
        self.pods_on[slot].insert(key.clone());
        self.pods.insert(key.clone(), Placed { uid: uid.to_owned(), slot, assumed, usage });
        left
    }

    /// A pod is gone, at its end, or was not bound. Returns the slot that has more room now.
    pub fn remove_pod(&mut self, key: &ObjectKey) -> Option<usize> {
        let Placed { slot, usage, .. } = self.pods.remove(key)?;
        self.pods_on[slot].remove(key);
        self.count(slot, &usage, -1);
        for port in &usage.ports {
            let ports = &mut self.ports[slot];
            if let Some(at) = ports.iter().position(|taken| taken == port) {
                ports.swap_remove(at);
            }
        }
        if let Some(count) = self.priorities[slot].get_mut(&usage.priority) {
            *count -= 1;
            if *count == 0 {
                self.priorities[slot].remove(&usage.priority);
            }
        }
        self.vacate(slot);
        Some(slot)
    }

    /// Drops the column of a resource that no node has and no pod asked for: names come from users.
    fn forget_unused(&mut self, resource: &str, slot: usize) {
        let unused = self.extended.get(resource).is_some_and(|column| {
            column.requested[slot] == 0
                && column.requested.iter().chain(&column.allocatable).all(|amount| *amount == 0)
        });
        if unused {
            self.extended.remove(resource);
        }
    }

    /// Adds (`sign` 1) or takes away (-1) what a pod takes.
    fn count(&mut self, slot: usize, usage: &Usage, sign: i64) {
        let add = |total: &mut i64, amount: i64| *total = total.saturating_add(amount.saturating_mul(sign));
        self.crowd.count(slot, &usage.identity, usage.relations.as_ref(), sign);
        add(&mut self.pod_count.requested[slot], 1);
        add(&mut self.cpu.requested[slot], usage.requests.milli_cpu);
        add(&mut self.memory.requested[slot], usage.requests.memory);
        add(&mut self.ephemeral.requested[slot], usage.requests.ephemeral_storage);
        add(&mut self.counted_cpu[slot], usage.counted_cpu);
        add(&mut self.counted_memory[slot], usage.counted_memory);
        for (resource, amount) in usage.requests.extended.iter().filter(|(_, amount)| **amount != 0) {
            add(&mut self.extended_column(resource).requested[slot], *amount);
            if sign < 0 {
                self.forget_unused(resource, slot);
            }
        }
        if let Some(owner) = &usage.owner {
            let nodes = self.owners.entry(owner.clone()).or_default();
            let pods = nodes.entry(slot).or_default();
            *pods += sign;
            if *pods == 0 {
                nodes.remove(&slot);
            }
            if nodes.is_empty() {
                self.owners.remove(owner);
            }
        }
    }
}

/// Whether two states of a node are the same to a scheduler: heartbeats are not news.
fn same(a: &Node, b: &Node) -> bool {
    fn allocatable(node: &Node) -> Option<&resources::List> {
        node.status.as_ref()?.allocatable.as_ref()
    }
    a.metadata.labels == b.metadata.labels && a.spec == b.spec && allocatable(a) == allocatable(b)
}
