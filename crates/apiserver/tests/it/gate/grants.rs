//! What somebody may do, and how he comes to it.

use apiserver::gate::{controller_manager, scheduler};
use apiserver::types::UserInfo;
use serde_json::{Value, json};

use super::{Cluster, RBAC, admin, user};

fn object(kind: &str, name: &str) -> Value {
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name}})
}

fn role(kind: &str, name: &str, verbs: &[&str], resources: &[&str]) -> Value {
    let mut role = object(kind, name);
    role["rules"] = json!([{"verbs": verbs, "apiGroups": [""], "resources": resources}]);
    role
}

fn binding(kind: &str, name: &str, role_kind: &str, role: &str, user: &str) -> Value {
    let mut binding = object(kind, name);
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role});
    binding["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]);
    binding
}

#[tokio::test]
async fn a_grant_counts_at_once_and_only_where_it_is() {
    let cluster = Cluster::new().await;
    let ann = user("ann");
    let pods = "/api/v1/namespaces/default/pods";
    let message = cluster.refused(&ann, 403, "GET", pods, None).await;
    let want = "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"";
    assert_eq!(message, want);
    let in_default = format!("{RBAC}/namespaces/default/rolebindings");
    let bound = binding("RoleBinding", "ann", "ClusterRole", "view", "ann");
    cluster.must(&admin(), "POST", &in_default, Some(&bound)).await;
    cluster.must(&ann, "GET", pods, None).await;
    cluster.refused(&ann, 403, "GET", "/api/v1/namespaces/kube-system/pods", None).await;
    cluster.refused(&ann, 403, "GET", "/api/v1/pods", None).await;
    cluster.refused(&ann, 403, "GET", "/api/v1/namespaces/default/secrets", None).await;
    cluster.must(&admin(), "DELETE", &format!("{in_default}/ann"), None).await;
    let dangling = binding("RoleBinding", "ann2", "Role", "gone", "ann");
    cluster.must(&admin(), "POST", &in_default, Some(&dangling)).await;
    let message = cluster.refused(&ann, 403, "GET", "/api/v1/namespaces/default/secrets", None).await;
    assert!(
        message.ends_with(
            "in the namespace \"default\": RBAC: role.rbac.authorization.k8s.io \"gone\" not found"
        ),
        "{message}"
    );
}

