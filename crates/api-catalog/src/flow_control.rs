//! `flowcontrol.apiserver.k8s.io`: FlowSchemas and PriorityLevelConfigurations. Deliberately absent: queues. The server's own
//! limits do not depend on these objects.

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Resource, Rules};
use api_machinery::schema::Arena;
use serde_json::{Value, json};

use crate::at::At;
use crate::check;
use crate::entry::{Family, columns, computed, with_status};
use crate::fill::{Fill, at, fill, object_at};
use crate::print::NONE;

/// What comes last; nothing else may be as early as the schema `exempt`.
const LAST: i64 = 10_000;
/// The most queues of a level.
const MOST_QUEUES: i64 = 10_000_000;
/// How many bits of a hash choose a hand.
const HASH_BITS: f64 = 60.0;
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let package = "io.k8s.api.flowcontrol.v1";
    let family = Family { arena, group: "flowcontrol.apiserver.k8s.io", version: "v1", package };
    let schema = Resource {
        subresources: with_status(),
        has_generation: true,
        columns: columns(&[
            ("PriorityLevel", "string", 0, Cell::Path(".spec.priorityLevelConfiguration.name".into())),
            ("MatchingPrecedence", "string", 0, computed(|s, _| shown(s, &["spec", "matchingPrecedence"]))),
            (
                "DistinguisherMethod",
                "string",
                0,
                computed(|s, _| shown(s, &["spec", "distinguisherMethod", "type"])),
            ),
            ("Age", "string", 0, Cell::Age),
            ("MissingPL", "string", 0, computed(|s, _| dangling(s))),
        ]),
        rules: Rules {
            default: |schema| {
                if let Some(spec) = object_at(schema, &["spec"]) {
                    fill(spec, &[("matchingPrecedence", Fill::NonZero(1000))]);
                }
            },
            validate: flow_schema,
            validate_status_update: status,
            ..Rules::default()
        },
        ..family.cluster_kind("FlowSchema", "flowschemas")
    };
    let queue = |field: &'static str| {
        let cell: fn(&Value, jiff::Timestamp) -> Value = match field {
            "queues" => |level, _| shown(level, &["spec", "limited", "limitResponse", "queuing", "queues"]),
            "handSize" => {
                |level, _| shown(level, &["spec", "limited", "limitResponse", "queuing", "handSize"])
            }
            _ => {
                |level, _| shown(level, &["spec", "limited", "limitResponse", "queuing", "queueLengthLimit"])
            }
        };
        computed(cell)
    };
    let level = Resource {
        subresources: with_status(),
        has_generation: true,
        columns: columns(&[
            ("Type", "string", 0, Cell::Path(".spec.type".into())),
            ("NominalConcurrencyShares", "string", 0, computed(|level, _| shares(level))),
            ("Queues", "string", 0, queue("queues")),
            ("HandSize", "string", 0, queue("handSize")),
            ("QueueLengthLimit", "string", 0, queue("queueLengthLimit")),
            ("Age", "string", 0, Cell::Age),
        ]),
        rules: Rules {
            default: level_defaults,
            validate: priority_level,
            validate_status_update: status,
            ..Rules::default()
        },
        ..family.cluster_kind("PriorityLevelConfiguration", "prioritylevelconfigurations")
    };
    vec![schema, level]
}

fn shown(object: &Value, way: &[&str]) -> Value {
    match at(object, way) {
        Some(Value::String(text)) => Value::from(text.as_str()),
        Some(value) => Value::from(value.to_string()),
        None => Value::from(NONE),
    }
}

fn shares(level: &Value) -> Value {
    let part = if level["spec"]["type"] == "Exempt" { "exempt" } else { "limited" };
    shown(level, &["spec", part, "nominalConcurrencyShares"])
}

fn dangling(schema: &Value) -> Value {
    let mut conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
    let dangling = conditions.rfind(|condition| condition["type"] == "Dangling");
    Value::from(dangling.and_then(|condition| condition["status"].as_str()).unwrap_or("?"))
}

