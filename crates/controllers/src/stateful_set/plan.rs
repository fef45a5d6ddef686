//! What a StatefulSet needs next: which pods to make, which to delete, and what its status is. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod_rules::status;

use super::identity;

/// The revisions of a set, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Revisions {
    /// What pods that are not yet updated are made from.
    pub current: String,
    /// What the set's template is now.
    pub update: String,
    pub collisions: i32,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Make the pod with this number from the revision of this name, its claims first.
    Create(i32, String),
    /// Delete a pod.
    Delete(Arc<Pod>),
    /// See to it that the claims of this pod, which stays, are there and belong to whom they should.
    Keep(i32, Arc<Pod>),
    /// Delete a pod that is scaled away, and let its claims go with it if they are to.
    Leave(i32, Arc<Pod>),
}

/// What one pass does.
#[derive(Debug, PartialEq)]
pub(crate) struct Plan {
    pub actions: Vec<Action>,
    pub status: StatefulSetStatus,
    /// When a pod that is ready becomes available.
    pub wake: Option<Timestamp>,
}

struct World<'a> {
    set: &'a StatefulSet,
    revisions: &'a Revisions,
    now: Timestamp,
    /// The pods that are to be, by number.
    slots: BTreeMap<i32, Option<Arc<Pod>>>,
    /// Those that are not, by number.
    condemned: BTreeMap<i32, Arc<Pod>>,
}

/// Compares the set with its pods.
pub(crate) fn plan(set: &StatefulSet, revisions: &Revisions, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let first = identity::first(set);
    let wanted = set.spec.replicas.unwrap_or(1).max(0);
    let mut slots: BTreeMap<i32, Option<Arc<Pod>>> =
        (first..first.saturating_add(wanted)).map(|ordinal| (ordinal, None)).collect();
    let mut condemned = BTreeMap::new();
    for pod in pods {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(ordinal) = identity::ordinal(set, name) else { continue };
        match slots.get_mut(&ordinal) {
            Some(slot) => *slot = Some(pod.clone()),
            None => drop(condemned.insert(ordinal, pod.clone())),
        }
    }
    let world = World { set, revisions, now, slots, condemned };
    let actions = if set.metadata.deletion_timestamp.is_some() { Vec::new() } else { world.actions() };
    Plan { actions, status: world.status(), wake: world.wake() }
}

