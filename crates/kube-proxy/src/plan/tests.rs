//! Services and slices as data, the plan as lines.

use super::*;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::serde_json::{Value, from_value, json};

fn node() -> Node {
    Node { name: "here".to_owned(), answered: vec![Ipv4Addr::new(10, 43, 0, 10)] }
}

fn service(spec: &Value, status: &Value) -> Service {
    from_value(json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec, "status": status}))
        .unwrap()
}

fn slice(ports: Value, endpoints: Value) -> Box<EndpointSlice> {
    let metadata = json!({"name": "x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}});
    from_value(json!({"metadata": metadata, "addressType": "IPv4", "ports": ports, "endpoints": endpoints}))
        .map(Box::new)
        .unwrap()
}

/// Even pods are here, odd ones elsewhere.
fn endpoint(last: u8, ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"addresses": [format!("10.42.0.{last}")], "nodeName": if last.is_multiple_of(2) { "here" } else { "there" },
           "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
}

fn ready(last: u8) -> Value {
    endpoint(last, true, true, false)
}

/// One line a frontend: `tcp 10.43.0.9:80 -> 10.42.0.2:8080 …`, as clients outside see it.
fn print(part: &ServicePlan) -> Vec<String> {
    let mut lines = Vec::new();
    for plan in part.ports.values() {
        for (frontend, access) in &plan.frontends {
            let from = match frontend {
                Frontend::Address(ip, protocol, port) => format!("{} {ip}:{port}", protocol.name()),
                Frontend::NodePort(protocol, port) => format!("{} *:{port}", protocol.name()),
            };
            let backends = plan.backends(access).iter().map(|(ip, port)| format!(" {ip}:{port}"));
            let mut line = format!("{from} ->{}", backends.collect::<String>());
            if let Some(affinity) = plan.affinity {
                line += &format!(" sticky {}s", affinity.as_secs());
            }
            for network in &access.sources {
                line += &format!(" for {network}");
            }
            lines.push(line);
        }
    }
    lines
}

fn lines(spec: Value, status: Value, ports: Value, endpoints: Value) -> Vec<String> {
    print(&plan(&service(&spec, &status), &[slice(ports, endpoints)], &node()))
}

#[test]
fn a_multi_port_node_port_service_leads_to_its_ready_endpoints_by_port_name() {
    let spec = json!({"clusterIP": "10.43.0.9", "type": "NodePort", "ports": [
        {"name": "http", "port": 80, "nodePort": 30080, "targetPort": "web"},
        {"name": "dns", "port": 53, "protocol": "UDP"}]});
    let ports = json!([{"name": "http", "port": 8080, "protocol": "TCP"},
                       {"name": "dns", "port": 5353, "protocol": "UDP"}]);
    assert_eq!(
        lines(spec, json!({}), ports, json!([ready(3), ready(2), endpoint(4, false, false, false)])),
        [
            "udp 10.43.0.9:53 -> 10.42.0.2:5353 10.42.0.3:5353",
            "tcp 10.43.0.9:80 -> 10.42.0.2:8080 10.42.0.3:8080",
            "tcp *:30080 -> 10.42.0.2:8080 10.42.0.3:8080",
        ]
    );
}

#[test]
fn affinity_lasts_as_long_as_the_service_says() {
    for (config, expected) in [
        (json!(null), "tcp 10.43.0.9:80 -> 10.42.0.2:8080 sticky 10800s"),
        (json!({"clientIP": {"timeoutSeconds": 7}}), "tcp 10.43.0.9:80 -> 10.42.0.2:8080 sticky 7s"),
    ] {
        let spec = json!({"clusterIP": "10.43.0.9", "sessionAffinity": "ClientIP",
                          "sessionAffinityConfig": config, "ports": [{"port": 80}]});
        assert_eq!(lines(spec, json!({}), json!([{"port": 8080}]), json!([ready(2)])), [expected]);
    }
}

#[test]
fn terminating_endpoints_serve_only_when_no_ready_one_is_left() {
    for (endpoints, expected) in [
        (json!([endpoint(2, false, true, true), ready(3)]), "tcp 10.43.0.9:80 -> 10.42.0.3:8080"),
        (
            json!([endpoint(2, false, true, true), endpoint(3, false, false, true)]),
            "tcp 10.43.0.9:80 -> 10.42.0.2:8080",
        ),
        (json!([endpoint(2, false, false, false)]), "tcp 10.43.0.9:80 ->"),
    ] {
        let spec = json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]});
        assert_eq!(lines(spec, json!({}), json!([{"port": 8080}]), endpoints), [expected]);
    }
}

