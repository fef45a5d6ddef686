//! What all pods' workers share, and where a pod's files are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use component::Context;
use component::events::{EventType, Recorder, reference};
use component::informer::Informer;
use host::cgroup::Hierarchy;
use host::mount::Mounts;
use k8s_openapi::api::core::v1::{Pod, Service};

use crate::config::Config;
use crate::images::Images;
use crate::lifecycle::{NodeFacts, uid};
use crate::objects::Objects;
use crate::podspec::{ClusterFacts, NodeResources, Resolver, name, namespace};
use crate::runtime::Runtime;
use crate::tokens::Tokens;

/// How long a container's start waits for config maps, secrets and services to be read for the first time.
pub(crate) const FIRST_READ: Duration = Duration::from_secs(3);

pub(crate) struct Shared {
    pub context: Context,
    pub config: Config,
    pub runtime: Arc<dyn Runtime>,
    pub recorder: Recorder,
    pub objects: Objects,
    pub services: Informer<Service>,
    pub tokens: Tokens,
    pub images: Images,
    pub mounts: Arc<dyn Mounts>,
    pub cgroups: Option<Hierarchy>,
    pub cluster: ClusterFacts,
    pub node: NodeFacts,
    pub resources: NodeResources,
}

impl Shared {
    /// The pod's own directory.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.pods_dir().join(uid)
    }

    /// The pod's log directory.
    pub fn log_dir(&self, pod: &Pod) -> PathBuf {
        self.config.logs_dir().join(format!("{}_{}_{}", namespace(pod), name(pod), uid(pod)))
    }

    /// The node's resolver, read anew for each sandbox.
    pub fn resolver(&self) -> Resolver {
        Resolver::parse(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    /// Records an event about the pod.
    pub fn pod_event(&self, pod: &Pod, kind: EventType, reason: &str, note: impl Into<String>) {
        self.recorder.event(&reference(pod), kind, reason, note);
    }

    /// Records an event about one of the pod's containers.
    pub fn container_event(
        &self,
        pod: &Pod,
        container: &str,
        kind: EventType,
        reason: &str,
        note: impl Into<String>,
    ) {
        let init = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_ref());
        let is_init = init.into_iter().flatten().any(|found| found.name == container);
        let field = if is_init { "spec.initContainers" } else { "spec.containers" };
        let mut object = reference(pod);
        object.field_path = Some(format!("{field}{{{container}}}"));
        self.recorder.event(&object, kind, reason, note);
    }
}
