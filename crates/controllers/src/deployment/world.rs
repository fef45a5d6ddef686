//! A Deployment and its ReplicaSets while a plan is made: decisions change the copies here, and what differs in the end
//! from what was there becomes the plan's writes.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

use super::bounds::{Bounds, Share, proportional};
use super::revision;
use super::status::{self, Conditions};
use super::template;

/// The working copies.
pub(crate) struct World<'a> {
    pub deployment: &'a Deployment,
    pub bounds: Bounds,
    /// Oldest first; the one that is to be made, if any, is last and has no counterpart in `before`.
    pub sets: Vec<ReplicaSet>,
    pub before: Vec<Arc<ReplicaSet>>,
    /// Which set has the Deployment's template.
    pub new: Option<usize>,
    pub conditions: Conditions,
}

/// A set's size.
pub(crate) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1).max(0)
}

/// How many of the set's pods are available and will stay: the status may not know yet that the set was scaled down.
pub(crate) fn available(set: &ReplicaSet) -> i32 {
    let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    available.min(size(set))
}

/// How many pods a set has or will have.
fn pods(set: &ReplicaSet) -> i32 {
    size(set).max(set.status.as_ref().map_or(0, |status| status.replicas))
}

/// Whether the set's controller has seen the set's size.
fn is_observed(set: &ReplicaSet) -> bool {
    set.metadata.generation <= set.status.as_ref().and_then(|status| status.observed_generation)
}

impl<'a> World<'a> {
    pub(crate) fn new(deployment: &'a Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Self {
        let mut before = sets.to_vec();
        before.sort_by(|a, b| template::age(a).cmp(&template::age(b)));
        Self {
            deployment,
            bounds: Bounds::of(deployment),
            sets: before.iter().map(|set| ReplicaSet::clone(set)).collect(),
            new: template::find_new(deployment, &before),
            before,
            conditions: Conditions::of(deployment, now),
        }
    }

