//! What to do next about a pod. Level-triggered: the same inputs give the same actions, whatever happened before.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};

use super::spec::{
    Restart, grace_period, init_containers, init_restarts, is_deleted, is_host_network, is_sidecar,
    is_terminal, restarts, spec,
};
use super::status::{deadline, phase_of};
use crate::podspec::container_hash;

use super::{Action, Container, Decision, Inputs, Op, Probe, RuntimePod, Sandbox, State, living};

/// A container gets at least this long to end, even when hooks used up the rest.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Decides. See the module's own words for what this depends on.
#[must_use]
pub fn decide(inputs: &Inputs<'_>) -> Decision {
    let mut decision = Decision::default();
    let removing = inputs.gone || is_deleted(inputs.pod);
    if removing || is_over(inputs, &mut decision) {
        end(inputs, removing, &mut decision);
    } else {
        run(inputs, &mut decision);
        collect(inputs, &mut decision);
    }
    decision
}

/// Whether the pod came to its own end.
fn is_over(inputs: &Inputs<'_>, decision: &mut Decision) -> bool {
    if is_terminal(inputs.pod) || matches!(phase_of(inputs), "Succeeded" | "Failed") {
        return true;
    }
    match deadline(inputs) {
        Some(time) if time <= inputs.now => true,
        Some(time) => {
            decision.wake_at(time);
            false
        }
        None => false,
    }
}

// ---- ending -------------------------------------------------------------------------------------------------------

fn end(inputs: &Inputs<'_>, removing: bool, decision: &mut Decision) {
    for op in inputs.memory.in_flight.keys() {
        if matches!(op, Op::Start(_) | Op::Volumes) {
            decision.actions.push(Action::Cancel(op.clone()));
        }
    }
    kill_all(inputs, decision);
    let busy = |op: &Op| matches!(op, Op::Start(_) | Op::Kill(_) | Op::Volumes | Op::Sandbox);
    if !living(inputs.runtime).is_empty() || inputs.memory.in_flight.keys().any(busy) {
        return;
    }
    let ids = unstopped(inputs);
    if !ids.is_empty() {
        return propose(inputs, Action::StopSandboxes { ids }, decision);
    }
    if !inputs.memory.torn_down {
        return propose(inputs, Action::Teardown, decision);
    }
    if !removing {
        return;
    }
    if !inputs.memory.deleted && !inputs.gone {
        return propose(inputs, Action::Delete, decision);
    }
    let containers: Vec<_> = inputs.runtime.containers.iter().map(|container| container.id.clone()).collect();
    let sandboxes: Vec<_> = inputs.runtime.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
    if containers.is_empty() && sandboxes.is_empty() {
        decision.actions.push(Action::Finish);
    } else {
        propose(inputs, Action::Collect { containers, sandboxes }, decision);
    }
}

/// Sandboxes that run, or that nobody took the network from yet.
fn unstopped(inputs: &Inputs<'_>) -> Vec<String> {
    let held = |sandbox: &&Sandbox| sandbox.ready || !inputs.memory.stopped.contains(&sandbox.id);
    inputs.runtime.sandboxes.iter().filter(held).map(|sandbox| sandbox.id.clone()).collect()
}

/// Regular containers end together; sidecars after them, in reverse order, one by one.
fn kill_all(inputs: &Inputs<'_>, decision: &mut Decision) {
    let living = living(inputs.runtime);
    let sidecars: Vec<_> =
        init_containers(inputs.pod).iter().filter(|container| is_sidecar(container)).collect();
    let is_sidecar_name = |name: &str| sidecars.iter().any(|sidecar| sidecar.name == name);
    let mut now: Vec<_> = living.iter().copied().filter(|name| !is_sidecar_name(name)).collect();
    if now.is_empty() {
        let last = sidecars.iter().rev().find(|sidecar| living.contains(sidecar.name.as_str()));
        now.extend(last.map(|sidecar| sidecar.name.as_str()));
    }
    let since = inputs.memory.ending_since.unwrap_or(inputs.now);
    let limit = since + grace_period(inputs.pod);
    for name in now {
        for container in inputs.runtime.named(name).filter(|container| container.state == State::Running) {
            let message = format!("Stopping container {name}");
            kill(inputs, container, limit, message, decision);
        }
    }
}

/// Ends a container by `limit`; one that is being ended already, only if it may live shorter now.
fn kill(
    inputs: &Inputs<'_>,
    container: &Container,
    limit: Timestamp,
    message: String,
    decision: &mut Decision,
) {
    let op = Op::Kill(container.name.clone());
    let limit = limit.max(inputs.now + LEAST_GRACE);
    if let Some(earlier) = inputs.memory.in_flight.get(&op)
        && earlier.is_none_or(|earlier| earlier <= limit)
    {
        return;
    }
    let left = Duration::try_from(limit.duration_since(inputs.now)).unwrap_or(Duration::ZERO);
    let (name, id) = (container.name.clone(), container.id.clone());
    let action = Action::Kill { name, id, grace: left, message };
    match inputs.memory.retry_at.get(&op) {
        Some(time) if *time > inputs.now => decision.wake_at(*time),
        _ => decision.actions.push(action),
    }
}

