//! Which of the nodes that can run a pod are best for it. Each aspect gives every node 0 to 100 points; the weights are
//! upstream's. Integers only, so that the same state gives the same answer everywhere.
//!
//! Deliberately absent: where images are already.

use crate::columns::{Column, Columns};
use crate::demand::Demand;
use crate::neighbours::Neighbours;

const POINTS: i64 = 100;
/// Fractions are counted in millionths.
const WHOLE: i64 = 1_000_000;

const TAINTS: i64 = 3;
const AFFINITY: i64 = 2;
const SPREAD: i64 = 2;
const LIKING: i64 = 2;
const ROOM: i64 = 1;
const BALANCE: i64 = 1;

/// The best of the feasible slots; several if they are equally good.
pub fn best(columns: &Columns, demand: &Demand, around: &Neighbours<'_>, feasible: &[usize]) -> Vec<usize> {
    if feasible.len() < 2 {
        return feasible.to_vec();
    }
    let mut totals: Vec<i64> = feasible
        .iter()
        .map(|slot| ROOM * room(columns, *slot, demand) + BALANCE * balance(columns, *slot, demand))
        .collect();
    let of = |raw: &dyn Fn(usize) -> i64| feasible.iter().map(|slot| raw(*slot)).collect::<Vec<i64>>();
    add(&mut totals, TAINTS, fewer(&of(&|slot| demand.soft_taints(columns.taints(slot)))));
    if demand.preferring {
        let preference = |slot: usize| {
            columns.node(slot).map_or(0, |node| pod_rules::affinity::preference(&demand.pod, node))
        };
        add(&mut totals, AFFINITY, more(&of(&preference)));
    }
    if let Some(liking) = feasible.iter().map(|slot| around.liking(*slot)).collect::<Option<Vec<i64>>>() {
        add(&mut totals, LIKING, between(&liking));
    }
    let crowding: Option<Vec<i64>> = feasible.iter().map(|slot| around.crowding(*slot)).collect();
    if let Some(crowding) = crowding {
        add(&mut totals, SPREAD, spread(&crowding));
    } else if let Some(siblings) = demand.usage.owner.as_deref().and_then(|owner| columns.siblings(owner)) {
        add(&mut totals, SPREAD, spread(&of(&|slot| siblings.get(&slot).copied().unwrap_or(0))));
    }
    let Some(most) = totals.iter().max() else { return Vec::new() };
    feasible.iter().zip(&totals).filter(|(_, total)| *total == most).map(|(slot, _)| *slot).collect()
}

fn add(totals: &mut [i64], weight: i64, points: Vec<i64>) {
    for (total, points) in totals.iter_mut().zip(points) {
        *total += weight * points;
    }
}

/// A part of a whole in millionths, at most all of it.
fn fraction(part: i64, whole: i64) -> i64 {
    if whole <= 0 {
        return WHOLE;
    }
    let fraction = i128::from(part.max(0)) * i128::from(WHOLE) / i128::from(whole);
    i64::try_from(fraction).unwrap_or(WHOLE).min(WHOLE)
}

/// The more of CPU and memory is left, the better.
fn room(columns: &Columns, slot: usize, demand: &Demand) -> i64 {
    let left = |column: &Column, counted: i64, asked: i64| {
        let all = column.allocatable[slot];
        (all > 0).then(|| (WHOLE - fraction(counted.saturating_add(asked), all)) * POINTS / WHOLE)
    };
    let usage = &demand.usage;
    let cpu = left(&columns.cpu, columns.counted_cpu[slot], usage.counted_cpu);
    let memory = left(&columns.memory, columns.counted_memory[slot], usage.counted_memory);
    match (cpu, memory) {
        (Some(cpu), Some(memory)) => (cpu + memory) / 2,
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => 0,
    }
}

/// The closer the used parts of CPU and memory are to each other, the better. A pod that asks for nothing does not matter.
fn balance(columns: &Columns, slot: usize, demand: &Demand) -> i64 {
    let requests = &demand.usage.requests;
    if requests.milli_cpu == 0 && requests.memory == 0 {
        return 0;
    }
    let used = |column: &Column, asked: i64| {
        fraction(column.requested[slot].saturating_add(asked), column.allocatable[slot])
    };
    let apart = (used(&columns.cpu, requests.milli_cpu) - used(&columns.memory, requests.memory)).abs();
    (WHOLE - apart / 2) * POINTS / WHOLE
}

/// Points in proportion to the highest value.
fn more(values: &[i64]) -> Vec<i64> {
    let most = values.iter().copied().max().unwrap_or(0);
    values.iter().map(|value| if most > 0 { value * POINTS / most } else { 0 }).collect()
}

/// The less, the more points.
fn fewer(values: &[i64]) -> Vec<i64> {
    more(values).into_iter().map(|points| POINTS - points).collect()
}

/// No points for the lowest, all for the highest.
fn between(values: &[i64]) -> Vec<i64> {
    let most = values.iter().copied().max().unwrap_or(0);
    let least = values.iter().copied().min().unwrap_or(0);
    let points = |value: &i64| if most > least { (value - least) * POINTS / (most - least) } else { 0 };
    values.iter().map(points).collect()
}

/// All points for the fewest, in proportion for more.
fn spread(values: &[i64]) -> Vec<i64> {
    let most = values.iter().copied().max().unwrap_or(0);
    let least = values.iter().copied().min().unwrap_or(0);
    values
        .iter()
        .map(|value| if most > 0 { POINTS * (most + least - value) / most } else { POINTS })
        .collect()
}
