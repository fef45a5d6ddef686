//! The resources that this server serves, found by path and by key: the built-in ones, and what definitions in the cluster
//! define.
//!
//! A catalogue is a value: the watch cache, which sees definitions first, holds the one in force. Says what exists, never
//! what to do with it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api_catalog::custom;
use api_machinery::resource::{Resource, Storage};

use crate::custom::Custom;
use crate::discovery::{Described, Whole};

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

/// The resources of one group. Never changes: whoever adds something makes another.
#[derive(Debug, Default)]
pub struct Group {
    /// Empty for core.
    name: Arc<str>,
    /// Where the group comes in discovery: built-in ones in their own order, then all others by name.
    rank: usize,
    /// The preferred version first, plurals by name.
    resources: Vec<Arc<Resource>>,
    /// The same by plural and version, as indices.
    index: Vec<usize>,
    /// The definitions in force, by plural.
    customs: BTreeMap<Arc<str>, Arc<Custom>>,
    /// What is told of the group, once somebody asked.
    described: OnceLock<Described>,
}

impl Group {
    fn new(name: Arc<str>, rank: usize, built_in: Vec<Arc<Resource>>, customs: Customs) -> Group {
        let mut resources = built_in;
        let mut defined: Vec<Arc<Resource>> = customs
            .values()
            .flat_map(|custom| custom.definition.served().map(|version| version.resource.clone()))
            .filter(|new| !resources.iter().any(|old| old.plural == new.plural))
            .collect();
        defined.sort_by(|a, b| custom::compare(&b.version, &a.version).then_with(|| a.plural.cmp(&b.plural)));
        resources.append(&mut defined);
        let mut index: Vec<usize> = (0..resources.len()).collect();
        index.sort_by_key(|at| path_of(&resources[*at]));
        Group { name, rank, resources, index, customs, described: OnceLock::new() }
    }

    /// Its name, empty for core.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its resources: the preferred version first, plurals by name.
    pub fn resources(&self) -> &[Arc<Resource>] {
        &self.resources
    }

    /// Its versions, the preferred one first.
    pub fn versions(&self) -> Vec<&str> {
        let mut versions: Vec<&str> = Vec::new();
        for resource in &self.resources {
            if !versions.contains(&&*resource.version) {
                versions.push(&resource.version);
            }
        }
        versions
    }

    /// What discovery and OpenAPI tell of it.
    pub fn described(&self) -> &Described {
        self.described.get_or_init(|| Described::of(self))
    }

    fn find(&self, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        let at = self.index.binary_search_by(|at| path_of(&self.resources[*at]).cmp(&(plural, version)));
        at.ok().map(|at| &self.resources[self.index[at]])
    }

    fn with(&self, plural: &str, custom: Option<Arc<Custom>>) -> Group {
        let mut customs = self.customs.clone();
        match custom {
            Some(custom) => customs.insert(plural.into(), custom),
            None => customs.remove(plural),
        };
        let built_in = self.resources.iter().filter(|resource| resource.defined.is_none());
        Group::new(self.name.clone(), self.rank, built_in.cloned().collect(), customs)
    }
}

type Customs = BTreeMap<Arc<str>, Arc<Custom>>;

fn path_of(resource: &Resource) -> (&str, &str) {
    (&resource.plural, &resource.version)
}

/// All resources: the built-in ones, and what the definitions in the cluster define. Never changes: what comes or goes makes
/// another catalogue, which shares the groups that stay as they are.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    groups: BTreeMap<Arc<str>, Arc<Group>>,
    whole: OnceLock<Arc<Whole>>,
}

impl Catalog {
    /// A catalogue of these.
    pub fn new(resources: impl IntoIterator<Item = Arc<Resource>>) -> Catalog {
        let mut groups: Vec<(Arc<str>, Vec<Arc<Resource>>)> = Vec::new();
        for resource in resources {
            match groups.iter_mut().find(|(name, _)| **name == *resource.group) {
                Some((_, group)) => group.push(resource),
                None => groups.push((Arc::from(&*resource.group), vec![resource])),
            }
        }
        let group = |(rank, (name, resources)): (usize, (Arc<str>, Vec<Arc<Resource>>))| {
            (name.clone(), Arc::new(Group::new(name, rank, resources, Customs::default())))
        };
        Catalog { groups: groups.into_iter().enumerate().map(group).collect(), whole: OnceLock::new() }
    }

