//! Keeps as many pods as a ReplicaSet asks for, or a ReplicationController.
//!
//! Reads them and pods. Writes pods (creates, deletes, adopts, releases), the status of the sets, and events.
//! Woken by the sets, by the pods of a set, by pods that nobody controls, and when a ready pod becomes available. A pass
//! waits until the cache shows what the pass before it did, or may have done when the answer was lost, so that no pod is
//! made or deleted twice.

mod plan;
mod set;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::SelectorError;
use component::Api;
use component::controller::Next;
use component::events::reference;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::labels::{self, Labels};

use crate::Informers;
use crate::claim::{self, CannotAdopt};
use crate::expectations::{Expectations, NOT_SEEN};
use crate::indices::ByOwner;
use crate::pod_control::{Failure, PodControl};
use crate::wiring::{self, Cache};
use plan::Scale;
use set::Set;

pub(crate) use plan::{BURST, deletion_order};

const WORKERS: usize = 4;

/// Why a set could not be reconciled now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Adopt(#[from] CannotAdopt),
    #[error("spec.selector: {0}")]
    Selector(#[from] SelectorError),
    #[error(transparent)]
    Scale(#[from] Failure),
}

struct Controller<K> {
    client: kube::Client,
    clock: Clock,
    sets: Informer<K>,
    pods: Informer<Pod>,
    pods_by_owner: ByOwner<Pod>,
    sets_by_owner: ByOwner<K>,
    control: PodControl,
    /// Writes of the sets themselves.
    set_writes: Expectations,
}

/// Starts the controller of ReplicaSets on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let sets = (&informers.replica_sets, &informers.replica_sets_by_owner);
    start_kind::<ReplicaSet>(context, informers, sets, ("replicaset", "replicaset-controller"));
}

/// Starts the controller of ReplicationControllers on tasks of the context.
pub fn start_replication(context: &Context, informers: &Informers) {
    let sets = (&informers.replication_controllers, &informers.replication_controllers_by_owner);
    let names = ("replicationcontroller", "replication-controller");
    start_kind::<ReplicationController>(context, informers, sets, names);
}

fn start_kind<K: Set>(
    context: &Context,
    informers: &Informers,
    (sets, sets_by_owner): (&Informer<K>, &ByOwner<K>),
    (name, component): (&'static str, &'static str),
) {
    let queue = Queue::new();
    wiring::wake_by(&queue, sets);
    let selects = |set: &K, labels: Option<&Labels>| labels::selects(Some(&set.view().spec.selector), labels);
    wiring::wake_by_dependents(&queue, sets, &informers.pods, selects);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        sets: sets.clone(),
        pods: informers.pods.clone(),
        pods_by_owner: informers.pods_by_owner.clone(),
        sets_by_owner: sets_by_owner.clone(),
        control: PodControl::new(context, component),
        set_writes: Expectations::default(),
    });
    let caches: [&dyn Cache; 2] = [sets, &informers.pods];
    wiring::run(context, (name, queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

impl<K: Set> Controller<K> {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(stored) = self.sets.get(key) else {
            self.control.writes.forget(key);
            self.set_writes.forget(key);
            return Ok(Next::Done);
        };
        let set = stored.view();
        let selector = labels::compile(Some(&set.spec.selector))?;
        let pods_api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        self.control.writes.resolve(key, &pods_api, &selector.to_string(), uid).await?;
        let seen = self.pods.revision();
        let pods = self.pods_by_owner.claimable(&set.metadata);
        let alive = |uid: &str| {
            pods.iter()
                .any(|pod| pod.metadata.uid.as_deref() == Some(uid) && pod_rules::status::is_active(pod))
        };
        if !self.control.writes.met(key, seen, alive)
            || !self.set_writes.met(key, self.sets.revision(), |_| false)
        {
            return Ok(NOT_SEEN);
        }
        let claims = plan::claims(&set, &selector, &pods);
        let sets = Api::namespaced(self.client.clone(), &key.namespace);
        let wrote = |pod: &Pod| self.control.writes.wrote(key, pod);
        let owned = claim::settle(&sets, &*stored, &pods_api, claims, wrote).await?;
        let scale = plan::scale(&set, owned.clone(), || self.related(&set), self.clock.now());
        let scaled = self.scale(key, &stored, scale).await;
        let terminating = plan::terminating(&set, &pods);
        let now = self.clock.now();
        let status = plan::status_of(&set, &owned, terminating, scaled.as_ref().err(), now);
        self.write_status(key, &stored, status).await?;
        scaled?;
        let wait = plan::until_available(&set, &owned, now).and_then(|wait| Duration::try_from(wait).ok());
        Ok(wait.map_or(Next::Done, Next::After))
    }

    /// The pods of every set that has the same owner, this one's included.
    fn related(&self, set: &ReplicaSet) -> Vec<Arc<Pod>> {
        let uid = |meta: &ObjectMeta| meta.uid.clone().unwrap_or_default();
        let mut uids = BTreeSet::from([uid(&set.metadata)]);
        if let Some(owner) = claim::controller_of(&set.metadata) {
            let siblings = self.sets_by_owner.controlled(&owner.uid);
            uids.extend(siblings.iter().map(|sibling| uid(sibling.meta())));
        }
        uids.iter().flat_map(|uid| self.pods_by_owner.controlled(uid)).collect()
    }

    async fn scale(&self, key: &ObjectKey, set: &K, scale: Scale) -> Result<(), Failure> {
        let about = reference(set);
        match scale {
            Scale::Nothing => Ok(()),
            Scale::Create(count) => {
                let pod = plan::new_pod(&set.view(), claim::owner_reference(set));
                self.control.create(key, &about, &vec![pod; count]).await
            }
            Scale::Delete(victims) => self.control.delete(key, &about, &victims).await,
        }
    }

    async fn write_status(&self, key: &ObjectKey, set: &K, status: ReplicaSetStatus) -> Result<(), Error> {
        let changed = set.told(status);
        // Compared as the kind can tell it.
        let news = match &changed.view().status {
            Some(status) => plan::differs(set.view().status.as_ref(), status),
            None => false,
        };
        if !news {
            return Ok(());
        }
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.namespace);
        self.set_writes.write_status(key, &api, &changed).await?;
        Ok(())
    }
}