fn level_defaults(level: &mut Value) {
    let Some(spec) = object_at(level, &["spec"]) else { return };
    if let Some(limited) = spec.get_mut("limited").filter(|limited| limited.is_object()) {
        fill(limited, &[("nominalConcurrencyShares", Fill::Int(30)), ("lendablePercent", Fill::Int(0))]);
        if let Some(queuing) =
            limited["limitResponse"].get_mut("queuing").filter(|queuing| queuing.is_object())
        {
            fill(
                queuing,
                &[
                    ("handSize", Fill::NonZero(8)),
                    ("queues", Fill::NonZero(64)),
                    ("queueLengthLimit", Fill::NonZero(50)),
                ],
            );
        }
    }
    if let Some(exempt) = spec.get_mut("exempt").filter(|exempt| exempt.is_object()) {
        fill(exempt, &[("nominalConcurrencyShares", Fill::Int(0)), ("lendablePercent", Fill::Int(0))]);
    }
}

/// The specs of the two schemas that no cluster changes.
fn mandatory_schema(name: &str) -> Option<Value> {
    let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
    let rules = |subjects: Value| {
        json!([{
            "subjects": subjects,
            "resourceRules": [{
                "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true,
            }],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }])
    };
    match name {
        "exempt" => Some(json!({
            "priorityLevelConfiguration": {"name": "exempt"}, "matchingPrecedence": 1,
            "rules": rules(json!([group("system:masters")])),
        })),
        "catch-all" => Some(json!({
            "priorityLevelConfiguration": {"name": "catch-all"}, "matchingPrecedence": LAST,
            "distinguisherMethod": {"type": "ByUser"},
            "rules": rules(json!([group("system:unauthenticated"), group("system:authenticated")])),
        })),
        _ => None,
    }
}

