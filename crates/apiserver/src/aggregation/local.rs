//! APIServices for what this server answers itself: its own versions of groups, and those of definitions. Pure.
//!
//! They say nothing that discovery does not; tools list them, and one that somebody makes in their place leads elsewhere.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::GROUP;
use crate::catalog::{Catalog, Group};

/// The label by which they are known.
pub const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
/// For those that are seen to for as long as the server runs.
pub const ALWAYS: &str = "true";
/// Upstream's priorities, by group.
const PRIORITIES: [(&str, i64); 22] = [
    ("", 18_000),
    ("apps", 17_800),
    ("events.k8s.io", 17_750),
    ("authentication.k8s.io", 17_700),
    ("authorization.k8s.io", 17_600),
    ("autoscaling", 17_500),
    ("batch", 17_400),
    ("certificates.k8s.io", 17_300),
    ("networking.k8s.io", 17_200),
    ("policy", 17_100),
    ("rbac.authorization.k8s.io", 17_000),
    ("storage.k8s.io", 16_800),
    ("apiextensions.k8s.io", 16_700),
    ("admissionregistration.k8s.io", 16_700),
    ("scheduling.k8s.io", 16_600),
    ("coordination.k8s.io", 16_500),
    ("node.k8s.io", 16_300),
    ("discovery.k8s.io", 16_200),
    ("flowcontrol.apiserver.k8s.io", 16_100),
    ("internal.apiserver.k8s.io", 16_000),
    ("resource.k8s.io", 15_900),
    ("storagemigration.k8s.io", 15_800),
];
/// What definitions' groups and versions have; so have this server's own versions beside those of others.
pub const CUSTOM: (i64, i64) = (1000, 100);

/// How early a group of this server's comes in discovery.
pub fn priority(group: &str) -> i64 {
    let known = PRIORITIES.iter().find(|(known, _)| *known == group);
    match known {
        Some((_, priority)) => *priority,
        // Nothing comes before it, and no APIService can say how early it comes.
        None if group == GROUP => 20_000,
        None => CUSTOM.0,
    }
}

/// Those of this server's own versions, which are made when it starts.
pub fn built_in(catalog: &Catalog) -> Vec<Value> {
    let mut all = Vec::new();
    for group in catalog.groups().into_iter().filter(|group| group.name() != GROUP) {
        let own = |version: &&str| is_built_in(group, version);
        for (rank, version) in group.versions().into_iter().filter(own).enumerate() {
            let order = match group.name() {
                "" => 1,
                // The preferred one comes first.
                _ => 15 * i64::try_from(group.versions().len() - rank).unwrap_or(1),
            };
            all.push(registration(group.name(), version, order, "onstart"));
        }
    }
    all
}

/// The groups and versions of the definitions in force, by the name of the APIService that each is to have.
pub fn custom(catalog: &Catalog) -> BTreeMap<String, (String, String)> {
    let mut all = BTreeMap::new();
    for group in catalog.groups() {
        for version in group.versions().into_iter().filter(|version| !is_built_in(group, version)) {
            let named = (group.name().to_owned(), version.to_owned());
            all.insert(format!("{version}.{}", group.name()), named);
        }
    }
    all
}

/// The APIService of a version that definitions define.
pub fn of_definition(group: &str, version: &str) -> Value {
    registration(group, version, CUSTOM.1, ALWAYS)
}

fn is_built_in(group: &Group, version: &str) -> bool {
    let mut of_version = group.resources().iter().filter(|resource| resource.version == version);
    of_version.any(|resource| resource.defined.is_none())
}

fn registration(group: &str, version: &str, order: i64, managed: &str) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "APIService",
        "metadata": {"name": format!("{version}.{group}"), "labels": {MANAGED: managed}},
        "spec": {"group": group, "version": version, "groupPriorityMinimum": priority(group), "versionPriority": order},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_of_its_own_has_its_place() {
        let catalog = Catalog::built_in();
        let unknown = |group: &&str| priority(group) == CUSTOM.0;
        let groups: Vec<&str> = catalog.groups().iter().map(|group| group.name()).filter(unknown).collect();
        assert!(groups.is_empty(), "{groups:?}");
        let all = built_in(&catalog);
        let named =
            |name: &str| all.iter().find(|one| one["metadata"]["name"] == name).expect(name)["spec"].clone();
        assert_eq!(named("v1.")["versionPriority"], 1);
        assert_eq!(named("v1.apps")["groupPriorityMinimum"], 17_800);
        let [two, one] =
            [named("v2.autoscaling"), named("v1.autoscaling")].map(|spec| spec["versionPriority"].clone());
        assert_eq!((two, one), (json!(30), json!(15)));
        assert!(!all.iter().any(|one| one["spec"]["group"] == GROUP));
        assert!(custom(&catalog).is_empty());
    }
}
