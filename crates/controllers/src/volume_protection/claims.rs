//! A claim stays while pods use it. Woken by claims, and by pods that let go of one.

use std::time::Duration;

use component::Api;
use component::controller::Next;
use component::informer::{Index, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{ListParams, PostParams};

use super::plan::{self, Step};
use super::{WORKERS, written};
use crate::Informers;
use crate::wiring::{self, Cache};

/// How long the cache of pods may take to show what there was when the claim was deleted, before they are asked for directly.
const PATIENCE: Duration = Duration::from_millis(50);

#[derive(Clone)]
struct Controller {
    client: kube::Client,
    claims: Informer<PersistentVolumeClaim>,
    pods: Informer<Pod>,
    by_claim: Index<Pod>,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wiring::wake_by(&queue, &informers.persistent_volume_claims);
    let keys = queue.clone();
    informers.pods.on_change(move |change| {
        let Some(old) = change.old else { return };
        let same = change
            .new
            .is_some_and(|new| new.metadata.uid == old.metadata.uid && plan::named(new) == plan::named(old));
        if !same {
            plan::named(old).into_iter().for_each(|claim| keys.add(claim));
        }
    });
    let controller = Controller {
        client: context.client.clone(),
        claims: informers.persistent_volume_claims.clone(),
        pods: informers.pods.clone(),
        by_claim: informers.pods_by_claim.clone(),
    };
    let caches: [&dyn Cache; 2] = [&informers.persistent_volume_claims, &informers.pods];
    wiring::run(
        context,
        ("claim-protection", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

/// Pods by the claims that they name.
pub(crate) fn index(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index(|pod| plan::named(pod).iter().map(ToString::to_string).collect())
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let Some(claim) = self.claims.get(key) else { return Ok(Next::Done) };
        let step = plan::step(&claim.metadata, plan::CLAIM);
        if step == Step::Nothing || (step == Step::Remove && self.is_used(key, &claim).await?) {
            return Ok(Next::Done);
        }
        let metadata = plan::changed(&claim.metadata, plan::CLAIM, step);
        let wanted = PersistentVolumeClaim { metadata, ..(*claim).clone() };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        written(api.replace(&key.name, &PostParams::default(), &wanted).await)
    }

    /// Whether a pod uses the claim: of those that there were when it was deleted, since no kubelet starts one later.
    async fn is_used(&self, key: &ObjectKey, claim: &PersistentVolumeClaim) -> kube::Result<bool> {
        let cached = || self.by_claim.get(&key.to_string()).iter().any(|pod| plan::uses(pod, claim));
        if cached() {
            return Ok(true);
        }
        let revision = claim.metadata.resource_version.as_deref().and_then(|text| text.parse().ok());
        let reached = self.pods.reached(revision.unwrap_or(u64::MAX));
        if tokio::time::timeout(PATIENCE, reached).await.is_ok() {
            return Ok(cached());
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        Ok(api.list(&ListParams::default()).await?.items.iter().any(|pod| plan::uses(pod, claim)))
    }
}
