//! What the pods on nodes mean for one pod, summed up by the values of the labels that matter, once a decision. After that a
//! node costs a few array accesses.

use k8s_openapi::api::core::v1::Node;
use pod_rules::{affinity, taints};

use crate::columns::Columns;
use crate::crowd::{Slots, Topology};
use crate::demand::Demand;
use crate::relations::{Identity, Spread, Term};

/// What stands against a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// The label by which the pod is spread is missing.
    SpreadLabel,
    /// There would be too many of the pod's kind.
    Spread,
    /// The pods that it must be near to are not.
    Near,
    /// Pods that it must not be near to are.
    Apart,
    /// Pods that must not be near to it are.
    OthersApart,
}

/// Numbers by the values of a label.
struct ByValue<'a> {
    topology: &'a Topology,
    counts: Vec<i64>,
}

impl<'a> ByValue<'a> {
    fn new(topology: &'a Topology) -> Self {
        Self { topology, counts: vec![0; topology.bound()] }
    }

    fn add(&mut self, slots: &Slots, weight: i64) {
        for (slot, pods) in slots {
            if let Some(value) = self.topology.value(*slot) {
                self.counts[value] = self.counts[value].saturating_add(pods.saturating_mul(weight));
            }
        }
    }

    fn at(&self, slot: usize) -> Option<i64> {
        self.topology.value(slot).map(|value| self.counts[value])
    }
}

/// A spread constraint and how things are.
struct Domains<'a> {
    spread: &'a Spread,
    pods: ByValue<'a>,
    /// The domains with nodes that count.
    known: Vec<bool>,
    /// The pods of the emptiest domain.
    least: i64,
    /// Whether the pod itself counts.
    own: i64,
}

/// One pod's surroundings.
#[derive(Default)]
pub struct Neighbours<'a> {
    near: Vec<ByValue<'a>>,
    /// There is nobody yet to be near to, and the pod is one of those whom it wants: it is the first.
    first: bool,
    apart: Vec<ByValue<'a>>,
    others: Vec<ByValue<'a>>,
    spread: Vec<Domains<'a>>,
    likes: Vec<ByValue<'a>>,
    even: Vec<Domains<'a>>,
}

impl<'a> Neighbours<'a> {
    /// Looks around for a pod. [`Columns::learn`] was told of it before.
    pub fn of(columns: &'a Columns, demand: &'a Demand) -> Self {
        let (crowd, own) = (columns.crowd(), &*demand.usage.identity);
        let mut around = Self::default();
        let mine = crowd.namespace(&own.namespace);
        for (term, slots) in crowd.apart().filter(|(term, _)| term.means(own, mine)) {
            around.others.extend(sum(columns, &term.topology, [(slots, 1)]));
        }
        for (term, weight, slots) in crowd.likes().filter(|(term, ..)| term.means(own, mine)) {
            around.likes.extend(sum(columns, &term.topology, [(slots, weight)]));
        }
        let Some(relations) = demand.usage.relations.as_deref() else { return around };
        let meant = |term: &Term| {
            let means = |pod: &Identity| term.means(pod, crowd.namespace(&pod.namespace));
            crowd.groups().filter(|(pod, _)| means(pod)).map(|(_, slots)| (slots, 1)).collect::<Vec<_>>()
        };
        for term in &relations.apart {
            around.apart.extend(sum(columns, &term.topology, meant(term)));
        }
        for (term, weight) in &relations.likes {
            let pods = meant(term).into_iter().map(|(slots, _)| (slots, *weight));
            around.likes.extend(sum(columns, &term.topology, pods));
        }
        around.look_for_friends(columns, &relations.near, own);
        around.spread = relations
            .spread
            .iter()
            .filter_map(|one| Domains::of(columns, demand, &relations.spread, one))
            .collect();
        around.even = relations
            .even
            .iter()
            .filter_map(|one| Domains::of(columns, demand, &relations.even, one))
            .collect();
        around
    }

    /// Only pods that all terms mean count, for each of the terms.
    fn look_for_friends(&mut self, columns: &'a Columns, near: &[std::sync::Arc<Term>], own: &Identity) {
        let crowd = columns.crowd();
        let wanted = |pod: &Identity| {
            let namespace = crowd.namespace(&pod.namespace);
            near.iter().all(|term| term.means(pod, namespace))
        };
        let friends: Vec<_> =
            crowd.groups().filter(|(pod, _)| wanted(pod)).map(|(_, slots)| (slots, 1)).collect();
        self.near =
            near.iter().filter_map(|term| sum(columns, &term.topology, friends.iter().copied())).collect();
        let nobody = self.near.iter().all(|one| one.counts.iter().all(|count| *count == 0));
        self.first = nobody && !near.is_empty() && wanted(own);
    }

