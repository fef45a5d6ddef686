//! Every kind of object that can be deleted, found by discovery, and followed by metadata alone where it can be watched.
//! The garbage collector and the namespace controller read it; the objects' other fields are never fetched.
//!
//! Definitions of custom resources come and go; discovery is asked again whenever one has changed.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use component::informer::{Informer, Selection};
use component::{Context, ObjectKey};
use kube::Api;
use kube::core::discovery::v2::{APIGroupDiscovery, APIResourceDiscovery};
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How soon discovery is tried again, at first and at last.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LAST: Duration = Duration::from_secs(10);

/// An object, by its metadata.
pub type Metadata = PartialObjectMeta<DynamicObject>;

/// What says which custom resources there are, as [`Discovered::name`] has it.
const DEFINITIONS: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// Kinds that come and go by the thousand, own nothing and are owned by nothing.
const NOT_FOLLOWED: [(&str, &str); 2] = [("", "events"), ("events.k8s.io", "events")];

/// One kind as discovery describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovered {
    /// Its names.
    pub api: ApiResource,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// What can be done with it.
    pub verbs: BTreeSet<String>,
}

/// What discovery found.
#[derive(Debug, Default)]
pub struct Discovery {
    /// Each kind once, in its group's preferred version where it has it; by group and plural.
    pub kinds: Vec<Discovered>,
    /// Group versions that the server could not describe just now.
    pub missing: Vec<String>,
}

impl Discovered {
    /// Whether all of these can be done.
    pub fn supports(&self, verbs: &[&str]) -> bool {
        verbs.iter().all(|verb| self.verbs.contains(*verb))
    }

    /// `pods`, or `deployments.apps`.
    pub fn name(&self) -> String {
        format!("{}.{}", self.api.plural, self.api.group).trim_end_matches('.').to_owned()
    }

    /// Access to the objects of a namespace; to all of them for cluster-scoped kinds.
    pub fn access(&self, client: &kube::Client, namespace: &str) -> Api<DynamicObject> {
        match self.namespaced {
            true => Api::namespaced_with(client.clone(), namespace, &self.api),
            false => Api::all_with(client.clone(), &self.api),
        }
    }

    /// Whether its objects are followed.
    fn is_followed(&self) -> bool {
        let name = (self.api.group.as_str(), self.api.plural.as_str());
        self.supports(&["delete", "list", "watch"]) && !NOT_FOLLOWED.contains(&name)
    }
}

/// Asks the API server which kinds there are.
pub async fn discover(client: &kube::Client) -> kube::Result<Discovery> {
    let core = client.list_core_api_versions_aggregated().await?;
    let others = client.list_api_groups_aggregated().await?;
    let mut found = Discovery::default();
    for group in core.items.into_iter().chain(others.items) {
        read_group(group, &mut found);
    }
    let name = |kind: &Discovered| (kind.api.group.clone(), kind.api.plural.clone());
    found.kinds.sort_by_key(name);
    Ok(found)
}

/// Takes each resource of a group from the first version that has it: the most preferred.
fn read_group(group: APIGroupDiscovery, found: &mut Discovery) {
    let name = group.metadata.and_then(|metadata| metadata.name).unwrap_or_default();
    let mut seen = BTreeSet::new();
    for version in group.versions {
        let number = version.version.unwrap_or_default();
        let api_version = if name.is_empty() { number.clone() } else { format!("{name}/{number}") };
        if version.freshness.as_deref() == Some("Stale") {
            found.missing.push(api_version.clone());
        }
        for resource in version.resources {
            let plural = resource.resource.clone().unwrap_or_default();
            if seen.insert(plural.clone()) {
                found.kinds.push(discovered(&name, &number, &api_version, plural, resource));
            }
        }
    }
}

fn discovered(
    group: &str,
    version: &str,
    api_version: &str,
    plural: String,
    resource: APIResourceDiscovery,
) -> Discovered {
    Discovered {
        api: ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: api_version.to_owned(),
            kind: resource.response_kind.and_then(|kind| kind.kind).unwrap_or_default(),
            plural,
        },
        namespaced: resource.scope.as_deref() == Some("Namespaced"),
        verbs: resource.verbs.into_iter().collect(),
    }
}

/// An object of a followed kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    /// Its kind, as [`Discovered::name`] has it.
    pub kind: Arc<str>,
    /// Its namespace and name.
    pub key: ObjectKey,
}

impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.key)
    }
}

