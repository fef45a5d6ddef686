//! The pods of this node: a worker for each that the API has, the end of those that it no longer has, and the tidying of
//! what an earlier kubelet left. Nothing is ended for being unknown before the API told all that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use component::Api;
use component::ObjectKey;
use component::informer::{Change, Informer, Selection};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use tokio::sync::{Notify, watch};
use tokio::task::{Id, JoinSet};

use crate::act;
use crate::lifecycle::{RuntimePod, State, uid};
use crate::runtime::POD_UID;
use crate::shared::Shared;
use crate::worker::{Handle, Signal, Signals, View, Worker};

const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Between attempts to tidy up.
const TIDY_AGAIN: Duration = Duration::from_secs(5);

/// The workers by uid, for everybody who has something to tell them or to ask.
#[derive(Clone, Default)]
pub(crate) struct Workers(Arc<Mutex<BTreeMap<String, Handle>>>);

impl Workers {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Handle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes one pod's worker.
    pub fn raise(&self, uid: &str, signal: Signal) {
        if let Some(handle) = self.lock().get(uid) {
            handle.signals.raise(signal);
        }
    }

    /// Wakes all workers.
    pub fn raise_all(&self, signal: Signal) {
        for handle in self.lock().values() {
            handle.signals.raise(signal);
        }
    }

    /// Ids and log files of all containers that run.
    pub fn logs(&self) -> Vec<(String, PathBuf)> {
        let workers = self.lock();
        let seen = workers.values().map(|handle| handle.observed.borrow().clone());
        let containers = seen.flat_map(|pod| pod.containers.clone());
        let running = containers.filter(|found| found.state == State::Running && !found.log_path.is_empty());
        running.map(|found| (found.id, PathBuf::from(found.log_path))).collect()
    }

    /// What the runtime has of a pod, as its worker last saw it.
    pub fn observed(&self, uid: &str) -> Option<watch::Receiver<Arc<RuntimePod>>> {
        self.lock().get(uid).map(|handle| handle.observed.clone())
    }
}

/// What the API said since it was last taken in.
#[derive(Clone, Default)]
struct Inbox(Arc<(Mutex<BTreeMap<String, View>>, Notify)>);

impl Inbox {
    fn put(&self, pod: &Arc<Pod>, gone: bool) {
        let view = View { pod: pod.clone(), gone };
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid(pod).to_owned(), view);
        self.0.1.notify_one();
    }

    fn take(&self) -> BTreeMap<String, View> {
        std::mem::take(&mut *self.0.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, change: &Change<'_, Pod>) {
        let replaced = change.old.filter(|old| change.new.is_none_or(|new| uid(new) != uid(old)));
        if let Some(old) = replaced {
            self.put(old, true);
        }
        if let Some(new) = change.new {
            self.put(new, false);
        }
    }
}

/// Follows the pods of a node.
pub(crate) fn informer(context: &component::Context, node: &str) -> Informer<Pod> {
    let selection = Selection { fields: Some(format!("spec.nodeName={node}")), labels: None };
    Informer::start(&context.tasks, context.shutdown.clone(), Api::all(context.client.clone()), selection)
}

/// Finds a pod of this node.
pub(crate) fn find(pods: &Informer<Pod>, namespace: &str, name: &str) -> Option<Arc<Pod>> {
    pods.get(&ObjectKey::new(namespace, name))
}

pub(crate) struct Pods {
    shared: Arc<Shared>,
    informer: Informer<Pod>,
    workers: Workers,
    inbox: Inbox,
    tasks: JoinSet<()>,
    running: BTreeMap<Id, String>,
}

impl Pods {
    pub fn new(shared: Arc<Shared>, informer: Informer<Pod>, workers: Workers) -> Self {
        let inbox = Inbox::default();
        let notes = inbox.clone();
        informer.on_change(move |change| notes.note(&change));
        Self { shared, informer, workers, inbox, tasks: JoinSet::new(), running: BTreeMap::new() }
    }

