//! What a node may read and write, through the whole path.

use apiserver::types::UserInfo;
use serde_json::{Value, json};

use super::{Cluster, admin};

fn node(name: &str) -> UserInfo {
    UserInfo::new(&format!("system:node:{name}"), &["system:nodes", "system:authenticated"])
}

async fn register(cluster: &Cluster, name: &str) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}});
    cluster.must(&node(name), "POST", "/api/v1/nodes", Some(&object)).await
}

#[tokio::test]
async fn a_node_writes_itself_and_nobody_else() {
    let cluster = Cluster::new().await;
    let own = register(&cluster, "a").await;
    let other = register(&cluster, "b").await;
    let a = node("a");
    let mut ready = own.clone();
    ready["status"] = json!({"conditions": [{"type": "Ready", "status": "True"}]});
    cluster.must(&a, "PUT", "/api/v1/nodes/a/status", Some(&ready)).await;
    cluster.must(&a, "GET", "/api/v1/nodes/a", None).await;
    cluster.must(&a, "GET", "/api/v1/nodes?fieldSelector=metadata.name%3Da", None).await;
    let message = cluster.refused(&a, 403, "GET", "/api/v1/nodes", None).await;
    assert!(message.ends_with("node 'a' cannot read all nodes, only its own Node object"), "{message}");
    cluster.refused(&a, 403, "GET", "/api/v1/nodes/b", None).await;
    let message = cluster.refused(&a, 403, "PUT", "/api/v1/nodes/b", Some(&other)).await;
    assert_eq!(message, "nodes \"b\" is forbidden: node \"a\" is not allowed to modify node \"b\"");
    cluster.refused(&a, 403, "DELETE", "/api/v1/nodes/a", None).await;
    let stored = cluster.must(&admin(), "GET", "/api/v1/nodes/a", None).await;
    let changes = [
        (
            "/metadata/labels",
            json!({"node-restriction.kubernetes.io/x": "y"}),
            "is not allowed to modify labels",
        ),
        (
            "/metadata/labels",
            json!({"node-role.kubernetes.io/control-plane": ""}),
            "is not allowed to modify labels",
        ),
        ("/spec/taints", json!([]), "is not allowed to modify taints"),
        (
            "/metadata/ownerReferences",
            json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "u"}]),
            "is not allowed to modify ownerReferences",
        ),
    ];
    for (pointer, value, why) in changes {
        for path in ["/api/v1/nodes/a", "/api/v1/nodes/a/status"] {
            let mut changed = stored.clone();
            let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
            changed.pointer_mut(parent).expect("exists")[field] = value.clone();
            let (code, answer) = cluster.send(&a, "PUT", path, Some(&changed)).await;
            // Through `/status` a spec does not change at all.
            if path.ends_with("status") && pointer.starts_with("/spec") {
                assert_eq!(answer["spec"], stored["spec"]);
                continue;
            }
            assert_eq!(code, 403, "{path} {pointer}: {answer}");
            assert!(answer["message"].as_str().unwrap_or_default().contains(why), "{answer}");
        }
    }
    let after = cluster.must(&admin(), "GET", "/api/v1/nodes/a", None).await;
    assert_eq!(
        (&after["spec"], &after["metadata"]["labels"]),
        (&stored["spec"], &stored["metadata"]["labels"])
    );
}

