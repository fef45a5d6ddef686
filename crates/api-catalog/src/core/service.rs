//! Services: defaults, validation, what survives an update, and what tables show.
//!
//! Addresses and node ports are given out by the API server, which looks at what this module leaves open.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Column};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed};
use crate::fill::{Fill, each_mut, fill, get, object_at, remove, set, set_if_absent, text};
use crate::print::{NONE, number};

const CLUSTER_IP: &str = "ClusterIP";
const EXTERNAL_NAME: &str = "ExternalName";
const LOAD_BALANCER: &str = "LoadBalancer";
const NODE_PORT: &str = "NodePort";
const HEADLESS: &str = "None";

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Type", "string", 0, Cell::Path(".spec.type".into())),
        ("Cluster-IP", "string", 0, computed(|s, _| crate::print::or_none(text(&s["spec"], "clusterIP")))),
        ("External-IP", "string", 0, computed(external_ip)),
        ("Port(s)", "string", 0, computed(ports)),
        ("Age", "string", 0, Cell::Age),
        ("Selector", "string", 1, computed(|s, _| crate::print::labels(&s["spec"]["selector"]))),
    ])
}

fn texts(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn external_ip(service: &Value, _: Timestamp) -> Value {
    let spec = &service["spec"];
    let mut all: Vec<&str> = Vec::new();
    match text(spec, "type") {
        EXTERNAL_NAME => return Value::from(text(spec, "externalName")),
        LOAD_BALANCER => {
            let ingress = service["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
            all.extend(
                ingress.map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") }),
            );
            all.extend(texts(&spec["externalIPs"]));
            if all.is_empty() {
                return Value::from("<pending>");
            }
        }
        _ => all.extend(texts(&spec["externalIPs"])),
    }
    crate::print::joined(all.into_iter())
}

fn ports(service: &Value, _: Timestamp) -> Value {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let pieces: Vec<String> = ports
        .map(|p| match (number(&p["port"]), number(&p["nodePort"]), text(p, "protocol")) {
            (port, 0, protocol) => format!("{port}/{protocol}"),
            (port, node, protocol) => format!("{port}:{node}/{protocol}"),
        })
        .collect();
    if pieces.is_empty() { Value::from(NONE) } else { Value::from(pieces.join(",")) }
}

pub(crate) fn default(service: &mut Value) {
    let Some(spec) = object_at(service, &["spec"]) else { return };
    fill(spec, &[("sessionAffinity", Fill::Text("None")), ("type", Fill::Text(CLUSTER_IP))]);
    if text(spec, "sessionAffinity") == "ClientIP"
        && let Some(client) = object_at(spec, &["sessionAffinityConfig", "clientIP"])
    {
        set_if_absent(client, "timeoutSeconds", 10_800);
    }
    for port in each_mut(spec, "ports") {
        fill(port, &[("protocol", Fill::Text("TCP"))]);
        let unset = get(port, "targetPort").is_none_or(|t| t == 0 || t == "");
        if let (true, Some(number)) = (unset, get(port, "port").cloned()) {
            set(port, "targetPort", number);
        }
    }
    let kind = text(spec, "type").to_owned();
    if externally_accessible(spec) {
        fill(spec, &[("externalTrafficPolicy", Fill::Text("Cluster"))]);
    }
    if matches!(kind.as_str(), CLUSTER_IP | NODE_PORT | LOAD_BALANCER) {
        fill(spec, &[("internalTrafficPolicy", Fill::Text("Cluster"))]);
        families(spec);
    }
    if kind == LOAD_BALANCER {
        set_if_absent(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// One family, IPv4; a headless service without a selector may hold any address.
fn families(spec: &mut Value) {
    let address = text(spec, "clusterIP").to_owned();
    if !address.is_empty() && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
        set(spec, "clusterIPs", json!([address]));
    }
    let any = address == HEADLESS && spec["selector"].as_object().is_none_or(|s| s.is_empty());
    if text(spec, "ipFamilyPolicy").is_empty() {
        let listed = spec["ipFamilies"].as_array().map_or(0, Vec::len);
        set(spec, "ipFamilyPolicy", if any && listed != 1 { "RequireDualStack" } else { "SingleStack" });
    }
    if spec["ipFamilies"].as_array().is_none_or(Vec::is_empty) {
        let dual = text(spec, "ipFamilyPolicy") != "SingleStack" && any;
        set(spec, "ipFamilies", if dual { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) });
    }
}

fn externally_accessible(spec: &Value) -> bool {
    match text(spec, "type") {
        NODE_PORT | LOAD_BALANCER => true,
        CLUSTER_IP => spec["externalIPs"].as_array().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

pub(crate) fn prepare_create(service: &mut Value) {
    set(service, "status", json!({"loadBalancer": {}}));
}

fn needs_cluster_ip(spec: &Value) -> bool {
    matches!(text(spec, "type"), CLUSTER_IP | NODE_PORT | LOAD_BALANCER)
}

fn needs_node_port(spec: &Value) -> bool {
    match text(spec, "type") {
        NODE_PORT => true,
        LOAD_BALANCER => get(spec, "allocateLoadBalancerNodePorts") != Some(&Value::Bool(false)),
        _ => false,
    }
}

/// What the server gave out is kept when an update leaves it out, and dropped when the new type has no use for it.
pub(crate) fn prepare_update(new: &mut Value, old: &Value) {
    api_machinery::resource::keep_status(new, old);
    let old = &old["spec"];
    let Some(spec) = new.get_mut("spec").filter(|s| s.is_object()) else { return };
    if needs_cluster_ip(old) && needs_cluster_ip(spec) {
        if text(spec, "clusterIP").is_empty() && spec["clusterIPs"].as_array().is_none_or(Vec::is_empty) {
            for field in ["clusterIP", "clusterIPs"] {
                set_if_some(spec, field, old);
            }
        }
    } else if needs_cluster_ip(old) {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if get(spec, field) == get(old, field) {
                remove(spec, field);
            }
        }
    }
    node_ports(spec, old);
    if !externally_accessible(spec) && get(spec, "externalTrafficPolicy") == get(old, "externalTrafficPolicy")
    {
        remove(spec, "externalTrafficPolicy");
    }
    if text(spec, "type") != LOAD_BALANCER {
        let field = "allocateLoadBalancerNodePorts";
        if get(spec, field) == get(old, field) {
            remove(spec, field);
        }
    }
}

fn set_if_some(spec: &mut Value, field: &str, old: &Value) {
    if let Some(value) = get(old, field) {
        set(spec, field, value.clone());
    }
}

fn node_ports(spec: &mut Value, old: &Value) {
    let keep = needs_node_port(spec);
    if !needs_node_port(old) {
        return;
    }
    let before = old["ports"].as_array().map(Vec::as_slice).unwrap_or(&[]);
    let mut taken: BTreeSet<i64> =
        spec["ports"].as_array().into_iter().flatten().map(|p| number(&p["nodePort"])).collect();
    for port in each_mut(spec, "ports") {
        let key = |p: &Value| (number(&p["port"]), text(p, "protocol").to_owned());
        let Some(found) = before.iter().find(|p| key(p) == key(port)).map(|p| number(&p["nodePort"])) else {
            continue;
        };
        if keep && number(&port["nodePort"]) == 0 && found != 0 && taken.insert(found) {
            set(port, "nodePort", found);
        } else if !keep && number(&port["nodePort"]) == found {
            remove(port, "nodePort");
        }
    }
}

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const TYPES: [&str; 4] = [CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT];

pub(crate) fn validate(service: &Value, e: &mut Errors) {
    let root = At::root(service);
    let spec = root.get("spec");
    let kind = spec.get("type").text();
    let headless =
        spec.get("clusterIP").text() == HEADLESS || spec.get("clusterIPs").texts().next() == Some(HEADLESS);
    let ports = spec.get("ports");
    if ports.is_empty() && !headless && kind != EXTERNAL_NAME {
        ports.required(e, "");
    }
    by_type(&spec, kind, headless, e);
    validate_ports(&ports, kind, e);
    check::labels(&spec.get("selector"), e);
    affinity(&spec, e);
    addresses(&spec, kind, e);
    check::required_one_of(&spec.get("type"), &TYPES, e);
    policies(&spec, kind, e);
}

fn by_type(spec: &At, kind: &str, headless: bool, e: &mut Errors) {
    let first = spec.get("clusterIPs");
    match kind {
        LOAD_BALANCER | NODE_PORT if headless => {
            let detail = format!("may not be set to 'None' for {kind} services");
            first.index(0).invalid_as(e, HEADLESS, detail);
        }
        EXTERNAL_NAME => {
            for field in ["clusterIP", "clusterIPs"] {
                if !spec.get(field).is_empty() {
                    spec.get(field).forbidden(e, "may not be set for ExternalName services");
                }
            }
            let name = spec.get("externalName");
            if name.must_be_set(e) {
                let plain = name.text().strip_suffix('.').unwrap_or(name.text());
                name.all_invalid(e, names::is_dns1123_subdomain(plain));
            }
        }
        _ => {}
    }
}

fn validate_ports(ports: &At, kind: &str, e: &mut Errors) {
    let (mut names_seen, mut node_seen, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in ports.items() {
        let (name, number, protocol) = (port.get("name"), port.get("port"), port.get("protocol"));
        if name.is_empty() && ports.len() > 1 {
            name.required(e, "");
        } else if !name.is_empty() {
            name.all_invalid(e, names::is_dns1123_label(name.text()));
            if !names_seen.insert(name.text()) {
                name.duplicate(e);
            }
        }
        check::port_number(&number, e);
        check::required_one_of(&protocol, &PROTOCOLS, e);
        check::port(&port.get("targetPort"), e);
        check::name(&port.get("appProtocol"), names::is_qualified_name, e);
        if kind == LOAD_BALANCER && number.int() == Some(10_250) {
            number.invalid(e, "may not expose port 10250 externally since it is used by kubelet");
        }
        let node = port.get("nodePort");
        if let Some(asked) = node.int().filter(|n| *n != 0) {
            if kind == CLUSTER_IP {
                node.forbidden(e, "may not be used when `type` is 'ClusterIP'");
            } else if !node_seen.insert((asked, protocol.text())) {
                node.duplicate(e);
            }
        }
        if !seen.insert((number.int(), protocol.text())) {
            port.duplicate_as(e, json!({"port": number.int().unwrap_or(0), "protocol": protocol.text()}));
        }
    }
}

fn affinity(spec: &At, e: &mut Errors) {
    let affinity = spec.get("sessionAffinity");
    check::required_one_of(&affinity, &["ClientIP", "None"], e);
    let config = spec.get("sessionAffinityConfig");
    match affinity.text() {
        "ClientIP" => {
            let client = config.get("clientIP");
            let timeout = client.get("timeoutSeconds");
            match timeout.int() {
                None => timeout.required(e, "when session affinity type is ClientIP"),
                Some(1..=86_400) => {}
                Some(_) => timeout.invalid(e, "must be greater than 0 and less than 86400"),
            }
        }
        "None" if config.is_set() => config.forbidden(e, "must not be set when session affinity is None"),
        _ => {}
    }
}

fn addresses(spec: &At, kind: &str, e: &mut Errors) {
    let ips = spec.get("clusterIPs");
    if kind != EXTERNAL_NAME {
        let single = spec.get("clusterIP");
        if !single.is_empty() && ips.texts().next().is_some_and(|first| first != single.text()) {
            ips.index(0).invalid_as(
                e,
                ips.value().cloned().unwrap_or_default(),
                "first value must match `clusterIP`",
            );
        }
        for (index, ip) in ips.items().enumerate() {
            if ip.text() != HEADLESS {
                check::ip(&ip, e);
            } else if index > 0 || ips.len() > 1 {
                ips.invalid(e, "'None' must be the first and only value");
            }
        }
        if ips.len() > 2 {
            ips.invalid(e, "may only hold up to 2 values");
        }
        check::one_of(
            &spec.get("ipFamilyPolicy"),
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
            e,
        );
        for family in spec.get("ipFamilies").items() {
            check::required_one_of(&family, &["IPv4", "IPv6"], e);
        }
    }
    for ip in spec.get("externalIPs").items() {
        check::ip(&ip, e);
    }
    for range in spec.get("loadBalancerSourceRanges").items() {
        check::cidr(&range, e);
    }
}

const WHERE: [&str; 2] = ["Cluster", "Local"];

fn policies(spec: &At, kind: &str, e: &mut Errors) {
    let allocate = spec.get("allocateLoadBalancerNodePorts");
    if kind == LOAD_BALANCER && !allocate.is_set() {
        allocate.required(e, "");
    } else if kind != LOAD_BALANCER && allocate.is_set() {
        allocate.forbidden(e, "may only be used when `type` is 'LoadBalancer'");
    }
    let class = spec.get("loadBalancerClass");
    if kind != LOAD_BALANCER && class.is_set() {
        class.forbidden(e, "may only be used when `type` is 'LoadBalancer'");
    }
    let external = spec.get("externalTrafficPolicy");
    let accessible = spec.value().is_some_and(externally_accessible);
    if accessible {
        check::required_one_of(&external, &WHERE, e);
    } else if !external.is_empty() {
        external.invalid(e, "may only be set for externally-accessible services");
    }
    if matches!(kind, CLUSTER_IP | NODE_PORT | LOAD_BALANCER) {
        check::required_one_of(&spec.get("internalTrafficPolicy"), &WHERE, e);
    }
    let distribution = ["PreferClose", "PreferSameNode", "PreferSameZone"];
    check::one_of(&spec.get("trafficDistribution"), &distribution, e);
    let health = spec.get("healthCheckNodePort");
    let local = kind == LOAD_BALANCER && external.text() == "Local";
    if !local && health.int().is_some_and(|port| port != 0) {
        health.invalid(
            e,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        );
    }
}

pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let both = spec.value().is_some_and(needs_cluster_ip) && before.value().is_some_and(needs_cluster_ip);
    let (ips, given) = (spec.get("clusterIPs"), before.get("clusterIPs"));
    if both && !given.is_empty() && ips.texts().next() != given.texts().next() {
        ips.index(0).invalid_as(e, ips.value().cloned().unwrap_or_default(), "may not change once set");
    }
    let (class, class_before) = (spec.get("loadBalancerClass"), before.get("loadBalancerClass"));
    let stays = spec.get("type").text() == LOAD_BALANCER && before.get("type").text() == LOAD_BALANCER;
    if stays && !check::same(class.value(), class_before.value()) {
        class.invalid(e, "may not change once set");
    }
}
