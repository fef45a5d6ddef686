//! Users, capabilities, namespaces and profiles: a container's own settings over its pod's.

use cri::messages::{
    Capability, Int64Value, LinuxContainerSecurityContext, NamespaceMode, NamespaceOption, ProfileType,
    SecurityProfile, SupplementalGroupsPolicy,
};
use k8s_openapi::api::core::v1::{Container, Pod, PodSecurityContext, SeccompProfile, SecurityContext};

use super::{ConfigError, spec};

/// Paths that the default `procMount` hides.
const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Paths that the default `procMount` makes read-only.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn pod_context(pod: &Pod) -> PodSecurityContext {
    spec(pod).security_context.clone().unwrap_or_default()
}

/// Which namespaces are shared with what.
#[must_use]
pub(super) fn namespaces(pod: &Pod) -> NamespaceOption {
    let found = spec(pod);
    let node = |shared: Option<bool>| shared.unwrap_or(false);
    let network = if node(found.host_network) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let ipc = if node(found.host_ipc) { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = if node(found.host_pid) {
        NamespaceMode::Node
    } else if found.share_process_namespace.unwrap_or(false) {
        NamespaceMode::Pod
    } else {
        NamespaceMode::Container
    };
    NamespaceOption { network: network.into(), pid: pid.into(), ipc: ipc.into(), target_id: String::new() }
}

/// The groups of every container of the pod, the one of its volumes included.
#[must_use]
pub(super) fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    let context = pod_context(pod);
    let mut groups = context.supplemental_groups.unwrap_or_default();
    groups.extend(context.fs_group);
    groups
}

/// Whether the container would run as root. `image_user` is what the image says: a number, a name, or nothing.
///
/// # Errors
/// It must not run as root, and it would, or that cannot be known.
pub fn runs_as_root(
    pod: &Pod,
    container: &Container,
    image_uid: Option<i64>,
    image_user: &str,
) -> Result<(), ConfigError> {
    let context = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    if !own.run_as_non_root.or(context.run_as_non_root).unwrap_or(false) {
        return Ok(());
    }
    let refuse = |words: String| Err(ConfigError::new(words));
    let place = format!("(pod: {:?}, container: {})", super::name(pod), container.name);
    match (own.run_as_user.or(context.run_as_user), image_uid) {
        (Some(0), _) => refuse(format!("container's runAsUser breaks non-root policy {place}")),
        (Some(_), _) => Ok(()),
        (None, Some(0)) => refuse(format!("container has runAsNonRoot and image will run as root {place}")),
        (None, Some(_)) => Ok(()),
        (None, None) if !image_user.is_empty() => refuse(format!(
            "container has runAsNonRoot and image has non-numeric user ({image_user}), cannot verify user is non-root {place}"
        )),
        (None, None) => refuse(format!("container has runAsNonRoot and image will run as root {place}")),
    }
}

/// The container's security settings.
#[must_use]
pub fn security_context(pod: &Pod, container: &Container) -> LinuxContainerSecurityContext {
    let context = pod_context(pod);
    let own = container.security_context.clone().unwrap_or_default();
    let privileged = own.privileged.unwrap_or(false);
    let whole_proc = privileged || own.proc_mount.as_deref() == Some("Unmasked");
    let number = |value: Option<i64>| value.map(|value| Int64Value { value });
    let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let strict = context.supplemental_groups_policy.as_deref() == Some("Strict");
    let policy = if strict { SupplementalGroupsPolicy::Strict } else { SupplementalGroupsPolicy::Merge };
    LinuxContainerSecurityContext {
        capabilities: Some(capabilities(&own)),
        privileged,
        namespace_options: Some(namespaces(pod)),
        run_as_user: number(own.run_as_user.or(context.run_as_user)),
        run_as_group: number(own.run_as_group.or(context.run_as_group)),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        supplemental_groups: supplemental_groups(pod),
        supplemental_groups_policy: policy.into(),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        masked_paths: if whole_proc { Vec::new() } else { paths(&MASKED) },
        readonly_paths: if whole_proc { Vec::new() } else { paths(&READ_ONLY) },
        seccomp: Some(seccomp(own.seccomp_profile.as_ref().or(context.seccomp_profile.as_ref()))),
        ..LinuxContainerSecurityContext::default()
    }
}

fn capabilities(own: &SecurityContext) -> Capability {
    let asked = own.capabilities.clone().unwrap_or_default();
    Capability {
        add_capabilities: asked.add.unwrap_or_default(),
        drop_capabilities: asked.drop.unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    }
}

/// Unset is unconfined, as upstream's kubelet has it by default.
fn seccomp(profile: Option<&SeccompProfile>) -> SecurityProfile {
    let kind = match profile.map(|profile| profile.type_.as_str()) {
        Some("RuntimeDefault") => ProfileType::RuntimeDefault,
        Some("Localhost") => ProfileType::Localhost,
        _ => ProfileType::Unconfined,
    };
    let local = profile.filter(|_| kind == ProfileType::Localhost);
    SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: local.and_then(|profile| profile.localhost_profile.clone()).unwrap_or_default(),
    }
}
