//! Services of type LoadBalancer get a load balancer of the cloud's, and its addresses in their status.
//!
//! Reads Services and Nodes; writes Services' finalizer and `status.loadBalancer`, and events. Woken by Services, and by
//! nodes that come, go, are excluded or get their provider ID.
//!
//! Nothing leaks: the finalizer is there before the cloud is asked for anything, and goes when the cloud has nothing left.
//! Services with a `loadBalancerClass` belong to somebody else.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use component::Api;
use component::controller::{self, Next};
use component::events::{EventType, Recorder, reference};
use component::freshness::Freshness;
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Node, Service};
use kube::api::{Patch, PatchParams};
use serde_json::Value;

use crate::Config;
use crate::answers::{Failure, Retries, is_not_found, when};
use crate::informers::Informers;
use crate::provider::{Answer, LoadBalancerSpec, LoadBalancers, Provider, ProviderError};
use plan::Step;

const WORKERS: usize = 4;

struct Controller {
    client: kube::Client,
    services: Informer<Service>,
    nodes: Informer<Node>,
    provider: Arc<dyn Provider>,
    /// What the cloud was last told, successfully. A hint: without it, the cloud is told again.
    told: Mutex<BTreeMap<ObjectKey, LoadBalancerSpec>>,
    written: Freshness<ObjectKey>,
    retries: Retries,
    events: Recorder,
}

/// Starts the controller.
pub(crate) fn start(context: &Context, informers: &Informers, config: &Config) {
    let queue: Queue<ObjectKey> = Queue::new();
    wake(&queue, informers);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        services: informers.services.clone(),
        nodes: informers.nodes.clone(),
        provider: config.provider.clone(),
        told: Mutex::default(),
        written: Freshness::default(),
        retries: Retries::default(),
        events: Recorder::new(context, "service-controller", None),
    });
    let waiting = controller.clone();
    let synced = async move {
        waiting.services.synced().await;
        waiting.nodes.synced().await;
    };
    let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
    when(context, synced, move || {
        if let Some(balancers) = controller.provider.load_balancers() {
            let held = controller.services.list();
            balancers.restore(&held.iter().filter_map(|service| plan::held(service)).collect::<Vec<_>>());
        }
        controller::run(&tasks, shutdown, "service", queue, WORKERS, move |key: ObjectKey| {
            let controller = controller.clone();
            async move {
                let result = controller.reconcile(&key).await;
                controller.retries.settle(&key.to_string(), result)
            }
        });
    });
}

fn wake(queue: &Queue<ObjectKey>, informers: &Informers) {
    let (keys, services) = (queue.clone(), informers.services.clone());
    informers.services.on_change(move |change: Change<'_, Service>| {
        // An address was given back: somebody may wait for one.
        let has = |service: &Arc<Service>| plan::held(service).is_some();
        if change.old.is_some_and(has) && !change.new.is_some_and(has) {
            let waiting = |service: &&Arc<Service>| plan::wants(service) && !has(service);
            for service in services.list().iter().filter(waiting) {
                keys.add(ObjectKey::of(&**service));
            }
        }
        if [change.old, change.new].into_iter().flatten().any(|service| plan::concerns(service)) {
            keys.add(ObjectKey::of(&**change.latest()));
        }
    });
    let (keys, services) = (queue.clone(), informers.services.clone());
    informers.nodes.on_change(move |change: Change<'_, Node>| {
        let target = |node: &Arc<Node>| plan::target(node);
        if change.old.and_then(target) != change.new.and_then(target) {
            for service in services.list().iter().filter(|service| plan::wants(service)) {
                keys.add(ObjectKey::of(&**service));
            }
        }
    });
}

