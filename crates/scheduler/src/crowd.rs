//! Who is where: pods on nodes as selectors see them, and what those pods ask of others. Pods that look the same are one
//! group, so that a decision looks at groups and not at pods. Nodes by the labels that anybody asked about.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use pod_rules::labels::Labels;

use crate::relations::{Identity, Relations, Term};

/// How many pods are in each slot; slots without are absent.
pub type Slots = BTreeMap<usize, i64>;

/// Labels of nodes that are kept in columns beyond this many are dropped when others are asked about: names come from users.
const TOPOLOGIES: usize = 64;

/// A label of nodes in a column.
#[derive(Debug, Default)]
pub struct Topology {
    values: BTreeMap<String, usize>,
    /// The number of each slot's value, from 1; 0 is none.
    slots: Vec<usize>,
}

impl Topology {
    /// The number of a slot's value, if its node has the label.
    pub fn value(&self, slot: usize) -> Option<usize> {
        self.slots.get(slot).copied().filter(|value| *value > 0)
    }

    /// One more than the highest number.
    pub fn bound(&self) -> usize {
        self.values.len() + 1
    }

    fn set(&mut self, slot: usize, value: Option<&String>) {
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, 0);
        }
        let next = self.values.len() + 1;
        self.slots[slot] = value.map_or(0, |value| *self.values.entry(value.clone()).or_insert(next));
    }
}

/// Everybody.
#[derive(Debug, Default)]
pub struct Crowd {
    groups: BTreeMap<Arc<Identity>, Slots>,
    /// What pods on nodes must not be near to, and where those pods are.
    apart: BTreeMap<Arc<Term>, Slots>,
    /// What pods on nodes like and dislike.
    likes: BTreeMap<(Arc<Term>, i64), Slots>,
    topologies: BTreeMap<String, Topology>,
    namespaces: BTreeMap<String, Labels>,
}

/// A pod that must be near to others attracts those, too, by this much.
const HARD_AFFINITY: i64 = 1;

fn count<K: Ord + Clone>(all: &mut BTreeMap<K, Slots>, key: &K, slot: usize, sign: i64) {
    let slots = all.entry(key.clone()).or_default();
    let pods = slots.entry(slot).or_default();
    *pods += sign;
    if *pods == 0 {
        slots.remove(&slot);
    }
    if slots.is_empty() {
        all.remove(key);
    }
}

impl Crowd {
    /// A pod comes to (`sign` 1) or leaves (-1) a slot.
    pub fn count(
        &mut self,
        slot: usize,
        identity: &Arc<Identity>,
        relations: Option<&Arc<Relations>>,
        sign: i64,
    ) {
        count(&mut self.groups, identity, slot, sign);
        let Some(relations) = relations else { return };
        for term in &relations.apart {
            count(&mut self.apart, term, slot, sign);
        }
        let required = relations.near.iter().map(|term| (term.clone(), HARD_AFFINITY));
        for like in relations.likes.iter().cloned().chain(required) {
            count(&mut self.likes, &like, slot, sign);
        }
    }

    /// Pods that look the same, and where they are.
    pub fn groups(&self) -> impl Iterator<Item = (&Identity, &Slots)> {
        self.groups.iter().map(|(identity, slots)| (&**identity, slots))
    }

    /// What pods on nodes must not be near to.
    pub fn apart(&self) -> impl Iterator<Item = (&Term, &Slots)> {
        self.apart.iter().map(|(term, slots)| (&**term, slots))
    }

    /// What pods on nodes like, and how much.
    pub fn likes(&self) -> impl Iterator<Item = (&Term, i64, &Slots)> {
        self.likes.iter().map(|((term, weight), slots)| (&**term, *weight, slots))
    }

    /// The labels of a namespace.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// A namespace came, changed or went. Says whether that is news.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) -> bool {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels.clone()) != Some(labels),
            None => self.namespaces.remove(name).is_some(),
        }
    }

    /// A column that [`Crowd::learn`] was told of.
    pub fn topology(&self, label: &str) -> Option<&Topology> {
        self.topologies.get(label)
    }

    /// Sees to it that there are columns for what a pod and those on nodes ask about.
    pub fn learn(&mut self, relations: Option<&Relations>, nodes: &[Option<Arc<Node>>]) {
        let asked = relations.into_iter().flat_map(Relations::topologies);
        let owned = self.apart.keys().chain(self.likes.keys().map(|(term, _)| term));
        let wanted: Vec<String> = asked
            .chain(owned.map(|term| term.topology.as_str()))
            .filter(|label| !self.topologies.contains_key(*label))
            .map(str::to_owned)
            .collect();
        if wanted.is_empty() {
            return;
        }
        if self.topologies.len() > TOPOLOGIES {
            self.topologies.clear();
            return self.learn(relations, nodes);
        }
        for label in wanted {
            let mut topology = Topology::default();
            for (slot, node) in nodes.iter().enumerate() {
                topology.set(slot, node.as_ref().and_then(|node| value_of(node, &label)));
            }
            self.topologies.insert(label, topology);
        }
    }

    /// A node came, changed or went.
    pub fn set_node(&mut self, slot: usize, node: Option<&Node>) {
        for (label, topology) in &mut self.topologies {
            topology.set(slot, node.and_then(|node| value_of(node, label)));
        }
    }
}

fn value_of<'a>(node: &'a Node, label: &str) -> Option<&'a String> {
    node.metadata.labels.as_ref()?.get(label)
}
