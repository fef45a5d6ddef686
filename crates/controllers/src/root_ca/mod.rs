//! The root CA publisher: every namespace has a ConfigMap `kube-root-ca.crt` by which pods can tell that they talk to
//! the real API server. What others change in it is put right again.
//!
//! Reads Namespaces and the ConfigMaps of that name, writes the latter. Woken by changes of either; the key is the
//! namespace.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::PostParams;

use crate::Informers;
use crate::answers::{is_conflict, is_not_found, namespace_terminates};
use crate::informers::ROOT_CA;
use crate::wiring::{self, Cache};
use plan::Action;

/// Namespaces that are looked at side by side.
const WORKERS: usize = 2;

#[derive(Clone)]
struct Publisher {
    client: kube::Client,
    namespaces: Informer<Namespace>,
    published: Informer<ConfigMap>,
    authority: Arc<str>,
}

/// Starts the publisher of a certificate authority in PEM.
pub fn start(context: &Context, informers: &Informers, authority: &str) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.namespaces.on_change(move |change| keys.add(ObjectKey::of(&**change.latest()).name));
    let keys = queue.clone();
    informers.root_ca_config_maps.on_change(move |change| {
        let key = ObjectKey::of(&**change.latest());
        if key.name == ROOT_CA {
            keys.add(key.namespace);
        }
    });
    let publisher = Publisher {
        client: context.client.clone(),
        namespaces: informers.namespaces.clone(),
        published: informers.root_ca_config_maps.clone(),
        authority: authority.into(),
    };
    let caches: [&dyn Cache; 2] = [&informers.namespaces, &informers.root_ca_config_maps];
    wiring::run(context, ("root-ca", queue, WORKERS), &caches, publisher, |publisher, key| async move {
        publisher.reconcile(&key).await
    });
}

impl Publisher {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let namespace = self.namespaces.get(&ObjectKey::new("", name));
        let known = self.published.get(&ObjectKey::new(name, ROOT_CA));
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), name);
        let parameters = PostParams::default();
        let written = match plan::plan(namespace.as_deref(), known.as_deref(), &self.authority) {
            Action::Nothing => return Ok(Next::Done),
            Action::Create(map) => api.create(&parameters, &map).await,
            // It carries the resourceVersion that it is based on: an older view is refused.
            Action::Repair(map) => api.replace(ROOT_CA, &parameters, &map).await,
        };
        match written {
            Ok(_) => Ok(Next::Done),
            // The change that was not seen yet wakes this key again.
            Err(error) if is_conflict(&error) || is_not_found(&error) || namespace_terminates(&error) => {
                Ok(Next::Done)
            }
            Err(error) => Err(error),
        }
    }
}
