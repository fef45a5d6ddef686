//! Which ReplicaSet is a Deployment's newest: the one with the same pod template, the hash label aside; and how a new one
//! looks, its name and label made from a hash of the template.
//!
//! The hash is our own and need not be upstream's: equality of templates decides, and a set that another server made is
//! found by it all the same.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetSpec};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::claim;

/// The label by which the pods of a Deployment's ReplicaSets are told apart.
pub(crate) const HASH_LABEL: &str = "pod-template-hash";
/// Characters that make no words.
const SAFE: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
const HASH_LENGTH: usize = 10;

/// The template as a value in which what the API takes for the same is the same: absent, null and an empty list or map,
/// with or without the hash label.
fn normalised(template: &PodTemplateSpec) -> Value {
    let mut template = template.clone();
    if let Some(labels) = template.metadata.as_mut().and_then(|metadata| metadata.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let mut value = serde_json::to_value(template).expect("a typed object is always JSON");
    prune(&mut value);
    value
}

fn prune(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.values_mut().for_each(prune);
            fields.retain(|name, field| match field {
                Value::Null => false,
                Value::Array(items) => !items.is_empty(),
                // An empty map is none, but an empty object (`emptyDir: {}`) says something.
                Value::Object(fields) => {
                    let map = matches!(
                        name.as_str(),
                        "labels"
                            | "annotations"
                            | "nodeSelector"
                            | "limits"
                            | "requests"
                            | "matchLabels"
                            | "metadata"
                    );
                    !(map && fields.is_empty())
                }
                _ => true,
            });
        }
        Value::Array(items) => items.iter_mut().for_each(prune),
        _ => {}
    }
}

/// Whether two templates make the same pods.
pub(crate) fn same(one: &PodTemplateSpec, two: &PodTemplateSpec) -> bool {
    one == two || normalised(one) == normalised(two)
}

/// The oldest set with the Deployment's template.
pub(crate) fn find_new(deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Option<usize> {
    let wanted = normalised(&deployment.spec.template);
    let equal =
        |set: &ReplicaSet| set.spec.template.as_ref().is_some_and(|template| normalised(template) == wanted);
    let found = sets.iter().enumerate().filter(|(_, set)| equal(set));
    found.min_by(|(_, a), (_, b)| age(a).cmp(&age(b))).map(|(index, _)| index)
}

/// Sorts older sets first.
pub(crate) fn age(set: &ReplicaSet) -> (Option<jiff::Timestamp>, Option<&str>) {
    (set.metadata.creation_timestamp.as_ref().map(|time| time.0), set.metadata.name.as_deref())
}

/// A short name of the template. `collisions` counts how often the name was taken by something else.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: Option<i32>) -> String {
    let mut digest = Sha256::new();
    digest.update(normalised(template).to_string());
    if let Some(collisions) = collisions {
        digest.update(collisions.to_be_bytes());
    }
    let bytes = digest.finalize();
    let mut number = bytes.iter().take(8).fold(0u64, |number, byte| (number << 8) | u64::from(*byte));
    let base = SAFE.len() as u64;
    let mut text = String::with_capacity(HASH_LENGTH);
    for _ in 0..HASH_LENGTH {
        text.push(char::from(SAFE[(number % base) as usize]));
        number /= base;
    }
    text
}

/// The set that a Deployment's template asks for, without pods yet.
pub(crate) fn new_set(deployment: &Deployment) -> ReplicaSet {
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count);
    let spec = &deployment.spec;
    let hash = hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    labels.insert(HASH_LABEL.to_owned(), hash.clone());
    let labels = labels.clone();
    let mut selector = spec.selector.clone();
    selector.match_labels.get_or_insert_default().insert(HASH_LABEL.to_owned(), hash.clone());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.metadata.name.as_deref().unwrap_or_default())),
            namespace: deployment.metadata.namespace.clone(),
            labels: Some(labels),
            owner_references: Some(vec![claim::owner_reference(deployment)]),
            ..ObjectMeta::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(0),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}
