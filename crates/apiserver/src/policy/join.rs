//! What a node that joins needs before it is one, as kubeadm sets it up: whoever shows a bootstrap token may ask for a
//! node's certificate and gets it, nodes renew their own, and everybody may read which cluster this is.

use serde_json::{Value, json};

use super::AUTOUPDATE;
use crate::authz::rbac::GROUP;

const BOOTSTRAPPERS: (&str, &str) = ("Group", "system:bootstrappers");
const NODES: (&str, &str) = ("Group", "system:nodes");
/// Service proxies, DNS and pod networks of nodes that joined. A node is issued a certificate for it.
const NETWORK: (&str, &str) = ("Group", "skiff:node-network");
const SIGNING: &str = "system:certificates.k8s.io:certificatesigningrequests";

fn metadata(name: &str) -> Value {
    json!({
        "name": name, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}, "annotations": {AUTOUPDATE: "true"},
    })
}

fn bound(name: &str, role: &str, (kind, subject): (&str, &str)) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRoleBinding", "metadata": metadata(name),
        "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": GROUP, "kind": kind, "name": subject}],
    })
}

/// Roles and bindings for joining.
pub fn objects() -> Vec<Value> {
    let rule = |resource: &str, names: &[&str]| {
        let mut rule = json!({"apiGroups": [""], "resources": [resource], "verbs": ["get"]});
        if !names.is_empty() {
            rule["resourceNames"] = json!(names);
        }
        rule
    };
    let info = "kubeadm:bootstrap-signer-clusterinfo";
    let mut role = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "Role", "metadata": metadata(info),
        "rules": [rule("configmaps", &["cluster-info"])],
    });
    role["metadata"]["namespace"] = "kube-public".into();
    let mut binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "RoleBinding", "metadata": metadata(info),
        "roleRef": {"apiGroup": GROUP, "kind": "Role", "name": info},
        "subjects": [{"apiGroup": GROUP, "kind": "User", "name": crate::types::ANONYMOUS}],
    });
    binding["metadata"]["namespace"] = "kube-public".into();
    let nodes = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata("kubeadm:get-nodes"),
        "rules": [rule("nodes", &[])],
    });
    let follows = |group: &str, resources: &[&str]| json!({"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]});
    let network = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata("skiff:node-network"),
        "rules": [
            follows("", &["endpoints", "nodes", "services"]),
            follows("discovery.k8s.io", &["endpointslices"]),
            follows("networking.k8s.io", &["servicecidrs"]),
            json!({
                "apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"],
            }),
        ],
    });
    // Beyond what upstream's approver may.
    let signers = ["kubernetes.io/kube-apiserver-client", "kubernetes.io/kubelet-serving"];
    let approver = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": "ClusterRole", "metadata": metadata("skiff:node-approver"),
        "rules": [{
            "apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": signers,
            "verbs": ["approve"],
        }],
    });
    vec![
        role,
        binding,
        nodes,
        // Whether the name is taken.
        bound("kubeadm:get-nodes", "kubeadm:get-nodes", BOOTSTRAPPERS),
        bound("kubeadm:kubelet-bootstrap", "system:node-bootstrapper", BOOTSTRAPPERS),
        bound("kubeadm:node-autoapprove-bootstrap", &format!("{SIGNING}:nodeclient"), BOOTSTRAPPERS),
        bound("kubeadm:node-autoapprove-certificate-rotation", &format!("{SIGNING}:selfnodeclient"), NODES),
        network,
        bound("skiff:node-network", "skiff:node-network", NETWORK),
        approver,
        bound("skiff:node-approver", "skiff:node-approver", ("User", super::CONTROLLER_MANAGER)),
    ]
}