#[tokio::test]
async fn a_node_reads_what_its_pods_refer_to() {
    let cluster = Cluster::new().await;
    cluster.account("default").await;
    cluster.account("elsewhere").await;
    for (kind, plural, name) in
        [("Secret", "secrets", "s"), ("Secret", "secrets", "t"), ("ConfigMap", "configmaps", "m")]
    {
        let object = json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
        cluster.must(&admin(), "POST", &format!("/api/v1/namespaces/default/{plural}"), Some(&object)).await;
    }
    let uses = |secret: &str| {
        json!({"automountServiceAccountToken": false,
            "volumes": [{"name": "v", "secret": {"secretName": secret}}, {"name": "w", "configMap": {"name": "m"}}]})
    };
    let (a, ns) = (node("a"), "/api/v1/namespaces/default");
    let message = cluster.refused(&a, 403, "GET", &format!("{ns}/secrets/s"), None).await;
    assert!(message.ends_with("no relationship found between node 'a' and this object"), "{message}");
    cluster.pod("p", "a", uses("s")).await;
    let mut on_b = uses("t");
    on_b["serviceAccountName"] = "elsewhere".into();
    cluster.pod("q", "b", on_b).await;
    for path in ["secrets/s", "configmaps/m", "pods/p", "pods?fieldSelector=spec.nodeName%3Da", "services"] {
        cluster.must(&a, "GET", &format!("{ns}/{path}"), None).await;
    }
    cluster.must(&a, "GET", &format!("{ns}/secrets?fieldSelector=metadata.name%3Ds"), None).await;
    for path in
        ["secrets/t", "secrets", "configmaps/other", "pods/q", "pods", "pods?fieldSelector=spec.nodeName%3Db"]
    {
        cluster.refused(&a, 403, "GET", &format!("{ns}/{path}"), None).await;
    }
    cluster.refused(&a, 403, "GET", "/api/v1/secrets", None).await;
    cluster.refused(&a, 403, "DELETE", &format!("{ns}/secrets/s"), None).await;
    cluster.refused(&a, 403, "DELETE", &format!("{ns}/pods/q"), None).await;
    let p = cluster.must(&admin(), "GET", &format!("{ns}/pods/p"), None).await;
    let q = cluster.must(&admin(), "GET", &format!("{ns}/pods/q"), None).await;
    cluster.must(&a, "PUT", &format!("{ns}/pods/p/status"), Some(&p)).await;
    cluster.refused(&a, 403, "PUT", &format!("{ns}/pods/q/status"), Some(&q)).await;
    let token = |pod: &Value| {
        json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod",
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}}})
    };
    cluster.must(&a, "POST", &format!("{ns}/serviceaccounts/default/token"), Some(&token(&p))).await;
    cluster
        .refused(&a, 403, "POST", &format!("{ns}/serviceaccounts/elsewhere/token"), Some(&token(&q)))
        .await;
    cluster
        .refused(&a, 403, "POST", &format!("{ns}/serviceaccounts/default/token"), Some(&json!({"spec": {}})))
        .await;
}

#[tokio::test]
async fn leases_events_and_mirror_pods() {
    let cluster = Cluster::new().await;
    let own = register(&cluster, "a").await;
    let a = node("a");
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}});
    cluster.must(&a, "POST", leases, Some(&lease("a"))).await;
    cluster.refused(&a, 403, "POST", leases, Some(&lease("b"))).await;
    cluster.must(&a, "GET", &format!("{leases}/a"), None).await;
    cluster.refused(&a, 403, "GET", leases, None).await;
    let elsewhere = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    cluster.refused(&a, 403, "POST", elsewhere, Some(&lease("a"))).await;
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"}, "reason": "Started",
        "type": "Normal", "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    cluster.must(&a, "POST", "/api/v1/namespaces/default/events", Some(&event)).await;
    let mirror = |owner: &str| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "m", "annotations": {"kubernetes.io/config.mirror": "h"}, "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": "a", "uid": owner, "controller": true}]},
            "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    cluster.refused(&a, 403, "POST", pods, Some(&mirror("other"))).await;
    let uid = own["metadata"]["uid"].as_str().expect("a uid");
    let made = cluster.must(&a, "POST", pods, Some(&mirror(uid))).await;
    assert!(
        made["spec"].get("serviceAccountName").is_none() && made["spec"].get("volumes").is_none(),
        "{made}"
    );
    let plain = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "n"},
        "spec": {"nodeName": "a", "containers": [{"name": "c", "image": "i"}]}});
    cluster.account("default").await;
    cluster.refused(&a, 403, "POST", pods, Some(&plain)).await;
}
