//! The resources that this server serves, found by path and by key.
//!
//! Filled once from the catalogue of built-ins. Says what exists, never what to do with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use api_machinery::resource::{Resource, Storage};

/// Where all objects are stored.
pub const REGISTRY: &str = "/registry/";

/// Group and plural name: what is stored once, whatever the version.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupResource {
    /// Empty for core.
    pub group: String,
    /// Such as `pods`.
    pub plural: String,
}

impl GroupResource {
    /// By name.
    pub fn new(group: &str, plural: &str) -> GroupResource {
        GroupResource { group: group.to_owned(), plural: plural.to_owned() }
    }

    /// Where objects of the resource are stored, with a slash at the end: where upstream stores them. Its own groups are
    /// left out there, and some names are older than the API.
    pub fn prefix(&self) -> String {
        let group = self.group.as_str();
        if !group.is_empty() && !UPSTREAMS_GROUPS.contains(&group) {
            return format!("{REGISTRY}{group}/{}/", self.plural);
        }
        let name = match (group, self.plural.as_str()) {
            ("", "endpoints") => "services/endpoints",
            ("", "nodes") => "minions",
            ("", "replicationcontrollers") => "controllers",
            ("", "services") => "services/specs",
            ("networking.k8s.io", "ingresses") => "ingress",
            (_, plural) => plural,
        };
        format!("{REGISTRY}{name}/")
    }
}

/// The groups that upstream leaves out of keys.
const UPSTREAMS_GROUPS: &[&str] = &[
    "admissionregistration.k8s.io",
    "apps",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// Where objects of `resource` are stored, with a slash at the end.
pub fn prefix(resource: &Resource) -> String {
    GroupResource::new(&resource.group, &resource.plural).prefix()
}

/// The key of an object below its resource's prefix.
pub fn key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// All resources.
#[derive(Debug, Default)]
pub struct Catalog {
    all: Vec<Arc<Resource>>,
    by_path: BTreeMap<(String, String, String), Arc<Resource>>,
}

impl Catalog {
    /// A catalogue of these.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Catalog {
        let all: Vec<Arc<Resource>> = resources.into_iter().collect();
        let by_path = all
            .iter()
            .map(|resource| {
                let path =
                    (resource.group.to_string(), resource.version.to_string(), resource.plural.to_string());
                (path, resource.clone())
            })
            .collect();
        Catalog { all, by_path }
    }

    /// In the catalogue's order.
    pub fn all(&self) -> &[Arc<Resource>] {
        &self.all
    }

    /// One resource by the three words in its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(&(group.to_owned(), version.to_owned(), plural.to_owned()))
    }

    /// A resource by kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.all.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// A resource in any version.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.all.iter().find(|resource| resource.group == group && resource.plural == plural)
    }

    /// The versions in which a resource is served, such as `apps/v1`.
    pub fn versions_of(&self, group: &str, plural: &str) -> Vec<String> {
        let served = self.all.iter().filter(|resource| resource.group == group && resource.plural == plural);
        served.map(|resource| resource.api_version()).collect()
    }

    /// What is kept in the store, once for each group and plural.
    pub fn stored(&self) -> BTreeMap<GroupResource, Arc<Resource>> {
        let mut stored = BTreeMap::new();
        for resource in self.all.iter().filter(|resource| resource.storage == Storage::Stored) {
            stored
                .entry(GroupResource::new(&resource.group, &resource.plural))
                .or_insert_with(|| resource.clone());
        }
        stored
    }

    /// The groups and their versions, in the catalogue's order.
    pub fn versions(&self) -> Vec<(&str, &str)> {
        let mut versions = Vec::new();
        for resource in &self.all {
            let version = (&*resource.group, &*resource.version);
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
        versions
    }

    /// The built-in resources.
    pub fn built_in() -> Catalog {
        Catalog::new(api_catalog::catalog().iter().cloned())
    }

    /// Whether a version of a group exists.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        self.all.iter().any(|resource| resource.group == group && resource.version == version)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn keys_are_upstreams() {
        for (group, plural, prefix) in [
            ("", "pods", "/registry/pods/"),
            ("", "services", "/registry/services/specs/"),
            ("", "endpoints", "/registry/services/endpoints/"),
            ("", "nodes", "/registry/minions/"),
            ("apps", "deployments", "/registry/deployments/"),
            ("coordination.k8s.io", "leases", "/registry/leases/"),
            ("networking.k8s.io", "ingresses", "/registry/ingress/"),
            ("rbac.authorization.k8s.io", "clusterroles", "/registry/clusterroles/"),
            (
                "apiextensions.k8s.io",
                "customresourcedefinitions",
                "/registry/apiextensions.k8s.io/customresourcedefinitions/",
            ),
            ("example.com", "pods", "/registry/example.com/pods/"),
        ] {
            assert_eq!(GroupResource::new(group, plural).prefix(), prefix);
        }
        let stored = Catalog::built_in().stored();
        let prefixes: BTreeSet<String> = stored.keys().map(GroupResource::prefix).collect();
        assert_eq!(prefixes.len(), stored.len(), "no two resources share a place");
        let within = |a: &String| prefixes.iter().any(|b| a != b && a.starts_with(b.as_str()));
        assert!(!prefixes.iter().any(within), "nor is one inside another's");
    }
}
