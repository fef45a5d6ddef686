//! NodeRestriction: a node writes its own objects only, and of its own Node neither taints, nor owners, nor labels by
//! which others steer work.

use std::collections::BTreeSet;
use std::fmt::Display;

use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::forbidden;
use crate::authz::node::{LEASES, identity};
use crate::references::{self, items, text};
use crate::types::{AdmissionRequest, Lookup, Operation};

/// Labels of Kubernetes' own that a kubelet sets.
const LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];
/// Prefixes of labels that are the kubelet's.
const PREFIXES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// The prefix of labels that no kubelet may set.
const RESTRICTED: &str = "node-restriction.kubernetes.io";

/// Passes or refuses.
pub async fn admit(lookup: &dyn Lookup, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(node) = identity(request.user) else { return Ok(()) };
    if request.operation == Operation::Connect {
        return Ok(());
    }
    if node.is_empty() {
        return refuse(request, format_args!("could not determine node from user {:?}", request.user.name));
    }
    match (&*request.resource.group, &*request.resource.plural, request.info.subresource.as_str()) {
        ("", "pods", "") => pod(lookup, node, request).await,
        ("", "pods", "status") => pod_status(node, request),
        ("", "pods", "eviction") => eviction(lookup, node, request).await,
        ("", "pods", other) => refuse(
            request,
            format_args!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"),
        ),
        ("", "nodes", _) => own_node(node, request),
        ("", "persistentvolumeclaims", "status") => claim_status(node, request),
        ("", "persistentvolumeclaims", _) => refuse(request, "may only update PVC status"),
        ("", "serviceaccounts", "token") => token(lookup, node, request).await,
        ("coordination.k8s.io", "leases", _) => lease(node, request),
        ("storage.k8s.io", "csinodes", _) => {
            named(node, request, "can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => slice(node, request),
        _ => Ok(()),
    }
}

fn refuse(request: &AdmissionRequest<'_>, why: impl Display) -> Result<(), ApiError> {
    Err(forbidden(request, why))
}

async fn pod(lookup: &dyn Lookup, node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    match request.operation {
        Operation::Create => {
            let why = match request.object.as_deref() {
                Some(pod) => refused_pod(lookup, node, pod).await?,
                None => None,
            };
            why.map_or(Ok(()), |why| refuse(request, why))
        }
        Operation::Delete if request.old.is_some_and(|pod| references::node_name(pod) == node) => Ok(()),
        Operation::Delete => refuse(
            request,
            format_args!("node {node:?} can only delete pods with spec.nodeName set to itself"),
        ),
        other => refuse(
            request,
            format_args!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                other.as_str()
            ),
        ),
    }
}

/// Why a node may not create a pod.
async fn refused_pod(lookup: &dyn Lookup, node: &str, pod: &Value) -> Result<Option<String>, ApiError> {
    if !references::is_mirror(pod) {
        let mirror = references::MIRROR;
        return Ok(Some(format!(
            "pod does not have {mirror:?} annotation, node {node:?} can only create mirror pods"
        )));
    }
    if references::node_name(pod) != node {
        return Ok(Some(format!("node {node:?} can only create pods with spec.nodeName set to itself")));
    }
    let owner = match meta::owner_references(pod) {
        [owner] => owner,
        [] => {
            return Ok(Some(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            )));
        }
        _ => {
            return Ok(Some(format!(
                "node {node:?} can only create pods with a single owner reference set to itself"
            )));
        }
    };
    if owner["apiVersion"] != "v1" || owner["kind"] != "Node" || owner["name"] != node {
        return Ok(Some(format!("node {node:?} can only create pods with an owner reference set to itself")));
    }
    if owner["controller"] != true {
        return Ok(Some(format!(
            "node {node:?} can only create pods with a controller owner reference set to itself"
        )));
    }
    if owner["blockOwnerDeletion"] == true {
        return Ok(Some(format!("node {node:?} must not set blockOwnerDeletion on an owner reference")));
    }
    let Some(found) = lookup.get("", "nodes", "", node).await? else {
        return Err(ApiError::not_found("", "nodes", node));
    };
    if owner["uid"] != meta::uid(&found) {
        let (want, got) = (text(owner, "/uid"), meta::uid(&found));
        return Ok(Some(format!("node {node} UID mismatch: expected {want} got {got}")));
    }
    let projects = |source: &str| {
        items(references::spec(pod), "volumes").any(|volume| {
            volume
                .get("projected")
                .is_some_and(|projected| items(projected, "sources").any(|s| s.get(source).is_some()))
        })
    };
    let refers = [
        (!text(pod, "/spec/serviceAccountName").is_empty(), "a service account"),
        (!references::secrets(pod).is_empty(), "secrets"),
        (!references::config_maps(pod).is_empty(), "configmaps"),
        (projects("clusterTrustBundle"), "clustertrustbundles"),
        (projects("serviceAccountToken"), "serviceaccounttokens"),
        (!references::claims(pod).is_empty(), "persistentvolumeclaims"),
        (items(references::spec(pod), "resourceClaims").next().is_some(), "resourceclaims"),
    ];
    let what = refers.into_iter().find(|(does, _)| *does);
    Ok(what.map(|(_, what)| format!("node {node:?} can not create pods that reference {what}")))
}

