//! Keeps the status of PodDisruptionBudgets, by which evictions are allowed or refused.
//!
//! Reads budgets, pods, and the sizes of the pods' owners. Writes the status of budgets, always on top of the revision that
//! it was judged from: an eviction that was allowed meanwhile wins, and the budget is judged anew. Woken by budgets, by
//! pods that they guard, by owners whose size changes, and when an allowed eviction has not shown for too long.
//!
//! Deliberately absent: evicting (`pods/NAME/eviction` of the API server does), and owners other than ReplicaSets,
//! Deployments and StatefulSets; a budget relative to the number of others' pods allows nothing and says why.

mod plan;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::selector::SelectorError;
use component::Api;
use component::controller::Next;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer};
use component::queue::Queue;
use component::{Context, ObjectKey};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use pod_rules::labels;

use crate::Informers;
use crate::answers;
use crate::claim;
use crate::indices::ByLabel;
use crate::wiring::{self, Cache};
use plan::{Guarded, Keeper, Plan};

const WORKERS: usize = 2;

/// Why a budget could not be judged now.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("spec.selector: {0}")]
    Selector(#[from] SelectorError),
}

struct Controller {
    client: kube::Client,
    clock: Clock,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    pods_by_label: ByLabel<Pod>,
    replica_sets: Informer<ReplicaSet>,
    deployments: Informer<Deployment>,
    stateful_sets: Informer<StatefulSet>,
    events: Recorder,
}

/// Starts the controller on tasks of the context.
pub fn start(context: &Context, informers: &Informers) {
    let queue = Queue::new();
    wake(&queue, informers);
    let controller = Arc::new(Controller {
        client: context.client.clone(),
        clock: context.clock.clone(),
        budgets: informers.pod_disruption_budgets.clone(),
        pods: informers.pods.clone(),
        pods_by_label: informers.pods_by_label.clone(),
        replica_sets: informers.replica_sets.clone(),
        deployments: informers.deployments.clone(),
        stateful_sets: informers.stateful_sets.clone(),
        events: Recorder::new(context, "controllermanager", None),
    });
    let caches: [&dyn Cache; 5] = [
        &informers.pod_disruption_budgets,
        &informers.pods,
        &informers.replica_sets,
        &informers.deployments,
        &informers.stateful_sets,
    ];
    wiring::run(context, ("disruption", queue, WORKERS), &caches, controller, |controller, key| async move {
        controller.reconcile(&key).await
    });
}

fn wake(queue: &Queue<ObjectKey>, informers: &Informers) {
    wiring::wake_by(queue, &informers.pod_disruption_budgets);
    let (keys, budgets) = (queue.clone(), informers.pod_disruption_budgets.clone());
    informers.pods.on_change(move |change: Change<'_, Pod>| {
        let namespace = change.latest().metadata.namespace.as_deref().unwrap_or_default();
        for budget in budgets.in_namespace(namespace) {
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let mut pods = [change.old, change.new].into_iter().flatten();
            if pods.any(|pod| labels::selects(selector, pod.metadata.labels.as_ref())) {
                keys.add(ObjectKey::of(&*budget));
            }
        }
    });
    wake_by_size(queue, informers, &informers.deployments, |set| set.spec.replicas);
    wake_by_size(queue, informers, &informers.replica_sets, |set| set.spec.replicas);
    wake_by_size(queue, informers, &informers.stateful_sets, |set| set.spec.replicas);
}

/// Queues the budgets of a namespace in which an owner of pods changes its size.
fn wake_by_size<K>(
    queue: &Queue<ObjectKey>,
    informers: &Informers,
    owners: &Informer<K>,
    size: impl Fn(&K) -> Option<i32> + Send + Sync + 'static,
) where
    K: component::api::Object + kube::Resource,
{
    let (keys, budgets) = (queue.clone(), informers.pod_disruption_budgets.clone());
    owners.on_change(move |change: Change<'_, K>| {
        if change.old.map(|old| size(old)) == change.new.map(|new| size(new)) {
            return;
        }
        for budget in budgets.in_namespace(change.latest().meta().namespace.as_deref().unwrap_or_default()) {
            keys.add(ObjectKey::of(&*budget));
        }
    });
}

