//! What a node may and may not write, as a table.

use api_machinery::resource::{Resource, Scope};
use serde_json::json;

use super::super::testing::{Objects, Write, resource};
use super::*;
use crate::types::UserInfo;

fn node_user() -> UserInfo {
    UserInfo::new("system:node:a", &["system:nodes", "system:authenticated"])
}

fn nodes() -> Resource {
    resource("", "Node", "nodes", Scope::Cluster)
}

async fn refusal(lookup: &Objects, mut write: Write) -> Option<String> {
    let error = admit(lookup, &write.request()).await.err()?;
    assert_eq!(error.code(), 403, "{error}");
    Some(error.message().to_owned())
}

#[tokio::test]
async fn a_node_and_nodes() {
    let lookup = Objects::of(&[]);
    let node = |name: &str, labels: Value, spec: Value, owners: Value| json!({"metadata": {"name": name, "labels": labels, "ownerReferences": owners}, "spec": spec});
    let plain = || node("a", json!({}), json!({}), json!([]));
    let taint = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "gone", "uid": "u"}]);
    let label = |key: &str| node("a", json!({key: "x"}), json!({}), json!([]));
    let create = Operation::Create;
    let update = Operation::Update;
    let table: Vec<(Operation, Value, Option<&str>)> = vec![
        (create, plain(), None),
        (
            create,
            node("b", json!({}), json!({}), json!([])),
            Some("node \"a\" is not allowed to modify node \"b\""),
        ),
        (create, label("kubernetes.io/hostname"), None),
        (create, label("node.kubernetes.io/instance-type"), None),
        (create, label("x.kubelet.kubernetes.io/y"), None),
        (create, label("example.com/zone"), None),
        (
            create,
            label("node-role.kubernetes.io/control-plane"),
            Some(
                "node \"a\" is not allowed to set the following labels: node-role.kubernetes.io/control-plane",
            ),
        ),
        (create, node("a", json!({}), taint.clone(), json!([])), None),
        (update, plain(), None),
        (update, label("topology.kubernetes.io/zone"), None),
        (
            update,
            label("node-restriction.kubernetes.io/pci"),
            Some("is not allowed to modify labels: node-restriction.kubernetes.io/pci"),
        ),
        (update, label("k8s.io/x"), Some("is not allowed to modify labels: k8s.io/x")),
        (update, label("notkubernetes.io/x"), None),
        (update, node("a", json!({}), taint, json!([])), Some("node \"a\" is not allowed to modify taints")),
        (
            update,
            node("a", json!({}), json!({}), owner),
            Some("node \"a\" is not allowed to modify ownerReferences"),
        ),
    ];
    for (operation, new, want) in table {
        let old = (operation == update).then(plain);
        let write = Write::new(operation, nodes(), "", Some(new.clone()), old).by(node_user());
        let got = refusal(&lookup, write).await;
        let want = want.map(|why| format!("nodes \"{}\" is forbidden: {why}", meta::name(&new)));
        assert_eq!(got, want, "{operation:?} {new}");
        let admin = Write::new(operation, nodes(), "", Some(new), Some(plain()));
        assert_eq!(refusal(&lookup, admin).await, None, "others are not restricted here");
    }
}

fn pod(node: &str) -> Value {
    json!({"metadata": {"name": "p", "namespace": "x", "uid": "pu"}, "spec": {"nodeName": node}})
}

fn mirror() -> Value {
    json!({
        "metadata": {
            "name": "m", "annotations": {"kubernetes.io/config.mirror": "h"},
            "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "nu", "controller": true}],
        },
        "spec": {"nodeName": "a"},
    })
}

