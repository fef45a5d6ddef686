//! What claims, volumes, pods and nodes say about each other. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use api_machinery::quantity::Quantity;
use component::ObjectKey;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{StorageClass, VolumeAttachment};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::provider::{ProviderError, Volume, VolumeSpec};

/// Who made a volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// The node that the scheduler chose for the first pod of a claim.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const GIB: i64 = 1 << 30;

/// What a claim is in need of.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ClaimStep {
    Nothing,
    /// The first pod decides in which zone, and there is none yet.
    Wait,
    /// It goes, and what was made for it may have no PersistentVolume.
    CleanUp,
    Provision(VolumeSpec),
    /// It is bound: its status, and its size, may be behind.
    Bound,
}

/// The PersistentVolume that a claim names.
pub(super) fn volume_of(claim: &PersistentVolumeClaim) -> Option<ObjectKey> {
    let name = claim.spec.as_ref()?.volume_name.as_deref().filter(|name| !name.is_empty())?;
    Some(ObjectKey::new("", name))
}

/// The name of the PersistentVolume that is made for a claim.
pub(super) fn volume_name(claim: &PersistentVolumeClaim) -> String {
    format!("pvc-{}", claim.metadata.uid.as_deref().unwrap_or_default())
}

/// The claim that a PersistentVolume is for.
pub(super) fn claim_of(volume: &PersistentVolume) -> ObjectKey {
    let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.clone()).unwrap_or_default();
    ObjectKey::new(claim.namespace.unwrap_or_default(), claim.name.unwrap_or_default())
}

/// The cloud's name for a volume, if this provisioner made it.
pub(super) fn handle<'a>(volume: &'a PersistentVolume, provisioner: &str) -> Option<&'a str> {
    let made_by = volume.metadata.annotations.as_ref()?.get(PROVISIONED_BY)?;
    let source = volume.spec.as_ref()?.csi.as_ref()?;
    (made_by == provisioner && source.driver == provisioner).then_some(source.volume_handle.as_str())
}

/// The PersistentVolume that is attached.
pub(super) fn attached(attachment: &VolumeAttachment) -> ObjectKey {
    ObjectKey::new("", attachment.spec.source.persistent_volume_name.clone().unwrap_or_default())
}

/// The claims that a pod needs, and its node, as long as it needs them.
pub(super) fn uses(pod: &Arc<Pod>) -> Vec<(ObjectKey, String)> {
    let node = pod_rules::status::node_name(pod);
    if node.is_empty() || pod_rules::status::is_terminal(pod) {
        return Vec::new();
    }
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let claims = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
    claims
        .map(|claim| (ObjectKey::new(namespace.clone(), claim.claim_name.clone()), node.to_owned()))
        .collect()
}

/// What a node says that it has mounted.
pub(super) fn in_use(node: &Arc<Node>) -> Vec<String> {
    node.status.as_ref().and_then(|status| status.volumes_in_use.clone()).unwrap_or_default()
}

/// How a node names a volume in what it has mounted.
pub(super) fn unique_name(provisioner: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{provisioner}^{handle}")
}

/// Upstream's name of an attachment.
pub(super) fn attachment_name(handle: &str, provisioner: &str, node: &str) -> String {
    let digest = Sha256::digest(format!("{handle}{provisioner}{node}"));
    format!("csi-{}", crate::aws::sign::hexadecimal(&digest))
}

/// Whether the object carries this finalizer.
pub(super) fn has_finalizer(metadata: &ObjectMeta, finalizer: &str) -> bool {
    metadata.finalizers.iter().flatten().any(|one| one == finalizer)
}

/// Metadata for a merge patch that adds or removes a finalizer, for the object as it was seen.
pub(super) fn finalizers(metadata: &ObjectMeta, finalizer: &str, present: bool) -> Value {
    let mut all = metadata.finalizers.clone().unwrap_or_default();
    all.retain(|one| one != finalizer);
    if present {
        all.push(finalizer.to_owned());
    }
    json!({"uid": metadata.uid, "resourceVersion": metadata.resource_version, "finalizers": all})
}

/// The size that a claim asks for, in GiB, rounded up.
pub(super) fn gibibytes(claim: &PersistentVolumeClaim) -> Result<i64, ProviderError> {
    let requests = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref()?.requests.as_ref());
    let text =
        requests.and_then(|requests| requests.get("storage")).map_or("", |quantity| quantity.0.as_str());
    let size = Quantity::parse(text)
        .map_err(|error| ProviderError::Permanent(format!("storage {text:?}: {error}")))?;
    Ok(size.units().saturating_add(GIB - 1) / GIB)
}