impl World<'_> {
    /// In order: fill the slots, then scale down, then update. A set that keeps order does one thing at a time and
    /// waits for it.
    fn actions(&self) -> Vec<Action> {
        let ordered = self.set.spec.pod_management_policy.as_deref() != Some("Parallel");
        let mut actions = Vec::new();
        for (ordinal, slot) in &self.slots {
            let Some(pod) = slot else {
                actions.push(Action::Create(*ordinal, self.revision_of(*ordinal).to_owned()));
                if ordered {
                    return actions;
                }
                continue;
            };
            if status::is_terminal(pod) && !status::is_deleting(pod) {
                actions.push(Action::Delete(pod.clone()));
                if ordered {
                    return actions;
                }
                continue;
            }
            actions.push(Action::Keep(*ordinal, pod.clone()));
            if ordered && !self.is_healthy(pod) {
                return actions;
            }
        }
        if self.scale_down(ordered, &mut actions) {
            self.update(&mut actions);
        }
        actions
    }

    /// From the last one down; `false` when what follows has to wait.
    fn scale_down(&self, ordered: bool, actions: &mut Vec<Action>) -> bool {
        for (ordinal, pod) in self.condemned.iter().rev() {
            // A pod that is on its way out, perhaps on a node that is dead, holds its name until it is really gone.
            if !status::is_deleting(pod) {
                actions.push(Action::Leave(*ordinal, pod.clone()));
            }
            if ordered {
                return false;
            }
        }
        true
    }

    /// Replaces pods of older revisions, from the last one down to the partition, as many at a time as may be missing.
    fn update(&self, actions: &mut Vec<Action>) {
        let strategy = self.set.spec.update_strategy.as_ref();
        if strategy.and_then(|strategy| strategy.type_.as_deref()) == Some("OnDelete") {
            return;
        }
        let down = |pod: &Option<Arc<Pod>>| pod.as_ref().is_none_or(|pod| !self.is_healthy(pod));
        let missing = self.slots.values().filter(|slot| down(slot)).count();
        let mut budget = self.max_unavailable().saturating_sub(missing);
        let from = identity::first(self.set).saturating_add(self.partition().unwrap_or(0));
        for (_, slot) in self.slots.range(from..).rev() {
            let Some(pod) = slot else { continue };
            if status::is_deleting(pod) || identity::revision(pod) == self.revisions.update {
                continue;
            }
            // One that does not serve is missing already.
            if self.is_healthy(pod) {
                if budget == 0 {
                    continue;
                }
                budget -= 1;
            }
            actions.retain(|action| !matches!(action, Action::Keep(_, kept) if Arc::ptr_eq(kept, pod)));
            actions.push(Action::Delete(pod.clone()));
        }
    }

    fn partition(&self) -> Option<i32> {
        let rolling = self.set.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
        Some(rolling.partition.unwrap_or(0).max(0))
    }

    /// At least one; a percentage is rounded up.
    fn max_unavailable(&self) -> usize {
        let strategy = self.set.spec.update_strategy.as_ref();
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let most = match rolling.and_then(|rolling| rolling.max_unavailable.as_ref()) {
            None => 1,
            Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(1),
            Some(IntOrString::String(text)) => {
                let percent =
                    text.strip_suffix('%').and_then(|number| number.parse::<usize>().ok()).unwrap_or(0);
                (percent * self.slots.len()).div_ceil(100)
            }
        };
        most.max(1)
    }

    /// Which revision a new pod is made from: below the partition, or not yet reached by the update, the current one.
    fn revision_of(&self, ordinal: i32) -> &str {
        let Revisions { current, update, .. } = self.revisions;
        let on_delete = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref())
            == Some("OnDelete");
        let told = self.set.status.as_ref().and_then(|status| status.current_replicas).unwrap_or(0);
        let below = self.partition().unwrap_or(told);
        let old = ordinal < identity::first(self.set).saturating_add(below);
        if old && !on_delete { current } else { update }
    }

    /// Runs, is ready, has been for long enough, and stays.
    fn is_healthy(&self, pod: &Pod) -> bool {
        is_running(pod) && self.is_available(pod) && !status::is_deleting(pod)
    }

    fn is_available(&self, pod: &Pod) -> bool {
        status::is_available(pod, self.set.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn status(&self) -> StatefulSetStatus {
        let Revisions { current, update, collisions } = self.revisions;
        let pods = || self.slots.values().flatten().chain(self.condemned.values());
        let count = |test: &dyn Fn(&Pod) -> bool| {
            i32::try_from(pods().filter(|pod| test(pod)).count()).unwrap_or(i32::MAX)
        };
        let of =
            |revision: &str| count(&|pod| !status::is_deleting(pod) && identity::revision(pod) == revision);
        let all = count(&|_| true);
        let available = count(&|pod| is_running(pod) && self.is_available(pod));
        let updated = of(update);
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref())
            != Some("OnDelete");
        // Every pod is of the new revision and serves: it is the current one from now on.
        let complete = rolling && updated == all && available == all;
        let current = if complete { update } else { current };
        StatefulSetStatus {
            replicas: all,
            ready_replicas: Some(count(&|pod| is_running(pod))),
            available_replicas: Some(available),
            current_replicas: Some(of(current)),
            updated_replicas: Some(updated),
            current_revision: Some(current.clone()),
            update_revision: Some(update.clone()),
            collision_count: Some(*collisions),
            observed_generation: self.set.metadata.generation,
            conditions: self.set.status.as_ref().and_then(|status| status.conditions.clone()),
        }
    }

    fn wake(&self) -> Option<Timestamp> {
        let wait = self.set.spec.min_ready_seconds.unwrap_or(0);
        let times = self.slots.values().flatten().filter_map(|pod| status::available_at(pod, wait));
        times.filter(|at| *at > self.now).min()
    }
}

fn is_running(pod: &Pod) -> bool {
    status::phase(pod) == "Running" && status::is_ready(pod)
}

/// Whether a status says something new. Zero and absent are the same.
pub(crate) fn differs(old: Option<&StatefulSetStatus>, new: &StatefulSetStatus) -> bool {
    let numbers = |status: &StatefulSetStatus| {
        let parts = [
            status.ready_replicas,
            status.available_replicas,
            status.current_replicas,
            status.updated_replicas,
            status.collision_count,
        ];
        (status.replicas, parts.map(|part| part.unwrap_or(0)))
    };
    old.is_none_or(|old| {
        numbers(old) != numbers(new)
            || old.observed_generation != new.observed_generation
            || old.current_revision != new.current_revision
            || old.update_revision != new.update_revision
    })
}
