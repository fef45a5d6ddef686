//! What the API says, by Service: its object and its EndpointSlices, and which Services changed since anybody looked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use component::informer::{Change, Informer};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use tokio::sync::Notify;

use crate::plan::ServiceName;

/// A Service whose object or slices changed, as they are now.
pub struct Changed {
    /// Its name.
    pub name: ServiceName,
    /// Its object, if there is one.
    pub service: Option<Arc<Service>>,
    /// Its slices in the order of their names.
    pub slices: Vec<Arc<EndpointSlice>>,
}

/// Follows Services and EndpointSlices.
#[derive(Clone, Default)]
pub struct Inputs {
    known: Arc<Mutex<Known>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    services: BTreeMap<ServiceName, Arc<Service>>,
    slices: BTreeMap<ServiceName, BTreeMap<String, Arc<EndpointSlice>>>,
    changed: BTreeSet<ServiceName>,
}

impl Inputs {
    /// Follows both from now on.
    pub fn follow(&self, services: &Informer<Service>, slices: &Informer<EndpointSlice>) {
        let this = self.clone();
        services.on_change(move |change| this.service(&change));
        let this = self.clone();
        slices.on_change(move |change| this.slice(&change));
    }

    /// Returns when something may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// All Services that changed since the last call.
    pub fn take(&self) -> Vec<Changed> {
        let mut known = self.known();
        let names = std::mem::take(&mut known.changed);
        let changed = |name: ServiceName| {
            let slices = known.slices.get(&name).map(|slices| slices.values().cloned().collect());
            Changed { service: known.services.get(&name).cloned(), slices: slices.unwrap_or_default(), name }
        };
        names.into_iter().map(changed).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn service(&self, change: &Change<'_, Service>) {
        let metadata = &change.latest().metadata;
        let (Some(namespace), Some(name)) = (&metadata.namespace, &metadata.name) else { return };
        let name = (namespace.clone(), name.clone());
        let mut known = self.known();
        match change.new {
            Some(service) => known.services.insert(name.clone(), service.clone()),
            None => known.services.remove(&name),
        };
        known.changed.insert(name);
        self.changed.notify_one();
    }

    fn slice(&self, change: &Change<'_, EndpointSlice>) {
        let mut known = self.known();
        if let Some((service, name)) = change.old.and_then(|slice| names(slice)) {
            let empty = known.slices.get_mut(&service).is_some_and(|slices| {
                slices.remove(&name);
                slices.is_empty()
            });
            if empty {
                known.slices.remove(&service);
            }
            known.changed.insert(service);
        }
        if let Some(slice) = change.new
            && let Some((service, name)) = names(slice)
        {
            known.slices.entry(service.clone()).or_default().insert(name, slice.clone());
            known.changed.insert(service);
        }
        self.changed.notify_one();
    }
}

/// The Service that a slice belongs to, and the slice's own name.
fn names(slice: &EndpointSlice) -> Option<(ServiceName, String)> {
    let metadata = &slice.metadata;
    let service = metadata.labels.as_ref()?.get("kubernetes.io/service-name")?;
    Some(((metadata.namespace.clone()?, service.clone()), metadata.name.clone()?))
}
