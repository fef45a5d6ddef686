//! Joining: tokens as users, what nobody may read, and certificates by request.

use api_machinery::clock::{Clock, rfc3339};
use apiserver::gate::controller_manager;
use apiserver::types::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use rcgen::{CertificateParams, DnType, KeyPair};
use serde_json::{Value, json};

use super::{Cluster, admin, user};

const WHOAMI: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const SECRETS: &str = "/api/v1/namespaces/kube-system/secrets";
const MAPS: &str = "/api/v1/namespaces/kube-public/configmaps";

async fn token(cluster: &Cluster, id: &str, left: i64) {
    let end = Clock::system().now() + SignedDuration::from_secs(left);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("bootstrap-token-{id}")},
        "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "expiration": rfc3339(end), "auth-extra-groups": "system:bootstrappers:x",
        },
    });
    cluster.must(&admin(), "POST", SECRETS, Some(&secret)).await;
}

#[tokio::test]
async fn tokens_are_users_until_they_expire() {
    let cluster = Cluster::new().await;
    token(&cluster, "abcdef", 600).await;
    token(&cluster, "uvwxyz", -1).await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let ask = async |token: &str| {
        let header = format!("Bearer {token}");
        cluster.outside(None, &[("authorization", &header)], "POST", WHOAMI, Some(&review)).await
    };
    let (code, answer) = ask("abcdef.0123456789abcdef").await;
    assert_eq!(code, 201, "{answer}");
    let found = &answer["status"]["userInfo"];
    assert_eq!(found["username"], "system:bootstrap:abcdef");
    assert_eq!(
        found["groups"],
        json!(["system:bootstrappers", "system:bootstrappers:x", "system:authenticated"])
    );
    for refused in ["abcdef.0123456789abcdee", "uvwxyz.0123456789abcdef", "nobody.0123456789abcdef"] {
        assert_eq!(ask(refused).await.0, 401, "{refused}");
    }
    cluster.must(&admin(), "DELETE", &format!("{SECRETS}/bootstrap-token-abcdef"), None).await;
    assert_eq!(ask("abcdef.0123456789abcdef").await.0, 401, "deleted");
}

#[tokio::test]
async fn anybody_learns_which_cluster_it_is_and_no_more() {
    let cluster = Cluster::new().await;
    let info = format!("{MAPS}/cluster-info");
    assert_eq!(cluster.outside(None, &[], "GET", &info, None).await.0, 404);
    for name in ["cluster-info", "other"] {
        let map =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": "b"}});
        cluster.must(&admin(), "POST", MAPS, Some(&map)).await;
    }
    let (code, answer) = cluster.outside(None, &[], "GET", &info, None).await;
    assert_eq!((code, &answer["data"]["a"]), (200, &json!("b")));
    for (method, path) in [
        ("GET", format!("{MAPS}/other")),
        ("GET", MAPS.to_owned()),
        ("GET", "/api/v1/namespaces/kube-system/configmaps/cluster-info".to_owned()),
    ] {
        assert_eq!(cluster.outside(None, &[], method, &path, None).await.0, 401, "{method} {path}");
    }
    for method in ["DELETE", "PUT"] {
        assert_eq!(cluster.outside(None, &[], method, &info, Some(&answer)).await.0, 403, "{method}");
    }
}

fn request(name: &str, subject: (&str, &str), signer: &str) -> Value {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, subject.0);
    params.distinguished_name.push(DnType::OrganizationName, subject.1);
    let pkcs10 = params.serialize_request(&KeyPair::generate().expect("a key")).expect("a request");
    json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pkcs10.pem().expect("PEM")), "signerName": signer,
            "usages": ["digital signature", "client auth"], "username": "somebody else",
        },
    })
}

fn bootstrapper() -> UserInfo {
    UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers", "system:authenticated"])
}

#[tokio::test]
async fn a_request_is_made_approved_and_signed_by_those_who_may() {
    let cluster = Cluster::new().await;
    let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
    let wanted = request("r", ("system:node:n", "system:nodes"), kubelet);
    cluster.refused(&user("ann"), 403, "POST", REQUESTS, Some(&wanted)).await;
    let mut made = cluster.must(&bootstrapper(), "POST", REQUESTS, Some(&wanted)).await;
    assert_eq!(made["spec"]["username"], "system:bootstrap:abcdef", "who asks is written down");
    assert_eq!(made["spec"]["groups"], json!(["system:bootstrappers", "system:authenticated"]));

    // What was asked for stays what it was.
    made["spec"]["username"] = "admin".into();
    made["status"] = json!({"conditions": [{"type": "Approved", "status": "True"}], "certificate": "eA=="});
    let same = cluster.must(&admin(), "PUT", &format!("{REQUESTS}/r"), Some(&made)).await;
    assert_eq!(same["spec"]["username"], "system:bootstrap:abcdef");
    assert!(same["status"].get("conditions").is_none(), "{same}");

    let approval = format!("{REQUESTS}/r/approval");
    let mut approved = same.clone();
    approved["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "r"}]});
    // The right to update is not the right to approve.
    cluster.grant("ann", "approver-of-nothing").await;
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "approver-of-nothing"},
        "rules": [{
            "apiGroups": ["certificates.k8s.io"], "verbs": ["update"],
            "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"],
        }],
    });
    cluster.must(&admin(), "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", Some(&role)).await;
    let why = cluster.refused(&user("ann"), 403, "PUT", &approval, Some(&approved)).await;
    assert!(
        why.contains(&format!("user not permitted to approve requests with signerName {kubelet:?}")),
        "{why}"
    );
    let done = cluster.must(&controller_manager(), "PUT", &approval, Some(&approved)).await;
    assert!(done["status"]["conditions"][0]["lastUpdateTime"].is_string(), "{done}");

    let mut both = done.clone();
    both["status"]["conditions"] =
        json!([done["status"]["conditions"][0], {"type": "Denied", "status": "True"}]);
    cluster.refused(&admin(), 422, "PUT", &approval, Some(&both)).await;

    let status = format!("{REQUESTS}/r/status");
    let mut signed = done.clone();
    let certificate = cluster.pki.ca_certificate();
    signed["status"]["certificate"] = STANDARD.encode(certificate).into();
    let why = cluster.refused(&user("ann"), 403, "PUT", &status, Some(&signed)).await;
    assert!(why.contains("user not permitted to sign requests"), "{why}");
    let mut nonsense = signed.clone();
    nonsense["status"]["certificate"] = "eA==".into();
    cluster.refused(&controller_manager(), 422, "PUT", &status, Some(&nonsense)).await;
    let issued = cluster.must(&controller_manager(), "PUT", &status, Some(&signed)).await;
    assert_eq!(issued["status"]["conditions"][0]["type"], "Approved", "a signer keeps the decision");
    let rows = cluster
        .must(&admin(), "GET", &format!("{REQUESTS}?fieldSelector=spec.signerName%3D{kubelet}"), None)
        .await;
    assert_eq!(rows["items"].as_array().map(Vec::len), Some(1));
}

