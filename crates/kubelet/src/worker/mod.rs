//! One pod's worker: it looks at the runtime, asks `lifecycle` what to do, does it, and reports. It wakes when the pod or
//! what it mentions changes, the runtime has news, a probe does, something that it began ends, or a deadline passes.
//! It decides nothing itself, and knows no other pod.

mod begin;
#[cfg(test)]
mod fake;
mod probing;
mod report;
mod signals;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use component::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;

use crate::act;
use crate::lifecycle::{Inputs, Memory, RuntimePod, decide, full_name, pod_status, uid};
use crate::runtime::observe;
use crate::shared::Shared;

use self::begin::Ops;
#[cfg(test)]
pub(crate) use self::fake::FakeRuntime;
use self::probing::Probing;
use self::report::Report;
pub(crate) use self::signals::{Signal, Signals};

/// How long after a failed look at the runtime it is looked at again, unless news come before.
const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A pod as the API last showed it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub pod: Arc<Pod>,
    /// The object is gone.
    pub gone: bool,
}

/// What others hold of a worker.
pub(crate) struct Handle {
    pub view: watch::Sender<View>,
    pub signals: Arc<Signals>,
    /// What the worker last saw in the runtime.
    pub observed: watch::Receiver<Arc<RuntimePod>>,
}

pub(crate) struct Worker {
    shared: Arc<Shared>,
    /// The newest of what the API showed and what it answered to our own writes.
    pod: Arc<Pod>,
    /// What the API showed last, for telling news from it.
    viewed: Arc<Pod>,
    gone: bool,
    memory: Memory,
    runtime: Option<Arc<RuntimePod>>,
    /// The runtime may have changed since it was looked at.
    stale: bool,
    look_at: Option<Timestamp>,
    refresh_at: Option<Timestamp>,
    view: watch::Receiver<View>,
    signals: Arc<Signals>,
    observed: watch::Sender<Arc<RuntimePod>>,
    ops: Ops,
    probing: Probing,
    report: Report,
    /// Containers whose back-off was told.
    announced: BTreeSet<String>,
}

impl Worker {
    /// A worker for the pod of a view, and the handle to steer it by.
    pub fn new(shared: Arc<Shared>, view: View, signals: Arc<Signals>) -> (Self, Handle) {
        let (view_sender, view_receiver) = watch::channel(view.clone());
        let (observed, observed_receiver) = watch::channel(Arc::default());
        let started_at = Some(shared.context.clock.now());
        let memory = Memory { started_at, deleted: view.gone, ..Memory::default() };
        let probing = Probing::new(shared.clone(), signals.clone());
        shared.objects.follow(uid(&view.pod), &view.pod);
        let worker = Self {
            shared,
            pod: view.pod.clone(),
            viewed: view.pod,
            gone: view.gone,
            memory,
            runtime: None,
            stale: true,
            look_at: None,
            refresh_at: None,
            view: view_receiver,
            signals: signals.clone(),
            observed,
            ops: Ops::default(),
            probing,
            report: Report::default(),
            announced: BTreeSet::new(),
        };
        (worker, Handle { view: view_sender, signals, observed: observed_receiver })
    }

    /// Works until nothing is left of the pod. Dropping the future touches no container.
    pub async fn run(mut self) {
        loop {
            self.take_news();
            if self.stale {
                self.look().await;
            }
            let mut wake = None;
            if !self.stale {
                match self.step() {
                    Step::Finished => break,
                    Step::Wait(time) => wake = time,
                }
            }
            let wake = wake.into_iter().chain(self.look_at).chain(self.report.retry_at()).min();
            if !self.wait(wake).await {
                return;
            }
        }
        self.clear_away();
    }

    fn now(&self) -> Timestamp {
        self.shared.context.clock.now()
    }

    async fn look(&mut self) {
        match observe(self.shared.runtime.as_ref(), uid(&self.pod)).await {
            Ok(seen) => {
                let seen = Arc::new(seen);
                self.observed.send_replace(seen.clone());
                self.runtime = Some(seen);
                self.stale = false;
                self.look_at = None;
            }
            Err(error) => {
                tracing::debug!(pod = full_name(&self.pod), %error, "the runtime was not seen");
                self.look_at = Some(self.now() + LOOK_AGAIN);
            }
        }
    }

