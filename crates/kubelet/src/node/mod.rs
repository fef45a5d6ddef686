//! This node's object in the API: registered at start, its status kept true, its Lease renewed. What the status says is
//! a pure function (`status`); when it is written is decided here.

mod cloud;
mod lease;
mod status;

use std::net::IpAddr;
use std::time::Duration;

use component::events::{EventType, Recorder};
use component::freshness::Freshness;
use component::informer::{Change, Informer, Selection};
use component::{Api, Context, ObjectKey};
use cri::messages::{Image, RuntimeStatus, VersionResponse};
use host::system::{Disk, Machine};
use k8s_openapi::api::core::v1::{Node, NodeSpec, NodeStatus, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::watch;

use crate::changes::Health;
use crate::config::Config;
use crate::runtime::Runtime;

pub(crate) use status::resources;

/// Between looks at the machine, and the longest time that a change of it goes unreported.
const LOOK: Duration = Duration::from_secs(10);
/// Between looks while the runtime is up and its network is not: its configuration may be read at any moment.
const LOOK_SOON: Duration = Duration::from_millis(200);
/// An unchanged status is written again after this time.
const REPORT: Duration = Duration::from_secs(300);
/// Between attempts to register: the first pause, doubled up to the last.
const REGISTER: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(7));
/// No answer within this time is no answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a status is made from, found out anew each time.
pub(crate) struct Facts {
    pub machine: Machine,
    pub disk: Disk,
    pub memory_available: u64,
    pub processes: (u64, u64),
    /// What the runtime says of itself, or why it says nothing.
    pub runtime: Result<(VersionResponse, RuntimeStatus), String>,
    /// Images; the last known ones while the runtime is away.
    pub images: Vec<Image>,
}

/// Keeps the node's object.
pub(crate) struct NodeKeeper {
    pub context: Context,
    pub config: Config,
    pub addresses: Vec<IpAddr>,
    pub runtime: std::sync::Arc<dyn Runtime>,
    pub health: watch::Receiver<Health>,
    pub recorder: Recorder,
    /// The range of pods that this node has, once it has one.
    pub pod_cidr: watch::Sender<Option<String>>,
    /// What the API shows of this node: others write there too, of a node that they have not heard for a while.
    pub own: Informer<Node>,
    /// Our own writes. An older view says nothing.
    pub written: Freshness<()>,
}

/// Follows this node's object.
pub(crate) fn informer(context: &Context, name: &str) -> Informer<Node> {
    let selection = Selection { fields: Some(format!("metadata.name={name}")), labels: None };
    let api = Api::all(context.client.clone());
    Informer::start(&context.tasks, context.shutdown.clone(), api, selection)
}

