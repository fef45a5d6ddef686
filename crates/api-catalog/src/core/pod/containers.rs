//! Validation of containers of all three sorts: names, images, ports, environment, mounts, and what each sort may not have.

use std::collections::{BTreeMap, BTreeSet};

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use super::{handlers, security, volumes};
use crate::at::At;
use crate::check::table::{LABEL, Rule, Table, follow};
use crate::check::{self, resources};

/// Fields of every container that no other field bears on.
const CONTAINER: &Table = &[
    ("name", Rule::RequiredName(LABEL)),
    ("image", Rule::Required),
    ("terminationMessagePolicy", Rule::RequiredOneOf(&["FallbackToLogsOnError", "File"])),
    ("ports", Rule::Check(ports)),
    ("env", Rule::Check(environment)),
    ("envFrom", Rule::Check(environment_from)),
    ("imagePullPolicy", Rule::RequiredOneOf(&["Always", "IfNotPresent", "Never"])),
    ("resources", Rule::Check(|at, e| resources::requirements(at, false, e))),
    ("resizePolicy", Rule::Check(resize_policy)),
    ("securityContext", Rule::Check(security::container)),
];

const RESTART: &[&str] = &["Always", "Never", "OnFailure"];

/// Containers, init containers and ephemeral containers of a pod's spec.
pub(crate) fn all(spec: &At, e: &mut Errors) {
    let (main, init, ephemeral) =
        (spec.get("containers"), spec.get("initContainers"), spec.get("ephemeralContainers"));
    if main.is_empty() {
        main.required(e, "");
    }
    let grace = spec.get("terminationGracePeriodSeconds").int().unwrap_or(30);
    let mut names = BTreeSet::new();
    for container in main.items() {
        common(&container, spec, e);
        unique(&container, &mut names, e);
        handlers::lifecycle(&container.get("lifecycle"), grace, e);
        handlers::probes(&container, grace, e);
        restart_policy(&container, e);
    }
    for container in init.items() {
        common(&container, spec, e);
        unique(&container, &mut names, e);
        init_container(&container, grace, e);
    }
    for container in ephemeral.items() {
        common(&container, spec, e);
        unique(&container, &mut names, e);
        ephemeral_container(&container, &main, e);
    }
    host_ports(&main, e);
    host_ports(&init, e);
}

fn common(container: &At, spec: &At, e: &mut Errors) {
    follow(container, CONTAINER, e);
    volumes::mounts(container, &spec.get("volumes"), e);
}

fn unique<'v>(container: &At<'_, 'v>, names: &mut BTreeSet<&'v str>, e: &mut Errors) {
    let name = container.get("name");
    if !name.is_empty() && !names.insert(name.text()) {
        name.duplicate(e);
    }
}

const HOOKS: [&str; 4] = ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"];

