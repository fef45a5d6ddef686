//! What a node lacks of what the cloud knows. Pure.

use k8s_openapi::api::core::v1::{Node, NodeAddress};
use serde_json::{Value, json};

use crate::provider::{InstanceMetadata, NodeRef, ProviderError};

/// Keeps pods away until the cloud has said what the node is.
pub(crate) const UNINITIALIZED: &str = "node.cloudprovider.kubernetes.io/uninitialized";
/// The address that the kubelet was told to use.
const PROVIDED: &str = "alpha.kubernetes.io/provided-node-ip";

/// Whether the node waits for the cloud.
pub(crate) fn is_uninitialized(node: &Node) -> bool {
    has_taint(node, UNINITIALIZED)
}

/// Whether it has a taint with this key.
pub(crate) fn has_taint(node: &Node, key: &str) -> bool {
    node.spec.iter().flat_map(|spec| spec.taints.iter().flatten()).any(|taint| taint.key == key)
}

/// Its provider ID.
pub(crate) fn provider_id(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref().filter(|id| !id.is_empty())
}

fn addresses(node: &Node) -> &[NodeAddress] {
    node.status.as_ref().and_then(|status| status.addresses.as_deref()).unwrap_or_default()
}

/// The node as a cloud needs to know it.
pub(crate) fn node_ref(node: &Node) -> NodeRef {
    let pair = |address: &NodeAddress| (address.type_.clone(), address.address.clone());
    NodeRef {
        name: node.metadata.name.clone().unwrap_or_default(),
        provider_id: provider_id(node).map(str::to_owned),
        addresses: addresses(node).iter().map(pair).collect(),
    }
}

/// Two merge patches, each only if there is something to change.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// For the status.
    pub(super) status: Option<Value>,
    /// For all else. Applies only to the node as it was seen: it replaces the list of taints.
    pub(super) node: Option<Value>,
}

/// What to write.
pub(super) fn plan(node: &Node, metadata: &InstanceMetadata) -> Result<Plan, ProviderError> {
    let wanted = wanted_addresses(node, &metadata.addresses)?;
    let seen: Vec<(String, String)> = node_ref(node).addresses;
    let list: Vec<Value> =
        wanted.iter().map(|(kind, address)| json!({"type": kind, "address": address})).collect();
    let status = (!wanted.is_empty() && wanted != seen).then(|| json!({"status": {"addresses": list}}));
    let mut change = json!({});
    let waits = is_uninitialized(node);
    if waits {
        let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
        let others: Vec<_> = taints.filter(|taint| taint.key != UNINITIALIZED).collect();
        change["spec"]["taints"] = json!(others);
    }
    if provider_id(node).is_none() && !metadata.provider_id.is_empty() {
        change["spec"]["providerID"] = metadata.provider_id.clone().into();
    }
    let labels = missing_labels(node, metadata);
    if !labels.is_empty() {
        change["metadata"]["labels"] = labels.into();
    }
    let something = change.as_object().is_some_and(|change| !change.is_empty());
    change["metadata"]["resourceVersion"] = node.metadata.resource_version.clone().into();
    Ok(Plan { status, node: something.then_some(change) })
}

/// The cloud's addresses; the one that the kubelet was told to use comes first.
fn wanted_addresses(node: &Node, cloud: &[(String, String)]) -> Result<Vec<(String, String)>, ProviderError> {
    let annotations = node.metadata.annotations.as_ref();
    let mut wanted = cloud.to_vec();
    if let Some(provided) = annotations.and_then(|annotations| annotations.get(PROVIDED)) {
        if !cloud.iter().any(|(_, address)| address == provided) {
            let what = format!("failed to get node address from cloud provider that matches ip: {provided}");
            return Err(ProviderError::Permanent(what));
        }
        wanted.sort_by_key(|(_, address)| address != provided);
    }
    // Kubelets know their host's name best.
    let names_host = |address: &&(String, String)| address.0 == "Hostname";
    if !wanted.iter().any(|address| names_host(&address)) {
        wanted.extend(node_ref(node).addresses.iter().find(names_host).cloned());
    }
    Ok(wanted)
}

fn missing_labels(node: &Node, metadata: &InstanceMetadata) -> serde_json::Map<String, Value> {
    let known = [
        (["node.kubernetes.io/instance-type", "beta.kubernetes.io/instance-type"], &metadata.instance_type),
        (["topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone"], &metadata.zone),
        (["topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"], &metadata.region),
    ];
    let there = |name: &str| node.metadata.labels.as_ref().and_then(|labels| labels.get(name));
    let all = known.iter().flat_map(|(names, value)| names.iter().map(move |name| (*name, *value)));
    all.filter(|(name, value)| !value.is_empty() && there(name) != Some(*value))
        .map(|(name, value)| (name.to_owned(), value.clone().into()))
        .collect()
}
