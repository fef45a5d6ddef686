//! Objects by what controllers ask for: their node, the owner that controls them, their labels. With these a pass looks at
//! what concerns its key and not at all of a namespace.

use std::sync::Arc;

use component::api::Object;
use component::informer::{Index, Informer};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::labels::Labels;
use pod_rules::status::node_name;

use crate::claim;

/// Pods by the name of their node; those without one are not in it.
pub(crate) fn by_node(pods: &Informer<Pod>) -> Index<Pod> {
    pods.index(|pod| {
        Some(node_name(pod)).filter(|node| !node.is_empty()).map(str::to_owned).into_iter().collect()
    })
}

/// Objects by the uid of the owner that controls them, and those that nobody controls by their namespace.
pub struct ByOwner<K>(Index<K>);

impl<K> Clone for ByOwner<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// No uid has a slash.
fn orphans_of(namespace: &str) -> String {
    format!("{namespace}/")
}

impl<K: Object> ByOwner<K> {
    /// Sorts what an informer holds.
    pub(crate) fn of(objects: &Informer<K>) -> Self {
        Self(objects.index(|object| {
            let meta = object.meta();
            let owner = claim::controller_of(meta).map(|owner| owner.uid.clone());
            vec![owner.unwrap_or_else(|| orphans_of(meta.namespace.as_deref().unwrap_or_default()))]
        }))
    }

    /// What the owner with this uid controls.
    pub(crate) fn controlled(&self, uid: &str) -> Vec<Arc<K>> {
        self.0.get(uid)
    }

    /// What an owner controls, and what nobody in its namespace does: all that is or might become its own.
    pub(crate) fn claimable(&self, owner: &ObjectMeta) -> Vec<Arc<K>> {
        let mut all = self.controlled(owner.uid.as_deref().unwrap_or_default());
        all.extend(self.0.get(&orphans_of(owner.namespace.as_deref().unwrap_or_default())));
        all
    }
}

/// Objects by namespace and label.
pub struct ByLabel<K>(Index<K>);

impl<K> Clone for ByLabel<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn labelled(namespace: &str, key: &str, value: &str) -> String {
    format!("{namespace}/{key}={value}")
}

impl<K: Object> ByLabel<K> {
    /// Sorts what an informer holds.
    pub(crate) fn of(objects: &Informer<K>) -> Self {
        Self(objects.index(|object| {
            let meta = object.meta();
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let labels = meta.labels.iter().flatten();
            labels.map(|(key, value)| labelled(namespace, key, value)).collect()
        }))
    }

    /// Objects among which are all of the namespace that have these labels: those with the rarest of them. `None` if there
    /// is no label to go by.
    pub(crate) fn candidates(&self, namespace: &str, labels: Option<&Labels>) -> Option<Vec<Arc<K>>> {
        let values = labels.into_iter().flatten().map(|(key, value)| labelled(namespace, key, value));
        let rarest = values.min_by_key(|value| self.0.count(value))?;
        Some(self.0.get(&rarest))
    }
}
