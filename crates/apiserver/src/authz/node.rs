//! The Node authorizer: a kubelet reads what the pods on its node refer to and writes what is its own.
//!
//! What is related to a node is found by looking at the pods of the object's namespace, at the moment of asking: there
//! is no second copy of the cluster to keep. Secrets of persistent volumes are not followed, since no volume plugin here
//! has any. Whether a write is about the node's own objects, where only the body tells, is admission's to say.

use std::sync::Arc;

use api_machinery::selector::FieldSelector;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::Verdict;
use super::rules::Rule;
use crate::egress;
use crate::policy;
use crate::references;
use crate::types::{Lookup, RequestInfo, UserInfo};

/// The group of all nodes.
pub const NODES: &str = "system:nodes";
const PREFIX: &str = "system:node:";
/// Where nodes renew their leases.
pub const LEASES: &str = "kube-node-lease";

/// The node that a user is: `None` if he is none, empty if it cannot be told which.
pub fn identity(user: &UserInfo) -> Option<&str> {
    let name = user.name.strip_prefix(PREFIX)?;
    user.in_group(NODES).then_some(name)
}

/// The authorizer.
pub struct NodeAuthorizer {
    lookup: Arc<dyn Lookup>,
    rules: Vec<Rule>,
}

fn no(reason: &str) -> Result<Verdict, ApiError> {
    Ok(Verdict::NoOpinion(reason.to_owned()))
}

fn yes() -> Result<Verdict, ApiError> {
    Ok(Verdict::Allow(String::new()))
}

impl NodeAuthorizer {
    /// Reads pods and claims through `lookup`.
    pub fn new(lookup: Arc<dyn Lookup>) -> NodeAuthorizer {
        NodeAuthorizer { lookup, rules: policy::node_rules() }
    }

