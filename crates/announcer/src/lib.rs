//! Load balancers without a cloud: a Service's address, given from a pool, is answered for by one node, which tells the
//! others on its link by ARP. Nodes elect who; the service proxy, which knows the address on every node, does the rest.
//!
//! An address moves when its node dies (within the times of [`campaign::TIMING`]), when it must not or need not answer any
//! more, and never otherwise. While the API server is away all stays as it is.
//!
//! Deliberately absent: giving addresses (the cloud controller manager's), IPv6, and routing protocols.

pub mod answer;
pub mod board;
pub mod campaign;
pub mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use component::api::Object;
use component::events::Recorder;
use component::informer::{Informer, Selection};
use component::lease::Candidate;
use component::{Api, Context, ObjectKey};
use host::arp::{Packet, Wire};
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use answer::Reaction;
use board::Board;
use campaign::{Campaign, TIMING};

/// The namespace of the Leases, one for each address and of its name. Nothing else is there, so that the right to write them is
/// no right to others.
pub const NAMESPACE: &str = "skiff-load-balancers";
/// How soon a link that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What the announcer needs to know of its node.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node's name.
    pub node_name: String,
}

/// Runs until shutdown, and then gives all addresses up. `open` opens the link.
pub async fn run(context: Context, config: Config, open: impl Fn() -> io::Result<Arc<dyn Wire>>) {
    let changed = Arc::new(Notify::new());
    let selection = Selection { fields: Some("spec.type=LoadBalancer".to_owned()), ..Selection::default() };
    let services = follow(&context, &context.shutdown, Api::all(context.client.clone()), selection, &changed);
    let recorder = Recorder::new(&context, "announcer", Some(config.node_name.clone()));
    let mut announcer = Announcer {
        context,
        node_name: config.node_name,
        services,
        nodes: None,
        slices: BTreeMap::new(),
        changed,
        recorder,
        board: Board::default(),
    };
    while !announcer.context.shutdown.is_cancelled() {
        let Err(error) = announcer.serve(&open).await else { return };
        tracing::warn!(%error, "the link cannot be used; no address is announced meanwhile");
        announcer.context.shutdown.run_until_cancelled(tokio::time::sleep(RETRY)).await;
    }
}

struct Announcer {
    context: Context,
    node_name: String,
    services: Informer<Service>,
    /// All nodes, once there is an address to stand for: most clusters have none.
    nodes: Option<Informer<Node>>,
    /// Of Services that only nodes with endpoints answer for.
    slices: BTreeMap<ObjectKey, (Informer<EndpointSlice>, CancellationToken)>,
    changed: Arc<Notify>,
    recorder: Recorder,
    board: Board,
}

/// The elections that this node takes part in.
#[derive(Default)]
struct Campaigns {
    running: BTreeMap<Ipv4Addr, CancellationToken>,
    tasks: JoinSet<()>,
}

impl Announcer {
    /// Serves a link until shutdown, or until it fails.
    async fn serve(&mut self, open: impl Fn() -> io::Result<Arc<dyn Wire>>) -> io::Result<()> {
        let wire = open()?;
        let mut campaigns = Campaigns::default();
        self.reconcile(&mut campaigns, &wire);
        let outcome = loop {
            tokio::select! {
                () = self.context.shutdown.cancelled() => break Ok(()),
                () = self.changed.notified() => self.reconcile(&mut campaigns, &wire),
                Some(_) = campaigns.tasks.join_next() => {}
                packet = wire.receive() => {
                    if let Err(error) = packet.and_then(|packet| self.heard(&packet, &*wire)) {
                        break Err(error);
                    }
                }
            }
        };
        for (address, stop) in std::mem::take(&mut campaigns.running) {
            self.board.leave(address);
            stop.cancel();
        }
        while campaigns.tasks.join_next().await.is_some() {}
        outcome
    }

    fn heard(&self, packet: &Packet, wire: &dyn Wire) -> io::Result<()> {
        match answer::react(packet, wire.hardware_address()?, |address| self.board.answers(address)) {
            Reaction::None => {}
            Reaction::Contested(address) => self.board.contest(address, packet.sender.mac, Instant::now()),
            Reaction::Answer(reply) => {
                if let Err(error) = wire.send(packet.sender.mac, &reply) {
                    tracing::debug!(%error, "an answer was not sent; whoever asked will ask again");
                }
            }
        }
        Ok(())
    }

    /// Begins and ends elections.
    fn reconcile(&mut self, campaigns: &mut Campaigns, wire: &Arc<dyn Wire>) {
        let services = self.services.list();
        self.follow_slices(&services);
        let nodes = match services.iter().any(|service| plan::is_announced(service)) {
            true => self.nodes().list(),
            false => Vec::new(),
        };
        let slices =
            |key: &ObjectKey| self.slices.get(key).map(|(slices, _)| slices.list()).unwrap_or_default();
        let held = |address| self.board.answers(address);
        let mut plan = plan::plan(&services, slices, &nodes, &self.node_name, held);
        campaigns.running.retain(|address, stop| {
            let stays = plan.remove(address).is_some();
            if !stays {
                self.board.leave(*address);
                stop.cancel();
            }
            stays
        });
        for (address, candidacy) in plan {
            let (name, own) = (address.to_string(), self.node_name.clone());
            let candidate = Candidate::new(self.context.clone(), NAMESPACE, &name, own).timing(TIMING);
            let campaign = Campaign {
                address,
                candidacy,
                candidate,
                board: self.board.clone(),
                wire: wire.clone(),
                recorder: self.recorder.clone(),
                node_name: self.node_name.clone(),
            };
            let stop = CancellationToken::new();
            campaigns.tasks.spawn(campaign.run(self.board.enter(address), stop.clone()));
            campaigns.running.insert(address, stop);
        }
    }

    /// Follows the endpoints that matter, and no others.
    fn follow_slices(&mut self, services: &[Arc<Service>]) {
        let wanted = |service: &&Arc<Service>| plan::is_announced(service) && plan::is_local(service);
        let mut before = std::mem::take(&mut self.slices);
        for key in services.iter().filter(wanted).map(|service| ObjectKey::of(&**service)) {
            let followed = before.remove(&key).unwrap_or_else(|| self.slices_of(&key));
            self.slices.insert(key, followed);
        }
        for (_, stop) in before.into_values() {
            stop.cancel();
        }
    }

    fn nodes(&mut self) -> &Informer<Node> {
        let Self { context, changed, nodes, .. } = self;
        let all = || Api::all(context.client.clone());
        nodes.get_or_insert_with(|| follow(context, &context.shutdown, all(), Selection::default(), changed))
    }

    fn slices_of(&self, key: &ObjectKey) -> (Informer<EndpointSlice>, CancellationToken) {
        let stop = self.context.shutdown.child_token();
        let labels = Some(format!("kubernetes.io/service-name={}", key.name));
        let api = Api::namespaced(self.context.client.clone(), &key.namespace);
        let selection = Selection { labels, ..Selection::default() };
        (follow(&self.context, &stop, api, selection, &self.changed), stop)
    }
}

/// Follows objects, and tells of changes.
fn follow<K: Object>(
    context: &Context,
    stop: &CancellationToken,
    api: Api<K>,
    selection: Selection,
    changed: &Arc<Notify>,
) -> Informer<K> {
    let informer = Informer::start(&context.tasks, stop.clone(), api, selection);
    let notify = changed.clone();
    informer.on_change(move |_| notify.notify_one());
    informer
}
