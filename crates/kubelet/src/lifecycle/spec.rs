//! Questions about a pod's spec that decisions and statuses both ask.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// What a pod without a grace period gets.
const DEFAULT_GRACE: i64 = 30;

/// Whether containers are restarted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Restart {
    Always,
    OnFailure,
    Never,
}

impl Restart {
    fn parse(text: Option<&str>) -> Option<Self> {
        match text? {
            "Always" => Some(Self::Always),
            "OnFailure" => Some(Self::OnFailure),
            "Never" => Some(Self::Never),
            _ => None,
        }
    }

    pub(super) fn of_pod(pod: &Pod) -> Self {
        Self::parse(spec(pod).restart_policy.as_deref()).unwrap_or(Self::Always)
    }
}

/// Whether a container that ended with `exit_code` is to be started again.
pub(super) fn restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(codes) = &rule.exit_codes else { continue };
        let listed = codes.values.iter().flatten().any(|code| *code == exit_code);
        let matches = if codes.operator == "NotIn" { !listed } else { listed };
        if matches && rule.action == "Restart" {
            return true;
        }
    }
    match Restart::parse(container.restart_policy.as_deref()).unwrap_or_else(|| Restart::of_pod(pod)) {
        Restart::Always => true,
        Restart::OnFailure => exit_code != 0,
        Restart::Never => false,
    }
}

/// Whether an init container that ended with `exit_code` is to be started again: once it succeeded it never is.
pub(super) fn init_restarts(pod: &Pod, container: &Container, exit_code: i32) -> bool {
    if is_sidecar(container) {
        return true;
    }
    exit_code != 0
        && match Restart::parse(container.restart_policy.as_deref()).unwrap_or_else(|| Restart::of_pod(pod)) {
            Restart::Never => false,
            Restart::Always | Restart::OnFailure => true,
        }
}

pub(super) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub(super) fn init_containers(pod: &Pod) -> &[Container] {
    spec(pod).init_containers.as_deref().unwrap_or_default()
}

/// An init container that goes on running beside the others.
#[must_use]
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Whether the pod shares the node's network.
#[must_use]
pub fn is_host_network(pod: &Pod) -> bool {
    spec(pod).host_network.unwrap_or(false)
}

/// The container or init container with this name.
#[must_use]
pub fn find_container<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    init_containers(pod).iter().chain(&spec(pod).containers).find(|container| container.name == name)
}

/// The pod's identity.
#[must_use]
pub fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// `name_namespace(uid)`, as messages name a pod.
#[must_use]
pub fn full_name(pod: &Pod) -> String {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    format!("{name}_{namespace}({})", uid(pod))
}

/// How long the pod may take to end. Deleting it can shorten that.
#[must_use]
pub fn grace_period(pod: &Pod) -> Duration {
    let asked = pod.metadata.deletion_timestamp.as_ref().and(pod.metadata.deletion_grace_period_seconds);
    let seconds = asked.or(spec(pod).termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE);
    // Upstream's least: zero would be no chance at all.
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0).max(1))
}

/// Whether the pod is to be ended and its object removed.
pub(super) fn is_deleted(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the API already calls the pod finished; it never lives again then.
pub(super) fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
