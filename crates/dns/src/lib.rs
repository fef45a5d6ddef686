//! The cluster's DNS: names of Services and pods from a zone that is a pure function of Services and EndpointSlices
//! (github.com/kubernetes/dns, "Kubernetes DNS-Based Service Discovery"), and everything else from the node's own name
//! servers.
//!
//! Deliberately absent: a cache (upstream name servers have one, and the zone is in memory), zone transfers, DNSSEC.

pub mod answer;
pub mod forward;
pub mod server;
pub mod zone;

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use component::Api;
use component::Context;
use component::api::Object;
use component::informer::{Informer, Selection};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;

use zone::Zone;

/// Where the server listens and what it is authoritative for.
#[derive(Clone, Debug)]
pub struct Config {
    /// UDP and TCP address.
    pub listen: SocketAddr,
    /// The cluster domain, `cluster.local`.
    pub domain: String,
    /// Who knows outside names.
    pub upstreams: forward::Upstreams,
}

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Changes are gathered this long before the zone is made anew.
const GATHER: Duration = Duration::from_millis(20);

/// The zone in force. Read for each query, replaced whole.
pub type SharedZone = Arc<RwLock<Arc<Zone>>>;

/// Runs until shutdown.
pub async fn run(context: Context, config: Config) -> Result<(), Error> {
    let zone: SharedZone = Arc::new(RwLock::new(Arc::new(Zone::not_yet(&config.domain))));
    let server = server::Server::bind(&config, zone.clone(), context.entropy.clone()).await?;
    server.start(&context.tasks, &context.shutdown);

    let services: Informer<Service> = start(&context);
    let slices: Informer<EndpointSlice> = start(&context);
    let changed = Arc::new(Notify::new());
    for_each_change(&services, &changed);
    for_each_change(&slices, &changed);
    let synced = async {
        services.synced().await;
        slices.synced().await;
    };
    tokio::select! {
        () = synced => changed.notify_one(),
        () = context.shutdown.cancelled() => return Ok(()),
    }
    loop {
        tokio::select! {
            () = changed.notified() => tokio::time::sleep(GATHER).await,
            () = context.shutdown.cancelled() => return Ok(()),
        }
        let new = Arc::new(Zone::build(&config.domain, &services.list(), &slices.list()));
        *zone.write().unwrap_or_else(std::sync::PoisonError::into_inner) = new;
    }
}

fn start<K>(context: &Context) -> Informer<K>
where
    K: kube::Resource<DynamicType = ()> + Object,
{
    Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::all(context.client.clone()),
        Selection::default(),
    )
}

fn for_each_change<K: Object>(informer: &Informer<K>, changed: &Arc<Notify>) {
    let changed = changed.clone();
    informer.on_change(move |_| changed.notify_one());
}
