//! Who a request that is passed on is for: the address of a pod, a node or its kubelet, looked up and checked once. Where a
//! Service is served, `egress` finds out.
//!
//! Nothing is sent here, and no name is resolved: whatever a node or a pod calls itself, only a literal address counts.

use std::net::SocketAddr;

use api_machinery::status::ApiError;
use api_machinery::tunnel::is_ordinary;

use super::kubelet::{self, KubeletAddress};
use crate::egress::Destination;
use crate::egress::service::addresses;
use crate::references::{items, node_name};
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::Lookup;

/// Who is asked.
pub enum Target {
    /// A kubelet, as the server.
    Kubelet(KubeletAddress),
    /// A pod or another port of a node, as nobody in particular.
    Pod {
        /// Where it is.
        to: Destination,
        /// Whether TLS is spoken with it.
        tls: bool,
    },
    /// One of those who serve a Service, as nobody in particular.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Which of its ports, by number or name.
        port: String,
        /// Whether TLS is spoken with them.
        tls: bool,
    },
}

/// Who is asked, and for what.
pub struct Request {
    /// Who.
    pub target: Target,
    /// The path and query.
    pub path_and_query: String,
}

/// `name`, `name:port` or `scheme:name:port`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Id<'a> {
    tls: bool,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Id<'a>> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match parts.as_slice() {
            [name] => ("", *name, ""),
            [name, port] => ("", *name, *port),
            [scheme, name, port] => (*scheme, *name, *port),
            _ => return None,
        };
        let known = matches!(scheme, "" | "http" | "https") && !name.is_empty();
        known.then_some(Id { tls: scheme == "https", name, port })
    }

    /// The port by number; that of the scheme where none is said.
    fn number(&self, otherwise: Option<u16>) -> Option<u16> {
        if self.port.is_empty() {
            return otherwise.or(Some(if self.tls { 443 } else { 80 }));
        }
        self.port.parse().ok().filter(|port| *port != 0)
    }
}

/// What a call comes to. `tail` is the path behind the subresource.
pub async fn of(
    server: &ApiServer,
    call: &ResourceCall,
    tail: &str,
    query: &str,
) -> Result<Request, ApiError> {
    let bad = |what: &str| ApiError::bad_request(format!("invalid {what} request {:?}", call.info.name));
    let id = |what: &str| Id::parse(&call.info.name).ok_or_else(|| bad(what));
    let target = match call.resource.plural.as_ref() {
        "pods" => pod(server, call, id("pod")?).await?.ok_or_else(|| bad("pod"))?,
        "services" => {
            let Id { tls, name, port } = id("service")?;
            let [namespace, name, port] = [&call.namespace, name, port].map(str::to_owned);
            Target::Service { namespace, name, port, tls }
        }
        _ => node(server, id("node")?).await?.ok_or_else(|| bad("node"))?,
    };
    let question = if query.is_empty() { "" } else { "?" };
    let slash = if tail.is_empty() { "/" } else { "" };
    Ok(Request { target, path_and_query: format!("{slash}{tail}{question}{query}") })
}

/// A pod at its own address, at the first port that it declares unless another is asked for.
async fn pod(server: &ApiServer, call: &ResourceCall, id: Id<'_>) -> Result<Option<Target>, ApiError> {
    let pod = server.cache().get("", "pods", &call.namespace, id.name).await?;
    let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", id.name))?;
    let address = addresses(&pod).next().filter(|address| is_ordinary(*address)).ok_or_else(not_allowed)?;
    let spec = crate::references::spec(&pod);
    let declared = items(spec, "containers").find_map(|container| items(container, "ports").next());
    let declared = declared.and_then(|port| port["containerPort"].as_u64());
    let declared = declared.and_then(|port| u16::try_from(port).ok());
    Ok(id.number(declared).map(|port| {
        let to =
            Destination::Pod { node: node_name(&pod).to_owned(), address: SocketAddr::new(address, port) };
        Target::Pod { to, tls: id.tls }
    }))
}

/// The kubelet of a node, or whoever listens at another port of the node.
async fn node(server: &ApiServer, id: Id<'_>) -> Result<Option<Target>, ApiError> {
    let kubelet = kubelet::of_node(server, id.name).await?;
    let Some(port) = id.number(Some(kubelet.port)) else { return Ok(None) };
    if port == kubelet.port {
        return Ok(Some(Target::Kubelet(kubelet)));
    }
    // Only a kubelet, which must prove that it is one, may be where the server itself is.
    if !is_ordinary(kubelet.address) {
        return Err(not_allowed());
    }
    let address = SocketAddr::new(kubelet.address, port);
    Ok(Some(Target::Pod { to: Destination::Pod { node: kubelet.node, address }, tls: id.tls }))
}

/// Upstream's words for addresses that nobody may lead the server to.
fn not_allowed() -> ApiError {
    ApiError::bad_request("address not allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        let table = [
            ("web", Some((false, "web", ""))),
            ("web:80", Some((false, "web", "80"))),
            ("web:http", Some((false, "web", "http"))),
            ("https:web:443", Some((true, "web", "443"))),
            ("http:web:", Some((false, "web", ""))),
            (":web:80", Some((false, "web", "80"))),
            ("ftp:web:80", None),
            ("a:b:c:d", None),
            (":80", None),
            ("", None),
        ];
        for (text, wanted) in table {
            let wanted = wanted.map(|(tls, name, port)| Id { tls, name, port });
            assert_eq!(Id::parse(text), wanted, "{text}");
        }
        let port = |text: &str, otherwise| Id::parse(text).and_then(|id| id.number(otherwise));
        assert_eq!(port("web", None), Some(80));
        assert_eq!(port("web", Some(8080)), Some(8080));
        assert_eq!(port("https:web:", None), Some(443));
        assert_eq!(port("web:9", Some(8080)), Some(9));
        for bad in ["web:0", "web:65536", "web:http", "web:-1"] {
            assert_eq!(port(bad, None), None, "{bad}");
        }
    }
}
