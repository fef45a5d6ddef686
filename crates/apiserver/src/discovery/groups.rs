//! Discovery documents, legacy and aggregated, straight from the catalogue: what is told of a group is made once for as
//! long as the group stays as it is.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use api_catalog::custom;
use api_machinery::resource::{Resource, Verbs};
use serde_json::{Value, json};

use super::Tagged;
use crate::aggregation::Remote;
use crate::aggregation::local::{CUSTOM, priority};
use crate::catalog::{Catalog, Group};
use crate::config::Config;

/// What is told of one group: made once, since a group never changes.
#[derive(Clone, Debug, Default)]
pub struct Described {
    /// `/apis/GROUP`, without what tells it from an item of a list.
    group: Value,
    /// `/api/v1` and `/apis/GROUP/VERSION` by version.
    resources: Arc<BTreeMap<String, Value>>,
    /// Its item in aggregated discovery.
    aggregated: Arc<str>,
    /// The hashes of its OpenAPI documents by version.
    pub hashes: OnceLock<BTreeMap<String, String>>,
}

impl Described {
    /// What there is to tell.
    pub fn of(group: &Group) -> Described {
        let versions = group.versions();
        let resources = versions.iter().map(|version| ((*version).to_owned(), resource_list(group, version)));
        Described {
            group: group_value(group.name(), &versions),
            resources: Arc::new(resources.collect()),
            aggregated: aggregated(
                group.name(),
                versions.iter().map(|version| of_own(group, version)).collect(),
            ),
            hashes: OnceLock::new(),
        }
    }

    /// A group that other servers answer for, in part or as a whole. `own` is what this server answers for.
    fn mixed(name: &str, own: Option<&Described>, others: &[&Remote]) -> Described {
        let known: Value = own.and_then(|own| serde_json::from_str(&own.aggregated).ok()).unwrap_or_default();
        let mut versions: Vec<(i64, Value)> = Vec::new();
        for version in known["versions"].as_array().into_iter().flatten() {
            if !others.iter().any(|remote| version["version"] == *remote.version) {
                versions.push((CUSTOM.1, version.clone()));
            }
        }
        versions.extend(others.iter().map(|remote| (remote.version_priority, of_other(remote))));
        let text = |version: &Value| version["version"].as_str().unwrap_or_default().to_owned();
        versions.sort_by(|(a, first), (b, second)| {
            b.cmp(a).then_with(|| custom::compare(&text(second), &text(first)))
        });
        let versions: Vec<Value> = versions.into_iter().map(|(_, version)| version).collect();
        let names: Vec<String> = versions.iter().map(text).collect();
        Described {
            group: group_value(name, &names.iter().map(String::as_str).collect::<Vec<_>>()),
            aggregated: aggregated(name, versions),
            ..Described::default()
        }
    }

    fn versions(&self) -> impl Iterator<Item = &str> {
        let versions = self.group["versions"].as_array().into_iter().flatten();
        versions.filter_map(|version| version["version"].as_str())
    }

    /// `/apis/GROUP`.
    pub fn group(&self) -> Value {
        as_group(&self.group)
    }

    /// `/api/v1` or `/apis/GROUP/VERSION`.
    pub fn resources(&self, version: &str) -> Option<&Value> {
        self.resources.get(version)
    }
}

/// What is told of all groups at once.
#[derive(Debug)]
pub struct Whole {
    /// `/`.
    pub root: Value,
    /// The versions of core.
    pub core: Vec<String>,
    /// `/api`, aggregated.
    pub core_aggregated: Tagged,
    /// `/apis`.
    pub groups: Value,
    /// `/apis`, aggregated.
    pub groups_aggregated: Tagged,
}

impl Whole {
    /// Makes all of it.
    pub fn of(catalog: &Catalog) -> Whole {
        let groups = catalog.groups();
        let served = groups.iter().filter(|group| !group.resources().is_empty());
        let (core, named): (Vec<&Group>, Vec<&Group>) =
            served.map(|group| &***group).partition(|group| group.name().is_empty());
        let own = |group: &&Group| group.described().clone();
        Whole::told(&core.iter().map(own).collect::<Vec<_>>(), &named.iter().map(own).collect::<Vec<_>>())
    }

