//! The scheduler's state, and what follows from what it sees: pure, but for the numbers that break ties. It says what to do;
//! [`crate::run`] does it and tells how that went.
//!
//! A pod is assumed to be on its node from the decision on, so that the next decision knows of it. A view of the pod
//! that does not show the assignment yet is older than our own write and changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use pod_rules::labels::Labels;
use pod_rules::status;
use tokio::time::Instant;

use crate::columns::{Columns, Placement};
use crate::decide::{Decision, Refusal, decide_with};
use crate::demand::{Demand, Usage};
use crate::filter::{Help, first_reject, help};
use crate::neighbours::Neighbours;
use crate::preempt::{self, Attempt, Budget, Budgets, Victim};
use crate::queue::Queue;

/// The name by which pods ask for this scheduler.
pub const NAME: &str = "default-scheduler";

/// What to do next.
#[derive(Clone, Debug)]
pub enum Action {
    /// Bind the pod, then tell [`Scheduler::bound`] or [`Scheduler::bind_failed`].
    Bind {
        /// The pod.
        key: ObjectKey,
        /// As it was when this was decided.
        demand: Arc<Demand>,
        /// Name of the node.
        node: String,
    },
    /// Say that the pod was refused.
    Report(Report),
    /// The same, and that others make room for it: when the pod's status says so, they are deleted. The outcome of both
    /// goes to [`Scheduler::reported`].
    Preempt {
        /// What to say and write.
        report: Report,
        /// Who goes.
        victims: Vec<Victim>,
        /// Name of the node.
        node: String,
    },
}

/// That a pod has no node, and why.
#[derive(Clone, Debug)]
pub struct Report {
    /// The pod.
    pub key: ObjectKey,
    /// As it was when this was decided.
    pub demand: Arc<Demand>,
    /// Reason of the condition.
    pub reason: &'static str,
    /// Message of the event and the condition.
    pub message: String,
    /// The condition to write, unless it is there already. The outcome goes to [`Scheduler::reported`].
    pub write: Option<Write>,
}

/// A condition is only written over the state of the pod that it was decided on.
#[derive(Clone, Debug)]
pub struct Write {
    /// The resourceVersion that must still be there.
    pub version: Option<String>,
    /// The condition as it is now.
    pub before: Option<PodCondition>,
    /// The node that is promised to the pod from now on, or none (empty); `None` leaves it as it is.
    pub nominated: Option<String>,
}

/// How the writing of a condition went.
#[derive(Clone, Debug)]
pub enum Reported {
    /// It is there, with this resourceVersion of the pod.
    Written(PodCondition, Option<String>),
    /// It was there already.
    Known,
    /// It was not written, or who should make room was not told: look again.
    Failed,
}

/// What was last written about a pod that waits.
#[derive(Debug)]
struct Written {
    uid: String,
    version: Option<String>,
    condition: PodCondition,
}

/// Nodes, pods on them, and pods that wait.
#[derive(Debug, Default)]
pub struct Scheduler {
    columns: Columns,
    queue: Queue,
    /// Slots whose node may take more than when pods last had their chance, and the node as it was then, if it changed.
    improved: BTreeMap<usize, Option<Arc<Node>>>,
    /// Whether there was no node then.
    deserted: bool,
    /// Whether pods came to nodes, left them or look different since then: who depends on others looks again.
    others_moved: bool,
    written: BTreeMap<ObjectKey, Written>,
    /// Pods that wait for others to make room, and where.
    nominated: BTreeMap<ObjectKey, (String, Arc<Demand>)>,
    budgets: Budgets,
}

impl Scheduler {
    /// The nodes.
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The pods that wait.
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// A node came, changed or went.
    pub fn node_changed(&mut self, name: &str, node: Option<Arc<Node>>) {
        match node {
            Some(node) => {
                self.deserted |= self.columns.present() == 0;
                if let Some((slot, before)) = self.columns.set_node(name, node) {
                    let known = self.improved.entry(slot).or_default();
                    *known = known.take().or(before);
                }
            }
            None => self.columns.remove_node(name),
        }
    }

    /// A pod came, changed or went.
    pub fn pod_changed(&mut self, key: &ObjectKey, pod: Option<Arc<Pod>>, now: Instant) {
        let Some(pod) = pod.filter(|pod| !status::is_terminal(pod)) else {
            self.leave_node(key);
            self.leave_queue(key);
            return;
        };
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        let node = status::node_name(&pod);
        if !node.is_empty() {
            self.leave_queue(key);
            let left = self.columns.place(key, uid, node, Usage::of(&pod), false);
            self.others_moved = true;
            self.has_room(left);
            return;
        }
        match self.columns.placement(key) {
            Some(Placement { uid: known, assumed: true }) if known == uid => return,
            Some(_) => self.leave_node(key),
            None => {}
        }
        if is_ours(&pod) {
            let demand = Arc::new(Demand::of(pod));
            match demand.nominated() {
                Some(node) => drop(self.nominated.insert(key.clone(), (node.to_owned(), demand.clone()))),
                None => drop(self.nominated.remove(key)),
            }
            self.queue.offer(key.clone(), demand, now);
        } else {
            self.leave_queue(key);
        }
    }

