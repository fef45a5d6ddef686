//! The cluster that scenarios run on: the real API server on a simulated disk, the real scheduler and controllers as its
//! clients, scripted kubelets. Every part can be killed and started anew.
//!
//! A killed part can do nothing any more: its client leads nowhere from that moment on, whatever its tasks still try.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::gate::{GateConfig, cluster_gate};
use apiserver::limits::Limits;
use apiserver::tokens::{TokenError, Tokens};
use apiserver::types::UserInfo;
use apiserver::{ApiServer, Config, Dependencies};
use component::Context;
use component::lease::run_while_leading;
use http::{Request, StatusCode};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options, Store, StoreError, Watch};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::faults::{Faults, Network, Who};
use crate::kubelet::{NodeScript, ScriptedKubelet};
use crate::observer::Observer;
use crate::sabotage::Sabotage;

/// When simulated time begins.
const BEGINNING: i64 = 1_767_225_600;

/// Why something could not be done to the cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The store refused.
    #[error("store: {0}")]
    Store(#[from] StoreError),
    /// The API server did not start.
    #[error("API server: {0}")]
    Start(#[from] apiserver::StartError),
    /// There is no key for tokens.
    #[error("tokens: {0}")]
    Tokens(#[from] TokenError),
    /// The API server answered with an error.
    #[error("{code}: {message}")]
    Api {
        /// HTTP status.
        code: u16,
        /// Its words.
        message: String,
    },
    /// The scenario names something that does not exist.
    #[error("no such {0}")]
    Unknown(String),
}

/// A part of the cluster that is killed and started as a whole.
struct Part {
    alive: CancellationToken,
    shutdown: CancellationToken,
}

impl Part {
    /// From one moment to the next: nothing that it still does reaches anybody.
    fn kill(self) {
        self.alive.cancel();
        self.shutdown.cancel();
    }
}

/// What can be killed and started, and how many of it there are: more than one elect a leader.
const COMPONENTS: [&str; 2] = ["controllers", "scheduler"];

/// A running cluster.
pub struct Cluster {
    seed: u64,
    clock: Clock,
    entropy: Entropy,
    disk: SimDisk,
    store: Arc<EmbeddedStore>,
    watch: Watch,
    seen: store::Revision,
    started: tokio::time::Instant,
    network: Network,
    /// Components that died at a write of theirs and have to be started anew.
    dead: mpsc::UnboundedReceiver<String>,
    administrator: kube::Client,
    tasks: TaskTracker,
    /// Running components: `scheduler/1`.
    parts: BTreeMap<String, Part>,
    /// How many of each component there are.
    instances: BTreeMap<&'static str, usize>,
    /// How many instances were ever started, so that none is taken for its predecessor.
    started_instances: u64,
    scripts: BTreeMap<String, NodeScript>,
    kubelets: BTreeMap<String, (ScriptedKubelet, Part)>,
    observer: Observer,
}

impl Cluster {
    /// An API server on an empty disk, a scheduler and controllers.
    pub async fn start(seed: u64) -> Result<Self, ClusterError> {
        let beginning = jiff::Timestamp::from_second(BEGINNING).expect("a time that exists");
        let clock = Clock::simulated(beginning);
        let entropy = Entropy::seeded(seed);
        let disk = SimDisk::new(seed);
        let store = open(&disk, seed)?;
        let watch = store.watch("", store.current_revision()).await?;
        let (died, dead) = mpsc::unbounded_channel();
        let network = Network::new(Entropy::seeded(seed.rotate_left(32) ^ 0xfa17), died);
        let nobody_kills = CancellationToken::new();
        let administrator = UserInfo::new("admin", &["system:masters", "system:authenticated"]);
        let mut cluster = Self {
            seed,
            clock,
            entropy,
            disk,
            seen: store.current_revision(),
            store,
            watch,
            started: tokio::time::Instant::now(),
            administrator: network.client(Who::Administrator, administrator, nobody_kills),
            network,
            dead,
            tasks: TaskTracker::new(),
            parts: BTreeMap::new(),
            instances: COMPONENTS.map(|name| (name, 1)).into(),
            started_instances: 0,
            scripts: BTreeMap::new(),
            kubelets: BTreeMap::new(),
            observer: Observer::default(),
        };
        cluster.start_server().await?;
        cluster.start_components();
        Ok(cluster)
    }

    async fn start_server(&mut self) -> Result<(), ClusterError> {
        let dependencies = Dependencies {
            store: self.store.clone(),
            catalog: apiserver::catalog::Catalog::built_in(),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            kubelets: Arc::new(apiserver::proxy::NoKubelets),
        };
        let server = ApiServer::start(Config::default(), dependencies, cluster_gate(self.gate()?)).await?;
        self.network.set_server(Some(server));
        Ok(())
    }

    /// The gate of a real cluster; its tokens are worth nothing after a restart, and nobody here has any.
    fn gate(&self) -> Result<GateConfig, ClusterError> {
        let tokens = Tokens::ephemeral("https://kubernetes.default.svc", self.entropy.clone())?;
        Ok(GateConfig {
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tokens: Arc::new(tokens),
            limits: Limits::default(),
        })
    }

    fn start_components(&mut self) {
        for (name, count) in self.instances.clone() {
            for number in 1..=count {
                self.start_component(name, number);
            }
        }
    }

    /// Starts one instance of a component. Several stand for election; one alone need not.
    fn start_component(&mut self, name: &'static str, number: usize) {
        let account = if name == "scheduler" { "kube-scheduler" } else { "kube-controller-manager" };
        let user = UserInfo::new(&format!("system:{account}"), &["system:authenticated"]);
        let key = format!("{name}/{number}");
        let (context, part) = self.context(Who::Component(key.clone()), user);
        self.parts.insert(key.clone(), part);
        self.started_instances += 1;
        let identity = format!("{key}_{}", self.started_instances);
        if self.instances[name] == 1 {
            self.tasks.spawn(work(name, context));
            return;
        }
        self.tasks.spawn(async move {
            run_while_leading(context, account, &identity, |context| work(name, context)).await;
        });
    }

    fn context(&self, who: Who, user: UserInfo) -> (Context, Part) {
        let part = Part { alive: CancellationToken::new(), shutdown: CancellationToken::new() };
        let context = Context {
            client: self.network.client(who, user, part.alive.clone()),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tasks: self.tasks.clone(),
            shutdown: part.shutdown.clone(),
        };
        (context, part)
    }

    /// From now on there are `count` instances of a component, and one of them leads.
    pub fn elect(&mut self, what: &str, count: usize) -> Result<(), ClusterError> {
        let name = component(what)?;
        self.kill_component(name);
        self.instances.insert(name, count);
        for number in 1..=count {
            self.start_component(name, number);
        }
        Ok(())
    }

    /// Kills the instance that leads, for good.
    pub fn kill_leader(&mut self, what: &str) -> Result<(), ClusterError> {
        self.take_leader(what).map(Part::kill)
    }

    /// Tells the instance that leads to end, for good.
    pub fn stop_leader(&mut self, what: &str) -> Result<(), ClusterError> {
        self.take_leader(what).map(|part| part.shutdown.cancel())
    }

    fn take_leader(&mut self, what: &str) -> Result<Part, ClusterError> {
        let lease =
            if component(what)? == "scheduler" { "kube-scheduler" } else { "kube-controller-manager" };
        let key = format!("/registry/coordination.k8s.io/leases/kube-system/{lease}");
        let holder = self.observer.of_kind("coordination.k8s.io/leases").find(|(known, _)| *known == key);
        let holder = holder.and_then(|(_, lease)| lease["spec"]["holderIdentity"].as_str());
        let name = holder.and_then(|holder| holder.split_once('_')).map(|(name, _)| name.to_owned());
        let part = name.and_then(|name| self.parts.remove(&name));
        part.ok_or_else(|| ClusterError::Unknown(format!("leader of {what}")))
    }

    fn kill_component(&mut self, name: &str) {
        let of_it = |key: &String| key.split_once('/').is_some_and(|(known, _)| known == name);
        let keys: Vec<String> = self.parts.keys().filter(|key| of_it(key)).cloned().collect();
        for part in keys.iter().filter_map(|key| self.parts.remove(key)) {
            part.kill();
        }
    }

    /// Adds a machine, switched on.
    pub fn add_node(&mut self, script: NodeScript) {
        let name = script.name.clone();
        self.scripts.insert(name.clone(), script);
        self.switch_on(&name);
    }

    fn switch_on(&mut self, name: &str) {
        let script = self.scripts[name].clone();
        let user = UserInfo::new(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"]);
        let (context, part) = self.context(Who::Node(name.to_owned()), user);
        self.kubelets.insert(name.to_owned(), (ScriptedKubelet::start(context, script), part));
    }

    /// The machine is gone from one moment to the next.
    pub fn power_off(&mut self, name: &str) -> Result<(), ClusterError> {
        let (kubelet, part) = self
            .kubelets
            .remove(name)
            .ok_or_else(|| ClusterError::Unknown(format!("running node: {name}")))?;
        part.kill();
        drop(kubelet);
        Ok(())
    }

    /// The machine comes back.
    pub fn power_on(&mut self, name: &str) -> Result<(), ClusterError> {
        if !self.scripts.contains_key(name) || self.kubelets.contains_key(name) {
            return Err(ClusterError::Unknown(format!("stopped node: {name}")));
        }
        self.switch_on(name);
        Ok(())
    }

    /// The kubelet of a machine that runs.
    pub fn kubelet(&self, name: &str) -> Option<&ScriptedKubelet> {
        self.kubelets.get(name).map(|(kubelet, _)| kubelet)
    }

    /// Kills a part and starts it anew. The API server loses power together with its disk.
    pub async fn restart(&mut self, what: &str) -> Result<(), ClusterError> {
        if what == "apiserver" {
            self.stop_server().await?;
            return self.start_stored().await;
        }
        self.elect(what, self.instances[component(what)?])
    }

    /// The whole control plane is gone from one moment to the next.
    pub async fn stop_control_plane(&mut self) -> Result<(), ClusterError> {
        for part in std::mem::take(&mut self.parts).into_values() {
            part.kill();
        }
        self.stop_server().await
    }

    /// The control plane comes back with what its disk kept.
    pub async fn start_control_plane(&mut self) -> Result<(), ClusterError> {
        self.start_stored().await?;
        self.start_components();
        Ok(())
    }

    async fn stop_server(&mut self) -> Result<(), ClusterError> {
        if let Some(server) = self.network.set_server(None) {
            server.shutdown().cancel();
        }
        self.disk = self.disk.lose_power();
        self.drain().await
    }

    async fn start_stored(&mut self) -> Result<(), ClusterError> {
        self.store = open(&self.disk, self.seed)?;
        self.watch = self.store.watch("", self.seen).await?;
        self.start_server().await
    }

    /// What goes wrong by chance from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.network.set_faults(faults);
    }

    /// Plants a bug, for tests of the checkers.
    pub fn sabotage(&self, sabotage: Sabotage) {
        self.network.sabotage(sabotage);
    }

    /// Cuts a machine off from the control plane, or heals that. `all` is every machine.
    pub fn partition(&self, node: &str, cut: bool) -> Result<(), ClusterError> {
        let nodes: Vec<&String> = self.scripts.keys().filter(|name| node == "all" || *name == node).collect();
        if nodes.is_empty() {
            return Err(ClusterError::Unknown(format!("node: {node}")));
        }
        for name in nodes {
            if cut { self.network.cut(name) } else { self.network.heal(name) }
        }
        Ok(())
    }

    /// Takes in what was committed before the power went, without waiting.
    async fn drain(&mut self) -> Result<(), ClusterError> {
        use futures::FutureExt;
        while let Some(Some(event)) = self.watch.next().now_or_never() {
            self.take(event?);
        }
        Ok(())
    }

    /// Waits for the next single change of the store and takes it into account.
    pub async fn changed(&mut self) -> Result<(), ClusterError> {
        let event = tokio::select! {
            biased;
            Some(name) = self.dead.recv() => {
                self.revive(&name);
                return Ok(());
            }
            event = self.watch.next() => event,
        };
        match event {
            Some(event) => self.take(event?),
            None => std::future::pending().await,
        }
        Ok(())
    }

    /// Starts anew what died at a write, unless that has been done already.
    fn revive(&mut self, key: &str) {
        let Some(part) = self.parts.remove(key) else { return };
        if !part.alive.is_cancelled() {
            self.parts.insert(key.to_owned(), part);
            return;
        }
        part.kill();
        let (name, number) = key.split_once('/').expect("components are numbered");
        let name = component(name).expect("it was one when it was started");
        self.start_component(name, number.parse().expect("components are numbered"));
    }

    fn take(&mut self, event: store::Event) {
        self.seen = event.revision;
        self.observer.see(
            self.started.elapsed().as_millis(),
            event.revision,
            &event.key,
            event.value.as_deref(),
        );
    }

    /// What exists now is not new from here on.
    pub fn mark(&mut self) {
        self.observer.mark();
    }

    /// Looks at what is stored.
    pub fn observe<T>(&self, look: impl FnOnce(&Observer) -> T) -> T {
        look(&self.observer)
    }

    /// Sends one request as the administrator.
    pub async fn request(
        &self,
        method: &str,
        path: &str,
        content_type: Option<&str>,
        body: Vec<u8>,
    ) -> Result<(), ClusterError> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, content_type.unwrap_or("application/json"))
            .body(body)
            .map_err(|error| ClusterError::Api { code: 0, message: error.to_string() })?;
        match self.administrator.request_text(request).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) => {
                Err(ClusterError::Api { code: status.code, message: status.message.clone() })
            }
            Err(error) => {
                let code = StatusCode::SERVICE_UNAVAILABLE.as_u16();
                Err(ClusterError::Api { code, message: error.to_string() })
            }
        }
    }

    /// Ends everything in good order.
    pub async fn stop(mut self) {
        let kubelets = std::mem::take(&mut self.kubelets).into_values().map(|(_, part)| part);
        for part in std::mem::take(&mut self.parts).into_values().chain(kubelets) {
            part.kill();
        }
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(server) = self.network.set_server(None) {
            server.stop().await;
        }
    }
}

fn component(what: &str) -> Result<&'static str, ClusterError> {
    let known = COMPONENTS.into_iter().find(|name| *name == what);
    known.ok_or_else(|| ClusterError::Unknown(format!("component: {what}")))
}

/// Runs a component until its context ends.
async fn work(name: &'static str, context: Context) {
    if name == "scheduler" {
        scheduler::run(context).await;
    } else {
        let root_ca = "the cluster's CA".to_owned();
        controllers::run(context, controllers::Config { root_ca, ..controllers::Config::default() }).await;
    }
}

fn open(disk: &SimDisk, seed: u64) -> Result<Arc<EmbeddedStore>, ClusterError> {
    Ok(Arc::new(EmbeddedStore::open(Arc::new(disk.clone()), Options::simulated(seed))?))
}
