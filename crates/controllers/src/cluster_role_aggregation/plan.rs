//! The rules of a ClusterRole that is a sum of others. Pure.

use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule};
use pod_rules::labels;

/// The rules that a sum is to have; `None` if it is no sum, or has just these. They come in the order of their roles'
/// names, each once.
pub(crate) fn rules(
    sum: &ClusterRole,
    roles: impl IntoIterator<Item = impl AsRef<ClusterRole>>,
) -> Option<Vec<PolicyRule>> {
    let selectors = sum.aggregation_rule.as_ref()?.cluster_role_selectors.as_deref().unwrap_or_default();
    let mut parts: Vec<_> = roles.into_iter().collect();
    parts.sort_by(|a, b| a.as_ref().metadata.name.cmp(&b.as_ref().metadata.name));
    let mut wanted: Vec<PolicyRule> = Vec::new();
    for part in parts.iter().map(AsRef::as_ref).filter(|part| part.metadata.name != sum.metadata.name) {
        let selected = |selector| labels::selects(Some(selector), part.metadata.labels.as_ref());
        if !selectors.iter().any(selected) {
            continue;
        }
        for rule in part.rules.iter().flatten() {
            if !wanted.contains(rule) {
                wanted.push(rule.clone());
            }
        }
    }
    let known = sum.rules.as_deref().unwrap_or_default();
    let same = known.len() == wanted.len() && wanted.iter().all(|rule| known.contains(rule));
    (!same).then_some(wanted)
}
