//! Validation of pods and pod templates: the parts, and how they hang together.
//!
//! Containers, volumes, scheduling and security have modules of their own. The same rules run for both; what is only
//! for pods is said so.

use api_machinery::field::Errors;
use serde_json::Value;

use super::{containers, scheduling, security, volumes};
use crate::at::At;
use crate::check::table::{LABEL, QUALIFIED, Rule, SUBDOMAIN, Table, follow};
use crate::check::{self, resources};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// A whole pod; `metadata` is checked elsewhere.
pub(crate) fn pod(pod: &Value, e: &mut Errors) {
    let root = At::root(pod);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let annotations = metadata.get("annotations");
    deletion_cost(&annotations, e);
    let mirror = annotations.key(MIRROR);
    if mirror.is_set() && spec.get("nodeName").is_empty() {
        mirror.invalid(e, "must set spec.nodeName if mirror pod annotation is set");
    }
    pod_spec(&spec, Holder::Pod, e);
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            let image = container.get("image");
            if image.text().trim() != image.text() {
                image.invalid(e, "must not have leading or trailing whitespace");
            }
        }
    }
    one_huge_page_size(&spec, e);
}

/// What only a pod that exists may have.
pub(crate) fn new_pod(pod: &Value, e: &mut Errors) {
    let root = At::root(pod);
    let spec = root.get("spec");
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden(e, "cannot be set on create");
    }
    if !spec.get("nodeName").is_empty() && !spec.get("schedulingGates").is_empty() {
        spec.get("nodeName").forbidden(e, "cannot be set until all schedulingGates have been cleared");
    }
}

/// A ReplicaSet deletes the cheapest pod first.
fn deletion_cost(annotations: &At, e: &mut Errors) {
    let cost = annotations.key("controller.kubernetes.io/pod-deletion-cost");
    let digits = cost.text().strip_prefix('-').unwrap_or(cost.text());
    let plain = digits == "0" || !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    if cost.is_set() && !(plain && cost.text().parse::<i32>().is_ok()) {
        cost.invalid(e, "must be a 32bit integer");
    }
}

/// A pod template: its labels, annotations and spec.
pub(crate) fn template(template: &At, e: &mut Errors) {
    let metadata = template.get("metadata");
    // Upstream names them as if they were fields of the template.
    if let Some(labels) = metadata.get("labels").object() {
        let path = template.get("labels").path();
        api_machinery::meta::validate_labels(labels, &api_machinery::field::Path::new(&path), e);
    }
    if let Some(annotations) = metadata.get("annotations").object() {
        let path = template.get("annotations").path();
        api_machinery::meta::validate_annotations(annotations, &api_machinery::field::Path::new(&path), e);
    }
    let spec = template.get("spec");
    pod_spec(&spec, Holder::Template, e);
    if !spec.get("ephemeralContainers").is_empty() {
        spec.get("ephemeralContainers").forbidden(e, "ephemeral containers not allowed in pod template");
    }
}

/// What holds a pod's spec. A template may leave to its pods what they get as defaults.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Pod,
    Template,
}

const RESTART: &[&str] = &["Always", "OnFailure", "Never"];
const DNS: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];

/// Fields of a pod's spec that no other field bears on.
const SPEC: &Table = &[
    ("restartPolicy", Rule::RequiredOneOf(RESTART)),
    ("dnsPolicy", Rule::RequiredOneOf(DNS)),
    ("nodeSelector", Rule::Labels),
    ("serviceAccountName", Rule::Name(SUBDOMAIN)),
    ("nodeName", Rule::Name(SUBDOMAIN)),
    ("activeDeadlineSeconds", Rule::Between(1, i32::MAX as i64)),
    ("hostname", Rule::Name(LABEL)),
    ("hostnameOverride", Rule::Check(hostname_override)),
    ("subdomain", Rule::Name(LABEL)),
    ("tolerations", Rule::Check(scheduling::tolerations)),
    ("affinity", Rule::Check(scheduling::affinity)),
    ("topologySpreadConstraints", Rule::Check(scheduling::spread)),
    ("schedulingGates", Rule::Check(scheduling::gates)),
    ("readinessGates", Rule::Each(&[("conditionType", Rule::RequiredName(QUALIFIED))])),
    ("hostAliases", Rule::Check(host_aliases)),
    ("priorityClassName", Rule::Name(SUBDOMAIN)),
    ("preemptionPolicy", Rule::OneOf(&["PreemptLowerPriority", "Never"])),
    ("runtimeClassName", Rule::Name(SUBDOMAIN)),
    ("overhead", Rule::Check(overhead)),
    ("os", Rule::Object(&[("name", Rule::RequiredOneOf(&["linux", "windows"]))])),
    ("resources", Rule::Check(|at, e| resources::requirements(at, true, e))),
    ("resourceClaims", Rule::Check(resource_claims)),
];

fn pod_spec(spec: &At, holder: Holder, e: &mut Errors) {
    let declared = spec.get("volumes");
    volumes::volumes(&declared, e);
    containers::all(spec, e);
    follow(spec, SPEC, e);
    security::pod(spec, e);
    dns_config(spec, e);
    host_namespaces(spec, e);
    host_ports(spec, holder, e);
    operating_system(spec, e);
}