fn flow_schema(schema: &Value, e: &mut Errors) {
    let root = At::root(schema);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let name = metadata.get("name").text();
    let precedence = spec.get("matchingPrecedence");
    match precedence.int().unwrap_or(0) {
        number if number <= 0 => precedence.invalid_as(e, number, "must be a positive value"),
        number if number > LAST => precedence.invalid(e, format!("must not be greater than {LAST}")),
        1 if name != "exempt" => {
            precedence.invalid(e, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        _ => {}
    }
    let method = spec.get("distinguisherMethod");
    if method.is_set() && !["ByNamespace", "ByUser"].contains(&method.get("type").text()) {
        method.get("type").not_supported(e, &["ByNamespace", "ByUser"]);
    }
    let level = spec.get("priorityLevelConfiguration");
    let level = level.get("name");
    match level.is_empty() {
        true => level.required(e, "must reference a priority level"),
        false => level.all_invalid(e, names::is_dns1123_subdomain(level.text())),
    }
    for rule in spec.get("rules").items() {
        policy_rule(&rule, e);
    }
    if mandatory_schema(name).is_some_and(|fixed| !check::same(spec.value(), Some(&fixed))) {
        spec.invalid(e, format!("spec of '{name}' must equal the fixed value"));
    }
}

fn status(new: &Value, _: &Value, e: &mut Errors) {
    let root = At::root(new);
    let status = root.get("status");
    let conditions = status.get("conditions");
    check::unique_field(&conditions, "type", e);
    for condition in conditions.items() {
        let kind = condition.get("type");
        if kind.is_empty() {
            kind.required(e, "must not be empty");
        }
    }
}

fn policy_rule(rule: &At, e: &mut Errors) {
    let subjects = rule.get("subjects");
    if subjects.is_empty() {
        subjects.required(e, "subjects must contain at least one value");
    }
    for subject in subjects.items() {
        policy_subject(&subject, e);
    }
    let (resources, urls) = (rule.get("resourceRules"), rule.get("nonResourceRules"));
    if resources.is_empty() && urls.is_empty() {
        rule.required(e, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for rule in resources.items() {
        resource_rule(&rule, e);
    }
    for rule in urls.items() {
        verbs(&rule.get("verbs"), e);
        let urls = rule.get("nonResourceURLs");
        if urls.is_empty() {
            urls.required(e, "nonResourceURLs must contain at least one value");
        } else if !alone(&urls, "non-resource URLs", e) {
            for url in urls.items() {
                non_resource_url(&url, e);
            }
        }
    }
}

/// The kind of a subject, and the field that is set for it and for no other.
const SUBJECTS: [(&str, &str); 3] =
    [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];

fn policy_subject(subject: &At, e: &mut Errors) {
    let kind = subject.get("kind");
    let Some((_, field)) = SUBJECTS.iter().find(|(known, _)| *known == kind.text()) else {
        return kind.not_supported(e, &["Group", "ServiceAccount", "User"]);
    };
    let who = subject.get(field);
    if !who.is_set() {
        who.required(e, &format!("{field} is required when subject kind is '{}'", kind.text()));
    } else if *field == "serviceAccount" {
        let (name, namespace) = (who.get("name"), who.get("namespace"));
        if name.must_be_set(e) && name.text() != "*" {
            check::name(&name, names::is_dns1123_subdomain, e);
        }
        match namespace.is_empty() {
            true => namespace.required(e, "must specify namespace for service account"),
            false => namespace.all_invalid(e, names::is_dns1123_label(namespace.text())),
        }
    } else {
        who.get("name").must_be_set(e);
    }
    for (kind, other) in SUBJECTS.iter().filter(|(_, other)| other != field) {
        if subject.get(other).is_set() {
            let why = format!("{other} is forbidden when subject kind is not '{kind}'");
            subject.get(other).forbidden(e, &why);
        }
    }
}

/// Whether a list has a `*`, which then must be all that it has.
fn alone(list: &At, what: &str, e: &mut Errors) -> bool {
    let any = list.texts().any(|text| text == "*");
    if any && list.len() > 1 {
        list.invalid(e, format!("if '*' is present, must not specify other {what}"));
    }
    any
}

fn verbs(verbs: &At, e: &mut Errors) {
    if verbs.is_empty() {
        verbs.required(e, "verbs must contain at least one value");
    } else if !alone(verbs, "verbs", e) && !verbs.texts().all(|verb| VERBS.contains(&verb)) {
        verbs.not_supported_as(e, verbs.array().to_vec(), VERBS);
    }
}

fn resource_rule(rule: &At, e: &mut Errors) {
    verbs(&rule.get("verbs"), e);
    for (field, one, many) in
        [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")]
    {
        let list = rule.get(field);
        if list.is_empty() {
            list.required(e, &format!("resource rules must supply at least one {one}"));
        } else {
            alone(&list, many, e);
        }
    }
    let namespaces = rule.get("namespaces");
    if namespaces.is_empty() {
        if !rule.get("clusterScope").flag() {
            let why = "resource rules that are not cluster scoped must supply at least one namespace";
            namespaces.required(e, why);
        }
    } else if !alone(&namespaces, "namespaces", e) {
        for namespace in namespaces.items() {
            for message in names::is_dns1123_label(namespace.text()) {
                namespace.invalid(
                    e,
                    format!("each member of this list must be '*' or a DNS-1123 label; {message}"),
                );
            }
        }
    }
}

fn non_resource_url(url: &At, e: &mut Errors) {
    let path = url.text();
    let wildcards = path.matches('*').count();
    let why = match path {
        "" => "must not be empty",
        "/" => return,
        _ if !path.starts_with('/') => "must start with slash",
        _ if path.contains(' ') => "must not contain white-space",
        _ if path.contains("//") => "must not contain double slash",
        _ if wildcards > 1 || (wildcards == 1 && !path.ends_with("/*")) => {
            "wildcard can only do suffix matching"
        }
        _ => return,
    };
    url.invalid_text(e, why);
}

fn priority_level(level: &Value, e: &mut Errors) {
    let root = At::root(level);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let name = metadata.get("name").text();
    let (kind, limited, exempt) = (spec.get("type"), spec.get("limited"), spec.get("exempt"));
    if (name == "exempt") != (kind.text() == "Exempt") {
        kind.invalid_text(e, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    match kind.text() {
        "Exempt" => {
            if limited.is_set() {
                limited.forbidden(e, "must be nil if the type is not Limited");
            }
            match exempt.is_set() {
                false => exempt.required(e, "must not be empty when type is Exempt"),
                true => shares_and_loans(&exempt, e),
            }
        }
        "Limited" => {
            if exempt.is_set() {
                exempt.forbidden(e, "must be nil if the type is Limited");
            }
            match limited.is_set() {
                false => limited.required(e, "must not be empty when type is Limited"),
                true => limited_level(&limited, e),
            }
        }
        _ => kind.not_supported(e, &["Exempt", "Limited"]),
    }
    let fixed = json!({"type": "Limited", "limited": {
        "nominalConcurrencyShares": 5, "lendablePercent": 0, "limitResponse": {"type": "Reject"},
    }});
    if name == "catch-all" && !check::same(spec.value(), Some(&fixed)) {
        spec.invalid(e, "spec of 'catch-all' must equal the fixed value");
    }
}

fn shares_and_loans(level: &At, e: &mut Errors) {
    let (shares, lendable) = (level.get("nominalConcurrencyShares"), level.get("lendablePercent"));
    if shares.int().is_some_and(|shares| shares < 0) {
        shares.invalid(e, "must be a non-negative integer");
    }
    if lendable.int().is_some_and(|percent| !(0..=100).contains(&percent)) {
        lendable.invalid(e, "must be between 0 and 100, inclusive");
    }
}

fn limited_level(limited: &At, e: &mut Errors) {
    let shares = limited.get("nominalConcurrencyShares");
    if shares.int().is_some_and(|shares| shares < 0) {
        shares.invalid(e, "must be a non-negative integer");
    }
    limit_response(&limited.get("limitResponse"), e);
    let (lendable, borrowing) = (limited.get("lendablePercent"), limited.get("borrowingLimitPercent"));
    if lendable.int().is_some_and(|percent| !(0..=100).contains(&percent)) {
        lendable.invalid(e, "must be between 0 and 100, inclusive");
    }
    if borrowing.int().is_some_and(|percent| percent < 0) {
        borrowing.invalid(e, "if specified, must be a non-negative integer");
    }
}

fn limit_response(response: &At, e: &mut Errors) {
    let (kind, queuing) = (response.get("type"), response.get("queuing"));
    match kind.text() {
        "Reject" if queuing.is_set() => {
            queuing.forbidden(e, "must be nil if limited.limitResponse.type is not Limited");
        }
        "Reject" => {}
        "Queue" if queuing.is_set() => queues(&queuing, e),
        "Queue" => queuing.required(e, "must not be empty if limited.limitResponse.type is Limited"),
        _ => kind.not_supported(e, &["Queue", "Reject"]),
    }
}

fn queues(queuing: &At, e: &mut Errors) {
    let (length, queues, hand) =
        (queuing.get("queueLengthLimit"), queuing.get("queues"), queuing.get("handSize"));
    let number = |at: &At| at.int().unwrap_or(0);
    if number(&length) <= 0 {
        length.invalid(e, "must be positive");
    }
    if number(&queues) <= 0 {
        queues.invalid(e, "must be positive");
    } else if number(&queues) > MOST_QUEUES {
        queues.invalid(e, format!("must not be greater than {MOST_QUEUES}"));
    }
    if number(&hand) <= 0 {
        hand.invalid(e, "must be positive");
    } else if number(&hand) > number(&queues) {
        hand.invalid(e, format!("should not be greater than queues ({})", number(&queues)));
    } else if bits(number(&queues), number(&hand)) > HASH_BITS {
        let (deck, size) = (number(&queues), number(&hand));
        let why = format!(
            "required entropy bits of deckSize {deck} and handSize {size} should not be greater than {HASH_BITS}"
        );
        hand.invalid(e, why);
    }
}

/// The bits of a hash that choose `hand` of `deck` queues.
fn bits(deck: i64, hand: i64) -> f64 {
    let number = |value| i32::try_from(value).map_or(f64::INFINITY, f64::from);
    number(hand) * number(deck).log2()
}