    /// The same with what other servers answer for.
    pub fn with<'a>(catalog: &Catalog, remotes: impl Iterator<Item = &'a Arc<Remote>>) -> Whole {
        let mut by_group: BTreeMap<&str, Vec<&Remote>> = BTreeMap::new();
        for remote in remotes {
            by_group.entry(&remote.group).or_default().push(remote);
        }
        let mut all: Vec<(i64, Described)> = Vec::new();
        for group in catalog.groups().into_iter().filter(|group| !group.resources().is_empty()) {
            let (own, others) = (priority(group.name()), by_group.remove(group.name()).unwrap_or_default());
            let highest = others.iter().map(|remote| remote.group_priority).chain([own]).max();
            let described = match others.is_empty() {
                true => group.described().clone(),
                false => Described::mixed(group.name(), Some(group.described()), &others),
            };
            all.push((highest.unwrap_or(own), described));
        }
        for (group, others) in by_group {
            let highest = others.iter().map(|remote| remote.group_priority).max().unwrap_or_default();
            all.push((highest, Described::mixed(group, None, &others)));
        }
        let name = |described: &Described| described.group["name"].as_str().unwrap_or_default().to_owned();
        // Groups of its own that have the same priority stay in their order.
        all.sort_by(|(a, first), (b, second)| {
            let custom = *a <= CUSTOM.0 && *b <= CUSTOM.0;
            b.cmp(a).then_with(|| if custom { name(first).cmp(&name(second)) } else { Ordering::Equal })
        });
        let (core, named): (Vec<_>, Vec<_>) =
            all.into_iter().map(|(_, described)| described).partition(|described| name(described).is_empty());
        Whole::told(&core, &named)
    }

    fn told(core: &[Described], named: &[Described]) -> Whole {
        let listed: Vec<&Value> = named.iter().map(|described| &described.group).collect();
        let versions = core.iter().flat_map(Described::versions);
        Whole {
            root: root(core, named),
            core: versions.map(str::to_owned).collect(),
            core_aggregated: all_aggregated(core),
            groups: json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}),
            groups_aggregated: all_aggregated(named),
        }
    }

    /// `/apis/GROUP`.
    pub fn group(&self, name: &str) -> Option<Value> {
        let mut groups = self.groups["groups"].as_array().into_iter().flatten();
        groups.find(|group| group["name"] == name).map(as_group)
    }

    /// `/api`.
    pub fn core(&self, config: &Config) -> Value {
        let address = match config.advertise_address {
            std::net::IpAddr::V6(address) => format!("[{address}]:{}", config.port),
            std::net::IpAddr::V4(address) => format!("{address}:{}", config.port),
        };
        json!({
            "kind": "APIVersions", "versions": self.core,
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
        })
    }
}

fn as_group(item: &Value) -> Value {
    let mut value = item.clone();
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    value
}

fn root(core: &[Described], named: &[Described]) -> Value {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics"]
            .map(str::to_owned)
            .into();
    paths.extend(["/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(str::to_owned));
    paths.extend(core.iter().flat_map(Described::versions).map(|version| format!("/api/{version}")));
    for described in named {
        let name = described.group["name"].as_str().unwrap_or_default();
        paths.push(format!("/apis/{name}"));
        paths.extend(described.versions().map(|version| format!("/apis/{name}/{version}")));
    }
    paths.sort();
    json!({"paths": paths})
}

fn group_value(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{name}/{version}"), "version": version}))
        .collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn verbs(verbs: Verbs) -> Vec<&'static str> {
    verbs.iter().map(|verb| verb.as_str()).collect()
}

fn texts(list: &[api_machinery::resource::Text]) -> Vec<&str> {
    list.iter().map(|text| &**text).collect()
}

/// One subresource as both forms of discovery need it.
struct Sub<'a> {
    name: &'a str,
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    verbs: Verbs,
}

fn subresources(resource: &Resource) -> Vec<Sub<'_>> {
    let mut subs: Vec<Sub<'_>> = resource
        .subresources
        .others
        .iter()
        .map(|sub| Sub {
            name: &sub.name,
            group: &sub.group,
            version: &sub.version,
            kind: &sub.kind,
            verbs: sub.verbs,
        })
        .collect();
    if resource.subresources.scale.is_some() {
        subs.push(Sub {
            name: "scale",
            group: "autoscaling",
            version: "v1",
            kind: "Scale",
            verbs: Verbs::GET_PATCH_UPDATE,
        });
    }
    if resource.subresources.status {
        subs.push(Sub {
            name: "status",
            group: &resource.group,
            version: &resource.version,
            kind: &resource.kind,
            verbs: Verbs::GET_PATCH_UPDATE,
        });
    }
    subs.sort_by_key(|sub| sub.name);
    subs
}

