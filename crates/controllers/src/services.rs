//! Which pods stand behind a Service, and what each of them offers: shared by the two controllers that publish endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use component::ObjectKey;
use component::informer::{Change, Informer};
use component::queue::Queue;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use pod_rules::resources::is_sidecar;
use pod_rules::status;

use crate::Informers;
use crate::indices::ByLabel;
use crate::wiring;

/// Marks what belongs to a Service without an address of its own.
pub(crate) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// The labels that a Service's pods have; `None` if somebody else names its endpoints, or it has none.
pub(crate) fn selector(service: &Service) -> Option<&BTreeMap<String, String>> {
    let spec = service.spec.as_ref()?;
    let external = spec.type_.as_deref() == Some("ExternalName");
    spec.selector.as_ref().filter(|selector| !external && !selector.is_empty())
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = pod.metadata.labels.as_ref();
    let has = |key: &String| labels.and_then(|labels| labels.get(key));
    selector(service).is_some_and(|selector| selector.iter().all(|(key, value)| has(key) == Some(value)))
}

/// The pods among which are all of the Service's.
pub(crate) fn candidates(service: &Service, pods: &ByLabel<Pod>) -> Vec<Arc<Pod>> {
    let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
    pods.candidates(namespace, selector(service)).unwrap_or_default()
}

/// The Service's pods: those that have an address and have not ended.
pub(crate) fn pods_of(service: &Service, pods: &[Arc<Pod>]) -> Vec<Arc<Pod>> {
    let behind =
        |pod: &&Arc<Pod>| !status::is_terminal(pod) && !addresses(pod).is_empty() && selects(service, pod);
    pods.iter().filter(behind).cloned().collect()
}

/// The pod's addresses, the main one first.
pub(crate) fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = &pod.status else { return Vec::new() };
    let all: Vec<&str> = status.pod_ips.iter().flatten().map(|address| address.ip.as_str()).collect();
    let all = if all.is_empty() { status.pod_ip.iter().map(String::as_str).collect() } else { all };
    all.into_iter().filter(|address| !address.is_empty()).collect()
}

/// `IPv4` or `IPv6`.
pub(crate) fn family_of(address: &str) -> &'static str {
    if address.contains(':') { "IPv6" } else { "IPv4" }
}

/// The families in which a Service has endpoints, the main one first.
pub(crate) fn families(service: &Service) -> Vec<&str> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let named: Vec<&str> = spec.ip_families.iter().flatten().map(String::as_str).collect();
    match (named.is_empty(), spec.cluster_ip.as_deref()) {
        (false, _) => named,
        (true, Some(address)) if address.contains(':') => vec!["IPv6"],
        (true, _) => vec!["IPv4"],
    }
}

/// Whether the Service has no address of its own.
pub(crate) fn is_headless(service: &Service) -> bool {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref());
    matches!(address, None | Some("" | "None"))
}

/// Whether pods count that are not ready.
pub(crate) fn publishes_not_ready(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.publish_not_ready_addresses) == Some(true)
}

/// The Service's ports.
pub(crate) fn ports(service: &Service) -> &[ServicePort] {
    service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default()
}

/// `TCP` unless the port says otherwise.
pub(crate) fn protocol(protocol: Option<&String>) -> &str {
    protocol.map_or("TCP", String::as_str)
}

/// The pod's port that a Service's port leads to; `None` if it names a port that the pod does not have.
pub(crate) fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        // Zero is how the absence of a target is written.
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return Some(*number),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars = spec.init_containers.iter().flatten().filter(|container| is_sidecar(container));
    let offered =
        spec.containers.iter().chain(sidecars).flat_map(|container| container.ports.iter().flatten());
    let wanted = protocol(port.protocol.as_ref());
    let mut matching = offered.filter(|offered| {
        offered.name.as_deref() == Some(name) && protocol(offered.protocol.as_ref()) == wanted
    });
    matching.next().map(|offered| offered.container_port)
}

/// The name by which the pod is found below the Service's, if it is to be found by one.
pub(crate) fn hostname(service: &Service, pod: &Pod) -> Option<String> {
    let spec = pod.spec.as_ref()?;
    let below = spec.subdomain.is_some() && spec.subdomain == service.metadata.name;
    spec.hostname.clone().filter(|hostname| below && !hostname.is_empty())
}

/// Says which pod an endpoint is.
pub(crate) fn reference(pod: &Pod) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        ..ObjectReference::default()
    }
}

/// The zone that a node says it is in.
pub(crate) fn zone(node: &Node) -> Option<&str> {
    node.metadata.labels.as_ref()?.get(ZONE_LABEL).map(String::as_str)
}

/// Queues every Service that changes, or whose pods change in what endpoints say of them.
pub(crate) fn wake(queue: &Queue<ObjectKey>, informers: &Informers) {
    wiring::wake_by(queue, &informers.services);
    let (keys, services) = (queue.clone(), informers.services.clone());
    informers.pods.on_change(move |change: Change<'_, Pod>| {
        if let (Some(old), Some(new)) = (change.old, change.new)
            && said_of(old) == said_of(new)
        {
            return;
        }
        let (old, new) = (change.old, change.new);
        let services =
            services.in_namespace(change.latest().metadata.namespace.as_deref().unwrap_or_default());
        for service in services {
            if [old, new].into_iter().flatten().any(|pod| selects(&service, pod)) {
                keys.add(ObjectKey::of(&*service));
            }
        }
    });
}

/// Queues the Services of a node's pods when the node comes, goes, or turns out to be in another zone.
pub(crate) fn wake_by_nodes(queue: &Queue<ObjectKey>, informers: &Informers) {
    let (keys, services, pods) = (queue.clone(), informers.services.clone(), informers.pods.clone());
    let by_node = informers.pods_by_node.clone();
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let known = |node: Option<&Arc<Node>>| node.map(|node| zone(node).map(str::to_owned));
        // Before the first list of pods and Services is there, no Service has been looked at yet.
        let early = !pods.has_synced() || !services.has_synced();
        if early || known(change.old) == known(change.new) {
            return;
        }
        let name = change.latest().metadata.name.as_deref().unwrap_or_default();
        for pod in by_node.get(name) {
            queue_services_of(&keys, &services, &pod);
        }
    });
}

fn queue_services_of(keys: &Queue<ObjectKey>, services: &Informer<Service>, pod: &Pod) {
    for service in services.in_namespace(pod.metadata.namespace.as_deref().unwrap_or_default()) {
        if selects(&service, pod) {
            keys.add(ObjectKey::of(&*service));
        }
    }
}

/// All of a pod that endpoints depend on.
fn said_of(pod: &Pod) -> impl PartialEq {
    let spec = pod.spec.as_ref();
    let owned = |text: Option<&String>| text.cloned();
    (
        (pod.metadata.uid.clone(), pod.metadata.labels.clone(), status::is_deleting(pod)),
        (status::is_ready(pod), status::is_terminal(pod)),
        addresses(pod).into_iter().map(str::to_owned).collect::<Vec<_>>(),
        (
            owned(spec.and_then(|spec| spec.node_name.as_ref())),
            owned(spec.and_then(|spec| spec.hostname.as_ref())),
            owned(spec.and_then(|spec| spec.subdomain.as_ref())),
        ),
    )
}
