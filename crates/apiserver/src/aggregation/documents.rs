//! What other servers tell of themselves, in the forms in which this one tells it on: discovery and OpenAPI. Pure but for
//! the questions at the end.

use std::collections::BTreeSet;

use futures::future::join_all;
use serde_json::{Map, Value, json};

use super::Remote;
use crate::references::{items, text};
use crate::server::ApiServer;

/// The most resources of a version that are told on.
const MOST_RESOURCES: usize = 5000;

/// An `APIResourceList` as aggregated discovery has it.
pub fn resources(remote: &Remote, list: &Value) -> Value {
    let mut all: Vec<Value> = Vec::new();
    for entry in items(list, "resources").take(MOST_RESOURCES) {
        let or = |word: &str, other: &str| match text(entry, word) {
            "" => other.to_owned(),
            own => own.to_owned(),
        };
        let kind = json!({
            "group": or("/group", &remote.group), "version": or("/version", &remote.version), "kind": entry["kind"],
        });
        let scope = if entry["namespaced"] == true { "Namespaced" } else { "Cluster" };
        let (resource, subresource) = match text(entry, "/name").split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (text(entry, "/name"), None),
        };
        let known = all.iter().position(|one| one["resource"] == resource);
        let at = known.unwrap_or_else(|| {
            all.push(json!({"resource": resource, "responseKind": {}, "scope": scope, "verbs": []}));
            all.len() - 1
        });
        let own = &mut all[at];
        if let Some(subresource) = subresource {
            let sub = json!({"subresource": subresource, "responseKind": kind, "verbs": entry["verbs"]});
            match own["subresources"].as_array_mut() {
                Some(subs) => subs.push(sub),
                None => own["subresources"] = json!([sub]),
            }
            continue;
        }
        own["responseKind"] = kind;
        own["singularResource"] = or("/singularName", &text(entry, "/kind").to_lowercase()).into();
        for field in ["verbs", "shortNames", "categories"] {
            if entry[field].is_array() {
                own[field] = entry[field].clone();
            }
        }
    }
    all.into()
}

/// Where a server keeps the OpenAPI document of this version, of the index of its documents.
pub fn openapi(remote: &Remote, index: &Value) -> Option<String> {
    let entry = &index["paths"][remote.path().trim_start_matches('/')];
    entry["serverRelativeURL"].as_str().filter(|url| url.starts_with('/')).map(str::to_owned)
}

/// The parts of a v2 document that are about one version: its paths, and the definitions that they speak of.
fn part(remote: &Remote, document: &Value) -> (Map<String, Value>, Map<String, Value>) {
    let (own, below) = (remote.path(), format!("{}/", remote.path()));
    let paths = document["paths"].as_object().into_iter().flatten();
    let paths = paths.filter(|(path, _)| **path == own || path.starts_with(&below));
    let paths: Map<String, Value> = paths.map(|(path, item)| (path.clone(), item.clone())).collect();
    let mut wanted = BTreeSet::new();
    let mut open: Vec<&Value> = paths.values().collect();
    let mut definitions = Map::new();
    while let Some(value) = open.pop() {
        match value {
            Value::Array(values) => open.extend(values),
            Value::Object(fields) => {
                open.extend(fields.values());
                let name =
                    fields.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix(DEFINITIONS));
                let Some(name) = name.filter(|name| wanted.insert((*name).to_owned())) else { continue };
                if let Some(definition) = document["definitions"].get(name) {
                    definitions.insert(name.to_owned(), definition.clone());
                    open.push(definition);
                }
            }
            _ => {}
        }
    }
    (paths, definitions)
}

const DEFINITIONS: &str = "#/definitions/";

/// Adds what one server has to what others have. Definitions of the same name that differ stay apart: those that come later
/// get another name.
fn add(whole: &mut Value, (mut paths, definitions): (Map<String, Value>, Map<String, Value>)) {
    let renamed: BTreeSet<String> = definitions
        .iter()
        .filter(|(name, new)| match whole["definitions"].get(name.as_str()) {
            Some(known) => known != *new,
            None => is_own(name),
        })
        .map(|(name, _)| name.clone())
        .collect();
    let taken: BTreeSet<String> =
        whole["definitions"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let free = |name: &str| {
        let mut names = (2..).map(|count| format!("{name}_v{count}"));
        names.find(|name| !taken.contains(name)).unwrap_or_default()
    };
    let name_of = |name: &str| if renamed.contains(name) { free(name) } else { name.to_owned() };
    paths.values_mut().for_each(|item| refer(item, &name_of));
    for (name, mut definition) in definitions {
        refer(&mut definition, &name_of);
        whole["definitions"][name_of(&name)] = definition;
    }
    for (path, item) in paths {
        whole["paths"][path] = item;
    }
}

/// Gives definitions the names that they have here.
fn refer(value: &mut Value, name_of: &dyn Fn(&str) -> String) {
    match value {
        Value::Array(values) => values.iter_mut().for_each(|value| refer(value, name_of)),
        Value::Object(fields) => {
            let name = fields.get("$ref").and_then(Value::as_str).and_then(|at| at.strip_prefix(DEFINITIONS));
            if let Some(name) = name.map(name_of) {
                fields.insert("$ref".to_owned(), format!("{DEFINITIONS}{name}").into());
            }
            fields.values_mut().for_each(|value| refer(value, name_of));
        }
        _ => {}
    }
}

/// Names of definitions that may be this server's own.
fn is_own(name: &str) -> bool {
    let packages = ["api", "apimachinery", "apiextensions-apiserver", "kube-aggregator"];
    let below = name.strip_prefix("io.k8s.").and_then(|rest| rest.split('.').next());
    below.is_some_and(|package| packages.contains(&package))
}

/// What one server has to add, if it tells.
async fn own_part(server: &ApiServer, remote: &Remote) -> Option<(Map<String, Value>, Map<String, Value>)> {
    let read = |bytes: bytes::Bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string());
    match remote.get(server, "/openapi/v2").await.and_then(read) {
        Ok(document) => Some(part(remote, &document)),
        Err(why) => {
            tracing::debug!(name = &*remote.name, why, "a server does not tell what its API looks like");
            None
        }
    }
}

