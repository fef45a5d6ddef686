//! A virtual server in memory, as strict as the kernel's: what is there already cannot come, what is not there cannot go.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Mutex;

use async_trait::async_trait;
use host::ipvs::{Addresses, Change, Destination, Held, Ipvs, IpvsError, Load, Services, VirtualService};
use tokio::sync::mpsc;

/// What it has, and what was asked of it.
#[derive(Default)]
pub struct State {
    pub services: Services,
    pub addresses: Addresses,
    pub changes: Vec<Change>,
    /// How often everything was read.
    pub looks: usize,
}

#[derive(Default)]
pub struct Fake(Mutex<State>);

impl Fake {
    /// Looks at it, or does to it what others do.
    pub fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.0.lock().expect("no test panics with it"))
    }
}

fn refuse(change: &Change) -> IpvsError {
    IpvsError::Refused { change: format!("{change:?}"), source: io::ErrorKind::AlreadyExists.into() }
}

fn make(services: &mut Services, change: &Change) -> Option<()> {
    match change {
        Change::AddService(service, scheduling) => {
            let held = Held { scheduling: scheduling.clone(), destinations: BTreeMap::new() };
            services.insert(*service, held).is_none().then_some(())
        }
        Change::SetService(service, scheduling) => {
            services.get_mut(service)?.scheduling = scheduling.clone();
            Some(())
        }
        Change::RemoveService(service) => services.remove(service).map(drop),
        Change::AddDestination(service, to, weight) => {
            let load = Load { weight: *weight, connections: 0 };
            services.get_mut(service)?.destinations.insert(*to, load).is_none().then_some(())
        }
        Change::SetDestination(service, to, weight) => {
            services.get_mut(service)?.destinations.get_mut(to)?.weight = *weight;
            Some(())
        }
        Change::RemoveDestination(service, to) => {
            services.get_mut(service)?.destinations.remove(to).map(drop)
        }
    }
}

#[async_trait]
impl Ipvs for Fake {
    async fn prepare(&self, _strict_arp: bool) -> Result<(), IpvsError> {
        Ok(())
    }

    async fn services(&self) -> Result<Services, IpvsError> {
        Ok(self.with(|state| {
            state.looks += 1;
            state.services.clone()
        }))
    }

    async fn destinations(
        &self,
        of: Vec<VirtualService>,
    ) -> Result<BTreeMap<VirtualService, BTreeMap<Destination, Load>>, IpvsError> {
        let find = |state: &mut State| {
            let found = |service| {
                let held: Option<&Held> = state.services.get(&service);
                (service, held.map(|held| held.destinations.clone()).unwrap_or_default())
            };
            of.into_iter().map(found).collect()
        };
        Ok(self.with(find))
    }

    async fn change(&self, changes: Vec<Change>) -> Result<(), IpvsError> {
        self.with(|state| {
            for change in changes {
                make(&mut state.services, &change).ok_or_else(|| refuse(&change))?;
                state.changes.push(change);
            }
            Ok(())
        })
    }

    async fn addresses(&self) -> Result<Addresses, IpvsError> {
        Ok(self.with(|state| state.addresses.clone()))
    }

    async fn hold(&self, come: Vec<Ipv4Addr>, gone: Vec<Ipv4Addr>) -> Result<(), IpvsError> {
        self.with(|state| {
            state.addresses.held.extend(come);
            state.addresses.held.retain(|address| !gone.contains(address));
        });
        Ok(())
    }

    fn monitor(&self) -> Result<mpsc::Receiver<()>, IpvsError> {
        Ok(mpsc::channel(1).1)
    }
}