    /// The first thing that stands against a node, in the order of upstream's filters.
    pub fn against(&self, slot: usize) -> Option<Against> {
        for domains in &self.spread {
            match domains.pods.topology.value(slot) {
                None => return Some(Against::SpreadLabel),
                Some(value) if domains.too_many(value) => return Some(Against::Spread),
                Some(_) => {}
            }
        }
        // A node without the label is near to nobody; the first of its kind needs the label, too.
        let lonely = |one: &ByValue<'_>| one.at(slot).is_none_or(|count| count == 0 && !self.first);
        let some = |one: &ByValue<'_>| one.at(slot).is_some_and(|count| count > 0);
        if self.near.iter().any(lonely) {
            Some(Against::Near)
        } else if self.apart.iter().any(some) {
            Some(Against::Apart)
        } else if self.others.iter().any(some) {
            Some(Against::OthersApart)
        } else {
            None
        }
    }

    /// How much the pod and those around a node like each other; `None` if nobody says anything.
    pub fn liking(&self, slot: usize) -> Option<i64> {
        (!self.likes.is_empty()).then(|| self.likes.iter().filter_map(|one| one.at(slot)).sum())
    }

    /// How crowded a node would be, in thousandths; `None` if the pod does not say how it would like to be spread.
    pub fn crowding(&self, slot: usize) -> Option<i64> {
        (!self.even.is_empty()).then(|| self.even.iter().map(|domains| domains.crowding(slot)).sum())
    }
}

fn sum<'a, 's>(
    columns: &'a Columns,
    label: &str,
    pods: impl IntoIterator<Item = (&'s Slots, i64)>,
) -> Option<ByValue<'a>> {
    let mut sum = ByValue::new(columns.crowd().topology(label)?);
    pods.into_iter().for_each(|(slots, weight)| sum.add(slots, weight));
    Some(sum)
}

impl<'a> Domains<'a> {
    /// Counts pods of the same namespace on nodes that count: those that have the labels of all constraints, and that the
    /// policies do not rule out.
    fn of(columns: &'a Columns, demand: &Demand, all: &[Spread], spread: &'a Spread) -> Option<Self> {
        let crowd = columns.crowd();
        let own = &*demand.usage.identity;
        let topology = crowd.topology(&spread.topology)?;
        let labels: Vec<&Topology> = all.iter().filter_map(|one| crowd.topology(&one.topology)).collect();
        let mut eligible = vec![false; columns.slots()];
        let mut known = vec![false; topology.bound()];
        for (slot, eligible) in eligible.iter_mut().enumerate() {
            let Some(node) = columns.node(slot) else { continue };
            let labelled = labels.iter().all(|label| label.value(slot).is_some());
            if let Some(value) = topology.value(slot).filter(|_| labelled && counts(spread, demand, node)) {
                (*eligible, known[value]) = (true, true);
            }
        }
        let mut pods = ByValue::new(topology);
        for (_, slots) in
            crowd.groups().filter(|(pod, _)| pod.namespace == own.namespace && spread.counts(pod))
        {
            for (slot, count) in slots.iter().filter(|(slot, _)| eligible[**slot]) {
                if let Some(value) = topology.value(*slot) {
                    pods.counts[value] += count;
                }
            }
        }
        let domains = || known.iter().enumerate().filter(|(_, known)| **known).map(|(value, _)| value);
        let least = domains().map(|value| pods.counts[value]).min().unwrap_or(0);
        let least = if domains().count() < spread.min_domains { 0 } else { least };
        let own = i64::from(spread.counts(own));
        Some(Self { spread, pods, known, least, own })
    }

    fn too_many(&self, value: usize) -> bool {
        self.pods.counts[value] + self.own - self.least > self.spread.max_skew
    }

    /// Larger domains of fewer nodes weigh less: a pod more in one of many zones is not what it is on one of many nodes.
    fn crowding(&self, slot: usize) -> i64 {
        let Some(count) = self.pods.at(slot) else { return 0 };
        let domains = self.known.iter().filter(|known| **known).count();
        count.saturating_mul(log(domains + 2)) + (self.spread.max_skew - 1) * 1000
    }
}

/// Whether a node's pods count.
fn counts(spread: &Spread, demand: &Demand, node: &Node) -> bool {
    let allowed =
        !spread.honors_affinity || !demand.selective || affinity::matches_required(&demand.pod, node);
    let found = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    let hard = [taints::NO_SCHEDULE, taints::NO_EXECUTE];
    allowed && (!spread.honors_taints || taints::untolerated(&demand.pod, found, &hard).is_none())
}

/// The natural logarithm in thousandths, by whole numbers: the same everywhere.
fn log(number: usize) -> i64 {
    /// The logarithm of two in millionths.
    const LN_2: i64 = 693_147;
    let whole = number.max(1).ilog2();
    // The rest of the binary logarithm in 1024ths, a bit at a time, by squaring.
    let mut rest = (number.max(1) as u128) << (64 - whole);
    let mut part = 0;
    for _ in 0..10 {
        rest = (rest >> 32) * (rest >> 32);
        part *= 2;
        if rest >= 2 << 64 {
            rest >>= 1;
            part += 1;
        }
    }
    (i64::from(whole) * 1024 + part) * LN_2 / 1024 / 1000
}

#[cfg(test)]
mod tests {
    #[test]
    fn logarithms() {
        for (number, expected) in [(1, 0), (2, 693), (3, 1098), (5, 1609), (10, 2302), (5002, 8517)] {
            assert!((super::log(number) - expected).abs() <= 1, "{number}: {}", super::log(number));
        }
    }
}
