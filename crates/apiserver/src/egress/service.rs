//! Where a Service is reached: at its ready endpoints, as its EndpointSlices name them.
//!
//! The cluster address is not used: nobody translates it where a control plane without a node runs. What is spoken with an
//! endpoint is not known here.

use std::net::{IpAddr, SocketAddr};

use api_machinery::meta;
use api_machinery::status::ApiError;
use api_machinery::tunnel::is_ordinary;
use serde_json::Value;

use super::Destination;
use crate::references::{items, node_name, text};
use crate::types::Lookup;

/// By which label a slice says whose it is.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// One of a Service's ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServicePort<'a> {
    /// By its number.
    Number(u16),
    /// By its name, which is empty where there is only one.
    Name(&'a str),
}

/// Whose endpoints count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Those of pods of the Service's namespace, at the address that the pod has: who writes slices does not lead the server
    /// elsewhere.
    Pods,
    /// All of them: whoever names the Service answers for it.
    All,
}

/// Where a port of a Service is served, in the order of its slices; never nowhere.
pub(super) async fn endpoints(
    lookup: &dyn Lookup,
    namespace: &str,
    name: &str,
    port: ServicePort<'_>,
    trust: Trust,
) -> Result<Vec<Destination>, ApiError> {
    let gone = || ApiError::not_found("", "services", name);
    let service = lookup.get("", "services", namespace, name).await?.ok_or_else(gone)?;
    if text(&service, "/spec/type") == "ExternalName" {
        return Err(ApiError::service_unavailable("unsupported service type \"ExternalName\""));
    }
    let port_name = match port {
        ServicePort::Name(name) => name,
        ServicePort::Number(number) => port_name(&service, number).ok_or_else(|| {
            ApiError::service_unavailable(format!("no service port {number} found for service {name:?}"))
        })?,
    };
    let mut found = serving(lookup, namespace, name, port_name, trust).await?;
    if found.is_empty() {
        // What is known may be older than what whoever asks has just written.
        lookup.fresh().await?;
        found = serving(lookup, namespace, name, port_name, trust).await?;
    }
    if found.is_empty() {
        let message = format!("no endpoints available for service {name:?}");
        return Err(ApiError::service_unavailable(message));
    }
    Ok(found)
}

/// Where the port of this name is served.
async fn serving(
    lookup: &dyn Lookup,
    namespace: &str,
    name: &str,
    port: &str,
    trust: Trust,
) -> Result<Vec<Destination>, ApiError> {
    let slices = lookup.list("discovery.k8s.io", "endpointslices", Some(namespace)).await?;
    let mut found = Vec::new();
    for slice in slices.iter().filter(|slice| meta::label(slice, SERVICE_NAME) == Some(name)) {
        let Some(port) = served_at(slice, port) else { continue };
        for endpoint in items(slice, "endpoints").filter(|endpoint| is_ready(endpoint)) {
            found.extend(destination(lookup, namespace, endpoint, port, trust).await?);
        }
    }
    Ok(found)
}

/// The name of the port with a number; others than TCP are not reached from here.
fn port_name(service: &Value, number: u16) -> Option<&str> {
    let ports = service.get("spec").into_iter().flat_map(|spec| items(spec, "ports"));
    let mut ports = ports.filter(|port| is_tcp(port) && port["port"].as_u64() == Some(number.into()));
    ports.next().map(|port| text(port, "/name"))
}

fn is_tcp(port: &Value) -> bool {
    matches!(text(port, "/protocol"), "" | "TCP")
}

/// The port at which a slice's endpoints serve the one of this name.
fn served_at(slice: &Value, name: &str) -> Option<u16> {
    let port = items(slice, "ports").find(|port| is_tcp(port) && text(port, "/name") == name)?;
    port["port"].as_u64().and_then(|port| u16::try_from(port).ok())
}

/// Nothing said means yes.
fn is_ready(endpoint: &Value) -> bool {
    endpoint.pointer("/conditions/ready").and_then(Value::as_bool) != Some(false)
}

async fn destination(
    lookup: &dyn Lookup,
    namespace: &str,
    endpoint: &Value,
    port: u16,
    trust: Trust,
) -> Result<Option<Destination>, ApiError> {
    let address = items(endpoint, "addresses").next().and_then(Value::as_str);
    let address = address.and_then(|address| address.parse().ok()).filter(|address| is_ordinary(*address));
    let Some(address) = address else { return Ok(None) };
    let at = SocketAddr::new(address, port);
    let of = endpoint.get("targetRef").filter(|of| text(of, "/kind") == "Pod");
    let pod = match of.filter(|of| text(of, "/namespace") == namespace) {
        Some(of) => lookup.get("", "pods", namespace, text(of, "/name")).await?,
        None => None,
    };
    // Which node it is on, the pod knows for certain.
    let pod = pod.filter(|pod| addresses(pod).any(|own| own == address));
    Ok(match (pod.as_deref().map(node_name), trust) {
        (Some(""), _) | (None, Trust::Pods) => None,
        (Some(node), _) => Some(Destination::Pod { node: node.to_owned(), address: at }),
        (None, Trust::All) => Some(Destination::Address(at)),
    })
}

/// The addresses that a pod has.
pub fn addresses(pod: &Value) -> impl Iterator<Item = IpAddr> + '_ {
    let status = pod.get("status").unwrap_or(&Value::Null);
    let several = items(status, "podIPs").map(|entry| text(entry, "/ip"));
    std::iter::once(text(status, "/podIP")).chain(several).filter_map(|address| address.parse().ok())
}