    fn leave_node(&mut self, key: &ObjectKey) {
        let left = self.columns.remove_pod(key);
        self.has_room(left);
    }

    fn has_room(&mut self, slot: Option<usize>) {
        if let Some(slot) = slot {
            self.improved.entry(slot).or_default();
        }
    }

    fn leave_queue(&mut self, key: &ObjectKey) {
        self.queue.remove(key);
        self.written.remove(key);
        if let Some((node, _)) = self.nominated.remove(key) {
            // What was kept free for it is anybody's now.
            let slot = self.columns.slot(&node);
            self.has_room(slot);
        }
    }

    /// A disruption budget came, changed or went.
    pub fn budget_changed(&mut self, key: &ObjectKey, budget: Option<Budget>) {
        match budget {
            Some(budget) => drop(self.budgets.insert(key.clone(), budget)),
            None => drop(self.budgets.remove(key)),
        }
    }

    /// A namespace came, changed or went.
    pub fn namespace_changed(&mut self, name: &str, labels: Option<Labels>) {
        self.others_moved |= self.columns.crowd_mut().set_namespace(name, labels);
    }

    /// Pods that what was seen since the last time helps, or whose time has come, become active.
    pub fn wake(&mut self, now: Instant) {
        let improved = std::mem::take(&mut self.improved);
        let least = if std::mem::take(&mut self.deserted) { Help::News } else { Help::None };
        let moved = std::mem::take(&mut self.others_moved) || !improved.is_empty();
        if moved {
            let columns = &self.columns;
            self.queue.wake(now, |demand| {
                if demand.is_relational() {
                    return Help::Room;
                }
                let helps =
                    improved.iter().map(|(slot, before)| help(columns, *slot, before.as_deref(), demand));
                helps.fold(least, Help::max)
            });
        }
        self.queue.promote(now);
    }

    /// The next pod: an active one, or one that still backs off while there is room for it and nobody else wants it.
    fn take(&mut self, now: Instant) -> Option<(ObjectKey, Arc<Demand>)> {
        if let Some(taken) = self.queue.take(now) {
            return Some(taken);
        }
        let columns = &mut self.columns;
        let fits = |demand: &Demand| {
            columns.learn(demand);
            let around = Neighbours::of(columns, demand);
            let fits = |slot| first_reject(columns, slot, demand, &around).is_none();
            (0..columns.slots()).any(|slot| columns.node(slot).is_some() && fits(slot))
        };
        self.queue.take_early(now, fits)
    }

    /// When [`Scheduler::wake`] has something to do although nothing happened.
    pub fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    /// Decides about the next pod. `pick` chooses one of so many.
    pub fn next(&mut self, now: Instant, pick: impl FnOnce(usize) -> usize) -> Option<Action> {
        let (key, demand) = self.take(now)?;
        let promised = self.nominated.get(&key).and_then(|(node, _)| self.columns.slot(node));
        let reserved = self.reserve(&key, &demand);
        self.columns.learn(&demand);
        let decision = decide_with(&self.columns, &demand, promised);
        let refused = match decision {
            Decision::Assign(best) => Err(best),
            Decision::Refuse(refusal) => {
                let columns = &mut self.columns;
                let attempt = preempt::attempt(columns, &demand, &refusal, &self.budgets, promised);
                Ok((refusal, attempt))
            }
        };
        for key in &reserved {
            self.columns.remove_pod(key);
        }
        match refused {
            Err(best) => {
                let node = self.columns.name(best[pick(best.len()).min(best.len() - 1)]).to_owned();
                let left = self.columns.place(&key, demand.uid(), &node, demand.usage.clone(), true);
                self.nominated.remove(&key);
                self.others_moved = true;
                self.has_room(left);
                Some(Action::Bind { key, demand, node })
            }
            Ok((refusal, attempt)) => Some(self.refuse(key, demand, &refusal, attempt, now)),
        }
    }

    /// What pods of at least the same priority wait for is theirs: they are put where they wait as if they were there.
    fn reserve(&mut self, key: &ObjectKey, demand: &Demand) -> Vec<ObjectKey> {
        let mut reserved = Vec::new();
        for (other, (node, waiting)) in &self.nominated {
            let counts = other != key
                && waiting.usage.priority >= demand.usage.priority
                && self.columns.placement(other).is_none();
            if counts {
                self.columns.place(other, waiting.uid(), node, waiting.usage.clone(), true);
                reserved.push(other.clone());
            }
        }
        reserved
    }

