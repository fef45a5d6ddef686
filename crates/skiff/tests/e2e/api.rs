//! The API as stock clients see it: over TLS with both HTTP versions, with and without credentials, with kubectl's own
//! discovery, validation and printing.

use crate::clients;
use crate::custom;
use crate::machine::{Cluster, Form, in_each_form};

in_each_form!(stock_clients_find_what_they_expect);

fn stock_clients_find_what_they_expect(form: Form) {
    let Some(cluster) = Cluster::start("api", form) else { return };
    let authority = cluster.authority();
    let ask = |options: &str, path: &str| {
        cluster.inside(&format!(
            "curl -s --max-time 5 --cacert {} {options} -w ' %{{http_code}} %{{http_version}}' --path-as-is 'https://127.0.0.1:6443{path}'",
            authority.display()
        ))
    };
    // Nobody: health and version, nothing else; wrong credentials are not nobody.
    for path in ["/livez", "/readyz", "/healthz", "/version"] {
        assert!(ask("", path).ends_with(" 200 2"), "{path}: {}", ask("", path));
        assert!(ask("--http1.1", path).ends_with(" 200 1.1"), "{path}");
    }
    assert!(ask("", "/api/v1/pods").ends_with(" 401 2"), "{}", ask("", "/api/v1/pods"));
    assert!(ask("-H 'Authorization: Bearer nonsense'", "/api/v1/pods").ends_with(" 401 2"));
    assert!(ask("-H 'X-Remote-User: admin'", "/api/v1/pods").ends_with(" 401 2"));

    discovery(&cluster);
    bad_input(&cluster);
    generic_verbs(&cluster);
    server_side_apply(&cluster);
    custom::resources_are_there_a_moment_later(&cluster);
    if form == Form::Server {
        clients::official_clients_do_their_work(&cluster);
    }
}

fn discovery(cluster: &Cluster) {
    let resources = cluster.kubectl("api-resources");
    for line in ["deployments", "pods", "networkpolicies", "storageclasses", "priorityclasses", "cronjobs"] {
        assert!(resources.lines().any(|found| found.starts_with(line)), "{line} is not in\n{resources}");
    }
    assert!(cluster.kubectl("api-versions").contains("coordination.k8s.io/v1"));
    assert!(cluster.kubectl("explain deployment.spec.strategy.rollingUpdate").contains("maxUnavailable"));
    assert!(cluster.kubectl("version").contains("Server Version: v1.37"));
    assert!(cluster.kubectl("auth whoami").contains("system:masters"));
    assert_eq!(cluster.kubectl("auth can-i delete nodes"), "yes");
    let account = cluster.try_kubectl("auth can-i delete nodes --as=system:serviceaccount:default:default");
    assert!(account.expect_err("it may not").contains("no"));
    assert!(cluster.kubectl("get nodes -o wide").contains("containerd://"));
    assert!(cluster.kubectl("get namespaces").contains("kube-node-lease"));
    assert!(cluster.kubectl("get --raw /openapi/v3").contains("apis/apps/v1"));
    assert!(cluster.kubectl("describe node skiff-node").contains("KubeletReady"));
    assert!(
        cluster.kubectl("get configmap kube-root-ca.crt -o jsonpath='{.data}'").contains("BEGIN CERTIFICATE")
    );
    assert!(cluster.kubectl("get endpoints kubernetes -o wide").contains(":6443"));
}

fn bad_input(cluster: &Cluster) {
    let refused = |manifest: &str, words: &[&str]| {
        let error =
            cluster.try_kubectl(&format!("create -f - <<'END'\n{manifest}\nEND")).expect_err("it is bad");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
    };
    refused(
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: Bad_Name}}",
        &["The ConfigMap \"Bad_Name\" is invalid", "metadata.name: Invalid value: \"Bad_Name\""],
    );
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, imagee: x}]}}",
        &["unknown field \"spec.containers[0].imagee\""],
    );
    refused(
        "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: x, resources: {requests: {cpu: much}}}]}}",
        &["quantities must match the regular expression"],
    );
    let kind = cluster.try_kubectl("get nonsense").expect_err("there is no such kind");
    assert!(kind.contains("the server doesn't have a resource type \"nonsense\""), "{kind}");
    cluster.kubectl("create configmap twice --from-literal=a=b");
    let again = cluster.try_kubectl("create configmap twice --from-literal=a=b").expect_err("it exists");
    assert!(again.contains("configmaps \"twice\" already exists"), "{again}");
    let gone = cluster.try_kubectl("get pod nobody").expect_err("it does not exist");
    assert!(gone.contains("Error from server (NotFound): pods \"nobody\" not found"), "{gone}");
}