impl Controller {
    async fn reconcile(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Done) };
        let selector = labels::compile(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()))?;
        let labels = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref()?.match_labels.as_ref());
        let candidates = self.pods_by_label.candidates(&key.namespace, labels);
        let pods = candidates.unwrap_or_else(|| self.pods.in_namespace(&key.namespace));
        let guarded: Vec<Guarded> = pods
            .into_iter()
            .filter(|pod| labels::matches(&selector, pod.metadata.labels.as_ref()))
            .map(|pod| Guarded { keeper: self.keeper(&pod), pod })
            .collect();
        let now = self.clock.now();
        let plan = plan::plan(&budget, &guarded, now);
        self.tell(&budget, guarded.is_empty(), &plan);
        let wait = plan.recheck.and_then(|recheck| Duration::try_from(recheck.duration_since(now)).ok());
        self.write_status(key, &budget, plan.status).await?;
        Ok(wait.map_or(Next::Done, Next::After))
    }

    /// Who keeps the number of the pod's kind up: the Deployment, if one stands behind its ReplicaSet.
    fn keeper(&self, pod: &Pod) -> Keeper {
        let Some(owner) = claim::controller_of(&pod.metadata) else { return Keeper::Nobody };
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let key = |name: &str| ObjectKey::new(namespace.clone(), name.to_owned());
        let same = |meta: &ObjectMeta, uid: &str| meta.uid.as_deref() == Some(uid);
        let found = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.replica_sets.get(&key(&owner.name));
                set.filter(|set| same(&set.metadata, &owner.uid)).and_then(|set| {
                    let above = claim::controller_of(&set.metadata);
                    match above.filter(|above| above.kind == "Deployment") {
                        Some(above) => {
                            let deployment = self.deployments.get(&key(&above.name))?;
                            same(&deployment.metadata, &above.uid).then_some(deployment.spec.replicas)
                        }
                        None => Some(set.spec.replicas),
                    }
                    .map(|size| (above.map_or(&owner.uid, |above| &above.uid).clone(), size))
                })
            }
            "StatefulSet" => {
                let set = self.stateful_sets.get(&key(&owner.name));
                set.filter(|set| same(&set.metadata, &owner.uid))
                    .map(|set| (owner.uid.clone(), set.spec.replicas))
            }
            _ => None,
        };
        found.map_or(Keeper::Unknown, |(uid, size)| Keeper::Owner(uid, size.unwrap_or(1)))
    }

    fn tell(&self, budget: &PodDisruptionBudget, empty: bool, plan: &Plan) {
        let about = reference(budget);
        if empty {
            self.events.event(&about, EventType::Normal, "NoPods", "No matching pods found");
        }
        if plan.unmanaged {
            let note = "Pods selected by this PodDisruptionBudget were found to be unmanaged. As a result, the status \
                        of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                        for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.";
            self.events.event(&about, EventType::Warning, "UnmanagedPods", note);
        }
        if let Some(failure) = &plan.failure {
            let note = format!("Failed to calculate the number of expected pods: {failure}");
            self.events.event(&about, EventType::Warning, "CalculateExpectedPodCountFailed", note);
        }
        for pod in &plan.not_deleted {
            let ObjectMeta { namespace, name, .. } = &budget.metadata;
            let (namespace, name) =
                (namespace.as_deref().unwrap_or_default(), name.as_deref().unwrap_or_default());
            let note = format!("Pod was expected by PDB {namespace}/{name} to be deleted but it wasn't");
            self.events.event(&reference(&**pod), EventType::Warning, "NotDeleted", note);
        }
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), Error> {
        if !plan::differs(budget.status.as_ref(), &status) {
            return Ok(());
        }
        let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
        let changed = PodDisruptionBudget { status: Some(status), ..budget.clone() };
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(_) => Ok(()),
            // An eviction was faster; the change queues the budget again.
            Err(error) if answers::is_not_found(&error) || answers::is_conflict(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
