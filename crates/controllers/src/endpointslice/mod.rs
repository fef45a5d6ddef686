//! Publishes, in EndpointSlices, which pods stand behind a Service and in what state they are.
//!
//! Reads Services, pods, EndpointSlices, and the zones of nodes. Writes EndpointSlices that carry its name, and events.
//! Woken by Services, by pods that come, go or change in what is published, by its slices, and by nodes.
//!
//! Deliberately absent: slices of Services without a selector, which are somebody else's; and removing the slices of a
//! Service that is gone, which the garbage collector does by their owner.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};

use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByLabel;
use crate::wiring::{self, Cache};
use crate::{Informers, answers, services};
use plan::Plan;

const WORKERS: usize = 4;

struct Controller {
    client: kube::Client,
    services: Informer<Service>,
    pods: ByLabel<Pod>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    /// Writes of slices, by Service.
    writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    services::wake(&queue, informers);
    services::wake_by_nodes(&queue, informers);
    let keys = queue.clone();
    informers.endpoint_slices.on_change(move |change: Change<'_, EndpointSlice>| {
        for slice in [change.old, change.new].into_iter().flatten() {
            if let Some(service) = plan::service_of(slice) {
                keys.add(ObjectKey::new(slice.metadata.namespace.clone().unwrap_or_default(), service));
            }
        }
    });
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        services: informers.services.clone(),
        pods: informers.pods_by_label.clone(),
        slices: informers.endpoint_slices.clone(),
        nodes: informers.nodes.clone(),
        writes: Expectations::default(),
        events: Recorder::new(context, "endpoint-slice-controller", None),
    });
    let caches: [&dyn Cache; 4] =
        [&informers.services, &informers.pods, &informers.endpoint_slices, &informers.nodes];
    wiring::run(
        context,
        ("endpointslice", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(service) = self.services.get(key) else {
            self.writes.forget(key);
            return Ok(Next::Done);
        };
        if services::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        let (of, uid) = (plan::selector(&key.name), service.metadata.uid.as_deref().unwrap_or_default());
        self.writes.resolve(key, &api, &of, uid).await?;
        let seen = self.slices.revision();
        let mut slices = self.slices.in_namespace(&key.namespace);
        slices.retain(|slice| plan::service_of(slice) == Some(&key.name));
        let alive = |uid: &str| {
            let is = |slice: &Arc<EndpointSlice>| slice.metadata.uid.as_deref() == Some(uid);
            slices.iter().any(|slice| is(slice) && slice.metadata.deletion_timestamp.is_none())
        };
        if !self.writes.met(key, seen, alive) {
            return Ok(NOT_SEEN);
        }
        let pods = services::pods_of(&service, &services::candidates(&service, &self.pods));
        let zone_of = |node: &str| {
            let node = self.nodes.get(&ObjectKey::new("", node))?;
            Some(services::zone(&node).map(str::to_owned))
        };
        let plan = plan::plan(&service, &pods, &slices, &zone_of);
        match self.carry_out(key, plan).await {
            Err(error) if answers::namespace_terminates(&error) => Ok(Next::Done),
            Err(error) => {
                let why = answers::message(&error);
                let note = format!("Error updating Endpoint Slices for Service {key}: {why}");
                if !answers::is_conflict(&error) {
                    let about = reference(&*service);
                    self.events.event(&about, EventType::Warning, "FailedToUpdateEndpointSlices", note);
                }
                Err(error)
            }
            Ok(()) => Ok(Next::Done),
        }
    }

    async fn carry_out(&self, key: &ObjectKey, plan: Plan) -> kube::Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), &key.namespace);
        for slice in &plan.create {
            self.writes.create(key, &api, slice).await?;
        }
        for slice in &plan.update {
            let name = slice.metadata.name.as_deref().unwrap_or_default();
            self.writes.wrote(key, &api.replace(name, &PostParams::default(), slice).await?);
        }
        for slice in &plan.delete {
            self.writes.delete(key, &api, &**slice, DeleteParams::default()).await?;
        }
        Ok(())
    }
}