    /// Keeps pods until shutdown; they go on without us.
    pub async fn run(mut self) {
        let shutdown = self.shared.context.shutdown.clone();
        let mut tidy = Some(tokio::time::Instant::now());
        let informer = self.informer.clone();
        let synced = informer.synced();
        tokio::pin!(synced);
        let mut has_synced = false;
        loop {
            for (_, view) in self.inbox.take() {
                self.take(view);
            }
            let alarm = async {
                match tidy.filter(|_| has_synced) {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = self.inbox.0.1.notified() => {}
                () = &mut synced, if !has_synced => has_synced = true,
                Some(ended) = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => self.ended(ended),
                () = alarm => tidy = self.tidy().await.err().map(|error| {
                    tracing::debug!(%error, "not tidied up; trying again");
                    tokio::time::Instant::now() + TIDY_AGAIN
                }),
            }
        }
    }

    fn take(&mut self, view: View) {
        let uid = uid(&view.pod).to_owned();
        {
            let workers = self.workers.lock();
            if let Some(handle) = workers.get(&uid) {
                handle.view.send_replace(view);
                return;
            }
        }
        if !view.gone {
            self.start(view);
        }
    }

    fn start(&mut self, view: View) {
        let uid = uid(&view.pod).to_owned();
        let (worker, handle) = Worker::new(self.shared.clone(), view, Arc::new(Signals::default()));
        self.workers.lock().insert(uid.clone(), handle);
        let task = self.tasks.spawn(worker.run());
        self.running.insert(task.id(), uid);
    }

    fn ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(uid) = self.running.remove(&id) else { return };
        let Some(handle) = self.workers.lock().remove(&uid) else { return };
        let view = handle.view.borrow().clone();
        if let Err(error) = ended {
            // It ended by a bug of ours; the pod must not suffer for it.
            tracing::error!(uid, %error, "a pod's worker failed; another one takes over");
            self.start(view);
        }
    }

    /// Ends what the API does not know, and removes what nobody needs. The API has told all that it knows by now.
    async fn tidy(&mut self) -> Result<(), cri::Error> {
        let mut known: BTreeSet<String> =
            self.informer.list().iter().map(|pod| uid(pod).to_owned()).collect();
        known.extend(self.workers.lock().keys().cloned());
        let runtime = &self.shared.runtime;
        let mut orphans: BTreeMap<String, Pod> = BTreeMap::new();
        for sandbox in runtime.sandboxes(None).await? {
            note_orphan(&mut orphans, &known, &sandbox.labels);
        }
        for container in runtime.containers(None).await? {
            if let Some(pod) = note_orphan(&mut orphans, &known, &container.labels) {
                note_container(pod, &container.labels, &container.annotations);
            }
        }
        known.extend(orphans.keys().cloned());
        for (uid, pod) in orphans {
            tracing::info!(uid, pod = ?pod.metadata.name, "ending a pod that the API does not know");
            self.start(View { pod: Arc::new(pod), gone: true });
        }
        self.remove_directories(&self.shared.config.pods_dir(), &known, |name| Some(name));
        self.remove_directories(&self.shared.config.logs_dir(), &known, |name| {
            Some(name.rsplit_once('_')?.1)
        });
        Ok(())
    }

    fn remove_directories(&self, parent: &Path, known: &BTreeSet<String>, uid: fn(&str) -> Option<&str>) {
        let entries = match std::fs::read_dir(parent) {
            Ok(entries) => entries,
            Err(error) => {
                return tracing::debug!(%error, directory = %parent.display(), "nothing to tidy up");
            }
        };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(uid) = uid(&name).filter(|uid| !known.contains(*uid)) else { continue };
            let removed = act::remove_cgroups(&self.shared, uid)
                .and_then(|()| act::remove_directory(&self.shared, &entry.path()));
            if let Err(error) = removed {
                tracing::warn!(%error, directory = %entry.path().display(), "an old pod's directory stays");
            }
        }
    }
}

/// The pod that these labels are of, if the API does not know it.
fn note_orphan<'a>(
    orphans: &'a mut BTreeMap<String, Pod>,
    known: &BTreeSet<String>,
    labels: &cri::messages::StringMap,
) -> Option<&'a mut Pod> {
    let uid = labels.get(POD_UID).filter(|uid| !known.contains(*uid))?;
    Some(orphans.entry(uid.clone()).or_insert_with(|| Pod {
        metadata: ObjectMeta {
            name: labels.get(POD_NAME).cloned(),
            namespace: labels.get(POD_NAMESPACE).cloned(),
            uid: Some(uid.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec::default()),
        status: None,
    }))
}

/// As much of a container's spec as its end needs.
fn note_container(pod: &mut Pod, labels: &cri::messages::StringMap, annotations: &cri::messages::StringMap) {
    let Some(name) = labels.get(CONTAINER_NAME) else { return };
    let spec = pod.spec.get_or_insert_default();
    if let Some(grace) = annotations.get(GRACE).and_then(|grace| grace.parse().ok()) {
        spec.termination_grace_period_seconds = Some(grace);
    }
    if spec.containers.iter().any(|known| known.name == *name) {
        return;
    }
    let hook = annotations.get(PRE_STOP).and_then(|text| serde_json::from_str(text).ok());
    let lifecycle = hook.map(|hook| k8s_openapi::api::core::v1::Lifecycle {
        pre_stop: Some(hook),
        ..k8s_openapi::api::core::v1::Lifecycle::default()
    });
    spec.containers.push(Container { name: name.clone(), lifecycle, ..Container::default() });
}