    /// Whether the user is a node that may do this.
    pub async fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Result<Verdict, ApiError> {
        let Some(node) = identity(user) else { return no("") };
        if node.is_empty() {
            return no(&format!("unknown node for user {:?}", user.name));
        }
        if info.is_resource {
            match (info.api_group.as_str(), info.resource.as_str()) {
                ("", "secrets" | "configmaps") => return self.read(node, info).await,
                ("", "persistentvolumeclaims") if info.subresource == "status" => {
                    return self.claim_status(node, info).await;
                }
                ("", "persistentvolumeclaims" | "persistentvolumes")
                | ("storage.k8s.io", "volumeattachments") => {
                    return self.get(node, info).await;
                }
                ("", "serviceaccounts") => return self.create_token(node, info).await,
                ("", "nodes") => return own_node(node, info),
                ("", "pods") => return self.pods(node, info).await,
                ("coordination.k8s.io", "leases") => return lease(node, info),
                ("storage.k8s.io", "csinodes") => return csi_node(node, info),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, info).await,
                ("resource.k8s.io", "resourceslices") => return self.slices(node, info).await,
                _ => {}
            }
        }
        if let Some(other) = egress::connect::asked_for(info) {
            return if other == node {
                yes()
            } else {
                no(&format!("node '{node}' can only open its own tunnel"))
            };
        }
        if self.rules.iter().any(|rule| rule.allows(info)) { yes() } else { no("") }
    }

    async fn read(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if !matches!(info.verb.as_str(), "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !info.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if info.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, info).await
    }

    async fn get(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if info.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !info.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, info).await
    }

    async fn claim_status(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if !matches!(info.verb.as_str(), "update" | "patch") {
            return no("can only get/update/patch this type");
        }
        self.related(node, info).await
    }

    async fn create_token(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if info.verb != "create" || info.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if info.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, info).await
    }

    async fn pods(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        match (info.subresource.as_str(), info.verb.as_str()) {
            ("", "get") => self.related(node, info).await,
            ("", "list" | "watch") => {
                let selector = FieldSelector::parse(&info.field_selector);
                if selector.is_ok_and(|selector| selector.exact("spec.nodeName") == Some(node)) {
                    return yes();
                }
                if !info.name.is_empty() {
                    return self.related(node, info).await;
                }
                no("can only list/watch pods with spec.nodeName field selector")
            }
            // Admission sees to it that they are the node's own.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
            _ => no(""),
        }
    }

    async fn slices(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if !info.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match info.verb.as_str() {
            // Admission sees to it that it is the node's own.
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => self.related(node, info).await,
            "list" | "watch" | "deletecollection" => {
                let selector = FieldSelector::parse(&info.field_selector);
                if selector.is_ok_and(|selector| selector.exact("spec.nodeName") == Some(node)) {
                    return yes();
                }
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    async fn related(&self, node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
        if info.name.is_empty() {
            return no("No Object name found");
        }
        if self.is_related(node, info).await? {
            return yes();
        }
        // The pod may have been bound a moment ago.
        self.lookup.fresh().await?;
        if self.is_related(node, info).await? {
            return yes();
        }
        no(&format!("no relationship found between node '{node}' and this object"))
    }

    async fn is_related(&self, node: &str, info: &RequestInfo) -> Result<bool, ApiError> {
        let name = info.name.as_str();
        let namespace = info.namespace.as_str();
        match info.resource.as_str() {
            "pods" => {
                let pod = self.lookup.get("", "pods", namespace, name).await?;
                Ok(pod.is_some_and(|pod| references::node_name(&pod) == node))
            }
            "secrets" => self.used(node, namespace, |pod| references::secrets(pod).contains(&name)).await,
            "configmaps" => {
                self.used(node, namespace, |pod| references::config_maps(pod).contains(&name)).await
            }
            "serviceaccounts" => {
                self.used(node, namespace, |pod| references::text(pod, "/spec/serviceAccountName") == name)
                    .await
            }
            "persistentvolumeclaims" => {
                self.used(node, namespace, |pod| references::claims(pod).iter().any(|claim| claim == name))
                    .await
            }
            "persistentvolumes" => {
                let volume = self.lookup.get("", "persistentvolumes", "", name).await?;
                let Some(volume) = volume else { return Ok(false) };
                let claim = references::text(&volume, "/spec/claimRef/name");
                let place = references::text(&volume, "/spec/claimRef/namespace");
                self.used(node, place, |pod| references::claims(pod).iter().any(|name| name == claim)).await
            }
            "resourceclaims" => {
                self.used(node, namespace, |pod| references::device_claims(pod).contains(&name)).await
            }
            plural @ ("volumeattachments" | "resourceslices") => {
                let found = self.lookup.get(&info.api_group, plural, "", name).await?;
                Ok(found.is_some_and(|found| references::node_name(&found) == node))
            }
            _ => Ok(false),
        }
    }

    /// Whether a pod of the node in this namespace does `what`.
    async fn used(
        &self,
        node: &str,
        namespace: &str,
        what: impl Fn(&Value) -> bool + Send,
    ) -> Result<bool, ApiError> {
        let pods = self.lookup.list("", "pods", Some(namespace)).await?;
        Ok(pods.iter().any(|pod| references::node_name(pod) == node && what(pod)))
    }
}

fn own_node(node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
    match (info.subresource.as_str(), info.verb.as_str()) {
        // Admission sees to it that it is the node's own.
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") => match info.name.as_str() {
            own if own == node => yes(),
            "" => no(&format!("node '{node}' cannot read all nodes, only its own Node object")),
            other => no(&format!("node '{node}' cannot read '{other}', only its own Node object")),
        },
        _ => no(""),
    }
}

fn lease(node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
    if !matches!(info.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if info.namespace != LEASES {
        return no(&format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if info.verb != "create" && info.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(node: &str, info: &RequestInfo) -> Result<Verdict, ApiError> {
    if !matches!(info.verb.as_str(), "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !info.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if info.verb != "create" && info.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::Objects;
    use serde_json::json;

    fn info(text: &str) -> RequestInfo {
        let [verb, group, namespace, resource, name] = text.split(' ').collect::<Vec<_>>()[..] else {
            panic!("five words: {text}")
        };
        let word = |word: &str| if word == "-" { String::new() } else { word.to_owned() };
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        RequestInfo {
            verb: word(verb),
            api_group: word(group),
            namespace: word(namespace),
            resource: word(resource),
            subresource: word(subresource),
            name: word(name),
            is_resource: true,
            ..RequestInfo::default()
        }
    }

    #[tokio::test]
    async fn what_is_related() {
        let pod = json!({"metadata": {"name": "p", "namespace": "x"}, "spec": {
            "nodeName": "a", "serviceAccountName": "sa",
            "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "claim"}}],
            "resourceClaims": [{"name": "gpu", "resourceClaimName": "card"}, {"name": "net", "resourceClaimTemplateName": "t"}],
        }, "status": {"resourceClaimStatuses": [{"name": "net", "resourceClaimName": "p-net-x"}]}});
        let slice = |node: &str| {
            let slice = json!({"metadata": {"name": format!("of-{node}")}, "spec": {"nodeName": node}});
            ("resource.k8s.io", "resourceslices", slice)
        };
        let volume = |name: &str, claim: &str| {
            let reference = json!({"namespace": "x", "name": claim});
            ("", "persistentvolumes", json!({"metadata": {"name": name}, "spec": {"claimRef": reference}}))
        };
        let attachment = json!({"metadata": {"name": "va"}, "spec": {"nodeName": "a"}});
        let objects = [
            ("", "pods", pod),
            volume("pv", "claim"),
            volume("other", "unused"),
            ("storage.k8s.io", "volumeattachments", attachment),
            slice("a"),
            slice("b"),
        ];
        let authorizer = NodeAuthorizer::new(Objects::of(&objects));
        let table = [
            ("get - x persistentvolumeclaims claim", true),
            ("get - y persistentvolumeclaims claim", false),
            ("list - x persistentvolumeclaims claim", false),
            ("patch - x persistentvolumeclaims/status claim", true),
            ("get - x persistentvolumeclaims/status claim", false),
            ("get - - persistentvolumes pv", true),
            ("get - - persistentvolumes other", false),
            ("get storage.k8s.io - volumeattachments va", true),
            ("create - x serviceaccounts/token sa", true),
            ("create - x serviceaccounts/token default", false),
            ("get - x serviceaccounts sa", false),
            ("get storage.k8s.io - csinodes a", true),
            ("get storage.k8s.io - csinodes b", false),
            ("get resource.k8s.io x resourceclaims card", true),
            ("get resource.k8s.io x resourceclaims p-net-x", true),
            ("get resource.k8s.io x resourceclaims other", false),
            ("list resource.k8s.io x resourceclaims -", false),
            ("patch resource.k8s.io x resourceclaims/status card", false),
            ("create resource.k8s.io - resourceslices -", true),
            ("update resource.k8s.io - resourceslices of-a", true),
            ("delete resource.k8s.io - resourceslices of-b", false),
            ("list resource.k8s.io - resourceslices -", false),
            ("deletecollection resource.k8s.io - resourceslices -", false),
            ("list - - services -", true),
            ("create events.k8s.io x events -", true),
            ("list node.k8s.io - runtimeclasses -", true),
            ("list apps - deployments -", false),
            ("create - x pods/binding p", false),
        ];
        let node = UserInfo::new("system:node:a", &[NODES]);
        let stranger = UserInfo::new("system:node:b", &[NODES]);
        let no_node = UserInfo::new("system:node:a", &["system:authenticated"]);
        for (text, want) in table {
            let verdict = authorizer.decide(&node, &info(text)).await.expect("decided");
            assert_eq!(matches!(verdict, Verdict::Allow(_)), want, "{text}: {verdict:?}");
            let verdict = authorizer.decide(&no_node, &info(text)).await.expect("decided");
            assert_eq!(verdict, Verdict::NoOpinion(String::new()), "{text}");
        }
        let verdict = authorizer.decide(&stranger, &info("get - x persistentvolumeclaims claim")).await;
        assert!(
            matches!(verdict, Ok(Verdict::NoOpinion(reason)) if reason.contains("no relationship found"))
        );
    }
}