    fn refuse(
        &mut self,
        key: ObjectKey,
        demand: Arc<Demand>,
        refusal: &Refusal,
        attempt: Attempt,
        now: Instant,
    ) -> Action {
        let message = refusal.message(&demand, &attempt);
        let mut report = self.report(key, demand, "Unschedulable", message);
        match attempt {
            Attempt::Victims(slot, victims) => {
                let node = self.columns.name(slot).to_owned();
                self.nominated.insert(report.key.clone(), (node.clone(), report.demand.clone()));
                self.nominate(&mut report, &node);
                return Action::Preempt { report, victims, node };
            }
            // It waits for those that were told to go.
            Attempt::NotEligible(_) if self.nominated.contains_key(&report.key) => {}
            Attempt::NotEligible(_) | Attempt::Hopeless(_) => {
                self.nominated.remove(&report.key);
                self.nominate(&mut report, "");
            }
        }
        if report.write.is_none() {
            self.queue.refused(&report.key, now);
        }
        Action::Report(report)
    }

    /// Adds to a report that a node is promised to the pod, unless its status says so already.
    fn nominate(&self, report: &mut Report, node: &str) {
        if report.demand.nominated().unwrap_or("") == node {
            return;
        }
        let (version, before) = self.known(&report.key, &report.demand);
        let write = report.write.get_or_insert(Write { version, before, nominated: None });
        write.nominated = Some(node.to_owned());
    }

    /// The newest that is known of a pod's condition, and the resourceVersion that has it.
    fn known(&self, key: &ObjectKey, demand: &Demand) -> (Option<String>, Option<PodCondition>) {
        let number =
            |version: &Option<String>| version.as_deref().and_then(|version| version.parse::<u64>().ok());
        let seen = &demand.pod.metadata.resource_version;
        let newer = self
            .written
            .get(key)
            .filter(|written| written.uid == demand.uid() && number(&written.version) > number(seen));
        match newer {
            Some(written) => (written.version.clone(), Some(written.condition.clone())),
            None => (seen.clone(), status::condition(&demand.pod, "PodScheduled").cloned()),
        }
    }

    fn report(&self, key: ObjectKey, demand: Arc<Demand>, reason: &'static str, message: String) -> Report {
        let (version, before) = self.known(&key, &demand);
        let same = before.as_ref().is_some_and(|before| {
            before.status == "False"
                && before.reason.as_deref() == Some(reason)
                && before.message.as_deref() == Some(&message)
        });
        let write = (!same).then_some(Write { version, before, nominated: None });
        Report { key, demand, reason, message, write }
    }

    /// The API bound the pod: its view will show that.
    pub fn bound(&mut self, key: &ObjectKey, uid: &str) {
        if self.queue.demand(key).is_some_and(|demand| demand.uid() == uid) {
            self.leave_queue(key);
        }
    }

    /// The API did not bind the pod, or did not say so. It is forgotten where it was assumed to be, and tried again later. With
    /// `why` there is something to report.
    pub fn bind_failed(
        &mut self,
        key: &ObjectKey,
        uid: &str,
        why: Option<String>,
        now: Instant,
    ) -> Option<Report> {
        if self.columns.placement(key) == Some(Placement { uid, assumed: true }) {
            self.leave_node(key);
        }
        let demand = self.queue.demand(key).filter(|demand| demand.uid() == uid)?.clone();
        let report = why.map(|why| self.report(key.clone(), demand, "SchedulerError", why));
        if report.as_ref().is_none_or(|report| report.write.is_none()) {
            self.queue.failed(key, now);
        }
        report
    }

    /// A condition was written, or not. A refused pod then waits for what helps it; all else is tried again.
    pub fn reported(&mut self, report: &Report, outcome: Reported, now: Instant) {
        let key = &report.key;
        let uid = report.demand.uid();
        if self.queue.demand(key).is_none_or(|demand| demand.uid() != uid) {
            return;
        }
        match outcome {
            Reported::Written(condition, version) => {
                self.written.insert(key.clone(), Written { uid: uid.to_owned(), version, condition });
                if report.reason == "Unschedulable" {
                    self.queue.refused(key, now);
                } else {
                    self.queue.failed(key, now);
                }
            }
            Reported::Known => self.queue.refused(key, now),
            Reported::Failed => self.queue.failed(key, now),
        }
    }
}

/// Whether an unassigned pod waits for this scheduler.
fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or("");
    let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
    matches!(scheduler, "" | NAME) && !gated && !status::is_deleting(pod)
}