/// An init container that restarts is a sidecar, and may have what containers have.
fn init_container(container: &At, grace: i64, e: &mut Errors) {
    let policy = container.get("restartPolicy");
    restart_policy(container, e);
    if policy.text() == "Always" {
        handlers::lifecycle(&container.get("lifecycle"), grace, e);
        return handlers::probes(container, grace, e);
    }
    for hook in HOOKS {
        if container.get(hook).is_set() {
            container
                .get(hook)
                .forbidden(e, "may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn ephemeral_container(container: &At, main: &At, e: &mut Errors) {
    const FORBIDDEN: [&str; 8] = [
        "lifecycle",
        "livenessProbe",
        "ports",
        "readinessProbe",
        "resizePolicy",
        "restartPolicy",
        "restartPolicyRules",
        "startupProbe",
    ];
    for field in FORBIDDEN {
        if !container.get(field).is_empty() {
            container.get(field).forbidden(e, "cannot be set for an Ephemeral Container");
        }
    }
    if !container.get("resources").is_empty() {
        container.get("resources").forbidden(e, "cannot be set for an Ephemeral Container");
    }
    let target = container.get("targetContainerName");
    if !target.is_empty() && !main.items().any(|other| other.get("name").text() == target.text()) {
        target.not_found(e);
    }
    for mount in container.get("volumeMounts").items() {
        for field in ["subPath", "subPathExpr"] {
            if !mount.get(field).is_empty() {
                mount.get(field).forbidden(e, "cannot be set for an Ephemeral Container");
            }
        }
    }
}

/// A container's own policy, and the exits that it does not hold for.
fn restart_policy(container: &At, e: &mut Errors) {
    const MAX_RULES: usize = 20;
    const MAX_CODES: usize = 255;
    let (policy, rules) = (container.get("restartPolicy"), container.get("restartPolicyRules"));
    check::one_of(&policy, RESTART, e);
    if policy.is_empty() && !rules.is_empty() {
        policy.required(e, "must specify restartPolicy when restart rules are used");
    }
    if rules.len() > MAX_RULES {
        rules.too_many(e, rules.len(), MAX_RULES);
    }
    for rule in rules.items() {
        check::required_one_of(&rule.get("action"), &["Restart", "RestartAllContainers"], e);
        let codes = rule.get("exitCodes");
        if !codes.is_set() {
            codes.required(e, "must be specified");
            continue;
        }
        check::required_one_of(&codes.get("operator"), &["In", "NotIn"], e);
        let values = codes.get("values");
        if values.len() > MAX_CODES {
            values.too_many(e, values.len(), MAX_CODES);
        }
    }
}

fn ports(ports: &At, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for port in ports.items() {
        let (name, number, host) = (port.get("name"), port.get("containerPort"), port.get("hostPort"));
        if !name.is_empty() {
            let messages = names::is_valid_port_name(name.text());
            if messages.is_empty() && !seen.insert(name.text()) {
                name.duplicate(e);
            }
            name.all_invalid(e, messages);
        }
        match number.int() {
            None | Some(0) => number.required(e, ""),
            Some(_) => check::port_number(&number, e),
        }
        if host.int().unwrap_or(0) != 0 {
            check::port_number(&host, e);
        }
        check::required_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"], e);
    }
}

/// No two containers may want the same port of the host.
fn host_ports(containers: &At, e: &mut Errors) {
    let mut taken = BTreeSet::new();
    for container in containers.items() {
        for port in container.get("ports").items() {
            let host = port.get("hostPort");
            let Some(number) = host.int().filter(|n| *n != 0) else { continue };
            let key = format!("{}/{}/{number}", port.get("protocol").text(), port.get("hostIP").text());
            if taken.contains(&key) {
                host.duplicate_as(e, key);
            } else {
                taken.insert(key);
            }
        }
    }
}

fn environment(variables: &At, e: &mut Errors) {
    for variable in variables.items() {
        check::required_name(&variable.get("name"), names::is_env_var_name, e);
        let from = variable.get("valueFrom");
        if from.is_set() {
            value_from(&from, !variable.get("value").is_empty(), e);
        }
    }
}

const KEY_REF: &Table =
    &[("name", Rule::Check(reference_name)), ("key", Rule::RequiredName(names::is_config_map_key))];

fn reference_name(name: &At, e: &mut Errors) {
    name.all_invalid(e, names::is_dns1123_subdomain(name.text()));
}

fn value_from(from: &At, has_value: bool, e: &mut Errors) {
    let mut sources = 0;
    for source in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        let at = from.get(source);
        if !at.is_set() {
            continue;
        }
        sources += 1;
        match source {
            "fieldRef" => field_ref(&at, ENV_FIELDS, e),
            "resourceFieldRef" => resource_ref(&at, false, e),
            "fileKeyRef" => {
                follow(&at, &[("volumeName", Rule::RequiredName(LABEL)), ("path", Rule::Required)], e)
            }
            _ => follow(&at, KEY_REF, e),
        }
    }
    if sources == 0 {
        from.invalid_as(e, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
    } else if has_value {
        from.invalid_as(e, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        from.invalid_as(e, "", "may not have more than one field specified at a time");
    }
}

/// What the environment may take from the pod.
const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What volumes may take from the pod.
pub(crate) const VOLUME_FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// All that a field reference of `v1` can name.
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];

pub(crate) fn field_ref(at: &At, supported: &[&str], e: &mut Errors) {
    let (version, path) = (at.get("apiVersion"), at.get("fieldPath"));
    if !version.must_be_set(e) || !path.must_be_set(e) {
        return;
    }
    if version.text() != "v1" {
        return path
            .invalid(e, format!("error converting fieldPath: unsupported pod version: {}", version.text()));
    }
    if let Some((map, key)) = path.text().strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            "metadata.annotations" => names::is_qualified_name(&key.to_lowercase()),
            "metadata.labels" => names::is_qualified_name(key),
            _ => {
                return path.invalid(
                    e,
                    format!(
                        "error converting fieldPath: field label does not support subscript: {}",
                        path.text()
                    ),
                );
            }
        }
        .into_iter()
        .for_each(|message| at.invalid_as(e, key, message));
    }
    if !KNOWN_FIELDS.contains(&path.text()) {
        return path
            .invalid(e, format!("error converting fieldPath: field label not supported: {}", path.text()));
    }
    let name = if path.text() == "spec.host" { "spec.nodeName" } else { path.text() };
    if !supported.contains(&name) {
        path.not_supported(e, supported);
    }
}

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// The amount of a container's resource, in units of a divisor.
pub(crate) fn resource_ref(at: &At, in_volume: bool, e: &mut Errors) {
    let resource = at.get("resource");
    if in_volume && at.get("containerName").is_empty() {
        at.get("containerName").required(e, "");
    } else if resource.must_be_set(e) && !RESOURCES.contains(&resource.text()) && !is_huge(resource.text()) {
        resource.not_supported(e, RESOURCES);
    }
    let divisor = at.get("divisor");
    if resources::is_zero(&divisor) {
        return;
    }
    let shown = resources::shown(&divisor);
    let (allowed, words): (&[&str], &str) = match resource.text() {
        "limits.cpu" | "requests.cpu" => (&["1m", "1"], "1m and 1 are supported with the cpu resource"),
        "limits.memory" | "requests.memory" => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => (
            BYTES,
            "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the local ephemeral storage resource",
        ),
        _ => return,
    };
    if !allowed.contains(&shown.as_str()) {
        divisor.invalid_as(e, resource.text(), format!("only divisor's values {words}"));
    }
}

const BYTES: &[&str] = &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

fn is_huge(resource: &str) -> bool {
    ["limits.hugepages-", "requests.hugepages-"].iter().any(|prefix| resource.starts_with(prefix))
}

fn environment_from(sources: &At, e: &mut Errors) {
    for source in sources.items() {
        check::name(&source.get("prefix"), names::is_env_var_name, e);
        let mut count = 0;
        for reference in ["configMapRef", "secretRef"] {
            let at = source.get(reference);
            if at.is_set() {
                count += 1;
                check::required_name(&at.get("name"), names::is_dns1123_subdomain, e);
            }
        }
        // Upstream names the list, not the item.
        match count {
            0 => sources.invalid_as(e, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => sources.invalid_as(e, "", "may not have more than one field specified at a time"),
        }
    }
}

fn resize_policy(policies: &At, e: &mut Errors) {
    let mut seen: BTreeMap<&str, ()> = BTreeMap::new();
    for policy in policies.items() {
        let (resource, restart) = (policy.get("resourceName"), policy.get("restartPolicy"));
        if seen.insert(resource.text(), ()).is_some() {
            policies.duplicate_as(e, Value::from(resource.text()));
        }
        check::required_one_of(&resource, &["cpu", "memory"], e);
        check::required_one_of(&restart, &["NotRequired", "RestartContainer"], e);
    }
}
