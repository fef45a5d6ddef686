//! Who uses what, and which finalizers follow from that. Pure.

use std::collections::BTreeSet;

use component::ObjectKey;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::status::node_name;

use crate::claim;

/// Holds a claim.
pub const CLAIM: &str = "kubernetes.io/pvc-protection";
/// Holds a VolumeAttributesClass.
pub const CLASS: &str = "kubernetes.io/vac-protection";
/// Holds a PersistentVolume.
pub const VOLUME: &str = "kubernetes.io/pv-protection";

/// What to do about an object's finalizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Nothing,
    Add,
    /// Unless it is in use.
    Remove,
}

/// What an object is in need of.
pub fn step(metadata: &ObjectMeta, finalizer: &str) -> Step {
    let held = metadata.finalizers.iter().flatten().any(|one| one == finalizer);
    match (metadata.deletion_timestamp.is_some(), held) {
        (true, true) => Step::Remove,
        (false, false) => Step::Add,
        (true, false) | (false, true) => Step::Nothing,
    }
}

/// The metadata with a finalizer or without it.
pub fn changed(metadata: &ObjectMeta, finalizer: &str, step: Step) -> ObjectMeta {
    let mut finalizers = metadata.finalizers.clone().unwrap_or_default();
    match step {
        Step::Add => finalizers.push(finalizer.to_owned()),
        Step::Remove => finalizers.retain(|one| one != finalizer),
        Step::Nothing => {}
    }
    ObjectMeta { finalizers: Some(finalizers), ..metadata.clone() }
}

/// The claims that a pod names, if it has a node: a kubelet starts no pod on a claim that is being deleted, so one without a
/// node holds nothing. One that has ended still does, until it is deleted.
pub fn named(pod: &Pod) -> BTreeSet<ObjectKey> {
    if node_name(pod).is_empty() {
        return BTreeSet::new();
    }
    let meta = &pod.metadata;
    let namespace = meta.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let names = volumes.filter_map(|volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(claim), _) => Some(claim.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", meta.name.as_deref().unwrap_or_default(), volume.name)),
        (None, None) => None,
    });
    names.map(|name| ObjectKey::new(namespace.clone(), name)).collect()
}

/// Whether a pod uses a claim. A claim under the name of an ephemeral volume's may be somebody else's.
pub fn uses(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    if !named(pod).contains(&ObjectKey::of(claim)) {
        return false;
    }
    let name = claim.metadata.name.as_deref();
    let mut volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let by_name = volumes.any(|volume| {
        volume.persistent_volume_claim.as_ref().is_some_and(|source| Some(source.claim_name.as_str()) == name)
    });
    by_name || claim::is_controlled_by(&claim.metadata, pod.metadata.uid.as_deref().unwrap_or_default())
}

/// Whether a claim is bound to a volume, as the volume's status has it.
pub fn is_bound(volume: &PersistentVolume) -> bool {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound")
}

/// The class whose attributes a volume has.
pub fn attributes_of_volume(volume: &PersistentVolume) -> BTreeSet<String> {
    let class = volume.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    class.into_iter().filter(|name| !name.is_empty()).collect()
}

/// The classes whose attributes a claim wants, has, and is about to get.
pub fn attributes_of_claim(claim: &PersistentVolumeClaim) -> BTreeSet<String> {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_attributes_class_name.clone());
    let status = claim.status.as_ref();
    let has = status.and_then(|status| status.current_volume_attributes_class_name.clone());
    let target = status.and_then(|status| status.modify_volume_status.as_ref());
    let target = target.and_then(|target| target.target_volume_attributes_class_name.clone());
    [wanted, has, target].into_iter().flatten().filter(|name| !name.is_empty()).collect()
}
