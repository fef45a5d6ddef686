//! From specs to what the runtime is asked for, as data.

use std::collections::BTreeMap;
use std::sync::Arc;

use cri::messages::{NamespaceMode, ProfileType, Protocol};
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use serde_json::{Value, json};

use super::*;

fn pod(spec: &Value) -> Pod {
    let mut whole = json!({"containers": [{"name": "main", "image": "image"}], "nodeName": "node-1", "serviceAccountName": "sa"});
    for (field, value) in spec.as_object().expect("a spec") {
        whole[field] = value.clone();
    }
    let metadata = json!({"name": "p", "namespace": "d", "uid": "u", "labels": {"a": "b"}, "annotations": {"x/y": "say \"hi\""}});
    serde_json::from_value(json!({"metadata": metadata, "spec": whole})).expect("a pod")
}

fn with(container: &Value) -> Pod {
    let mut whole = json!({"name": "main", "image": "image"});
    for (field, value) in container.as_object().expect("a container") {
        whole[field] = value.clone();
    }
    pod(&json!({"containers": [whole]}))
}

fn main(pod: &Pod) -> &Container {
    &spec(pod).containers[0]
}

const NODE: NodeResources = NodeResources {
    cpu_millis: 4000,
    memory: 8 << 30,
    memory_capacity: 8 << 30,
    ephemeral_storage: 100 << 30,
};

fn cluster() -> ClusterFacts {
    ClusterFacts {
        domain: "cluster.local".into(),
        dns_servers: vec!["10.43.0.10".into()],
        cgroup_root: "/kubepods".into(),
        cgroup_v2: false,
    }
}

#[test]
fn quality_of_service_follows_requests_and_limits() {
    let limits = |cpu: &str, memory: &str| {
        let both = json!({"cpu": cpu, "memory": memory});
        json!({"resources": {"limits": both, "requests": both}})
    };
    let cases = [
        (json!({}), "BestEffort", "/kubepods/besteffort/podu", 1000, 2),
        (limits("1", "1Gi"), "Guaranteed", "/kubepods/podu", -997, 1024),
        (json!({"resources": {"limits": {"cpu": "1"}}}), "Burstable", "/kubepods/burstable/podu", 999, 1024),
        (
            json!({"resources": {"requests": {"memory": "4Gi"}}}),
            "Burstable",
            "/kubepods/burstable/podu",
            500,
            2,
        ),
        (
            json!({"resources": {"requests": {"memory": "8Gi"}}}),
            "Burstable",
            "/kubepods/burstable/podu",
            3,
            2,
        ),
        (
            json!({"resources": {"requests": {"cpu": "500m"}, "limits": {"cpu": "1", "memory": "1Gi"}}}),
            "Burstable",
            "/kubepods/burstable/podu",
            875,
            512,
        ),
        (
            json!({"resources": {"requests": {"cpu": "0"}}}),
            "BestEffort",
            "/kubepods/besteffort/podu",
            1000,
            2,
        ),
    ];
    for (container, class, group, score, shares) in cases {
        let pod = with(&container);
        assert_eq!((qos_class(&pod), pod_cgroup("/kubepods", &pod).as_str()), (class, group), "{container}");
        let found = container_resources(&pod, main(&pod), &NODE, OomScope::Process);
        assert_eq!((found.oom_score_adj, found.cpu_shares), (score, shares), "{container}");
    }
    let critical = pod(&json!({"priority": 2_000_001_000}));
    assert_eq!(container_resources(&critical, main(&critical), &NODE, OomScope::Process).oom_score_adj, -997);
}

