//! How a controller's loop is put together: what wakes it by the kinds that it keeps, and the caches that must be complete
//! before its first decision.

use std::fmt::Display;
use std::future::Future;

use component::api::Object;
use component::controller::{self, Next};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use futures::future::{BoxFuture, FutureExt, join_all};
use pod_rules::labels::Labels;

use crate::claim;
use crate::resources::Resources;

/// What has to have been listed before the first decision.
pub(crate) trait Cache {
    /// Returns when it has.
    fn complete(&self) -> BoxFuture<'static, ()>;
}

impl<K: Object> Cache for Informer<K> {
    fn complete(&self) -> BoxFuture<'static, ()> {
        let informer = self.clone();
        async move { informer.synced().await }.boxed()
    }
}

impl Cache for Resources {
    fn complete(&self) -> BoxFuture<'static, ()> {
        let resources = self.clone();
        async move { resources.synced().await }.boxed()
    }
}

/// Reconciles the queue's keys, so many side by side, from the moment when the caches are complete until the context ends.
pub(crate) fn run<C, T, F, E>(
    context: &Context,
    (name, queue, workers): (&'static str, Queue<T>, usize),
    caches: &[&dyn Cache],
    controller: C,
    reconcile: impl Fn(C, T) -> F + Send + Sync + 'static,
) where
    C: Clone + Send + Sync + 'static,
    T: Ord + Clone + Display + Send + Sync + 'static,
    F: Future<Output = Result<Next, E>> + Send + 'static,
    E: Display,
{
    let complete = join_all(caches.iter().map(|cache| cache.complete()));
    let (tasks, shutdown) = (context.tasks.clone(), context.shutdown.clone());
    let work: BoxFuture<'static, ()> = Box::pin(async move {
        if shutdown.run_until_cancelled(complete).await.is_some() {
            let work = move |key| reconcile(controller.clone(), key);
            controller::run(&tasks, shutdown, name, queue, workers, work);
        }
    });
    context.tasks.spawn(work);
}

/// Queues every object of a kind that changes.
pub(crate) fn wake_by<K: Object>(queue: &Queue<ObjectKey>, objects: &Informer<K>) {
    let keys = queue.clone();
    objects.on_change(move |change: Change<'_, K>| keys.add(ObjectKey::of(&**change.latest())));
}

/// Queues the owner, of the kind `O`, that controls a dependent which changes; or, if nobody controls it, every owner that
/// might adopt it.
pub(crate) fn wake_by_dependents<O, D>(
    queue: &Queue<ObjectKey>,
    owners: &Informer<O>,
    dependents: &Informer<D>,
    selects: fn(&O, Option<&Labels>) -> bool,
) where
    O: Object + kube::Resource<DynamicType = ()>,
    D: Object,
{
    let (keys, owners) = (queue.clone(), owners.clone());
    dependents.on_change(move |change: Change<'_, D>| {
        for dependent in [change.old, change.new].into_iter().flatten() {
            let meta = dependent.meta();
            let namespace = meta.namespace.clone().unwrap_or_default();
            match claim::controller_of(meta) {
                Some(owner) if owner.kind == O::kind(&()) => {
                    keys.add(ObjectKey::new(namespace, owner.name.clone()));
                }
                None if change.new.is_some() => {
                    let might = |owner: &O| selects(owner, meta.labels.as_ref());
                    let adopters = owners.in_namespace(&namespace).into_iter().filter(|owner| might(owner));
                    adopters.for_each(|owner| keys.add(ObjectKey::of(&*owner)));
                }
                Some(_) | None => {}
            }
        }
    });
}
