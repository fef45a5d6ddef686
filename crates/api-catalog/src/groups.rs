//! The groups that have only a kind or two: events, authentication, authorization, policy, scheduling, coordination,
//! node, discovery.

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Resource, Rules, Scope};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::core::{endpoint_ip, event};
use crate::entry::{Family, columns, computed, selectable, texts, with_status};
use crate::fill::{Fill, each_mut, fill, get, object_at, set_if_absent, text};
use crate::print::number;

pub(crate) fn events(arena: &Arc<Arena>) -> Vec<Resource> {
    let events = Family { arena, group: "events.k8s.io", version: "v1", package: "io.k8s.api.events.v1" };
    vec![Resource {
        short_names: texts(&["ev"]),
        columns: event::table(),
        selectable: event::view_selectable(),
        view_of: Some(event::VIEW),
        rules: Rules { allow_create_on_update: true, ..Rules::default() },
        ..events.kind("Event", "events")
    }]
}

pub(crate) fn authentication(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.authentication.v1";
    let family = Family { arena, group: "authentication.k8s.io", version: "v1", package };
    let token = family.review("TokenReview", "tokenreviews");
    let rules = Rules { validate: validate_token_review, ..token.rules };
    vec![family.review("SelfSubjectReview", "selfsubjectreviews"), Resource { rules, ..token }]
}

fn validate_token_review(review: &Value, e: &mut Errors) {
    let root = At::root(review);
    root.get("spec").get("token").must_be_set(e);
}

pub(crate) fn authorization(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.authorization.v1";
    let family = Family { arena, group: "authorization.k8s.io", version: "v1", package };
    let review = |kind, plural, validate: fn(&Value, &mut Errors)| {
        let review = family.review(kind, plural);
        Resource { rules: Rules { validate, ..review.rules }, ..review }
    };
    vec![
        Resource {
            scope: Scope::Namespaced,
            ..review("LocalSubjectAccessReview", "localsubjectaccessreviews", validate_local_review)
        },
        review("SelfSubjectAccessReview", "selfsubjectaccessreviews", validate_attributes),
        review("SelfSubjectRulesReview", "selfsubjectrulesreviews", |review, e| {
            At::root(review).get("spec").get("namespace").must_be_set(e);
        }),
        review("SubjectAccessReview", "subjectaccessreviews", |review, e| {
            validate_attributes(review, e);
            validate_subject(review, e);
        }),
    ]
}

fn validate_attributes(review: &Value, e: &mut Errors) {
    let root = At::root(review);
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    // The request path sets the namespace of a review that has one; the rest is nobody's.
    if metadata.entries().any(|(field, at)| !matches!(field, "namespace" | "managedFields") && !at.is_empty())
    {
        let local = !metadata.get("namespace").is_empty();
        metadata.invalid(e, if local { "must be empty except for namespace" } else { "must be empty" });
    }
    let (resource, other) = (spec.get("resourceAttributes"), spec.get("nonResourceAttributes"));
    match (resource.is_set(), other.is_set()) {
        (true, true) => other.invalid(e, "cannot be specified in combination with resourceAttributes"),
        (false, false) => resource.invalid_as(
            e,
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ),
        _ => {}
    }
    for selector in ["fieldSelector", "labelSelector"] {
        selector_attributes(&resource.get(selector), e);
    }
}

/// The selector that a request would have: in one text or in parts.
fn selector_attributes(selector: &At, e: &mut Errors) {
    if !selector.is_set() {
        return;
    }
    let (raw, parts) = (selector.get("rawSelector"), selector.get("requirements"));
    match (raw.is_empty(), parts.is_empty()) {
        (false, false) => raw.invalid(e, "may not specified at the same time as requirements"),
        (true, true) => {
            let path = selector.path();
            parts.required(e, &format!("when {path} is specified, requirements or rawSelector is required"));
        }
        _ => {}
    }
    for part in parts.items() {
        let (key, operator, values) = (part.get("key"), part.get("operator"), part.get("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                values.required(e, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                values.forbidden(e, "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
            }
            _ => {}
        }
        key.must_be_set(e);
    }
}

fn validate_subject(review: &Value, e: &mut Errors) {
    let root = At::root(review);
    let spec = root.get("spec");
    if spec.get("user").is_empty() && spec.get("groups").is_empty() {
        spec.get("user").invalid_text(e, "at least one of user or group must be specified");
    }
}