/// What the servers that answer have to add to this one's v2 document: paths and definitions.
pub async fn foreign(server: &ApiServer) -> Value {
    let mut whole = json!({"paths": {}, "definitions": {}});
    let all = server.aggregation().all();
    let asked = all.iter().filter(|remote| remote.unavailable.is_none());
    let asked: Vec<_> = asked.map(|remote| own_part(server, remote)).collect();
    for part in join_all(asked).await.into_iter().flatten() {
        add(&mut whole, part);
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote() -> Remote {
        let spec = json!({"group": "x.io", "version": "v1", "service": {"namespace": "n", "name": "s"}});
        Remote::read(&json!({"metadata": {"name": "v1.x.io"}, "spec": spec}), None).expect("another server")
    }

    #[test]
    fn resources_as_aggregated_discovery_has_them() {
        let list = json!({"resources": [
            {"name": "things", "singularName": "thing", "namespaced": true, "kind": "Thing", "verbs": ["get"], "shortNames": ["th"]},
            {"name": "things/scale", "namespaced": true, "group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get"]},
            {"name": "pods/load", "namespaced": true, "kind": "MetricValueList", "verbs": ["get"]},
            {"name": "cells", "singularName": "", "namespaced": false, "kind": "Cell", "verbs": ["list"]},
        ]});
        let kind = |kind: &str| json!({"group": "x.io", "version": "v1", "kind": kind});
        let wanted = json!([
            {"resource": "things", "responseKind": kind("Thing"), "scope": "Namespaced", "singularResource": "thing",
                "verbs": ["get"], "shortNames": ["th"], "subresources": [{"subresource": "scale", "verbs": ["get"],
                    "responseKind": {"group": "autoscaling", "version": "v1", "kind": "Scale"}}]},
            {"resource": "pods", "responseKind": {}, "scope": "Namespaced", "verbs": [], "subresources": [
                {"subresource": "load", "responseKind": kind("MetricValueList"), "verbs": ["get"]}]},
            {"resource": "cells", "responseKind": kind("Cell"), "scope": "Cluster", "singularResource": "cell",
                "verbs": ["list"]},
        ]);
        assert_eq!(resources(&remote(), &list), wanted);
        assert_eq!(resources(&remote(), &json!({"resources": 7})), json!([]));
    }

    #[test]
    fn an_index_leads_to_its_own_document_only() {
        let index =
            |url: &str| json!({"paths": {"apis/x.io/v1": {"serverRelativeURL": url}, "apis/y.io/v1": {}}});
        let url = "/openapi/v3/apis/x.io/v1?hash=A";
        assert_eq!(openapi(&remote(), &index(url)).as_deref(), Some(url));
        assert_eq!(openapi(&remote(), &index("https://example.com/x")), None);
        assert_eq!(openapi(&remote(), &json!({})), None);
    }

    #[test]
    fn definitions_that_differ_stay_apart() {
        let to = |name: &str| json!({"$ref": format!("{DEFINITIONS}{name}")});
        let document = json!({
            "paths": {"/apis/x.io/v1/things": {"get": to("Thing")}, "/apis/x.io/v1beta1/things": {}, "/healthz": {}},
            "definitions": {"Thing": {"properties": {"metadata": to("io.k8s.api.Meta"), "next": to("Thing")}},
                "io.k8s.api.Meta": {"type": "object"}, "Other": {}},
        });
        let mut whole = json!({"paths": {}, "definitions": {}});
        add(&mut whole, part(&remote(), &document));
        let thing = json!({"properties": {"metadata": to("io.k8s.api.Meta_v2"), "next": to("Thing")}});
        let wanted = json!({
            "paths": {"/apis/x.io/v1/things": {"get": to("Thing")}},
            "definitions": {"Thing": thing, "io.k8s.api.Meta_v2": {"type": "object"}},
        });
        assert_eq!(whole, wanted);
        // The same once more changes nothing; another one of that name comes beside it.
        add(&mut whole, part(&remote(), &json!({"paths": {}, "definitions": {}})));
        assert_eq!(whole, wanted);
        let other =
            json!({"paths": {"/apis/x.io/v1/cells": {"get": to("Thing")}}, "definitions": {"Thing": {}}});
        add(&mut whole, part(&remote(), &other));
        assert_eq!(whole["paths"]["/apis/x.io/v1/cells"]["get"], to("Thing_v2"));
        assert_eq!(whole["definitions"]["Thing_v2"], json!({}));
    }
}