#[tokio::test]
async fn nobody_grants_more_than_he_holds() {
    let cluster = Cluster::new().await;
    let ann = user("ann");
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let mut of_admin = binding("RoleBinding", "ann", "ClusterRole", "admin", "ann");
    cluster.must(&admin(), "POST", &bindings, Some(&of_admin)).await;
    cluster.must(&ann, "POST", &roles, Some(&role("Role", "ok", &["get"], &["pods"]))).await;
    let above = role("Role", "above", &["get", "delete"], &["pods", "nodes"]);
    let message = cluster.refused(&ann, 403, "POST", &roles, Some(&above)).await;
    assert_eq!(
        message,
        "roles.rbac.authorization.k8s.io \"above\" is forbidden: user \"ann\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"delete\"]}"
    );
    let mut widened = role("Role", "ok", &["get"], &["nodes"]);
    cluster.refused(&ann, 403, "PUT", &format!("{roles}/ok"), Some(&widened)).await;
    widened["rules"][0]["resources"] = json!(["secrets"]);
    cluster.must(&ann, "PUT", &format!("{roles}/ok"), Some(&widened)).await;

    let to_master = binding("RoleBinding", "up", "ClusterRole", "cluster-admin", "ann");
    let message = cluster.refused(&ann, 403, "POST", &bindings, Some(&to_master)).await;
    assert!(
        message.contains(
            "{APIGroups:[\"*\"], Resources:[\"*\"], Verbs:[\"*\"]}\n{NonResourceURLs:[\"*\"], Verbs:[\"*\"]}"
        ),
        "{message}"
    );
    of_admin["metadata"]["name"] = "bob".into();
    cluster.must(&ann, "POST", &bindings, Some(&of_admin)).await;
    let dangling = binding("RoleBinding", "x", "ClusterRole", "missing", "ann");
    let message = cluster.refused(&ann, 404, "POST", &bindings, Some(&dangling)).await;
    assert_eq!(message, "clusterroles.rbac.authorization.k8s.io \"missing\" not found");
    cluster
        .refused(&ann, 403, "POST", &format!("{RBAC}/clusterroles"), Some(&object("ClusterRole", "mine")))
        .await;

    // `bind` and `escalate` lift it.
    let mut lifts = object("Role", "lifts");
    lifts["rules"] = json!([
        {"verbs": ["escalate"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles"]},
        {"verbs": ["bind"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["clusterroles"], "resourceNames": ["cluster-admin"]},
    ]);
    cluster.must(&admin(), "POST", &roles, Some(&lifts)).await;
    let lifted = binding("RoleBinding", "lifts", "Role", "lifts", "ann");
    cluster.must(&admin(), "POST", &bindings, Some(&lifted)).await;
    cluster.must(&ann, "POST", &roles, Some(&above)).await;
    cluster.must(&ann, "POST", &bindings, Some(&to_master)).await;
}

#[tokio::test]
async fn reviews_answer_for_others_and_oneself() {
    let cluster = Cluster::new().await;
    cluster.grant("ann", "view").await;
    let authorization = "/apis/authorization.k8s.io/v1";
    let review = |kind: &str, spec: Value| json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "spec": spec});
    let asks =
        |verb: &str, resource: &str| json!({"namespace": "default", "verb": verb, "resource": resource});
    let ann = user("ann");
    for (verb, resource, allowed) in
        [("get", "pods", true), ("delete", "pods", false), ("get", "secrets", false)]
    {
        let own = review("SelfSubjectAccessReview", json!({"resourceAttributes": asks(verb, resource)}));
        let path = format!("{authorization}/selfsubjectaccessreviews");
        let answer = cluster.must(&ann, "POST", &path, Some(&own)).await;
        assert_eq!(answer["status"]["allowed"], allowed, "{verb} {resource}");
        let spec = json!({"user": "ann", "resourceAttributes": asks(verb, resource)});
        let other = review("SubjectAccessReview", spec);
        let path = format!("{authorization}/subjectaccessreviews");
        let answer = cluster.must(&admin(), "POST", &path, Some(&other)).await;
        assert_eq!(answer["status"]["allowed"], allowed, "{verb} {resource}");
        cluster.refused(&ann, 403, "POST", &path, Some(&other)).await;
    }
    let rules = review("SelfSubjectRulesReview", json!({"namespace": "default"}));
    let answer =
        cluster.must(&ann, "POST", &format!("{authorization}/selfsubjectrulesreviews"), Some(&rules)).await;
    assert_eq!(answer["status"]["incomplete"], false);
    assert!(answer["status"]["resourceRules"].as_array().is_some_and(|rules| rules.len() > 5), "{answer}");
    assert!(
        answer["status"]["nonResourceRules"].as_array().is_some_and(|rules| !rules.is_empty()),
        "{answer}"
    );
}

#[tokio::test]
async fn components_can_work() {
    let cluster = Cluster::new().await;
    cluster.account("default").await;
    let ns = "/api/v1/namespaces/default";
    let controllers = controller_manager();
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = cluster.must(&controllers, "POST", &format!("{ns}/pods"), Some(&pod)).await;
    let spec = &made["spec"];
    assert_eq!((&spec["serviceAccountName"], &spec["priority"]), (&json!("default"), &json!(0)));
    assert_eq!(spec["tolerations"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        spec["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    for path in ["/api/v1/nodes", "/apis/apps/v1/replicasets", "/apis/discovery.k8s.io/v1/endpointslices"] {
        cluster.must(&controllers, "GET", path, None).await;
    }
    cluster
        .refused(
            &controllers,
            403,
            "POST",
            &format!("{RBAC}/clusterroles"),
            Some(&object("ClusterRole", "x")),
        )
        .await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    let made = cluster.must(&admin(), "POST", "/api/v1/nodes", Some(&node)).await;
    assert_eq!(
        made["spec"]["taints"],
        json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}])
    );
    let bind = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"kind": "Node", "name": "a"}});
    cluster.must(&scheduler(), "POST", &format!("{ns}/pods/p/binding"), Some(&bind)).await;
    cluster.refused(&scheduler(), 403, "GET", &format!("{ns}/secrets"), None).await;
    cluster.refused(&scheduler(), 403, "POST", &format!("{ns}/pods"), Some(&pod)).await;
    let critical = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "q"},
        "spec": {"priorityClassName": "system-node-critical", "containers": [{"name": "c", "image": "i"}]}});
    let made = cluster.must(&controllers, "POST", &format!("{ns}/pods"), Some(&critical)).await;
    assert_eq!(made["spec"]["priority"], 2_000_001_000);
}

