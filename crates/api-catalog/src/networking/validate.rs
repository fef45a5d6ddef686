//! What ingresses, their classes, network policies and service address ranges must be.

use std::net::IpAddr;

use api_machinery::field::{Errors, Path};
use api_machinery::names;
use serde_json::Value;

use crate::at::At;
use crate::check;

/// The longest name of a class's controller, in bytes.
const LONGEST_CONTROLLER: usize = 250;
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

pub(super) fn same_in_spec(new: &Value, old: &Value, field: &str, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    check::immutable(&spec.get(field), &before.get(field), e);
}

pub(super) fn class(class: &Value, e: &mut Errors) {
    let root = At::root(class);
    let spec = root.get("spec");
    let controller = spec.get("controller");
    if controller.must_be_set(e) {
        if controller.text().len() > LONGEST_CONTROLLER {
            controller.too_long(e, LONGEST_CONTROLLER);
        }
        domain_prefixed_path(&controller, e);
    }
    let parameters = spec.get("parameters");
    if !parameters.is_set() {
        return;
    }
    object_reference(&parameters, e);
    let (scope, namespace) = (parameters.get("scope"), parameters.get("namespace"));
    match scope.text() {
        "Namespace" if namespace.is_set() => {
            namespace.all_invalid(e, names::is_dns1123_label(namespace.text()));
        }
        "Namespace" => namespace.required(e, "`parameters.scope` is set to 'Namespace'"),
        "Cluster" if namespace.is_set() => {
            namespace.forbidden(e, "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        _ => scope.not_supported(e, &["Cluster", "Namespace"]),
    }
}

/// Something of another kind, by its name.
fn object_reference(reference: &At, e: &mut Errors) {
    let group = reference.get("apiGroup");
    if group.is_set() {
        group.all_invalid(e, names::is_dns1123_subdomain(group.text()));
    }
    check::required_name(&reference.get("kind"), names::is_path_segment, e);
    check::required_name(&reference.get("name"), names::is_path_segment, e);
}

fn domain_prefixed_path(at: &At, e: &mut Errors) {
    const PATH: &str = r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+";
    let Some((domain, path)) = at.text().split_once('/').filter(|(d, p)| !d.is_empty() && !p.is_empty())
    else {
        return at.invalid(e, "must be a domain-prefixed path (such as \"acme.io/foo\")");
    };
    for message in names::is_dns1123_subdomain(domain) {
        at.invalid_as(e, domain, message);
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    if !path.bytes().all(allowed) {
        at.invalid_as(e, path, format!("Invalid path (e.g. 'path', regex used for validation is '{PATH}')"));
    }
}

pub(super) fn ingress(ingress: &Value, e: &mut Errors) {
    let root = At::root(ingress);
    let spec = root.get("spec");
    let (rules, backend) = (spec.get("rules"), spec.get("defaultBackend"));
    if rules.is_empty() && !backend.is_set() {
        spec.invalid_as(e, rules.array().to_vec(), "either `defaultBackend` or `rules` must be specified");
    }
    if backend.is_set() {
        ingress_backend(&backend, e);
    }
    for rule in rules.items() {
        let host = rule.get("host");
        not_an_address(&host, e);
        if !host.is_empty() {
            ingress_host(&host, e);
        }
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
        check::name(&tls.get("secretName"), names::is_dns1123_subdomain, e);
    }
    let class = spec.get("ingressClassName");
    if class.is_set() {
        class.all_invalid(e, names::is_dns1123_subdomain(class.text()));
    }
}

/// The older annotation says the same as the field.
pub(super) fn new_ingress(ingress: &Value, e: &mut Errors) {
    let root = At::root(ingress);
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    let class = spec.get("ingressClassName");
    let annotations = metadata.get("annotations");
    let annotation = annotations.key(CLASS_ANNOTATION);
    if annotation.is_set() && class.is_set() && annotation.text() != class.text() {
        let path = format!("annotations.{CLASS_ANNOTATION}");
        let why = "must match `ingressClassName` when both are specified";
        e.invalid(&Path::new(&path), annotation.text(), why);
    }
}

pub(super) fn ingress_status(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    let balancer = status.get("loadBalancer");
    for ingress in balancer.get("ingress").items() {
        let (ip, host) = (ingress.get("ip"), ingress.get("hostname"));
        if !ip.is_empty() {
            check::ip(&ip, e);
        }
        check::name(&host, names::is_dns1123_subdomain, e);
        not_an_address(&host, e);
    }
}

fn not_an_address(host: &At, e: &mut Errors) {
    if check::parse_ip(host.text()).is_some() {
        host.invalid(e, "must be a DNS name, not an IP address");
    }
}

fn ingress_host(host: &At, e: &mut Errors) {
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
        _ if !kind.is_set() => return kind.required(e, "pathType must be specified"),
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
        (false, true) => object_reference(&resource, e),
        (true, false) => {
            let (name, port) = (service.get("name"), service.get("port"));
            check::required_name(&name, names::is_dns1035_label, e);
            let (by_name, by_number) = (port.get("name"), port.get("number"));
            match (by_name.is_empty(), by_number.int().unwrap_or(0) == 0) {
                (true, true) => backend.required(e, "port name or number is required"),
                (false, false) => backend.invalid_as(e, "", "cannot set both port name & port number"),
                (false, true) => by_name.all_invalid(e, names::is_valid_port_name(by_name.text())),
                (true, false) => check::port_number(&by_number, e),
            }
        }
    }
}

pub(super) fn policy(policy: &Value, e: &mut Errors) {
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
        if !["Ingress", "Egress"].contains(&kind.text()) {
            kind.not_supported(e, &["Ingress", "Egress"]);
        }
    }
}

fn policy_port(port: &At, e: &mut Errors) {
    let (protocol, first, last) = (port.get("protocol"), port.get("port"), port.get("endPort"));
    if protocol.is_set() && !["TCP", "UDP", "SCTP"].contains(&protocol.text()) {
        protocol.not_supported(e, &["TCP", "UDP", "SCTP"]);
    }
    match first.value() {
        Some(Value::Number(_)) => {
            check::port_number(&first, e);
            if last.is_set() && last.int() < first.int() {
                last.invalid(e, "must be greater than or equal to `port`");
            }
            if last.is_set() {
                check::port_number(&last, e);
            }
        }
        Some(_) => {
            if last.is_set() {
                last.invalid(e, "may not be specified when `port` is non-numeric");
            }
            check::port(&first, e);
        }
        None if last.is_set() => last.invalid(e, "may not be specified when `port` is not specified"),
        None => {}
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
    let Some((net, bits)) = check::parse_cidr(range.text()) else { return };
    for except in block.get("except").items() {
        check::cidr(&except, e);
        if let Some((inner, inner_bits)) = check::parse_cidr(except.text())
            && (inner_bits <= bits || !contains(net, bits, inner))
        {
            except.invalid(e, "must be a strict subset of `cidr`");
        }
    }
}

fn contains(net: IpAddr, bits: u8, address: IpAddr) -> bool {
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

pub(super) fn address(address: &Value, e: &mut Errors) {
    let root = At::root(address);
    let spec = root.get("spec");
    let parent = spec.get("parentRef");
    if !parent.is_set() {
        return parent.required(e, "");
    }
    // The group of Services is empty.
    check::name(&parent.get("group"), names::is_dns1123_subdomain, e);
    check::required_name(&parent.get("resource"), names::is_path_segment, e);
    check::required_name(&parent.get("name"), names::is_path_segment, e);
    check::name(&parent.get("namespace"), names::is_path_segment, e);
}

/// An address in the one spelling that names it.
pub(super) fn canonical_ip(text: &str) -> Vec<String> {
    match check::parse_ip(text) {
        Some(ip) if ip.to_string() == text => Vec::new(),
        Some(ip) => vec![format!("must be in canonical form (\"{ip}\")")],
        None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

pub(super) fn service_ranges(object: &Value, e: &mut Errors) {
    let root = At::root(object);
    let spec = root.get("spec");
    let ranges = spec.get("cidrs");
    match ranges.len() {
        0 => return ranges.required(e, "at least one CIDR required"),
        1 | 2 => {}
        _ => return ranges.invalid_as(e, spec.value().cloned(), "may only hold up to 2 values"),
    }
    for range in ranges.items() {
        canonical_cidr(&range, e);
    }
    let families: Vec<bool> =
        ranges.texts().filter_map(check::parse_cidr).map(|(address, _)| address.is_ipv4()).collect();
    if let [first, second] = families[..]
        && first == second
    {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        ranges.invalid(e, why);
    }
}

/// A range in the one spelling that names it: no bits beyond the prefix.
fn canonical_cidr(range: &At, e: &mut Errors) {
    let Some((address, bits)) = check::parse_cidr(range.text()) else { return check::cidr(range, e) };
    let first = match address {
        IpAddr::V4(ip) => IpAddr::from(
            (u32::from(ip) & u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)).to_be_bytes(),
        ),
        IpAddr::V6(ip) => IpAddr::from(
            (u128::from(ip) & u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)).to_be_bytes(),
        ),
    };
    let canonical = format!("{first}/{bits}");
    if first != address {
        range.invalid(e, "must not have bits set beyond the prefix length");
    } else if canonical != range.text() {
        range.invalid(e, format!("must be in canonical form (\"{canonical}\")"));
    }
}

/// Ranges stay, and one of the other family may come to one.
pub(super) fn service_ranges_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (spec, before) = (new.get("spec"), old.get("spec"));
    let (ranges, before) = (spec.get("cidrs"), before.get("cidrs"));
    if ranges.len() < before.len() || (ranges.len() > before.len() && before.len() != 1) {
        return ranges.invalid(e, check::IMMUTABLE);
    }
    for (range, before) in ranges.items().zip(before.items()) {
        check::immutable(&range, &before, e);
    }
}
