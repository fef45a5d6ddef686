//! What the runtime is asked for when a pod's sandbox is made.

use cri::messages::{
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxConfig, PodSandboxMetadata, PortMapping,
    ProfileType, Protocol, SecurityProfile, StringMap,
};
use k8s_openapi::api::core::v1::Pod;

use super::security::{namespaces, supplemental_groups};
use super::{ClusterFacts, Resolver, all_containers, name, namespace, pod_cgroup, sandbox_dns, spec};

/// Host names are cut to this length.
const HOSTNAME_LIMIT: usize = 63;

/// The pod's host name.
#[must_use]
pub fn hostname(pod: &Pod) -> String {
    let found = spec(pod);
    let asked =
        found.hostname_override.as_deref().or(found.hostname.as_deref()).filter(|name| !name.is_empty());
    let text = asked.unwrap_or_else(|| name(pod));
    let cut: String = text.chars().take(HOSTNAME_LIMIT).collect();
    cut.trim_end_matches(['-', '.']).to_owned()
}

/// The sandbox's configuration.
#[must_use]
pub fn sandbox_config(
    pod: &Pod,
    attempt: u32,
    cluster: &ClusterFacts,
    resolver: &Resolver,
    log_directory: &str,
) -> PodSandboxConfig {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let found = spec(pod);
    let on_host = found.host_network.unwrap_or(false);
    let mut labels: StringMap = pod.metadata.labels.clone().unwrap_or_default();
    labels.insert("io.kubernetes.pod.name".to_owned(), name(pod).to_owned());
    labels.insert("io.kubernetes.pod.namespace".to_owned(), namespace(pod).to_owned());
    labels.insert("io.kubernetes.pod.uid".to_owned(), uid.clone());
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name(pod).to_owned(),
            uid,
            namespace: namespace(pod).to_owned(),
            attempt,
        }),
        hostname: if on_host { String::new() } else { hostname(pod) },
        log_directory: log_directory.to_owned(),
        dns_config: Some(sandbox_dns(pod, cluster, resolver)),
        port_mappings: if on_host { Vec::new() } else { port_mappings(pod) },
        labels,
        annotations: pod.metadata.annotations.clone().unwrap_or_default(),
        linux: Some(linux(pod, cluster)),
    }
}

fn linux(pod: &Pod, cluster: &ClusterFacts) -> LinuxPodSandboxConfig {
    let context = spec(pod).security_context.clone().unwrap_or_default();
    let privileged = all_containers(pod).any(|container| {
        container.security_context.as_ref().and_then(|context| context.privileged).unwrap_or(false)
    });
    let sysctls = context.sysctls.iter().flatten().map(|found| (found.name.clone(), found.value.clone()));
    LinuxPodSandboxConfig {
        cgroup_parent: pod_cgroup(&cluster.cgroup_root, pod),
        security_context: Some(LinuxSandboxSecurityContext {
            namespace_options: Some(namespaces(pod)),
            privileged,
            // The pause program needs no call that the default profile forbids.
            seccomp: Some(SecurityProfile {
                profile_type: ProfileType::RuntimeDefault.into(),
                localhost_ref: String::new(),
            }),
            supplemental_groups: supplemental_groups(pod),
            ..LinuxSandboxSecurityContext::default()
        }),
        sysctls: sysctls.collect(),
        ..LinuxPodSandboxConfig::default()
    }
}

fn port_mappings(pod: &Pod) -> Vec<PortMapping> {
    let ports = all_containers(pod).flat_map(|container| container.ports.iter().flatten());
    let mapped = ports.filter(|port| port.host_port.is_some_and(|port| port > 0));
    mapped
        .map(|port| PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            }
            .into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
