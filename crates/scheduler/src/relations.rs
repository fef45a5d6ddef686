//! What a pod asks of the pods around it: affinity, anti-affinity, and how it is to be spread. Worked out once per pod.
//!
//! Source: the API's documentation of `PodAffinityTerm` and `TopologySpreadConstraint`; KEPs 895, 2249, 3022, 3094 and 3243.

use std::cmp::Ordering;
use std::sync::Arc;

use api_machinery::selector::{LabelSelector as Compiled, Operator, Requirement};
use k8s_openapi::api::core::v1::{Pod, PodAffinityTerm, PodSpec, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use pod_rules::labels::{self, Labels};

/// What selectors see of a pod. Pods of one template share it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// Its namespace.
    pub namespace: String,
    /// Its labels.
    pub labels: Labels,
    /// Whether it is being deleted: such pods are not spread, but are still neighbours.
    pub deleting: bool,
}

impl Identity {
    /// That of a pod.
    pub fn of(pod: &Pod) -> Identity {
        Identity {
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        }
    }
}

/// Pods that are meant, and the label of nodes that says which are near to each other.
#[derive(Debug)]
pub struct Term {
    /// Everything below, by which terms are compared.
    text: String,
    /// The namespaces by name.
    namespaces: Vec<String>,
    /// More namespaces, by their labels.
    namespace_selector: Compiled,
    selector: Compiled,
    /// The label of nodes.
    pub topology: String,
}

impl PartialEq for Term {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Term {}

impl PartialOrd for Term {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Term {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Term {
    fn of(term: &PodAffinityTerm, pod: &Identity) -> Arc<Term> {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(pod.namespace.clone());
        }
        let mut selector = compile(term.label_selector.as_ref());
        if term.label_selector.is_some() {
            let own = |keys: &Option<Vec<String>>, operator| with_own(keys, operator, &pod.labels);
            let more = own(&term.match_label_keys, Operator::In);
            selector = selector.and(more.into_iter().chain(own(&term.mismatch_label_keys, Operator::NotIn)));
        }
        let namespace_selector = compile(term.namespace_selector.as_ref());
        let text = format!("{namespaces:?} {namespace_selector:?} {selector:?} {}", term.topology_key);
        Arc::new(Term { text, namespaces, namespace_selector, selector, topology: term.topology_key.clone() })
    }

    /// Whether a pod is meant, whose namespace has these labels.
    pub fn means(&self, pod: &Identity, namespace: Option<&Labels>) -> bool {
        let here =
            self.namespaces.contains(&pod.namespace) || labels::matches(&self.namespace_selector, namespace);
        here && labels::matches(&self.selector, Some(&pod.labels))
    }
}

/// What cannot be compiled was refused by the API server, and selects nothing.
fn compile(selector: Option<&LabelSelector>) -> Compiled {
    labels::compile(selector).unwrap_or_else(|_| Compiled::nothing())
}

/// Requirements that others have, or do not have, the pod's own values of these labels.
fn with_own(keys: &Option<Vec<String>>, operator: Operator, own: &Labels) -> Vec<Requirement> {
    let known = keys.iter().flatten().filter_map(|key| Some((key, own.get(key)?)));
    known.filter_map(|(key, value)| Requirement::new(key, operator, [value.clone()]).ok()).collect()
}

/// How pods that are alike are to be spread.
#[derive(Debug, PartialEq, Eq)]
pub struct Spread {
    /// The label of nodes that names a domain.
    pub topology: String,
    /// By how much domains may differ.
    pub max_skew: i64,
    /// So many domains there have to be before an empty one does not count.
    pub min_domains: usize,
    /// Whether only nodes count that the pod's selector and affinity allow.
    pub honors_affinity: bool,
    /// Whether only nodes count whose taints the pod tolerates.
    pub honors_taints: bool,
    selector: Compiled,
}

impl Spread {
    fn of(constraint: &TopologySpreadConstraint, pod: &Identity) -> Spread {
        let more = with_own(&constraint.match_label_keys, Operator::In, &pod.labels);
        let honors = |policy: &Option<String>, otherwise| {
            policy.as_deref().map_or(otherwise, |policy| policy == "Honor")
        };
        Spread {
            topology: constraint.topology_key.clone(),
            max_skew: i64::from(constraint.max_skew),
            min_domains: constraint.min_domains.and_then(|n| usize::try_from(n).ok()).unwrap_or(1),
            honors_affinity: honors(&constraint.node_affinity_policy, true),
            honors_taints: honors(&constraint.node_taints_policy, false),
            selector: compile(constraint.label_selector.as_ref()).and(more),
        }
    }

    /// Whether a pod of the same namespace counts.
    pub fn counts(&self, pod: &Identity) -> bool {
        !pod.deleting && labels::matches(&self.selector, Some(&pod.labels))
    }
}

/// All that one pod asks of others.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Relations {
    /// Pods that it must be near to.
    pub near: Vec<Arc<Term>>,
    /// Pods that it must not be near to.
    pub apart: Vec<Arc<Term>>,
    /// Pods that it would like to be near to, or not to (negative), and how much.
    pub likes: Vec<(Arc<Term>, i64)>,
    /// How it must be spread.
    pub spread: Vec<Spread>,
    /// How it would like to be spread.
    pub even: Vec<Spread>,
}

impl Relations {
    /// Those of a pod; most have none.
    pub fn of(pod: &Pod, identity: &Identity) -> Option<Arc<Relations>> {
        let spec = pod.spec.as_ref()?;
        let relations = Relations {
            spread: spreads(spec, identity, true),
            even: spreads(spec, identity, false),
            ..terms(spec, identity)
        };
        (relations != Relations::default()).then(|| Arc::new(relations))
    }

    /// Whether where it can run depends on other pods.
    pub fn requires(&self) -> bool {
        !(self.near.is_empty() && self.apart.is_empty() && self.spread.is_empty())
    }

    /// The labels of nodes that matter.
    pub fn topologies(&self) -> impl Iterator<Item = &str> {
        let terms = self.near.iter().chain(&self.apart).chain(self.likes.iter().map(|(term, _)| term));
        let spreads = self.spread.iter().chain(&self.even).map(|spread| spread.topology.as_str());
        terms.map(|term| term.topology.as_str()).chain(spreads)
    }
}

fn terms(spec: &PodSpec, identity: &Identity) -> Relations {
    let mut relations = Relations::default();
    let Some(affinity) = &spec.affinity else { return relations };
    let term = |term: &PodAffinityTerm| Term::of(term, identity);
    if let Some(near) = &affinity.pod_affinity {
        let required = near.required_during_scheduling_ignored_during_execution.iter().flatten();
        relations.near = required.map(term).collect();
        let preferred = near.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        relations.likes.extend(preferred.map(|one| (term(&one.pod_affinity_term), i64::from(one.weight))));
    }
    if let Some(apart) = &affinity.pod_anti_affinity {
        let required = apart.required_during_scheduling_ignored_during_execution.iter().flatten();
        relations.apart = required.map(term).collect();
        let preferred = apart.preferred_during_scheduling_ignored_during_execution.iter().flatten();
        relations.likes.extend(preferred.map(|one| (term(&one.pod_affinity_term), -i64::from(one.weight))));
    }
    relations
}

fn spreads(spec: &PodSpec, identity: &Identity, required: bool) -> Vec<Spread> {
    let constraints = spec.topology_spread_constraints.iter().flatten();
    let wanted = constraints.filter(|one| (one.when_unsatisfiable == "DoNotSchedule") == required);
    wanted.map(|one| Spread::of(one, identity)).collect()
}
