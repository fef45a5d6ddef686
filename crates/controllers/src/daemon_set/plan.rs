//! What a DaemonSet needs next: nodes that get a pod, pods that go, and what its status is. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod_rules::status;

use super::pod::{self, Demand, Standing};

/// Most pods that one pass makes, and most that it deletes.
const BURST: usize = 250;

/// What one pass does.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// Names of the nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that ended, among those that are deleted: their owner is told.
    pub ended: Vec<Arc<Pod>>,
}

/// The new and the old pod of one node.
type Generations<'a> = (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>);

/// A set, its nodes and their pods.
pub(crate) struct World<'a> {
    set: &'a DaemonSet,
    /// Every node, and how it stands.
    nodes: BTreeMap<&'a str, Standing>,
    /// The pods by the name of their node, the oldest first.
    pods: BTreeMap<&'a str, Vec<&'a Arc<Pod>>>,
    /// Hash of the template.
    hash: &'a str,
    now: Timestamp,
}

impl<'a> World<'a> {
    pub(crate) fn new(
        set: &'a DaemonSet,
        nodes: &'a [Arc<Node>],
        pods: &'a [Arc<Pod>],
        hash: &'a str,
        now: Timestamp,
    ) -> Self {
        let demand = Demand::of(set);
        let named =
            |node: &'a Arc<Node>| (node.metadata.name.as_deref().unwrap_or_default(), demand.standing(node));
        let nodes = nodes.iter().map(named).collect();
        let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
        for one in pods {
            by_node.entry(pod::node_of(one)).or_default().push(one);
        }
        for pods in by_node.values_mut() {
            pods.sort_by_key(|pod| {
                let meta = &pod.metadata;
                let created = meta.creation_timestamp.as_ref().map(|time| time.0);
                (status::node_name(pod).is_empty(), created, meta.name.clone())
            });
        }
        Self { set, nodes, pods: by_node, hash, now }
    }

    /// First every node gets what it is to have; when all have it, pods of older templates are replaced. `resting` are
    /// the nodes whose last pod failed a moment ago.
    pub(crate) fn plan(&self, resting: impl Fn(&str) -> bool) -> Plan {
        if self.set.metadata.deletion_timestamp.is_some() {
            return Plan::default();
        }
        let mut plan = self.manage(resting);
        if plan.create.is_empty() && plan.delete.is_empty() && self.is_rolling() {
            plan = if self.surge() > 0 { self.update_with_surge() } else { self.update() };
        }
        plan.create.truncate(BURST);
        plan.delete.truncate(BURST);
        plan
    }

    fn pods_on(&self, node: &str) -> &[&'a Arc<Pod>] {
        self.pods.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    fn manage(&self, resting: impl Fn(&str) -> bool) -> Plan {
        let mut plan = Plan::default();
        for (node, standing) in &self.nodes {
            let pods = self.pods_on(node);
            match standing {
                Standing::Wanted if pods.is_empty() => plan.create.push((*node).to_owned()),
                Standing::Wanted | Standing::Tolerated => {
                    for pod in pods.iter().filter(|pod| status::is_terminal(pod) && !status::is_deleting(pod))
                    {
                        if status::phase(pod) == "Failed" && resting(node) {
                            continue;
                        }
                        plan.ended.push((*pod).clone());
                        plan.delete.push((*pod).clone());
                    }
                    plan.delete.extend(self.surplus(pods).into_iter().cloned());
                }
                Standing::Unwanted => {
                    plan.delete.extend(pods.iter().filter(|pod| !status::is_deleting(pod)).copied().cloned());
                }
            }
        }
        // Those on a node that is gone are the garbage collector's; those that wait for it have nobody else.
        let homeless = self.pods.iter().filter(|(node, _)| !self.nodes.contains_key(*node));
        let waiting = homeless
            .flat_map(|(_, pods)| pods)
            .filter(|pod| status::node_name(pod).is_empty() && !status::is_deleting(pod));
        plan.delete.extend(waiting.copied().cloned());
        plan
    }

    /// The pods of a node that are too many. While the set surges, a node may have an old pod beside a new one until the
    /// new one is available.
    fn surplus(&self, pods: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
        let running: Vec<_> = pods.iter().copied().filter(|pod| status::is_active(pod)).collect();
        if !self.is_rolling() || self.surge() == 0 || running.len() < 2 {
            return running.into_iter().skip(1).collect();
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| self.is_new(pod));
        let replaced = match (new.first(), old.first()) {
            (Some(new), Some(old)) => !status::is_ready(old) || self.is_available(new),
            _ => false,
        };
        let old_stay = usize::from(!replaced);
        new.into_iter().skip(1).chain(old.into_iter().skip(old_stay)).collect()
    }

    /// Deletes old pods, as many as may be missing; those that do not serve are missing already.
    fn update(&self) -> Plan {
        let most = self.unavailable();
        let (mut missing, mut idle, mut serving) = (0, Vec::new(), Vec::new());
        for (_, pods) in self.homes() {
            match self.generations(pods) {
                Some((Some(new), None)) => missing += usize::from(!self.is_available(new)),
                Some((None, Some(old))) if self.is_available(old) => serving.push(old.clone()),
                Some((None, Some(old))) => idle.push(old.clone()),
                // On its way.
                _ => missing += 1,
            }
        }
        serving.truncate(most.saturating_sub(missing));
        idle.extend(serving);
        Plan { delete: idle, ..Plan::default() }
    }

    /// Makes new pods beside old ones, as many as may be too many; an old one goes when the new one is available.
    fn update_with_surge(&self) -> Plan {
        let most = self.surge();
        let (mut plan, mut extra, mut serving) = (Plan::default(), 0, Vec::new());
        for (node, pods) in self.homes() {
            match self.generations(pods) {
                Some((_, None)) => {}
                Some((Some(new), Some(old))) if self.is_available(new) => plan.delete.push(old.clone()),
                Some((None, Some(_))) if self.nodes.get(node) != Some(&Standing::Wanted) => {}
                Some((None, Some(old))) if self.is_available(old) => serving.push(node.to_owned()),
                Some((None, Some(_))) => plan.create.push(node.to_owned()),
                Some((Some(_), Some(_))) | None => extra += 1,
            }
        }
        serving.truncate(most.saturating_sub(extra));
        plan.create.extend(serving);
        plan
    }

    /// Pods by the nodes that are there.
    fn homes(&self) -> impl Iterator<Item = (&'a str, &[&'a Arc<Pod>])> {
        let there = self.pods.iter().filter(|(node, _)| self.nodes.contains_key(*node));
        there.map(|(node, pods)| (*node, pods.as_slice()))
    }

