//! Which pods of lower priority make room for one that found none: on which node, and no more of them than it takes. The
//! pods are taken out of the columns to see what happens, and put back.
//!
//! Deliberately absent: deleting them, and making the pod fit at any price: who breaks a disruption budget is chosen last,
//! but may be chosen, as upstream does.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use component::ObjectKey;
use jiff::Timestamp;
use pod_rules::labels::{self, Labels};

use api_machinery::selector::LabelSelector;

use crate::columns::Columns;
use crate::decide::Refusal;
use crate::demand::{Demand, Usage};
use crate::filter::{Reject, first_reject};
use crate::neighbours::Neighbours;

/// Most nodes that are tried.
const NODES: usize = 100;

/// What a disruption budget allows now.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The pods of its namespace that it protects.
    pub selector: LabelSelector,
    /// How many of them may go.
    pub allowed: i32,
    /// Names of pods that are on their way out already and counted.
    pub leaving: Vec<String>,
}

/// All budgets, by their namespace and name.
pub type Budgets = BTreeMap<ObjectKey, Budget>;

/// A pod that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// The pod.
    pub key: ObjectKey,
    /// Its UID.
    pub uid: String,
}

/// What came of the attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// It was not made, and why.
    NotEligible(&'static str),
    /// Nobody's going would help; what upstream says of each node.
    Hopeless(Vec<String>),
    /// These pods of the node in this slot shall go.
    Victims(usize, Vec<Victim>),
}

/// A pod that could go.
struct Lesser {
    victim: Victim,
    usage: Usage,
    assumed: bool,
    created: Option<Timestamp>,
}

/// Pods of one node whose going is enough, and what is to be said against it; the less, the better.
struct Candidate {
    slot: usize,
    cost: Cost,
    victims: Vec<Victim>,
}

/// Budgets that are broken; the highest priority; the sum of priorities; how many; the youngest of the most important ones
/// goes first.
type Cost = (usize, i32, i64, usize, Reverse<Option<Timestamp>>);

/// Looks for pods that could make room. `nominated` is the node that was promised to the pod before.
pub fn attempt(
    columns: &mut Columns,
    demand: &Demand,
    refusal: &Refusal,
    budgets: &Budgets,
    nominated: Option<usize>,
) -> Attempt {
    let policy = demand.pod.spec.as_ref().and_then(|spec| spec.preemption_policy.as_deref());
    if policy == Some("Never") {
        return Attempt::NotEligible("not eligible due to preemptionPolicy=Never.");
    }
    let priority = demand.usage.priority;
    let makes_room = |slot| {
        columns.pods_on(slot).any(|(_, pod)| pod.usage.identity.deleting && pod.usage.priority < priority)
    };
    if nominated.is_some_and(makes_room) {
        return Attempt::NotEligible("not eligible due to a terminating pod on the nominated node.");
    }
    let (mut outcomes, mut best, mut tried): (Vec<String>, Option<Candidate>, usize) = (Vec::new(), None, 0);
    for (slot, reject) in &refusal.nodes {
        if !reject.depends_on_pods() {
            outcomes.push("Preemption is not helpful for scheduling".to_owned());
        } else if columns.lowest_priority(*slot).is_none_or(|lowest| lowest >= priority) {
            outcomes.push("No preemption victims found for incoming pod".to_owned());
        } else if tried < NODES {
            tried += 1;
            match on_node(columns, *slot, demand, budgets) {
                Ok(found) if best.as_ref().is_none_or(|best| found.cost < best.cost) => best = Some(found),
                Ok(_) => {}
                Err(reject) => {
                    outcomes.extend(reject.reasons(demand).into_iter().map(|reason| reason.into_owned()));
                }
            }
        }
    }
    match best {
        Some(best) => Attempt::Victims(best.slot, best.victims),
        None => Attempt::Hopeless(outcomes),
    }
}

/// The fewest and least important pods of a node that have to go; or what stands against it even if all went.
fn on_node(
    columns: &mut Columns,
    slot: usize,
    demand: &Demand,
    budgets: &Budgets,
) -> Result<Candidate, Reject> {
    let mut lesser: Vec<Lesser> = columns
        .pods_on(slot)
        .filter(|(_, pod)| pod.usage.priority < demand.usage.priority)
        .map(|(key, pod)| Lesser {
            victim: Victim { key: key.clone(), uid: pod.uid.clone() },
            usage: pod.usage.clone(),
            assumed: pod.assumed,
            created: pod.usage.created,
        })
        .collect();
    // The most important first, of equals the oldest.
    lesser.sort_by(|a, b| {
        let rank = |one: &Lesser| (Reverse(one.usage.priority), one.created, one.victim.key.clone());
        rank(a).cmp(&rank(b))
    });
    let node = columns.name(slot).to_owned();
    for one in &lesser {
        columns.remove_pod(&one.victim.key);
    }
    let outcome = match rejected(columns, slot, demand) {
        Some(reject) => Err(reject),
        None => Ok(spare(columns, slot, demand, &lesser, budgets)),
    };
    for one in &lesser {
        columns.place(&one.victim.key, &one.victim.uid, &node, one.usage.clone(), one.assumed);
    }
    outcome
}

fn rejected(columns: &Columns, slot: usize, demand: &Demand) -> Option<Reject> {
    first_reject(columns, slot, demand, &Neighbours::of(columns, demand))
}

/// Of pods that have all been taken away, brings back as many as leave room: first those whose budgets would be broken.
fn spare(
    columns: &mut Columns,
    slot: usize,
    demand: &Demand,
    lesser: &[Lesser],
    budgets: &Budgets,
) -> Candidate {
    let mut left = budgets.clone();
    let (precious, others): (Vec<&Lesser>, Vec<&Lesser>) =
        lesser.iter().partition(|one| breaks(&mut left, &one.victim.key, &one.usage.identity.labels));
    let node = columns.name(slot).to_owned();
    let mut gone: Vec<&Lesser> = Vec::new();
    let mut broken = 0;
    for (one, is_precious) in
        precious.iter().map(|one| (one, true)).chain(others.iter().map(|one| (one, false)))
    {
        columns.place(&one.victim.key, &one.victim.uid, &node, one.usage.clone(), one.assumed);
        if rejected(columns, slot, demand).is_some() {
            columns.remove_pod(&one.victim.key);
            gone.push(one);
            broken += usize::from(is_precious);
        }
    }
    gone.sort_by_key(|one| (Reverse(one.usage.priority), one.created));
    let highest = gone.iter().map(|one| one.usage.priority).max().unwrap_or(i32::MIN);
    let oldest = gone.iter().filter(|one| one.usage.priority == highest).filter_map(|one| one.created).min();
    // Counted from the lowest priority that there is: fewer pods are always cheaper.
    let sum = gone.iter().map(|one| i64::from(one.usage.priority) - i64::from(i32::MIN)).sum();
    Candidate {
        slot,
        cost: (broken, highest, sum, gone.len(), Reverse(oldest)),
        victims: gone.into_iter().map(|one| one.victim.clone()).collect(),
    }
}

/// Whether a pod's going breaks a budget, after those that were asked about before it.
fn breaks(budgets: &mut Budgets, pod: &ObjectKey, labels: &Labels) -> bool {
    let mut broken = false;
    for (key, budget) in budgets.iter_mut() {
        let protects = key.namespace == pod.namespace && labels::matches(&budget.selector, Some(labels));
        if protects && !budget.leaving.contains(&pod.name) {
            budget.allowed -= 1;
            broken |= budget.allowed < 0;
        }
    }
    broken
}