#[test]
fn limits_are_in_the_kernels_units() {
    let pod = with(&json!({"resources": {"limits": {"cpu": "1500m", "memory": "64Mi"}}}));
    let found = container_resources(&pod, main(&pod), &NODE, OomScope::Container);
    assert_eq!(
        (found.cpu_quota, found.cpu_period, found.memory_limit_in_bytes),
        (150_000, 100_000, 64 << 20)
    );
    assert_eq!(found.unified["memory.oom.group"], "1");
    let tiny = with(&json!({"resources": {"limits": {"cpu": "1m"}}}));
    assert_eq!(
        container_resources(&tiny, main(&tiny), &NODE, OomScope::Process).cpu_quota,
        1000,
        "the kernel's least"
    );
    let two = |second: Value| {
        let first = json!({"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}});
        super::tests::pod(&json!({"containers": [first, second]}))
    };
    let all = pod_limits(&two(json!({"name": "b", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}})));
    assert_eq!((all.cpu_quota, all.memory, all.cpu_shares), (Some(200_000), Some(2 << 30), Some(2048)));
    let some = pod_limits(&two(json!({"name": "b"})));
    assert_eq!((some.cpu_quota, some.memory), (None, None), "one without a limit is no sum");
    let of = |memory: &str| json!({"limits": {"memory": memory}});
    let init = super::tests::pod(&json!({
        "initContainers": [
            {"name": "side", "restartPolicy": "Always", "resources": of("1Gi")}, {"name": "init", "resources": of("3Gi")},
        ],
        "containers": [{"name": "main", "resources": of("2Gi")}],
    }));
    assert_eq!(pod_limits(&init).memory, Some(4 << 30), "the init container beside the sidecar needs most");
}

#[test]
fn variables_are_expanded_as_upstream_does() {
    let lookup = |name: &str| match name {
        "A" => Some("1".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let cases = [
        ("$(A)", "1"),
        ("x$(A)y$(A)", "x1y1"),
        ("$(B)", "$(B)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$A", "$A"),
        ("$(A", "$(A"),
        ("$", "$"),
        ("$$", "$"),
        ("$(EMPTY)", ""),
        ("$()", "$()"),
        ("50$", "50$"),
    ];
    for (text, expected) in cases {
        assert_eq!(expand(text, lookup), expected, "{text}");
    }
}

struct World {
    config_maps: BTreeMap<String, Arc<ConfigMap>>,
    secrets: BTreeMap<String, Arc<Secret>>,
    services: Vec<Arc<Service>>,
}

fn world() -> World {
    let from = |value: Value| serde_json::from_value::<ConfigMap>(value).expect("a config map");
    let map = from(json!({"data": {"COLOR": "red", "SIZE": "1"}}));
    let secret: Secret = serde_json::from_value(json!({"data": {"word": "c2VzYW1l"}})).expect("a secret");
    let service = |name: &str, place: &str, ip: &str, port: Value| -> Arc<Service> {
        let value = json!({"metadata": {"name": name, "namespace": place}, "spec": {"clusterIP": ip, "ports": [port]}});
        Arc::new(serde_json::from_value(value).expect("a service"))
    };
    World {
        config_maps: [("map".to_owned(), Arc::new(map))].into(),
        secrets: [("secret".to_owned(), Arc::new(secret))].into(),
        services: vec![
            service("kubernetes", "default", "10.43.0.1", json!({"port": 443, "name": "https"})),
            service("web-app", "d", "10.43.0.7", json!({"port": 80, "protocol": "TCP"})),
            service("headless", "d", "None", json!({"port": 80})),
            service("other", "elsewhere", "10.43.0.8", json!({"port": 80})),
        ],
    }
}

fn env(pod: &Pod) -> Result<BTreeMap<String, String>, String> {
    let world = world();
    let (pod_ips, host_ips) = (["10.42.0.5".to_owned()], ["192.0.2.1".to_owned()]);
    let downward = Downward { pod, pod_ips: &pod_ips, host_ips: &host_ips, node: &NODE };
    let sources = EnvSources {
        downward,
        config_maps: &world.config_maps,
        secrets: &world.secrets,
        services: &world.services,
    };
    environment(&sources, main(pod)).map(|list| list.into_iter().collect()).map_err(|error| error.0)
}

#[test]
fn every_source_of_a_variable_works() {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let resource =
        |name: &str, divisor: &str| json!({"resourceFieldRef": {"resource": name, "divisor": divisor}});
    let cases = [
        (json!({"configMapKeyRef": {"name": "map", "key": "COLOR"}}), Some("red")),
        (json!({"configMapKeyRef": {"name": "map", "key": "NONE", "optional": true}}), None),
        (json!({"configMapKeyRef": {"name": "none", "key": "COLOR", "optional": true}}), None),
        (json!({"secretKeyRef": {"name": "secret", "key": "word"}}), Some("sesame")),
        (field("metadata.name"), Some("p")),
        (field("metadata.namespace"), Some("d")),
        (field("metadata.uid"), Some("u")),
        (field("metadata.labels['a']"), Some("b")),
        (field("metadata.annotations['x/y']"), Some("say \"hi\"")),
        (field("spec.nodeName"), Some("node-1")),
        (field("status.podIP"), Some("10.42.0.5")),
        (field("status.hostIP"), Some("192.0.2.1")),
        (resource("limits.cpu", "0"), Some("2")),
        (resource("limits.cpu", "1m"), Some("1500")),
        (resource("requests.memory", "1Mi"), Some("64")),
        (resource("limits.memory", "1Mi"), Some("8192")),
    ];
    for (source, expected) in cases {
        let pod = with(&json!({
            "env": [{"name": "X", "valueFrom": source}],
            "resources": {"limits": {"cpu": "1500m"}, "requests": {"memory": "64Mi"}},
        }));
        assert_eq!(env(&pod).expect("it works").get("X").map(String::as_str), expected, "{source}");
    }
    let missing = [
        (json!({"configMapKeyRef": {"name": "none", "key": "k"}}), "configmap \"none\" not found"),
        (json!({"configMapKeyRef": {"name": "map", "key": "k"}}), "couldn't find key k in ConfigMap d/map"),
        (json!({"secretKeyRef": {"name": "none", "key": "k"}}), "secret \"none\" not found"),
        (json!({"secretKeyRef": {"name": "secret", "key": "k"}}), "couldn't find key k in Secret d/secret"),
        (field("status.nonsense"), "unsupported fieldPath: status.nonsense"),
    ];
    for (source, expected) in missing {
        let pod = with(&json!({"env": [{"name": "X", "valueFrom": source}]}));
        assert_eq!(env(&pod).expect_err("it is missing"), expected);
    }
}

#[test]
fn later_variables_win_and_see_earlier_ones() {
    let found = env(&with(&json!({
        "envFrom": [{"configMapRef": {"name": "map"}}, {"prefix": "S_", "secretRef": {"name": "secret"}}],
        "env": [
            {"name": "COLOR", "value": "blue"}, {"name": "BOTH", "value": "$(COLOR) $(SIZE) $(S_word) $(LATER)"},
            {"name": "LATER", "value": "x"}, {"name": "URL", "value": "http://$(WEB_APP_SERVICE_HOST)"},
            {"name": "WEB_APP_SERVICE_PORT", "value": "mine"},
        ],
    })))
    .expect("it works");
    let expected = [
        ("COLOR", "blue"),
        ("BOTH", "blue 1 sesame $(LATER)"),
        ("URL", "http://10.43.0.7"),
        ("WEB_APP_SERVICE_PORT", "mine"),
        ("WEB_APP_PORT", "tcp://10.43.0.7:80"),
        ("WEB_APP_PORT_80_TCP_ADDR", "10.43.0.7"),
        ("KUBERNETES_SERVICE_HOST", "10.43.0.1"),
        ("KUBERNETES_SERVICE_PORT_HTTPS", "443"),
    ];
    for (name, value) in expected {
        assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(!found.contains_key("OTHER_SERVICE_HOST") && !found.contains_key("HEADLESS_SERVICE_HOST"));
    let alone = env(&pod(&json!({"enableServiceLinks": false}))).expect("it works");
    assert!(alone.contains_key("KUBERNETES_SERVICE_HOST") && !alone.contains_key("WEB_APP_SERVICE_HOST"));
}

#[test]
fn name_resolution_follows_the_policy() {
    let node = Resolver::parse(
        "# comment\nnameserver 192.0.2.53\nsearch old.example\nsearch example.org\noptions timeout:1\n",
    );
    let own = json!({"nameservers": ["192.0.2.9"], "searches": ["own"], "options": [{"name": "ndots", "value": "2"}]});
    let cases = [
        (json!({}), "10.43.0.10 | d.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:5"),
        (json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), "192.0.2.53 | example.org | timeout:1"),
        (
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            "10.43.0.10 | d.svc.cluster.local svc.cluster.local cluster.local example.org | ndots:5",
        ),
        (json!({"dnsPolicy": "Default"}), "192.0.2.53 | example.org | timeout:1"),
        (json!({"dnsPolicy": "None", "dnsConfig": own}), "192.0.2.9 | own | ndots:2"),
        (
            json!({"dnsConfig": own}),
            "10.43.0.10 192.0.2.9 | d.svc.cluster.local svc.cluster.local cluster.local example.org own | ndots:2",
        ),
    ];
    for (spec, expected) in cases {
        let found = sandbox_dns(&pod(&spec), &cluster(), &node);
        let text = [found.servers, found.searches, found.options].map(|list| list.join(" ")).join(" | ");
        assert_eq!(text, expected, "{spec}");
    }
}

#[test]
fn a_sandbox_is_asked_for_with_names_ports_and_namespaces() {
    let ports = json!([{"containerPort": 80, "hostPort": 8080}, {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "192.0.2.1"}, {"containerPort": 1}]);
    let config = |spec: &Value| sandbox_config(&pod(spec), 3, &cluster(), &Resolver::default(), "/logs");
    let found = config(&json!({"hostname": "web", "containers": [{"name": "main", "ports": ports}]}));
    let metadata = found.metadata.clone().expect("metadata");
    assert_eq!((metadata.name.as_str(), metadata.uid.as_str(), metadata.attempt), ("p", "u", 3));
    assert_eq!((found.hostname.as_str(), found.labels["io.kubernetes.pod.uid"].as_str()), ("web", "u"));
    let mapped: Vec<_> = found
        .port_mappings
        .iter()
        .map(|port| (port.protocol(), port.container_port, port.host_port, port.host_ip.as_str()))
        .collect();
    assert_eq!(mapped, [(Protocol::Tcp, 80, 8080, ""), (Protocol::Udp, 53, 53, "192.0.2.1")]);
    let host = config(
        &json!({"hostNetwork": true, "hostPID": true, "containers": [{"name": "main", "ports": ports}]}),
    );
    assert!(host.port_mappings.is_empty() && host.hostname.is_empty());
    let options =
        host.linux.and_then(|linux| linux.security_context).and_then(|context| context.namespace_options);
    let options = options.expect("namespaces");
    assert_eq!(
        (options.network(), options.pid(), options.ipc()),
        (NamespaceMode::Node, NamespaceMode::Node, NamespaceMode::Pod)
    );
}

#[test]
fn a_containers_own_settings_win_over_its_pods() {
    let pod = pod(&json!({
        "securityContext": {"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{"name": "main", "securityContext": {
            "runAsUser": 7, "readOnlyRootFilesystem": true, "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]},
        }}, {"name": "root", "securityContext": {"privileged": true, "seccompProfile": {"type": "Unconfined"}}}],
    }));
    let found = security_context(&pod, main(&pod));
    let value = |number: Option<cri::messages::Int64Value>| number.map(|number| number.value);
    assert_eq!((value(found.run_as_user), value(found.run_as_group)), (Some(7), Some(2)));
    assert_eq!(found.supplemental_groups, [3]);
    assert!(
        found.readonly_rootfs && found.no_new_privs && !found.privileged && !found.masked_paths.is_empty()
    );
    let capabilities = found.capabilities.expect("capabilities");
    assert_eq!(
        (capabilities.add_capabilities, capabilities.drop_capabilities),
        (vec!["NET_ADMIN".into()], vec!["ALL".to_owned()])
    );
    assert_eq!(found.seccomp.expect("a profile").profile_type(), ProfileType::RuntimeDefault);
    let root = security_context(&pod, &spec(&pod).containers[1]);
    assert!(root.privileged && root.masked_paths.is_empty());
    assert_eq!(root.seccomp.expect("a profile").profile_type(), ProfileType::Unconfined);
}

#[test]
fn who_must_not_be_root_is_not() {
    let strict = |more: Value| {
        let mut context = json!({"runAsNonRoot": true});
        for (field, value) in more.as_object().expect("an object") {
            context[field] = value.clone();
        }
        with(&json!({"securityContext": context}))
    };
    let cases = [
        (with(&json!({})), Some(0), "", Ok(())),
        (strict(json!({})), Some(1000), "", Ok(())),
        (strict(json!({"runAsUser": 5})), Some(0), "", Ok(())),
        (
            strict(json!({})),
            Some(0),
            "",
            Err("container has runAsNonRoot and image will run as root (pod: \"p\", container: main)"),
        ),
        (
            strict(json!({"runAsUser": 0})),
            Some(5),
            "",
            Err("container's runAsUser breaks non-root policy (pod: \"p\", container: main)"),
        ),
        (
            strict(json!({})),
            None,
            "www",
            Err(
                "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: \"p\", container: main)",
            ),
        ),
        (
            strict(json!({})),
            None,
            "",
            Err("container has runAsNonRoot and image will run as root (pod: \"p\", container: main)"),
        ),
    ];
    for (pod, uid, user, expected) in cases {
        let found = runs_as_root(&pod, main(&pod), uid, user).map_err(|error| error.0);
        assert_eq!(found, expected.map_err(str::to_owned));
    }
}

#[test]
fn a_container_is_asked_for_with_all_that_it_takes_to_find_it_again() {
    let pod = pod(&json!({"terminationGracePeriodSeconds": 12, "containers": [{
        "name": "main", "image": "image:1", "command": ["run", "$(A)"], "args": ["$(B)"], "workingDir": "/w",
        "terminationMessagePath": "/dev/log", "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}},
    }]}));
    let env = [("A".to_owned(), "1".to_owned())];
    let parts =
        ContainerParts { env: &env, mounts: Vec::new(), image_ref: "sha256:1".into(), restart_count: 4 };
    let found = container_config(&pod, main(&pod), parts, &cluster(), &NODE);
    assert_eq!(
        (found.command, found.args, found.log_path.as_str()),
        (vec!["run".into(), "1".into()], vec!["$(B)".to_owned()], "main/4.log")
    );
    assert_eq!(found.metadata.expect("metadata").attempt, 4);
    assert_eq!(found.labels["io.kubernetes.container.name"], "main");
    let note = |name: &str| found.annotations[name].as_str();
    assert_eq!(note("io.kubernetes.container.restartCount"), "4");
    assert_eq!(note("io.kubernetes.pod.terminationGracePeriod"), "12");
    assert_eq!(note("io.kubernetes.container.preStopHandler"), r#"{"exec":{"command":["bye"]}}"#);
}

#[test]
fn hosts_files_name_the_pod() {
    let ips = ["10.42.0.5".to_owned()];
    let text = |spec: &Value| hosts_file(&pod(spec), &ips, "cluster.local", "127.0.0.1\tlocalhost\n");
    assert!(text(&json!({})).ends_with("10.42.0.5\tp\n"));
    assert!(
        text(&json!({"hostname": "h", "subdomain": "s"}))
            .ends_with("10.42.0.5\th.s.d.svc.cluster.local\th\n")
    );
    let aliased = text(&json!({"hostAliases": [{"ip": "192.0.2.7", "hostnames": ["a", "b"]}]}));
    assert!(aliased.ends_with("\n# Entries added by HostAliases.\n192.0.2.7\ta\tb\n"));
    assert!(text(&json!({"hostNetwork": true})).ends_with("(host network).\n127.0.0.1\tlocalhost\n"));
}
