//! The shell: follows nodes and pods, lets [`Scheduler`] decide, binds and reports through the API.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::api::Object;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer, Selection};
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use pod_rules::{labels, status};
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use crate::demand::Demand;
use crate::preempt::{Budget, Victim};
use crate::scheduler::{Action, NAME, Report, Reported, Scheduler, Write};

/// Requests that may be under way at once.
const IN_FLIGHT: usize = 128;
/// How long a request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why a pod was not bound.
#[derive(Debug, thiserror::Error)]
enum BindError {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("no answer within {PATIENCE:?}")]
    Timeout,
}

/// How a request went.
enum Outcome {
    Bind { key: ObjectKey, demand: Arc<Demand>, node: String, result: Result<(), BindError> },
    Report { report: Box<Report>, outcome: Reported },
}

/// What changed since it was last looked at. Bounded by what there is.
#[derive(Default)]
struct Dirty {
    keys: Mutex<Keys>,
    changed: Notify,
}

#[derive(Default)]
struct Keys {
    nodes: BTreeSet<String>,
    namespaces: BTreeSet<String>,
    budgets: BTreeSet<ObjectKey>,
    pods: BTreeSet<ObjectKey>,
}

impl Dirty {
    fn mark(&self, add: impl FnOnce(&mut Keys)) {
        add(&mut self.keys.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn take(&self) -> Keys {
        std::mem::take(&mut *self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Notes the keys of objects that change.
fn mark_changed<K: Object>(
    dirty: &Arc<Dirty>,
    objects: &Informer<K>,
    note: fn(&mut Keys, ObjectKey) -> bool,
) {
    let dirty = dirty.clone();
    objects.on_change(move |change: Change<'_, K>| {
        let key = ObjectKey::of(&**change.latest());
        dirty.mark(|keys| {
            note(keys, key);
        });
    });
}

/// Schedules pods until shutdown. All that it knows it learns from the API: a restart loses nothing. Only one instance may
/// run at a time; the caller elects it.
pub async fn run(context: Context) {
    let shutdown = context.shutdown.clone();
    let mut shell = Shell::start(context);
    shutdown.run_until_cancelled(shell.run()).await;
    // Nothing that was decided here may come true when another decides already.
    shell.requests.join_all().await;
}

struct Shell {
    context: Context,
    nodes: Informer<Node>,
    namespaces: Informer<Namespace>,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    dirty: Arc<Dirty>,
    recorder: Recorder,
    requests: JoinSet<Outcome>,
    scheduler: Scheduler,
}

impl Shell {
    fn start(context: Context) -> Shell {
        let dirty: Arc<Dirty> = Arc::default();
        let (client, shutdown) = (&context.client, &context.shutdown);
        let nodes: Informer<Node> =
            Informer::start(&context.tasks, shutdown.clone(), Api::all(client.clone()), Selection::default());
        // Pods at their end take nothing from a node.
        let alive = "status.phase!=Succeeded,status.phase!=Failed".to_owned();
        let selection = Selection { fields: Some(alive), labels: None };
        let pods: Informer<Pod> =
            Informer::start(&context.tasks, shutdown.clone(), Api::all(client.clone()), selection);
        let namespaces: Informer<Namespace> =
            Informer::start(&context.tasks, shutdown.clone(), Api::all(client.clone()), Selection::default());
        let budgets: Informer<PodDisruptionBudget> =
            Informer::start(&context.tasks, shutdown.clone(), Api::all(client.clone()), Selection::default());
        mark_changed(&dirty, &nodes, |keys, node| keys.nodes.insert(node.name));
        mark_changed(&dirty, &namespaces, |keys, namespace| keys.namespaces.insert(namespace.name));
        mark_changed(&dirty, &budgets, |keys, budget| keys.budgets.insert(budget));
        mark_changed(&dirty, &pods, |keys, pod| keys.pods.insert(pod));
        let recorder = Recorder::new(&context, NAME, None);
        let (requests, scheduler) = (JoinSet::new(), Scheduler::default());
        Shell { context, nodes, namespaces, budgets, pods, dirty, recorder, requests, scheduler }
    }

    async fn run(&mut self) {
        self.nodes.synced().await;
        self.namespaces.synced().await;
        self.budgets.synced().await;
        self.pods.synced().await;
        loop {
            self.look();
            while let Some(outcome) = self.requests.try_join_next() {
                self.finish(outcome);
            }
            let now = Instant::now();
            self.scheduler.wake(now);
            if self.requests.len() < IN_FLIGHT {
                let entropy = self.context.entropy.clone();
                let pick = |bound: usize| usize::try_from(entropy.below(bound as u64)).unwrap_or(0);
                if let Some(action) = self.scheduler.next(now, pick) {
                    self.act(action);
                    // Requests and informers get their turn between any two decisions.
                    tokio::task::yield_now().await;
                    continue;
                }
            }
            self.wait().await;
        }
    }

    /// Takes in what changed, as it is now.
    fn look(&mut self) {
        let keys = self.dirty.take();
        for name in &keys.nodes {
            let node = self.nodes.get(&ObjectKey::new("", name.as_str()));
            self.scheduler.node_changed(name, node);
        }
        for name in &keys.namespaces {
            let namespace = self.namespaces.get(&ObjectKey::new("", name.as_str()));
            let labels = namespace.map(|namespace| namespace.metadata.labels.clone().unwrap_or_default());
            self.scheduler.namespace_changed(name, labels);
        }
        for key in &keys.budgets {
            let budget = self.budgets.get(key).as_deref().and_then(budget_of);
            self.scheduler.budget_changed(key, budget);
        }
        let now = Instant::now();
        for key in &keys.pods {
            self.scheduler.pod_changed(key, self.pods.get(key), now);
        }
    }

    /// Waits for a change, an answer or a deadline.
    async fn wait(&mut self) {
        let due = self.scheduler.next_due();
        let deadline = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        let answered = tokio::select! {
            biased;
            () = self.dirty.changed.notified() => None,
            Some(outcome) = self.requests.join_next() => Some(outcome),
            () = deadline => None,
        };
        if let Some(outcome) = answered {
            self.finish(outcome);
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Bind { key, demand, node } => {
                let client = self.context.client.clone();
                self.requests.spawn(async move {
                    let result = match timeout(PATIENCE, bind(client, &key, &demand, &node)).await {
                        Ok(result) => result.map_err(BindError::from),
                        Err(_) => Err(BindError::Timeout),
                    };
                    Outcome::Bind { key, demand, node, result }
                });
            }
            Action::Report(report) => self.report(report),
            Action::Preempt { report, victims, node } => self.preempt(report, victims, &node),
        }
    }

    /// Tells people, and writes the condition if it is news.
    fn report(&mut self, report: Report) {
        self.tell(&report);
        if report.write.is_some() {
            self.write_and_evict(report, Vec::new());
        }
    }

    fn tell(&self, report: &Report) {
        let object = reference(&*report.demand.pod);
        self.recorder.event(&object, EventType::Warning, "FailedScheduling", report.message.as_str());
    }

    /// The same, and deletes those who make room. That the pod has the node's promise is written first: whoever goes on
    /// from here knows for whom it was.
    fn preempt(&mut self, report: Report, victims: Vec<Victim>, node: &str) {
        self.tell(&report);
        let note = format!("Preempted by pod {} on node {node}", report.demand.uid());
        let mut there = Vec::new();
        for victim in victims {
            let pod = self.pods.get(&victim.key);
            if let Some(pod) = pod.filter(|pod| pod.metadata.uid.as_deref() == Some(&*victim.uid)) {
                self.recorder.event(&reference(&*pod), EventType::Normal, "Preempted", note.as_str());
                there.push(victim);
            }
        }
        self.write_and_evict(report, there);
    }

    fn write_and_evict(&mut self, mut report: Report, victims: Vec<Victim>) {
        let write = report.write.take();
        let written = write.map(|write| (self.condition(&report, &write), write));
        let (client, now) = (self.context.client.clone(), Time(self.context.clock.now()));
        self.requests.spawn(async move {
            let all = async {
                let outcome = match written {
                    None => Reported::Known,
                    Some((condition, write)) => {
                        let version = write_condition(client.clone(), &report, &write, &condition).await?;
                        Reported::Written(condition, version)
                    }
                };
                for victim in &victims {
                    evict(client.clone(), victim, &now).await?;
                }
                Ok::<_, kube::Error>(outcome)
            };
            let outcome = match timeout(PATIENCE, all).await {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(error)) => {
                    tracing::debug!(pod = %report.key, %error, "the condition was not written; looking again");
                    Reported::Failed
                }
                Err(_) => Reported::Failed,
            };
            Outcome::Report { report: Box::new(report), outcome }
        });
    }

    fn condition(&self, report: &Report, write: &Write) -> PodCondition {
        let before = write.before.as_ref().filter(|before| before.status == "False");
        let since = before.and_then(|before| before.last_transition_time.clone());
        PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "False".to_owned(),
            reason: Some(report.reason.to_owned()),
            message: Some(report.message.clone()),
            last_transition_time: Some(since.unwrap_or_else(|| Time(self.context.clock.now()))),
            observed_generation: report.demand.pod.metadata.generation,
            last_probe_time: None,
        }
    }

    fn finish(&mut self, outcome: Result<Outcome, JoinError>) {
        let now = Instant::now();
        match outcome {
            Ok(Outcome::Bind { key, demand, node, result: Ok(()) }) => {
                self.scheduler.bound(&key, demand.uid());
                let text = format!("Successfully assigned {key} to {node}");
                self.recorder.event(&reference(&*demand.pod), EventType::Normal, "Scheduled", text);
            }
            Ok(Outcome::Bind { key, demand, node, result: Err(error) }) => {
                tracing::info!(pod = %key, %node, %error, "not bound; trying again");
                let report = self.scheduler.bind_failed(&key, demand.uid(), worth_reporting(&error), now);
                if let Some(report) = report {
                    self.report(report);
                }
                // What was seen of the pod while it was assumed was passed over.
                self.dirty.mark(|keys| {
                    keys.pods.insert(key);
                });
            }
            Ok(Outcome::Report { report, outcome }) => self.scheduler.reported(&report, outcome, now),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // Requests are only cancelled when the set is dropped.
            Err(error) => tracing::warn!(%error, "a request was cancelled"),
        }
    }
}

/// A pod that is gone or that another got hold of explains itself when it is next seen.
fn worth_reporting(error: &BindError) -> Option<String> {
    match error {
        BindError::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => None,
        BindError::Api(kube::Error::Api(status)) => Some(rejected(&status.message)),
        other => Some(rejected(&other.to_string())),
    }
}

fn rejected(why: &str) -> String {
    format!("binding rejected: running Bind plugin \"DefaultBinder\": {why}")
}

async fn bind(client: kube::Client, key: &ObjectKey, demand: &Demand, node: &str) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, &key.namespace);
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(key.name.clone()),
            namespace: Some(key.namespace.clone()),
            uid: demand.pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let parameters = PostParams::default();
    let bound = api.create_subresource::<_, Status>("binding", &key.name, &parameters, &binding).await;
    match bound {
        Ok(_) => Ok(()),
        Err(error) if !is_unknown(&error) => Err(error),
        // It may have happened: the node's room is not given away before that is known.
        Err(error) => match api.get_opt(&key.name).await? {
            Some(pod) if pod.metadata.uid == demand.pod.metadata.uid && status::node_name(&pod) == node => {
                Ok(())
            }
            _ => Err(error),
        },
    }
}

