//! What one pod asks of a node, worked out once when the pod is seen and not again for every node.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use pod_rules::ports::{HostPort, host_ports};
use pod_rules::resources::{self, Resources};
use pod_rules::{affinity, taints};

use crate::relations::{Identity, Relations};

/// What a pod takes from the node that it is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// What it asks for.
    pub requests: Resources,
    /// CPU in thousandths that it counts as in comparisons; never nothing.
    pub counted_cpu: i64,
    /// Memory in bytes that it counts as in comparisons; never nothing.
    pub counted_memory: i64,
    /// Ports of the node.
    pub ports: Vec<HostPort>,
    /// UID of its controller: pods of one controller are spread over nodes.
    pub owner: Option<String>,
    /// Priority.
    pub priority: i32,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// What others see of it.
    pub identity: Arc<Identity>,
    /// What it asks of others.
    pub relations: Option<Arc<Relations>>,
}

impl Usage {
    /// What a pod takes.
    pub fn of(pod: &Pod) -> Usage {
        let counted = resources::nonzero_requests(pod);
        let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
        let controller = owners.iter().find(|owner| owner.controller == Some(true));
        let identity = Identity::of(pod);
        Usage {
            requests: resources::requests(pod),
            counted_cpu: counted.milli_cpu,
            counted_memory: counted.memory,
            ports: host_ports(pod),
            owner: controller.map(|owner| owner.uid.clone()),
            priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
            created: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            relations: Relations::of(pod, &identity),
            identity: Arc::new(identity),
        }
    }
}

/// A pod that needs a node.
#[derive(Clone, Debug)]
pub struct Demand {
    /// The pod as it was last seen.
    pub pod: Arc<Pod>,
    /// What it will take.
    pub usage: Usage,
    /// The only nodes that can match, if the pod names them.
    pub named: Option<Vec<String>>,
    /// Whether it says which nodes it may run on.
    pub selective: bool,
    /// Whether it has preferences among nodes.
    pub preferring: bool,
    /// Whether it claims devices.
    pub claims_devices: bool,
}

impl Demand {
    /// What a pod asks for.
    pub fn of(pod: Arc<Pod>) -> Demand {
        let named = affinity::named_nodes(&pod);
        let named = named.map(|names| names.into_iter().map(str::to_owned).collect());
        let spec = pod.spec.as_ref();
        let selective = spec.is_some_and(|spec| {
            spec.node_selector.as_ref().is_some_and(|selector| !selector.is_empty())
                || spec.affinity.as_ref().is_some_and(|affinity| affinity.node_affinity.is_some())
        });
        let preferring = affinity::has_preference(&pod);
        let claims = spec.and_then(|spec| spec.resource_claims.as_deref()).unwrap_or_default();
        let claims_devices = !claims.is_empty();
        Demand { usage: Usage::of(&pod), named, selective, preferring, claims_devices, pod }
    }

    /// The pod's UID.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or("")
    }

    /// Whether where it can run depends on other pods.
    pub fn is_relational(&self) -> bool {
        self.usage.relations.as_ref().is_some_and(|relations| relations.requires())
    }

    /// The node that was promised to the pod when others were told to make room there.
    pub fn nominated(&self) -> Option<&str> {
        let node = self.pod.status.as_ref()?.nominated_node_name.as_deref()?;
        Some(node).filter(|node| !node.is_empty())
    }

    /// Whether a later state of the pod asks for something else.
    pub fn differs(&self, later: &Pod) -> bool {
        self.pod.spec != later.spec || self.pod.metadata.labels != later.metadata.labels
    }

    /// How many soft taints of a node the pod does not tolerate.
    pub fn soft_taints(&self, found: &[k8s_openapi::api::core::v1::Taint]) -> i64 {
        let untolerated = found.iter().filter(|taint| {
            taint.effect == taints::PREFER_NO_SCHEDULE
                && !taints::tolerations(&self.pod)
                    .iter()
                    .any(|toleration| taints::tolerates(toleration, taint))
        });
        i64::try_from(untolerated.count()).unwrap_or(i64::MAX)
    }
}
