//! Which requests webhooks are asked about.

use serde_json::{Value, json};

use super::receiver::Receiver;
use super::{GROUP, MAPS, PODS, configure, creation, map, patch, pod, rule};
use crate::fixture::{Fixture, read};

#[tokio::test]
async fn rules_selectors_and_conditions() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let namespace = json!({"metadata": {"name": "red", "labels": {"color": "red"}}});
    fixture.must("POST", "/api/v1/namespaces", Some(&namespace)).await;
    let mut hooks = Vec::new();
    let mut add = |name: &str, rules: Value, more: Value| {
        let mut hook = receiver.hook(name, name, rules);
        for (field, value) in more.as_object().into_iter().flatten() {
            hook[field] = value.clone();
        }
        hooks.push(hook);
    };
    let maps = || creation("configmaps");
    let red = json!({"matchLabels": {"color": "red"}});
    let condition = |text: &str| json!({"matchConditions": [{"name": "c", "expression": text}]});
    add("all", maps(), json!({}));
    add("updates", rule(&["UPDATE"], "configmaps"), json!({}));
    add("others", creation("secrets"), json!({}));
    add("all-of-it", creation("configmaps/*"), json!({}));
    add("namespaced", with_scope("Namespaced"), json!({}));
    add("cluster", with_scope("Cluster"), json!({}));
    add("red-namespaces", maps(), json!({"namespaceSelector": red}));
    add("red-objects", maps(), json!({"objectSelector": red}));
    add("named-a", maps(), condition("object.metadata.name == 'a'"));
    add("tester", maps(), condition("request.userInfo.username == 'tester' && oldObject == null"));
    add("may", maps(), condition("authorizer.requestResource.check('update').allowed()"));
    let account =
        "authorizer.serviceAccount('x', 'nobody').group('').resource('pods').check('get').allowed()";
    add("may-not", maps(), condition(&format!("!{account}")));
    configure(&fixture, "Validating", "v", &hooks).await;
    let send = async |namespace: &str, object: &Value| {
        fixture.must("POST", &format!("/api/v1/namespaces/{namespace}/configmaps"), Some(object)).await;
        let mut paths = receiver.paths();
        paths.sort();
        paths
    };
    let always = ["all", "all-of-it", "may", "namespaced", "tester"];
    assert_eq!(send("default", &map("b")).await, always);
    assert_eq!(
        send("default", &map("a")).await,
        ["all", "all-of-it", "may", "named-a", "namespaced", "tester"]
    );
    assert_eq!(
        send("red", &map("b")).await,
        ["all", "all-of-it", "may", "namespaced", "red-namespaces", "tester"]
    );
    let mut labelled = map("c");
    labelled["metadata"]["labels"] = json!({"color": "red"});
    assert_eq!(
        send("default", &labelled).await,
        ["all", "all-of-it", "may", "namespaced", "red-objects", "tester"]
    );
    let path = format!("{MAPS}/c");
    assert_eq!(read(fixture.call(patch(&path, r#"{"data": {"d": "e"}}"#)).await).await.0, 200);
    assert_eq!(receiver.paths(), ["updates"]);
}

#[tokio::test]
async fn what_a_condition_that_fails_means_the_policy_says() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let failing = |policy: &str| {
        let mut hook = receiver.hook("failing", "failing", creation("configmaps"));
        hook["matchConditions"] = json!([{"name": "c", "expression": "object.spec.x == 1"}]);
        hook["failurePolicy"] = policy.into();
        hook
    };
    configure(&fixture, "Mutating", "ignored", &[failing("Ignore")]).await;
    fixture.must("POST", MAPS, Some(&map("d"))).await;
    configure(&fixture, "Mutating", "missed", &[failing("Fail")]).await;
    let (code, status) = fixture.send("POST", MAPS, Some(&map("e"))).await;
    assert_eq!(code, 403);
    let text =
        "configmaps \"e\" is forbidden: expression 'object.spec.x == 1' resulted in error: no such key: spec";
    assert_eq!(status["message"], text);
    assert!(receiver.paths().is_empty());
}

fn with_scope(scope: &str) -> Value {
    let mut rules = creation("configmaps");
    rules[0]["scope"] = scope.into();
    rules
}

#[tokio::test]
async fn subresources_are_shown_as_what_they_are() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
    let path = "/apis/apps/v1/namespaces/default/deployments";
    fixture.must("POST", path, Some(&deployment)).await;
    fixture.must("POST", PODS, Some(&pod("p"))).await;
    let all = ["CREATE", "UPDATE"];
    let hooks = [
        receiver.hook("scale", "three", rule(&all, "deployments/scale")),
        receiver.hook("others", "allow", rule(&["*"], "*/*")),
    ];
    configure(&fixture, "Mutating", "m", &hooks).await;
    let response = fixture.call(patch(&format!("{path}/d/scale"), r#"{"spec": {"replicas": 2}}"#)).await;
    let (code, scale) = read(response).await;
    assert_eq!((code, &scale["kind"], &scale["spec"]["replicas"]), (200, &json!("Scale"), &json!(3)));
    let asked = receiver.asked();
    let seen = &asked[0].1;
    assert_eq!((&seen["kind"]["kind"], &seen["subResource"]), (&json!("Scale"), &json!("scale")));
    assert_eq!(
        (&seen["object"]["spec"], &seen["oldObject"]["spec"]),
        (&json!({"replicas": 2}), &json!({"replicas": 1}))
    );
    let binding = json!({"target": {"kind": "Node", "name": "n"}});
    fixture.must("POST", &format!("{PODS}/p/binding"), Some(&binding)).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    fixture.must("POST", &format!("{PODS}/p/eviction"), Some(&eviction)).await;
    let asked: Vec<(String, Value, Value)> = receiver
        .asked()
        .into_iter()
        .map(|(_, seen)| {
            let kind = seen["kind"]["kind"].as_str().unwrap_or_default().to_owned();
            (kind, seen["operation"].clone(), seen["name"].clone())
        })
        .collect();
    let create = |kind: &str| (kind.to_owned(), json!("CREATE"), json!("p"));
    assert_eq!(asked, [create("Binding"), create("Eviction")], "an eviction is no deletion");
}

#[tokio::test]
async fn other_forms_of_the_same_object() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let old = json!([{"operations": ["CREATE"], "apiGroups": ["autoscaling"], "apiVersions": ["v1"],
        "resources": ["horizontalpodautoscalers"]}]);
    let mut exact = receiver.hook("exact", "exact", old.clone());
    exact["matchPolicy"] = "Exact".into();
    configure(&fixture, "Mutating", "m", &[receiver.hook("count", "count", old), exact]).await;
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let path = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers";
    let made = fixture.must("POST", path, Some(&scaler)).await;
    assert_eq!(made["apiVersion"], "autoscaling/v2");
    assert_eq!(made["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 50);
    let asked = receiver.asked();
    assert_eq!(asked.len(), 1, "the other one is asked about its own version only");
    let seen = &asked[0].1;
    assert_eq!((&seen["kind"]["version"], &seen["requestKind"]["version"]), (&json!("v1"), &json!("v2")));
    assert_eq!(
        (&seen["resource"]["version"], &seen["requestResource"]["version"]),
        (&json!("v1"), &json!("v2"))
    );
    assert_eq!(seen["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(seen["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
}

#[tokio::test]
async fn nobody_is_asked_about_webhooks() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let hook = receiver.hook("deny", "deny", rule(&["*"], "*/*"));
    configure(&fixture, "Validating", "v", std::slice::from_ref(&hook)).await;
    configure(&fixture, "Mutating", "m", &[hook]).await;
    let (code, _) = fixture.send("POST", MAPS, Some(&map("m"))).await;
    assert_eq!(code, 403);
    assert_eq!(receiver.paths(), ["deny"]);
    for plural in ["mutatingwebhookconfigurations/m", "validatingwebhookconfigurations/v"] {
        fixture.must("DELETE", &format!("{GROUP}/{plural}"), None).await;
    }
    assert!(receiver.paths().is_empty());
}

#[tokio::test]
async fn a_namespace_is_selected_by_its_own_labels() {
    let (fixture, receiver) = (Fixture::new().await, Receiver::start().await);
    let mut hook = receiver.hook("allow", "allow", rule(&["*"], "namespaces"));
    hook["namespaceSelector"] = json!({"matchLabels": {"color": "red"}});
    configure(&fixture, "Validating", "v", &[hook]).await;
    let namespace = |name: &str, color: &str| json!({"metadata": {"name": name, "labels": {"color": color}}});
    let path = "/api/v1/namespaces";
    fixture.must("POST", path, Some(&namespace("a", "red"))).await;
    fixture.must("POST", path, Some(&namespace("b", "blue"))).await;
    let seen = receiver.asked();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].1["namespace"], &seen[0].1["name"]), (&json!("a"), &json!("a")));
    // On its way from red to blue it is blue already, and once it goes, it is what it was.
    fixture.must("PUT", "/api/v1/namespaces/a", Some(&namespace("a", "blue"))).await;
    assert!(receiver.paths().is_empty());
    fixture.must("PUT", "/api/v1/namespaces/b", Some(&namespace("b", "red"))).await;
    assert_eq!(receiver.paths().len(), 1);
    fixture.server.lookup().fresh().await.expect("a view that is not older");
    fixture.must("DELETE", "/api/v1/namespaces/b", None).await;
    assert_eq!(receiver.asked()[0].1["operation"], "DELETE");
}
