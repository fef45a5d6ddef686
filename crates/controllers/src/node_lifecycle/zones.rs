//! How fast nodes may be emptied: the more of a zone is in trouble, the less likely the nodes are to blame. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use tokio::time::Instant;

use super::plan::is_ready;
use super::policy::{Policy, interval};

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

    /// Takes in the state of a node; says whether any zone's mode has changed.
    pub fn see(&mut self, name: &str, node: Option<&Node>) -> bool {
        let before = match node {
            Some(node) => self.nodes.insert(name.to_owned(), (zone(node), is_ready(node))),
            None => self.nodes.remove(name),
        };
        if before.as_ref() == self.nodes.get(name) {
            return false;
        }
        let modes = self.judge();
        let changed = modes != self.modes;
        self.next.retain(|zone, _| modes.contains_key(zone));
        self.modes = modes;
        changed
    }

    fn judge(&self) -> BTreeMap<String, Mode> {
        let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for (zone, ready) in self.nodes.values() {
            let (all, failed) = counts.entry(zone).or_default();
            *all += 1;
            *failed += usize::from(!ready);
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

    /// Asks to begin to empty a node now. If not, says how long to wait, or `None` to wait for another mode.
    pub fn take(&mut self, name: &str, now: Instant) -> Result<(), Option<Duration>> {
        let interval = match self.mode(name) {
            Mode::Normal => interval(self.policy.eviction_rate),
            Mode::Slow => interval(self.policy.secondary_eviction_rate),
            Mode::Halted | Mode::Lifted => None,
        };
        let interval = interval.ok_or(None)?;
        let zone = self.nodes.get(name).map(|(zone, _)| zone.clone()).unwrap_or_default();
        match self.next.get(&zone) {
            Some(next) if *next > now => Err(Some(*next - now)),
            _ => {
                self.next.insert(zone, now + interval);
                Ok(())
            }
        }
    }
}