/// Adds an action unless it is under way or has just failed.
fn propose(inputs: &Inputs<'_>, action: Action, decision: &mut Decision) {
    let Some(op) = action.op() else { return decision.actions.push(action) };
    if inputs.memory.in_flight.contains_key(&op) {
        return;
    }
    match inputs.memory.retry_at.get(&op) {
        Some(time) if *time > inputs.now => decision.wake_at(*time),
        _ => decision.actions.push(action),
    }
}

// ---- running ------------------------------------------------------------------------------------------------------

fn run(inputs: &Inputs<'_>, decision: &mut Decision) {
    if !inputs.memory.volumes_ready {
        propose(inputs, Action::PrepareVolumes, decision);
    }
    let usable = |sandbox: &&Sandbox| is_host_network(inputs.pod) || !sandbox.ips.is_empty();
    let Some(active) = inputs.runtime.active().filter(usable) else {
        return renew_sandbox(inputs, decision);
    };
    stop_strays(inputs, active, decision);
    if initialise(inputs, active, decision) {
        for container in &spec(inputs.pod).containers {
            keep(inputs, active, container, restarts, decision);
        }
    }
}

/// Without a usable sandbox nothing of the pod can run: end what is left, then make a new one.
fn renew_sandbox(inputs: &Inputs<'_>, decision: &mut Decision) {
    if inputs.memory.in_flight.contains_key(&Op::Sandbox) {
        return;
    }
    if !living(inputs.runtime).is_empty() {
        let limit = inputs.now + grace_period(inputs.pod);
        for container in
            inputs.runtime.containers.iter().filter(|container| container.state == State::Running)
        {
            let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
            kill(inputs, container, limit, message, decision);
        }
        return;
    }
    let busy = |op: &Op| matches!(op, Op::Start(_) | Op::Kill(_));
    if inputs.memory.in_flight.keys().any(busy) {
        return;
    }
    let ids = unstopped(inputs);
    if !ids.is_empty() {
        return propose(inputs, Action::StopSandboxes { ids }, decision);
    }
    if needs_sandbox(inputs) {
        let attempt = inputs.runtime.sandboxes.first().map_or(0, |newest| newest.attempt + 1);
        propose(inputs, Action::CreateSandbox { attempt }, decision);
    }
}

fn needs_sandbox(inputs: &Inputs<'_>) -> bool {
    if inputs.runtime.containers.is_empty() {
        return true;
    }
    spec(inputs.pod).containers.iter().any(|container| would_start(inputs, container))
}

fn would_start(inputs: &Inputs<'_>, container: &ContainerSpec) -> bool {
    // A pod that may not restart has one sandbox in its life.
    match inputs.runtime.newest(&container.name) {
        Some(newest) if newest.state == State::Exited => restarts(inputs.pod, container, newest.exit_code),
        // One that was never started in a pod that may not restart: its time is over with the sandbox.
        None => Restart::of_pod(inputs.pod) != Restart::Never || inputs.runtime.containers.is_empty(),
        Some(_) => true,
    }
}

/// Containers of earlier sandboxes may not run beside the present one.
fn stop_strays(inputs: &Inputs<'_>, active: &Sandbox, decision: &mut Decision) {
    let limit = inputs.now + grace_period(inputs.pod);
    let stray = |container: &&Container| container.sandbox != active.id && container.state == State::Running;
    for container in inputs.runtime.containers.iter().filter(stray) {
        let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
        kill(inputs, container, limit, message, decision);
    }
}

/// Brings init containers forward. True when the regular ones may run.
fn initialise(inputs: &Inputs<'_>, active: &Sandbox, decision: &mut Decision) -> bool {
    let regular_began = spec(inputs.pod)
        .containers
        .iter()
        .any(|container| inputs.runtime.named(&container.name).any(|found| found.sandbox == active.id));
    for container in init_containers(inputs.pod) {
        let here = inputs.runtime.newest(&container.name).filter(|found| found.sandbox == active.id);
        if is_sidecar(container) {
            keep(inputs, active, container, init_restarts, decision);
            if !regular_began && !here.is_some_and(|found| has_started(inputs, container, found)) {
                return false;
            }
            continue;
        }
        if regular_began {
            continue;
        }
        match here {
            Some(found) if found.state == State::Exited && found.exit_code == 0 => {}
            _ => {
                keep(inputs, active, container, init_restarts, decision);
                return false;
            }
        }
    }
    true
}

fn has_started(inputs: &Inputs<'_>, container: &ContainerSpec, found: &Container) -> bool {
    if found.state != State::Running {
        return false;
    }
    container.startup_probe.is_none() || inputs.memory.probed(found).is_some_and(|probed| probed.started)
}

type Restarts = fn(&Pod, &ContainerSpec, i32) -> bool;

