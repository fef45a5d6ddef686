//! The resource quota controller: counts what there is, so that quotas begin to be enforced, and get back what has gone.
//!
//! Reads ResourceQuotas, pods, services, claims, and the metadata of all other kinds; writes the status of quotas, on top of
//! the revision that it was counted for: the API server charges what is created to the same status in the same transaction,
//! so a charge that came meanwhile makes the write fail, and one that came before is in what was counted. Woken by quotas
//! that were never counted, and by what goes, ends or becomes smaller.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api_machinery::quantity::{Notation, Quantity};
use component::Api;
use component::api::Object;
use component::controller::Next;
use component::informer::Informer;
use component::queue::Queue;
use component::{Context, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use kube::api::{ListParams, PostParams};
use pod_rules::amounts::Amounts;
use pod_rules::quota::{self, Kind, Quota};
use serde::Serialize;
use serde_json::Value;

use crate::Informers;
use crate::answers;
use crate::resources::{Followed, Resources};
use crate::wiring::{self, Cache};

/// Quotas that are counted side by side.
const WORKERS: usize = 5;
/// How long a cache may take to show what was charged before it is asked for directly.
const PATIENCE: Duration = Duration::from_millis(50);
/// Objects that go together are one reason to count.
const GATHER: Duration = Duration::from_millis(50);
/// When to count again while others charge all the time.
const AGAIN: Duration = Duration::from_millis(200);
/// When to count again although nothing was heard: another API server than ours charges before it stores, and may leave a
/// charge for what it then did not store.
const RESYNC: Duration = Duration::from_secs(300);

#[derive(Clone)]
struct Controller {
    context: Context,
    pods: Informer<Pod>,
    services: Informer<Service>,
    claims: Informer<PersistentVolumeClaim>,
    resources: Resources,
}

/// Starts the controller.
pub fn start(context: &Context, informers: &Informers, resources: &Resources) {
    let queue = Queue::new();
    wake(&queue, informers, resources);
    let controller = Controller {
        context: context.clone(),
        pods: informers.pods.clone(),
        services: informers.services.clone(),
        claims: informers.persistent_volume_claims.clone(),
        resources: resources.clone(),
    };
    let caches: [&dyn Cache; 5] = [
        &informers.resource_quotas,
        &informers.pods,
        &informers.services,
        &informers.persistent_volume_claims,
        resources,
    ];
    wiring::run(
        context,
        ("resource-quota", queue, WORKERS),
        &caches,
        controller,
        |controller, key| async move { controller.reconcile(&key).await },
    );
}

fn wake(queue: &Queue<ObjectKey>, informers: &Informers, resources: &Resources) {
    let keys = queue.clone();
    informers.resource_quotas.on_change(move |change| {
        let spec_changed = change.old.map(|old| &old.spec) != change.new.map(|new| &new.spec);
        if change.new.is_some_and(|quota| spec_changed || plan::is_new(quota)) {
            keys.add(ObjectKey::of(&**change.latest()));
        }
    });
    let (keys, quotas) = (queue.clone(), informers.resource_quotas.clone());
    informers.pods.on_change(move |change| {
        if plan::may_give_back(change.old.map(|old| &**old), change.new.map(|new| &**new)) {
            let namespace = change.latest().metadata.namespace.as_deref();
            wake_all(&keys, &quotas, namespace, |_| true);
        }
    });
    wake_by_changes(queue, &informers.resource_quotas, &informers.services);
    wake_by_changes(queue, &informers.resource_quotas, &informers.persistent_volume_claims);
    let (keys, quotas) = (queue.clone(), informers.resource_quotas.clone());
    resources.on_kind(move |followed| {
        let Some(kind @ Kind::Other(..)) = kind_of(followed) else { return };
        let (keys, quotas) = (keys.clone(), quotas.clone());
        followed.objects.on_change(move |change| {
            if change.new.is_none() {
                let namespace = change.latest().metadata.namespace.as_deref();
                wake_all(&keys, &quotas, namespace, |name| kind.counts(name));
            }
        });
    });
}

/// Queues the quotas of a namespace in which an object has changed or gone. What is new has been charged.
fn wake_by_changes<K: Object>(
    queue: &Queue<ObjectKey>,
    quotas: &Informer<ResourceQuota>,
    objects: &Informer<K>,
) {
    let (keys, quotas) = (queue.clone(), quotas.clone());
    objects.on_change(move |change| {
        if change.old.is_some() {
            wake_all(&keys, &quotas, change.latest().meta().namespace.as_deref(), |_| true);
        }
    });
}

/// Queues the quotas of a namespace that limit something under a name that matters.
fn wake_all(
    queue: &Queue<ObjectKey>,
    quotas: &Informer<ResourceQuota>,
    namespace: Option<&str>,
    matters: impl Fn(&str) -> bool,
) {
    let Some(namespace) = namespace else { return };
    for quota in quotas.in_namespace(namespace) {
        let hard = quota.spec.as_ref().and_then(|spec| spec.hard.as_ref());
        if hard.is_some_and(|hard| hard.keys().any(|name| matters(name))) {
            queue.add_after(ObjectKey::of(&*quota), GATHER);
        }
    }
}

fn kind_of(followed: &Followed) -> Option<Kind> {
    Kind::of(&followed.kind.api.group, &followed.kind.api.plural).filter(|_| followed.kind.namespaced)
}

/// An object as it is on the wire, which is what the rules about quotas read.
fn wire(object: &impl Serialize) -> kube::Result<Value> {
    let text = serde_json::to_vec(object).map_err(kube::Error::SerdeError)?;
    serde_json::from_slice(&text).map_err(kube::Error::SerdeError)
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> kube::Result<Next> {
        let api: Api<ResourceQuota> = Api::namespaced(self.context.client.clone(), &key.namespace);
        // Live: everything that was charged up to this revision has to be in what is counted.
        let Some(quota) = api.get_opt(&key.name).await? else { return Ok(Next::Done) };
        let revision =
            quota.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0);
        let parsed = Quota::of(&wire(&quota)?);
        let now = self.context.clock.now();
        let (counted, recheck) = self.count(&key.namespace, &parsed, revision, now).await?;
        if let Some(status) = plan::status(&quota, &parsed, counted) {
            let changed = ResourceQuota { status: Some(status), ..quota };
            match api.replace_status(&key.name, &PostParams::default(), &changed).await {
                Ok(_) => {}
                Err(error) if answers::is_not_found(&error) => return Ok(Next::Done),
                Err(error) if answers::is_conflict(&error) => return Ok(Next::After(AGAIN)),
                Err(error) => return Err(error),
            }
        }
        Ok(Next::After(recheck.map_or(RESYNC, |recheck| recheck.min(RESYNC))))
    }

    /// What all objects of the namespace use, and when some will use less although nobody tells.
    async fn count(
        &self,
        namespace: &str,
        quota: &Quota,
        revision: u64,
        now: Timestamp,
    ) -> kube::Result<(Amounts, Option<Duration>)> {
        let wants = |kind: &Kind| quota.wanted.keys().any(|name| kind.counts(name));
        let (mut sum, mut recheck) = (Amounts::new(), None);
        if wants(&Kind::Pod) {
            let pods = self.objects(&self.pods, namespace, revision).await?;
            let ends = pods.iter().filter_map(quota::given_up_at);
            let left = ends.filter_map(|at| Duration::try_from(at.duration_since(now)).ok());
            // From the first whole second after it.
            recheck = left.map(|left| left + Duration::from_secs(1)).min();
            sum.extend(quota.count(&Kind::Pod, pods.iter(), now));
        }
        if wants(&Kind::Service) {
            let services = self.objects(&self.services, namespace, revision).await?;
            sum.extend(quota.count(&Kind::Service, services.iter(), now));
        }
        if wants(&Kind::Claim) {
            let claims = self.objects(&self.claims, namespace, revision).await?;
            sum.extend(quota.count(&Kind::Claim, claims.iter(), now));
        }
        for name in quota.wanted.keys() {
            let Some(followed) = self.resources.get(name.strip_prefix("count/").unwrap_or(name)) else {
                continue;
            };
            let Some(kind @ Kind::Other(..)) = kind_of(&followed).filter(|kind| kind.counts(name)) else {
                continue;
            };
            let count = match quota.excludes(&kind) {
                true => 0,
                false => self.number(&followed, namespace, revision).await?,
            };
            sum.insert(name.clone(), Quantity::from_units(count, Notation::DecimalSi));
        }
        Ok((sum, recheck))
    }

    /// The objects of a namespace, none of those missing that were there at a revision.
    async fn objects<K>(
        &self,
        cache: &Informer<K>,
        namespace: &str,
        revision: u64,
    ) -> kube::Result<Vec<Value>>
    where
        K: Object + Serialize + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        if tokio::time::timeout(PATIENCE, cache.reached(revision)).await.is_ok() {
            return cache.in_namespace(namespace).iter().map(|object| wire(&**object)).collect();
        }
        let api: Api<K> = Api::namespaced(self.context.client.clone(), namespace);
        api.list(&ListParams::default()).await?.items.iter().map(wire).collect()
    }

    /// How many objects of a kind there are in a namespace, none of those missing that were there at a revision.
    async fn number(&self, followed: &Arc<Followed>, namespace: &str, revision: u64) -> kube::Result<i64> {
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        if tokio::time::timeout(PATIENCE, followed.objects.reached(revision)).await.is_ok() {
            return Ok(count(followed.objects.in_namespace(namespace).len()));
        }
        let api = followed.kind.access(&self.context.client, namespace);
        let page = api.list_metadata(&ListParams::default().limit(1)).await?;
        Ok(count(page.items.len()) + page.metadata.remaining_item_count.unwrap_or(0))
    }
}
