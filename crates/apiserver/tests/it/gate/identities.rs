//! Who somebody is: certificates, tokens, nobody, and somebody else.

use std::sync::Arc;

use api_machinery::clock::Clock;
use apiserver::Config;
use apiserver::proxy::NoKubelets;
use apiserver::tokens::Claims;
use apiserver::types::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Client, Cluster, ISSUER, admin, user};

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn whoami() -> Value {
    json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"})
}

#[tokio::test]
async fn nobody_reads_health_and_version_only() {
    let cluster = Cluster::new().await;
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(cluster.outside(None, &[], "GET", path, None).await.0, 200, "{path}");
    }
    for path in [
        "/",
        "/api",
        "/apis",
        "/metrics",
        "/openapi/v2",
        "/api/v1/pods",
        "/openid/v1/jwks",
        "/livez/x",
        "/nowhere",
    ] {
        assert_eq!(cluster.outside(None, &[], "GET", path, None).await.0, 401, "{path}");
    }
    for path in ["/healthz", "/version"] {
        assert_ne!(cluster.outside(None, &[], "POST", path, None).await.0, 200, "POST {path}");
    }
    // A proxy that nobody trusts vouches for nobody.
    let vouched = [("x-remote-user", "admin"), ("x-remote-group", "system:masters")];
    assert_eq!(cluster.outside(None, &vouched, "GET", "/api/v1/pods", None).await.0, 401);
    let (code, review) = cluster.outside(Some(Client::Node), &vouched, "POST", WHOAMI, Some(&whoami())).await;
    assert_eq!((code, &review["status"]["userInfo"]["username"]), (201, &json!("system:node:a")));
    let wrong = [("authorization", "Bearer nonsense")];
    assert_eq!(
        cluster.outside(None, &wrong, "GET", "/version", None).await.0,
        401,
        "bad ones are no better than none"
    );
}

#[tokio::test]
async fn a_closed_server_tells_nobody_anything() {
    let cluster = Cluster::with(Config::default(), Arc::new(NoKubelets), false).await;
    for path in ["/healthz", "/version", "/api/v1/namespaces/kube-public/configmaps/cluster-info"] {
        assert_eq!(cluster.outside(None, &[], "GET", path, None).await.0, 401, "{path}");
    }
    assert_eq!(cluster.outside(Some(Client::Scheduler), &[], "GET", "/version", None).await.0, 200);
}

#[tokio::test]
async fn a_clouds_controllers_may_do_their_work_and_no_more() {
    let cluster = Cluster::new().await;
    let ask = async |method: &str, path: &str| {
        cluster.outside(Some(Client::CloudControllerManager), &[], method, path, None).await.0
    };
    for path in ["/api/v1/nodes", "/api/v1/services", "/apis/storage.k8s.io/v1/volumeattachments"] {
        assert_eq!(ask("GET", path).await, 200, "{path}");
    }
    assert_eq!(ask("DELETE", "/api/v1/nodes/gone").await, 404, "allowed, and not there");
    for (method, path) in [
        ("GET", "/api/v1/secrets"),
        ("DELETE", "/api/v1/namespaces/default/services/kubernetes"),
        ("DELETE", "/api/v1/namespaces/default/pods/x"),
        ("GET", "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler"),
    ] {
        assert_eq!(ask(method, path).await, 403, "{method} {path}");
    }
}

#[tokio::test]
async fn certificates_are_users() {
    let cluster = Cluster::new().await;
    for (client, name, group) in [
        (Client::Admin, "kubernetes-admin", "system:masters"),
        (Client::Scheduler, "system:kube-scheduler", "system:authenticated"),
        (Client::Node, "system:node:a", "system:nodes"),
    ] {
        let (code, review) = cluster.outside(Some(client), &[], "POST", WHOAMI, Some(&whoami())).await;
        assert_eq!(code, 201, "{review}");
        let found = &review["status"]["userInfo"];
        assert_eq!(found["username"], name);
        assert!(found["groups"].as_array().is_some_and(|groups| groups.contains(&json!(group))), "{found}");
    }
    assert_eq!(cluster.outside(Some(Client::Admin), &[], "GET", "/api/v1/secrets", None).await.0, 200);
    let (code, error) = cluster.outside(Some(Client::Scheduler), &[], "GET", "/api/v1/secrets", None).await;
    assert_eq!(code, 403);
    assert_eq!(
        error["message"],
        "secrets is forbidden: User \"system:kube-scheduler\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"
    );
}