    /// The new and the old pod of a node; `None` if it has several of either, which the next pass mends.
    fn generations(&self, pods: &[&'a Arc<Pod>]) -> Option<Generations<'a>> {
        let staying = pods.iter().copied().filter(|pod| !status::is_deleting(pod));
        let (new, old): (Vec<_>, Vec<_>) = staying.partition(|pod| self.is_new(pod));
        (new.len() < 2 && old.len() < 2).then(|| (new.first().copied(), old.first().copied()))
    }

    fn is_new(&self, pod: &Pod) -> bool {
        pod::hash(pod) == self.hash
    }

    fn is_available(&self, pod: &Pod) -> bool {
        status::is_available(pod, self.set.spec.min_ready_seconds.unwrap_or(0), self.now)
    }

    fn is_rolling(&self) -> bool {
        let strategy = self.set.spec.update_strategy.as_ref();
        strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
    }

    fn wanted(&self) -> usize {
        self.nodes.values().filter(|standing| **standing == Standing::Wanted).count()
    }

    /// A number, or a percentage of the wanted pods, rounded up.
    fn share(&self, value: Option<&IntOrString>, otherwise: usize) -> usize {
        match value {
            None => otherwise,
            Some(IntOrString::Int(number)) => usize::try_from(*number).unwrap_or(0),
            Some(IntOrString::String(text)) => {
                let percent = text.strip_suffix('%').and_then(|number| number.parse::<usize>().ok());
                percent.unwrap_or(0).saturating_mul(self.wanted()).div_ceil(100)
            }
        }
    }

    fn surge(&self) -> usize {
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
        self.share(rolling.and_then(|rolling| rolling.max_surge.as_ref()), 0)
    }

    /// At least one where nothing may surge: otherwise nothing could move.
    fn unavailable(&self) -> usize {
        let rolling = self.set.spec.update_strategy.as_ref().and_then(|it| it.rolling_update.as_ref());
        self.share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()), 1).max(1)
    }

    /// What the set's status is; of several pods on a node the oldest counts.
    pub(crate) fn status(&self, collisions: i32) -> DaemonSetStatus {
        let [mut wanted, mut scheduled, mut misplaced, mut ready, mut available, mut updated] = [0; 6];
        for (node, standing) in &self.nodes {
            let first = self.pods_on(node).first();
            if *standing != Standing::Wanted {
                misplaced += i32::from(first.is_some());
                continue;
            }
            wanted += 1;
            let Some(pod) = first else { continue };
            scheduled += 1;
            ready += i32::from(status::is_ready(pod));
            available += i32::from(status::is_ready(pod) && self.is_available(pod));
            updated += i32::from(self.is_new(pod));
        }
        let told = self.set.status.as_ref();
        DaemonSetStatus {
            collision_count: Some(collisions).filter(|count| *count > 0),
            conditions: told.and_then(|told| told.conditions.clone()),
            current_number_scheduled: scheduled,
            desired_number_scheduled: wanted,
            number_available: Some(available).filter(|count| *count > 0),
            number_misscheduled: misplaced,
            number_ready: ready,
            number_unavailable: Some(wanted - available).filter(|count| *count > 0),
            observed_generation: self.set.metadata.generation,
            updated_number_scheduled: Some(updated).filter(|count| *count > 0),
        }
    }

    /// When the next pod that is ready becomes available.
    pub(crate) fn wake(&self) -> Option<Timestamp> {
        let wait = self.set.spec.min_ready_seconds.unwrap_or(0);
        let times = self.pods.values().flatten().filter_map(|pod| status::available_at(pod, wait));
        times.filter(|at| *at > self.now).min()
    }
}
