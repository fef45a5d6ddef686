//! Who a pod of a StatefulSet is: its name, its labels, its claims. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::claim;
use crate::revisions::REVISION_LABEL;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

pub(crate) fn name(set: &StatefulSet) -> &str {
    set.metadata.name.as_deref().unwrap_or_default()
}

/// The number at the end of the name of one of the set's pods; `None` if it is not one of its names.
pub(crate) fn ordinal(set: &StatefulSet, pod: &str) -> Option<i32> {
    let number = pod.strip_prefix(name(set))?.strip_prefix('-')?;
    number.parse().ok().filter(|ordinal: &i32| ordinal.to_string() == number)
}

/// The number of the set's first pod.
pub(crate) fn first(set: &StatefulSet) -> i32 {
    set.spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0)
}

/// The revision that a pod was made from.
pub(crate) fn revision(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).map_or("", String::as_str)
}

/// The pod with this number, from a revision's template.
pub(crate) fn pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let from = template.metadata.clone().unwrap_or_default();
    let name = format!("{}-{ordinal}", name(set));
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(name.clone());
    spec.subdomain = set.spec.service_name.clone().filter(|service| !service.is_empty());
    let volumes = spec.volumes.get_or_insert_default();
    for claim in claims(set, ordinal) {
        let template = claim.template;
        volumes.retain(|volume| volume.name != template);
        let source = PersistentVolumeClaimVolumeSource {
            claim_name: claim.object.metadata.name.unwrap_or_default(),
            ..PersistentVolumeClaimVolumeSource::default()
        };
        volumes.push(Volume { name: template, persistent_volume_claim: Some(source), ..Volume::default() });
    }
    if volumes.is_empty() {
        spec.volumes = None;
    }
    Pod {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![claim::owner_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// A claim of one pod.
pub(crate) struct Claim {
    /// The name of its template, which is the name of the pod's volume.
    pub template: String,
    pub object: PersistentVolumeClaim,
}

/// The claims of the pod with this number.
pub(crate) fn claims(set: &StatefulSet, ordinal: i32) -> Vec<Claim> {
    let templates = set.spec.volume_claim_templates.iter().flatten();
    templates
        .map(|from| {
            let template = from.metadata.name.clone().unwrap_or_default();
            let mut labels = from.metadata.labels.clone().unwrap_or_default();
            labels.extend(set.spec.selector.match_labels.clone().unwrap_or_default());
            let metadata = ObjectMeta {
                name: Some(format!("{template}-{}-{ordinal}", name(set))),
                namespace: set.metadata.namespace.clone(),
                labels: Some(labels),
                annotations: from.metadata.annotations.clone(),
                ..ObjectMeta::default()
            };
            Claim {
                template,
                object: PersistentVolumeClaim { metadata, spec: from.spec.clone(), status: None },
            }
        })
        .collect()
}

/// Whether claims go with the set, and whether they go with a pod that is scaled away.
pub(crate) fn retention(set: &StatefulSet) -> (bool, bool) {
    let policy = set.spec.persistent_volume_claim_retention_policy.as_ref();
    let deletes = |when: Option<&String>| when.is_some_and(|when| when == "Delete");
    policy.map_or((false, false), |policy| {
        (deletes(policy.when_deleted.as_ref()), deletes(policy.when_scaled.as_ref()))
    })
}

/// The owners that a claim is to have besides those that are none of the set's business; `None` if it has them already.
/// `leaving` is the pod, when it is being scaled away.
pub(crate) fn owners(
    set: &StatefulSet,
    claim: &PersistentVolumeClaim,
    pod: Option<&Pod>,
    leaving: bool,
) -> Option<Vec<OwnerReference>> {
    let (deleted, scaled) = retention(set);
    let plain = |reference: OwnerReference| OwnerReference {
        controller: None,
        block_owner_deletion: None,
        ..reference
    };
    let ours = |owner: &OwnerReference| {
        let of_set = owner.kind == "StatefulSet" && owner.name == name(set);
        let of_pod = owner.kind == "Pod" && ordinal(set, &owner.name).is_some();
        of_set || of_pod
    };
    let now = claim.metadata.owner_references.clone().unwrap_or_default();
    let mut wanted: Vec<OwnerReference> = now.iter().filter(|owner| !ours(owner)).cloned().collect();
    if scaled && leaving {
        wanted.extend(pod.map(|pod| plain(claim::owner_reference(pod))));
    } else if deleted {
        wanted.push(plain(claim::owner_reference(set)));
    }
    let uids = |owners: &[OwnerReference]| {
        owners.iter().map(|owner| owner.uid.clone()).collect::<std::collections::BTreeSet<_>>()
    };
    (uids(&wanted) != uids(&now)).then_some(wanted)
}
