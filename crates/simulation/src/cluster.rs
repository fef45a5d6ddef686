//! The cluster that scenarios run on: the real API server on a simulated disk, the real scheduler and controllers as its
//! clients, scripted kubelets. Every part can be killed and started anew.
//!
//! A killed part can do nothing any more: its client leads nowhere from that moment on, whatever its tasks still try.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::gate::{GateConfig, cluster_gate};
use apiserver::limits::Limits;
use apiserver::tokens::{TokenError, Tokens};
use apiserver::types::UserInfo;
use apiserver::{ApiServer, Config, Dependencies};
use component::Context;
use http::{Request, Response, StatusCode};
use kube::client::Body;
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options, Store, StoreError, Watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::kubelet::{NodeScript, ScriptedKubelet};
use crate::observer::Observer;

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

/// Where requests go: the API server that runs now, if one does.
#[derive(Clone, Default)]
struct Gateway {
    server: Arc<Mutex<Option<Arc<ApiServer>>>>,
}

impl Gateway {
    fn current(&self) -> MutexGuard<'_, Option<Arc<ApiServer>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client that acts as `user` until `alive` is cancelled, through whichever server runs at the time.
    fn client(&self, user: UserInfo, alive: CancellationToken) -> kube::Client {
        let gateway = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (gateway, user, alive) = (gateway.clone(), user.clone(), alive.clone());
            async move { alive.run_until_cancelled(gateway.pass(user, request)).await.unwrap_or_else(|| Err(Away)) }
        });
        kube::Client::new(service, "default")
    }

    async fn pass(&self, user: UserInfo, request: Request<Body>) -> Result<Response<apiserver::types::Body>, Away> {
        let server = self.current().clone().ok_or(Away)?;
        Ok(server.call(user, request).await)
    }
}

/// Nobody answers.
#[derive(Debug, thiserror::Error)]
#[error("connection refused")]
struct Away;

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
    gateway: Gateway,
    administrator: kube::Client,
    tasks: TaskTracker,
    parts: BTreeMap<&'static str, Part>,
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
        let gateway = Gateway::default();
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
            administrator: gateway.client(administrator, nobody_kills),
            gateway,
            tasks: TaskTracker::new(),
            parts: BTreeMap::new(),
            scripts: BTreeMap::new(),
            kubelets: BTreeMap::new(),
            observer: Observer::default(),
        };
        cluster.start_server().await?;
        cluster.start_scheduler();
        cluster.start_controllers();
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
        *self.gateway.current() = Some(server);
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

    fn start_scheduler(&mut self) {
        let context = self.part("scheduler", UserInfo::new("system:kube-scheduler", &["system:authenticated"]));
        self.tasks.spawn(scheduler::run(context));
    }

    fn start_controllers(&mut self) {
        let user = UserInfo::new("system:kube-controller-manager", &["system:authenticated"]);
        let context = self.part("controllers", user);
        let config = controllers::Config {
            root_ca: "the cluster's CA".to_owned(),
            ..controllers::Config::default()
        };
        self.tasks.spawn(controllers::run(context, config));
    }

    /// What a part lives on, and the means to kill it.
    fn part(&mut self, name: &'static str, user: UserInfo) -> Context {
        let (context, part) = self.context(user);
        self.parts.insert(name, part);
        context
    }

    fn context(&self, user: UserInfo) -> (Context, Part) {
        let part = Part { alive: CancellationToken::new(), shutdown: CancellationToken::new() };
        let context = Context {
            client: self.gateway.client(user, part.alive.clone()),
            clock: self.clock.clone(),
            entropy: self.entropy.clone(),
            tasks: self.tasks.clone(),
            shutdown: part.shutdown.clone(),
        };
        (context, part)
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
        let (context, part) = self.context(user);
        self.kubelets.insert(name.to_owned(), (ScriptedKubelet::start(context, script), part));
    }

    /// The machine is gone from one moment to the next.
    pub fn power_off(&mut self, name: &str) -> Result<(), ClusterError> {
        let (kubelet, part) =
            self.kubelets.remove(name).ok_or_else(|| ClusterError::Unknown(format!("running node: {name}")))?;
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
        match what {
            "scheduler" | "controllers" => {
                if let Some(part) = self.parts.remove(what) {
                    part.kill();
                }
                if what == "scheduler" { self.start_scheduler() } else { self.start_controllers() }
                Ok(())
            }
            "apiserver" => self.power_loss().await,
            other => Err(ClusterError::Unknown(format!("part: {other}"))),
        }
    }

    async fn power_loss(&mut self) -> Result<(), ClusterError> {
        if let Some(server) = self.gateway.current().take() {
            server.shutdown().cancel();
        }
        self.disk = self.disk.lose_power();
        self.drain().await?;
        self.store = open(&self.disk, self.seed)?;
        self.watch = self.store.watch("", self.seen).await?;
        self.start_server().await
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
        match self.watch.next().await {
            Some(event) => self.take(event?),
            None => std::future::pending().await,
        }
        Ok(())
    }

    fn take(&mut self, event: store::Event) {
        self.seen = event.revision;
        self.observer.see(self.started.elapsed().as_millis(), event.revision, &event.key, event.value.as_deref());
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
        let server = self.gateway.current().take();
        if let Some(server) = server {
            server.stop().await;
        }
    }
}

fn open(disk: &SimDisk, seed: u64) -> Result<Arc<EmbeddedStore>, ClusterError> {
    Ok(Arc::new(EmbeddedStore::open(Arc::new(disk.clone()), Options::simulated(seed))?))
}
