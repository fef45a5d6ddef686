//! Sums of roles, as tables.

use std::sync::Arc;

use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::json;

use super::plan;

/// A role with a label of its name, which may get the verbs.
fn role(name: &str, verbs: &[&str]) -> Arc<ClusterRole> {
    let rules: Vec<_> =
        verbs.iter().map(|verb| json!({"verbs": [verb], "apiGroups": [""], "resources": ["pods"]})).collect();
    let role = json!({"metadata": {"name": name, "labels": {"part": name}}, "rules": rules});
    Arc::new(serde_json::from_value(role).expect("a role"))
}

/// A role that is the sum of the parts with these names, and has the verbs now.
fn sum(parts: &[&str], verbs: &[&str]) -> ClusterRole {
    let selectors: Vec<_> = parts.iter().map(|part| json!({"matchLabels": {"part": part}})).collect();
    let mut sum = (*role("sum", verbs)).clone();
    sum.aggregation_rule =
        serde_json::from_value(json!({"clusterRoleSelectors": selectors})).expect("selectors");
    sum
}

#[test]
fn a_sum_has_the_rules_of_its_parts() {
    let roles =
        [role("b", &["get", "list"]), role("a", &["watch", "get"]), role("sum", &["own"]), role("c", &[])];
    let verbs = |sum: &ClusterRole| {
        plan::rules(sum, &roles)
            .map(|rules| rules.into_iter().map(|rule| rule.verbs.join(",")).collect::<Vec<_>>().join(" "))
    };
    for (parts, now, expected) in [
        (&["a"][..], &[][..], Some("watch get")),
        (&["b", "a"], &[], Some("watch get list")),
        (&["b", "a"], &["list", "get", "watch"], None),
        (&["a"], &["watch", "get", "list"], Some("watch get")),
        (&["c"], &["get"], Some("")),
        (&["c"], &[], None),
        // Nothing is a part of itself.
        (&["sum"], &[], None),
        (&[], &["get"], Some("")),
    ] {
        assert_eq!(verbs(&sum(parts, now)).as_deref(), expected, "{parts:?} {now:?}");
    }
    assert_eq!(verbs(&role("a", &["get"])), None, "what is no sum is left alone");
}