#[tokio::test]
async fn namespaces_come_first_and_go_last() {
    let cluster = Cluster::new().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let message =
        cluster.refused(&admin(), 404, "POST", "/api/v1/namespaces/none/configmaps", Some(&map)).await;
    assert_eq!(message, "namespaces \"none\" not found");
    for name in ["default", "kube-system", "kube-public"] {
        let message =
            cluster.refused(&admin(), 403, "DELETE", &format!("/api/v1/namespaces/{name}"), None).await;
        assert_eq!(message, format!("namespaces {name:?} is forbidden: this namespace may not be deleted"));
    }
    let going = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "going"}});
    cluster.must(&admin(), "POST", "/api/v1/namespaces", Some(&going)).await;
    cluster.must(&admin(), "POST", "/api/v1/namespaces/going/configmaps", Some(&map)).await;
    cluster.must(&admin(), "DELETE", "/api/v1/namespaces/going", None).await;
    let (code, error) = cluster
        .send(
            &admin(),
            "POST",
            "/api/v1/namespaces/going/secrets",
            Some(&json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"},
            })),
        )
        .await;
    assert_eq!(code, 403, "{error}");
    assert_eq!(error["details"]["causes"][0]["reason"], "NamespaceTerminating");
    cluster.must(&admin(), "DELETE", "/api/v1/namespaces/going/configmaps/m", None).await;
}

#[tokio::test]
async fn pods_need_their_account() {
    let cluster = Cluster::new().await;
    cluster.account("default").await;
    let ann = UserInfo::new("ann", &["system:authenticated"]);
    cluster.grant("ann", "edit").await;
    let pod = |account: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "spec": {"serviceAccountName": account, "containers": [{"name": "c", "image": "i"}]}})
    };
    let pods = "/api/v1/namespaces/default/pods";
    let message = cluster.refused(&ann, 403, "POST", pods, Some(&pod("x"))).await;
    let want =
        "pods \"p\" is forbidden: error looking up service account default/x: serviceaccount \"x\" not found";
    assert_eq!(message, want);
    cluster.must(&ann, "POST", pods, Some(&pod("default"))).await;
}

/// Bad input 18: what an account may not mount, its pods do not get in another way either.
#[tokio::test]
async fn secrets_that_an_account_does_not_list_stay_out_of_its_pods() {
    let cluster = Cluster::new().await;
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let annotations = json!({"kubernetes.io/enforce-mountable-secrets": "true"});
    let account =
        json!({"metadata": {"name": "held", "annotations": annotations}, "secrets": [{"name": "own"}]});
    cluster.must(&admin(), "POST", accounts, Some(&account)).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, from: &str| {
        let container = json!({"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": from}}]});
        json!({"metadata": {"name": name}, "spec": {"serviceAccountName": "held", "containers": [container]}})
    };
    cluster.must(&admin(), "POST", pods, Some(&pod("a", "own"))).await;
    let message = cluster.refused(&admin(), 403, "POST", pods, Some(&pod("b", "other"))).await;
    let because = "referencing secret.secretName=\"other\" is not allowed because service account held does not reference that secret";
    assert_eq!(message, format!("pods \"b\" is forbidden: container c with envFrom {because}"));
    let path = format!("{pods}/a/ephemeralcontainers");
    let mut late = cluster.must(&admin(), "GET", &path, None).await;
    let before = late.clone();
    late["spec"]["ephemeralContainers"] =
        json!([{"name": "e", "image": "i", "envFrom": [{"secretRef": {"name": "other"}}]}]);
    let message = cluster.refused(&admin(), 403, "PUT", &path, Some(&late)).await;
    assert_eq!(message, format!("pods \"a\" is forbidden: ephemeral container e with envFrom {because}"));
    assert_eq!(cluster.must(&admin(), "GET", &path, None).await, before, "nothing is changed");
    late["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "i"}]);
    for field in ["labels", "annotations"] {
        late["metadata"][field] = json!({"a": "b"});
    }
    late["metadata"]["finalizers"] = json!(["a/b"]);
    let after = cluster.must(&admin(), "PUT", &path, Some(&late)).await;
    assert_eq!(after["spec"]["ephemeralContainers"][0]["name"], "e");
    for field in ["labels", "annotations", "finalizers"] {
        assert_eq!(
            after["metadata"][field], before["metadata"][field],
            "who may add containers may not change {field}"
        );
    }
}
