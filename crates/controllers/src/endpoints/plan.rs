//! What a Service's Endpoints object says: addresses of its pods, packed into subsets that share their ports. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::status;

use crate::services;

/// Most addresses in one object.
pub(crate) const CAPACITY: usize = 1000;
/// Says that there are more addresses than the object holds.
pub(crate) const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Names who keeps the object.
pub(crate) const MANAGER_LABEL: &str = "endpoints.kubernetes.io/managed-by";
/// Our name in that label.
pub(crate) const MANAGER: &str = "endpoint-controller";

/// Ports in comparable form: name, protocol, number, application protocol.
type Ports = Vec<(String, String, i32, Option<String>)>;
/// Addresses in the order in which they are written, each with whether it is ready.
type Addresses = BTreeMap<(String, String), (EndpointAddress, bool)>;

/// The object as it is to be, if it differs from the one that is there.
pub(crate) fn plan(service: &Service, pods: &[Arc<Pod>], before: Option<&Endpoints>) -> Option<Endpoints> {
    let mut groups = grouped(service, pods);
    let truncated = truncate(&mut groups);
    let subsets: Vec<EndpointSubset> =
        groups.into_iter().map(|(ports, addresses)| subset(&ports, addresses)).collect();
    let mut metadata = before.map_or_else(
        || ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        |before| before.metadata.clone(),
    );
    metadata.labels = Some(labels(service));
    let mut annotations = metadata.annotations.take().unwrap_or_default();
    annotations.remove(OVER_CAPACITY);
    if truncated {
        annotations.insert(OVER_CAPACITY.to_owned(), "truncated".to_owned());
    }
    metadata.annotations = (!annotations.is_empty()).then_some(annotations);
    let wanted = Endpoints { metadata, subsets: (!subsets.is_empty()).then_some(subsets) };
    let same = before.is_some_and(|before| {
        let annotations = |endpoints: &Endpoints| endpoints.metadata.annotations.clone().unwrap_or_default();
        before.metadata.labels == wanted.metadata.labels
            && annotations(before) == annotations(&wanted)
            && before.subsets.as_deref().unwrap_or_default() == wanted.subsets.as_deref().unwrap_or_default()
    });
    (!same).then_some(wanted)
}

fn labels(service: &Service) -> BTreeMap<String, String> {
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    labels.insert(MANAGER_LABEL.to_owned(), MANAGER.to_owned());
    if services::is_headless(service) {
        labels.insert(services::HEADLESS_LABEL.to_owned(), String::new());
    } else {
        labels.remove(services::HEADLESS_LABEL);
    }
    labels
}

/// The pods' addresses by the ports that they offer. Pods that are being deleted count only if readiness does not.
fn grouped(service: &Service, pods: &[Arc<Pod>]) -> BTreeMap<Ports, Addresses> {
    let family = services::families(service).first().copied().unwrap_or("IPv4");
    let anyhow = services::publishes_not_ready(service);
    let mut groups: BTreeMap<Ports, Addresses> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| anyhow || !status::is_deleting(pod)) {
        let mut of_family =
            services::addresses(pod).into_iter().filter(|address| services::family_of(address) == family);
        let Some(address) = of_family.next() else { continue };
        let ports = ports_of(service, pod);
        // Only a Service that asks for no port at all has addresses without one.
        if ports.is_empty() && !(services::ports(service).is_empty() && services::is_headless(service)) {
            continue;
        }
        let written = EndpointAddress {
            ip: address.to_owned(),
            hostname: services::hostname(service, pod),
            node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            target_ref: Some(services::reference(pod)),
        };
        let key = (address.to_owned(), pod.metadata.uid.clone().unwrap_or_default());
        groups.entry(ports).or_default().insert(key, (written, anyhow || status::is_ready(pod)));
    }
    groups
}

fn ports_of(service: &Service, pod: &Pod) -> Ports {
    let mut ports: Ports = services::ports(service)
        .iter()
        .filter_map(|port| {
            let number = services::target_port(pod, port)?;
            let protocol = services::protocol(port.protocol.as_ref()).to_owned();
            Some((port.name.clone().unwrap_or_default(), protocol, number, port.app_protocol.clone()))
        })
        .collect();
    ports.sort();
    ports
}

/// Drops what does not fit, first those that are not ready. Returns whether anything was dropped.
fn truncate(groups: &mut BTreeMap<Ports, Addresses>) -> bool {
    let all: usize = groups.values().map(BTreeMap::len).sum();
    let mut surplus = all.saturating_sub(CAPACITY);
    let truncated = surplus > 0;
    for drop_ready in [false, true] {
        for addresses in groups.values_mut().rev() {
            let candidates = addresses.iter().rev().filter(|(_, (_, ready))| *ready == drop_ready);
            let dropped: Vec<_> = candidates.map(|(key, _)| key.clone()).take(surplus).collect();
            surplus -= dropped.len();
            addresses.retain(|key, _| !dropped.contains(key));
        }
    }
    groups.retain(|_, addresses| !addresses.is_empty());
    truncated
}

fn subset(ports: &Ports, addresses: Addresses) -> EndpointSubset {
    let (ready, waiting): (Vec<_>, Vec<_>) = addresses.into_values().partition(|(_, ready)| *ready);
    let some = |addresses: Vec<(EndpointAddress, bool)>| {
        let addresses: Vec<_> = addresses.into_iter().map(|(address, _)| address).collect();
        (!addresses.is_empty()).then_some(addresses)
    };
    let port = |(name, protocol, port, app_protocol): &(String, String, i32, Option<String>)| EndpointPort {
        name: Some(name.clone()).filter(|name| !name.is_empty()),
        protocol: Some(protocol.clone()),
        port: *port,
        app_protocol: app_protocol.clone(),
    };
    EndpointSubset {
        addresses: some(ready),
        not_ready_addresses: some(waiting),
        ports: (!ports.is_empty()).then(|| ports.iter().map(port).collect()),
    }
}
