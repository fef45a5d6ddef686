//! What a pod, or a pod template, gets for the fields that a client left out.
//!
//! The same for pods and templates but where noted. Admission (service account, priority, default tolerations) is
//! not done here.

use serde_json::{Value, json};

use super::volumes::SOURCES;
use crate::fill::{Fill, at, each_mut, fill, get, object_at, set, set_if_absent, text};

/// Defaults of a `Pod`.
pub fn pod(pod: &mut Value) {
    let Some(spec) = pod.get_mut("spec").filter(|s| s.is_object()) else { return };
    pod_spec(spec);
    let host_network = get(spec, "hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers"] {
        for container in each_mut(spec, list) {
            requests_from_limits(container);
            if host_network {
                host_ports(container);
            }
        }
    }
    pod_requests_from_limits(spec);
    set_if_absent(spec, "enableServiceLinks", true);
}

/// Defaults of a pod template, at `spec.template` of what holds it.
pub fn template(template: &mut Value) {
    if let Some(spec) = object_at(template, &["spec"]) {
        pod_spec(spec);
    }
    object_at(template, &["metadata"]);
}

/// Defaults of a pod's spec.
pub fn pod_spec(spec: &mut Value) {
    fill(
        spec,
        &[
            ("restartPolicy", Fill::Text("Always")),
            ("terminationGracePeriodSeconds", Fill::Int(30)),
            ("dnsPolicy", Fill::Text("ClusterFirst")),
            ("securityContext", Fill::Object),
            ("schedulerName", Fill::Text("default-scheduler")),
        ],
    );
    service_account(spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in each_mut(spec, list) {
            container_defaults(container);
        }
    }
    for volume in each_mut(spec, "volumes") {
        volume_defaults(volume);
    }
}

/// A pod in the host's network listens where it listens. Pods only: a template keeps what was written.
fn host_ports(container: &mut Value) {
    for port in each_mut(container, "ports") {
        if port.get("hostPort").and_then(Value::as_i64).unwrap_or(0) == 0
            && let Some(number) = get(port, "containerPort").cloned()
        {
            set(port, "hostPort", number);
        }
    }
}

/// `serviceAccount` is the old name of `serviceAccountName`; both are shown.
fn service_account(spec: &mut Value) {
    let name = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !name.is_empty() {
        set(spec, "serviceAccountName", name.clone());
        set(spec, "serviceAccount", name);
    }
}

fn container_defaults(container: &mut Value) {
    if !container.is_object() {
        return;
    }
    if text(container, "imagePullPolicy").is_empty() {
        set(container, "imagePullPolicy", pull_policy(text(container, "image")));
    }
    fill(
        container,
        &[
            ("terminationMessagePath", Fill::Text("/dev/termination-log")),
            ("terminationMessagePolicy", Fill::Text("File")),
            ("resources", Fill::Object),
        ],
    );
    for port in each_mut(container, "ports") {
        fill(port, &[("protocol", Fill::Text("TCP"))]);
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe) {
            probe_defaults(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(action) = crate::fill::at_mut(container, &["lifecycle", hook, "httpGet"]) {
            http_get_defaults(action);
        }
    }
    for variable in each_mut(container, "env") {
        if let Some(field) = crate::fill::at_mut(variable, &["valueFrom", "fieldRef"]) {
            fill(field, &[("apiVersion", Fill::Text("v1"))]);
        }
        resource_divisor(crate::fill::at_mut(variable, &["valueFrom", "resourceFieldRef"]));
    }
}

fn resource_divisor(field: Option<&mut Value>) {
    if let Some(field) = field {
        set_if_absent(field, "divisor", "0");
    }
}

/// `:latest` and no tag are pulled always, anything pinned once.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match (last.split_once(':'), digest) {
        (Some((_, "latest")), _) => "Always",
        (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

fn probe_defaults(probe: &mut Value) {
    fill(
        probe,
        &[
            ("timeoutSeconds", Fill::NonZero(1)),
            ("periodSeconds", Fill::NonZero(10)),
            ("successThreshold", Fill::NonZero(1)),
            ("failureThreshold", Fill::NonZero(3)),
        ],
    );
    if let Some(action) = crate::fill::at_mut(probe, &["httpGet"]) {
        http_get_defaults(action);
    }
    if let Some(action) = crate::fill::at_mut(probe, &["grpc"]) {
        set_if_absent(action, "service", "");
    }
}

fn http_get_defaults(action: &mut Value) {
    fill(action, &[("path", Fill::Text("/")), ("scheme", Fill::Text("HTTP"))]);
}

fn volume_defaults(volume: &mut Value) {
    if volume.is_object() && SOURCES.iter().all(|(source, _)| get(volume, source).is_none()) {
        set(volume, "emptyDir", json!({}));
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(source) {
            fill(source, &[("defaultMode", Fill::Int(0o644))]);
        }
    }
    if let Some(source) = volume.get_mut("hostPath") {
        set_if_absent(source, "type", "");
    }
    if let Some(source) = volume.get_mut("downwardAPI") {
        downward_items(source);
    }
    if let Some(source) = volume.get_mut("iscsi") {
        fill(source, &[("iscsiInterface", Fill::Text("default"))]);
    }
    if let Some(source) = volume.get_mut("image")
        && text(source, "pullPolicy").is_empty()
        && !text(source, "reference").is_empty()
    {
        set(source, "pullPolicy", pull_policy(text(source, "reference")));
    }
    if let Some(spec) = crate::fill::at_mut(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        set_if_absent(spec, "volumeMode", "Filesystem");
    }
    if let Some(projected) = volume.get_mut("projected") {
        for source in each_mut(projected, "sources") {
            if let Some(token) = crate::fill::at_mut(source, &["serviceAccountToken"]) {
                fill(token, &[("expirationSeconds", Fill::Int(3600))]);
            }
            if let Some(downward) = crate::fill::at_mut(source, &["downwardAPI"]) {
                downward_items(downward);
            }
        }
    }
}

fn downward_items(source: &mut Value) {
    for item in each_mut(source, "items") {
        if let Some(field) = crate::fill::at_mut(item, &["fieldRef"]) {
            fill(field, &[("apiVersion", Fill::Text("v1"))]);
        }
        resource_divisor(crate::fill::at_mut(item, &["resourceFieldRef"]));
    }
}

/// A limit without a request is a request too. Pods only: a template keeps what was written.
fn requests_from_limits(container: &mut Value) {
    let Some(limits) = at(container, &["resources", "limits"]).and_then(Value::as_object).cloned() else {
        return;
    };
    if let Some(requests) = object_at(container, &["resources", "requests"]) {
        for (name, quantity) in limits {
            set_if_absent(requests, &name, quantity);
        }
    }
}

fn pod_requests_from_limits(spec: &mut Value) {
    if get(spec, "resources").is_some() {
        requests_from_limits(spec);
    }
}