    /// One decision, carried out as far as it goes without waiting.
    fn step(&mut self) -> Step {
        let Some(runtime) = self.runtime.clone() else { return Step::Wait(None) };
        let now = self.now();
        let removing = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        let phase = self.pod.status.as_ref().and_then(|status| status.phase.as_deref());
        let ending = removing || matches!(phase, Some("Succeeded" | "Failed"));
        if ending && self.memory.ending_since.is_none() {
            self.memory.ending_since = Some(now);
        }
        let pod = self.pod.clone();
        self.probing.adjust(&mut self.memory, &pod, &runtime, ending, now);
        let inputs = Inputs {
            pod: &pod,
            gone: self.gone,
            runtime: &runtime,
            memory: &self.memory,
            node: &self.shared.node,
            now,
        };
        let decision = decide(&inputs);
        let status = pod_status(&inputs);
        self.announce(&status);
        if !self.gone && !self.memory.deleted {
            self.report.want(&self.shared, &self.pod, status, now);
        }
        for action in decision.actions {
            if !self.begin(action, &runtime, now) {
                return Step::Finished;
            }
        }
        let refresh = if ending { None } else { self.refresh(&runtime, now) };
        Step::Wait(decision.wake.into_iter().chain(refresh).min())
    }

    /// Tells of a container that has to wait before it is started again, once each time.
    fn announce(&mut self, status: &k8s_openapi::api::core::v1::PodStatus) {
        let init = status.init_container_statuses.iter().flatten();
        let mut held = BTreeSet::new();
        for found in init.chain(status.container_statuses.iter().flatten()) {
            let waiting = found.state.as_ref().and_then(|state| state.waiting.as_ref());
            let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
            let Some(id) = found.container_id.as_ref().filter(|_| reason == Some("CrashLoopBackOff")) else {
                continue;
            };
            held.insert(id.clone());
            if !self.announced.contains(id) {
                let pod = full_name(&self.pod);
                let note = format!("Back-off restarting failed container {} in pod {pod}", found.name);
                self.shared.container_event(&self.pod, &found.name, EventType::Warning, "BackOff", note);
            }
        }
        self.announced = held;
    }

    /// Returns false when the kubelet itself ends.
    async fn wait(&mut self, wake: Option<Timestamp>) -> bool {
        let now = self.now();
        let left = wake.map(|wake| Duration::try_from(wake.duration_since(now)).unwrap_or(Duration::ZERO));
        let alarm = async {
            match left {
                // Timers may be a little early by the wall clock; deciding a moment too soon would spin.
                Some(left) => tokio::time::sleep(left + Duration::from_millis(1)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = self.view.changed() => if changed.is_err() {
                return false;
            },
            () = self.signals.raised() => {}
            done = self.ops.next() => self.complete(done),
            answer = self.report.answered() => self.reported(answer),
            () = alarm => if self.look_at.is_some_and(|time| time <= self.now()) {
                self.stale = true;
            },
        }
        true
    }

    /// Takes in what happened since the last decision.
    fn take_news(&mut self) {
        let view = self.view.borrow_and_update().clone();
        if !Arc::ptr_eq(&view.pod, &self.viewed) {
            self.viewed = view.pod.clone();
            self.see(view.pod);
        }
        if view.gone && !self.gone {
            self.gone = true;
            self.memory.deleted = true;
        }
        for signal in self.signals.take() {
            match signal {
                Signal::Runtime => self.stale = true,
                Signal::RuntimeBack => {
                    self.stale = true;
                    self.try_again();
                }
                Signal::Objects => {
                    self.refresh_at = Some(self.now());
                    self.try_again();
                }
                Signal::Probes => {}
            }
        }
        self.probing.heed(&mut self.memory, &self.pod);
    }

    /// Takes a newer state of the pod's object.
    fn see(&mut self, pod: Arc<Pod>) {
        if uid(&pod) != uid(&self.pod) || version(&pod) < version(&self.pod) {
            return;
        }
        if pod.metadata.generation != self.pod.metadata.generation {
            self.try_again();
        }
        self.pod = pod;
        self.shared.objects.follow(uid(&self.pod), &self.pod);
    }

    /// What failed may be tried again at once: what it failed for may be different now.
    fn try_again(&mut self) {
        self.ops.forgive();
        self.memory.retry_at.clear();
        for memory in self.memory.containers.values_mut() {
            // How often an image is asked for is the images' own business.
            memory.retry_at = None;
        }
    }

    fn reported(&mut self, answer: report::Answer) {
        match answer {
            report::Answer::Written(pod) => self.see(Arc::new(*pod)),
            report::Answer::Failed(error) => {
                tracing::warn!(pod = full_name(&self.pod), %error, "the pod's status was not written");
                self.report.retry_after(self.now());
            }
            report::Answer::Gone => {}
        }
    }

    /// The last traces: directories, and what was followed for this pod only.
    fn clear_away(&self) {
        let uid = uid(&self.pod);
        self.shared.objects.forget(uid);
        self.shared.tokens.forget(uid);
        for directory in [self.shared.pod_dir(uid), self.shared.log_dir(&self.pod)] {
            if let Err(error) = act::remove_directory(&self.shared, &directory) {
                tracing::warn!(%error, directory = %directory.display(), "left for the next start");
            }
        }
    }
}

enum Step {
    Finished,
    Wait(Option<Timestamp>),
}

/// The resourceVersion as a number; another server's that is none counts as newest.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(u64::MAX)
}
