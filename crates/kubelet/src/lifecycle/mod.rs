//! What to do about a pod, and what to say about it: pure functions of its spec, what the runtime has, what the
//! worker remembers, and the time. Nothing here waits, calls or reads a clock.

mod backoff;
mod decide;
mod spec;
mod status;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

pub use backoff::{Backoff, CRASH_INITIAL, CRASH_LIMIT};
pub use decide::decide;
pub use spec::{find_container, full_name, grace_period, is_host_network, is_sidecar, uid};
pub use status::pod_status;

/// A sandbox as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Whether its pause process runs.
    pub ready: bool,
    /// How many there were before it.
    pub attempt: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its addresses, the first one being the pod's.
    pub ips: Vec<String>,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Made but not started.
    Created,
    /// Started and not ended.
    Running,
    /// Ended.
    Exited,
    /// The runtime lost it.
    Unknown,
}

/// A container as the runtime has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// The runtime's id.
    pub id: String,
    /// Name in the pod's spec.
    pub name: String,
    /// The sandbox that it belongs to.
    pub sandbox: String,
    /// Where it is in its life.
    pub state: State,
    /// How many there were before it.
    pub restart_count: u32,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// The runtime's word for how it ended.
    pub reason: String,
    /// The termination message, else the runtime's words.
    pub message: String,
    /// Image name.
    pub image: String,
    /// Image digest.
    pub image_id: String,
    /// What its spec was, in short; empty when unknown.
    pub hash: String,
    /// Its log file.
    pub log_path: String,
}

/// What the runtime has of one pod; the newest first in both lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuntimePod {
    /// Sandboxes.
    pub sandboxes: Vec<Sandbox>,
    /// Containers.
    pub containers: Vec<Container>,
}

impl RuntimePod {
    /// Puts both lists in order.
    pub fn sort(&mut self) {
        self.sandboxes
            .sort_by(|a, b| (b.attempt, b.created_at, &b.id).cmp(&(a.attempt, a.created_at, &a.id)));
        let age =
            |container: &Container| (container.restart_count, container.created_at, container.id.clone());
        self.containers.sort_by_key(|container| std::cmp::Reverse(age(container)));
    }

    /// The newest container with this name.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().find(|container| container.name == name)
    }

    /// All containers with this name, newest first.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Container> + 'a {
        self.containers.iter().filter(move |container| container.name == name)
    }

    /// The sandbox that containers can be started in.
    #[must_use]
    pub fn active(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }
}

/// Why a container does not run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// CamelCase, one of upstream's.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// What probes say about one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probed {
    /// The container that this is about; results of its predecessors do not count.
    pub id: String,
    /// Its startup probe succeeded, or it has none.
    pub started: bool,
    /// Its readiness probe succeeds, or it has none.
    pub ready: bool,
    /// A liveness or startup probe gave up on it, and which.
    pub failed: Option<Probe>,
}

/// The kinds of probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Probe {
    /// Restarts when it fails.
    Liveness,
    /// Takes out of services while it fails.
    Readiness,
    /// Holds back the other two until it succeeds.
    Startup,
}

/// What a worker remembers about one container across decisions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerMemory {
    /// Why the last attempt to start it failed.
    pub waiting: Option<Waiting>,
    /// Not before this time is it tried again after such a failure.
    pub retry_at: Option<Timestamp>,
    /// Delay between restarts of one that ends.
    pub crash: Backoff,
    /// What probes say.
    pub probed: Option<Probed>,
}

/// Things that are under way, or were tried: at most one of each at a time.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Op {
    /// Preparing volumes.
    Volumes,
    /// Making or stopping a sandbox.
    Sandbox,
    /// Starting a container.
    Start(String),
    /// Ending a container.
    Kill(String),
    /// Removing what is no longer needed.
    Collect,
    /// Giving volumes and cgroups back.
    Teardown,
    /// Deleting the API object.
    Delete,
}