#[tokio::test]
async fn what_nobody_is_issued() {
    let cluster = Cluster::new().await;
    let client = "kubernetes.io/kube-apiserver-client";
    let masters = request("r", ("ann", "system:masters"), client);
    let why = cluster.refused(&admin(), 403, "POST", REQUESTS, Some(&masters)).await;
    assert!(why.contains("with system:masters group is not allowed"), "{why}");
    let good = || request("r", ("ann", "team"), client);
    for (pointer, value, words) in [
        ("/spec/request", json!("eA=="), "PEM block type must be CERTIFICATE REQUEST"),
        ("/spec/usages", json!([]), "spec.usages: Required value"),
        ("/spec/usages", json!(["flying"]), "Unsupported value"),
        ("/spec/signerName", json!("kubernetes.io/legacy-unknown"), "legacy signerName is not allowed"),
        ("/spec/expirationSeconds", json!(599), "600 seconds"),
    ] {
        let mut bad = good();
        let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
        bad.pointer_mut(parent).expect("exists")[field] = value;
        let (code, answer) = cluster.send(&admin(), "POST", REQUESTS, Some(&bad)).await;
        let message = answer["message"].as_str().unwrap_or_default();
        // A request that cannot be read is refused by whoever reads it first.
        assert!(code == 422 || (code == 403 && pointer == "/spec/request"), "{code} {answer}");
        assert!(message.contains(words), "{message}");
    }
    cluster.must(&admin(), "POST", REQUESTS, Some(&good())).await;
}

#[tokio::test]
async fn the_network_of_a_node_reads_what_a_kubelet_may_not() {
    let cluster = Cluster::new().await;
    let network = UserInfo::new("skiff:node-network:a", &["skiff:node-network", "system:authenticated"]);
    for path in ["/api/v1/nodes", "/api/v1/services", "/apis/discovery.k8s.io/v1/endpointslices"] {
        cluster.must(&network, "GET", path, None).await;
    }
    for path in ["/api/v1/secrets", "/api/v1/pods", "/api/v1/configmaps"] {
        cluster.refused(&network, 403, "GET", path, None).await;
    }
}

#[tokio::test]
async fn who_speaks_for_a_signer_says_whom_to_trust() {
    const BUNDLES: &str = "/apis/certificates.k8s.io/v1/clustertrustbundles";
    let cluster = Cluster::new().await;
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let anchor = params.self_signed(&KeyPair::generate().expect("a key")).expect("a certificate").pem();
    let bundle = |name: &str, signer: &str| {
        json!({
            "apiVersion": "certificates.k8s.io/v1", "kind": "ClusterTrustBundle", "metadata": {"name": name},
            "spec": {"signerName": signer, "trustBundle": anchor},
        })
    };
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "bundles"},
        "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["clustertrustbundles"], "verbs": ["*"]},
            {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "verbs": ["attest"],
                "resourceNames": ["example.com/*"]}],
    });
    cluster.must(&admin(), "POST", "/apis/rbac.authorization.k8s.io/v1/clusterroles", Some(&role)).await;
    cluster.grant("ann", "bundles").await;
    let ann = user("ann");
    let own = bundle("example.com:mine:v1", "example.com/mine");
    let mut made = cluster.must(&ann, "POST", BUNDLES, Some(&own)).await;
    cluster.must(&ann, "POST", BUNDLES, Some(&bundle("of-nobody", ""))).await;
    let other = bundle("example.org:theirs:v1", "example.org/theirs");
    cluster.refused(&ann, 403, "POST", BUNDLES, Some(&other)).await;
    made["spec"]["signerName"] = "example.com/other".into();
    let path = format!("{BUNDLES}/example.com:mine:v1");
    cluster.refused(&ann, 422, "PUT", &path, Some(&made)).await;
    let listed = format!("{BUNDLES}?fieldSelector=spec.signerName%3Dexample.com/mine");
    let account =
        UserInfo::new("system:serviceaccount:a:b", &["system:serviceaccounts", "system:authenticated"]);
    let found = cluster.must(&account, "GET", &listed, None).await;
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1), "{found}");
}
