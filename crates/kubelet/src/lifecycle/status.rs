//! What a pod's status says: phase, conditions and container statuses, in upstream's words.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container as ContainerSpec, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::spec::{
    Restart, full_name, init_containers, init_restarts, is_deleted, is_host_network, is_sidecar, is_terminal,
    restarts, spec,
};
use super::{Container, Inputs, Op, RuntimePod, State};

/// When the pod's own deadline passes.
pub(super) fn deadline(inputs: &Inputs<'_>) -> Option<Timestamp> {
    let seconds = u64::try_from(spec(inputs.pod).active_deadline_seconds?).ok()?;
    Some(start_time(inputs) + Duration::from_secs(seconds))
}

fn start_time(inputs: &Inputs<'_>) -> Timestamp {
    let known = inputs.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
    known.or(inputs.memory.started_at).unwrap_or(inputs.now)
}

/// The status to report.
#[must_use]
pub fn pod_status(inputs: &Inputs<'_>) -> PodStatus {
    let old = inputs.pod.status.clone().unwrap_or_default();
    if is_terminal(inputs.pod) && !has_life(inputs.runtime) && inputs.runtime.containers.is_empty() {
        // Nothing is known that could improve on what was said when it ended.
        return PodStatus { observed_generation: inputs.pod.metadata.generation, ..old };
    }
    let statuses = container_statuses(inputs);
    let mut phase = phase(inputs, &statuses);
    let mut failure = old.reason.clone().zip(Some(old.message.clone().unwrap_or_default()));
    if is_terminal(inputs.pod) {
        phase = old.phase.as_deref().map_or(phase, terminal_word);
    } else if deadline(inputs).is_some_and(|time| time <= inputs.now) && !is_deleted(inputs.pod) {
        phase = "Failed";
        let message = "Pod was active on the node longer than the specified deadline";
        failure = Some(("DeadlineExceeded".to_owned(), message.to_owned()));
    }
    let conditions = conditions(inputs, &statuses, phase, old.conditions.as_deref().unwrap_or_default());
    let ips = pod_ips(inputs, &old);
    let (regular, init) = (statuses.regular, statuses.init);
    PodStatus {
        conditions: Some(conditions),
        container_statuses: Some(regular),
        init_container_statuses: (!init.is_empty()).then_some(init),
        host_ip: inputs.node.addresses.first().cloned(),
        host_ips: Some(inputs.node.addresses.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: (!ips.is_empty()).then(|| ips.into_iter().map(|ip| PodIP { ip }).collect()),
        phase: Some(phase.to_owned()),
        qos_class: old.qos_class.clone().or_else(|| Some(crate::podspec::qos_class(inputs.pod).to_owned())),
        start_time: Some(Time(whole_second(start_time(inputs)))),
        observed_generation: inputs.pod.metadata.generation,
        reason: failure.as_ref().map(|(reason, _)| reason.clone()),
        message: failure.map(|(_, message)| message).filter(|message| !message.is_empty()),
        ..old
    }
}

fn terminal_word(phase: &str) -> &'static str {
    if phase == "Succeeded" { "Succeeded" } else { "Failed" }
}

fn has_life(runtime: &RuntimePod) -> bool {
    runtime.containers.iter().any(|container| container.state == State::Running)
}

fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

/// An ended pod keeps the address that it had; a living one says only what is true now.
fn pod_ips(inputs: &Inputs<'_>, old: &PodStatus) -> Vec<String> {
    if is_host_network(inputs.pod) {
        return inputs.node.addresses.clone();
    }
    let now = inputs.runtime.active().map(|sandbox| sandbox.ips.clone()).unwrap_or_default();
    let ending = inputs.memory.ending_since.is_some() || is_deleted(inputs.pod) || is_terminal(inputs.pod);
    if now.is_empty() && ending {
        return old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    }
    now
}

// ---- containers ---------------------------------------------------------------------------------------------------

struct Statuses {
    init: Vec<ContainerStatus>,
    regular: Vec<ContainerStatus>,
}

fn container_statuses(inputs: &Inputs<'_>) -> Statuses {
    let of = |containers: &[ContainerSpec], init: bool| {
        containers.iter().map(|container| container_status(inputs, container, init)).collect()
    };
    Statuses { init: of(init_containers(inputs.pod), true), regular: of(&spec(inputs.pod).containers, false) }
}

