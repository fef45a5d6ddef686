//! Beginning what was decided, and taking in how it ended. Each op is a task of its own; at most one of a kind runs.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use component::events::EventType;
use jiff::Timestamp;
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::Worker;
use super::report;
use crate::act;
use crate::lifecycle::{Action, Backoff, Op, RuntimePod, Waiting};

/// The first delay after something failed, doubled with each failure.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LAST: Duration = Duration::from_secs(60);
/// How soon a container is tried again that could not be configured or made.
const START_AGAIN: Duration = Duration::from_secs(10);
/// How long a pull that just failed shows as such before it shows as held back.
const PULL_FAILED: Duration = Duration::from_secs(3);

/// How something ended.
pub(super) enum Outcome {
    Volumes(Result<Option<Timestamp>, String>),
    Started(Backoff, Result<(), Waiting>),
    Stopped(Vec<String>, Result<(), String>),
    Plain(Result<(), String>),
}

pub(super) type Done = Result<(Id, Outcome), JoinError>;

/// What is under way.
#[derive(Default)]
pub(super) struct Ops {
    tasks: JoinSet<Outcome>,
    running: BTreeMap<Op, AbortHandle>,
    failures: BTreeMap<Op, u32>,
}

impl Ops {
    /// The next op to end; never, while there is none.
    pub async fn next(&mut self) -> Done {
        match self.tasks.join_next_with_id().await {
            Some(done) => done,
            None => std::future::pending().await,
        }
    }

    fn start(&mut self, op: Op, future: impl Future<Output = Outcome> + Send + 'static) {
        self.abort(&op);
        let handle = self.tasks.spawn(future);
        self.running.insert(op, handle);
    }

    fn abort(&mut self, op: &Op) {
        if let Some(handle) = self.running.remove(op) {
            handle.abort();
        }
    }

    /// Which op a task was, unless it was given up.
    fn ended(&mut self, id: Id) -> Option<Op> {
        let op = self.running.iter().find(|(_, handle)| handle.id() == id).map(|(op, _)| op.clone())?;
        self.running.remove(&op);
        Some(op)
    }

    /// What failed so far does not count any more.
    pub fn forgive(&mut self) {
        self.failures.clear();
    }

    fn failed(&mut self, op: &Op) -> Duration {
        let failures = self.failures.entry(op.clone()).or_default();
        *failures += 1;
        RETRY_FIRST.saturating_mul(1 << (*failures - 1).min(10)).min(RETRY_LAST)
    }
}

impl Worker {
    /// Begins one action. False when nothing is left to be done, ever.
    pub(super) fn begin(&mut self, action: Action, runtime: &Arc<RuntimePod>, now: Timestamp) -> bool {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        tracing::debug!(pod = crate::lifecycle::full_name(&pod), ?action, "begun");
        let Some(op) = action.op() else { return self.at_once(&action) };
        let sandbox_ips = runtime.active().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let ips = act::own_ips(&shared, &pod, &sandbox_ips);
        let mut limit = None;
        match action {
            Action::PrepareVolumes => self.prepare(ips),
            Action::CreateSandbox { attempt } => {
                if attempt > 0 {
                    let note = "Pod sandbox changed, it will be killed and re-created.";
                    shared.pod_event(&pod, EventType::Normal, "SandboxChanged", note);
                }
                self.plain(op.clone(), async move { act::create_sandbox(&shared, &pod, attempt).await });
            }
            Action::StopSandboxes { ids } => {
                self.ops.start(op.clone(), async move {
                    let result = act::stop_sandboxes(&shared, &ids).await;
                    Outcome::Stopped(ids, result)
                });
            }
            Action::Start { name, restart_count, sandbox, crash } => {
                let previous = runtime.newest(&name).map(|found| found.id.clone());
                let start = act::Start { name, sandbox, attempt: restart_count, pod_ips: ips, previous };
                let future = async move { Outcome::Started(crash, act::start(&shared, &pod, &start).await) };
                self.ops.start(op.clone(), future);
            }
            Action::Kill { name, id, grace, message } => {
                limit = Some(now + grace);
                let again = self.memory.in_flight.contains_key(&op);
                let kill = act::Kill { name, id, grace, message, again };
                let ip = ips.into_iter().next().unwrap_or_default();
                self.plain(op.clone(), async move { act::kill(&shared, &pod, &kill, &ip).await });
            }
            Action::Collect { containers, sandboxes } => {
                self.plain(op.clone(), async move { act::collect(&shared, &containers, &sandboxes).await });
            }
            Action::Teardown => self.plain(op.clone(), async move { act::teardown(&shared, &pod) }),
            Action::Delete => {
                // The last word about the pod is said before it goes.
                let last = self.report.pending(&pod);
                self.plain(op.clone(), async move {
                    report::write_last(&shared, &pod, last).await?;
                    act::delete(&shared, &pod).await
                });
            }
            Action::Cancel(_) | Action::Finish => {}
        }
        self.memory.in_flight.insert(op, limit);
        true
    }

    fn at_once(&mut self, action: &Action) -> bool {
        if let Action::Cancel(op) = action {
            self.ops.abort(op);
            self.memory.in_flight.remove(op);
            self.stale = true;
            self.signals.raise(super::Signal::Runtime);
        }
        !matches!(action, Action::Finish)
    }

