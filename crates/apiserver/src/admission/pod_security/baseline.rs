//! The checks of the level `baseline`, in upstream's order.

use std::collections::BTreeSet;

use api_machinery::meta;
use serde_json::Value;

use super::words::{self, Violation, has_own_users, named, plural, quoted, security, setters, values, which};
use crate::references::{containers, items, spec, text};

type Check = (&'static str, u32, fn(&Value, u32) -> Option<Violation>);

/// Each with its name and the minor version since which there is it.
pub(super) static CHECKS: [Check; 12] = [
    ("appArmorProfile", 0, app_armor),
    ("capabilities_baseline", 0, capabilities),
    ("hostNamespaces", 0, host_namespaces),
    ("hostPathVolumes", 0, host_paths),
    ("hostPorts", 0, host_ports),
    ("hostProbesAndHostLifecycle", 34, probes),
    ("privileged", 0, privileged),
    ("procMount", 0, proc_mount),
    ("seLinuxOptions", 0, se_linux),
    ("seccompProfile_baseline", 0, seccomp),
    ("sysctls", 0, sysctls),
    ("windowsHostProcess", 0, host_process),
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];
const PROFILES: [&str; 2] = ["Localhost", "RuntimeDefault"];
const APP_ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
/// The sysctls that are safe, by the version since which they are.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

/// Whether a text field of a security context is set to something that is not allowed.
fn is_other(holder: &Value, field: &str, allowed: &[&str]) -> bool {
    security(holder, field).and_then(Value::as_str).is_some_and(|value| !allowed.contains(&value))
}

fn app_armor(pod: &Value, _: u32) -> Option<Violation> {
    let field = "/appArmorProfile/type";
    let annotations = meta::annotations(pod).into_iter().flatten();
    let mut told: Vec<String> = annotations
        .filter(|(key, _)| key.starts_with(APP_ARMOR))
        .map(|(key, value)| (key, value.as_str().unwrap_or_default()))
        .filter(|(_, value)| {
            !(value.is_empty() || *value == "runtime/default" || value.starts_with("localhost/"))
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    told.sort();
    let by_field = setters(pod, |holder| is_other(holder, field, &PROFILES));
    let by_annotation =
        (!told.is_empty()).then(|| plural(told.len(), "annotation", "annotations").to_owned());
    let who: Vec<String> = by_field.into_iter().chain(by_annotation).collect();
    if who.is_empty() {
        return None;
    }
    let bad: Vec<&str> =
        values(pod, field, &PROFILES).into_iter().chain(told.iter().map(String::as_str)).collect();
    let reason = plural(bad.len(), "forbidden AppArmor profile", "forbidden AppArmor profiles");
    let detail = format!("{} must not set AppArmor profile type to {}", who.join(" and "), quoted(bad));
    Some(Violation::new(reason, detail))
}

fn capabilities(pod: &Value, _: u32) -> Option<Violation> {
    super::restricted::added(pod, &CAPABILITIES)
        .map(|detail| Violation::new("non-default capabilities", detail))
}

fn host_namespaces(pod: &Value, _: u32) -> Option<Violation> {
    let fields = ["hostNetwork", "hostPID", "hostIPC"].into_iter();
    let shared: Vec<String> = fields
        .filter(|field| spec(pod).get(*field) == Some(&Value::Bool(true)))
        .map(|field| format!("{field}=true"))
        .collect();
    (!shared.is_empty()).then(|| Violation::new("host namespaces", shared.join(", ")))
}

fn host_paths(pod: &Value, _: u32) -> Option<Violation> {
    let volumes = items(spec(pod), "volumes");
    let of_host = volumes.filter(|volume| volume.get("hostPath").is_some_and(|source| !source.is_null()));
    let names: Vec<&str> = of_host.map(|volume| text(volume, "/name")).collect();
    let word = plural(names.len(), "volume", "volumes");
    (!names.is_empty()).then(|| Violation::new("hostPath volumes", format!("{word} {}", quoted(names))))
}

fn host_ports(pod: &Value, _: u32) -> Option<Violation> {
    let ports = |container: &Value| -> Vec<i64> {
        let ports = items(container, "ports").filter_map(|port| port.get("hostPort")?.as_i64());
        ports.filter(|port| *port != 0).collect()
    };
    let bad = which(pod, |container| !ports(container).is_empty());
    if bad.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = containers(pod).flat_map(ports).map(|port| port.to_string()).collect();
    let (uses, word) = (plural(bad.len(), "uses", "use"), plural(all.len(), "hostPort", "hostPorts"));
    let list = all.into_iter().collect::<Vec<_>>().join(", ");
    Some(Violation::new("hostPort", format!("{} {uses} {word} {list}", named(&bad))))
}

fn probes(pod: &Value, _: u32) -> Option<Violation> {
    const PLACES: [&str; 5] =
        ["/livenessProbe", "/readinessProbe", "/startupProbe", "/lifecycle/postStart", "/lifecycle/preStop"];
    let hosts = |container: &Value| -> Vec<String> {
        let handlers = PLACES.iter().filter_map(|place| container.pointer(place));
        let hosts =
            handlers.flat_map(|handler| [text(handler, "/httpGet/host"), text(handler, "/tcpSocket/host")]);
        hosts.filter(|host| !host.is_empty()).map(str::to_owned).collect()
    };
    let bad: BTreeSet<&str> = which(pod, |container| !hosts(container).is_empty()).into_iter().collect();
    if bad.is_empty() {
        return None;
    }
    let all: BTreeSet<String> = containers(pod).flat_map(hosts).collect();
    let (uses, reason) = (plural(bad.len(), "uses", "use"), "probe or lifecycle host");
    let word = plural(all.len(), reason, "probe or lifecycle hosts");
    let who = named(&bad.into_iter().collect::<Vec<_>>());
    Some(Violation::new(reason, format!("{who} {uses} {word} {}", quoted(all.iter().map(String::as_str)))))
}

fn privileged(pod: &Value, _: u32) -> Option<Violation> {
    let bad = which(pod, |container| security(container, "/privileged") == Some(&Value::Bool(true)));
    let detail = || format!("{} must not set securityContext.privileged=true", named(&bad));
    (!bad.is_empty()).then(|| Violation::new("privileged", detail()))
}

fn proc_mount(pod: &Value, minor: u32) -> Option<Violation> {
    if minor >= 35 && has_own_users(pod) { None } else { masked_proc(pod, minor) }
}

/// The same whoever the pod's users are.
pub(super) fn masked_proc(pod: &Value, _: u32) -> Option<Violation> {
    let (field, allowed) = ("/procMount", ["Default"]);
    let bad = which(pod, |container| is_other(container, field, &allowed));
    let detail = || {
        let values = quoted(values(pod, field, &allowed));
        format!("{} must not set securityContext.procMount to {values}", named(&bad))
    };
    (!bad.is_empty()).then(|| Violation::new("procMount", detail()))
}

fn se_linux(pod: &Value, minor: u32) -> Option<Violation> {
    const TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    let types = if minor >= 31 { &TYPES[..] } else { &TYPES[..4] };
    let sets = |holder: &Value, field: &str| is_other(holder, field, &[""]);
    let (kind, user, role) = ("/seLinuxOptions/type", "/seLinuxOptions/user", "/seLinuxOptions/role");
    let who =
        setters(pod, |holder| is_other(holder, kind, types) || sets(holder, user) || sets(holder, role))?;
    let bad = values(pod, kind, types);
    let mut what = Vec::new();
    if !bad.is_empty() {
        what.push(format!("{} {}", plural(bad.len(), "type", "types"), quoted(bad)));
    }
    for (field, words) in [(user, "user may not be set"), (role, "role may not be set")] {
        if !values(pod, field, &[""]).is_empty() {
            what.push(words.to_owned());
        }
    }
    let detail = format!("{who} set forbidden securityContext.seLinuxOptions: {}", what.join("; "));
    Some(Violation::new("seLinuxOptions", detail))
}

fn seccomp(pod: &Value, minor: u32) -> Option<Violation> {
    if minor < 19 { seccomp_annotations(pod) } else { seccomp_fields(pod) }
}

fn seccomp_annotations(pod: &Value) -> Option<Violation> {
    let of_containers =
        containers(pod).map(|container| format!("{}{}", words::SECCOMP_CONTAINER, text(container, "/name")));
    let keys = std::iter::once(words::SECCOMP_POD.to_owned()).chain(of_containers);
    let told = keys.filter_map(|key| Some((meta::annotation(pod, &key)?.to_owned(), key)));
    let bad: BTreeSet<String> = told
        .filter(|(value, _)| {
            !(value == "runtime/default" || value == "docker/default" || value.starts_with("localhost/"))
        })
        .map(|(value, key)| format!("{key}={value:?}"))
        .collect();
    let word = plural(bad.len(), "annotation", "annotations");
    let list = bad.iter().cloned().collect::<Vec<_>>().join(", ");
    (!bad.is_empty()).then(|| Violation::new("seccompProfile", format!("forbidden {word} {list}")))
}

/// Profiles that switch filtering off, or none that is known.
pub(super) fn seccomp_fields(pod: &Value) -> Option<Violation> {
    let field = "/seccompProfile/type";
    let who = setters(pod, |holder| is_other(holder, field, &PROFILES))?;
    let bad = quoted(values(pod, field, &PROFILES));
    Some(Violation::new(
        "seccompProfile",
        format!("{who} must not set securityContext.seccompProfile.type to {bad}"),
    ))
}

fn sysctls(pod: &Value, minor: u32) -> Option<Violation> {
    let set = pod.pointer("/spec/securityContext/sysctls").and_then(Value::as_array).into_iter().flatten();
    let safe = |name: &str| SYSCTLS.iter().any(|(since, known)| *known == name && *since <= minor);
    let bad: Vec<&str> = set.map(|sysctl| text(sysctl, "/name")).filter(|name| !safe(name)).collect();
    (!bad.is_empty()).then(|| Violation::new("forbidden sysctls", bad.join(", ")))
}

fn host_process(pod: &Value, _: u32) -> Option<Violation> {
    let who =
        setters(pod, |holder| security(holder, "/windowsOptions/hostProcess") == Some(&Value::Bool(true)))?;
    let detail = format!("{who} must not set securityContext.windowsOptions.hostProcess=true");
    Some(Violation::new("hostProcess", detail))
}
