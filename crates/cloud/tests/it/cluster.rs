//! The real API server in this process, on a simulated disk, and the cloud's controllers as its clients.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::clock::Clock;
use api_machinery::entropy::Entropy;
use apiserver::gate::{GateConfig, cluster_gate};
use apiserver::limits::Limits;
use apiserver::tokens::Tokens;
use apiserver::types::UserInfo;
use apiserver::{ApiServer, Config, Dependencies};
use cloud::provider::Provider;
use component::Context;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, Node, Service};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use store::simdisk::SimDisk;
use store::{EmbeddedStore, Options};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An API server, and a cloud controller manager that can be replaced.
pub struct Cluster {
    server: Arc<ApiServer>,
    pub client: kube::Client,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Cluster {
    pub async fn start(provider: Arc<dyn Provider>) -> Self {
        let disk = SimDisk::new(1);
        let store = EmbeddedStore::open(Arc::new(disk), Options::simulated(1)).expect("a store");
        let (clock, entropy) = (Clock::system(), Entropy::seeded(3));
        let dependencies = Dependencies {
            store: Arc::new(store),
            catalog: apiserver::catalog::Catalog::built_in(),
            clock: clock.clone(),
            entropy: entropy.clone(),
            kubelets: Arc::new(apiserver::proxy::NoKubelets),
        };
        let tokens = Tokens::ephemeral("https://kubernetes.default.svc", entropy.clone()).expect("tokens");
        let gate = GateConfig { clock, entropy, tokens: Arc::new(tokens), limits: Limits::default() };
        let server =
            ApiServer::start(Config::default(), dependencies, cluster_gate(gate)).await.expect("it starts");
        let client = server.client(UserInfo::new("admin", &["system:masters", "system:authenticated"]));
        let mut cluster =
            Self { server, client, tasks: TaskTracker::new(), shutdown: CancellationToken::new() };
        cluster.manage(provider);
        cluster
    }

    fn manage(&mut self, provider: Arc<dyn Provider>) {
        (self.tasks, self.shutdown) = (TaskTracker::new(), CancellationToken::new());
        let context = Context {
            client: self.client.clone(),
            clock: Clock::system(),
            entropy: Entropy::seeded(4),
            tasks: self.tasks.clone(),
            shutdown: self.shutdown.clone(),
        };
        let mut config = cloud::Config::new(provider);
        config.node_monitor_period = Duration::from_millis(200);
        config.cluster_cidr = Some("10.42.0.0/16".to_owned());
        self.tasks.spawn(cloud::run(context, config));
    }

    async fn end_manager(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Another cloud controller manager, which remembers nothing.
    pub async fn replace(&mut self, provider: Arc<dyn Provider>) {
        self.end_manager().await;
        self.manage(provider);
    }

    pub async fn stop(self) {
        self.end_manager().await;
        self.server.stop().await;
    }

    pub fn services(&self) -> Api<Service> {
        Api::namespaced(self.client.clone(), "default")
    }

    pub fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// Waits for an event with this reason about an object of this name, whose note has these words.
    pub async fn told(&self, name: &str, reason: &str, words: &str) {
        let events: Api<Event> = Api::namespaced(self.client.clone(), "default");
        let is = |event: &Event| {
            event.involved_object.name.as_deref() == Some(name)
                && event.reason.as_deref() == Some(reason)
                && event.message.as_deref().is_some_and(|message| message.contains(words))
        };
        until(&events, &format!("{name}: {reason}: {words}"), |events| events.iter().any(is)).await;
    }
}

/// Makes an object.
pub async fn make<K: Clone + Debug + serde::Serialize + DeserializeOwned>(api: &Api<K>, object: Value) {
    let object: K = serde_json::from_value(object).expect("an object");
    api.create(&PostParams::default(), &object).await.expect("it is made");
}

/// Changes an object.
pub async fn change<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str, patch: Value) {
    api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("it is changed");
}

/// Lets go of a claim or a volume as the controllers do that hold those in use, which are not here.
pub async fn unprotect<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) {
    let finalizers = ["kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"];
    let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": finalizers}});
    api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await.expect("it is changed");
}

/// Deletes an object, without grace.
pub async fn delete<K: Clone + Debug + DeserializeOwned>(api: &Api<K>, name: &str) {
    api.delete(name, &DeleteParams::default().grace_period(0)).await.expect("it is deleted");
}

/// Waits until the objects of a kind are as they should be.
pub async fn until<K>(api: &Api<K>, what: &str, holds: impl Fn(&[K]) -> bool)
where
    K: Clone + Debug + DeserializeOwned + Send + 'static,
{
    let wait = async {
        loop {
            let list = api.list(&ListParams::default()).await.expect("a list");
            if holds(&list.items) {
                return;
            }
            let version = list.metadata.resource_version.unwrap_or_default();
            let mut events = api.watch(&WatchParams::default(), &version).await.expect("a watch").boxed();
            events.next().await.transpose().expect("a change");
        }
    };
    if tokio::time::timeout(Duration::from_secs(40), wait).await.is_err() {
        panic!("never: {what}: {:#?}", api.list(&ListParams::default()).await.map(|list| list.items));
    }
}
