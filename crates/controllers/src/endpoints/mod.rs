//! Publishes the addresses behind a Service in the older form: one Endpoints object with the Service's name.
//!
//! Reads Services, pods and Endpoints. Writes Endpoints, and events. Woken by Services, by pods that come, go or change in
//! what is published, and by Endpoints that carry its name.
//!
//! Deliberately absent: Endpoints of Services without a selector, which are somebody else's until the Service goes.

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
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use kube::api::{DeleteParams, PostParams, Preconditions};

use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByLabel;
use crate::wiring::{self, Cache};
use crate::{Informers, answers, services};

const WORKERS: usize = 4;

struct Controller {
    client: kube::Client,
    services: Informer<Service>,
    pods: ByLabel<Pod>,
    endpoints: Informer<Endpoints>,
    writes: Expectations,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    services::wake(&queue, informers);
    let keys = queue.clone();
    informers.endpoints.on_change(move |change: Change<'_, Endpoints>| {
        let endpoints = change.latest();
        let labels = endpoints.metadata.labels.as_ref();
        if labels.and_then(|labels| labels.get(plan::MANAGER_LABEL)).is_some_and(|name| name == plan::MANAGER)
        {
            keys.add(ObjectKey::of(&**endpoints));
        }
    });
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        services: informers.services.clone(),
        pods: informers.pods_by_label.clone(),
        endpoints: informers.endpoints.clone(),
        writes: Expectations::default(),
        events: Recorder::new(context, "endpoint-controller", None),
    });
    let caches: [&dyn Cache; 3] = [&informers.services, &informers.pods, &informers.endpoints];
    wiring::run(context, ("endpoints", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), &key.namespace);
        let Some(service) = self.services.get(key) else {
            self.writes.forget(key);
            return self.remove(&api, key).await;
        };
        if services::selector(&service).is_none() || service.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        if !self.writes.met(key, self.endpoints.revision(), |_| false) {
            return Ok(NOT_SEEN);
        }
        let before = self.endpoints.get(key);
        let pods = services::pods_of(&service, &services::candidates(&service, &self.pods));
        let Some(wanted) = plan::plan(&service, &pods, before.as_deref()) else { return Ok(Next::Done) };
        let (written, reason) = match before {
            Some(_) => {
                (api.replace(&key.name, &PostParams::default(), &wanted).await, "FailedToUpdateEndpoint")
            }
            None => (api.create(&PostParams::default(), &wanted).await, "FailedToCreateEndpoint"),
        };
        match written {
            Ok(written) => self.writes.wrote(key, &written),
            Err(error) if answers::namespace_terminates(&error) => {}
            Err(error) => {
                if !answers::is_conflict(&error) {
                    let why = answers::message(&error);
                    let note = format!("Failed to write endpoint {key}: {why}");
                    self.events.event(&reference(&*service), EventType::Warning, reason, note);
                }
                return Err(error);
            }
        }
        Ok(Next::Done)
    }

    /// The Service is gone: so are its Endpoints, whoever wrote them.
    async fn remove(&self, api: &Api<Endpoints>, key: &ObjectKey) -> kube::Result<Next> {
        let Some(endpoints) = self.endpoints.get(key) else { return Ok(Next::Done) };
        let only = Preconditions { uid: endpoints.metadata.uid.clone(), resource_version: None };
        match api.delete(&key.name, &DeleteParams::default().preconditions(only)).await {
            Err(error) if !answers::is_not_found(&error) => Err(error),
            Ok(_) | Err(_) => Ok(Next::Done),
        }
    }
}