/// What a worker remembers about its pod across decisions.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// What is under way; for kills also until when the container may live.
    pub in_flight: BTreeMap<Op, Option<Timestamp>>,
    /// What failed, and not before when it is tried again.
    pub retry_at: BTreeMap<Op, Timestamp>,
    /// Sandboxes that were stopped: one that died by itself still holds its address and ports until then.
    pub stopped: BTreeSet<String>,
    /// The volumes are there.
    pub volumes_ready: bool,
    /// When the pod began to end.
    pub ending_since: Option<Timestamp>,
    /// Volumes and cgroups were given back.
    pub torn_down: bool,
    /// The API object is gone, or never was.
    pub deleted: bool,
    /// When the kubelet first saw the pod.
    pub started_at: Option<Timestamp>,
}

impl Memory {
    /// What is remembered of a container.
    #[must_use]
    pub fn container(&self, name: &str) -> ContainerMemory {
        self.containers.get(name).cloned().unwrap_or_default()
    }

    /// What probes say about exactly this container.
    #[must_use]
    pub fn probed(&self, container: &Container) -> Option<&Probed> {
        let probed = self.containers.get(&container.name)?.probed.as_ref()?;
        (probed.id == container.id).then_some(probed)
    }
}

/// Everything that a decision depends on.
#[derive(Debug, Clone, Copy)]
pub struct Inputs<'a> {
    /// The pod as last seen in the API.
    pub pod: &'a Pod,
    /// The API object vanished without a grace period.
    pub gone: bool,
    /// What the runtime has.
    pub runtime: &'a RuntimePod,
    /// What the worker remembers.
    pub memory: &'a Memory,
    /// What is the same for all pods of the node.
    pub node: &'a NodeFacts,
    /// The time.
    pub now: Timestamp,
}

/// What a pod's status says about its node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// The node's addresses, the first one being the main one.
    pub addresses: Vec<String>,
    /// The runtime's name, which container ids begin with.
    pub runtime_name: String,
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Make the pod's volumes, directories and cgroup.
    PrepareVolumes,
    /// Make a sandbox.
    CreateSandbox {
        /// How many there were before it.
        attempt: u32,
    },
    /// Stop these sandboxes and what runs in them.
    StopSandboxes {
        /// Ids.
        ids: Vec<String>,
    },
    /// Start a container.
    Start {
        /// Its name.
        name: String,
        /// How many there were before it.
        restart_count: u32,
        /// The sandbox to start it in.
        sandbox: String,
        /// What is to be remembered as its restart delay.
        crash: Backoff,
    },
    /// End a container.
    Kill {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
        /// Time for its hook and its own shutdown.
        grace: Duration,
        /// For the event.
        message: String,
    },
    /// Give up something under way.
    Cancel(Op),
    /// Remove dead containers and sandboxes.
    Collect {
        /// Container ids.
        containers: Vec<String>,
        /// Sandbox ids.
        sandboxes: Vec<String>,
    },
    /// Unmount volumes, remove cgroups.
    Teardown,
    /// Delete the API object.
    Delete,
    /// Nothing is left to be done, ever.
    Finish,
}

impl Action {
    /// What it is counted as while under way; `None` when it is done at once.
    #[must_use]
    pub fn op(&self) -> Option<Op> {
        Some(match self {
            Self::PrepareVolumes => Op::Volumes,
            Self::CreateSandbox { .. } | Self::StopSandboxes { .. } => Op::Sandbox,
            Self::Start { name, .. } => Op::Start(name.clone()),
            Self::Kill { name, .. } => Op::Kill(name.clone()),
            Self::Collect { .. } => Op::Collect,
            Self::Teardown => Op::Teardown,
            Self::Delete => Op::Delete,
            Self::Cancel(_) | Self::Finish => return None,
        })
    }
}

/// What to do now, and when to decide again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// In order, though none waits for another.
    pub actions: Vec<Action>,
    /// The next time that matters.
    pub wake: Option<Timestamp>,
}

impl Decision {
    fn wake_at(&mut self, time: Timestamp) {
        self.wake = Some(self.wake.map_or(time, |earlier| earlier.min(time)));
    }
}

/// Names of the containers that the runtime still counts as living.
fn living(runtime: &RuntimePod) -> BTreeSet<&str> {
    let living = runtime.containers.iter().filter(|container| container.state == State::Running);
    living.map(|container| container.name.as_str()).collect()
}
