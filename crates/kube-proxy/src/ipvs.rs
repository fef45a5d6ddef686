//! The mode for those who want the kernel's virtual server (IPVS): a virtual service for every address of a port, on a
//! link that holds the addresses; the packet filter does the rest (`rules::Translator::VirtualServer`).
//!
//! The kernel tells nobody of changes of virtual services, nor when the last connection of a destination ends: both are
//! looked for from time to time (`--ipvs-sync-period`), unlike everything else.

mod table;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use host::ipvs::{Addresses, Change, Ipvs as VirtualServer, Services, VirtualService};
use host::nft::Nft;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::apply::{ApplyError, Mode};
use crate::nftables::Nftables;
use crate::plan::{Changes, Frontend, Network, Plan, PortChange, Ranges};
use crate::rules::Translator;
use table::Table;

/// What upstream has flags for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How a backend is chosen, by the kernel's name.
    pub scheduler: String,
    /// Only the link that has an address answers for it, so that a load balancer may announce those of Services.
    pub strict_arp: bool,
    /// How often the kernel is looked at although nothing is known to have changed.
    pub sync_period: Duration,
    /// Virtual services at such addresses are somebody else's.
    pub exclude: Vec<Network>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            scheduler: "rr".to_owned(),
            strict_arp: false,
            sync_period: Duration::from_secs(30),
            exclude: Vec::new(),
        }
    }
}

/// Brings virtual server and packet filter to a plan.
pub struct Ipvs {
    kernel: Arc<dyn VirtualServer>,
    nft: Arc<dyn Nft>,
    tasks: TaskTracker,
    ranges: Ranges,
    settings: Settings,
    filter: Nftables,
    table: Table,
    /// What the kernel is believed to have.
    services: Services,
    addresses: Addresses,
    /// It is more than a belief.
    sure: bool,
    looked: Option<Instant>,
}

/// What goes when the packet filter no longer leads to it.
#[derive(Debug, Default)]
struct Gone {
    addresses: Vec<Ipv4Addr>,
    services: Vec<Change>,
}

impl Ipvs {
    /// Nothing is read or written yet.
    pub fn new(
        kernel: Arc<dyn VirtualServer>,
        nft: Arc<dyn Nft>,
        tasks: TaskTracker,
        ranges: Ranges,
        settings: Settings,
    ) -> Self {
        let filter = Nftables::with(nft.clone(), Translator::VirtualServer(BTreeSet::new()), &ranges);
        let table = Table::new(settings.scheduler.clone());
        let (services, addresses) = (Services::new(), Addresses::default());
        Self {
            kernel,
            nft,
            tasks,
            ranges,
            settings,
            filter,
            table,
            services,
            addresses,
            sure: false,
            looked: None,
        }
    }

    fn ours(&self, service: &VirtualService) -> bool {
        !self.settings.exclude.iter().any(|network| network.contains(service.address))
    }

    /// Reads what the kernel has. Whether the node's own addresses are others than before.
    async fn look(&mut self) -> Result<bool, ApplyError> {
        self.kernel.prepare(self.settings.strict_arp).await?;
        let mut services = self.kernel.services().await?;
        services.retain(|service, _| self.ours(service));
        self.services = services;
        let addresses = self.kernel.addresses().await?;
        let moved = addresses.own != self.addresses.own;
        self.addresses = addresses;
        self.looked = Some(Instant::now());
        Ok(moved)
    }

    /// What comes, for some frontends; and what shall go.
    async fn advance(&mut self, frontends: &BTreeSet<Frontend>) -> Result<Gone, ApplyError> {
        let own = &self.addresses.own;
        let services = table::services(frontends, own);
        let losing = services.iter().filter(|service| {
            let held = self.services.get(*service);
            held.is_some_and(|held| table::loses(held, self.table.wanted(service, own)))
        });
        let losing: Vec<_> = losing.copied().collect();
        if !losing.is_empty() {
            for (service, destinations) in self.kernel.destinations(losing).await? {
                if let Some(held) = self.services.get_mut(&service) {
                    held.destinations = destinations;
                }
            }
        }
        let (mut come, mut gone) = (Vec::new(), Gone::default());
        for service in services.into_iter().filter(|service| self.ours(service)) {
            let want = self.table.wanted(&service, &self.addresses.own);
            let changes = table::difference(service, self.services.get(&service), want);
            if want.is_some() { come.extend(changes) } else { gone.services.extend(changes) }
        }
        self.change(come).await?;
        let mut addresses = Vec::new();
        for address in frontends.iter().filter_map(address) {
            match (self.table.has(address), self.addresses.held.contains(&address)) {
                (true, false) if !self.addresses.own.contains(&address) => addresses.push(address),
                (false, true) => gone.addresses.push(address),
                _ => {}
            }
        }
        addresses.dedup();
        gone.addresses.dedup();
        self.kernel.hold(addresses.clone(), Vec::new()).await?;
        self.addresses.held.extend(addresses);
        Ok(gone)
    }

