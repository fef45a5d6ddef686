//! An API in this process that has Services with two endpoints each, lists them in pages and tells of changes, as the real one
//! does: what a component costs is measured without what the API server costs.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The port of every Service, and that of every endpoint.
pub const PORTS: (u16, u16) = (80, 8080);

/// The API's objects.
pub struct Api {
    services: Vec<String>,
    slices: Vec<String>,
    tell: mpsc::UnboundedSender<String>,
    told: Mutex<Option<mpsc::UnboundedReceiver<String>>>,
}

fn metadata(kind: &str, number: u32, revision: u32) -> Value {
    json!({
        "name": format!("service-{number}"), "namespace": format!("team-{}", number % 100),
        "uid": format!("{kind}-00000000-0000-4000-8000-{number:012x}"),
        "resourceVersion": revision.to_string(), "generation": 1, "creationTimestamp": "2026-01-01T00:00:00Z",
        "labels": {
            "app.kubernetes.io/name": "web", "app.kubernetes.io/instance": format!("web-{number}"),
            "kubernetes.io/service-name": format!("service-{number}"),
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
        },
    })
}

fn service(number: u32, address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": metadata("service", number, 1),
        "spec": {
            "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address], "sessionAffinity": "None",
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "internalTrafficPolicy": "Cluster",
            "selector": {"app.kubernetes.io/name": "web", "app.kubernetes.io/instance": format!("web-{number}")},
            "ports": [{"name": "http", "port": PORTS.0, "protocol": "TCP", "targetPort": PORTS.1}],
        },
        "status": {"loadBalancer": {}},
    })
}

fn slice(number: u32, endpoints: &[Ipv4Addr], revision: u32) -> Value {
    let endpoint = |address: &Ipv4Addr| {
        json!({
            "addresses": [address], "nodeName": format!("node-{}", u32::from(*address) % 200),
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "namespace": format!("team-{}", number % 100), "name": format!("web-{address}")},
        })
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata("slice", number, revision),
        "addressType": "IPv4", "ports": [{"name": "http", "port": PORTS.1, "protocol": "TCP"}],
        "endpoints": endpoints.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

impl Api {
    /// So many Services, with the addresses and endpoints that `place` gives each.
    pub fn new(services: u32, place: impl Fn(u32) -> (Ipv4Addr, [Ipv4Addr; 2])) -> Arc<Self> {
        let (tell, told) = mpsc::unbounded_channel();
        let objects = |number| {
            let (address, endpoints) = place(number);
            (service(number, address).to_string(), slice(number, &endpoints, 1).to_string())
        };
        let (services, slices) = (0..services).map(objects).unzip();
        Arc::new(Self { services, slices, tell, told: Mutex::new(Some(told)) })
    }

    /// A Service has other endpoints now: tells whoever follows.
    pub fn change(&self, number: u32, endpoints: &[Ipv4Addr], revision: u32) -> Result<()> {
        let event = json!({"type": "MODIFIED", "object": slice(number, endpoints, revision)});
        self.tell.send(format!("{event}\n")).context("nobody follows the endpoints any more")
    }

    /// The way to it.
    pub fn client(self: Arc<Self>) -> kube::Client {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = self.answer(&request);
            std::future::ready(Ok::<_, Infallible>(Response::new(answer)))
        });
        kube::Client::new(service, "default")
    }

    fn answer(&self, request: &Request<kube::client::Body>) -> BoxBody<Bytes, Infallible> {
        let query = request.uri().query().unwrap_or_default();
        let parameter =
            |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        let is_services = request.uri().path().ends_with("/services");
        if parameter("watch") == Some("true") {
            // Services do not change, and one watch of endpoints is enough.
            let told = match is_services {
                true => None,
                false => self.told.lock().unwrap_or_else(PoisonError::into_inner).take(),
            };
            return changes(told);
        }
        let objects = if is_services { &self.services } else { &self.slices };
        let number = |name| parameter(name).and_then(|number| number.parse().ok());
        let from = number("continue").unwrap_or(0).min(objects.len());
        let to = number("limit").map_or(objects.len(), |limit| objects.len().min(from + limit));
        let next = if to < objects.len() { to.to_string() } else { String::new() };
        let metadata = json!({"resourceVersion": "1", "continue": next});
        let items = objects[from..to].join(",");
        Full::new(Bytes::from(format!("{{\"metadata\":{metadata},\"items\":[{items}]}}"))).boxed()
    }
}

/// Events as they are told, if they are, without an end.
fn changes(told: Option<mpsc::UnboundedReceiver<String>>) -> BoxBody<Bytes, Infallible> {
    let events = futures::stream::unfold(told, async |told| {
        let mut told = told?;
        let event = told.recv().await?;
        Some((Ok(Frame::data(Bytes::from(event))), Some(told)))
    });
    BodyExt::boxed(StreamBody::new(events.chain(futures::stream::pending())))
}

#[cfg(test)]
mod tests {
    use component::informer::{Informer, Selection};
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use tokio_util::sync::CancellationToken;
    use tokio_util::task::TaskTracker;

    use super::*;

    fn place(number: u32) -> (Ipv4Addr, [Ipv4Addr; 2]) {
        let at = |last| Ipv4Addr::from(0x0a00_0000 + last);
        (at(number), [at(number * 2), at(number * 2 + 1)])
    }

    #[tokio::test]
    async fn endpoints_are_listed_in_pages_and_changes_are_told() {
        let api = Api::new(1200, place);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let all = component::Api::all(api.clone().client());
        let slices: Informer<EndpointSlice> =
            Informer::start(&tasks, stop.clone(), all, Selection::default());
        slices.synced().await;
        assert_eq!(slices.list().len(), 1200);
        let (tell, mut told) = mpsc::unbounded_channel();
        slices.on_change(move |change| {
            let latest = change.latest();
            tell.send((latest.metadata.name.clone(), latest.endpoints.iter().flatten().count()))
                .expect("the test listens");
        });
        api.change(7, &[Ipv4Addr::LOCALHOST], 2).expect("somebody follows");
        while told.recv().await != Some((Some("service-7".to_owned()), 1)) {}
        stop.cancel();
    }
}