/// Starts a container that should run and does not; ends one that its probes gave up on.
fn keep(
    inputs: &Inputs<'_>,
    active: &Sandbox,
    container: &ContainerSpec,
    restarts: Restarts,
    decision: &mut Decision,
) {
    let name = &container.name;
    let busy = [Op::Start(name.clone()), Op::Kill(name.clone())];
    if busy.iter().any(|op| inputs.memory.in_flight.contains_key(op)) {
        return;
    }
    let newest = inputs.runtime.newest(name);
    let ended_here = newest.filter(|found| found.state == State::Exited);
    match newest {
        Some(found) if found.state == State::Running => {
            // A stray is dealt with elsewhere; its successor waits until it ended.
            if found.sandbox == active.id {
                heed_probes(inputs, container, found, decision);
            }
            return;
        }
        Some(found) if found.state == State::Exited => {
            // An init container starts over with the sandbox, whatever became of it before.
            let fresh_start = found.sandbox != active.id && init_containers(inputs.pod).contains(container);
            if !fresh_start && !restarts(inputs.pod, container, found.exit_code) {
                return;
            }
        }
        Some(found) => {
            // Made and never started: the kubelet or the runtime stopped in between.
            let containers = vec![found.id.clone()];
            return propose(inputs, Action::Collect { containers, sandboxes: Vec::new() }, decision);
        }
        None => {}
    }
    start(inputs, active, container, ended_here, decision);
}

fn start(
    inputs: &Inputs<'_>,
    active: &Sandbox,
    container: &ContainerSpec,
    ended: Option<&Container>,
    decision: &mut Decision,
) {
    let memory = inputs.memory.container(&container.name);
    let finished = ended.and_then(|found| found.finished_at);
    let crash_until = finished.and_then(|finished| memory.crash.until(finished));
    let until = crash_until.into_iter().chain(memory.retry_at).max();
    if let Some(until) = until.filter(|until| *until > inputs.now) {
        return decision.wake_at(until);
    }
    if !inputs.memory.volumes_ready {
        return;
    }
    let restart_count = match ended {
        Some(found) => found.restart_count + 1,
        None => known_restarts(inputs.pod, &container.name),
    };
    decision.actions.push(Action::Start {
        name: container.name.clone(),
        restart_count,
        sandbox: active.id.clone(),
        crash: finished.map_or(memory.crash, |finished| memory.crash.next(finished, inputs.now)),
    });
}

/// The runtime lost its containers but the API remembers that there were some.
fn known_restarts(pod: &Pod, name: &str) -> u32 {
    let status = pod.status.as_ref();
    let regular = status.and_then(|status| status.container_statuses.as_ref());
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let mut all = regular.into_iter().chain(init).flatten();
    let known = all.find(|status| status.name == name && status.container_id.is_some());
    known.and_then(|status| u32::try_from(status.restart_count + 1).ok()).unwrap_or(0)
}

fn heed_probes(inputs: &Inputs<'_>, container: &ContainerSpec, found: &Container, decision: &mut Decision) {
    if !found.hash.is_empty() && found.hash != container_hash(container) {
        let message = format!("Container {} definition changed, will be restarted", container.name);
        return kill(inputs, found, inputs.now + grace_period(inputs.pod), message, decision);
    }
    let Some(failed) = inputs.memory.probed(found).and_then(|probed| probed.failed) else { return };
    let (word, probe) = match failed {
        Probe::Liveness => ("liveness", &container.liveness_probe),
        Probe::Startup => ("startup", &container.startup_probe),
        Probe::Readiness => return,
    };
    let own = probe.as_ref().and_then(|probe| probe.termination_grace_period_seconds);
    let own = own.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
    let limit = inputs.now + own.unwrap_or_else(|| grace_period(inputs.pod));
    let message = format!("Container {} failed {word} probe, will be restarted", container.name);
    kill(inputs, found, limit, message, decision);
}

// ---- tidying ------------------------------------------------------------------------------------------------------

/// Keeps, for each name, the newest container and the one before it; of dead sandboxes, the newest.
fn collect(inputs: &Inputs<'_>, decision: &mut Decision) {
    if decision.actions.iter().any(|action| matches!(action, Action::Collect { .. })) {
        return;
    }
    let runtime: &RuntimePod = inputs.runtime;
    let superseded = |container: &&Container| {
        container.state != State::Running
            && runtime.named(&container.name).position(|other| other.id == container.id) > Some(1)
    };
    let containers: Vec<_> =
        runtime.containers.iter().filter(superseded).map(|found| found.id.clone()).collect();
    let empty = |sandbox: &&Sandbox| {
        !sandbox.ready && !runtime.containers.iter().any(|container| container.sandbox == sandbox.id)
    };
    let sandboxes: Vec<_> =
        runtime.sandboxes.iter().skip(1).filter(empty).map(|found| found.id.clone()).collect();
    if !containers.is_empty() || !sandboxes.is_empty() {
        propose(inputs, Action::Collect { containers, sandboxes }, decision);
    }
}