fn container_status(inputs: &Inputs<'_>, container: &ContainerSpec, init: bool) -> ContainerStatus {
    let mut found = inputs.runtime.named(&container.name);
    let newest = found.next();
    let previous = found.find(|earlier| earlier.state == State::Exited);
    let Some(newest) = newest else { return absent(inputs, container) };
    let mut state = runtime_state(inputs, newest);
    let mut last_state = previous.map(|earlier| runtime_state(inputs, earlier)).unwrap_or_default();
    if newest.state == State::Exited
        && let Some(waiting) = waiting(inputs, container, newest, init)
    {
        last_state = std::mem::replace(&mut state, waiting);
    }
    let running = newest.state == State::Running;
    let probed = inputs.memory.probed(newest);
    let started = running
        && (container.startup_probe.is_none() || probed.is_some_and(|probed| probed.started))
        && (!init || is_sidecar(container));
    let ready = if init && !is_sidecar(container) {
        newest.state == State::Exited && newest.exit_code == 0
    } else {
        started && (container.readiness_probe.is_none() || probed.is_some_and(|probed| probed.ready))
    };
    ContainerStatus {
        name: container.name.clone(),
        image: newest.image.clone(),
        image_id: newest.image_id.clone(),
        container_id: Some(prefixed(inputs, &newest.id)),
        restart_count: i32::try_from(newest.restart_count).unwrap_or(i32::MAX),
        ready,
        started: Some(started),
        state: Some(state),
        last_state: Some(last_state),
        // No `resources`: a kubelet that reports them promises to follow `pods/resize` (KEP-1287), and this one cannot.
        ..ContainerStatus::default()
    }
}

/// The runtime has nothing under this name.
fn absent(inputs: &Inputs<'_>, container: &ContainerSpec) -> ContainerStatus {
    let old = old_status(inputs.pod, &container.name);
    let ended = is_terminal(inputs.pod) || (is_deleted(inputs.pod) && inputs.memory.torn_down);
    if let Some(old) =
        old.filter(|old| ended && old.state.as_ref().is_some_and(|state| state.terminated.is_some()))
    {
        return old.clone();
    }
    let state = if ended && !never_began(inputs, container) {
        let terminated = ContainerStateTerminated {
            reason: Some("ContainerStatusUnknown".to_owned()),
            message: Some("The container could not be located when the pod was terminated".to_owned()),
            exit_code: 137,
            ..ContainerStateTerminated::default()
        };
        ContainerState { terminated: Some(terminated), ..ContainerState::default() }
    } else {
        let memory = inputs.memory.container(&container.name);
        let fallback =
            if init_containers(inputs.pod).is_empty() { "ContainerCreating" } else { "PodInitializing" };
        match memory.waiting {
            Some(waiting) => waiting_state(&waiting.reason, &waiting.message),
            None => waiting_state(fallback, ""),
        }
    };
    ContainerStatus {
        name: container.name.clone(),
        image: container.image.clone().unwrap_or_default(),
        restart_count: old.map_or(0, |old| old.restart_count),
        ready: false,
        started: Some(false),
        state: Some(state),
        last_state: Some(ContainerState::default()),
        ..ContainerStatus::default()
    }
}

/// A container of an ended pod whose turn never came, since an init container before it failed: it is not lost.
fn never_began(inputs: &Inputs<'_>, container: &ContainerSpec) -> bool {
    let conditions = inputs.pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let mut initialized = conditions.filter(|condition| condition.type_ == "Initialized");
    let first = init_containers(inputs.pod).first();
    is_terminal(inputs.pod)
        && first.is_some_and(|first| first.name != container.name)
        && !initialized.any(|condition| condition.status == "True")
}

fn old_status<'a>(pod: &'a Pod, name: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    let regular = status.container_statuses.iter().flatten();
    regular.chain(status.init_container_statuses.iter().flatten()).find(|status| status.name == name)
}

/// An ended container that is to be started again waits for that.
fn waiting(
    inputs: &Inputs<'_>,
    container: &ContainerSpec,
    newest: &Container,
    init: bool,
) -> Option<ContainerState> {
    if is_deleted(inputs.pod) || is_terminal(inputs.pod) || inputs.gone {
        return None;
    }
    let again = if init { init_restarts } else { restarts };
    if !again(inputs.pod, container, newest.exit_code) {
        return None;
    }
    let memory = inputs.memory.container(&container.name);
    let until = newest.finished_at.and_then(|finished| memory.crash.until(finished));
    // While it is being started it is still held back for all that anybody can see.
    let starting = inputs.memory.in_flight.contains_key(&Op::Start(container.name.clone()));
    if until.is_some_and(|until| until > inputs.now || starting) {
        let message = format!(
            "back-off {} restarting failed container={} pod={}",
            go_duration(memory.crash.delay()),
            container.name,
            full_name(inputs.pod)
        );
        return Some(waiting_state("CrashLoopBackOff", &message));
    }
    memory.waiting.map(|waiting| waiting_state(&waiting.reason, &waiting.message))
}