#[tokio::test]
async fn being_somebody_else_needs_the_right() {
    let cluster = Cluster::new().await;
    let as_ann = [("impersonate-user", "ann"), ("impersonate-group", "team")];
    let (_, review) = cluster.outside(Some(Client::Admin), &as_ann, "POST", WHOAMI, Some(&whoami())).await;
    assert_eq!(review["status"]["userInfo"]["username"], "ann");
    assert_eq!(review["status"]["userInfo"]["groups"], json!(["team", "system:authenticated"]));
    let (code, _) = cluster.outside(Some(Client::Admin), &as_ann, "GET", "/api/v1/secrets", None).await;
    assert_eq!(code, 403, "the rights are the other's");
    let as_master = [("impersonate-user", "ann"), ("impersonate-group", "system:masters")];
    let (code, error) =
        cluster.outside(Some(Client::Scheduler), &as_master, "GET", "/api/v1/secrets", None).await;
    assert_eq!(code, 403);
    assert_eq!(
        error["message"],
        "users \"ann\" is forbidden: User \"system:kube-scheduler\" cannot impersonate resource \"users\" in API group \"\" at the cluster scope"
    );
    // Who may be some users may not be in any group.
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["ann"]}]);
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "ann"}, "rules": rules});
    cluster.must(&admin(), "POST", &format!("{}/clusterroles", super::RBAC), Some(&role)).await;
    cluster.grant("system:kube-scheduler", "ann").await;
    let just_ann = [("impersonate-user", "ann")];
    assert_eq!(
        cluster.outside(Some(Client::Scheduler), &just_ann, "POST", WHOAMI, Some(&whoami())).await.0,
        201
    );
    let (code, error) =
        cluster.outside(Some(Client::Scheduler), &as_master, "POST", WHOAMI, Some(&whoami())).await;
    assert_eq!(code, 403);
    assert!(
        error["message"].as_str().is_some_and(|text| text.contains("groups \"system:masters\" is forbidden")),
        "{error}"
    );
}

/// A token by the API, bound to a pod.
async fn pod_token(cluster: &Cluster, pod: &Value) -> String {
    let reference = json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": pod["metadata"]["uid"]});
    let request = json!({"spec": {"boundObjectRef": reference, "expirationSeconds": 3607}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let (code, token) = cluster.outside(Some(Client::Node), &[], "POST", path, Some(&request)).await;
    assert_eq!(code, 201, "{token}");
    assert_eq!(token["spec"]["audiences"], json!([ISSUER]));
    token["status"]["token"].as_str().expect("a token").to_owned()
}

async fn with_token(cluster: &Cluster, token: &str) -> (u16, Value) {
    let header = format!("Bearer {token}");
    cluster.outside(None, &[("authorization", &header)], "POST", WHOAMI, Some(&whoami())).await
}

#[tokio::test]
async fn a_token_lives_as_long_as_its_pod() {
    let cluster = Cluster::new().await;
    cluster.account("default").await;
    let node = UserInfo::new("system:node:a", &["system:nodes", "system:authenticated"]);
    let object = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "a"}});
    cluster.must(&node, "POST", "/api/v1/nodes", Some(&object)).await;
    let pod = cluster.pod("p", "a", json!({})).await;
    let token = pod_token(&cluster, &pod).await;
    let (code, review) = with_token(&cluster, &token).await;
    assert_eq!(code, 201, "{review}");
    let found = &review["status"]["userInfo"];
    assert_eq!(found["username"], "system:serviceaccount:default:default");
    assert_eq!(found["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
    assert_eq!(found["extra"]["authentication.kubernetes.io/node-name"], json!(["a"]));
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = cluster.must(&admin(), "POST", path, Some(&review)).await;
    assert_eq!(
        (&answer["status"]["authenticated"], &answer["status"]["audiences"]),
        (&json!(true), &json!([ISSUER]))
    );
    let mut other = review.clone();
    other["spec"]["audiences"] = json!(["vault"]);
    let answer = cluster.must(&admin(), "POST", path, Some(&other)).await;
    assert!(
        answer["status"].get("authenticated").is_none() && answer["status"]["error"].is_string(),
        "{answer}"
    );

    let pods = "/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0";
    cluster.must(&admin(), "DELETE", pods, None).await;
    assert_eq!(with_token(&cluster, &token).await.0, 401, "the pod is gone");
    cluster.pod("p", "a", json!({})).await;
    assert_eq!(with_token(&cluster, &token).await.0, 401, "another pod of that name is another pod");
}

#[tokio::test]
async fn forged_and_foreign_tokens() {
    let cluster = Cluster::new().await;
    cluster.account("default").await;
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    let account = cluster.must(&admin(), "GET", path, None).await;
    let now = Clock::system().now().as_second();
    let mut good = Claims {
        aud: vec![ISSUER.to_owned()],
        exp: now + 600,
        iat: now,
        nbf: now,
        iss: ISSUER.to_owned(),
        sub: "system:serviceaccount:default:default".to_owned(),
        ..Claims::default()
    };
    good.kubernetes.namespace = "default".to_owned();
    good.kubernetes.serviceaccount.name = "default".to_owned();
    good.kubernetes.serviceaccount.uid = account["metadata"]["uid"].as_str().expect("a uid").to_owned();
    let sign = |change: &dyn Fn(&mut Claims)| {
        let mut claims = good.clone();
        change(&mut claims);
        cluster.tokens.sign(claims).expect("a token")
    };
    let kid = cluster.tokens.jwks()["keys"][0]["kid"].clone();
    let unsigned = |header: Value| {
        let claims = serde_json::to_string(&good).expect("claims");
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims))
    };
    let hs256 = unsigned(json!({"alg": "HS256", "kid": kid}));
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, cluster.tokens.public_key_pem().as_bytes());
    let tag = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&secret, hs256.as_bytes()));
    assert_eq!(with_token(&cluster, &sign(&|_| {})).await.0, 201, "the good one is good");
    let bad = [
        ("alg none", format!("{}.", unsigned(json!({"alg": "none"})))),
        ("HS256 with the public key", format!("{hs256}.{tag}")),
        ("another audience", sign(&|claims| claims.aud = vec!["vault".to_owned()])),
        ("expired", sign(&|claims| claims.exp = now - 100)),
        ("not yet", sign(&|claims| claims.nbf = now + 100)),
        ("another account", sign(&|claims| claims.kubernetes.serviceaccount.uid = "other".to_owned())),
        ("a missing account", sign(&|claims| claims.kubernetes.serviceaccount.name = "x".to_owned())),
        ("another subject", sign(&|claims| claims.sub = "system:apiserver".to_owned())),
        ("a dead pod", sign(&|claims| claims.kubernetes.pod = Some(apiserver::tokens::Reference::default()))),
    ];
    for (what, token) in bad {
        let (code, error) = with_token(&cluster, &token).await;
        assert_eq!((code, &error["message"]), (401, &json!("Unauthorized")), "{what}");
    }
}

