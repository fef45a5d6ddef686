//! How patient the controller is, and how fast: what upstream's flags of the same names say.

use std::time::Duration;

/// The policy; upstream's by default.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// How long a node may be silent (`--node-monitor-grace-period`).
    pub grace: Duration,
    /// How long a node may be silent that has never said that it is ready (`--node-startup-grace-period`).
    pub startup_grace: Duration,
    /// Nodes of a zone that are emptied in a second (`--node-eviction-rate`).
    pub eviction_rate: f64,
    /// The same while a large zone is in trouble (`--secondary-node-eviction-rate`).
    pub secondary_eviction_rate: f64,
    /// Above this many nodes a zone is large (`--large-cluster-size-threshold`).
    pub large_zone: usize,
    /// The part of a zone's nodes that is not ready from which it is in trouble (`--unhealthy-zone-threshold`).
    pub unhealthy_zone: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(50),
            startup_grace: Duration::from_secs(60),
            eviction_rate: 0.1,
            secondary_eviction_rate: 0.01,
            large_zone: 50,
            unhealthy_zone: 0.55,
        }
    }
}

/// The time between two nodes at a rate; `None` if there is never a next one.
pub fn interval(rate: f64) -> Option<Duration> {
    if rate > 0.0 { Duration::try_from_secs_f64(rate.recip()).ok() } else { None }
}
