//! The server as a whole: what it is made of, how it starts and stops, and how clients in the same process reach it.
//!
//! No socket is opened here; `serve` does that with `handle`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use api_machinery::status::ApiError;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt;
use store::{Store, StoreError};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::aggregation::{self, Aggregation};
use crate::bootstrap;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::custom;
use crate::discovery::Specs;
use crate::egress::Routes;
use crate::events;
use crate::metrics::Metrics;
use crate::proxy::Kubelets;
use crate::registry::Turns;
use crate::request;
use crate::types::{Body, Gate, InProcessUser, Lookup, RequestBody, UserInfo};
use crate::watch::Cache;
use crate::webhooks;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store could not be read.
    #[error("the store could not be read: {0}")]
    Store(#[from] StoreError),
    /// An object that must exist could not be made.
    #[error("{what} could not be made: {error}")]
    Bootstrap {
        /// Which object.
        what: String,
        /// Why.
        error: String,
    },
}

/// What a server needs from outside.
pub struct Dependencies {
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// What exists.
    pub catalog: Catalog,
    /// The time.
    pub clock: Clock,
    /// Randomness.
    pub entropy: Entropy,
    /// How kubelets are reached.
    pub kubelets: Arc<dyn Kubelets>,
}

/// A running API server.
pub struct ApiServer {
    config: Config,
    store: Arc<dyn Store>,
    clock: Clock,
    entropy: Entropy,
    kubelets: Arc<dyn Kubelets>,
    routes: Routes,
    cache: Arc<Cache>,
    webhooks: webhooks::All,
    aggregation: Aggregation,
    gate: Arc<dyn Gate>,
    quota_turns: Turns,
    specs: Specs,
    metrics: Metrics,
    long_lists: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    ready: AtomicBool,
    storing: AtomicBool,
}

impl ApiServer {
    /// Loads the store, makes what must exist, and is ready. `gate` gets the means to look up objects.
    pub async fn start(
        config: Config,
        dependencies: Dependencies,
        gate: impl FnOnce(Arc<dyn Lookup>) -> Arc<dyn Gate>,
    ) -> Result<Arc<ApiServer>, StartError> {
        let Dependencies { store, catalog, clock, entropy, kubelets } = dependencies;
        let cache = Cache::load(store.clone(), catalog, config.stale_reads_without_quorum).await?;
        let gate = gate(cache.clone());
        let services = config.service_cidr.to_string().parse().ok();
        let server = Arc::new(ApiServer {
            specs: Specs::default(),
            webhooks: webhooks::All::new(&cache.catalog(), &cache),
            aggregation: Aggregation::new(&cache.catalog(), &cache),
            routes: Routes::new(config.egress, services, cache.clone()),
            metrics: Metrics::default(),
            quota_turns: Turns::default(),
            long_lists: Arc::new(Semaphore::new(config.max_long_lists.min(Semaphore::MAX_PERMITS))),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            ready: AtomicBool::new(false),
            storing: AtomicBool::new(true),
            config,
            store,
            clock,
            entropy,
            kubelets,
            cache,
            gate,
        });
        server.tasks.spawn(server.cache.clone().follow(server.shutdown.clone()));
        bootstrap::run(&server).await?;
        server.tasks.spawn(compact(server.clone()));
        server.tasks.spawn(events::expire(server.clone()));
        server.tasks.spawn(custom::keep(server.clone()));
        server.tasks.spawn(aggregation::keep(server.clone()));
        server.tasks.spawn(aggregation::trust::keep(server.clone()));
        server.ready.store(true, Ordering::Release);
        Ok(server)
    }

