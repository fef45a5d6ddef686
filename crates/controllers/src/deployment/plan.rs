//! What a Deployment needs: which ReplicaSet to make, which to scale, which to forget, and what its status is. Pure.
//!
//! A plan is carried out in this order: create, updates, deletions, status, the Deployment's revision. It may be cut off
//! anywhere: the next one starts from what is there. The revision comes last, so that a newest set which nobody was told of
//! is recognised by it.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::revision;
use super::status::{self, Conditions};
use super::world::{World, available, size};

/// Everything to do for a Deployment now.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    /// The newest set, when it is to be made.
    pub create: Option<ReplicaSet>,
    /// Sets that change, with their size before.
    pub updates: Vec<(ReplicaSet, i32)>,
    /// Old sets that are no longer remembered.
    pub forget: Vec<Arc<ReplicaSet>>,
    /// The status.
    pub status: DeploymentStatus,
    /// The revision that the Deployment is to be annotated with, if it is not.
    pub revision: Option<i64>,
    /// When to look again for want of progress.
    pub wake: Option<Timestamp>,
}

/// Decides. `sets` are the Deployment's, `with_pods` the uids of those that have pods which have not ended.
pub(crate) fn plan(
    deployment: &Deployment,
    sets: &[Arc<ReplicaSet>],
    with_pods: &BTreeSet<String>,
    now: Timestamp,
) -> Plan {
    let mut world = World::new(deployment, sets, now);
    if deployment.metadata.deletion_timestamp.is_some() {
        return Plan { revision: None, ..finish(world, false, now) };
    }
    let paused = deployment.spec.paused == Some(true);
    tell_pause(&mut world, paused);
    let scaling = world.is_scaling();
    if paused || scaling {
        world.sync_newest(false);
        world.follow_size(scaling);
        let forget = if paused { forgettable(&world) } else { Vec::new() };
        return Plan { forget, ..finish(world, false, now) };
    }
    let moved = if world.bounds.rolling { roll(&mut world) } else { recreate(&mut world, with_pods) };
    let done = deployment.status.as_ref().is_some_and(|status| status::is_complete(deployment, status));
    let forget = if !moved && done { forgettable(&world) } else { Vec::new() };
    Plan { forget, ..finish(world, true, now) }
}

/// Turns what changed in the copies into writes, and says whether there is progress, if that is `followed`.
fn finish(mut world: World<'_>, followed: bool, now: Timestamp) -> Plan {
    let deployment = world.deployment;
    let counts = status::counts(deployment, &world.sets, world.new);
    status::availability(&mut world.conditions, &counts, world.bounds);
    let mut wake = None;
    if followed {
        let new = world.new.map(|new| &world.sets[new]);
        wake = status::progress(&mut world.conditions, deployment, &counts, new, now);
        status::failures(&mut world.conditions, &world.sets, world.new);
    }
    let revision = world.new.map(|new| revision::of(&world.sets[new].metadata));
    let mut changed = world.sets;
    let create = (changed.len() > world.before.len()).then(|| changed.pop()).flatten();
    let pairs = changed.into_iter().zip(&world.before);
    let updates =
        pairs.filter(|(set, before)| set != &***before).map(|(set, before)| (set, size(before))).collect();
    Plan {
        create,
        updates,
        forget: Vec::new(),
        status: DeploymentStatus { conditions: world.conditions.into_list(), ..counts },
        revision: revision.filter(|revision| *revision != revision::of(&deployment.metadata)),
        wake,
    }
}

/// Pausing stops the clock of the deadline, resuming starts it anew. A deadline that is over stays over.
fn tell_pause(world: &mut World<'_>, paused: bool) {
    if status::deadline(world.deployment).is_none() {
        return;
    }
    let reason = world.conditions.reason(status::PROGRESSING).to_owned();
    let told = reason == status::PAUSED;
    if reason == status::TIMED_OUT || told == paused {
        return;
    }
    let (reason, message) = match paused {
        true => (status::PAUSED, "Deployment is paused"),
        false => (status::RESUMED, "Deployment is resumed"),
    };
    world.conditions.set(status::PROGRESSING, "Unknown", reason, message.to_owned());
}

/// One step of a rolling update. Returns whether any size changed.
fn roll(world: &mut World<'_>) -> bool {
    let existed = world.new.is_some();
    world.sync_newest(true);
    let Some(new) = world.new else { return false };
    let wanted = world.bounds.replicas;
    // Up or down, but not both on one view: what was added must be seen before its room is used.
    let to = if size(&world.sets[new]) > wanted { wanted } else { world.new_size(new) };
    if to != size(&world.sets[new]) {
        return world.scale(new, to);
    }
    !existed || shrink_old(world, new)
}

