//! From a pod's spec to what the runtime is asked for. Pure: whatever else is needed (config maps, the sandbox's
//! address, the node's resolver) is passed in.

mod container;
mod dns;
mod downward;
mod env;
mod expand;
mod hosts;
mod resources;
mod sandbox;
mod security;
#[cfg(test)]
mod tests;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

pub use container::{ContainerParts, annotations as container_annotations, container_config, labels};
pub use dns::{Resolver, sandbox_dns};
pub use downward::{Downward, field, resource_field};
pub use env::{EnvSources, environment, service_variables};
pub use expand::expand;
pub use hosts::hosts_file;
pub use resources::{
    NodeResources, OomScope, container_resources, pod_cgroup, pod_limits, qos_class, quantity,
};
pub use sandbox::{hostname, sandbox_config};
pub use security::{runs_as_root, security_context};

/// Something that the spec asks for and that cannot be had. Becomes `CreateContainerConfigError` and is retried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl ConfigError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// What the kubelet is told once and for all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterFacts {
    /// The domain of services.
    pub domain: String,
    /// The cluster's DNS servers.
    pub dns_servers: Vec<String>,
    /// The cgroup under which all pods are.
    pub cgroup_root: String,
    /// Whether containers get cgroup version 2 settings.
    pub cgroup_v2: bool,
}

/// Short for the parts of a container whose change restarts it.
#[must_use]
pub fn container_hash(container: &Container) -> String {
    let image = container.image.as_deref().unwrap_or_default();
    format!("{:08x}", crc32fast::hash(format!("{}\n{image}", container.name).as_bytes()))
}

pub(crate) fn spec(pod: &Pod) -> &PodSpec {
    static EMPTY: std::sync::LazyLock<PodSpec> = std::sync::LazyLock::new(PodSpec::default);
    pod.spec.as_ref().unwrap_or(&EMPTY)
}

pub(crate) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(pod: &Pod) -> &str {
    pod.metadata.namespace.as_deref().unwrap_or_default()
}

/// Init containers, then the regular ones.
pub(crate) fn all_containers(pod: &Pod) -> impl Iterator<Item = &Container> {
    spec(pod).init_containers.iter().flatten().chain(&spec(pod).containers)
}
