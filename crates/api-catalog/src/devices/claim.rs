//! What claims of devices, their templates and classes of devices must be.

use std::collections::{BTreeMap, BTreeSet};

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use serde_json::Value;

use super::selector::selectors;
use super::shared::{
    MOST_CONFIGURATIONS, MOST_REQUESTS, binding_conditions, configuration, each, each_once, fully_qualified,
    label, pool_name, raw, toleration,
};
use crate::at::At;
use crate::check;
use crate::check::resources::is_extended;
use crate::core::driver_name;
use crate::core::pod::scheduling::node_selector;

const MOST_CONSTRAINTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_TOLERATIONS: usize = 16;
const MOST_RESULTS: usize = 32;
const MOST_CONSUMERS: usize = 256;
const MOST_CONDITIONS: usize = 8;
const MOST_ADDRESSES: usize = 16;
const LONGEST_INTERFACE: usize = 256;
const LONGEST_HARDWARE_ADDRESS: usize = 128;
const ONE_OF: &str = "exactly one of `exactly` or `firstAvailable` is required";
const NO_SUCH_REQUEST: &str =
    "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
const NOT_A_UID: &str = "uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters";

pub(super) fn new_claim(claim: &Value, e: &mut Errors) {
    let root = At::root(claim);
    let spec = root.get("spec");
    devices(&spec.get("devices"), e);
}

/// What claims and their templates ask for is fixed.
pub(super) fn fixed_spec(new: &Value, old: &Value, e: &mut Errors) {
    check::immutable(&At::root(new).get("spec"), &At::root(old).get("spec"), e);
}

pub(super) fn new_template(template: &Value, e: &mut Errors) {
    let root = At::root(template);
    let spec = root.get("spec");
    let metadata = spec.get("metadata");
    if let Some(annotations) = metadata.get("annotations").object() {
        meta::validate_annotations(annotations, &Path::new("spec.metadata.annotations"), e);
    }
    check::labels(&metadata.get("labels"), e);
    for (field, at) in metadata.entries() {
        if !matches!(field, "annotations" | "labels") && !at.is_empty() {
            metadata.get(field).forbidden(e, "cannot be set");
        }
    }
    let inner = spec.get("spec");
    devices(&inner.get("devices"), e);
}

pub(super) fn new_class(class: &Value, e: &mut Errors) {
    class_spec(class, None, e);
}

pub(super) fn class_update(new: &Value, old: &Value, e: &mut Errors) {
    class_spec(new, Some(old), e);
}

/// What is as it was is not judged again: a later version may be stricter.
fn class_spec(class: &Value, old: Option<&Value>, e: &mut Errors) {
    let root = At::root(class);
    let spec = root.get("spec");
    let changed =
        |at: &At, field: &str| old.is_none_or(|old| !check::same(at.value(), old["spec"].get(field)));
    let (all, config) = (spec.get("selectors"), spec.get("config"));
    if changed(&all, "selectors") {
        selectors(&all, e);
    }
    if changed(&config, "config") {
        each(&config, MOST_CONFIGURATIONS, e, configuration);
    }
    let name = spec.get("extendedResourceName");
    if name.is_set() && !is_extended(name.text()) {
        name.invalid(e, "must be a valid extended resource name");
    }
}

/// The names of requests, each with those of its alternatives.
type Names<'v> = BTreeMap<&'v str, BTreeSet<&'v str>>;

fn names_of<'v>(devices: &At<'_, 'v>) -> Names<'v> {
    let mut names = Names::new();
    for request in devices.get("requests").array() {
        let alternatives = request["firstAvailable"].as_array().into_iter().flatten();
        let alternatives = alternatives.map(|alternative| crate::fill::text(alternative, "name"));
        names.insert(crate::fill::text(request, "name"), alternatives.collect());
    }
    names
}

fn devices(devices: &At, e: &mut Errors) {
    let names = names_of(devices);
    each_once(&devices.get("requests"), MOST_REQUESTS, "name", e, request);
    each(&devices.get("constraints"), MOST_CONSTRAINTS, e, |constraint, e| {
        references(&constraint.get("requests"), &names, e);
        let (same, distinct) = (constraint.get("matchAttribute"), constraint.get("distinctAttribute"));
        match (same.is_set(), distinct.is_set()) {
            (true, _) => fully_qualified(&same, e),
            (false, true) => fully_qualified(&distinct, e),
            (false, false) => constraint.required(
                e,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            ),
        }
    });
    each(&devices.get("config"), MOST_CONFIGURATIONS, e, |config, e| {
        references(&config.get("requests"), &names, e);
        configuration(config, e);
    });
}

fn request(request: &At, e: &mut Errors) {
    label(&request.get("name"), e);
    let (exactly, alternatives) = (request.get("exactly"), request.get("firstAvailable"));
    match (exactly.is_set(), !alternatives.is_empty()) {
        (false, false) => request.required(e, ONE_OF),
        (true, true) => {
            request.invalid_as(e, Value::Null, format!("{ONE_OF}, but multiple fields are set"));
        }
        (true, false) => demand(&exactly, e),
        (false, true) => each_once(&alternatives, MOST_ALTERNATIVES, "name", e, |alternative, e| {
            label(&alternative.get("name"), e);
            demand(alternative, e);
        }),
    }
}

