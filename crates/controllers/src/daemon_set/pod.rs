//! The pods of a DaemonSet: which node one is for, whether a node is to have one, and what a new one looks like. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use pod_rules::{affinity, status, taints};

use crate::claim;
use crate::revisions::REVISION_LABEL;

/// What a node is for a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is to have a pod.
    Wanted,
    /// It gets none, but one that is there may stay.
    Tolerated,
    /// It may not have one.
    Unwanted,
}

/// What a set's template asks of nodes.
#[derive(Debug)]
pub(crate) struct Demand {
    /// The template as it is: its pods name a node and nothing else.
    asked: Pod,
    /// With the tolerations that every daemon has.
    tolerant: Pod,
}

impl Demand {
    pub(crate) fn of(set: &DaemonSet) -> Self {
        let spec = set.spec.template.spec.clone().unwrap_or_default();
        let mut tolerant = PodSpec {
            tolerations: spec.tolerations.clone(),
            host_network: spec.host_network,
            ..PodSpec::default()
        };
        tolerate(&mut tolerant);
        let of = |spec| Pod { spec: Some(spec), ..Pod::default() };
        Self { asked: of(spec), tolerant: of(tolerant) }
    }

    /// Whether a node is to have a pod of this set.
    pub(crate) fn standing(&self, node: &Node) -> Standing {
        let named = status::node_name(&self.asked);
        let elsewhere = !named.is_empty() && node.metadata.name.as_deref() != Some(named);
        if elsewhere || !affinity::matches_required(&self.asked, node) {
            return Standing::Unwanted;
        }
        let found = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
        if taints::untolerated(&self.tolerant, found, &[taints::NO_EXECUTE]).is_some() {
            return Standing::Unwanted;
        }
        match taints::untolerated(&self.tolerant, found, &[taints::NO_SCHEDULE]) {
            Some(_) => Standing::Tolerated,
            None => Standing::Wanted,
        }
    }
}

/// The node that a pod is on, or is for; empty if it does not say.
pub(crate) fn node_of(pod: &Pod) -> &str {
    let assigned = status::node_name(pod);
    if !assigned.is_empty() {
        return assigned;
    }
    match affinity::named_nodes(pod).as_deref() {
        Some([only]) => only,
        Some(_) | None => "",
    }
}

/// The hash of the template that a pod was made from.
pub(crate) fn hash(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_LABEL)).map_or("", String::as_str)
}

/// A new pod for a node; the server chooses the end of its name, and the scheduler brings it there.
pub(crate) fn new_pod(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let template = set.spec.template.clone();
    let from = template.metadata.unwrap_or_default();
    let mut labels = from.labels.unwrap_or_default();
    labels.insert(REVISION_LABEL.to_owned(), hash.to_owned());
    let mut spec = template.spec.unwrap_or_default();
    only_on(&mut spec, node);
    tolerate(&mut spec);
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", set.metadata.name.as_deref().unwrap_or_default())),
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

/// What the template requires of nodes has been asked already: the pod names its node instead.
fn only_on(spec: &mut PodSpec, node: &str) {
    let field = NodeSelectorRequirement {
        key: "metadata.name".to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![field]), match_expressions: None };
    let affinity = spec.affinity.get_or_insert_with(Affinity::default);
    let nodes = affinity.node_affinity.get_or_insert_with(NodeAffinity::default);
    nodes.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// Daemons stay where others leave or do not come.
fn tolerate(spec: &mut PodSpec) {
    let always = [
        ("not-ready", taints::NO_EXECUTE),
        ("unreachable", taints::NO_EXECUTE),
        ("disk-pressure", taints::NO_SCHEDULE),
        ("memory-pressure", taints::NO_SCHEDULE),
        ("pid-pressure", taints::NO_SCHEDULE),
        ("unschedulable", taints::NO_SCHEDULE),
    ];
    let network = [("network-unavailable", taints::NO_SCHEDULE)];
    let network = network.into_iter().filter(|_| spec.host_network == Some(true));
    let own = spec.tolerations.get_or_insert_with(Vec::new);
    for (key, effect) in always.into_iter().chain(network) {
        let toleration = Toleration {
            key: Some(format!("node.kubernetes.io/{key}")),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        // One that is spelled out otherwise gives way.
        let same = |known: &Toleration| known.key == toleration.key && known.effect == toleration.effect;
        own.retain(|known| !same(known));
        own.push(toleration);
    }
}
