//! Config maps and secrets, each one followed for as long as a pod on this node mentions it, and no others: a node is
//! not allowed to see more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use component::Api;
use component::api::Object;
use component::informer::{Informer, Selection};
use component::{Context, ObjectKey};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::core::NamespaceResourceScope;
use tokio_util::sync::CancellationToken;

use crate::podspec::{all_containers, namespace, spec};

/// A config map or secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Mentioned {
    ConfigMap(String),
    Secret(String),
}

/// What is known of an object.
#[derive(Debug, Clone)]
pub(crate) enum Known<K> {
    /// As last read.
    Found(Arc<K>),
    /// It does not exist.
    Missing,
    /// Nothing could be read so far.
    Unread,
}

/// Told when an object of a pod changed; the argument is the pod's uid.
pub(crate) type Notify = Arc<dyn Fn(&str) + Send + Sync>;

struct Followed<K> {
    informer: Informer<K>,
    stop: CancellationToken,
    pods: Arc<Mutex<BTreeSet<String>>>,
}

type Table<K> = Mutex<BTreeMap<ObjectKey, Followed<K>>>;

pub(crate) struct Objects {
    context: Context,
    notify: Notify,
    config_maps: Table<ConfigMap>,
    secrets: Table<Secret>,
}

impl Objects {
    pub fn new(context: Context, notify: Notify) -> Self {
        Self { context, notify, config_maps: Mutex::default(), secrets: Mutex::default() }
    }

    /// Follows what the pod mentions, and no longer what only it mentioned before.
    pub fn follow(&self, uid: &str, pod: &Pod) {
        let place = namespace(pod);
        let mentioned = mentioned(pod);
        let keys = |wanted: fn(&Mentioned) -> Option<&String>| -> BTreeSet<ObjectKey> {
            mentioned.iter().filter_map(wanted).map(|name| ObjectKey::new(place, name.as_str())).collect()
        };
        let maps = keys(|found| if let Mentioned::ConfigMap(name) = found { Some(name) } else { None });
        let secrets = keys(|found| if let Mentioned::Secret(name) = found { Some(name) } else { None });
        self.adjust(&self.config_maps, uid, &maps);
        self.adjust(&self.secrets, uid, &secrets);
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        self.adjust(&self.config_maps, uid, &BTreeSet::new());
        self.adjust(&self.secrets, uid, &BTreeSet::new());
    }

    /// A config map that the pod mentions.
    pub async fn config_map(&self, namespace: &str, name: &str, wait: Duration) -> Known<ConfigMap> {
        read(&self.config_maps, namespace, name, wait).await
    }

    /// A secret that the pod mentions.
    pub async fn secret(&self, namespace: &str, name: &str, wait: Duration) -> Known<Secret> {
        read(&self.secrets, namespace, name, wait).await
    }

    fn adjust<K>(&self, table: &Table<K>, uid: &str, wanted: &BTreeSet<ObjectKey>)
    where
        K: Object + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        table.retain(|key, followed| {
            let mut pods = followed.pods.lock().unwrap_or_else(PoisonError::into_inner);
            if !wanted.contains(key) {
                pods.remove(uid);
            }
            if pods.is_empty() {
                followed.stop.cancel();
            }
            !pods.is_empty()
        });
        for key in wanted {
            let followed = table.entry(key.clone()).or_insert_with(|| self.start(key));
            followed.pods.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned());
        }
    }

    fn start<K>(&self, key: &ObjectKey) -> Followed<K>
    where
        K: Object + kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        let stop = self.context.shutdown.child_token();
        let api = Api::<K>::namespaced(self.context.client.clone(), &key.namespace);
        let selection =
            Selection { fields: Some(format!("metadata.name={}", key.name)), ..Selection::default() };
        let informer = Informer::start(&self.context.tasks, stop.clone(), api, selection);
        let pods: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let (mentioning, notify) = (pods.clone(), self.notify.clone());
        informer.on_change(move |_| {
            let pods = mentioning.lock().unwrap_or_else(PoisonError::into_inner).clone();
            for uid in &pods {
                notify(uid);
            }
        });
        Followed { informer, stop, pods }
    }
}

async fn read<K: Object>(table: &Table<K>, namespace: &str, name: &str, wait: Duration) -> Known<K> {
    let key = ObjectKey::new(namespace, name);
    let informer = {
        let table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(followed) = table.get(&key) else { return Known::Unread };
        followed.informer.clone()
    };
    if tokio::time::timeout(wait, informer.synced()).await.is_err() {
        return Known::Unread;
    }
    informer.get(&key).map_or(Known::Missing, Known::Found)
}

/// Everything that a pod mentions by name.
pub(crate) fn mentioned(pod: &Pod) -> BTreeSet<Mentioned> {
    let map = |name: &String| Mentioned::ConfigMap(name.clone());
    let secret = |name: &String| Mentioned::Secret(name.clone());
    let mut found = BTreeSet::new();
    for source in all_containers(pod).flat_map(|container| container.env_from.iter().flatten()) {
        found.extend(source.config_map_ref.iter().map(|source| map(&source.name)));
        found.extend(source.secret_ref.iter().map(|source| secret(&source.name)));
    }
    let variables = all_containers(pod).flat_map(|container| container.env.iter().flatten());
    for source in variables.filter_map(|variable| variable.value_from.as_ref()) {
        found.extend(source.config_map_key_ref.iter().map(|source| map(&source.name)));
        found.extend(source.secret_key_ref.iter().map(|source| secret(&source.name)));
    }
    for volume in spec(pod).volumes.iter().flatten() {
        found.extend(volume.config_map.iter().map(|source| map(&source.name)));
        found.extend(volume.secret.iter().filter_map(|source| source.secret_name.as_ref()).map(secret));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            found.extend(source.config_map.iter().map(|source| map(&source.name)));
            found.extend(source.secret.iter().map(|source| secret(&source.name)));
        }
    }
    found.extend(spec(pod).image_pull_secrets.iter().flatten().map(|reference| secret(&reference.name)));
    found
}
