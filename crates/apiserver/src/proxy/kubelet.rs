//! Kubelets as the server sees them: where a node's is, and the way of asking one.
//!
//! Which address a node has is looked at before anything is sent to it. How bytes travel is behind `Kubelets`.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use api_machinery::meta;
use api_machinery::status::{ApiError, Reason};
use api_machinery::tunnel::is_ordinary;
use async_trait::async_trait;
use http::{Request, StatusCode};
use rustls::ClientConfig;
use serde_json::Value;

use crate::egress::Egress;
use crate::exchange::Exchanged;
use crate::server::ApiServer;
use crate::types::{Lookup, RequestBody};

/// Where a kubelet listens unless its node says otherwise.
const KUBELET_PORT: u64 = 10250;

/// Where a kubelet is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KubeletAddress {
    /// The node's name, which its certificate is for as well.
    pub node: String,
    /// The address that was checked and must be used.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

impl KubeletAddress {
    /// Address and port.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.port)
    }

    /// 502 for one that sends the server elsewhere.
    pub fn redirected(&self, status: StatusCode) -> ApiError {
        let text = format!("the kubelet of node {} answered {}", self.node, status.as_u16());
        ApiError::new(Reason::InternalError, text).with_code(StatusCode::BAD_GATEWAY.as_u16())
    }
}

/// Why a kubelet did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KubeletError(pub String);

/// How kubelets are reached: TLS with the server's client certificate, or a fake.
#[async_trait]
pub trait Kubelets: Send + Sync {
    /// Sends a request over a connection that `egress` makes. Bodies stream.
    async fn send(
        &self,
        egress: &dyn Egress,
        kubelet: &KubeletAddress,
        request: Request<RequestBody>,
    ) -> Result<Exchanged, KubeletError>;

    /// How TLS is spoken with pods, whose certificates are for no address; `None` if it is not.
    fn tls_with_pods(&self) -> Option<Arc<ClientConfig>>;
}

/// Kubelets that cannot be reached, for servers without nodes.
#[derive(Debug, Default)]
pub struct NoKubelets;

#[async_trait]
impl Kubelets for NoKubelets {
    async fn send(
        &self,
        _: &dyn Egress,
        kubelet: &KubeletAddress,
        _: Request<RequestBody>,
    ) -> Result<Exchanged, KubeletError> {
        Err(KubeletError(format!("no way to the kubelet of node {}", kubelet.node)))
    }

    fn tls_with_pods(&self) -> Option<Arc<ClientConfig>> {
        None
    }
}

/// The kubelet of a node.
pub async fn of_node(server: &ApiServer, name: &str) -> Result<KubeletAddress, ApiError> {
    let node = server.cache().get("", "nodes", "", name).await?;
    address(server, &*node.ok_or_else(|| ApiError::not_found("", "nodes", name))?)
}

/// The kubelet of the node that a pod is on.
pub async fn of_pod(server: &ApiServer, pod: &Value) -> Result<KubeletAddress, ApiError> {
    let node = crate::references::node_name(pod);
    if node.is_empty() {
        let text = format!("pod {} does not have a host assigned", meta::name(pod));
        return Err(ApiError::bad_request(text));
    }
    of_node(server, node).await
}

/// The address of a node's kubelet. Only literal addresses count, so that nothing is resolved, and none that would lead
/// the server to itself or to a cloud's metadata.
fn address(server: &ApiServer, node: &Value) -> Result<KubeletAddress, ApiError> {
    let name = meta::name(node);
    let list = node.pointer("/status/addresses").and_then(Value::as_array);
    let of = |kind: &str| {
        let mut entries = list.into_iter().flatten();
        entries.find(|entry| entry["type"] == kind).and_then(|entry| entry["address"].as_str())
    };
    let text = of("InternalIP").or_else(|| of("ExternalIP"));
    let text = text.ok_or_else(|| ApiError::bad_request(format!("node {name} has no address yet")))?;
    let address: IpAddr = text
        .parse()
        .map_err(|_| ApiError::bad_request(format!("node {name} has an address that is none: {text:?}")))?;
    // A server that pods reach at a loopback address only has its node there too.
    let config = server.config();
    let loopback =
        address.is_loopback() && (config.loopback_kubelets || config.advertise_address.is_loopback());
    if !is_ordinary(address) && !loopback {
        return Err(ApiError::bad_request(format!(
            "address {address} of node {name} is not one to proxy to"
        )));
    }
    let port = node.pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
    let port = u16::try_from(port.filter(|port| *port != 0).unwrap_or(KUBELET_PORT));
    let port = port.map_err(|_| ApiError::bad_request(format!("node {name} has a port that is none")))?;
    Ok(KubeletAddress { node: name.to_owned(), address, port })
}
