//! The shell: follows nodes and pods, lets [`Scheduler`] decide, binds and reports through the API.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::events::{EventType, Recorder, reference};
use component::informer::{Change, Informer, Selection};
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{Binding, Namespace, Node, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Status;
use serde_json::json;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout};

use crate::demand::Demand;
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
        let keys = dirty.clone();
        nodes.on_change(move |change: Change<'_, Node>| {
            let name = ObjectKey::of(&**change.latest()).name;
            keys.mark(|keys| {
                keys.nodes.insert(name);
            });
        });
        let namespaces: Informer<Namespace> =
            Informer::start(&context.tasks, shutdown.clone(), Api::all(client.clone()), Selection::default());
        let keys = dirty.clone();
        namespaces.on_change(move |change: Change<'_, Namespace>| {
            let name = ObjectKey::of(&**change.latest()).name;
            keys.mark(|keys| {
                keys.namespaces.insert(name);
            });
        });
        let keys = dirty.clone();
        pods.on_change(move |change: Change<'_, Pod>| {
            let key = ObjectKey::of(&**change.latest());
            keys.mark(|keys| {
                keys.pods.insert(key);
            });
        });
        let recorder = Recorder::new(&context, NAME, None);
        let (requests, scheduler) = (JoinSet::new(), Scheduler::default());
        Shell { context, nodes, namespaces, pods, dirty, recorder, requests, scheduler }
    }

    async fn run(&mut self) {
        self.nodes.synced().await;
        self.namespaces.synced().await;
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
        }
    }

    /// Tells people, and writes the condition if it is news.
    fn report(&mut self, mut report: Report) {
        let object = reference(&*report.demand.pod);
        self.recorder.event(&object, EventType::Warning, "FailedScheduling", report.message.as_str());
        let Some(write) = report.write.take() else { return };
        let condition = self.condition(&report, &write);
        let client = self.context.client.clone();
        self.requests.spawn(async move {
            let written = timeout(PATIENCE, write_condition(client, &report, &write, &condition)).await;
            let outcome = match written {
                Ok(Ok(version)) => Reported::Written(condition, version),
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
    api.create_subresource::<_, Status>("binding", &key.name, &parameters, &binding).await?;
    Ok(())
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
    let patch = Patch::Strategic(json!({
        "metadata": {"uid": report.demand.pod.metadata.uid, "resourceVersion": write.version},
        "status": {"conditions": [condition]},
    }));
    let pod = api.patch_status(&report.key.name, &PatchParams::default(), &patch).await?;
    Ok(pod.metadata.resource_version)
}
