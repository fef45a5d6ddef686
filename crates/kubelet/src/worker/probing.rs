//! The probers of one pod's containers: started with a container, gone with it, and what they found.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::events::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, Probe as ProbeSpec};
use tokio::task::{AbortHandle, JoinSet};

use super::{Signal, Signals};
use crate::act;
use crate::lifecycle::{Container, Memory, Probe, Probed, RuntimePod, State, is_sidecar};
use crate::podspec::spec;
use crate::probes::{Prober, Target, Verdict};
use crate::shared::Shared;

/// Which prober: the container's name and id, and the kind.
type Key = (String, Probe, String);

/// What a prober has to tell; an untold older message is replaced.
#[derive(Default)]
struct News {
    verdict: Option<Verdict>,
    words: Option<String>,
}

type Board = Arc<Mutex<BTreeMap<Key, News>>>;

pub(super) struct Probing {
    shared: Arc<Shared>,
    signals: Arc<Signals>,
    board: Board,
    tasks: JoinSet<()>,
    running: BTreeMap<Key, AbortHandle>,
}

impl Probing {
    pub fn new(shared: Arc<Shared>, signals: Arc<Signals>) -> Self {
        Self { shared, signals, board: Board::default(), tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    /// Starts and stops probers as containers come and go.
    pub fn adjust(
        &mut self,
        memory: &mut Memory,
        pod: &Pod,
        runtime: &RuntimePod,
        ending: bool,
        now: Timestamp,
    ) {
        while self.tasks.try_join_next().is_some() {}
        let mut wanted: BTreeMap<Key, (ContainerSpec, ProbeSpec, Container)> = BTreeMap::new();
        let init = spec(pod).init_containers.iter().flatten().filter(|container| is_sidecar(container));
        for container in init.chain(&spec(pod).containers) {
            let Some(found) = runtime.newest(&container.name).filter(|found| found.state == State::Running)
            else {
                continue;
            };
            let started = remember(memory, pod, container, found).started;
            for (kind, probe) in probes_now(container, started, ending) {
                let key = (container.name.clone(), kind, found.id.clone());
                wanted.insert(key, (container.clone(), probe.clone(), found.clone()));
            }
        }
        self.running.retain(|key, handle| {
            let keep = wanted.contains_key(key);
            if !keep {
                handle.abort();
            }
            keep
        });
        let sandbox_ips = runtime.active().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
        let ip = act::own_ips(&self.shared, pod, &sandbox_ips).into_iter().next().unwrap_or_default();
        for (key, (container, probe, found)) in wanted {
            if !self.running.contains_key(&key) {
                self.start(key, container, probe, &found, &ip, now);
            }
        }
    }

    fn start(
        &mut self,
        key: Key,
        container: ContainerSpec,
        probe: ProbeSpec,
        found: &Container,
        ip: &str,
        now: Timestamp,
    ) {
        let since = found.started_at.unwrap_or(now);
        let prober = Prober {
            kind: key.1,
            container,
            spec: probe,
            target: Target { container_id: found.id.clone(), pod_ip: ip.to_owned() },
            age: Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO),
            jitter: self.shared.context.entropy.unit_f64(),
        };
        let (board, signals, own) = (self.board.clone(), self.signals.clone(), key.clone());
        let runtime = self.shared.runtime.clone();
        let tell = move |_, verdict: Option<Verdict>, words: Option<String>| {
            let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
            let news = board.entry(own.clone()).or_default();
            news.verdict = verdict.or(news.verdict);
            news.words = words.or(news.words.take());
            signals.raise(Signal::Probes);
        };
        let handle = self.tasks.spawn(async move { prober.run(runtime.as_ref(), tell).await });
        self.running.insert(key, handle);
    }

    /// Takes in what probers found.
    pub fn heed(&mut self, memory: &mut Memory, pod: &Pod) {
        let news = std::mem::take(&mut *self.board.lock().unwrap_or_else(PoisonError::into_inner));
        for ((name, kind, id), news) in news {
            let Some(probed) = memory.containers.get_mut(&name).and_then(|memory| memory.probed.as_mut())
            else {
                continue;
            };
            if probed.id != id {
                continue;
            }
            if let Some(words) = news.words {
                let note = format!("{} probe failed: {words}", word(kind));
                self.shared.container_event(pod, &name, EventType::Warning, "Unhealthy", note);
            }
            match (kind, news.verdict) {
                (_, None) | (Probe::Liveness, Some(Verdict::Good)) => {}
                (Probe::Startup, Some(Verdict::Good)) => probed.started = true,
                (Probe::Readiness, Some(verdict)) => probed.ready = verdict == Verdict::Good,
                (Probe::Liveness | Probe::Startup, Some(Verdict::Bad)) => probed.failed = Some(kind),
            }
        }
    }
}

fn word(kind: Probe) -> &'static str {
    match kind {
        Probe::Liveness => "Liveness",
        Probe::Readiness => "Readiness",
        Probe::Startup => "Startup",
    }
}

/// What is known of a container's probes. Of one that ran before this kubelet did, the API remembers the rest, so that a
/// restart of the kubelet takes no pod out of its services.
fn remember<'a>(
    memory: &'a mut Memory,
    pod: &Pod,
    container: &ContainerSpec,
    found: &Container,
) -> &'a Probed {
    let memory = memory.containers.entry(container.name.clone()).or_default();
    if memory.probed.as_ref().is_none_or(|probed| probed.id != found.id) {
        let status = pod.status.as_ref();
        let regular = status.and_then(|status| status.container_statuses.as_ref());
        let init = status.and_then(|status| status.init_container_statuses.as_ref());
        let mut all = regular.into_iter().chain(init).flatten();
        let same = |id: &str| id.rsplit('/').next() == Some(found.id.as_str());
        let known = all.find(|known| known.container_id.as_deref().is_some_and(same));
        memory.probed = Some(Probed {
            id: found.id.clone(),
            started: container.startup_probe.is_none()
                || known.is_some_and(|known| known.started == Some(true)),
            ready: container.readiness_probe.is_none() || known.is_some_and(|known| known.ready),
            failed: None,
        });
    }
    memory.probed.as_ref().expect("it was just set")
}

/// Until a container has started it is asked about nothing else; one that is to end is not restarted any more.
fn probes_now(container: &ContainerSpec, started: bool, ending: bool) -> Vec<(Probe, &ProbeSpec)> {
    let startup = container.startup_probe.as_ref().filter(|_| !ending).map(|probe| (Probe::Startup, probe));
    let liveness = container.liveness_probe.as_ref().filter(|_| !ending && started);
    let readiness = container.readiness_probe.as_ref().filter(|_| started);
    let startup = startup.filter(|_| !started);
    let rest = liveness.map(|probe| (Probe::Liveness, probe)).into_iter();
    let rest = rest.chain(readiness.map(|probe| (Probe::Readiness, probe)));
    startup.into_iter().chain(rest).collect()
}