/// Which devices are asked for, and how many.
fn demand(demand: &At, e: &mut Errors) {
    check::required_name(&demand.get("deviceClassName"), check::table::SUBDOMAIN, e);
    selectors(&demand.get("selectors"), e);
    let (mode, count) = (demand.get("allocationMode"), demand.get("count"));
    let number = count.int().unwrap_or(0);
    match mode.text() {
        "All" if number != 0 => count.invalid(e, "must not be specified when allocationMode is 'All'"),
        "All" => {}
        "ExactCount" if number <= 0 => count.invalid_as(e, number, "must be greater than zero"),
        "ExactCount" => {}
        _ => mode.not_supported(e, &["All", "ExactCount"]),
    }
    each(&demand.get("tolerations"), MOST_TOLERATIONS, e, toleration);
}

fn references(list: &At, names: &Names, e: &mut Errors) {
    each_once(list, MOST_REQUESTS, "", e, |name, e| reference(name, names, e));
}

/// `request` or `request/alternative`.
fn reference(name: &At, names: &Names, e: &mut Errors) {
    let parts: Vec<&str> = name.text().split('/').collect();
    if parts.len() <= 2 {
        for part in &parts {
            for message in api_machinery::names::is_dns1123_label(part) {
                name.invalid_as(e, *part, message);
            }
        }
    }
    let known = match parts[..] {
        [request] => names.contains_key(request),
        [request, alternative] => names.get(request).is_some_and(|all| all.contains(alternative)),
        _ => false,
    };
    if !known {
        name.invalid_text(e, NO_SUCH_REQUEST);
    }
}

/// What tells allocated devices apart.
type Identity<'v> = [&'v str; 4];

fn identity(device: &Value) -> Identity<'_> {
    ["driver", "pool", "device", "shareID"].map(|field| crate::fill::text(device, field))
}

pub(super) fn claim_status(new: &Value, old: &Value, e: &mut Errors) {
    let (root, before) = (At::root(new), At::root(old));
    let (spec, status, was) = (root.get("spec"), root.get("status"), before.get("status"));
    let names = names_of(&spec.get("devices"));
    let (users, allocation) = (status.get("reservedFor"), status.get("allocation"));
    each_once(&users, MOST_CONSUMERS, "uid", e, |user, e| {
        for field in ["resource", "name", "uid"] {
            user.get(field).must_be_set(e);
        }
    });
    let results = allocation.get("devices");
    let allocated: BTreeSet<Identity> = results.get("results").array().iter().map(identity).collect();
    let mut seen = BTreeSet::new();
    for device in status.get("devices").items() {
        device_status(&device, &allocated, e);
        if !device.value().is_none_or(|value| seen.insert(identity(value))) {
            device.duplicate(e);
        }
    }
    if !users.is_empty() && !allocation.is_set() {
        users.forbidden(e, "may not be specified when `allocated` is not set");
    } else if meta::deletion_timestamp(new).is_some() {
        let known = was.get("reservedFor");
        if users.array().iter().any(|user| !known.array().contains(user)) {
            users.forbidden(
                e,
                "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set",
            );
        }
    }
    match (allocation.is_set(), was.get("allocation").is_set()) {
        (true, true) => check::immutable(&allocation, &was.get("allocation"), e),
        (true, false) => new_allocation(&allocation, &names, e),
        _ => {}
    }
}

fn new_allocation(allocation: &At, names: &Names, e: &mut Errors) {
    let devices = allocation.get("devices");
    each(&devices.get("results"), MOST_RESULTS, e, |result, e| {
        reference(&result.get("request"), names, e);
        device_name(result, e);
        binding_conditions(result, e);
        each(&result.get("tolerations"), MOST_TOLERATIONS, e, toleration);
    });
    each(&devices.get("config"), 2 * MOST_CONFIGURATIONS, e, |config, e| {
        check::required_one_of(&config.get("source"), &["FromClaim", "FromClass"], e);
        references(&config.get("requests"), names, e);
        configuration(config, e);
    });
    let selector = allocation.get("nodeSelector");
    if selector.is_set() {
        node_selector(&selector, e);
    }
}

/// Which device it is.
fn device_name(device: &At, e: &mut Errors) {
    driver_name(&device.get("driver"), e);
    pool_name(&device.get("pool"), e);
    label(&device.get("device"), e);
    let share = device.get("shareID");
    if share.is_set() && !is_uid(share.text()) {
        share.invalid(e, NOT_A_UID);
    }
}

fn is_uid(text: &str) -> bool {
    let dash = |place| matches!(place, 8 | 13 | 18 | 23);
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match byte {
            b'-' => dash(place),
            b'0'..=b'9' | b'a'..=b'f' => !dash(place),
            _ => false,
        })
}

fn device_status(device: &At, allocated: &BTreeSet<Identity>, e: &mut Errors) {
    device_name(device, e);
    let value = device.value().cloned().unwrap_or_default();
    if !allocated.contains(&identity(&value)) {
        let shown = identity(&value)[..3].join("/");
        device.invalid_as(e, shown, "must be an allocated device in the claim");
    }
    check::conditions(&device.get("conditions"), MOST_CONDITIONS, e);
    let data = device.get("data");
    if data.is_set() {
        raw(&data, e);
    }
    let network = device.get("networkData");
    for (field, most) in [("interfaceName", LONGEST_INTERFACE), ("hardwareAddress", LONGEST_HARDWARE_ADDRESS)]
    {
        let name = network.get(field);
        if name.text().len() > most {
            name.too_long(e, most);
        }
    }
    each_once(&network.get("ips"), MOST_ADDRESSES, "", e, |address, e| {
        match check::parse_cidr(address.text()) {
            None => {
                address
                    .invalid(e, "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)");
            }
            Some((ip, bits)) => {
                let canonical = format!("{ip}/{bits}");
                if canonical != address.text() {
                    address.invalid(e, format!("must be in canonical form (\"{canonical}\")"));
                }
            }
        }
    });
}
