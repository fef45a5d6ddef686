//! `networking.k8s.io/v1`: ingresses, network policies, service address ranges.

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Resource, Rules};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::entry::{Family, columns, computed, selectable, texts, with_status};
use crate::fill::{Fill, each_mut, fill, get, set, text};
use crate::print::{NONE, or_none, selector};

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.networking.v1";
    let family = Family { arena, group: "networking.k8s.io", version: "v1", package };
    vec![
        ingress_class(&family),
        ingress(&family),
        ip_address(&family),
        policy(&family),
        service_cidr(&family),
    ]
}

fn ingress_class(family: &Family) -> Resource {
    Resource {
        has_generation: true,
        columns: columns(&[
            ("Controller", "string", 0, Cell::Path(".spec.controller".into())),
            ("Parameters", "string", 0, computed(class_parameters)),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: |class, e| {
                let root = At::root(class);
                let spec = root.get("spec");
                let controller = spec.get("controller");
                if controller.text().len() > 250 {
                    controller.too_long(e, 250);
                }
                check::required_name(&controller, domain_prefixed_path, e);
            },
            validate_update: |new, old, e| {
                let (new, old) = (At::root(new), At::root(old));
                let (spec, before) = (new.get("spec"), old.get("spec"));
                check::immutable(&spec.get("controller"), &before.get("controller"), e);
            },
            ..Rules::default()
        },
        ..family.cluster_kind("IngressClass", "ingressclasses")
    }
}

fn domain_prefixed_path(path: &str) -> Vec<String> {
    match path.split_once('/') {
        Some((domain, rest)) if !rest.is_empty() => names::is_dns1123_subdomain(domain),
        _ => vec!["must be a domain-prefixed path (such as \"acme.io/foo\")".to_owned()],
    }
}

fn class_parameters(class: &Value, _: Timestamp) -> Value {
    let Some(parameters) = get(&class["spec"], "parameters") else { return Value::from(NONE) };
    let kind = match text(parameters, "apiGroup") {
        "" => text(parameters, "kind").to_owned(),
        group => format!("{}.{group}", text(parameters, "kind")),
    };
    Value::from(format!("{kind}/{}", text(parameters, "name")))
}

fn ingress(family: &Family) -> Resource {
    Resource {
        short_names: texts(&["ing"]),
        subresources: with_status(),
        has_generation: true,
        columns: columns(&[
            ("Class", "string", 0, computed(|i, _| or_none(text(&i["spec"], "ingressClassName")))),
            ("Hosts", "string", 0, computed(hosts)),
            ("Address", "string", 0, computed(addresses)),
            ("Ports", "string", 0, computed(|i, _| ports(i))),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: validate_ingress,
            prepare_create: |object| set(object, "status", json!({"loadBalancer": {}})),
            ..Rules::default()
        },
        ..family.kind("Ingress", "ingresses")
    }
}

fn hosts(ingress: &Value, _: Timestamp) -> Value {
    let rules = ingress["spec"]["rules"].as_array().into_iter().flatten();
    let all: Vec<&str> = rules.map(|rule| text(rule, "host")).filter(|host| !host.is_empty()).collect();
    match all.len() {
        0 => Value::from("*"),
        n if n > 3 => Value::from(format!("{} + {} more...", all[..3].join(","), n - 3)),
        _ => Value::from(all.join(",")),
    }
}

fn addresses(ingress: &Value, _: Timestamp) -> Value {
    let all = ingress["status"]["loadBalancer"]["ingress"].as_array().into_iter().flatten();
    let all: Vec<&str> =
        all.map(|i| if text(i, "ip").is_empty() { text(i, "hostname") } else { text(i, "ip") }).collect();
    Value::from(all.join(","))
}

fn ports(ingress: &Value) -> Value {
    let tls = ingress["spec"]["tls"].as_array().is_some_and(|t| !t.is_empty());
    Value::from(if tls { "80, 443" } else { "80" })
}

fn validate_ingress(ingress: &Value, e: &mut Errors) {
    let root = At::root(ingress);
    let spec = root.get("spec");
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        spec.invalid(e, "either `defaultBackend` or `rules` must be specified");
    }
    check::name(&spec.get("ingressClassName"), names::is_dns1123_subdomain, e);
    if backend.is_set() {
        ingress_backend(&backend, e);
    }
    for rule in rules.items() {
        ingress_host(&rule.get("host"), e);
        let http = rule.get("http");
        let paths = http.get("paths");
        if http.is_set() {
            paths.must_be_set(e);
        }
        for path in paths.items() {
            ingress_path(&path, e);
        }
    }
    for tls in spec.get("tls").items() {
        for host in tls.get("hosts").items() {
            ingress_host(&host, e);
        }
    }
}

fn ingress_host(host: &At, e: &mut Errors) {
    if host.is_empty() {
        return;
    }
    if check::parse_ip(host.text()).is_some() {
        host.invalid(e, "must be a DNS name, not an IP address");
    }
    let check = if host.text().contains('*') {
        names::is_wildcard_dns1123_subdomain
    } else {
        names::is_dns1123_subdomain
    };
    host.all_invalid(e, check(host.text()));
}

fn ingress_path(path: &At, e: &mut Errors) {
    let (kind, place) = (path.get("pathType"), path.get("path"));
    match kind.text() {
        "" => kind.required(e, "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !place.text().starts_with('/') {
                place.invalid_text(e, "must be an absolute path");
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                if place.text().contains(bad) {
                    place.invalid(e, format!("must not contain '{bad}'"));
                }
            }
            for bad in ["/..", "/."] {
                if place.text().ends_with(bad) {
                    place.invalid(e, format!("cannot end with '{bad}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !place.is_empty() && !place.text().starts_with('/') {
                place.invalid(e, "must be an absolute path");
            }
        }
        _ => kind.not_supported(e, &["Exact", "ImplementationSpecific", "Prefix"]),
    }
    ingress_backend(&path.get("backend"), e);
}

fn ingress_backend(backend: &At, e: &mut Errors) {
    let (service, resource) = (backend.get("service"), backend.get("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => backend.invalid_as(e, "", "cannot set both resource and service backends"),
        (false, false) => backend.invalid_as(e, "", "resource or service backend is required"),
        (false, true) => {}
        (true, false) => {
            let (name, port) = (service.get("name"), service.get("port"));
            check::required_name(&name, names::is_dns1035_label, e);
            let (by_name, by_number) = (port.get("name"), port.get("number"));
            match (by_name.is_empty(), by_number.int().unwrap_or(0) == 0) {
                (true, true) => port.required(e, "port name or number is required"),
                (false, false) => port.invalid_as(e, "", "cannot set both port name & port number"),
                (false, true) => by_name.all_invalid(e, names::is_valid_port_name(by_name.text())),
                (true, false) => check::port_number(&by_number, e),
            }
        }
    }
}

fn ip_address(family: &Family) -> Resource {
    Resource {
        short_names: texts(&["ip"]),
        columns: columns(&[("ParentRef", "string", 0, computed(parent))]),
        selectable: selectable(&[]),
        rules: Rules {
            validate: |address, e| {
                let root = At::root(address);
                root.get("spec").get("parentRef").must_be_set(e);
            },
            validate_update: |new, old, e| {
                let (new, old) = (At::root(new), At::root(old));
                let (spec, before) = (new.get("spec"), old.get("spec"));
                check::immutable(&spec.get("parentRef"), &before.get("parentRef"), e);
            },
            name: |name, _| match name.parse::<std::net::IpAddr>() {
                Ok(ip) if ip.to_string() == name => Vec::new(),
                Ok(_) => vec!["must be a canonical format IP address".to_owned()],
                Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
            },
            ..Rules::default()
        },
        ..family.cluster_kind("IPAddress", "ipaddresses")
    }
}

fn parent(address: &Value, _: Timestamp) -> Value {
    let parent = &address["spec"]["parentRef"];
    let parts = [text(parent, "resource"), text(parent, "namespace"), text(parent, "name")];
    let parts: Vec<&str> = parts.into_iter().filter(|p| !p.is_empty()).collect();
    let group = text(parent, "group");
    Value::from(if group.is_empty() { parts.join("/") } else { format!("{group}/{}", parts.join("/")) })
}

fn policy(family: &Family) -> Resource {
    Resource {
        short_names: texts(&["netpol"]),
        has_generation: true,
        columns: columns(&[
            ("Pod-Selector", "string", 0, computed(|p, _| selector(&p["spec"]["podSelector"]))),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules { default: policy_defaults, validate: validate_policy, ..Rules::default() },
        ..family.kind("NetworkPolicy", "networkpolicies")
    }
}

fn policy_defaults(policy: &mut Value) {
    let Some(spec) = crate::fill::object_at(policy, &["spec"]) else { return };
    if spec["policyTypes"].as_array().is_none_or(Vec::is_empty) {
        let egress = spec["egress"].as_array().is_some_and(|e| !e.is_empty());
        set(spec, "policyTypes", if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
    }
    for direction in ["ingress", "egress"] {
        for rule in each_mut(spec, direction) {
            for port in each_mut(rule, "ports") {
                fill(port, &[("protocol", Fill::Text("TCP"))]);
            }
        }
    }
}

fn validate_policy(policy: &Value, e: &mut Errors) {
    let root = At::root(policy);
    let spec = root.get("spec");
    check::label_selector(&spec.get("podSelector"), e);
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        for rule in spec.get(direction).items() {
            for port in rule.get("ports").items() {
                policy_port(&port, e);
            }
            for peer in rule.get(peers).items() {
                policy_peer(&peer, e);
            }
        }
    }
    let types = spec.get("policyTypes");
    if types.len() > 2 {
        return types.invalid(e, "may not specify more than two policyTypes");
    }
    for kind in types.items() {
        check::required_one_of(&kind, &["Egress", "Ingress"], e);
    }
}

fn policy_port(port: &At, e: &mut Errors) {
    check::one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"], e);
    let (first, last) = (port.get("port"), port.get("endPort"));
    if first.is_set() {
        check::port(&first, e);
    }
    if last.is_set() {
        match first.value() {
            Some(Value::Number(_)) if last.int() < first.int() => {
                last.invalid(e, "must be greater than or equal to `port`");
            }
            Some(Value::Number(_)) => check::port_number(&last, e),
            Some(_) => last.invalid(e, "may not be specified when `port` is non-numeric"),
            None => last.invalid(e, "may not be specified when `port` is not specified"),
        }
    }
}

fn policy_peer(peer: &At, e: &mut Errors) {
    let (pods, namespaces, block) =
        (peer.get("podSelector"), peer.get("namespaceSelector"), peer.get("ipBlock"));
    check::label_selector(&pods, e);
    check::label_selector(&namespaces, e);
    if block.is_set() {
        ip_block(&block, e);
    }
    let selected = pods.is_set() || namespaces.is_set();
    if !selected && !block.is_set() {
        peer.required(e, "must specify a peer");
    } else if selected && block.is_set() {
        peer.forbidden(e, "may not specify both ipBlock and another peer");
    }
}

fn ip_block(block: &At, e: &mut Errors) {
    let range = block.get("cidr");
    if !range.must_be_set(e) {
        return;
    }
    check::cidr(&range, e);
    let outer = check::parse_cidr(range.text());
    for except in block.get("except").items() {
        check::cidr(&except, e);
        if let (Some((net, bits)), Some((inner, inner_bits))) = (outer, check::parse_cidr(except.text()))
            && (inner_bits <= bits || !contains(net, bits, inner))
        {
            except.invalid(e, "must be a strict subset of `cidr`");
        }
    }
}

fn contains(net: std::net::IpAddr, bits: u8, address: std::net::IpAddr) -> bool {
    use std::net::IpAddr;
    let shift = |width: u32| width - u32::from(bits).min(width);
    match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => {
            bits == 0 || u32::from(net) >> shift(32) == u32::from(ip) >> shift(32)
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) => {
            bits == 0 || u128::from(net) >> shift(128) == u128::from(ip) >> shift(128)
        }
        _ => false,
    }
}

fn service_cidr(family: &Family) -> Resource {
    Resource {
        subresources: with_status(),
        columns: columns(&[
            (
                "CIDRs",
                "string",
                0,
                computed(|c, _| {
                    let ranges =
                        c["spec"]["cidrs"].as_array().into_iter().flatten().filter_map(Value::as_str);
                    Value::from(ranges.collect::<Vec<_>>().join(","))
                }),
            ),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: |object, e| {
                let root = At::root(object);
                let spec = root.get("spec");
                let ranges = spec.get("cidrs");
                if ranges.is_empty() {
                    ranges.required(e, "at least one CIDR required");
                }
                for range in ranges.items() {
                    check::cidr(&range, e);
                }
            },
            ..Rules::default()
        },
        ..family.cluster_kind("ServiceCIDR", "servicecidrs")
    }
}