fn pod_status(node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let (Operation::Update, Some(new), Some(old)) =
        (request.operation, request.object.as_deref(), request.old)
    else {
        return refuse(request, format_args!("unexpected operation {:?}", request.operation.as_str()));
    };
    if references::node_name(old) != node {
        let why =
            format!("node {node:?} can only update pod status for pods with spec.nodeName set to itself");
        return refuse(request, why);
    }
    if !changed_keys(meta::labels(new), meta::labels(old)).is_empty() {
        return refuse(request, format_args!("node {node:?} cannot update labels through pod status"));
    }
    if !same(new.pointer("/metadata/ownerReferences"), old.pointer("/metadata/ownerReferences")) {
        return refuse(
            request,
            format_args!("node {node:?} cannot update owner references through pod status"),
        );
    }
    if !same(new.pointer("/status/resourceClaimStatuses"), old.pointer("/status/resourceClaimStatuses")) {
        return refuse(request, format_args!("node {node:?} cannot update resource claim statuses"));
    }
    Ok(())
}

async fn eviction(lookup: &dyn Lookup, node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let name = super::name(request);
    let Some(pod) = lookup.get("", "pods", &request.info.namespace, name).await? else {
        return Err(ApiError::not_found("", "pods", name));
    };
    if references::node_name(&pod) != node {
        let why = format!("node {node} can only evict pods with spec.nodeName set to itself");
        return refuse(request, why);
    }
    Ok(())
}

fn own_node(node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let asked = super::name(request);
    if asked != node {
        return refuse(request, format_args!("node {node:?} is not allowed to modify node {asked:?}"));
    }
    let Some(new) = request.object.as_deref() else { return Ok(()) };
    let old = request.old.unwrap_or(&Value::Null);
    let restricted: Vec<String> = changed_keys(meta::labels(new), meta::labels(old))
        .into_iter()
        .filter(|key| is_restricted(key))
        .collect();
    let owners = |object: &Value| meta::owner_references(object).to_vec();
    match request.operation {
        Operation::Create if !restricted.is_empty() => refuse(
            request,
            format_args!(
                "node {node:?} is not allowed to set the following labels: {}",
                restricted.join(", ")
            ),
        ),
        Operation::Update if !same(new.pointer("/spec/taints"), old.pointer("/spec/taints")) => {
            refuse(request, format_args!("node {node:?} is not allowed to modify taints"))
        }
        Operation::Update if !restricted.is_empty() => {
            refuse(request, format_args!("is not allowed to modify labels: {}", restricted.join(", ")))
        }
        _ if owners(new) != owners(old) => {
            refuse(request, format_args!("node {node:?} is not allowed to modify ownerReferences"))
        }
        _ => Ok(()),
    }
}

