//! The service account controller: every namespace has a ServiceAccount `default`, also after somebody deleted it.
//!
//! Reads Namespaces and ServiceAccounts, creates ServiceAccounts. Woken by changes of either; the key is the namespace.
//! Tokens are not its business: pods ask for theirs.

mod plan;
#[cfg(test)]
mod tests;

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::api::PostParams;

use crate::Informers;
use crate::answers::{is_conflict, is_not_found, namespace_terminates};
use crate::wiring::{self, Cache};

/// Namespaces that are looked at side by side.
const WORKERS: usize = 2;

#[derive(Clone)]
struct Controller {
    client: kube::Client,
    namespaces: Informer<Namespace>,
    accounts: Informer<ServiceAccount>,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.namespaces.on_change(move |change| keys.add(ObjectKey::of(&**change.latest()).name));
    let keys = queue.clone();
    informers.service_accounts.on_change(move |change| {
        let key = ObjectKey::of(&**change.latest());
        if change.new.is_none() && key.name == plan::NAME {
            keys.add(key.namespace);
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        namespaces: informers.namespaces.clone(),
        accounts: informers.service_accounts.clone(),
    };
    let caches: [&dyn Cache; 2] = [&informers.namespaces, &informers.service_accounts];
    wiring::run(
        context,
        ("service-account", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

impl Controller {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let namespace = self.namespaces.get(&ObjectKey::new("", name));
        let known = self.accounts.get(&ObjectKey::new(name, plan::NAME));
        let Some(missing) = plan::missing(namespace.as_deref(), known.as_deref()) else {
            return Ok(Next::Done);
        };
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), name);
        match api.create(&PostParams::default(), &missing).await {
            Ok(_) => Ok(Next::Done),
            // A cache that is behind makes one request too many, and no harm.
            Err(error) if is_conflict(&error) || is_not_found(&error) || namespace_terminates(&error) => {
                Ok(Next::Done)
            }
            Err(error) => Err(error),
        }
    }
}
