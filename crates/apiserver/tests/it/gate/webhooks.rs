//! Webhooks in the cluster: asked at the endpoints of their Services, through the tunnels of the nodes that these are on; and
//! what they are told of connections.

use serde_json::{Value, json};

use super::admin;
use super::proxies::{NodeEnd, endpoint, endpoints, pod, service};
use super::tunnels::Machine;
use crate::kubelets::local;
use crate::webhooks::receiver::{Receiver, bundle};

const GROUP: &str = "/apis/admissionregistration.k8s.io/v1";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Stores a configuration with one webhook of the Service `web`, and waits until the server goes by it.
async fn configure(machine: &Machine, receiver: &Receiver, kind: &str, path: &str, rule: Value) {
    let service = json!({"namespace": "default", "name": "web", "port": 80, "path": format!("/{path}")});
    let webhook = json!({
        "name": format!("{path}.example.com"), "sideEffects": "None", "admissionReviewVersions": ["v1"],
        "clientConfig": {"service": service, "caBundle": bundle(&receiver.authority)}, "rules": [rule],
    });
    let object = json!({"metadata": {"name": path}, "webhooks": [webhook]});
    let path = format!("{GROUP}/{kind}webhookconfigurations");
    machine.cluster.must(&admin(), "POST", &path, Some(&object)).await;
    machine.cluster.server.lookup().fresh().await.expect("a view that is not older");
}

#[tokio::test]
async fn a_webhook_in_a_pod_is_asked_through_the_tunnel_of_its_node() {
    let machine = Machine::start(local()).await;
    let receiver = Receiver::named("web.default.svc").await;
    let node = NodeEnd::open(&machine, &[("10.42.0.7:8443", receiver.address)]).await;
    pod(&machine, "hook", "10.42.0.7").await;
    service(&machine).await;
    endpoints(&machine, 8443, json!([endpoint("10.42.0.7", "default", "hook", true)])).await;
    let creation = |resource: &str| json!({"operations": ["CREATE"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": [resource]});
    configure(&machine, &receiver, "mutating", "label", creation("configmaps")).await;
    configure(&machine, &receiver, "validating", "deny", creation("secrets")).await;
    let map = json!({"metadata": {"name": "m"}});
    let made = machine.cluster.must(&admin(), "POST", MAPS, Some(&map)).await;
    assert_eq!(made["metadata"]["labels"], json!({"label": "yes"}));
    assert_eq!(node.dialed(), ["10.42.0.7:8443"]);
    let secrets = "/api/v1/namespaces/default/secrets";
    let text = machine.cluster.refused(&admin(), 403, "POST", secrets, Some(&map)).await;
    assert_eq!(text, "admission webhook \"deny.example.com\" denied the request: not like this");
    // Whoever answers there must be the Service.
    let other = Receiver::named("other.default.svc").await;
    let connect = json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["services"]});
    configure(&machine, &other, "validating", "allow", connect).await;
    let another = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 1}]}});
    let services = "/api/v1/namespaces/default/services";
    let text = machine.cluster.refused(&admin(), 500, "POST", services, Some(&another)).await;
    assert!(
        text.contains("Post \"https://web.default.svc:80/allow?timeout=10s\": tls: failed to verify"),
        "{text}"
    );
    machine.stop().await;
}

#[tokio::test]
async fn webhooks_have_a_say_in_connections() {
    let machine = Machine::start(local()).await;
    let receiver = Receiver::named("web.default.svc").await;
    let node = NodeEnd::open(&machine, &[("10.42.0.7:8443", receiver.address)]).await;
    pod(&machine, "hook", "10.42.0.7").await;
    service(&machine).await;
    endpoints(&machine, 8443, json!([endpoint("10.42.0.7", "default", "hook", true)])).await;
    let rule = json!({"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/proxy"]});
    configure(&machine, &receiver, "validating", "deny", rule).await;
    let path = "/api/v1/namespaces/default/pods/hook/proxy/a/b";
    let text = machine.cluster.refused(&admin(), 403, "GET", path, None).await;
    assert_eq!(text, "admission webhook \"deny.example.com\" denied the request: not like this");
    let asked = receiver.asked();
    let seen = &asked[0].1;
    assert_eq!((&seen["operation"], &seen["name"]), (&json!("CONNECT"), &json!("hook")));
    assert_eq!(
        (&seen["kind"]["kind"], &seen["object"]["kind"]),
        (&json!("PodProxyOptions"), &json!("PodProxyOptions"))
    );
    assert_eq!(seen["object"]["path"], "/a/b");
    assert!(seen["options"].is_null() && seen["oldObject"].is_null());
    assert_eq!(node.dialed(), ["10.42.0.7:8443"], "the webhook, and not the pod");
    machine.stop().await;
}

#[tokio::test]
async fn the_servers_own_plugins_see_what_webhooks_made() {
    let machine = Machine::start(local()).await;
    let receiver = Receiver::named("web.default.svc").await;
    let _node = NodeEnd::open(&machine, &[("10.42.0.7:8443", receiver.address)]).await;
    pod(&machine, "hook", "10.42.0.7").await;
    service(&machine).await;
    endpoints(&machine, 8443, json!([endpoint("10.42.0.7", "default", "hook", true)])).await;
    let rule =
        json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    configure(&machine, &receiver, "mutating", "sidecar", rule).await;
    let class = json!({"metadata": {"name": "high"}, "value": 7});
    machine.cluster.must(&admin(), "POST", "/apis/scheduling.k8s.io/v1/priorityclasses", Some(&class)).await;
    let containers = json!([{"name": "c", "image": "i"}]);
    let new =
        json!({"metadata": {"name": "new"}, "spec": {"containers": containers, "priorityClassName": "high"}});
    let made = machine.cluster.must(&admin(), "POST", "/api/v1/namespaces/default/pods", Some(&new)).await;
    let spec = &made["spec"];
    assert_eq!((&spec["priority"], &spec["containers"][1]["name"]), (&json!(7), &json!("sidecar")));
    // They run twice, and do once what they do.
    let count = |value: &Value| value.as_array().map_or(0, Vec::len);
    assert_eq!((count(&spec["volumes"]), count(&spec["tolerations"])), (1, 2), "{spec}");
    for container in spec["containers"].as_array().into_iter().flatten() {
        assert_eq!(container["volumeMounts"][0]["name"], spec["volumes"][0]["name"], "{container}");
        assert_eq!(count(&container["volumeMounts"]), 1);
    }
    machine.stop().await;
}
