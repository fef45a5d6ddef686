//! Every check with a pod that keeps it and pods that break it, and what is made of the answers.

use std::sync::Arc;

use api_machinery::resource::Scope;
use serde_json::json;

use super::super::testing::{Objects, Write, resource};
use super::*;

/// What a pod with this spec breaks, each in the words of upstream.
fn broken(level: Level, minor: u32, pod: &Value) -> String {
    words::details(&violations(&Standard { level, minor }, pod))
}

const LATEST: u32 = u32::MAX;

/// Containers of which the second has this security context.
fn context(context: Value) -> Value {
    json!({"containers": [{"name": "a"}, {"name": "b", "securityContext": context}]})
}

/// A pod with this security context.
fn own(context: Value) -> Value {
    json!({"securityContext": context, "containers": [{"name": "a"}]})
}

fn sysctl(name: &str) -> Value {
    own(json!({"sysctls": [{"name": name, "value": "1"}]}))
}

fn probe(field: &str, handler: Value) -> Value {
    json!({"containers": [{"name": "a", field: handler}]})
}

fn all_of(level: Level, table: &[(u32, Value, &str)]) {
    for (minor, spec, want) in table {
        let pod = json!({"spec": spec});
        assert_eq!(broken(level, *minor, &pod), *want, "1.{minor} {pod}");
        assert_eq!(broken(Level::Privileged, *minor, &pod), "");
    }
}

#[test]
fn baseline_checks_of_what_is_the_hosts() {
    all_of(
        Level::Baseline,
        &[
            (LATEST, context(json!({})), ""),
            (LATEST, own(json!({"appArmorProfile": {"type": "Localhost"}})), ""),
            (
                LATEST,
                own(json!({"appArmorProfile": {"type": "Unconfined"}})),
                "forbidden AppArmor profile (pod must not set AppArmor profile type to \"Unconfined\")",
            ),
            (
                LATEST,
                context(json!({"appArmorProfile": {"type": "Unconfined"}})),
                "forbidden AppArmor profile (container \"b\" must not set AppArmor profile type to \"Unconfined\")",
            ),
            (LATEST, context(json!({"capabilities": {"add": ["CHOWN"]}})), ""),
            (
                LATEST,
                context(json!({"capabilities": {"add": ["SYS_ADMIN", "NET_RAW"]}})),
                "non-default capabilities (container \"b\" must not include \"NET_RAW\", \"SYS_ADMIN\" in securityContext.capabilities.add)",
            ),
            (LATEST, json!({"hostNetwork": false}), ""),
            (
                LATEST,
                json!({"hostNetwork": true, "hostIPC": true, "hostPID": true}),
                "host namespaces (hostNetwork=true, hostPID=true, hostIPC=true)",
            ),
            (LATEST, json!({"volumes": [{"name": "v", "emptyDir": {}}]}), ""),
            (
                LATEST,
                json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
                "hostPath volumes (volume \"v\")",
            ),
            (LATEST, json!({"containers": [{"name": "a", "ports": [{"hostPort": 0}]}]}), ""),
            (
                LATEST,
                json!({"containers": [{"name": "a", "ports": [{"hostPort": 80}, {"hostPort": 8080}]}, {"name": "b", "ports": [{"hostPort": 80}]}]}),
                "hostPort (containers \"a\", \"b\" use hostPorts 80, 8080)",
            ),
        ],
    );
}

