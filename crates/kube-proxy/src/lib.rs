//! The service proxy: Services and EndpointSlices become a plan (pure), the plan becomes packet rules (pure), and only
//! the difference to what the kernel holds is applied. What others delete is put back.
//!
//! Deliberately absent: knowledge of pods (an EndpointSlice says all that matters) and of how packets reach a pod
//! (the pod network's work).

pub mod apply;
pub mod clean;
pub mod conntrack;
pub mod health;
pub mod inputs;
pub mod iptables;
pub mod ipvs;
pub mod nftables;
pub mod plan;
pub mod rules;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use component::Api;
use component::Context;
use component::informer::{Informer, Selection};
use host::ipvs::{Ipvs as _, IpvsError, Kernel};
use host::nft::NftProgram;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::mpsc;
use tokio::time::Instant;

use apply::{ApplyError, Mode};
use conntrack::Stale;
use inputs::Inputs;
use plan::{Changes, Node, Plan, Ranges, ServicePlan};

/// How the kernel is told (`--proxy-mode`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// Maps of nftables: a packet costs the same however many Services there are.
    #[default]
    Nftables,
    /// Chains of iptables, laid out as upstream's proxy does, for hosts that expect them.
    Iptables,
    /// The kernel's virtual server, for hosts that know it: `ipvsadm` shows what it does.
    Ipvs,
}

impl std::str::FromStr for ProxyMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "nftables" | "" => Ok(Self::Nftables),
            "iptables" => Ok(Self::Iptables),
            "ipvs" => Ok(Self::Ipvs),
            other => Err(format!("unknown proxy mode {other:?}: must be nftables, iptables or ipvs")),
        }
    }
}

/// What the proxy needs to know of its node and cluster.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name: which endpoints are local.
    pub node_name: String,
    /// Pod and service ranges.
    pub ranges: Ranges,
    /// Cluster IPs that a process on this node answers itself (the cluster DNS).
    pub local_addresses: Vec<Ipv4Addr>,
    /// How the kernel is told.
    pub mode: ProxyMode,
    /// What the mode `ipvs` must know.
    pub ipvs: ipvs::Settings,
}

/// Why the proxy cannot go on. A single failed application is retried, not returned.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The packet filter cannot be watched.
    #[error("cannot watch the packet filter: {0}")]
    Monitor(#[source] ApplyError),
    /// This kernel has no virtual server.
    #[error("--proxy-mode ipvs: {0}")]
    Ipvs(#[source] IpvsError),
    /// Watching it came to an end.
    #[error("changes of the packet filter are no longer told")]
    MonitorEnded,
}

/// How soon a failed application is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Runs until shutdown. Rules stay behind: services go on when the proxy does not.
pub async fn run(context: Context, config: Config, nft: Arc<NftProgram>) -> Result<(), Error> {
    let ranges = config.ranges.clone();
    let mode: Box<dyn Mode> = match config.mode {
        ProxyMode::Nftables => Box::new(nftables::Nftables::new(nft, &ranges)),
        ProxyMode::Iptables => Box::new(iptables::Iptables::new(nft, ranges)),
        ProxyMode::Ipvs => {
            let (tasks, settings) = (context.tasks.clone(), config.ipvs.clone());
            let kernel = Arc::new(Kernel::new(tasks.clone()));
            // Without it every try would fail: that is no reason to try again.
            kernel.prepare(settings.strict_arp).await.map_err(Error::Ipvs)?;
            Box::new(ipvs::Ipvs::new(kernel, nft, tasks, ranges, settings))
        }
    };
    run_with(context, config, mode).await
}

/// The same with a mode of the caller's.
pub async fn run_with(context: Context, config: Config, mode: Box<dyn Mode>) -> Result<(), Error> {
    let services: Informer<Service> = start(&context);
    let slices: Informer<EndpointSlice> = start(&context);
    let inputs = Inputs::default();
    inputs.follow(&services, &slices);

    let mut monitor = mode.monitor().map_err(Error::Monitor)?;
    let health = health::Server::new(context.tasks.clone(), context.shutdown.clone());
    let node = Node { name: config.node_name, answered: config.local_addresses };
    let mut proxy = Proxy {
        mode,
        node,
        plan: Plan::default(),
        stale: BTreeSet::new(),
        known: false,
        looked: false,
        others: Some(config.mode),
        health,
    };
    let mut retry = proxy.reconcile(&inputs).await;
    let synced = async {
        services.synced().await;
        slices.synced().await;
    };
    tokio::pin!(synced);
    loop {
        tokio::select! {
            () = context.shutdown.cancelled() => return Ok(()),
            () = &mut synced, if !proxy.known => proxy.known = true,
            // What changes while changes are applied is gathered meanwhile.
            () = inputs.changed(), if proxy.known => {}
            touched = monitor.recv() => match touched {
                Some(()) => { proxy.mode.doubt(); drain(&mut monitor); }
                None => return Err(Error::MonitorEnded),
            },
            () = until(retry) => proxy.mode.doubt(),
        }
        retry = proxy.reconcile(&inputs).await;
    }
}

struct Proxy {
    mode: Box<dyn Mode>,
    node: Node,
    plan: Plan,
    /// Flows to forget as soon as the kernel has the rules.
    stale: BTreeSet<Stale>,
    /// All Services are known.
    known: bool,
    /// Flows of before have been looked for.
    looked: bool,
    /// What other modes than this left is still there.
    others: Option<ProxyMode>,
    health: health::Server,
}

impl Proxy {
    /// Brings the kernel to what is known; a failure is logged here. When to look again is returned.
    async fn reconcile(&mut self, inputs: &Inputs) -> Option<Instant> {
        let outcome = match self.known {
            false => self.mode.establish().await,
            true => {
                let changes = self.take(inputs);
                self.stale.extend(conntrack::stale(&changes));
                if !std::mem::replace(&mut self.looked, true) {
                    self.look_for_left_over().await;
                }
                self.mode.reconcile(&self.plan, &changes).await
            }
        };
        if let Err(error) = outcome {
            tracing::warn!(%error, "packet rules were not applied; trying again");
            return Some(Instant::now() + RETRY);
        }
        for flow in std::mem::take(&mut self.stale) {
            if let Err(error) = conntrack::forget(&flow).await {
                tracing::warn!(%error, ?flow, "datagrams may still be sent to a backend that is gone");
            }
        }
        if let Some(mode) = self.others.filter(|_| self.known) {
            match clean::others(mode).await {
                Ok(()) => self.others = None,
                Err(error) => tracing::warn!(%error, "rules of another mode may be left; trying again"),
            }
        }
        self.mode.next_look()
    }

    fn take(&mut self, inputs: &Inputs) -> Changes {
        let mut all = Changes::new();
        for changed in inputs.take() {
            let part = match &changed.service {
                Some(service) => plan::plan(service, &changed.slices, &self.node),
                None => ServicePlan::default(),
            };
            plan::merge(&mut all, self.plan.replace(&changed.name, part));
        }
        self.health.serve(&self.plan.health);
        all
    }

    /// Flows of datagrams that went astray while no proxy was there.
    async fn look_for_left_over(&mut self) {
        match conntrack::list().await {
            Ok(flows) => self.stale.extend(conntrack::left_over(&flows, &self.plan)),
            Err(error) => tracing::warn!(%error, "datagrams may still be sent to backends of before"),
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
    K: kube::Resource<DynamicType = ()> + component::api::Object,
{
    Informer::start(
        &context.tasks,
        context.shutdown.clone(),
        Api::all(context.client.clone()),
        Selection::default(),
    )
}