    /// The same catalogue with this definition in force, or without any of this name.
    pub fn with(&self, group: &str, plural: &str, custom: Option<Arc<Custom>>) -> Catalog {
        let mut groups = self.groups.clone();
        let changed = match groups.get(group) {
            Some(group) => group.with(plural, custom),
            None => Group { name: group.into(), rank: usize::MAX, ..Group::default() }.with(plural, custom),
        };
        match changed.resources.is_empty() && changed.customs.is_empty() {
            true => groups.remove(group),
            false => groups.insert(changed.name.clone(), Arc::new(changed)),
        };
        Catalog { groups, whole: OnceLock::new() }
    }

    /// The groups in discovery's order.
    pub fn groups(&self) -> Vec<&Arc<Group>> {
        let mut groups: Vec<&Arc<Group>> = self.groups.values().collect();
        groups.sort_by_key(|group| group.rank);
        groups
    }

    /// One group.
    pub fn group(&self, name: &str) -> Option<&Arc<Group>> {
        self.groups.get(name)
    }

    /// In discovery's order.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.groups().into_iter().flat_map(|group| &group.resources)
    }

    /// One resource by the three words in its path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.groups.get(group)?.find(version, plural)
    }

    /// The definition that is in force for a resource, if it is a custom one.
    pub fn custom(&self, group: &str, plural: &str) -> Option<&Arc<Custom>> {
        self.groups.get(group)?.customs.get(plural)
    }

    /// All definitions that are in force.
    pub fn customs(&self) -> impl Iterator<Item = &Arc<Custom>> {
        self.groups.values().flat_map(|group| group.customs.values())
    }

    /// A resource by kind.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let mut resources = self.groups.get(group)?.resources.iter();
        resources.find(|resource| resource.kind == kind && resource.version == version)
    }

    /// A resource in any version.
    pub fn any_version(&self, group: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.groups.get(group)?.resources.iter().find(|resource| resource.plural == plural)
    }

    /// A resource in every version in which it is served.
    pub fn every_version<'a>(
        &'a self,
        group: &str,
        plural: &'a str,
    ) -> impl Iterator<Item = &'a Arc<Resource>> + use<'a> {
        let group = self.groups.get(group).into_iter().flat_map(move |group| {
            let from = group.index.partition_point(|at| &*group.resources[*at].plural < plural);
            group.index[from..].iter().map(|at| &group.resources[*at])
        });
        group.take_while(move |resource| resource.plural == plural)
    }

    /// The versions in which a resource is served, such as `apps/v1`.
    pub fn versions_of(&self, group: &str, plural: &str) -> Vec<String> {
        self.every_version(group, plural).map(|resource| resource.api_version()).collect()
    }

    /// What is kept in the store, once for each group and plural. What definitions define is not in it.
    pub fn stored(&self) -> BTreeMap<GroupResource, Arc<Resource>> {
        let mut stored = BTreeMap::new();
        let kept =
            |resource: &&Arc<Resource>| resource.storage == Storage::Stored && resource.defined.is_none();
        for resource in self.all().filter(kept) {
            stored
                .entry(GroupResource::new(&resource.group, &resource.plural))
                .or_insert_with(|| resource.clone());
        }
        stored
    }

    /// What discovery tells of everything.
    pub fn whole(&self) -> &Arc<Whole> {
        self.whole.get_or_init(|| Arc::new(Whole::of(self)))
    }

    /// The built-in resources.
    pub fn built_in() -> Catalog {
        Catalog::new(api_catalog::catalog().iter().cloned())
    }

    /// Whether a version of a group exists.
    pub fn has_version(&self, group: &str, version: &str) -> bool {
        let resources = self.groups.get(group).map(|group| group.resources.as_slice()).unwrap_or_default();
        resources.iter().any(|resource| resource.version == version)
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