/// The size of a PersistentVolume, in GiB, rounded down.
pub(super) fn capacity(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref()?.get("storage"));
    capacity.and_then(|quantity| Quantity::parse(&quantity.0).ok()).map_or(0, |size| size.units() / GIB)
}

/// What to do for a claim. `zone_of` knows the zones of nodes, `node` that of the first pod.
pub(super) fn claim(
    claim: &PersistentVolumeClaim,
    class: Option<&StorageClass>,
    provisioner: &str,
    node: Option<&str>,
    zone_of: &dyn Fn(&str) -> Option<String>,
) -> Result<ClaimStep, ProviderError> {
    if claim.metadata.deletion_timestamp.is_some() {
        let held = has_finalizer(&claim.metadata, provisioner);
        return Ok(if held { ClaimStep::CleanUp } else { ClaimStep::Nothing });
    }
    if volume_of(claim).is_some() {
        return Ok(ClaimStep::Bound);
    }
    let Some(class) = class.filter(|class| class.provisioner == provisioner) else {
        return Ok(ClaimStep::Nothing);
    };
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.selector.is_some() {
        return Err(ProviderError::Permanent("claim Selector is not supported".to_owned()));
    }
    if let Some(mode) = spec.access_modes.iter().flatten().find(|mode| !mode.starts_with("ReadWriteOnce")) {
        return Err(ProviderError::Permanent(format!(
            "access mode {mode} is not supported: one node has a volume"
        )));
    }
    let selected = claim.metadata.annotations.as_ref().and_then(|all| all.get(SELECTED_NODE));
    let node = selected.map(String::as_str).or(node);
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if waits && node.is_none() {
        return Ok(ClaimStep::Wait);
    }
    Ok(ClaimStep::Provision(VolumeSpec {
        name: volume_name(claim),
        claim: ObjectKey::of(claim),
        gibibytes: gibibytes(claim)?,
        zone: node.and_then(zone_of),
        parameters: class.parameters.clone().unwrap_or_default(),
    }))
}

/// The PersistentVolume for what the cloud has made.
pub(super) fn persistent_volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    provisioner: &str,
    made: &Volume,
) -> Value {
    let (spec, metadata) = (claim.spec.clone().unwrap_or_default(), &claim.metadata);
    let file_system =
        class.parameters.as_ref().and_then(|parameters| parameters.get("csi.storage.k8s.io/fstype"));
    let block = spec.volume_mode.as_deref() == Some("Block");
    let file_system = (!block).then(|| file_system.map_or("ext4", String::as_str));
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim), "finalizers": [provisioner], "annotations": {PROVISIONED_BY: provisioner},
        },
        "spec": {
            "capacity": {"storage": format!("{}Gi", made.gibibytes)},
            "accessModes": spec.access_modes,
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.metadata.name,
            "mountOptions": class.mount_options,
            "volumeMode": spec.volume_mode.as_deref().unwrap_or("Filesystem"),
            "claimRef": {
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": metadata.namespace,
                "name": metadata.name, "uid": metadata.uid,
            },
            "csi": {"driver": provisioner, "volumeHandle": made.handle, "fsType": file_system},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "topology.kubernetes.io/zone", "operator": "In", "values": [made.zone]},
            ]}]}},
        },
    })
}

/// Which attachments are missing, and which are too many.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) create: Option<String>,
    pub(super) delete: Vec<ObjectKey>,
}

/// One node at a time has the volume: the next gets it when the last attachment is gone, which goes when neither a pod needs
/// it nor the node still has it mounted.
pub(super) fn wanted(
    nodes: &BTreeSet<String>,
    there: &[Arc<VolumeAttachment>],
    mounted: &BTreeSet<String>,
) -> Wanted {
    let needed = |node: &String| nodes.contains(node) || mounted.contains(node);
    let delete = there
        .iter()
        .filter(|one| !needed(&one.spec.node_name) && one.metadata.deletion_timestamp.is_none())
        .map(|one| ObjectKey::of(&**one))
        .collect();
    Wanted { create: nodes.first().filter(|_| there.is_empty()).cloned(), delete }
}