#[test]
fn baseline_checks_of_containers() {
    all_of(
        Level::Baseline,
        &[
            (LATEST, probe("livenessProbe", json!({"httpGet": {"path": "/"}})), ""),
            (
                LATEST,
                probe("livenessProbe", json!({"httpGet": {"host": "127.0.0.1"}})),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle host \"127.0.0.1\")",
            ),
            (
                LATEST,
                probe(
                    "lifecycle",
                    json!({"preStop": {"tcpSocket": {"host": "x"}}, "postStart": {"httpGet": {"host": "y"}}}),
                ),
                "probe or lifecycle host (container \"a\" uses probe or lifecycle hosts \"x\", \"y\")",
            ),
            (33, probe("livenessProbe", json!({"httpGet": {"host": "127.0.0.1"}})), ""),
            (LATEST, context(json!({"privileged": false})), ""),
            (
                LATEST,
                context(json!({"privileged": true})),
                "privileged (container \"b\" must not set securityContext.privileged=true)",
            ),
            (LATEST, context(json!({"procMount": "Default"})), ""),
            (
                LATEST,
                context(json!({"procMount": "Unmasked"})),
                "procMount (container \"b\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (LATEST, context(json!({"seLinuxOptions": {"type": "container_engine_t", "level": "s0"}})), ""),
            (
                30,
                context(json!({"seLinuxOptions": {"type": "container_engine_t"}})),
                "seLinuxOptions (container \"b\" set forbidden securityContext.seLinuxOptions: type \"container_engine_t\")",
            ),
            (
                LATEST,
                own(json!({"seLinuxOptions": {"type": "spc_t", "user": "u", "role": "r"}})),
                "seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type \"spc_t\"; user may not be set; role may not be set)",
            ),
            (LATEST, context(json!({"seccompProfile": {"type": "RuntimeDefault"}})), ""),
        ],
    );
}

#[test]
fn baseline_checks_of_kernels() {
    all_of(
        Level::Baseline,
        &[
            (
                LATEST,
                context(json!({"seccompProfile": {"type": "Unconfined"}})),
                "seccompProfile (container \"b\" must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (18, context(json!({"seccompProfile": {"type": "Unconfined"}})), ""),
            (0, sysctl("kernel.shm_rmid_forced"), ""),
            (LATEST, sysctl("kernel.msgmax"), "forbidden sysctls (kernel.msgmax)"),
            (
                26,
                sysctl("net.ipv4.ip_local_reserved_ports"),
                "forbidden sysctls (net.ipv4.ip_local_reserved_ports)",
            ),
            (27, sysctl("net.ipv4.ip_local_reserved_ports"), ""),
            (28, sysctl("net.ipv4.tcp_fin_timeout"), "forbidden sysctls (net.ipv4.tcp_fin_timeout)"),
            (29, sysctl("net.ipv4.tcp_fin_timeout"), ""),
            (31, sysctl("net.ipv4.tcp_rmem"), "forbidden sysctls (net.ipv4.tcp_rmem)"),
            (32, sysctl("net.ipv4.tcp_rmem"), ""),
            (LATEST, own(json!({"windowsOptions": {"hostProcess": false}})), ""),
            (
                LATEST,
                own(json!({"windowsOptions": {"hostProcess": true}})),
                "hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)",
            ),
        ],
    );
}

#[test]
fn annotations_of_old() {
    let pod = |key: &str, value: &str| json!({"metadata": {"annotations": {key: value}}, "spec": {"containers": [{"name": "c"}]}});
    let armor = "container.apparmor.security.beta.kubernetes.io/c";
    let seccomp = "container.seccomp.security.alpha.kubernetes.io/c";
    let table = [
        (LATEST, armor, "runtime/default", ""),
        (LATEST, armor, "localhost/x", ""),
        (
            LATEST,
            armor,
            "unconfined",
            "forbidden AppArmor profile (annotation must not set AppArmor profile type to \"container.apparmor.security.beta.kubernetes.io/c=\"unconfined\"\")",
        ),
        (18, seccomp, "docker/default", ""),
        (
            18,
            seccomp,
            "unconfined",
            "seccompProfile (forbidden annotation container.seccomp.security.alpha.kubernetes.io/c=\"unconfined\")",
        ),
        (
            18,
            words::SECCOMP_POD,
            "unconfined",
            "seccompProfile (forbidden annotation seccomp.security.alpha.kubernetes.io/pod=\"unconfined\")",
        ),
        (19, seccomp, "unconfined", ""),
    ];
    for (minor, key, value, want) in table {
        assert_eq!(broken(Level::Baseline, minor, &pod(key, value)), want, "1.{minor} {key}={value}");
    }
}

/// The smallest pod that may run anywhere.
fn good() -> Value {
    json!({
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "c", "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}],
    })
}

/// The same, otherwise in one place.
fn with(pointer: &str, value: Value) -> Value {
    let mut spec = good();
    let (holder, field) = pointer.rsplit_once('/').expect("a pointer");
    spec.pointer_mut(holder).expect("there")[field] = value;
    spec
}

/// The same, where its container is otherwise.
fn at(field: &str, value: Value) -> Value {
    with(&format!("/containers/0/securityContext/{field}"), value)
}

/// With users of its own.
fn remapped(mut spec: Value) -> Value {
    spec["hostUsers"] = false.into();
    spec
}

#[test]
fn restricted_checks_of_rights() {
    let bare = json!({"containers": [{"name": "x"}]});
    let everything = "allowPrivilegeEscalation != false (container \"x\" must set securityContext.allowPrivilegeEscalation=false), \
        unrestricted capabilities (container \"x\" must set securityContext.capabilities.drop=[\"ALL\"]), \
        runAsNonRoot != true (pod or container \"x\" must set securityContext.runAsNonRoot=true), \
        seccompProfile (pod or container \"x\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")";
    all_of(
        Level::Restricted,
        &[
            (LATEST, good(), ""),
            (LATEST, bare.clone(), everything),
            (
                7,
                bare,
                "runAsNonRoot != true (pod or container \"x\" must set securityContext.runAsNonRoot=true)",
            ),
            (
                LATEST,
                at("allowPrivilegeEscalation", json!(true)),
                "allowPrivilegeEscalation != false (container \"c\" must set securityContext.allowPrivilegeEscalation=false)",
            ),
            (LATEST, at("capabilities", json!({"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]})), ""),
            (
                LATEST,
                at("capabilities", json!({"drop": ["KILL"], "add": ["CHOWN"]})),
                "unrestricted capabilities (container \"c\" must set securityContext.capabilities.drop=[\"ALL\"]; container \"c\" must not include \"CHOWN\" in securityContext.capabilities.add)",
            ),
            (
                21,
                at("capabilities", json!({"add": ["SYS_TIME"]})),
                "non-default capabilities (container \"c\" must not include \"SYS_TIME\" in securityContext.capabilities.add)",
            ),
            (LATEST, with("/volumes", json!([{"name": "v", "secret": {}}, {"name": "w", "image": {}}])), ""),
            (
                LATEST,
                with("/volumes", json!([{"name": "v", "hostPath": {}}, {"name": "w", "nfs": {}}])),
                "restricted volume types (volumes \"v\", \"w\" use restricted volume types \"hostPath\", \"nfs\")",
            ),
            (
                LATEST,
                with("/securityContext/runAsNonRoot", json!(false)),
                "runAsNonRoot != true (pod must not set securityContext.runAsNonRoot=false)",
            ),
            (
                LATEST,
                at("runAsNonRoot", json!(false)),
                "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
            ),
        ],
    );
}

#[test]
fn restricted_checks_of_users() {
    let windows = json!({"os": {"name": "windows"}, "securityContext": {"runAsNonRoot": true}, "containers": [{"name": "x"}]});
    all_of(
        Level::Restricted,
        &[
            (LATEST, remapped(at("runAsNonRoot", json!(false))), ""),
            (
                34,
                remapped(at("runAsNonRoot", json!(false))),
                "runAsNonRoot != true (container \"c\" must not set securityContext.runAsNonRoot=false)",
            ),
            (LATEST, at("runAsUser", json!(1000)), ""),
            (LATEST, at("runAsUser", json!(0)), "runAsUser=0 (container \"c\" must not set runAsUser=0)"),
            (22, at("runAsUser", json!(0)), ""),
            (LATEST, remapped(at("runAsUser", json!(0))), ""),
            (
                LATEST,
                remapped(at("procMount", json!("Unmasked"))),
                "procMount (container \"c\" must not set securityContext.procMount to \"Unmasked\")",
            ),
            (
                LATEST,
                with("/securityContext/seccompProfile", json!({"type": "Unconfined"})),
                "seccompProfile (pod must not set securityContext.seccompProfile.type to \"Unconfined\")",
            ),
            (LATEST, windows.clone(), ""),
            (
                24,
                windows,
                "allowPrivilegeEscalation != false (container \"x\" must set securityContext.allowPrivilegeEscalation=false), \
             unrestricted capabilities (container \"x\" must set securityContext.capabilities.drop=[\"ALL\"]), \
             seccompProfile (pod or container \"x\" must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\")",
            ),
        ],
    );
    let unmasked = json!({"spec": remapped(at("procMount", json!("Unmasked")))});
    assert_eq!(broken(Level::Baseline, LATEST, &unmasked), "");
    assert!(!broken(Level::Baseline, 34, &unmasked).is_empty());
}

fn namespace(labels: &[(&str, &str)]) -> Value {
    let labels: Value = labels
        .iter()
        .map(|(key, value)| (format!("pod-security.kubernetes.io/{key}"), json!(value)))
        .collect();
    json!({"metadata": {"name": "a", "labels": labels}})
}

fn kind(group: &'static str, kind: &'static str, plural: &'static str) -> api_machinery::resource::Resource {
    resource(group, kind, plural, Scope::Namespaced)
}

async fn outcome(namespace: Value, write: &mut Write) -> Result<Vec<String>, String> {
    let lookup: Arc<Objects> = Objects::of(&[("", "namespaces", namespace)]);
    check(&*lookup, &write.request()).await.map_err(|error| error.message().to_owned())
}

#[tokio::test]
async fn modes() {
    let bad =
        json!({"metadata": {"name": "p"}, "spec": {"hostNetwork": true, "containers": [{"name": "c"}]}});
    let pods = || kind("", "Pod", "pods");
    let create = || Write::new(Operation::Create, pods(), "a", Some(bad.clone()), None);
    let detail = "host namespaces (hostNetwork=true)";
    assert_eq!(outcome(namespace(&[]), &mut create()).await, Ok(vec![]));
    assert_eq!(outcome(namespace(&[("audit", "baseline")]), &mut create()).await, Ok(vec![]));
    let refused = format!("pods \"p\" is forbidden: violates PodSecurity \"baseline:latest\": {detail}");
    let strict = namespace(&[("enforce", "baseline"), ("warn", "restricted")]);
    assert_eq!(outcome(strict.clone(), &mut create()).await, Err(refused));
    let warned = vec![format!("would violate PodSecurity \"baseline:v1.30\": {detail}")];
    let soft = namespace(&[("warn", "baseline"), ("warn-version", "v1.30")]);
    assert_eq!(outcome(soft.clone(), &mut create()).await, Ok(warned.clone()));
    // Labels that make no sense are the strictest where it matters.
    let lost = outcome(namespace(&[("enforce", "none")]), &mut create()).await;
    assert!(lost.is_err_and(|why| why.contains("violates PodSecurity \"restricted:latest\"")));
    // Workloads are told, and made.
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"template": {"spec": bad["spec"]}}});
    let mut write =
        Write::new(Operation::Create, kind("apps", "Deployment", "deployments"), "a", Some(deployment), None);
    assert_eq!(outcome(soft, &mut write).await, Ok(warned));
    assert_eq!(outcome(namespace(&[("enforce", "baseline")]), &mut write).await, Ok(vec![]));
    // What changes nothing that matters is let through, and what does is not.
    let changed = |spec: Value| {
        let mut pod = bad.clone();
        pod["spec"]["ephemeralContainers"] = spec;
        pod
    };
    let late = changed(json!([{"name": "e", "image": "i"}]));
    for (new, sub, passes) in
        [(&bad, "", true), (&late, "ephemeralcontainers", false), (&late, "status", true)]
    {
        let mut write =
            Write::new(Operation::Update, pods(), "a", Some(new.clone()), Some(bad.clone())).to(sub, "p");
        assert_eq!(outcome(strict.clone(), &mut write).await.is_ok(), passes, "{sub}");
    }
}

#[tokio::test]
async fn labels_of_namespaces() {
    let kind = || resource("", "Namespace", "namespaces", Scope::Cluster);
    let pod = |name: &str, host: bool| json!({"metadata": {"name": name, "namespace": "a"}, "spec": {"hostPID": host, "containers": [{"name": "c"}]}});
    let lookup = Objects::of(&[
        ("", "pods", pod("x", true)),
        ("", "pods", pod("b", true)),
        ("", "pods", pod("c", false)),
    ]);
    let update = |new: Value, old: Value| Write::new(Operation::Update, kind(), "", Some(new), Some(old));
    let table = [
        (namespace(&[]), namespace(&[("enforce", "baseline")]), vec![]),
        (
            namespace(&[("enforce", "baseline")]),
            namespace(&[]),
            vec![
                "existing pods in namespace \"a\" violate the new PodSecurity enforce level \"baseline:latest\"",
                "b (and 1 other pod): host namespaces",
            ],
        ),
        (namespace(&[("enforce", "baseline")]), namespace(&[("enforce", "restricted")]), vec![]),
        (namespace(&[("warn", "restricted")]), namespace(&[]), vec![]),
    ];
    for (new, old, want) in table {
        let found = check(&*lookup, &update(new.clone(), old).request()).await.expect("admitted");
        assert_eq!(found, want, "{new}");
    }
    let wrong = namespace(&[("enforce", "strict"), ("warn-version", "v1.01")]);
    let error = check(&*lookup, &update(wrong.clone(), namespace(&[])).request()).await.expect_err("refused");
    let message = "Namespace \"a\" is invalid: [metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \
        \"strict\": must be one of privileged, baseline, restricted, metadata.labels[pod-security.kubernetes.io/warn-version]: \
        Invalid value: \"v1.01\": must be \"latest\" or \"v1.x\"]";
    assert_eq!(error.message(), message);
    // Who did not break it need not mend it.
    assert!(check(&*lookup, &update(wrong.clone(), wrong.clone()).request()).await.is_ok());
    let mut made = Write::new(Operation::Create, kind(), "", Some(wrong), None);
    assert!(check(&*lookup, &made.request()).await.is_err());
}