fn generic_verbs(cluster: &Cluster) {
    cluster.kubectl("create deployment verbs --image=skiff.local/busybox:1.35 --replicas=0 -- sleep 1000");
    cluster.kubectl("label deployment verbs colour=green");
    cluster.kubectl("annotate deployment verbs note=here");
    assert!(cluster.kubectl("get deployments -l colour=green -o name").contains("deployment.apps/verbs"));
    cluster.kubectl("set image deployment/verbs busybox=skiff.local/busybox:2");
    cluster.kubectl("scale deployment verbs --replicas=0");
    cluster.kubectl(r#"patch deployment verbs --type=json -p '[{"op":"add","path":"/metadata/labels/size","value":"small"}]'"#);
    assert_eq!(cluster.kubectl("get deployment verbs -o jsonpath='{.metadata.labels.size}'"), "small");
    cluster.kubectl("expose deployment verbs --port=80");
    cluster.kubectl("rollout history deployment/verbs");
    cluster.kubectl("delete deployment,service verbs --timeout=30s");
    let stale = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"twice","resourceVersion":"1"},"data":{}}"#;
    let conflict =
        cluster.try_kubectl(&format!("replace -f - <<'END'\n{stale}\nEND")).expect_err("it is stale");
    assert!(conflict.contains("the object has been modified"), "{conflict}");
    cluster.kubectl("create namespace shortlived");
    cluster.kubectl("create configmap inside -n shortlived");
    cluster.kubectl("delete namespace shortlived --timeout=60s");
    assert!(cluster.try_kubectl("get namespace shortlived").is_err());
    // What no node can live without comes back, and the node goes on.
    cluster.kubectl("delete namespace kube-node-lease --timeout=60s");
    cluster.kubectl("wait --for=create -n kube-node-lease lease/skiff-node --timeout=60s");
    cluster.kubectl("delete service kubernetes");
    cluster.kubectl("wait --for=create service/kubernetes endpoints/kubernetes --timeout=20s");
    cluster.kubectl("wait --for=condition=Ready node --all --timeout=60s");
}

/// kubectl's way of server-side apply: what it shows before, whose fields it takes over from itself, and what it says of others'.
fn server_side_apply(cluster: &Cluster) {
    let manifest = |value: &str| {
        format!(
            "<<'END'\n{{apiVersion: v1, kind: ConfigMap, metadata: {{name: shared}}, data: {{a: '{value}'}}}}\nEND"
        )
    };
    let value = || cluster.kubectl("get configmap shared -o jsonpath='{.data.a}'");
    cluster.kubectl(&format!("apply -f - {}", manifest("1")));
    let shown = cluster.try_kubectl(&format!("diff --server-side -f - {}", manifest("2")));
    let shown = shown.expect_err("a difference is a failure");
    assert!(shown.contains("-  a: \"1\"") && shown.contains("+  a: \"2\""), "{shown}");
    assert_eq!(value(), "1");
    let applied = cluster.kubectl(&format!("apply --server-side -f - {}", manifest("2")));
    assert!(applied.contains("configmap/shared serverside-applied"), "{applied}");
    let other = "apply --server-side --field-manager=other";
    let refused =
        cluster.try_kubectl(&format!("{other} -f - {}", manifest("3"))).expect_err("it is kubectl's");
    let conflict = "Apply failed with 1 conflict: conflict with \"kubectl\": .data.a";
    assert!(refused.contains(conflict) && refused.contains("--force-conflicts"), "{refused}");
    cluster.kubectl(&format!("{other} --force-conflicts -f - {}", manifest("3")));
    assert_eq!(value(), "3");
    cluster.kubectl(&format!("diff --server-side --field-manager=other -f - {}", manifest("3")));
    let owners = cluster.kubectl("get configmap shared -o yaml --show-managed-fields");
    assert!(owners.contains("manager: other") && !owners.contains("kubectl-client-side-apply"), "{owners}");
    assert!(!cluster.kubectl("get configmap shared -o yaml").contains("managedFields"));
}