/// Scales old sets down as far as the pods that are available allow; pods that are not available go first.
fn shrink_old(world: &mut World<'_>, new: usize) -> bool {
    if world.old_total() == 0 {
        return false;
    }
    let fewest = world.bounds.fewest();
    let new_unavailable = size(&world.sets[new]) - available(&world.sets[new]);
    let mut removable = world.total() - fewest - new_unavailable;
    let mut moved = false;
    for index in world.old() {
        let broken = size(&world.sets[index]) - available(&world.sets[index]);
        let fewer = broken.min(removable);
        if fewer > 0 {
            removable -= fewer;
            moved |= world.scale(index, size(&world.sets[index]) - fewer);
        }
    }
    let all_available: i32 = world.sets.iter().map(available).sum();
    let mut removable = removable.min(all_available - fewest);
    for index in world.old() {
        let fewer = size(&world.sets[index]).min(removable);
        if fewer > 0 {
            removable -= fewer;
            moved |= world.scale(index, size(&world.sets[index]) - fewer);
        }
    }
    moved
}

/// One step of a replacement of all pods at once: first the old ones end, then the new ones begin.
fn recreate(world: &mut World<'_>, with_pods: &BTreeSet<String>) -> bool {
    world.sync_newest(false);
    let mut moved = false;
    for index in world.old() {
        if size(&world.sets[index]) > 0 {
            moved |= world.scale(index, 0);
        }
    }
    if moved || old_pods_run(world, with_pods) {
        return moved;
    }
    world.sync_newest(true);
    let Some(new) = world.new else { return false };
    world.scale(new, world.bounds.replicas)
}

fn old_pods_run(world: &World<'_>, with_pods: &BTreeSet<String>) -> bool {
    let new = world.new.and_then(|new| world.sets[new].metadata.uid.as_deref());
    let counted = |index: usize| world.sets[index].status.as_ref().is_some_and(|status| status.replicas > 0);
    world.old().any(counted) || with_pods.iter().any(|uid| Some(uid.as_str()) != new)
}

/// The oldest revisions beyond the limit, without those that still have pods or that wait for their controller.
fn forgettable(world: &World<'_>) -> Vec<Arc<ReplicaSet>> {
    let limit = world.deployment.spec.revision_history_limit.filter(|limit| *limit != i32::MAX);
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Vec::new() };
    let mut old: Vec<&Arc<ReplicaSet>> = world.old().filter_map(|index| world.before.get(index)).collect();
    old.retain(|set| set.metadata.deletion_timestamp.is_none());
    old.sort_by_key(|set| (revision::of(&set.metadata), template_age(set)));
    let surplus = old.len().saturating_sub(limit);
    let unused = |set: &ReplicaSet| {
        let status = set.status.as_ref();
        size(set) == 0
            && status.is_none_or(|status| status.replicas == 0)
            && set.metadata.generation <= status.and_then(|status| status.observed_generation)
    };
    old.into_iter().take(surplus).filter(|set| unused(set)).cloned().collect()
}

fn template_age(set: &ReplicaSet) -> (Option<Timestamp>, Option<String>) {
    let (created, name) = super::template::age(set);
    (created, name.map(str::to_owned))
}

/// The status of a Deployment whose newest set the API refused.
pub(crate) fn refused(
    deployment: &Deployment,
    set: &ReplicaSet,
    why: &str,
    now: Timestamp,
) -> DeploymentStatus {
    let mut conditions = Conditions::of(deployment, now);
    if status::deadline(deployment).is_some() {
        conditions.set(status::PROGRESSING, "False", status::SET_NOT_CREATED, refusal(set, why));
    }
    DeploymentStatus {
        conditions: conditions.into_list(),
        observed_generation: deployment.metadata.generation,
        ..deployment.status.clone().unwrap_or_default()
    }
}

/// How a refusal reads in a condition and an event.
pub(crate) fn refusal(set: &ReplicaSet, why: &str) -> String {
    format!("Failed to create new replica set {:?}: {why}", set.metadata.name.as_deref().unwrap_or_default())
}

/// The status of a Deployment whose newest set's name is taken: the next name will be another.
pub(crate) fn collided(deployment: &Deployment) -> DeploymentStatus {
    let status = deployment.status.clone().unwrap_or_default();
    let collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
    DeploymentStatus { collision_count, ..status }
}

/// Whether a status says something new. Zero and absent are the same.
pub(crate) fn differs(old: Option<&DeploymentStatus>, new: &DeploymentStatus) -> bool {
    let numbers = |status: &DeploymentStatus| {
        [
            status.replicas,
            status.updated_replicas,
            status.ready_replicas,
            status.available_replicas,
            status.unavailable_replicas,
            status.terminating_replicas,
        ]
        .map(Option::unwrap_or_default)
    };
    old.is_none_or(|old| {
        numbers(old) != numbers(new)
            || old.observed_generation != new.observed_generation
            || old.collision_count != new.collision_count
            || old.conditions.as_deref().unwrap_or_default() != new.conditions.as_deref().unwrap_or_default()
    })
}