fn dns_config(spec: &At, e: &mut Errors) {
    const MAX_SERVERS: usize = 3;
    const MAX_SEARCHES: usize = 32;
    const MAX_LENGTH: usize = 2048;
    let config = spec.get("dnsConfig");
    let (servers, searches) = (config.get("nameservers"), config.get("searches"));
    if spec.get("dnsPolicy").text() == "None" {
        if !config.is_set() {
            return config.required(e, "must provide `dnsConfig` when `dnsPolicy` is None");
        }
        if servers.is_empty() {
            return servers.required(e, "must provide at least one DNS nameserver when `dnsPolicy` is None");
        }
    }
    if servers.len() > MAX_SERVERS {
        servers.invalid(e, format!("must not have more than {MAX_SERVERS} nameservers"));
    }
    for server in servers.items() {
        check::ip(&server, e);
    }
    if searches.len() > MAX_SEARCHES {
        searches.invalid(e, format!("must not have more than {MAX_SEARCHES} search paths"));
    }
    if searches.texts().map(|s| s.len() + 1).sum::<usize>() > MAX_LENGTH + 1 {
        let detail =
            format!("must not have more than {MAX_LENGTH} characters (including spaces) in the search list");
        searches.invalid(e, detail);
    }
    for search in searches.items() {
        let name = search.text().strip_suffix('.').unwrap_or(search.text());
        // A lone dot is the root.
        if search.text() != "." {
            search.all_invalid(e, SUBDOMAIN(name));
        }
    }
    for option in config.get("options").items() {
        if option.get("name").is_empty() {
            option.required(e, "must not be empty");
        }
    }
}

/// Linux takes no longer name than this.
fn hostname_override(name: &At, e: &mut Errors) {
    const MAX: usize = 64;
    check::name(name, SUBDOMAIN, e);
    if name.text().len() > MAX {
        name.too_long(e, MAX);
    }
}

fn host_aliases(aliases: &At, e: &mut Errors) {
    for alias in aliases.items() {
        check::ip(&alias.get("ip"), e);
        for name in alias.get("hostnames").items() {
            name.all_invalid(e, SUBDOMAIN(name.text()));
        }
    }
}

fn overhead(overhead: &At, e: &mut Errors) {
    for (name, quantity) in overhead.entries() {
        resources::name(&quantity, name, e);
        resources::quantity(&quantity, name, e);
    }
}

fn resource_claims(claims: &At, e: &mut Errors) {
    for claim in claims.items() {
        check::required_name(&claim.get("name"), LABEL, e);
        let (claim_name, template) = (claim.get("resourceClaimName"), claim.get("resourceClaimTemplateName"));
        match (claim_name.is_set(), template.is_set()) {
            (true, true) => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                claim.invalid(e, detail);
            }
            (false, false) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                claim.invalid(e, detail);
            }
            _ => {}
        }
        check::name(&claim_name, SUBDOMAIN, e);
        check::name(&template, SUBDOMAIN, e);
    }
    check::unique_field(claims, "name", e);
}

/// Sharing the host's namespaces limits what else may be asked for.
fn host_namespaces(spec: &At, e: &mut Errors) {
    let shared = spec.get("shareProcessNamespace");
    if spec.get("hostPID").flag() && shared.flag() {
        shared.invalid(e, "ShareProcessNamespace and HostPID cannot both be enabled");
    }
    let own_users = spec.get("hostUsers").value() == Some(&Value::Bool(false));
    for field in ["hostNetwork", "hostPID", "hostIPC"] {
        if own_users && spec.get(field).flag() {
            spec.get(field).forbidden(e, "when `hostUsers` is false");
        }
    }
}

/// In the host's network a container listens where it listens.
fn host_ports(spec: &At, holder: Holder, e: &mut Errors) {
    if !spec.get("hostNetwork").flag() {
        return;
    }
    for list in ["containers", "initContainers"] {
        for container in spec.get(list).items() {
            for port in container.get("ports").items() {
                let (inside, outside) = (port.get("containerPort"), port.get("hostPort"));
                let number = outside.int().unwrap_or(0);
                let left_out = holder == Holder::Template && number == 0;
                if !left_out && Some(number) != inside.int() {
                    outside.invalid_as(e, number, "must match `containerPort` when `hostNetwork` is true");
                }
            }
        }
    }
}

/// What pods of Windows have none of, in the pod's security context and in those of containers.
const NOT_ON_WINDOWS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
];

/// A pod that names its operating system may only have what there is on it.
fn operating_system(spec: &At, e: &mut Errors) {
    let windows = match spec.get("os").get("name").text() {
        "windows" => true,
        "linux" => false,
        _ => return,
    };
    if windows {
        for field in ["hostPID", "hostIPC", "shareProcessNamespace", "hostUsers"] {
            if spec.get(field).is_set() && (field == "hostUsers" || spec.get(field).flag()) {
                spec.get(field).forbidden(e, "cannot be set for a windows pod");
            }
        }
    }
    security_for(&spec.get("securityContext"), windows, e);
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for container in spec.get(list).items() {
            security_for(&container.get("securityContext"), windows, e);
        }
    }
}

fn security_for(context: &At, windows: bool, e: &mut Errors) {
    if !windows {
        if context.get("windowsOptions").is_set() {
            context.get("windowsOptions").forbidden(e, "windows options cannot be set for a linux pod");
        }
        return;
    }
    for field in NOT_ON_WINDOWS {
        if !context.get(field).is_empty() {
            context.get(field).forbidden(e, "cannot be set for a windows pod");
        }
    }
}

fn one_huge_page_size(spec: &At, e: &mut Errors) {
    let mut sizes = std::collections::BTreeSet::new();
    for list in ["initContainers", "containers"] {
        for container in spec.get(list).items() {
            let resources = container.get("resources");
            for side in ["requests", "limits"] {
                let names = resources.get(side).object().into_iter().flatten().map(|(name, _)| name.as_str());
                sizes.extend(names.filter(|name| name.starts_with("hugepages-")));
            }
        }
    }
    if sizes.len() > 1 {
        spec.invalid_as(
            e,
            sizes.into_iter().collect::<Vec<_>>(),
            "must use a single hugepage size in a pod spec",
        );
    }
}
