//! `networking.k8s.io/v1`: ingresses, network policies, service address ranges.

mod validate;

use std::sync::Arc;

use api_machinery::resource::{Cell, Resource, Rules};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::entry::{Family, columns, computed, selectable, texts, with_status};
use crate::fill::{Fill, at_mut, each_mut, fill, get, set, text};
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
            default: |class| {
                if let Some(parameters) = at_mut(class, &["spec", "parameters"]) {
                    fill(parameters, &[("scope", Fill::Text("Cluster"))]);
                }
            },
            validate: validate::class,
            validate_update: |new, old, e| validate::same_in_spec(new, old, "controller", e),
            ..Rules::default()
        },
        ..family.cluster_kind("IngressClass", "ingressclasses")
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
            validate: validate::ingress,
            validate_create: validate::new_ingress,
            validate_status_update: validate::ingress_status,
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

fn ip_address(family: &Family) -> Resource {
    Resource {
        short_names: texts(&["ip"]),
        columns: columns(&[("ParentRef", "string", 0, computed(parent))]),
        selectable: selectable(&[]),
        rules: Rules {
            validate: validate::address,
            validate_update: |new, old, e| validate::same_in_spec(new, old, "parentRef", e),
            name: |name, _| validate::canonical_ip(name),
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
        rules: Rules { default: policy_defaults, validate: validate::policy, ..Rules::default() },
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
            validate: validate::service_ranges,
            validate_update: validate::service_ranges_update,
            ..Rules::default()
        },
        ..family.cluster_kind("ServiceCIDR", "servicecidrs")
    }
}
