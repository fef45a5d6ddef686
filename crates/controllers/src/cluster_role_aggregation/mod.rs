//! Gives ClusterRoles that are sums of others (`aggregationRule`) the rules of their parts.
//!
//! Reads ClusterRoles and writes their rules, by server-side apply as upstream does. Woken by every ClusterRole, since any
//! may become a part of any sum.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use component::Api;
use component::controller::Next;
use component::freshness::Freshness;
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::rbac::v1::ClusterRole;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::Informers;
use crate::answers;
use crate::wiring::{self, Cache};

const WORKERS: usize = 1;
/// Who owns the rules.
const MANAGER: &str = "clusterrole-aggregation-controller";

struct Controller {
    roles: Informer<ClusterRole>,
    api: Api<ClusterRole>,
    written: Freshness<ObjectKey>,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    let (keys, sums) = (queue.clone(), informers.cluster_roles.clone());
    informers.cluster_roles.on_change(move |change: Change<'_, ClusterRole>| {
        keys.add(ObjectKey::of(&**change.latest()));
        let sums = sums.list().into_iter().filter(|role| role.aggregation_rule.is_some());
        sums.for_each(|sum| keys.add(ObjectKey::of(&*sum)));
    });
    let controller = Arc::new(Controller {
        roles: informers.cluster_roles.clone(),
        api: Api::all(context.client.clone()),
        written: Freshness::default(),
    });
    let caches: [&dyn Cache; 1] = [&informers.cluster_roles];
    let work = ("clusterrole-aggregation", queue, WORKERS);
    wiring::run(context, work, &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(role) = self.roles.get(key) else {
            self.written.forget(key);
            return Ok(Next::Done);
        };
        // What this wrote last comes through the cache and queues the key again.
        if !self.written.ready(key, self.roles.revision()) {
            return Ok(Next::Done);
        }
        let Some(rules) = plan::rules(&role, self.roles.list()) else { return Ok(Next::Done) };
        let apply = Patch::Apply(json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": key.name, "uid": role.metadata.uid}, "rules": rules,
        }));
        match self.api.patch(&key.name, &PatchParams::apply(MANAGER).force(), &apply).await {
            Ok(written) => self.written.note(key.clone(), written.metadata.resource_version.as_deref()),
            // Gone meanwhile, or another of that name.
            Err(error) if answers::is_not_found(&error) || answers::is_conflict(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(Next::Done)
    }
}
