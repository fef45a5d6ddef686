//! The token cleaner: a bootstrap token goes when it expires. Woken by changes of tokens and by each one's deadline.

use component::Api;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};

use super::{NAMESPACE, expiration};
use crate::Informers;
use crate::answers::{is_conflict, is_not_found};
use crate::wiring::{self, Cache};

#[derive(Clone)]
struct Cleaner {
    context: Context,
    tokens: Informer<Secret>,
}

/// Starts the cleaner.
pub fn start(context: &Context, informers: &Informers) {
    let queue: Queue<String> = Queue::new();
    let keys = queue.clone();
    informers.bootstrap_tokens.on_change(move |change| {
        if change.new.is_some() {
            keys.add(ObjectKey::of(&**change.latest()).name);
        }
    });
    let cleaner = Cleaner { context: context.clone(), tokens: informers.bootstrap_tokens.clone() };
    let caches: [&dyn Cache; 1] = [&informers.bootstrap_tokens];
    wiring::run(context, ("token-cleaner", queue, 1), &caches, cleaner, |cleaner, key| async move {
        cleaner.reconcile(&key).await
    });
}

impl Cleaner {
    async fn reconcile(&self, name: &str) -> kube::Result<Next> {
        let Some(found) = self.tokens.get(&ObjectKey::new(NAMESPACE, name)) else { return Ok(Next::Done) };
        let Some(end) = expiration(&found) else { return Ok(Next::Done) };
        let left = end.duration_since(self.context.clock.now());
        if left > SignedDuration::ZERO {
            return Ok(Next::After(left.unsigned_abs()));
        }
        let preconditions = Preconditions {
            uid: found.metadata.uid.clone(),
            // Somebody may have prolonged it.
            resource_version: found.metadata.resource_version.clone(),
        };
        let api: Api<Secret> = Api::namespaced(self.context.client.clone(), NAMESPACE);
        match api.delete(name, &DeleteParams::default().preconditions(preconditions)).await {
            Ok(_) => Ok(Next::Done),
            Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }
}