fn validate_local_review(review: &Value, e: &mut Errors) {
    validate_attributes(review, e);
    validate_subject(review, e);
    let root = At::root(review);
    let (spec, metadata) = (root.get("spec"), root.get("metadata"));
    let other = spec.get("nonResourceAttributes");
    if other.is_set() {
        other.invalid(e, "disallowed on this kind of request");
    }
    let resource = spec.get("resourceAttributes");
    let namespace = resource.get("namespace");
    if resource.is_set() && namespace.text() != metadata.get("namespace").text() {
        namespace.invalid_text(e, "must match metadata.namespace");
    }
}

pub(crate) fn policy(arena: &Arc<Arena>) -> Vec<Resource> {
    let policy = Family { arena, group: "policy", version: "v1", package: "io.k8s.api.policy.v1" };
    vec![Resource {
        short_names: texts(&["pdb"]),
        subresources: with_status(),
        has_generation: true,
        columns: columns(&[
            ("Min Available", "string", 0, computed(|b, _| or_not_set(&b["spec"]["minAvailable"]))),
            ("Max Unavailable", "string", 0, computed(|b, _| or_not_set(&b["spec"]["maxUnavailable"]))),
            (
                "Allowed Disruptions",
                "integer",
                0,
                computed(|b, _| Value::from(number(&b["status"]["disruptionsAllowed"]))),
            ),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: validate_budget,
            validate_status_update: validate_budget_status,
            allow_unconditional_update: false,
            ..Rules::default()
        },
        ..policy.kind("PodDisruptionBudget", "poddisruptionbudgets")
    }]
}

fn or_not_set(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::from(text.as_str()),
        Value::Number(number) => Value::from(number.to_string()),
        _ => Value::from("N/A"),
    }
}

fn validate_budget(budget: &Value, e: &mut Errors) {
    let root = At::root(budget);
    let spec = root.get("spec");
    let (least, most) = (spec.get("minAvailable"), spec.get("maxUnavailable"));
    if least.is_set() && most.is_set() {
        spec.invalid(e, "minAvailable and maxUnavailable cannot be both set");
    }
    for at in [&least, &most] {
        check::int_or_percent(at, e);
        check::at_most_all(at, e);
    }
    check::label_selector(&spec.get("selector"), e);
    check::one_of(&spec.get("unhealthyPodEvictionPolicy"), &["AlwaysAllow", "IfHealthyBudget"], e);
}

fn validate_budget_status(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    check::conditions(&status.get("conditions"), usize::MAX, e);
    for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
        check::not_negative(&status.get(field), e);
    }
}

pub(crate) fn scheduling(arena: &Arc<Arena>) -> Vec<Resource> {
    let family =
        Family { arena, group: "scheduling.k8s.io", version: "v1", package: "io.k8s.api.scheduling.v1" };
    vec![Resource {
        short_names: texts(&["pc"]),
        columns: columns(&[
            ("Value", "integer", 0, Cell::Path(".value".into())),
            ("Global-Default", "boolean", 0, computed(|c, _| Value::from(c["globalDefault"] == true))),
            ("Age", "string", 0, Cell::Age),
            ("PreemptionPolicy", "string", 0, Cell::Path(".preemptionPolicy".into())),
        ]),
        rules: Rules {
            default: |class| fill(class, &[("preemptionPolicy", Fill::Text("PreemptLowerPriority"))]),
            validate: validate_priority_class,
            validate_update: |new, old, e| {
                let (new, old) = (At::root(new), At::root(old));
                if new.get("value").int().unwrap_or(0) != old.get("value").int().unwrap_or(0) {
                    new.get("value").forbidden(e, "may not be changed in an update.");
                }
                check::immutable(&new.get("preemptionPolicy"), &old.get("preemptionPolicy"), e);
            },
            ..Rules::default()
        },
        ..family.cluster_kind("PriorityClass", "priorityclasses")
    }]
}

/// The highest value that users may give.
const HIGHEST_USER_PRIORITY: i64 = 1_000_000_000;

fn validate_priority_class(class: &Value, e: &mut Errors) {
    let root = At::root(class);
    let metadata = root.get("metadata");
    let (name, value) = (metadata.get("name"), root.get("value"));
    let system = [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
    let known = system.iter().find(|(known, _)| *known == name.text());
    if name.text().starts_with("system-") {
        let why = match known {
            None => format!("{} is not a known system priority class", name.text()),
            Some((_, number)) if value.int() != Some(*number) => {
                format!("value of {} PriorityClass must be {number}", name.text())
            }
            Some(_) if root.get("globalDefault").flag() => {
                format!("globalDefault of {} PriorityClass must be false", name.text())
            }
            Some(_) => return preemption_policy(&root, e),
        };
        let detail = "priority class names with 'system-' prefix are reserved for system use only. error: ";
        name.forbidden(e, &format!("{detail}{why}"));
    } else if value.int().unwrap_or(0) > HIGHEST_USER_PRIORITY {
        let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_USER_PRIORITY}");
        value.forbidden(e, &detail);
    }
    preemption_policy(&root, e);
}

