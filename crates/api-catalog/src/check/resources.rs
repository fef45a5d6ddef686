//! Amounts of resources: names, quantities, requests against limits.

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::quantity::Quantity;

use crate::at::At;

const STANDARD: [&str; 5] = ["cpu", "memory", "ephemeral-storage", "storage", "pods"];
const HUGE_PAGES: &str = "hugepages-";
const INTEGER: &str = "must be an integer";

/// The quantity here, if it reads as one.
pub(crate) fn parse(at: &At) -> Option<Quantity> {
    Quantity::from_json(at.value()?)
}

/// Whether the quantity here is zero or absent.
pub(crate) fn is_zero(at: &At) -> bool {
    parse(at).is_none_or(Quantity::is_zero)
}

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

/// Extended resources belong to somebody: `example.com/gpu`.
pub(crate) fn is_extended(name: &str) -> bool {
    let quota = format!("requests.{name}");
    !is_native(name) && !name.starts_with("requests.") && names::is_qualified_name(&quota).is_empty()
}

fn is_integer(name: &str) -> bool {
    name == "pods" || is_extended(name) || name.starts_with(HUGE_PAGES)
}

/// A resource's name.
pub(crate) fn name(at: &At, name: &str, e: &mut Errors) {
    let messages = names::is_qualified_name(name);
    let sound = messages.is_empty();
    for message in messages {
        at.invalid_as(e, name, message);
    }
    let known =
        STANDARD.contains(&name) || name.starts_with(HUGE_PAGES) || name.starts_with("attachable-volumes-");
    if sound && !name.contains('/') && !known {
        at.invalid_as(e, name, "must be a standard resource type or fully qualified");
    }
}

/// A resource's name, as containers may ask for it.
pub(crate) fn container_name(at: &At, name: &str, e: &mut Errors) {
    let messages = names::is_qualified_name(name);
    let sound = messages.is_empty();
    for message in messages {
        at.invalid_as(e, name, message);
    }
    if !sound {
        return;
    }
    let standard = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with(HUGE_PAGES);
    if !name.contains('/') && !standard {
        at.invalid_as(e, name, "must be a standard resource for containers");
    } else if !is_native(name) && !is_extended(name) {
        at.invalid_as(e, name, "doesn't follow extended resource name standard");
    }
}

/// A resource's name, as a pod as a whole may ask for it.
fn pod_level_name(at: &At, name: &str, e: &mut Errors) {
    if !matches!(name, "cpu" | "memory") && !name.starts_with(HUGE_PAGES) {
        at.not_supported_as(e, name, &["cpu", HUGE_PAGES, "memory"]);
    }
}

/// A quantity that is not negative, whole where halves make no sense.
pub(crate) fn quantity(at: &At, name: &str, e: &mut Errors) {
    let Some(amount) = parse(at) else {
        return at.invalid(
            e,
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
    };
    if amount.is_negative() {
        at.invalid_text_or_value(e, crate::check::NEGATIVE);
    }
    if is_integer(name) && amount.nanos() % 1_000_000_000 != 0 {
        at.invalid_text_or_value(e, INTEGER);
    }
}

/// `resources` of a container, or of a pod as a whole.
pub(crate) fn requirements(at: &At, pod_level: bool, e: &mut Errors) {
    let (requests, limits) = (at.get("requests"), at.get("limits"));
    let mut basic = false;
    let check_name = if pod_level { pod_level_name } else { container_name };
    for (name, limit) in limits.entries() {
        check_name(&limit, name, e);
        quantity(&limit, name, e);
        basic |= matches!(name, "cpu" | "memory");
        if name.starts_with(HUGE_PAGES) {
            hugepages(&limit, name, &requests, e);
        }
    }
    for (name, request) in requests.entries() {
        check_name(&request, name, e);
        quantity(&request, name, e);
        basic |= matches!(name, "cpu" | "memory");
        against_limit(&request, name, &limits, e);
    }
    let huge = |list: &At| list.entries().any(|(name, _)| name.starts_with(HUGE_PAGES));
    if !basic && !pod_level && (huge(&limits) || huge(&requests)) {
        at.forbidden(e, "HugePages require cpu or memory");
    }
    if pod_level && !at.get("claims").is_empty() {
        at.get("claims").forbidden(e, "claims may not be set for Resources at pod-level");
    }
    claims(at, e);
}

fn hugepages(limit: &At, name: &str, requests: &At, e: &mut Errors) {
    let size = name.trim_start_matches(HUGE_PAGES).parse::<Quantity>();
    if size.is_err() {
        limit.invalid_as(e, name, "must be a valid hugepage size");
    }
    let request = requests.key(name);
    if request.is_set() && parse(&request) != parse(limit) {
        request.invalid(e, format!("must be equal to {name} limit of {}", shown(limit)));
    }
}

fn against_limit(request: &At, name: &str, limits: &At, e: &mut Errors) {
    let limit = limits.key(name);
    let overcommit_ok = !is_extended(name) && !name.starts_with(HUGE_PAGES);
    match (parse(request), parse(&limit)) {
        (Some(asked), Some(most)) if !overcommit_ok && is_extended(name) && asked != most => {
            request.invalid(e, format!("must be equal to {name} limit of {}", shown(&limit)));
        }
        (Some(asked), Some(most)) if asked > most => {
            request.invalid(e, format!("must be less than or equal to {name} limit of {}", shown(&limit)));
        }
        (Some(_), None) if !overcommit_ok => {
            limit.required(e, "Limit must be set for non overcommitable resources")
        }
        _ => {}
    }
}

fn claims(at: &At, e: &mut Errors) {
    let claims = at.get("claims");
    let mut seen = std::collections::BTreeSet::new();
    for claim in claims.items() {
        let name = claim.get("name");
        if !name.must_be_set(e) {
            continue;
        }
        if !seen.insert((name.text(), claim.get("request").text())) {
            claim.duplicate(e);
        }
    }
}

/// As upstream prints it: canonical.
pub(crate) fn shown(at: &At) -> String {
    parse(at).map(|quantity| quantity.to_string()).unwrap_or_default()
}