fn of_version<'a>(group: &'a Group, version: &str) -> Vec<&'a Resource> {
    let all = group.resources().iter().map(|resource| &**resource);
    let mut found: Vec<&Resource> = all.filter(|resource| resource.version == version).collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found
}

fn resource_list(group: &Group, version: &str) -> Value {
    let name = api_machinery::resource::group_version(group.name(), version);
    let mut list = Vec::new();
    for resource in of_version(group, version) {
        let mut entry = json!({
            "name": resource.plural, "singularName": resource.singular, "namespaced": resource.namespaced(),
            "kind": resource.kind, "verbs": verbs(resource.verbs),
        });
        if !resource.short_names.is_empty() {
            entry["shortNames"] = texts(&resource.short_names).into();
        }
        if !resource.categories.is_empty() {
            entry["categories"] = texts(&resource.categories).into();
        }
        list.push(entry);
        for sub in subresources(resource) {
            let mut entry = json!({
                "name": format!("{}/{}", resource.plural, sub.name), "singularName": "",
                "namespaced": resource.namespaced(), "kind": sub.kind, "verbs": verbs(sub.verbs),
            });
            if (sub.group, sub.version) != (&*resource.group, &*resource.version) {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            list.push(entry);
        }
    }
    json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": list})
}

/// A version of this server's own in aggregated discovery.
fn of_own(group: &Group, version: &str) -> Value {
    let found = of_version(group, version);
    let resources: Vec<Value> = found.into_iter().map(aggregated_resource).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

/// The same of another server's, as far as that has told.
fn of_other(remote: &Remote) -> Value {
    let told = remote.told();
    let fresh = if told.stale || told.resources.is_none() { "Stale" } else { "Current" };
    json!({"version": &*remote.version, "resources": told.resources.unwrap_or_else(|| json!([])), "freshness": fresh})
}

fn aggregated(name: &str, versions: Vec<Value>) -> Arc<str> {
    let metadata = match name {
        "" => json!({"creationTimestamp": null}),
        name => json!({"name": name, "creationTimestamp": null}),
    };
    json!({"metadata": metadata, "versions": versions}).to_string().into()
}

fn all_aggregated(groups: &[Described]) -> Tagged {
    let items: Vec<&str> = groups.iter().map(|described| &*described.aggregated).collect();
    let head = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
    });
    let mut document = head.to_string();
    document.pop();
    document.push_str(&format!(",\"items\":[{}]}}", items.join(",")));
    Tagged::new(document)
}

fn aggregated_resource(resource: &Resource) -> Value {
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({
        "resource": resource.plural,
        "responseKind": kind(&resource.group, &resource.version, &resource.kind),
        "scope": if resource.namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular,
        "verbs": verbs(resource.verbs),
    });
    if !resource.short_names.is_empty() {
        entry["shortNames"] = texts(&resource.short_names).into();
    }
    if !resource.categories.is_empty() {
        entry["categories"] = texts(&resource.categories).into();
    }
    let subs: Vec<Value> = subresources(resource)
        .into_iter()
        .map(|sub| {
            json!({
                "subresource": sub.name,
                "responseKind": kind(sub.group, sub.version, sub.kind),
                "verbs": verbs(sub.verbs),
            })
        })
        .collect();
    if !subs.is_empty() {
        entry["subresources"] = subs.into();
    }
    entry
}