#[tokio::test]
async fn a_node_and_pods() {
    let lookup = Objects::of(&[("", "nodes", json!({"metadata": {"name": "a", "uid": "nu"}}))]);
    let pods = || resource("", "Pod", "pods", Scope::Namespaced);
    let with = |path: &str, value: Value| {
        let mut pod = mirror();
        let (parent, field) = path.rsplit_once('/').expect("a pointer");
        pod.pointer_mut(parent).expect("exists")[field] = value;
        pod
    };
    let created = [
        (mirror(), true),
        (pod("a"), false),
        (with("/spec/nodeName", json!("b")), false),
        (with("/metadata/ownerReferences", json!([])), false),
        (with("/metadata/ownerReferences/0/uid", json!("other")), false),
        (with("/metadata/ownerReferences/0/controller", json!(false)), false),
        (with("/spec/serviceAccountName", json!("sa")), false),
        (with("/spec/volumes", json!([{"secret": {"secretName": "s"}}])), false),
        (with("/spec/containers", json!([{"envFrom": [{"configMapRef": {"name": "c"}}]}])), false),
        (with("/spec/volumes", json!([{"projected": {"sources": [{"serviceAccountToken": {}}]}}])), false),
    ];
    for (pod, allowed) in created {
        let write = Write::new(Operation::Create, pods(), "x", Some(pod.clone()), None).by(node_user());
        let got = refusal(&lookup, write).await;
        assert_eq!(got.is_none(), allowed, "{pod}: {got:?}");
    }
    for (node, allowed) in [("a", true), ("b", false)] {
        let delete = Write::new(Operation::Delete, pods(), "x", None, Some(pod(node))).by(node_user());
        assert_eq!(refusal(&lookup, delete).await.is_none(), allowed);
        let status =
            Write::new(Operation::Update, pods(), "x", Some(pod(node)), Some(pod(node))).by(node_user());
        assert_eq!(refusal(&lookup, status.to("status", "p")).await.is_none(), allowed);
        let main =
            Write::new(Operation::Update, pods(), "x", Some(pod(node)), Some(pod(node))).by(node_user());
        assert!(refusal(&lookup, main).await.is_some());
    }
    let mut labelled = pod("a");
    meta::set_label(&mut labelled, "k", "v");
    let status = Write::new(Operation::Update, pods(), "x", Some(labelled), Some(pod("a"))).by(node_user());
    assert!(refusal(&lookup, status.to("status", "p")).await.is_some(), "labels through status");
}

#[tokio::test]
async fn a_node_and_tokens_leases_evictions() {
    let other = json!({"metadata": {"name": "q", "namespace": "x", "uid": "qu"}, "spec": {"nodeName": "b"}});
    let lookup = Objects::of(&[("", "pods", pod("a")), ("", "pods", other)]);
    let token = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
    for (request, allowed) in [
        (token("p", "pu"), true),
        (token("p", "xx"), false),
        (token("p", ""), false),
        (token("q", "qu"), false),
        (json!({"spec": {}}), false),
    ] {
        let accounts = resource("", "ServiceAccount", "serviceaccounts", Scope::Namespaced);
        let write = Write::new(Operation::Create, accounts, "x", Some(request.clone()), None).by(node_user());
        assert_eq!(refusal(&lookup, write.to("token", "sa")).await.is_none(), allowed, "{request}");
    }
    for (namespace, name, allowed) in [(LEASES, "a", true), (LEASES, "b", false), ("default", "a", false)] {
        let leases = resource("coordination.k8s.io", "Lease", "leases", Scope::Namespaced);
        let lease = json!({"metadata": {"name": name}});
        let write = Write::new(Operation::Create, leases, namespace, Some(lease), None).by(node_user());
        assert_eq!(refusal(&lookup, write).await.is_none(), allowed, "{namespace}/{name}");
    }
    for (name, allowed) in [("p", true), ("q", false)] {
        let pods = resource("", "Pod", "pods", Scope::Namespaced);
        let write = Write::new(Operation::Create, pods, "x", Some(json!({})), None).by(node_user());
        assert_eq!(refusal(&lookup, write.to("eviction", name)).await.is_none(), allowed, "{name}");
    }
}

#[tokio::test]
async fn a_node_and_slices_of_devices() {
    let lookup = Objects::of(&[]);
    let slice = |node: &str| Some(json!({"metadata": {"name": "s"}, "spec": {"nodeName": node}}));
    let kind = || resource("resource.k8s.io", "ResourceSlice", "resourceslices", Scope::Cluster);
    let table = [
        (Operation::Create, slice("a"), None, None),
        (Operation::Create, slice("b"), None, Some("can only create ResourceSlice with the same NodeName")),
        (Operation::Update, slice("a"), slice("a"), None),
        (Operation::Delete, None, slice("a"), None),
        (Operation::Delete, None, slice("b"), Some("can only delete ResourceSlice with the same NodeName")),
    ];
    for (operation, object, old, want) in table {
        let shown = format!("{operation:?} {object:?} {old:?}");
        let refused = refusal(&lookup, Write::new(operation, kind(), "", object, old).by(node_user())).await;
        match want {
            None => assert_eq!(refused, None, "{shown}"),
            Some(want) => assert!(refused.is_some_and(|refused| refused.contains(want)), "{shown}"),
        }
    }
}
