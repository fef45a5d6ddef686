//! How fast nodes may be emptied: the more of a zone is in trouble, the less likely the nodes are to blame. Pure.
//!
//! Upstream counts the nodes that are not ready. That is too late for pods that tolerate little: of nodes that fell silent at
//! once the first is known to be lost up to a renewal before the last, and the first one that returns lets the zone look
//! healthy before the last one is heard. So who has missed renewals counts too, and after a halt each has its grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::plan::is_ready;
use super::policy::{Policy, interval};

/// A kubelet renews its Lease this often.
const RENEWAL: Duration = Duration::from_secs(10);
/// Who is silent for this long has missed renewals.
pub const MISSED: Duration = Duration::from_secs(20);

/// What may happen in a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Nodes are emptied one after the other.
    Normal,
    /// Slowly.
    Slow,
    /// No further node is emptied.
    Halted,
    /// No node of the whole cluster is ready: what was begun is taken back.
    Lifted,
}

impl Mode {
    fn empties(self) -> bool {
        matches!(self, Mode::Normal | Mode::Slow)
    }
}

/// The zones of all nodes.
#[derive(Debug, Default)]
pub struct Zones {
    policy: Policy,
    nodes: BTreeMap<String, (String, bool)>,
    modes: BTreeMap<String, Mode>,
    /// When the next node of a zone may be emptied.
    next: BTreeMap<String, Instant>,
}

/// The zone of a node: region and zone, by its labels.
fn zone(node: &Node) -> String {
    let label = |name: &str| {
        node.metadata.labels.as_ref().and_then(|labels| labels.get(name)).map_or("", String::as_str)
    };
    format!("{}/{}", label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
}

impl Zones {
    /// No zones yet.
    pub fn new(policy: Policy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// Takes in the state of a node; says whether any zone's mode has changed. Where a node that is back ends a halt, the
    /// others may be on their way.
    pub fn see(&mut self, name: &str, node: Option<&Node>, now: Instant) -> bool {
        let before = match node {
            Some(node) => self.nodes.insert(name.to_owned(), (zone(node), is_ready(node))),
            None => self.nodes.remove(name),
        };
        if before.as_ref() == self.nodes.get(name) {
            return false;
        }
        let modes = self.judge(&BTreeSet::new());
        let changed = modes != self.modes;
        self.next.retain(|zone, _| modes.contains_key(zone));
        if before.is_some_and(|(_, ready)| !ready) && node.is_some_and(is_ready) {
            let halted = |zone: &String| self.modes.get(zone).is_some_and(|mode| !mode.empties());
            let resumed = modes.iter().filter(|(zone, mode)| mode.empties() && halted(zone));
            self.next.extend(resumed.map(|(zone, _)| (zone.clone(), now + self.policy.grace)));
        }
        self.modes = modes;
        changed
    }

    fn judge(&self, silent: &BTreeSet<String>) -> BTreeMap<String, Mode> {
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (name, (zone, ready)) in &self.nodes {
            let (all, failed) = counts.entry(zone).or_default();
            *all += 1;
            *failed += usize::from(!ready || silent.contains(name));
        }
        let lifted = counts.values().all(|(all, failed)| all == failed);
        let mode = |(all, failed): (usize, usize)| match () {
            () if lifted => Mode::Lifted,
            // All of one zone, while others live: its nodes are as gone as a single one would be.
            () if all == failed => Mode::Normal,
            () if failed > 2 && failed as f64 >= all as f64 * self.policy.unhealthy_zone => {
                if all > self.policy.large_zone { Mode::Slow } else { Mode::Halted }
            }
            () => Mode::Normal,
        };
        counts.into_iter().map(|(zone, count)| (zone.to_owned(), mode(count))).collect()
    }

    /// What may happen to a node.
    pub fn mode(&self, name: &str) -> Mode {
        let zone = self.nodes.get(name).map(|(zone, _)| zone.as_str()).unwrap_or_default();
        self.modes.get(zone).copied().unwrap_or(Mode::Normal)
    }

    /// Asks to begin to empty a node now, when those of `silent` have missed renewals. If not, says how long to wait, or
    /// `None` to wait for another mode.
    pub fn take(
        &mut self,
        name: &str,
        silent: &BTreeSet<String>,
        now: Instant,
    ) -> Result<(), Option<Duration>> {
        let zone = self.nodes.get(name).map(|(zone, _)| zone.clone()).unwrap_or_default();
        let mode = self.judge(silent).get(&zone).copied().unwrap_or(Mode::Normal);
        let interval = match mode {
            Mode::Normal => interval(self.policy.eviction_rate),
            Mode::Slow => interval(self.policy.secondary_eviction_rate),
            // A mode that only silence makes is none that anybody is told of.
            Mode::Halted | Mode::Lifted => return Err((mode != self.mode(name)).then_some(RENEWAL)),
        };
        let interval = interval.ok_or(None)?;
        match self.next.get(&zone) {
            Some(next) if *next > now => Err(Some(*next - now)),
            _ => {
                self.next.insert(zone, now + interval);
                Ok(())
            }
        }
    }
}