    /// Indices of all sets but the newest, oldest first.
    pub(crate) fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |index| Some(*index) != new)
    }

    /// Pods that all sets together are to have.
    pub(crate) fn total(&self) -> i32 {
        self.sets.iter().map(size).sum()
    }

    /// Pods that the old sets are to have.
    pub(crate) fn old_total(&self) -> i32 {
        self.old().map(|index| size(&self.sets[index])).sum()
    }

    /// Gives a set a size, and notes the Deployment's. Returns whether the size changed.
    pub(crate) fn scale(&mut self, index: usize, to: i32) -> bool {
        let bounds = self.bounds;
        let set = &mut self.sets[index];
        let changed = size(set) != to;
        set.spec.replicas = Some(to);
        revision::note_size(set, bounds);
        changed
    }

    /// Keeps the newest set's annotations and settings as the Deployment wants them; makes it if asked to. Says so in the
    /// condition, unless that is about this set already.
    pub(crate) fn sync_newest(&mut self, create: bool) {
        let newest_other =
            self.old().map(|index| revision::of(&self.sets[index].metadata)).max().unwrap_or(0);
        let created = self.new.is_none() && create;
        if created {
            self.sets.push(template::new_set(self.deployment));
            self.new = Some(self.sets.len() - 1);
        }
        let Some(new) = self.new else { return };
        revision::note_newest(&mut self.sets[new], self.deployment, newest_other);
        if created {
            let size = self.new_size(new);
            self.scale(new, size);
        }
        let set = &mut self.sets[new];
        let wanted = self.deployment.spec.min_ready_seconds;
        if set.spec.min_ready_seconds.unwrap_or(0) != wanted.unwrap_or(0) {
            set.spec.min_ready_seconds = wanted;
        }
        self.tell_newest(new, created);
    }

    fn tell_newest(&mut self, new: usize, created: bool) {
        let paused = self.conditions.reason(status::PROGRESSING) == status::PAUSED;
        if paused || status::deadline(self.deployment).is_none() {
            return;
        }
        let set = &self.sets[new];
        let name = set.metadata.name.clone().unwrap_or_default();
        if created {
            let message = format!("Created new replica set {name:?}");
            return self.conditions.set(status::PROGRESSING, "True", status::SET_CREATED, message);
        }
        // A revision that the Deployment does not have yet: this set has just become its newest.
        let known = revision::of(&set.metadata) == revision::of(&self.deployment.metadata);
        let told = self.conditions.get(status::PROGRESSING);
        let told = told.and_then(|condition| condition.message.as_deref());
        let about_it = told.is_some_and(|message| known || message.contains(&format!("{name:?}")));
        if !about_it {
            let message = format!("Found new replica set {name:?}");
            self.conditions.set(status::PROGRESSING, "True", status::SET_FOUND, message);
        }
    }

    /// The size of the newest set: as many pods as are wanted, and as there is room for beside the old ones. The room of a
    /// pod that an old set is to let go is free when that set has done so, not when it has been told to: there are never
    /// too many, not even for a moment.
    pub(crate) fn new_size(&self, new: usize) -> i32 {
        let now = size(&self.sets[new]);
        if !self.bounds.rolling {
            return self.bounds.replicas;
        }
        if self.old().any(|index| !is_observed(&self.sets[index])) {
            return now;
        }
        let there: i32 = self.sets.iter().map(pods).sum();
        let room = self.bounds.most().saturating_sub(there).max(0);
        now + room.min(self.bounds.replicas - now).max(0)
    }

    /// Whether the Deployment's size changed since its sets were last scaled.
    pub(crate) fn is_scaling(&self) -> bool {
        let active = self.sets.iter().filter(|set| size(set) > 0);
        active.filter_map(revision::desired).any(|desired| desired != self.bounds.replicas)
    }

    /// Brings the sets to the Deployment's size, whatever the state of an update. Unless its size has changed, sets that
    /// share it are left as they are: a paused update stands still.
    pub(crate) fn follow_size(&mut self, changed: bool) {
        match self.only_active() {
            Some(only) => {
                self.scale(only, self.bounds.replicas);
            }
            None if changed => self.share_size(),
            None => return,
        }
        for index in 0..self.sets.len() {
            let size = size(&self.sets[index]);
            if size > 0 {
                self.scale(index, size);
            }
        }
    }

    fn share_size(&mut self) {
        if self.new.is_some_and(|new| self.is_saturated(new)) {
            for index in self.old() {
                self.scale(index, 0);
            }
            return;
        }
        if !self.bounds.rolling {
            return;
        }
        let grows = self.bounds.most() > self.total();
        let mut active: Vec<usize> =
            (0..self.sets.len()).filter(|index| size(&self.sets[*index]) > 0).collect();
        // Largest first; of equals the newer one grows first and the older one shrinks first.
        if grows {
            active.reverse();
        }
        active.sort_by_key(|index| -size(&self.sets[*index]));
        let told = self.deployment.status.as_ref().and_then(|status| status.replicas).unwrap_or(0);
        let share = |index: &usize| {
            let set = &self.sets[*index];
            Share {
                size: size(set),
                most_before: revision::most(set).filter(|most| *most > 0).unwrap_or(told),
            }
        };
        let shares: Vec<Share> = active.iter().map(share).collect();
        for (index, size) in active.into_iter().zip(proportional(self.bounds, &shares)) {
            self.scale(index, size);
        }
    }

    /// The only set with pods; with none, the newest, or else the youngest.
    fn only_active(&self) -> Option<usize> {
        let mut active = (0..self.sets.len()).filter(|index| size(&self.sets[*index]) > 0);
        match (active.next(), active.next()) {
            (None, _) => self.new.or(self.sets.len().checked_sub(1)),
            (only, None) => only,
            _ => None,
        }
    }

    fn is_saturated(&self, index: usize) -> bool {
        let (set, wanted) = (&self.sets[index], self.bounds.replicas);
        let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        size(set) == wanted && revision::desired(set) == Some(wanted) && available == wanted
    }
}
