//! What must exist before anybody is served: the first namespaces, the gate's roles and priority classes, and the
//! Services by which pods find the API server and DNS.
//!
//! All of it is asked for through the same path as everybody else's requests, as the server itself. Without the first
//! namespaces and the Services no node or pod gets on, so these are made again when somebody deletes them; roles and
//! priority classes come back with the next start.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use api_machinery::meta;
use api_machinery::resource::Resource;
use http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::aggregation;
use crate::catalog;
use crate::server::{ApiServer, StartError};
use crate::servers::Member;
use crate::types::UserInfo;
use crate::watch::{ResourceCache, Selection};

/// The pause after an object that is gone could not be made again.
const RETRY: Duration = Duration::from_secs(1);
/// Where nodes elect who answers for a load balancer's address: Leases that the identity of nodes' networks may write, and
/// nothing else.
const LOAD_BALANCERS: &str = "skiff-load-balancers";
/// Objects that are made at the same time, so that they share the store's commits.
const AT_ONCE: usize = 32;

/// The identity of the server's own requests.
pub fn identity() -> UserInfo {
    UserInfo::new("system:apiserver", &["system:masters", "system:authenticated"])
}

/// Makes what is missing and brings up to date what the server owns; then sees to it that the essential stays.
pub async fn run(server: &Arc<ApiServer>) -> Result<(), StartError> {
    let client = server.client(identity());
    let namespaces = ["default", "kube-system", "kube-public", "kube-node-lease", LOAD_BALANCERS];
    let namespaces =
        namespaces.map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}));
    ensure_all(server, &client, namespaces.clone().into()).await?;
    let mut kept = api_service(server);
    if let Some(address) = server.config().dns_address {
        kept.push(dns_service(address));
    }
    let mut objects = server.gate().bootstrap_objects();
    objects.extend(aggregation::local::built_in(&server.catalog()));
    objects.extend(kept.clone());
    // With a namespace go the rights in it.
    kept.extend(objects.iter().filter(|object| meta::namespace(object) == LOAD_BALANCERS).cloned());
    ensure_all(server, &client, objects).await?;
    for object in namespaces.into_iter().chain(kept) {
        let (_, cache) = place(server, &object)?;
        server.tasks().spawn(keep(server.clone(), client.clone(), cache, object));
    }
    if server.config().shared_store && reachable(server.config().advertise_address) {
        server.tasks().spawn(Member::new(server.clone(), client)?.run());
    }
    Ok(())
}

/// The resource of an object, and its cache.
pub(crate) fn place(
    server: &ApiServer,
    wanted: &Value,
) -> Result<(Arc<Resource>, Arc<ResourceCache>), StartError> {
    let catalog = server.catalog();
    let resource = catalog.of_kind(meta::api_version(wanted), meta::kind(wanted));
    let found = resource.and_then(|resource| Some((resource.clone(), server.cache().resource(resource)?)));
    found.ok_or_else(|| failed(wanted, "no such kind"))
}

fn failed(wanted: &Value, error: impl ToString) -> StartError {
    let what = format!("{} {}", meta::kind(wanted), meta::name(wanted));
    StartError::Bootstrap { what, error: error.to_string() }
}

/// Makes an object again whenever it is gone, until the server stops.
async fn keep(server: Arc<ApiServer>, client: kube::Client, cache: Arc<ResourceCache>, wanted: Value) {
    let key = catalog::key(meta::namespace(&wanted), meta::name(&wanted));
    let selection = Selection::one(meta::namespace(&wanted), meta::name(&wanted));
    let keeping = async {
        loop {
            // What happens from here on wakes the wait below.
            let (_, mut changes) = cache.list_and_subscribe(&selection);
            if cache.get(&key).is_some() {
                changes.wait().await;
            } else if let Err(error) = ensure(server.clone(), client.clone(), wanted.clone()).await {
                tracing::warn!(%error, "what the cluster needs was deleted and could not be made again");
                tokio::time::sleep(RETRY).await;
            } else if let Err(error) = server.cache().catch_up().await {
                tracing::warn!(%error, "what the cluster needs was made again, but is not seen yet");
            }
        }
    };
    server.shutdown().run_until_cancelled(keeping).await;
}

async fn ensure_all(
    server: &Arc<ApiServer>,
    client: &kube::Client,
    objects: Vec<Value>,
) -> Result<(), StartError> {
    let mut running = JoinSet::new();
    for object in objects {
        if running.len() >= AT_ONCE {
            finished(running.join_next().await)?;
        }
        running.spawn(ensure(server.clone(), client.clone(), object));
    }
    while let Some(result) = running.join_next().await {
        finished(Some(result))?;
    }
    Ok(())
}

