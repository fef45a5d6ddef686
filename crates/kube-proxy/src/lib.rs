//! The service proxy: Services and EndpointSlices become a plan (pure), the plan becomes packet rules (pure), and only
//! the difference to what the kernel holds is applied, atomically. What others delete is put back.
//!
//! Deliberately absent: knowledge of pods (an EndpointSlice says all that matters) and of how packets reach a pod
//! (the pod network's work).

pub mod apply;
pub mod conntrack;
pub mod plan;
pub mod rules;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use component::Context;
use component::informer::{Informer, Selection};
use host::nft::{Nft, NftError};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use plan::Ranges;

/// What the proxy needs to know of its node and cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod and service ranges.
    pub ranges: Ranges,
    /// Cluster IPs that a process on this node answers itself (the cluster DNS).
    pub local_addresses: Vec<Ipv4Addr>,
}

/// Why the proxy cannot go on. A single failed application is retried, not returned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The packet filter cannot be watched.
    #[error("cannot watch the packet filter: {0}")]
    Monitor(#[source] NftError),
}

/// Changes are gathered this long before they are applied together.
const GATHER: Duration = Duration::from_millis(10);
/// How soon a failed application is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until shutdown. Rules stay behind: services go on when the proxy does not.
pub async fn run(context: Context, config: Config, nft: Arc<dyn Nft>) -> Result<(), Error> {
    let services: Informer<Service> = start(&context);
    let slices: Informer<EndpointSlice> = start(&context);
    let changed = Arc::new(Notify::new());
    for_each_change(&services, &changed);
    for_each_change(&slices, &changed);

    let mut monitor = nft.monitor().map_err(Error::Monitor)?;
    let mut applier = apply::Applier::new(nft);
    let mut wanted = Wanted::AtLeast(rules::build(&plan::Plan::new(), &config.ranges));
    let mut retry = reconcile(&mut applier, &wanted).await;
    let synced = async {
        services.synced().await;
        slices.synced().await;
    };
    tokio::pin!(synced);
    loop {
        let known = matches!(wanted, Wanted::Exactly(_));
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            () = &mut synced, if !known => {}
            () = changed.notified(), if known => tokio::time::sleep(GATHER).await,
            touched = monitor.recv() => match touched {
                Some(()) => { applier.doubt(); drain(&mut monitor); }
                None => return Err(Error::Monitor(NftError::MonitorEnded)),
            },
            () = until(retry) => applier.doubt(),
        }
        if services.has_synced() && slices.has_synced() {
            let plan = plan::plan(&services.list(), &slices.list(), &config.local_addresses);
            wanted = Wanted::Exactly(rules::build(&plan, &config.ranges));
        }
        retry = reconcile(&mut applier, &wanted).await;
    }
}

/// What the kernel should hold.
enum Wanted {
    /// Before any service is known: a packet to a service that does not exist (yet) is refused. Rules that an earlier
    /// proxy left stay as they are, since services go on while nobody can say what they are.
    AtLeast(rules::Ruleset),
    /// Just this.
    Exactly(rules::Ruleset),
}

/// Applies what is wanted; a failure is logged here and the time of the next try returned.
async fn reconcile(applier: &mut apply::Applier, wanted: &Wanted) -> Option<Instant> {
    let outcome = match wanted {
        Wanted::AtLeast(ruleset) => applier.establish(ruleset).await.map(|()| BTreeSet::new()),
        Wanted::Exactly(ruleset) => applier.reconcile(ruleset).await,
    };
    match outcome {
        Ok(stale) => {
            for flow in &stale {
                if let Err(error) = conntrack::forget(flow).await {
                    tracing::warn!(%error, ?flow, "datagrams may still be sent to a backend that is gone");
                }
            }
            None
        }
        Err(error) => {
            tracing::warn!(%error, "packet rules were not applied; trying again");
            Some(Instant::now() + RETRY)
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Several touches in a row are one reason to look.
fn drain(monitor: &mut mpsc::Receiver<()>) {
    while monitor.try_recv().is_ok() {}
}

fn start<K>(context: &Context) -> Informer<K>
where
    K: kube::Resource<DynamicType = ()> + component::informer::Watchable,
{
    Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::all(context.client.clone()),
        Selection::default(),
    )
}

fn for_each_change<K: component::informer::Watchable>(informer: &Informer<K>, changed: &Arc<Notify>) {
    let changed = changed.clone();
    informer.on_change(move |_| changed.notify_one());
}