    fn plain(&mut self, op: Op, future: impl Future<Output = Result<(), String>> + Send + 'static) {
        self.ops.start(op, async move { Outcome::Plain(future.await) });
    }

    fn prepare(&mut self, ips: Vec<String>) {
        let (shared, pod) = (self.shared.clone(), self.pod.clone());
        self.refresh_at = None;
        self.ops.start(Op::Volumes, async move { Outcome::Volumes(act::prepare(&shared, &pod, &ips).await) });
    }

    /// Brings volumes up to date when that is due; says when it will be.
    pub(super) fn refresh(&mut self, runtime: &Arc<RuntimePod>, now: Timestamp) -> Option<Timestamp> {
        let due = self.refresh_at?;
        if !self.memory.volumes_ready || self.memory.in_flight.contains_key(&Op::Volumes) {
            return None;
        }
        if due > now {
            return Some(due);
        }
        let sandbox_ips = runtime.active().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let ips = act::own_ips(&self.shared, &self.pod, &sandbox_ips);
        self.prepare(ips);
        self.memory.in_flight.insert(Op::Volumes, None);
        None
    }

    /// Takes in how an op ended.
    pub(super) fn complete(&mut self, done: Done) {
        let (id, outcome) = match done {
            Ok((id, outcome)) => (id, outcome),
            Err(error) => {
                let text = error.to_string();
                (error.id(), Outcome::Plain(Err(text)))
            }
        };
        let Some(op) = self.ops.ended(id) else { return };
        tracing::debug!(pod = crate::lifecycle::full_name(&self.pod), ?op, "ended");
        self.memory.in_flight.remove(&op);
        self.stale = true;
        let now = self.now();
        match (&op, outcome) {
            (_, Outcome::Volumes(Ok(refresh))) => {
                self.memory.volumes_ready = true;
                self.refresh_at = self.refresh_at.into_iter().chain(refresh).min();
                self.succeeded(&op);
            }
            (_, Outcome::Volumes(Err(error))) => {
                self.shared.pod_event(&self.pod, EventType::Warning, "FailedMount", error);
                let delay = self.ops.failed(&op);
                self.memory.retry_at.insert(op, now + delay);
                if self.memory.volumes_ready {
                    self.refresh_at = Some(now + delay);
                }
            }
            (Op::Start(name), Outcome::Started(crash, result)) => {
                self.memory.containers.entry(name.clone()).or_default().crash = crash;
                self.started(name, result, now);
            }
            (_, Outcome::Stopped(ids, result)) => {
                let all = result.is_ok();
                self.memory.stopped.extend(ids.into_iter().filter(|_| all));
                match result {
                    Ok(()) => self.succeeded(&op),
                    Err(error) => {
                        let note = format!("error killing pod: failed to \"KillPodSandbox\": {error}");
                        self.shared.pod_event(&self.pod, EventType::Warning, "FailedKillPod", note);
                        self.later(op, now);
                    }
                }
            }
            (_, Outcome::Plain(Ok(()))) => self.succeeded(&op),
            (_, Outcome::Plain(Err(error))) => self.failed(op, &error, now),
            (_, Outcome::Started(..)) => {}
        }
    }

    fn succeeded(&mut self, op: &Op) {
        self.ops.failures.remove(op);
        self.memory.retry_at.remove(op);
        match op {
            Op::Teardown => self.memory.torn_down = true,
            Op::Delete => self.memory.deleted = true,
            _ => {}
        }
    }

    fn failed(&mut self, op: Op, error: &str, now: Timestamp) {
        let (shared, pod) = (&self.shared, &self.pod);
        match &op {
            Op::Sandbox => {
                let note = format!("Failed to create pod sandbox: {error}");
                shared.pod_event(pod, EventType::Warning, "FailedCreatePodSandBox", note);
            }
            Op::Kill(name) => {
                let note = format!("error killing pod: failed to \"KillContainer\" for {name:?}: {error}");
                shared.pod_event(pod, EventType::Warning, "FailedKillPod", note);
            }
            _ => tracing::warn!(?op, %error, pod = crate::lifecycle::full_name(pod), "failed; trying again"),
        }
        self.later(op, now);
    }

    fn later(&mut self, op: Op, now: Timestamp) {
        let delay = self.ops.failed(&op);
        self.memory.retry_at.insert(op, now + delay);
    }

    fn started(&mut self, name: &str, result: Result<(), Waiting>, now: Timestamp) {
        let container = crate::lifecycle::find_container(&self.pod, name);
        let image = container.and_then(|container| container.image.clone()).unwrap_or_default();
        let memory = self.memory.containers.entry(name.to_owned()).or_default();
        match result {
            Ok(()) => {
                memory.waiting = None;
                memory.retry_at = None;
            }
            Err(waiting) => {
                let again = match waiting.reason.as_str() {
                    "ErrImagePull" => now + PULL_FAILED,
                    "ImagePullBackOff" => self.shared.images.held_until(&image).unwrap_or(now + START_AGAIN),
                    _ => now + START_AGAIN,
                };
                memory.retry_at = Some(again);
                memory.waiting = Some(waiting);
            }
        }
    }
}