impl NodeKeeper {
    /// Registers, then reports until shutdown.
    pub async fn run(mut self) {
        let mut images = Vec::new();
        let mut range = self.pod_cidr.subscribe();
        let node = self.register(&mut images).await;
        self.event(EventType::Normal, "Starting", "Starting kubelet.");
        self.context.tasks.spawn({
            let (context, name, uid) =
                (self.context.clone(), self.config.node_name.clone(), node.metadata.uid.clone());
            let shutdown = context.shutdown.clone();
            async move {
                shutdown.run_until_cancelled(lease::renew(context, name, uid.unwrap_or_default())).await;
            }
        });
        let mut known = node;
        let mut shown = self.shown();
        let mut reported: Option<tokio::time::Instant> = None;
        loop {
            let facts = self.facts(&mut images).await;
            if self.written.ready(&(), self.own.revision())
                && let Some(view) = self.own.get(&ObjectKey::new("", &self.config.node_name))
            {
                known = (*view).clone();
            }
            let wanted = self.status(&known, &facts);
            let due = reported.is_none_or(|at| at.elapsed() > REPORT);
            if due || status::differs(known.status.as_ref(), &wanted) {
                match self.write(&wanted).await {
                    Ok(node) => {
                        self.tell(&known, &node);
                        self.written.note((), node.metadata.resource_version.as_deref());
                        known = node;
                        reported = Some(tokio::time::Instant::now());
                    }
                    Err(kube::Error::Api(status)) if status.code == 404 => {
                        known = self.register(&mut images).await
                    }
                    Err(error) => tracing::debug!(%error, "the node's status was not written"),
                }
            }
            let settled = status::is_ready(&wanted) || facts.runtime.is_err();
            let pause = if settled && reported.is_some() { LOOK } else { LOOK_SOON };
            tokio::select! {
                changed = self.health.changed() => if changed.is_err() {
                    return;
                },
                // The senders are our own.
                _ = range.changed() => {}
                _ = shown.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Wakes whenever the API shows another status.
    fn shown(&self) -> watch::Receiver<()> {
        let (sender, shown) = watch::channel(());
        self.own.on_change(move |change: Change<'_, Node>| {
            if change.old.map(|node| &node.status) != change.new.map(|node| &node.status) {
                sender.send_replace(());
            }
        });
        shown
    }

    fn status(&self, known: &Node, facts: &Facts) -> NodeStatus {
        let port = self.config.server.as_ref().map(|(address, _)| address.port());
        let old = known.status.clone().unwrap_or_default();
        status::node_status(&self.config, &self.addresses, port, facts, &old, self.context.clock.now())
    }

    async fn facts(&self, images: &mut Vec<Image>) -> Facts {
        let runtime = self.ask_runtime(images).await;
        let log = |what: &str, error: std::io::Error| tracing::warn!(%error, "cannot read {what}");
        let machine = host::system::machine().unwrap_or_else(|error| {
            log("the machine's facts", error);
            Machine::default()
        });
        let disk = host::system::disk(&self.config.data_dir).unwrap_or_else(|error| {
            log("the disk's size", error);
            Disk::default()
        });
        let memory_available = host::system::memory_available().unwrap_or(machine.memory);
        let processes = host::system::processes().unwrap_or((0, u64::MAX));
        Facts { machine, disk, memory_available, processes, runtime, images: images.clone() }
    }

    async fn ask_runtime(&self, images: &mut Vec<Image>) -> Result<(VersionResponse, RuntimeStatus), String> {
        if let Health::Down(words) = &*self.health.borrow() {
            return Err(words.clone());
        }
        let text = |error: cri::Error| error.to_string();
        let version = self.runtime.version().await.map_err(text)?;
        let status = self.runtime.status().await.map_err(text)?;
        *images = self.runtime.images().await.map_err(text)?;
        Ok((version, status))
    }

    /// Makes the node's object, or takes over the one that is there.
    async fn register(&self, images: &mut Vec<Image>) -> Node {
        let mut pause = REGISTER.0;
        loop {
            let facts = self.facts(images).await;
            match tokio::time::timeout(ANSWER_LIMIT, self.try_register(&facts)).await {
                Ok(Ok(node)) => {
                    tracing::info!(node = self.config.node_name, "registered");
                    return node;
                }
                Ok(Err(error)) => tracing::info!(%error, "the node is not registered yet; trying again"),
                Err(_) => tracing::info!("the API does not answer; registering again"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(REGISTER.1);
        }
    }

    async fn try_register(&self, facts: &Facts) -> kube::Result<Node> {
        let api = Api::<Node>::all(self.context.client.clone());
        let labels = status::labels(&self.config, &facts.machine);
        let node = Node {
            metadata: ObjectMeta {
                name: Some(self.config.node_name.clone()),
                labels: Some(labels.clone()),
                annotations: cloud::annotations(&self.config),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                taints: Some(cloud::taints(&self.config)).filter(|taints| !taints.is_empty()),
                provider_id: self.config.provider_id.clone(),
                ..NodeSpec::default()
            }),
            status: Some(self.status(&Node::default(), facts)),
        };
        match api.create(&PostParams::default(), &node).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            other => return other,
        }
        let known = api.get(&self.config.node_name).await?;
        let has = known.metadata.labels.clone().unwrap_or_default();
        if labels.iter().all(|(key, value)| has.get(key) == Some(value)) {
            return Ok(known);
        }
        let patch = json!({"metadata": {"labels": labels}});
        api.patch(&self.config.node_name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    async fn write(&self, wanted: &NodeStatus) -> kube::Result<Node> {
        let api = Api::<Node>::all(self.context.client.clone());
        let patch = Patch::Strategic(status::patch(wanted));
        let parameters = PatchParams::default();
        let call = api.patch_status(&self.config.node_name, &parameters, &patch);
        match tokio::time::timeout(ANSWER_LIMIT, call).await {
            Ok(answer) => answer,
            Err(_) => Err(kube::Error::Service("no answer".into())),
        }
    }

    /// Events of what changed between two statuses.
    fn tell(&self, before: &Node, now: &Node) {
        let name = &self.config.node_name;
        let status = |node: &Node| node.status.clone().unwrap_or_default();
        for reason in status::turns(&status(before), &status(now)) {
            self.event(EventType::Normal, &reason, &format!("Node {name} status is now: {reason}"));
        }
    }

    fn event(&self, kind: EventType, reason: &str, note: &str) {
        let name = &self.config.node_name;
        // Upstream's kubelets name their node by its name where the uid belongs; tools look for that.
        let object = ObjectReference {
            kind: Some("Node".to_owned()),
            name: Some(name.clone()),
            uid: Some(name.clone()),
            ..ObjectReference::default()
        };
        self.recorder.event(&object, kind, reason, note);
    }
}