    /// Answers one request of any transport.
    pub fn handle(self: &Arc<Self>, request: Request<RequestBody>) -> BoxFuture<'static, Response<Body>> {
        let server = self.clone();
        Box::pin(async move { request::handle(&server, request).await })
    }

    /// A client in this process that acts as `user`. It takes the same path as every other: flow control, authorization and
    /// admission apply.
    pub fn client(self: &Arc<Self>, user: UserInfo) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |request| {
            let (server, user) = (server.clone(), user.clone());
            async move { Ok::<_, std::convert::Infallible>(server.call(user, request).await) }
        });
        kube::Client::new(service, "default")
    }

    /// Answers one request of a client in this process that acts as `user`.
    pub async fn call(
        self: &Arc<Self>,
        user: UserInfo,
        request: Request<kube::client::Body>,
    ) -> Response<Body> {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(InProcessUser(user));
        let body = body.map_err(Into::into).boxed_unsync();
        self.handle(Request::from_parts(parts, body)).await
    }

    /// Is ready no longer and ends all watches, so that clients look for another server. Other requests go on.
    pub fn end_watches(&self) {
        self.ready.store(false, Ordering::Release);
        self.shutdown.cancel();
    }

    /// Ends watches, waits for what is being written, and leaves the store to its owner.
    pub async fn stop(&self) {
        self.end_watches();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Whether the server has started and is not stopping.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Whether the store takes writes, as far as the last one told.
    pub fn is_storing(&self) -> bool {
        self.storing.load(Ordering::Acquire)
    }

    /// Remembers how a write went.
    pub(crate) fn note_store(&self, error: Option<&StoreError>) {
        match error {
            None => self.storing.store(true, Ordering::Release),
            Some(StoreError::Stopped(_)) => self.storing.store(false, Ordering::Release),
            Some(_) => {}
        }
    }

    /// Runs work in a task that the server owns: it goes on when the caller is dropped.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: BoxFuture<'static, Result<T, ApiError>>,
    ) -> BoxFuture<'static, Result<T, ApiError>> {
        let running = tokio::time::timeout(self.config.request_timeout, self.tasks.spawn(work));
        Box::pin(async move {
            match running.await {
                Ok(Ok(result)) => result,
                Ok(Err(error)) => {
                    tracing::error!(%error, "a request failed unexpectedly");
                    Err(ApiError::internal("the request failed unexpectedly"))
                }
                Err(_) => Err(ApiError::timeout("request did not complete within the allotted time", 1)),
            }
        })
    }

    /// The settings.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What exists just now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.cache.catalog()
    }

    /// Reads stored objects.
    pub fn lookup(&self) -> Arc<dyn Lookup> {
        self.cache.clone()
    }

    /// The time.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(crate) fn store(&self) -> &dyn Store {
        &*self.store
    }

    pub(crate) fn entropy(&self) -> &Entropy {
        &self.entropy
    }

    pub(crate) fn kubelets(&self) -> &dyn Kubelets {
        &*self.kubelets
    }

    /// The ways into the cluster: to kubelets and pods.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    pub(crate) fn cache(&self) -> &Arc<Cache> {
        &self.cache
    }

    pub(crate) fn webhooks(&self) -> &webhooks::All {
        &self.webhooks
    }

    pub(crate) fn aggregation(&self) -> &Aggregation {
        &self.aggregation
    }

    pub(crate) fn gate(&self) -> &dyn Gate {
        &*self.gate
    }

    pub(crate) fn quota_turns(&self) -> &Turns {
        &self.quota_turns
    }

    pub(crate) fn specs(&self) -> &Specs {
        &self.specs
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Places for long lists that users are sent.
    pub(crate) fn long_lists(&self) -> &Arc<Semaphore> {
        &self.long_lists
    }

    /// Cancelled when the server stops.
    pub fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// The tasks that the server waits for when it stops.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }
}

/// Forgets what was superseded more than one interval ago, as upstream does: a continue token or a watch from that
/// long ago has to start over.
async fn compact(server: Arc<ApiServer>) {
    let mut horizon = server.store.current_revision();
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(server.config.compact_every) => {}
        }
        if let Err(error) = server.store.compact(horizon).await {
            tracing::warn!(%error, revision = horizon, "the store could not be compacted");
        }
        horizon = server.store.current_revision();
    }
}
