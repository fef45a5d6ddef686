//! `pods/resize`: what a pod that was made asks for and is limited to changes, without a new pod.
//!
//! It is judged here whether a change may be asked for (KEP-1287, and KEP-5419 for the pod as a whole); whether it fits the
//! node, and doing it, is the kubelet's.

use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::resource::Part;
use serde_json::Value;

use super::{status, validate};
use crate::at::At;
use crate::check;
use crate::fill::{each_mut, keep_old, remove, text};

pub(crate) const PART: Part = Part { name: "resize", prepare, validate: resized };

const LISTS: [&str; 2] = ["containers", "initContainers"];
const ONLY: &str = "only cpu and memory resources are mutable";
const ONLY_SIDECARS: &str = "only cpu and memory resources for sidecar containers are mutable";

/// Nothing but resources and their policies is taken over, by the names of containers.
fn prepare(new: &mut Value, old: &Value) {
    let wanted = super::restored(new, old);
    let spec = &mut new["spec"];
    keep_old(spec, &wanted, "resources");
    for list in LISTS {
        for container in each_mut(spec, list) {
            let mut same = wanted[list].as_array().into_iter().flatten();
            let Some(wanted) = same.find(|one| one["name"] == container["name"]) else { continue };
            keep_old(container, wanted, "resources");
            keep_old(container, wanted, "resizePolicy");
        }
    }
}

fn resized(new: &Value, old: &Value, e: &mut Errors) {
    validate::pod(new, e);
    let (root, before) = (At::root(new), At::root(old));
    if meta::annotation(old, "kubernetes.io/config.mirror").is_some() {
        return root.forbidden(e, "static pods cannot be resized");
    }
    if old["spec"]["os"]["name"] == "windows" {
        return root.forbidden(e, "windows pods cannot be resized");
    }
    let (spec, before) = (root.get("spec"), before.get("spec"));
    let class = match text(&old["status"], "qosClass") {
        "" => status::qos_class(&old["spec"]),
        class => class,
    };
    if status::qos_class(&new["spec"]) != class {
        spec.invalid_as(e, class, "Pod QOS Class may not change as a result of resizing");
    }
    if !is_supported(old) {
        spec.forbidden(e, "Pod running on node without support for resize");
    }
    only_compute(&spec, &spec, &before, ONLY, e);
    for (now, then) in spec.get("containers").items().zip(before.get("containers").items()) {
        only_compute(&spec, &now, &then, ONLY, e);
    }
    for (now, then) in spec.get("initContainers").items().zip(before.get("initContainers").items()) {
        if now.get("restartPolicy").text() == "Always" {
            only_compute(&spec, &now, &then, ONLY_SIDECARS, e);
        } else if !check::same(now.value(), then.value()) {
            spec.forbidden(e, "resources for non-sidecar init containers are immutable");
        }
    }
}

/// A kubelet that can resize says what containers have; one that runs them and does not say cannot (KEP-1287, version skew).
fn is_supported(pod: &Value) -> bool {
    let mut statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    let running = statuses.find(|status| status["state"]["running"].is_object());
    running.is_none_or(|status| status["resources"].is_object())
}

/// Of what a pod or a container has, processor and memory may change and come, not go; all else stays.
fn only_compute(spec: &At, new: &At, old: &At, changed: &str, e: &mut Errors) {
    let (new, old) = (new.get("resources"), old.get("resources"));
    for (side, removed) in
        [("requests", "resource requests cannot be removed"), ("limits", "resource limits cannot be removed")]
    {
        let now = new.get(side);
        if old.get(side).entries().any(|(name, _)| !now.key(name).is_set()) {
            now.forbidden(e, removed);
        }
    }
    if !check::same(without_compute(&new).as_ref(), without_compute(&old).as_ref()) {
        spec.forbidden(e, changed);
    }
}

fn without_compute(resources: &At) -> Option<Value> {
    let mut rest = resources.value().cloned()?;
    for side in ["requests", "limits"] {
        let Some(list) = rest.get_mut(side).and_then(Value::as_object_mut) else { continue };
        list.retain(|name, _| !matches!(name.as_str(), "cpu" | "memory"));
        if list.is_empty() {
            remove(&mut rest, side);
        }
    }
    Some(rest)
}