fn preemption_policy(class: &At, e: &mut Errors) {
    check::required_one_of(&class.get("preemptionPolicy"), &["Never", "PreemptLowerPriority"], e);
}

pub(crate) fn coordination(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.coordination.v1";
    let family = Family { arena, group: "coordination.k8s.io", version: "v1", package };
    vec![Resource {
        columns: columns(&[
            ("Holder", "string", 0, computed(|lease, _| Value::from(text(&lease["spec"], "holderIdentity")))),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: validate_lease,
            allow_create_on_update: true,
            allow_unconditional_update: false,
            ..Rules::default()
        },
        ..family.kind("Lease", "leases")
    }]
}

fn validate_lease(lease: &Value, e: &mut Errors) {
    let root = At::root(lease);
    let spec = root.get("spec");
    if spec.get("leaseDurationSeconds").int().is_some_and(|s| s <= 0) {
        spec.get("leaseDurationSeconds").invalid(e, "must be greater than 0");
    }
    if spec.get("leaseTransitions").int().is_some_and(|n| n < 0) {
        spec.get("leaseTransitions").invalid(e, "must be greater than or equal to 0");
    }
    if spec.get("holderIdentity").is_set() && spec.get("holderIdentity").text().is_empty() {
        spec.get("holderIdentity").invalid(e, "must not be empty");
    }
    let (strategy, preferred) = (spec.get("strategy"), spec.get("preferredHolder"));
    if strategy.text().contains('/') {
        strategy.all_invalid(e, names::is_qualified_name(strategy.text()));
    } else {
        check::one_of(&strategy, &["OldestEmulationVersion"], e);
    }
    if !preferred.is_empty() && strategy.is_empty() {
        preferred.forbidden(e, "may only be specified if `strategy` is defined");
    }
}

pub(crate) fn node(arena: &Arc<Arena>) -> Vec<Resource> {
    let family = Family { arena, group: "node.k8s.io", version: "v1", package: "io.k8s.api.node.v1" };
    vec![Resource {
        columns: columns(&[
            ("Handler", "string", 0, Cell::Path(".handler".into())),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            validate: validate_runtime_class,
            validate_update: |new, old, e| {
                let (new, old) = (At::root(new), At::root(old));
                check::immutable(&new.get("handler"), &old.get("handler"), e);
            },
            ..Rules::default()
        },
        ..family.cluster_kind("RuntimeClass", "runtimeclasses")
    }]
}

fn validate_runtime_class(class: &Value, e: &mut Errors) {
    let root = At::root(class);
    let (handler, overhead, scheduling) = (root.get("handler"), root.get("overhead"), root.get("scheduling"));
    handler.all_invalid(e, names::is_dns1123_label(handler.text()));
    let fixed = overhead.get("podFixed");
    for (name, amount) in fixed.entries() {
        check::resources::container_name(&amount, name, e);
        check::resources::quantity(&amount, name, e);
    }
    check::labels(&scheduling.get("nodeSelector"), e);
    let tolerations = scheduling.get("tolerations");
    crate::core::pod::scheduling::tolerations(&tolerations, e);
    for (place, toleration) in tolerations.items().enumerate() {
        if tolerations.array()[..place].iter().any(|other| Some(other) == toleration.value()) {
            toleration.duplicate(e);
        }
    }
}

pub(crate) fn discovery(arena: &Arc<Arena>) -> Vec<Resource> {
    let family =
        Family { arena, group: "discovery.k8s.io", version: "v1", package: "io.k8s.api.discovery.v1" };
    vec![Resource {
        has_generation: true,
        selectable: selectable(&[]),
        columns: columns(&[
            ("AddressType", "string", 0, Cell::Path(".addressType".into())),
            ("Ports", "string", 0, computed(slice_ports)),
            ("Endpoints", "string", 0, computed(slice_endpoints)),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            default: slice_defaults,
            validate: validate_slice,
            validate_update: |new, old, e| {
                let (new, old) = (At::root(new), At::root(old));
                check::immutable(&new.get("addressType"), &old.get("addressType"), e);
            },
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..family.kind("EndpointSlice", "endpointslices")
    }]
}

/// Names or addresses that a table shows before it only counts.
const SHOWN: usize = 3;

fn shortened(all: &[String], empty: &str) -> Value {
    match all.len() {
        0 => Value::from(empty),
        n if n > SHOWN => Value::from(format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN)),
        _ => Value::from(all.join(",")),
    }
}

fn slice_ports(slice: &Value, _: Timestamp) -> Value {
    let ports = slice["ports"].as_array().into_iter().flatten();
    let all: Vec<String> = ports
        .map(|port| match (get(port, "port"), text(port, "name")) {
            (Some(number), _) => number.to_string(),
            (None, "") => "*".to_owned(),
            (None, name) => name.to_owned(),
        })
        .collect();
    shortened(&all, "<unset>")
}

fn slice_endpoints(slice: &Value, _: Timestamp) -> Value {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let addresses = endpoints.flat_map(|e| e["addresses"].as_array().into_iter().flatten());
    let all: Vec<String> = addresses.filter_map(Value::as_str).map(str::to_owned).collect();
    shortened(&all, "<unset>")
}

fn slice_defaults(slice: &mut Value) {
    for port in each_mut(slice, "ports") {
        set_if_absent(port, "name", "");
        fill(port, &[("protocol", Fill::Text("TCP"))]);
    }
    for endpoint in each_mut(slice, "endpoints") {
        object_at(endpoint, &["conditions"]);
    }
}

fn validate_slice(slice: &Value, e: &mut Errors) {
    let root = At::root(slice);
    let kind = root.get("addressType");
    check::required_one_of(&kind, &["FQDN", "IPv4", "IPv6"], e);
    let endpoints = root.get("endpoints");
    if endpoints.len() > 1000 {
        endpoints.too_many(e, endpoints.len(), 1000);
    }
    for endpoint in endpoints.items() {
        slice_endpoint(&endpoint, kind.text(), e);
    }
    let ports = root.get("ports");
    if ports.len() > 20_000 {
        ports.too_many(e, ports.len(), 20_000);
    }
    let mut seen = std::collections::BTreeSet::new();
    for port in ports.items() {
        let name = port.get("name");
        check::name(&name, names::is_dns1123_label, e);
        if !seen.insert(name.text()) {
            name.duplicate(e);
        }
        if port.get("port").is_set() {
            check::port_number(&port.get("port"), e);
        }
        check::required_one_of(&port.get("protocol"), &["SCTP", "TCP", "UDP"], e);
        check::name(&port.get("appProtocol"), names::is_qualified_name, e);
    }
}

/// The most labels of an endpoint's older topology, and the most hints of one sort.
const MOST_TOPOLOGY_LABELS: usize = 16;
const MOST_HINTS: usize = 8;

fn slice_endpoint(endpoint: &At, kind: &str, e: &mut Errors) {
    let addresses = endpoint.get("addresses");
    if addresses.is_empty() {
        addresses.required(e, "must contain at least 1 address");
    } else if addresses.len() > 100 {
        addresses.too_many(e, addresses.len(), 100);
    }
    for address in addresses.items() {
        let ip = check::parse_ip(address.text());
        match kind {
            "FQDN" => address.all_invalid(e, names::is_dns1123_subdomain(address.text())),
            "IPv4" if ip.is_none_or(|ip| !ip.is_ipv4()) => address.invalid_text(e, "must be an IPv4 address"),
            "IPv6" if ip.is_none_or(|ip| !ip.is_ipv6()) => address.invalid_text(e, "must be an IPv6 address"),
            "IPv4" | "IPv6" => endpoint_ip(&address, e),
            _ => {}
        }
    }
    check::name(&endpoint.get("hostname"), names::is_dns1123_label, e);
    check::name(&endpoint.get("nodeName"), names::is_dns1123_subdomain, e);
    let (topology, hints) = (endpoint.get("deprecatedTopology"), endpoint.get("hints"));
    if topology.len_of_map() > MOST_TOPOLOGY_LABELS {
        topology.too_many(e, topology.len_of_map(), MOST_TOPOLOGY_LABELS);
    }
    check::labels(&topology, e);
    let checks: [(&str, check::NameCheck); 2] =
        [("forZones", names::is_valid_label_value), ("forNodes", names::is_dns1123_subdomain)];
    for (field, check) in checks {
        let list = hints.get(field);
        if list.len() > MOST_HINTS {
            list.too_many(e, list.len(), MOST_HINTS);
            continue;
        }
        check::unique_field(&list, "name", e);
        for hint in list.items() {
            hint.get("name").all_invalid(e, check(hint.get("name").text()));
        }
    }
}
