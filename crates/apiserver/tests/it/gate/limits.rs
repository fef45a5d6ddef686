//! Limits of a namespace from outside: defaults come before quotas, levels are kept, and what is refused costs nothing.

use serde_json::json;

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
    let why = cluster.refused(&admin, 403, "POST", &pods, Some(&pod("late", false, ""))).await;
    assert_eq!(
        why,
        "pods \"late\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    );
    let quota = cluster.must(&admin, "GET", &path, None).await;
    assert_eq!(quota["status"]["used"], json!({"pods": "1", "limits.cpu": "200m"}));
}
