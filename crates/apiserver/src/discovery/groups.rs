//! Discovery documents, legacy and aggregated, straight from the catalogue.

use std::collections::BTreeMap;

use api_machinery::resource::{Resource, Verbs};
use serde_json::{Value, json};

use super::Tagged;
use super::openapi::Specs;
use crate::catalog::Catalog;
use crate::config::Config;

/// All discovery documents.
#[derive(Debug)]
pub struct Documents {
    /// `/`.
    pub root: Value,
    /// `/api`.
    pub core: Value,
    /// `/api`, aggregated.
    pub core_aggregated: Tagged,
    /// `/apis`.
    pub groups: Value,
    /// `/apis`, aggregated.
    pub groups_aggregated: Tagged,
    /// `/apis/GROUP` by group.
    pub group: BTreeMap<String, Value>,
    /// `/api/v1` and `/apis/GROUP/VERSION` by group and version.
    pub resources: BTreeMap<String, Value>,
    /// Below `/openapi`.
    pub specs: Specs,
}

/// A group's versions, preferred first.
struct Group<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
}

fn groups(catalog: &Catalog) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for resource in catalog.all() {
        let version = &*resource.version;
        match groups.iter_mut().find(|group| group.name == resource.group) {
            Some(group) if group.versions.contains(&version) => {}
            Some(group) => group.versions.push(version),
            None => groups.push(Group { name: &resource.group, versions: vec![version] }),
        }
    }
    groups
}

impl Documents {
    /// Makes all documents.
    pub fn new(config: &Config, catalog: &Catalog) -> Documents {
        let groups = groups(catalog);
        let named: Vec<&Group<'_>> = groups.iter().filter(|group| !group.name.is_empty()).collect();
        let resources: BTreeMap<String, Value> = groups
            .iter()
            .flat_map(|group| group.versions.iter().map(move |version| (group.name, *version)))
            .map(|(group, version)| {
                let name = api_machinery::resource::group_version(group, version);
                let list = resource_list(catalog, group, version, &name);
                (name, list)
            })
            .collect();
        let core: Vec<&str> = groups
            .iter()
            .filter(|group| group.name.is_empty())
            .flat_map(|group| group.versions.clone())
            .collect();
        let address = match config.advertise_address {
            std::net::IpAddr::V6(address) => format!("[{address}]:{}", config.port),
            std::net::IpAddr::V4(address) => format!("{address}:{}", config.port),
        };
        Documents {
            root: root(&resources, &named),
            core: json!({
                "kind": "APIVersions", "versions": core,
                "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
            }),
            core_aggregated: aggregated(catalog, groups.iter().filter(|group| group.name.is_empty())),
            groups: json!({
                "kind": "APIGroupList", "apiVersion": "v1",
                "groups": named.iter().map(|group| group_value(group)).collect::<Vec<_>>(),
            }),
            groups_aggregated: aggregated(catalog, named.iter().copied()),
            group: named
                .iter()
                .map(|group| {
                    let mut value = group_value(group);
                    value["kind"] = "APIGroup".into();
                    value["apiVersion"] = "v1".into();
                    (group.name.to_owned(), value)
                })
                .collect(),
            resources,
            specs: Specs::default(),
        }
    }
}

fn root(resources: &BTreeMap<String, Value>, named: &[&Group<'_>]) -> Value {
    let mut paths: Vec<String> =
        ["/.well-known/openid-configuration", "/api", "/apis", "/healthz", "/livez", "/metrics"]
            .map(str::to_owned)
            .into();
    paths.extend(["/openapi/v2", "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"].map(str::to_owned));
    paths.extend(named.iter().map(|group| format!("/apis/{}", group.name)));
    paths.extend(resources.keys().map(|name| match name.contains('/') {
        true => format!("/apis/{name}"),
        false => format!("/api/{name}"),
    }));
    paths.sort();
    json!({"paths": paths})
}

fn group_value(group: &Group<'_>) -> Value {
    let versions: Vec<Value> = group
        .versions
        .iter()
        .map(|version| json!({"groupVersion": format!("{}/{version}", group.name), "version": version}))
        .collect();
    json!({"name": group.name, "preferredVersion": versions[0], "versions": versions})
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

fn of_version<'a>(catalog: &'a Catalog, group: &str, version: &str) -> Vec<&'a Resource> {
    let mut found: Vec<&Resource> = catalog
        .all()
        .iter()
        .map(|resource| &**resource)
        .filter(|resource| resource.group == group && resource.version == version)
        .collect();
    found.sort_by(|a, b| a.plural.cmp(&b.plural));
    found
}

fn resource_list(catalog: &Catalog, group: &str, version: &str, name: &str) -> Value {
    let mut list = Vec::new();
    for resource in of_version(catalog, group, version) {
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

fn aggregated<'a>(catalog: &Catalog, groups: impl Iterator<Item = &'a Group<'a>>) -> Tagged {
    let items: Vec<Value> = groups
        .map(|group| {
            let versions: Vec<Value> = group
                .versions
                .iter()
                .map(|version| {
                    let found = of_version(catalog, group.name, version);
                    let resources: Vec<Value> = found.into_iter().map(aggregated_resource).collect();
                    json!({"version": version, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let metadata = if group.name.is_empty() {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group.name, "creationTimestamp": null})
            };
            json!({"metadata": metadata, "versions": versions})
        })
        .collect();
    let document = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items,
    });
    Tagged::new(document.to_string())
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
