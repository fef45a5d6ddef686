//! What the runtime is asked for when a container is made. Labels and annotations carry upstream's names, so that
//! other tools understand them and a restarted kubelet finds everything again.

use cri::messages::{
    ContainerConfig, ContainerMetadata, ImageSpec, KeyValue, LinuxContainerConfig, Mount, StringMap,
};
use k8s_openapi::api::core::v1::{Container, Pod};

use super::{
    ClusterFacts, NodeResources, OomScope, container_hash, container_resources, expand, name, namespace,
    security_context, spec,
};

/// What was found out for one container before it is made.
#[derive(Debug, Clone)]
pub struct ContainerParts<'a> {
    /// Its environment.
    pub env: &'a [(String, String)],
    /// Its mounts.
    pub mounts: Vec<Mount>,
    /// The image as the runtime knows it.
    pub image_ref: String,
    /// How many there were before it.
    pub restart_count: u32,
}

/// The container's configuration.
#[must_use]
pub fn container_config(
    pod: &Pod,
    container: &Container,
    parts: ContainerParts<'_>,
    cluster: &ClusterFacts,
    node: &NodeResources,
) -> ContainerConfig {
    let lookup =
        |name: &str| parts.env.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let expanded = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let scope = if cluster.cgroup_v2 { OomScope::Container } else { OomScope::Process };
    let envs = parts.env.iter().map(|(key, value)| KeyValue { key: key.clone(), value: value.clone() });
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: container.name.clone(), attempt: parts.restart_count }),
        image: Some(ImageSpec {
            image: parts.image_ref,
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..ImageSpec::default()
        }),
        command: expanded(&container.command),
        args: expanded(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: envs.collect(),
        mounts: parts.mounts,
        devices: Vec::new(),
        labels: labels(pod, container),
        annotations: annotations(pod, container, parts.restart_count),
        log_path: format!("{}/{}.log", container.name, parts.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(LinuxContainerConfig {
            resources: Some(container_resources(pod, container, node, scope)),
            security_context: Some(security_context(pod, container)),
        }),
    }
}

/// The labels of a container.
#[must_use]
pub fn labels(pod: &Pod, container: &Container) -> StringMap {
    let pairs = [
        ("io.kubernetes.pod.name", name(pod)),
        ("io.kubernetes.pod.namespace", namespace(pod)),
        ("io.kubernetes.pod.uid", pod.metadata.uid.as_deref().unwrap_or_default()),
        ("io.kubernetes.container.name", &container.name),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The annotations of a container: enough to end it properly when nothing else is known of its pod.
#[must_use]
pub fn annotations(pod: &Pod, container: &Container, restart_count: u32) -> StringMap {
    let grace = spec(pod).termination_grace_period_seconds;
    let hook = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    let json = |value: Result<String, serde_json::Error>| value.ok();
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    let pairs = [
        ("io.kubernetes.container.hash", Some(container_hash(container))),
        ("io.kubernetes.container.restartCount", Some(restart_count.to_string())),
        ("io.kubernetes.container.terminationMessagePath", container.termination_message_path.clone()),
        ("io.kubernetes.container.terminationMessagePolicy", container.termination_message_policy.clone()),
        ("io.kubernetes.pod.terminationGracePeriod", grace.map(|seconds| seconds.to_string())),
        ("io.kubernetes.container.preStopHandler", hook.and_then(|hook| json(serde_json::to_string(hook)))),
        ("io.kubernetes.container.ports", ports.and_then(|ports| json(serde_json::to_string(ports)))),
    ];
    pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
