//! Limits of a namespace from outside: defaults come before quotas, levels are kept, and what is refused costs nothing.

use serde_json::{Value, json};

use super::{Cluster, admin};

const NAMESPACE: &str = "/api/v1/namespaces/default";

#[tokio::test(start_paused = true)]
async fn a_namespace_with_limits() {
    let (cluster, admin) = (Cluster::new().await, admin());
    cluster.account("default").await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Container", "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}, "max": {"cpu": "1"}}]}});
    cluster.must(&admin, "POST", &format!("{NAMESPACE}/limitranges"), Some(&range)).await;
    let hard = json!({"pods": "1", "limits.cpu": "1"});
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    cluster.must(&admin, "POST", &format!("{NAMESPACE}/resourcequotas"), Some(&quota)).await;
    let counted = json!({"metadata": {"name": "q"}, "status": {"hard": hard, "used": {"pods": "0", "limits.cpu": "0"}}});
    let path = format!("{NAMESPACE}/resourcequotas/q");
    cluster.must(&admin, "PUT", &format!("{path}/status"), Some(&counted)).await;
    let labels = json!({"pod-security.kubernetes.io/enforce": "baseline"});
    let mut namespace = cluster.must(&admin, "GET", NAMESPACE, None).await;
    namespace["metadata"]["labels"]
        .as_object_mut()
        .expect("labels")
        .extend(labels.as_object().cloned().expect("labels"));
    cluster.must(&admin, "PUT", NAMESPACE, Some(&namespace)).await;
    let pods = format!("{NAMESPACE}/pods");
    let pod = |name: &str, host: bool, cpu: &str| {
        let resources = if cpu.is_empty() { json!({}) } else { json!({"limits": {"cpu": cpu}}) };
        json!({"metadata": {"name": name}, "spec": {"hostNetwork": host,
            "containers": [{"name": "c", "image": "i", "resources": resources}]}})
    };
    // The newest state of all of these, before anything is judged by it.
    cluster.must(&admin, "GET", &pods, None).await;
    let why = cluster.refused(&admin, 403, "POST", &pods, Some(&pod("big", false, "2"))).await;
    assert_eq!(why, "pods \"big\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
    let why = cluster.refused(&admin, 403, "POST", &pods, Some(&pod("bad", true, ""))).await;
    let wanted = "pods \"bad\" is forbidden: violates PodSecurity \"baseline:latest\": host namespaces (hostNetwork=true)";
    assert_eq!(why, wanted);
    let made = cluster.must(&admin, "POST", &pods, Some(&pod("good", false, ""))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(*resources, json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}}));
    assert_eq!(made["status"]["qosClass"], "Burstable", "by what it got");
    let why = cluster.refused(&admin, 403, "POST", &pods, Some(&pod("late", false, ""))).await;
    assert_eq!(
        why,
        "pods \"late\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    );
    let quota = cluster.must(&admin, "GET", &path, None).await;
    assert_eq!(quota["status"]["used"], json!({"pods": "1", "limits.cpu": "200m"}));
    resizes(&cluster, made).await;
}

/// What a pod has may change within the limits of its namespace, and its quota is charged the difference.
async fn resizes(cluster: &Cluster, mut pod: Value) {
    let path = format!("{NAMESPACE}/pods/good/resize");
    pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("2");
    let why = cluster.refused(&admin(), 403, "PUT", &path, Some(&pod)).await;
    assert_eq!(why, "pods \"good\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
    pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("900m");
    pod["spec"]["containers"][0]["image"] = json!("another");
    pod["metadata"]["labels"] = json!({"a": "b"});
    let made = cluster.must(&admin(), "PUT", &path, Some(&pod)).await;
    let container = &made["spec"]["containers"][0];
    assert_eq!(container["resources"], json!({"limits": {"cpu": "900m"}, "requests": {"cpu": "100m"}}));
    assert_eq!((&container["image"], &made["metadata"]["generation"]), (&json!("i"), &json!(2)));
    assert_eq!(made["metadata"]["labels"], Value::Null, "who may resize may not label");
    let used = async || {
        let quota = cluster.must(&admin(), "GET", &format!("{NAMESPACE}/resourcequotas/q"), None).await;
        quota["status"]["used"]["limits.cpu"].clone()
    };
    assert_eq!(used().await, "900m");
    let hard = json!({"limits.cpu": "950m"});
    let mut quota = cluster.must(&admin(), "GET", &format!("{NAMESPACE}/resourcequotas/q"), None).await;
    quota["spec"] = json!({"hard": hard});
    quota["status"]["hard"] = hard;
    for part in ["", "/status"] {
        let path = format!("{NAMESPACE}/resourcequotas/q{part}");
        quota["metadata"]["resourceVersion"] = Value::Null;
        cluster.must(&admin(), "PUT", &path, Some(&quota)).await;
    }
    // The newest quota, before anything is judged by it.
    assert_eq!(used().await, "900m");
    let mut pod = made;
    pod["spec"]["containers"][0]["resources"]["limits"]["cpu"] = json!("1");
    let why = cluster.refused(&admin(), 403, "PUT", &path, Some(&pod)).await;
    let wanted =
        "exceeded quota: q, requested: limits.cpu=100m, used: limits.cpu=900m, limited: limits.cpu=950m";
    assert_eq!(why, format!("pods \"good\" is forbidden: {wanted}"));
    assert_eq!(used().await, "900m", "what is refused costs nothing");
}
