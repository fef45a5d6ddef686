//! Whether a Service wants a load balancer, which, and what is to be done now. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, Service};
use serde_json::{Value, json};

use crate::node::plan::node_ref;
use crate::provider::{Ingress, LoadBalancerPort, LoadBalancerSpec, NodeRef, ProviderError, ServiceId};

/// Holds a Service until the cloud has nothing left for it.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Nodes with this label take no connections from load balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// What to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// It wants none (any more), and may have one.
    Delete,
    /// Something has changed, or nothing is known.
    Ensure(LoadBalancerSpec),
    /// Only the nodes have changed.
    Update(LoadBalancerSpec),
}

/// Whether the Service wants a load balancer from us.
pub(super) fn wants(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    }) && service.metadata.deletion_timestamp.is_none()
}

fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

/// Whether there may be something to do for it.
pub(super) fn concerns(service: &Service) -> bool {
    let spec = service.spec.as_ref();
    // The class cannot be added or removed later: with one, the finalizer is its implementation's.
    spec.is_some_and(|spec| spec.load_balancer_class.is_none()) && (wants(service) || has_finalizer(service))
}

/// Which Service it is.
pub(super) fn id(service: &Service) -> ServiceId {
    ServiceId { key: ObjectKey::of(service), uid: service.metadata.uid.clone().unwrap_or_default() }
}

/// What it has, by its status.
pub(super) fn held(service: &Service) -> Option<(ServiceId, Vec<Ingress>)> {
    let ingress = ingress(service);
    (concerns(service) && !ingress.is_empty()).then(|| (id(service), ingress))
}

fn ingress(service: &Service) -> Vec<Ingress> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let all = balancer.into_iter().flat_map(|balancer| balancer.ingress.iter().flatten());
    all.map(|one| Ingress {
        ip: one.ip.as_deref().and_then(|address| address.parse::<IpAddr>().ok()),
        hostname: one.hostname.clone().filter(|name| !name.is_empty()),
    })
    .collect()
}

/// The node as a target of load balancers, if it is one. Readiness does not matter: health checks are the load balancer's, and
/// a set of nodes that flaps would cut connections.
pub(super) fn target(node: &Arc<Node>) -> Option<NodeRef> {
    let excluded = node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
    let leaves = node.metadata.deletion_timestamp.is_some();
    // The cloud does not know it before its own controller has.
    let unknown = crate::node::plan::is_uninitialized(node);
    // Addresses are not what targets are found by, and change more often.
    (!excluded && !leaves && !unknown).then(|| NodeRef { addresses: Vec::new(), ..node_ref(node) })
}

/// What to do, given what the cloud was last told.
pub(super) fn plan(
    service: &Service,
    nodes: &[Arc<Node>],
    told: Option<&LoadBalancerSpec>,
) -> Result<Step, ProviderError> {
    if !concerns(service) {
        return Ok(Step::Nothing);
    }
    if !wants(service) {
        return Ok(Step::Delete);
    }
    let spec = wanted(service, nodes.iter().filter_map(target).collect())?;
    let Some(told) = told.filter(|_| !ingress(service).is_empty() && has_finalizer(service)) else {
        return Ok(Step::Ensure(spec));
    };
    if *told == spec {
        return Ok(Step::Nothing);
    }
    let others = LoadBalancerSpec { nodes: spec.nodes.clone(), ..told.clone() };
    Ok(if others == spec { Step::Update(spec) } else { Step::Ensure(spec) })
}

fn wanted(service: &Service, nodes: Vec<NodeRef>) -> Result<LoadBalancerSpec, ProviderError> {
    let spec = service.spec.clone().unwrap_or_default();
    let number = |number: Option<i32>| {
        number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number != 0)
    };
    let mut ports = Vec::new();
    for port in spec.ports.iter().flatten() {
        let (Some(listen), Some(node_port)) = (number(Some(port.port)), number(port.node_port)) else {
            let what = format!("port {} has no node port", port.port);
            return Err(ProviderError::Permanent(what));
        };
        let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
        ports.push(LoadBalancerPort { protocol, port: listen, node_port });
    }
    if ports.is_empty() {
        return Err(ProviderError::Permanent("no ports provided to load balancer".to_owned()));
    }
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    let mut annotations = service.metadata.annotations.clone().unwrap_or_default();
    annotations.retain(|name, _| name.contains("load-balancer"));
    Ok(LoadBalancerSpec {
        service: id(service),
        ports,
        nodes,
        health_check_port: number(spec.health_check_node_port).filter(|_| local),
        requested_address: spec.load_balancer_ip.filter(|address| !address.is_empty()),
        annotations,
    })
}

/// The merge patch for the status, if it is to change.
pub(super) fn status_change(service: &Service, wanted: &[Ingress]) -> Option<Value> {
    if ingress(service) == wanted {
        return None;
    }
    let one = |one: &Ingress| match (&one.ip, &one.hostname) {
        (Some(address), _) => json!({"ip": address.to_string(), "ipMode": "VIP"}),
        (None, hostname) => json!({"hostname": hostname}),
    };
    let list = match wanted {
        [] => Value::Null,
        some => some.iter().map(one).collect(),
    };
    // The UID: a namesake's status is another's.
    Some(json!({"metadata": {"uid": service.metadata.uid}, "status": {"loadBalancer": {"ingress": list}}}))
}

/// The merge patch that adds the finalizer, if it is not there.
pub(super) fn with_finalizer(service: &Service) -> Option<Value> {
    let mut all = service.metadata.finalizers.clone().unwrap_or_default();
    (!has_finalizer(service)).then(|| {
        all.push(FINALIZER.to_owned());
        finalizers(service, &all)
    })
}

/// The merge patch that removes the finalizer, if it is there.
pub(super) fn without_finalizer(service: &Service) -> Option<Value> {
    let mut all = service.metadata.finalizers.clone().unwrap_or_default();
    all.retain(|finalizer| finalizer != FINALIZER);
    has_finalizer(service).then(|| finalizers(service, &all))
}

/// The list is replaced as a whole: only in the object as it was seen, or somebody else's finalizer may get lost.
fn finalizers(service: &Service, all: &[String]) -> Value {
    let metadata = &service.metadata;
    json!({"metadata": {"uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": all}})
}