/// Equal, where nothing and an empty list are the same.
fn same(one: Option<&Value>, other: Option<&Value>) -> bool {
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    list(one) == list(other)
}

type Map = serde_json::Map<String, Value>;

/// Keys that were added, removed or changed, in order.
fn changed_keys(new: Option<&Map>, old: Option<&Map>) -> BTreeSet<String> {
    let get = |map: Option<&'_ Map>, key: &str| map.and_then(|map| map.get(key)).cloned();
    let keys = new.into_iter().chain(old).flat_map(|map| map.keys());
    keys.filter(|key| get(new, key) != get(old, key)).cloned().collect()
}

/// Whether a node may not change a label.
fn is_restricted(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    if within(RESTRICTED) {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    kubernetes && !LABELS.contains(&key) && !PREFIXES.iter().any(|prefix| within(prefix))
}

fn claim_status(node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let (Operation::Update, Some(new), Some(old)) =
        (request.operation, request.object.as_deref(), request.old)
    else {
        return refuse(request, format_args!("unexpected operation {:?}", request.operation.as_str()));
    };
    let strip = |claim: &Value| {
        let mut claim = claim.clone();
        meta::metadata_mut(&mut claim).remove("managedFields");
        meta::metadata_mut(&mut claim).remove("resourceVersion");
        if let Some(status) = claim.get_mut("status").and_then(Value::as_object_mut) {
            status.retain(|key, _| {
                !matches!(
                    key.as_str(),
                    "capacity" | "conditions" | "allocatedResources" | "allocatedResourceStatuses"
                )
            });
        }
        claim
    };
    if strip(new) != strip(old) {
        let why = format!(
            "node {node:?} is not allowed to update fields other than status.quantity and status.conditions"
        );
        return refuse(request, why);
    }
    Ok(())
}

/// A node gets tokens for its own pods, bound to them.
async fn token(lookup: &dyn Lookup, node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let reference = request.object.as_deref().and_then(|token| token.pointer("/spec/boundObjectRef"));
    let field =
        |name: &str| reference.and_then(|reference| reference.get(name)?.as_str()).unwrap_or_default();
    if field("apiVersion") != "v1" || field("kind") != "Pod" || field("name").is_empty() {
        return refuse(request, "node requested token not bound to a pod");
    }
    let uid = field("uid");
    if uid.is_empty() {
        return refuse(request, "node requested token with a pod binding without a uid");
    }
    let Some(pod) = lookup.get("", "pods", &request.info.namespace, field("name")).await? else {
        return Err(ApiError::not_found("", "pods", field("name")));
    };
    if meta::uid(&pod) != uid {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return refuse(request, why);
    }
    if references::node_name(&pod) != node {
        return refuse(request, "node requested token bound to a pod scheduled on a different node");
    }
    Ok(())
}

fn lease(node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.info.namespace != LEASES {
        return refuse(request, format_args!("can only access leases in the {LEASES:?} system namespace"));
    }
    named(node, request, "can only access node lease with the same name as the requesting node")
}

/// Which slice is meant by an update, the authorizer has seen; what is made, and what goes with others, only admission.
fn slice(node: &str, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let (slice, word) = match request.operation {
        Operation::Create => (request.object.as_deref(), "create"),
        Operation::Delete => (request.old, "delete"),
        _ => return Ok(()),
    };
    if slice.is_some_and(|slice| references::node_name(slice) == node) {
        return Ok(());
    }
    refuse(
        request,
        format_args!("can only {word} ResourceSlice with the same NodeName as the requesting node"),
    )
}

fn named(node: &str, request: &AdmissionRequest<'_>, why: &str) -> Result<(), ApiError> {
    if super::name(request) == node { Ok(()) } else { refuse(request, why) }
}

#[cfg(test)]
#[path = "node_restriction_tests.rs"]
mod tests;
