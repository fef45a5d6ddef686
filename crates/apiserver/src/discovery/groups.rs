//! Discovery documents, legacy and aggregated, straight from the catalogue: what is told of a group is made once for as
//! long as the group stays as it is.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use api_machinery::resource::{Resource, Verbs};
use serde_json::{Value, json};

use super::Tagged;
use crate::catalog::{Catalog, Group};
use crate::config::Config;

/// What is told of one group: made once, since a group never changes.
#[derive(Debug, Default)]
pub struct Described {
    /// `/apis/GROUP`, without what tells it from an item of a list.
    group: Value,
    /// `/api/v1` and `/apis/GROUP/VERSION` by version.
    resources: BTreeMap<String, Value>,
    /// Its item in aggregated discovery.
    aggregated: String,
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
            resources: resources.collect(),
            aggregated: aggregated(group, &versions).to_string(),
            hashes: OnceLock::new(),
        }
    }

    /// `/apis/GROUP`.
    pub fn group(&self) -> Value {
        let mut value = self.group.clone();
        value["kind"] = "APIGroup".into();
        value["apiVersion"] = "v1".into();
        value
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
        let listed: Vec<&Value> = named.iter().map(|group| &group.described().group).collect();
        Whole {
            root: root(&core, &named),
            core: core.iter().flat_map(|group| group.versions()).map(str::to_owned).collect(),
            core_aggregated: all_aggregated(&core),
            groups: json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}),
            groups_aggregated: all_aggregated(&named),
        }
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

fn root(core: &[&Group], named: &[&Group]) -> Value {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics"]
            .map(str::to_owned)
            .into();
    paths.extend(["/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(str::to_owned));
    paths.extend(core.iter().flat_map(|group| group.versions()).map(|version| format!("/api/{version}")));
    for group in named {
        paths.push(format!("/apis/{}", group.name()));
        paths.extend(group.versions().into_iter().map(|version| format!("/apis/{}/{version}", group.name())));
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

fn aggregated(group: &Group, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|version| {
            let found = of_version(group, version);
            let resources: Vec<Value> = found.into_iter().map(aggregated_resource).collect();
            json!({"version": version, "resources": resources, "freshness": "Current"})
        })
        .collect();
    let metadata = if group.name().is_empty() {
        json!({"creationTimestamp": null})
    } else {
        json!({"name": group.name(), "creationTimestamp": null})
    };
    json!({"metadata": metadata, "versions": versions})
}

fn all_aggregated(groups: &[&Group]) -> Tagged {
    let items: Vec<&str> = groups.iter().map(|group| &*group.described().aggregated).collect();
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