/// A kind and the metadata of its objects.
pub struct Followed {
    /// As [`Discovered::name`] has it.
    pub name: Arc<str>,
    /// What discovery says of it.
    pub kind: Discovered,
    /// Its objects.
    pub objects: Informer<Metadata>,
    /// Ends following it.
    stop: CancellationToken,
}

type Listener = Arc<dyn Fn(&Arc<Followed>) + Send + Sync>;

/// All followed kinds. More can be added at any time.
#[derive(Clone)]
pub struct Resources {
    context: Context,
    state: Arc<RwLock<State>>,
    discovered: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct State {
    kinds: BTreeMap<Arc<str>, Arc<Followed>>,
    listeners: Vec<Listener>,
}

impl Resources {
    /// Follows all kinds that there are, once the API server has told them, and those that come later.
    pub fn start(context: &Context) -> Self {
        let discovered = Arc::new(watch::Sender::new(false));
        let resources = Self { context: context.clone(), state: Arc::default(), discovered };
        let (found, shutdown) = (resources.clone(), context.shutdown.clone());
        context.tasks.spawn(async move {
            shutdown.run_until_cancelled(found.keep()).await;
        });
        resources
    }

    async fn keep(&self) {
        self.discover_until_done().await;
        self.discovered.send_replace(true);
        let Some(definitions) = self.get(DEFINITIONS) else { return };
        let (bell, mut changes) = watch::channel(());
        definitions.objects.on_change(move |_| {
            bell.send_replace(());
        });
        while changes.changed().await.is_ok() {
            self.discover_until_done().await;
        }
    }

    async fn discover_until_done(&self) {
        let mut delay = RETRY_FIRST;
        loop {
            match discover(&self.context.client).await {
                Ok(found) => return self.follow(found),
                Err(error) => {
                    tracing::warn!(%error, "no discovery; trying again");
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(RETRY_LAST);
                }
            }
        }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows every kind of `found` that can be followed and is not yet, and no longer what is gone or not as it was.
    fn follow(&self, found: Discovery) {
        let Discovery { kinds, missing } = found;
        let is_missing = |kind: &Discovered| {
            let group =
                |version: &String| version.split_once('/').map_or("", |(group, _)| group) == kind.api.group;
            missing.iter().any(group)
        };
        let (new, listeners) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.kinds.retain(|_, known| {
                let stays = kinds.contains(&known.kind) || is_missing(&known.kind);
                if !stays {
                    known.stop.cancel();
                }
                stays
            });
            let mut new = Vec::new();
            for kind in kinds.into_iter().filter(Discovered::is_followed) {
                let name: Arc<str> = kind.name().into();
                if let Entry::Vacant(place) = state.kinds.entry(name.clone()) {
                    new.push(place.insert(Arc::new(self.start_kind(name, kind))).clone());
                }
            }
            (new, state.listeners.clone())
        };
        // Listeners look things up here: they are called without the lock.
        for followed in &new {
            for listener in &listeners {
                listener(followed);
            }
        }
    }

    fn start_kind(&self, name: Arc<str>, kind: Discovered) -> Followed {
        let all = Api::all_with(self.context.client.clone(), &kind.api);
        let (tasks, stop) = (&self.context.tasks, self.context.shutdown.child_token());
        let objects = Informer::start_metadata(tasks, stop.clone(), all, Selection::default());
        Followed { name, kind, objects, stop }
    }

    /// Calls `listener` once for every kind that is followed, now or later.
    pub fn on_kind(&self, listener: impl Fn(&Arc<Followed>) + Send + Sync + 'static) {
        let listener: Listener = Arc::new(listener);
        let known: Vec<Arc<Followed>> = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.listeners.push(listener.clone());
            state.kinds.values().cloned().collect()
        };
        for followed in &known {
            listener(followed);
        }
    }

    /// One followed kind.
    pub fn get(&self, name: &str) -> Option<Arc<Followed>> {
        self.state().kinds.get(name).cloned()
    }

    /// The followed kind that an owner reference names. Its version does not matter.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<Arc<Followed>> {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let state = self.state();
        let mut kinds = state.kinds.values();
        kinds.find(|known| known.kind.api.group == group && known.kind.api.kind == kind).cloned()
    }

    /// Returns when the kinds are known and the objects of every one of them have been listed.
    pub async fn synced(&self) {
        let mut discovered = self.discovered.subscribe();
        if discovered.wait_for(|discovered| *discovered).await.is_err() {
            unreachable!("this handle keeps the sender");
        }
        let kinds: Vec<Arc<Followed>> = self.state().kinds.values().cloned().collect();
        for followed in kinds {
            followed.objects.synced().await;
        }
    }
}