#[tokio::test]
async fn requests_for_tokens_are_checked() {
    let cluster = Cluster::new().await;
    cluster.account("default").await;
    cluster.account("other").await;
    let pod = cluster.pod("p", "a", json!({"serviceAccountName": "other"})).await;
    let bound = |kind: &str, name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"apiVersion": "v1", "kind": kind, "name": name, "uid": uid}}});
    let uid = pod["metadata"]["uid"].as_str().expect("a uid");
    let table = [
        ("default", json!({"spec": {}}), 201, ""),
        (
            "default",
            json!({"spec": {"expirationSeconds": 599}}),
            422,
            "may not specify a duration less than 10 minutes",
        ),
        (
            "default",
            json!({"spec": {"expirationSeconds": 4_294_967_297_i64}}),
            422,
            "may not specify a duration larger than 2^32 seconds",
        ),
        (
            "default",
            bound("Pod", "p", uid),
            400,
            "cannot bind token for serviceaccount \"default\" to pod running with different serviceaccount name.",
        ),
        ("other", bound("Pod", "p", uid), 201, ""),
        ("other", bound("Pod", "p", "x"), 409, "does not match the UID in record"),
        ("other", bound("Pod", "q", ""), 404, "pods \"q\" not found"),
        ("other", bound("ConfigMap", "p", ""), 400, "cannot bind token to object of type v1, Kind=ConfigMap"),
        ("missing", json!({"spec": {}}), 404, "serviceaccounts \"missing\" not found"),
    ];
    for (account, body, want, text) in table {
        let path = format!("/api/v1/namespaces/default/serviceaccounts/{account}/token");
        let (code, value) = cluster.send(&admin(), "POST", &path, Some(&body)).await;
        assert_eq!(code, want, "{body}: {value}");
        assert!(value["message"].as_str().unwrap_or_default().contains(text), "{value}");
    }
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    cluster.refused(&user("ann"), 403, "POST", path, Some(&json!({"spec": {}}))).await;
}