fn finished(
    result: Option<Result<Result<(), StartError>, tokio::task::JoinError>>,
) -> Result<(), StartError> {
    match result {
        None => Ok(()),
        Some(Ok(result)) => result,
        Some(Err(error)) => Err(StartError::Bootstrap {
            what: "an object that must exist".to_owned(),
            error: error.to_string(),
        }),
    }
}

/// Makes one object, or brings it up to date.
pub(crate) async fn ensure(
    server: Arc<ApiServer>,
    client: kube::Client,
    wanted: Value,
) -> Result<(), StartError> {
    let (resource, cache) = place(&server, &wanted)?;
    let collection = collection(&resource, meta::namespace(&wanted));
    let path = format!("{collection}/{}", percent_encode(meta::name(&wanted)));
    let key = catalog::key(meta::namespace(&wanted), meta::name(&wanted));
    let existing = cache.get(&key).and_then(|found| found.content());
    let request = match existing {
        None => send("POST", &collection, &wanted),
        Some(existing) => {
            let own = reconcile(&wanted, &existing);
            match own.or_else(|| server.gate().reconcile(&wanted, &existing)) {
                Some(updated) => send("PUT", &path, &updated),
                None => return Ok(()),
            }
        }
    };
    let error = match client.request::<Value>(request).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    // Another server was faster, and has the name or the address.
    let taken = [StatusCode::CONFLICT, StatusCode::UNPROCESSABLE_ENTITY].map(|code| code.as_u16());
    if matches!(&error, kube::Error::Api(status) if taken.contains(&status.code))
        && client.request::<Value>(send("GET", &path, &Value::Null)).await.is_ok()
    {
        return Ok(());
    }
    Err(failed(&wanted, error))
}

fn percent_encode(name: &str) -> String {
    percent_encoding::utf8_percent_encode(name, percent_encoding::NON_ALPHANUMERIC).to_string()
}

pub(crate) fn send(method: &str, path: &str, object: &Value) -> Request<Vec<u8>> {
    Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())
        .expect("the path is made of names that were checked")
}

/// The path of a collection.
fn collection(resource: &Resource, namespace: &str) -> String {
    let root = if resource.group.is_empty() {
        format!("/api/{}", resource.version)
    } else {
        format!("/apis/{}/{}", resource.group, resource.version)
    };
    if resource.namespaced() {
        format!("{root}/namespaces/{namespace}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    }
}

/// Where servers are is the one thing here that changes.
fn reconcile(wanted: &Value, existing: &Value) -> Option<Value> {
    let field = match meta::kind(wanted) {
        "Endpoints" => "subsets",
        "EndpointSlice" => "endpoints",
        _ => return None,
    };
    let mut updated = existing.clone();
    updated[field] = wanted[field].clone();
    if let Some(ports) = wanted.get("ports") {
        updated["ports"] = ports.clone();
    }
    (updated != *existing).then_some(updated)
}

/// The Service `kubernetes` and where it leads.
fn api_service(server: &ApiServer) -> Vec<Value> {
    let config = server.config();
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {
            "type": "ClusterIP", "clusterIP": config.service_cidr.nth(1).map(|address| address.to_string()),
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": config.port}],
        },
    })];
    // Endpoints may not be loopback addresses, and one of them would lead a pod to itself.
    if reachable(config.advertise_address) && !config.shared_store {
        objects.extend(servers_at(&[config.advertise_address], config.port));
    }
    objects
}

/// What says where the Service `kubernetes` leads. There is an address at least.
pub(crate) fn servers_at(addresses: &[IpAddr], port: u16) -> [Value; 2] {
    let family = if addresses.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" };
    let ips: Vec<Value> = addresses.iter().map(|address| json!({"ip": address.to_string()})).collect();
    let ready = |address: &IpAddr| json!({"addresses": [address.to_string()], "conditions": {"ready": true}});
    let listed: Vec<Value> = addresses.iter().map(ready).collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let endpoints = json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{"addresses": ips, "ports": ports}],
    });
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": family,
        "endpoints": listed,
        "ports": ports,
    });
    [endpoints, slice]
}

fn reachable(address: IpAddr) -> bool {
    !address.is_loopback() && !address.is_unspecified()
}

/// The Service of cluster DNS. Nothing is selected: the node's proxy answers at its address.
fn dns_service(address: Ipv4Addr) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "kube-dns", "namespace": "kube-system",
            "labels": {"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": address.to_string(),
            "ports": [
                {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
                {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
            ],
        },
    })
}