    /// Everything that is wanted or there.
    fn all(&self) -> BTreeSet<Frontend> {
        let mut all = self.table.frontends();
        all.extend(self.addresses.held.iter().map(|address| {
            // Any port: only the address counts.
            Frontend::Address(*address, crate::plan::Protocol::Tcp, 0)
        }));
        all.extend(self.services.keys().filter_map(|service| {
            let protocol = crate::plan::Protocol::named(&service.protocol.to_string())?;
            Some(Frontend::Address(service.address, protocol, service.port))
        }));
        all
    }

    async fn change(&mut self, changes: Vec<Change>) -> Result<(), ApplyError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.kernel.change(changes.clone()).await?;
        table::record(&mut self.services, &changes);
        Ok(())
    }

    /// The addresses first: a service without its address gets no packets, an address without its service the node's.
    async fn retire(&mut self, gone: Gone) -> Result<(), ApplyError> {
        for address in &gone.addresses {
            self.addresses.held.remove(address);
        }
        self.kernel.hold(Vec::new(), gone.addresses).await?;
        self.change(gone.services).await
    }

    /// The packet filter's part with the node's own addresses of now.
    fn renew_filter(&mut self, plan: &Plan) -> Changes {
        let translator = Translator::VirtualServer(self.addresses.own.clone());
        self.filter = Nftables::with(self.nft.clone(), translator, &self.ranges);
        let anew = |port: &crate::plan::PortPlan| PortChange { old: None, new: Some(port.clone()) };
        plan.ports.iter().map(|(name, port)| (name.clone(), anew(port))).collect()
    }
}

fn address(frontend: &Frontend) -> Option<Ipv4Addr> {
    match frontend {
        Frontend::Address(address, ..) => Some(*address),
        Frontend::NodePort(..) => None,
    }
}

#[async_trait]
impl Mode for Ipvs {
    fn monitor(&self) -> Result<mpsc::Receiver<()>, ApplyError> {
        let mut rules = self.filter.monitor()?;
        let mut addresses = self.kernel.monitor()?;
        let (sender, receiver) = mpsc::channel(1);
        self.tasks.spawn(async move {
            loop {
                let news = tokio::select! {
                    news = rules.recv() => news,
                    news = addresses.recv() => news,
                    () = sender.closed() => None,
                };
                // A full channel already says what this says.
                let closed = matches!(sender.try_send(()), Err(mpsc::error::TrySendError::Closed(())));
                if news.is_none() || closed {
                    break;
                }
            }
        });
        Ok(receiver)
    }

    fn doubt(&mut self) {
        self.sure = false;
        self.filter.doubt();
    }

    fn next_look(&self) -> Option<Instant> {
        self.looked.map(|looked| looked + self.settings.sync_period)
    }

    async fn establish(&mut self) -> Result<(), ApplyError> {
        self.kernel.prepare(self.settings.strict_arp).await?;
        self.filter.establish().await
    }

    async fn reconcile(&mut self, plan: &Plan, changes: &Changes) -> Result<(), ApplyError> {
        let touched = self.table.take(changes);
        let mut come = None;
        if std::mem::take(&mut self.sure) {
            match self.advance(&touched).await {
                Ok(gone) => come = Some(Ok(gone)),
                Err(error) => tracing::debug!(%error, "the kernel holds something else than was believed"),
            }
        }
        let mut renewed = None;
        let come = match come {
            Some(come) => come,
            None => match self.look().await {
                Ok(moved) => {
                    renewed = moved.then(|| self.renew_filter(plan));
                    let all = self.all();
                    self.advance(&all).await
                }
                Err(error) => Err(error),
            },
        };
        // Taken in even when the virtual server fails.
        let filtered = self.filter.reconcile(plan, renewed.as_ref().unwrap_or(changes)).await;
        let gone = come?;
        filtered?;
        self.retire(gone).await?;
        self.sure = true;
        Ok(())
    }
}