fn waiting_state(reason: &str, message: &str) -> ContainerState {
    let message = (!message.is_empty()).then(|| message.to_owned());
    let waiting = ContainerStateWaiting { reason: Some(reason.to_owned()), message };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

fn runtime_state(inputs: &Inputs<'_>, found: &Container) -> ContainerState {
    let time = |time: Option<Timestamp>| time.map(|time| Time(whole_second(time)));
    match found.state {
        State::Running => {
            let running = ContainerStateRunning { started_at: time(found.started_at) };
            ContainerState { running: Some(running), ..ContainerState::default() }
        }
        State::Created => waiting_state("ContainerCreating", ""),
        State::Exited | State::Unknown => {
            let lost = found.state == State::Unknown;
            let fallback = if found.exit_code == 0 && !lost { "Completed" } else { "Error" };
            let reason = if found.reason.is_empty() { fallback } else { &found.reason };
            let terminated = ContainerStateTerminated {
                container_id: Some(prefixed(inputs, &found.id)),
                exit_code: if lost { 137 } else { found.exit_code },
                reason: Some(reason.to_owned()),
                message: (!found.message.is_empty()).then(|| found.message.clone()),
                started_at: time(found.started_at),
                finished_at: time(found.finished_at),
                signal: None,
            };
            ContainerState { terminated: Some(terminated), ..ContainerState::default() }
        }
    }
}

fn prefixed(inputs: &Inputs<'_>, id: &str) -> String {
    format!("{}://{id}", inputs.node.runtime_name)
}

/// A duration as Go prints it: `10s`, `2m40s`, `5m0s`.
pub(crate) fn go_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, seconds) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

// ---- phase --------------------------------------------------------------------------------------------------------

/// The phase that the present inputs amount to.
pub(super) fn phase_of(inputs: &Inputs<'_>) -> &'static str {
    phase(inputs, &container_statuses(inputs))
}

fn phase(inputs: &Inputs<'_>, statuses: &Statuses) -> &'static str {
    let pod = inputs.pod;
    if let Some(verdict) = init_phase(pod, statuses) {
        return verdict;
    }
    let (mut running, mut stopped, mut succeeded, mut waiting) = (0, 0, 0, 0);
    let mut restartable = false;
    for (container, status) in spec(pod).containers.iter().zip(&statuses.regular) {
        let state = status.state.clone().unwrap_or_default();
        if state.running.is_some() {
            running += 1;
        } else if let Some(terminated) =
            state.terminated.or(status.last_state.clone().unwrap_or_default().terminated)
        {
            stopped += 1;
            succeeded += usize::from(terminated.exit_code == 0);
            restartable |= restarts(pod, container, terminated.exit_code);
        } else {
            waiting += 1;
        }
    }
    let sidecars_run = init_containers(pod)
        .iter()
        .zip(&statuses.init)
        .any(|(container, status)| is_sidecar(container) && is_running(status));
    let ending = is_deleted(pod) || inputs.gone;
    match (waiting, running, stopped) {
        (1.., _, _) => "Pending",
        (0, 1.., _) => "Running",
        (0, 0, 1..) if ending && !sidecars_run => finished(stopped == succeeded),
        (0, 0, 1..) if ending || restartable => "Running",
        // Sidecars are ended first; what they do does not change how the pod did.
        (0, 0, 1..) => finished(stopped == succeeded),
        _ => "Pending",
    }
}

fn finished(well: bool) -> &'static str {
    if well { "Succeeded" } else { "Failed" }
}

fn is_running(status: &ContainerStatus) -> bool {
    status.state.as_ref().is_some_and(|state| state.running.is_some())
}

/// Pending while init containers are not through, Failed when one of them ends the pod.
fn init_phase(pod: &Pod, statuses: &Statuses) -> Option<&'static str> {
    let began = statuses.regular.iter().any(|status| status.container_id.is_some());
    for (container, status) in init_containers(pod).iter().zip(&statuses.init) {
        if is_sidecar(container) {
            if !began && status.started != Some(true) {
                return Some("Pending");
            }
            continue;
        }
        let state = status.state.clone().unwrap_or_default();
        let ended = state.terminated.or(status.last_state.clone().unwrap_or_default().terminated);
        match ended {
            Some(ended) if ended.exit_code == 0 => {}
            Some(_) if Restart::of_pod(pod) == Restart::Never && !is_running(status) => {
                return Some("Failed");
            }
            _ if began => {}
            _ => return Some("Pending"),
        }
    }
    None
}

// ---- conditions ---------------------------------------------------------------------------------------------------