impl Controller {
    fn told(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, LoadBalancerSpec>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn balancers(&self) -> Answer<&dyn LoadBalancers> {
        let none = || ProviderError::Permanent("the provider has no load balancers".to_owned());
        self.provider.load_balancers().ok_or_else(none)
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Failure> {
        if !self.written.ready(key, self.services.revision()) {
            return Ok(Next::Done);
        }
        let service = self.services.get(key);
        let told = self.told().get(key).cloned();
        // Somebody took the finalizer away, or a namesake came: what there was for the old one goes first.
        if let Some(told) =
            told.as_ref().filter(|told| service.as_ref().is_none_or(|now| plan::id(now) != told.service))
        {
            self.balancers()?.delete(&told.service).await?;
            self.told().remove(key);
        }
        let Some(service) = service else {
            self.written.forget(key);
            return Ok(Next::Done);
        };
        let told = told.filter(|told| told.service == plan::id(&service));
        match plan::plan(&service, &self.nodes.list(), told.as_ref())? {
            Step::Nothing => {}
            Step::Delete => self.delete(key, &service).await?,
            Step::Ensure(spec) => self.ensure(key, &service, spec).await?,
            Step::Update(spec) => self.update(key, &service, spec).await?,
        }
        Ok(Next::Done)
    }

    fn event(&self, service: &Service, kind: EventType, reason: &str, note: String) {
        self.events.event(&reference(service), kind, reason, note);
    }

    async fn delete(&self, key: &ObjectKey, service: &Service) -> Result<(), Failure> {
        self.event(service, EventType::Normal, "DeletingLoadBalancer", "Deleting load balancer".to_owned());
        if let Err(error) = self.balancers()?.delete(&plan::id(service)).await {
            let note = format!("Error syncing load balancer: failed to delete load balancer: {error}");
            self.event(service, EventType::Warning, "SyncLoadBalancerFailed", note);
            return Err(error.into());
        }
        self.told().remove(key);
        let mut current = service.clone();
        if let Some(status) = plan::status_change(service, &[]) {
            let Some(written) = self.patch(key, &status, true).await? else { return Ok(()) };
            current = written;
        }
        if let Some(change) = plan::without_finalizer(&current) {
            self.patch(key, &change, false).await?;
        }
        self.event(service, EventType::Normal, "DeletedLoadBalancer", "Deleted load balancer".to_owned());
        Ok(())
    }

    async fn ensure(
        &self,
        key: &ObjectKey,
        service: &Service,
        spec: LoadBalancerSpec,
    ) -> Result<(), Failure> {
        if let Some(change) = plan::with_finalizer(service) {
            // If it is gone, or another by now, the cloud is not asked: the change queues the key again.
            if self.patch(key, &change, false).await?.is_none() {
                return Ok(());
            }
        }
        self.event(service, EventType::Normal, "EnsuringLoadBalancer", "Ensuring load balancer".to_owned());
        if spec.nodes.is_empty() {
            let note = "There are no available nodes for LoadBalancer".to_owned();
            self.event(service, EventType::Warning, "UnAvailableLoadBalancer", note);
        }
        let ingress = match self.balancers()?.ensure(&spec).await {
            Ok(ingress) => ingress,
            Err(error) => {
                // What the cloud has now is not known any more.
                self.told().remove(key);
                let note = format!("Error syncing load balancer: failed to ensure load balancer: {error}");
                self.event(service, EventType::Warning, "SyncLoadBalancerFailed", note);
                return Err(error.into());
            }
        };
        if let Some(status) = plan::status_change(service, &ingress) {
            self.patch(key, &status, true).await?;
        }
        self.told().insert(key.clone(), spec);
        self.event(service, EventType::Normal, "EnsuredLoadBalancer", "Ensured load balancer".to_owned());
        Ok(())
    }

    async fn update(
        &self,
        key: &ObjectKey,
        service: &Service,
        spec: LoadBalancerSpec,
    ) -> Result<(), Failure> {
        if spec.nodes.is_empty() {
            let note = "There are no available nodes for LoadBalancer".to_owned();
            self.event(service, EventType::Warning, "UnAvailableLoadBalancer", note);
        }
        if let Err(error) = self.balancers()?.update(&spec).await {
            self.told().remove(key);
            let names: Vec<&str> = spec.nodes.iter().map(|node| node.name.as_str()).collect();
            let note = format!("Error updating load balancer with new hosts {names:?}: {error}");
            self.event(service, EventType::Warning, "UpdateLoadBalancerFailed", note);
            return Err(error.into());
        }
        self.told().insert(key.clone(), spec);
        let note = "Updated load balancer with new hosts".to_owned();
        self.event(service, EventType::Normal, "UpdatedLoadBalancer", note);
        Ok(())
    }

    /// The Service as it is now; `None` if it is gone.
    async fn patch(&self, key: &ObjectKey, change: &Value, status: bool) -> Result<Option<Service>, Failure> {
        let api: Api<Service> = Api::namespaced(self.client.clone(), &key.namespace);
        let (parameters, change) = (PatchParams::default(), Patch::Merge(change));
        let written = match status {
            true => api.patch_status(&key.name, &parameters, &change).await,
            false => api.patch(&key.name, &parameters, &change).await,
        };
        match written {
            Ok(service) => {
                self.written.note(key.clone(), service.metadata.resource_version.as_deref());
                Ok(Some(service))
            }
            Err(error) if is_not_found(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