/// Whether a request that failed may have been carried out.
fn is_unknown(error: &kube::Error) -> bool {
    !matches!(error, kube::Error::Api(status) if status.code < 500)
}

/// Writes the condition over the state that it was decided on, and returns the new resourceVersion. Anything that came
/// between, above all a binding, makes it a conflict.
async fn write_condition(
    client: kube::Client,
    report: &Report,
    write: &Write,
    condition: &PodCondition,
) -> kube::Result<Option<String>> {
    let api: Api<Pod> = Api::namespaced(client, &report.key.namespace);
    let mut patch = json!({
        "metadata": {"uid": report.demand.pod.metadata.uid, "resourceVersion": write.version},
        "status": {"conditions": [condition]},
    });
    if let Some(node) = &write.nominated {
        patch["status"]["nominatedNodeName"] = Some(node.as_str()).filter(|node| !node.is_empty()).into();
    }
    let patch = Patch::Strategic(patch);
    let pod = api.patch_status(&report.key.name, &PatchParams::default(), &patch).await?;
    Ok(pod.metadata.resource_version)
}

/// Tells a pod why it goes, and deletes it; that it has gone already, or another has its name, is as good.
async fn evict(client: kube::Client, victim: &Victim, now: &Time) -> kube::Result<()> {
    let api: Api<Pod> = Api::namespaced(client, &victim.key.namespace);
    let gone =
        |error: &kube::Error| matches!(error, kube::Error::Api(status) if matches!(status.code, 404 | 409));
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "lastTransitionTime": now,
        "message": format!("{NAME}: preempting to accommodate a higher priority pod"),
    });
    let patch =
        Patch::Strategic(json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}}));
    match api.patch_status(&victim.key.name, &PatchParams::default(), &patch).await {
        Err(error) if gone(&error) => return Ok(()),
        told => drop(told?),
    }
    let preconditions = Preconditions { uid: Some(victim.uid.clone()), resource_version: None };
    match api.delete(&victim.key.name, &DeleteParams::default().preconditions(preconditions)).await {
        Err(error) if gone(&error) => Ok(()),
        deleted => deleted,
    }
}

fn budget_of(budget: &PodDisruptionBudget) -> Option<Budget> {
    let status = budget.status.as_ref();
    let disrupted = status.and_then(|status| status.disrupted_pods.clone()).unwrap_or_default();
    Some(Budget {
        selector: labels::compile(budget.spec.as_ref()?.selector.as_ref()).ok()?,
        allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
        leaving: disrupted.into_keys().collect(),
    })
}
