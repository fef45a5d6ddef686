//! One decision: the best nodes for a pod, or why there is none. Every node is looked at, and of each that said no the first
//! filter that did so is kept.

use std::collections::BTreeMap;

use crate::columns::Columns;
use crate::demand::Demand;
use crate::filter::{Reject, first_reject};
use crate::neighbours::Neighbours;
use crate::preempt::Attempt;
use crate::score;

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// To one of these slots, which are equally good.
    Assign(Vec<usize>),
    /// Nowhere.
    Refuse(Refusal),
}

/// Why a pod goes nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusal {
    /// Slot of every node, and the first filter that said no there.
    pub nodes: Vec<(usize, Reject)>,
}

/// Decides about a pod, of which [`Columns::learn`] was told.
pub fn decide(columns: &Columns, demand: &Demand) -> Decision {
    decide_with(columns, demand, None)
}

/// As [`decide`], for a pod to which the node in a slot was promised: it goes there if it can.
pub fn decide_with(columns: &Columns, demand: &Demand, promised: Option<usize>) -> Decision {
    let around = Neighbours::of(columns, demand);
    let (feasible, nodes) = sort(columns, demand, &around);
    if feasible.is_empty() {
        return Decision::Refuse(Refusal { nodes });
    }
    if let Some(promised) = promised.filter(|slot| feasible.contains(slot)) {
        return Decision::Assign(vec![promised]);
    }
    Decision::Assign(score::best(columns, demand, &around, &feasible))
}

/// The nodes that cannot run a pod and why, also where others can.
pub fn refusals(columns: &Columns, demand: &Demand) -> Vec<(usize, Reject)> {
    sort(columns, demand, &Neighbours::of(columns, demand)).1
}

/// The slots that can run a pod, and those that cannot.
fn sort(columns: &Columns, demand: &Demand, around: &Neighbours<'_>) -> (Vec<usize>, Vec<(usize, Reject)>) {
    let (mut feasible, mut refused) = (Vec::new(), Vec::new());
    for slot in (0..columns.slots()).filter(|slot| columns.node(*slot).is_some()) {
        match first_reject(columns, slot, demand, around) {
            None => feasible.push(slot),
            Some(reject) => refused.push((slot, reject)),
        }
    }
    (feasible, refused)
}

impl Refusal {
    /// What the event and the condition say.
    pub fn message(&self, demand: &Demand, preemption: &Attempt) -> String {
        if self.nodes.is_empty() {
            return "no nodes available to schedule pods".to_owned();
        }
        let reasons = self.nodes.iter().flat_map(|(_, reject)| reject.reasons(demand));
        let filters = histogram(reasons.map(std::borrow::Cow::into_owned));
        let total = self.nodes.len();
        let mut message = format!("0/{total} nodes are available: {filters}.");
        let preemption = match preemption {
            Attempt::Victims(..) => return message,
            Attempt::NotEligible(why) => (*why).to_owned(),
            Attempt::Hopeless(outcomes) => {
                format!("0/{total} nodes are available: {}.", histogram(outcomes.iter().cloned()))
            }
        };
        message.push_str(" no new claims to deallocate, preemption: ");
        message.push_str(&preemption);
        message
    }
}

/// How often each text occurs, as upstream lists it: sorted with the number in front, as text.
fn histogram(texts: impl IntoIterator<Item = String>) -> String {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    let mut lines: Vec<String> = counts.into_iter().map(|(text, count)| format!("{count} {text}")).collect();
    lines.sort();
    lines.join(", ")
}