#[test]
fn traffic_policies_choose_among_the_nodes_own_endpoints() {
    let of = |internal: &str, external: &str, endpoints| {
        let spec = json!({"clusterIP": "10.43.0.9", "type": "NodePort", "internalTrafficPolicy": internal,
                          "externalTrafficPolicy": external, "ports": [{"port": 80, "nodePort": 30080}]});
        lines(spec, json!({}), json!([{"port": 8080}]), endpoints)
    };
    let both = || json!([ready(2), ready(3)]);
    let all = "10.42.0.2:8080 10.42.0.3:8080";
    assert_eq!(
        of("Cluster", "Local", both()),
        [&format!("tcp 10.43.0.9:80 -> {all}"), "tcp *:30080 -> 10.42.0.2:8080"]
    );
    assert_eq!(
        of("Local", "Cluster", both()),
        ["tcp 10.43.0.9:80 -> 10.42.0.2:8080", &format!("tcp *:30080 -> {all}")]
    );
    // The one here drains while one elsewhere is ready: the node's own drain on for those who may not go elsewhere.
    let draining = json!([endpoint(2, false, true, true), ready(3)]);
    assert_eq!(
        of("Local", "Cluster", draining),
        ["tcp 10.43.0.9:80 -> 10.42.0.2:8080", "tcp *:30080 -> 10.42.0.3:8080"]
    );
    assert_eq!(
        of("Local", "Local", json!([ready(3)])),
        ["tcp 10.43.0.9:80 ->", "tcp *:30080 ->"],
        "none is here"
    );
}

#[test]
fn load_balancers_and_external_addresses() {
    let spec = |ranges: Value| {
        json!({"clusterIP": "10.43.0.9", "type": "LoadBalancer", "externalIPs": ["198.51.100.7", "2001:db8::7"],
               "loadBalancerSourceRanges": ranges, "ports": [{"port": 80}]})
    };
    let status = json!({"loadBalancer": {"ingress": [
        {"ip": "192.0.2.10", "ipMode": "VIP"}, {"ip": "192.0.2.11", "ipMode": "Proxy"}, {"hostname": "lb.example.org"}]}});
    for (ranges, expected) in [
        (json!(null), ""),
        (json!(["203.0.113.9/24", " 10.0.0.0/8"]), " for 10.0.0.0/8 for 203.0.113.0/24"),
        (json!(["10.0.0.0/8", "0.0.0.0/0"]), ""),
        (json!(["2001:db8::/32"]), ""),
    ] {
        let lines = lines(spec(ranges), status.clone(), json!([{"port": 8080}]), json!([ready(2)]));
        assert_eq!(
            lines,
            [
                "tcp 10.43.0.9:80 -> 10.42.0.2:8080".to_owned(),
                format!("tcp 192.0.2.10:80 -> 10.42.0.2:8080{expected}"),
                "tcp 198.51.100.7:80 -> 10.42.0.2:8080".to_owned(),
            ]
        );
    }
}

#[test]
fn health_checks_count_the_nodes_own_ready_endpoints() {
    let of = |policy: &str, endpoints| {
        let spec = json!({"clusterIP": "10.43.0.9", "type": "LoadBalancer", "externalTrafficPolicy": policy,
                          "healthCheckNodePort": 31000, "ports": [{"port": 80}]});
        plan(&service(&spec, &json!({})), &[slice(json!([{"port": 8080}]), endpoints)], &node()).health
    };
    let check = |endpoints| Some(HealthCheck { port: 31000, endpoints });
    assert_eq!(of("Local", json!([ready(2), ready(4), ready(3)])), check(2));
    assert_eq!(of("Local", json!([endpoint(2, false, true, true), ready(3)])), check(0));
    assert_eq!(of("Cluster", json!([ready(2)])), None);
}

#[test]
fn headless_external_and_locally_answered_services_get_no_rules() {
    for spec in [
        json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        json!({"type": "ExternalName", "externalName": "example.org"}),
        json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53, "protocol": "UDP"}]}),
    ] {
        let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
        assert_eq!(lines(spec, json!({}), ports, json!([ready(2)])), [""; 0]);
    }
}

#[test]
fn a_plan_says_what_a_service_changed_in_it() {
    let name = ("shop".to_owned(), "web".to_owned());
    let part = |pods: &[u8]| {
        let spec = json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]});
        let endpoints = Value::Array(pods.iter().map(|pod| ready(*pod)).collect());
        plan(&service(&spec, &json!({})), &[slice(json!([{"port": 8080}]), endpoints)], &node())
    };
    let mut whole = Plan::default();
    let mut changes = whole.replace(&name, part(&[2]));
    assert_eq!(whole.replace(&name, part(&[2])), Changes::new(), "the same again");
    merge(&mut changes, whole.replace(&name, part(&[2, 3])));
    let change = changes.values().next().unwrap();
    assert_eq!((change.old.is_none(), change.new.as_ref().unwrap().cluster.len()), (true, 2));
    merge(&mut changes, whole.replace(&name, ServicePlan::default()));
    assert_eq!(changes.values().next().unwrap(), &PortChange { old: None, new: None });
    assert_eq!(whole, Plan::default());
}

#[test]
fn networks_are_read_as_they_are_meant() {
    for (text, expected) in [
        ("10.1.2.3/8", Some("10.0.0.0/8")),
        ("0.0.0.0/0", Some("0.0.0.0/0")),
        ("192.0.2.1/32", Some("192.0.2.1/32")),
        ("192.0.2.1/33", None),
        ("192.0.2.1", None),
        ("2001:db8::/32", None),
    ] {
        assert_eq!(Network::parse(text).map(|network| network.to_string()).as_deref(), expected, "{text}");
    }
    let network = Network::parse("10.0.0.0/8").unwrap();
    assert!(network.contains(Ipv4Addr::new(10, 9, 9, 9)) && !network.contains(Ipv4Addr::new(11, 0, 0, 0)));
}