/// The conditions that are the kubelet's; everybody else's are kept.
const OWN: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

struct Verdict {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn yes(kind: &'static str) -> Self {
        Self { kind, holds: true, reason: "", message: String::new() }
    }

    fn no(kind: &'static str, reason: &'static str, message: String) -> Self {
        Self { kind, holds: false, reason, message }
    }
}

fn conditions(
    inputs: &Inputs<'_>,
    statuses: &Statuses,
    phase: &str,
    old: &[PodCondition],
) -> Vec<PodCondition> {
    let containers = containers_ready(inputs, statuses, phase);
    let verdicts = [
        sandbox_condition(inputs),
        initialized(inputs, statuses, phase),
        ready(inputs, &containers, old),
        containers,
        Verdict::yes("PodScheduled"),
    ];
    let mut all: Vec<_> = verdicts.into_iter().map(|verdict| condition(inputs, verdict, old)).collect();
    all.extend(old.iter().filter(|condition| !OWN.contains(&condition.type_.as_str())).cloned());
    all
}

fn condition(inputs: &Inputs<'_>, verdict: Verdict, old: &[PodCondition]) -> PodCondition {
    let status = if verdict.holds { "True" } else { "False" };
    let before = old.iter().find(|condition| condition.type_ == verdict.kind);
    let unchanged = before.filter(|before| before.status == status);
    let since = unchanged.and_then(|before| before.last_transition_time.clone());
    PodCondition {
        type_: verdict.kind.to_owned(),
        status: status.to_owned(),
        reason: (!verdict.reason.is_empty()).then(|| verdict.reason.to_owned()),
        message: (!verdict.message.is_empty()).then_some(verdict.message),
        last_probe_time: None,
        last_transition_time: since.or_else(|| Some(Time(whole_second(inputs.now)))),
        observed_generation: inputs.pod.metadata.generation,
    }
}

fn sandbox_condition(inputs: &Inputs<'_>) -> Verdict {
    let active = inputs.runtime.active();
    let holds = active.is_some_and(|sandbox| is_host_network(inputs.pod) || !sandbox.ips.is_empty());
    Verdict { kind: "PodReadyToStartContainers", holds, reason: "", message: String::new() }
}

fn initialized(inputs: &Inputs<'_>, statuses: &Statuses, phase: &str) -> Verdict {
    let kind = "Initialized";
    if phase == "Succeeded" {
        return Verdict { kind, holds: true, reason: "PodCompleted", message: String::new() };
    }
    let began = statuses.regular.iter().any(|status| status.container_id.is_some());
    let incomplete: Vec<_> = init_containers(inputs.pod)
        .iter()
        .zip(&statuses.init)
        .filter(|(container, status)| {
            if is_sidecar(container) {
                !began && status.started != Some(true)
            } else {
                !began && !status.ready
            }
        })
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() {
        return Verdict::yes(kind);
    }
    let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
    Verdict::no(kind, "ContainersNotInitialized", message)
}

fn containers_ready(inputs: &Inputs<'_>, statuses: &Statuses, phase: &str) -> Verdict {
    let kind = "ContainersReady";
    match phase {
        "Succeeded" => return Verdict::no(kind, "PodCompleted", String::new()),
        "Failed" => return Verdict::no(kind, "PodFailed", String::new()),
        _ => {}
    }
    let sidecars = init_containers(inputs.pod).iter().zip(&statuses.init);
    let sidecars = sidecars.filter(|(container, _)| is_sidecar(container)).map(|(_, status)| status);
    let unready: Vec<_> = sidecars
        .chain(&statuses.regular)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::yes(kind);
    }
    Verdict::no(
        kind,
        "ContainersNotReady",
        format!("containers with unready status: [{}]", unready.join(" ")),
    )
}

fn ready(inputs: &Inputs<'_>, containers: &Verdict, old: &[PodCondition]) -> Verdict {
    if !containers.holds {
        return Verdict::no("Ready", containers.reason, containers.message.clone());
    }
    let gates = spec(inputs.pod).readiness_gates.iter().flatten();
    let closed: Vec<_> = gates
        .filter_map(|gate| {
            let condition = old.iter().find(|condition| condition.type_ == gate.condition_type);
            match condition {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {:?} does not exist.",
                    gate.condition_type
                )),
                Some(found) if found.status != "True" => Some(format!(
                    "the status of pod readiness gate {:?} is not \"True\", but {}",
                    gate.condition_type, found.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    if closed.is_empty() {
        return Verdict::yes("Ready");
    }
    Verdict::no("Ready", "ReadinessGatesNotReady", closed.join(", "))
}
