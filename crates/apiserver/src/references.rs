//! What a pod refers to: secrets, config maps and claims. Both the Node authorizer (a node may read what its pods refer
//! to) and admission ask this, so that neither forgets a way in.

use serde_json::Value;

/// Where a pod spec has containers.
pub const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The items of a list, none if it is absent.
pub fn items<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// The text at a JSON pointer, empty if it is absent.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The pod's spec.
pub fn spec(pod: &Value) -> &Value {
    pod.get("spec").unwrap_or(&Value::Null)
}

/// The containers of all three kinds.
pub fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    CONTAINERS.into_iter().flat_map(|field| items(spec(pod), field))
}

/// Names at one of `environment` pointers in containers, at one of `volumes` pointers in volumes, or at `projected` in
/// the sources of projected volumes.
fn names<'a>(pod: &'a Value, environment: [&str; 2], volumes: &[&str], projected: &str) -> Vec<&'a str> {
    let mut found = Vec::new();
    for container in containers(pod) {
        found.extend(items(container, "env").map(|variable| text(variable, environment[0])));
        found.extend(items(container, "envFrom").map(|source| text(source, environment[1])));
    }
    for volume in items(spec(pod), "volumes") {
        found.extend(volumes.iter().map(|pointer| text(volume, pointer)));
        let sources = volume.get("projected").into_iter().flat_map(|projected| items(projected, "sources"));
        found.extend(sources.map(|source| text(source, projected)));
    }
    found.retain(|name| !name.is_empty());
    found
}

const SECRET_VOLUMES: [&str; 10] = [
    "/secret/secretName",
    "/azureFile/secretName",
    "/cephfs/secretRef/name",
    "/cinder/secretRef/name",
    "/csi/nodePublishSecretRef/name",
    "/flexVolume/secretRef/name",
    "/iscsi/secretRef/name",
    "/rbd/secretRef/name",
    "/scaleIO/secretRef/name",
    "/storageos/secretRef/name",
];

/// The secrets that a pod refers to, those to pull images with included.
pub fn secrets(pod: &Value) -> Vec<&str> {
    let environment = ["/valueFrom/secretKeyRef/name", "/secretRef/name"];
    let mut found = names(pod, environment, &SECRET_VOLUMES, "/secret/name");
    found.extend(items(spec(pod), "imagePullSecrets").map(|secret| text(secret, "/name")));
    found
}

/// The config maps that a pod refers to.
pub fn config_maps(pod: &Value) -> Vec<&str> {
    let environment = ["/valueFrom/configMapKeyRef/name", "/configMapRef/name"];
    names(pod, environment, &["/configMap/name"], "/configMap/name")
}

/// The claims that a pod uses, those made for its ephemeral volumes included.
pub fn claims(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for volume in items(spec(pod), "volumes") {
        let named = text(volume, "/persistentVolumeClaim/claimName");
        if !named.is_empty() {
            found.push(named.to_owned());
        }
        if volume.get("ephemeral").is_some_and(|source| !source.is_null()) {
            found.push(format!("{}-{}", api_machinery::meta::name(pod), text(volume, "/name")));
        }
    }
    found
}

/// The claims of devices that a pod uses, those made for it included.
pub fn device_claims(pod: &Value) -> Vec<&str> {
    let status = &pod["status"];
    let named = items(spec(pod), "resourceClaims").chain(items(status, "resourceClaimStatuses"));
    let extended = status.get("extendedResourceClaimStatus");
    let all = named.chain(extended).map(|claim| text(claim, "/resourceClaimName"));
    all.filter(|name| !name.is_empty()).collect()
}

/// The node that a pod is bound to, or that something else is about; or empty.
pub fn node_name(object: &Value) -> &str {
    text(object, "/spec/nodeName")
}

/// Whether the pod is a copy of one that the kubelet runs from a file.
pub fn is_mirror(pod: &Value) -> bool {
    api_machinery::meta::annotation(pod, MIRROR).is_some()
}

/// The annotation of mirror pods.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_in() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {
            "imagePullSecrets": [{"name": "pull"}],
            "initContainers": [{"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "init", "key": "k"}}}]}],
            "containers": [{"envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "map-from"}}]}],
            "ephemeralContainers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]}],
            "volumes": [
                {"name": "a", "secret": {"secretName": "volume"}},
                {"name": "b", "projected": {"sources": [{"secret": {"name": "projected"}}, {"configMap": {"name": "map"}}]}},
                {"name": "c", "csi": {"nodePublishSecretRef": {"name": "csi"}}},
                {"name": "d", "configMap": {"name": "map-volume"}},
                {"name": "e", "persistentVolumeClaim": {"claimName": "claim"}},
                {"name": "f", "ephemeral": {"volumeClaimTemplate": {}}},
            ],
        }});
        assert_eq!(secrets(&pod), ["init", "from", "late", "volume", "projected", "csi", "pull"]);
        assert_eq!(config_maps(&pod), ["map-from", "map", "map-volume"]);
        assert_eq!(claims(&pod), ["claim", "p-f"]);
        assert!(secrets(&json!({})).is_empty());
    }
}
