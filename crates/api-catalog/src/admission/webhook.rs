//! Webhooks: where they are, what they are asked about, and what their silence means.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use api_machinery::field::{Errors, Path};
use api_machinery::names;
use cel::Environment;
use cel::conditions::{self, Conditions};
use serde_json::Value;

use super::rule;
use crate::at::At;
use crate::check;
use crate::fill::{Fill, each_mut, fill};

/// The versions of `AdmissionReview` that this server speaks.
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];
const REVIEWS_TEXT: &str = "v1, v1beta1";
const HARMLESS: [&str; 2] = ["None", "NoneOnDryRun"];
const MOST_CONDITIONS: usize = 64;
/// What upstream's URLs look like.
const FORM: &str = "; desired format: https://host[/path]";

/// What conditions may speak of.
static CONDITIONS: LazyLock<Environment> = LazyLock::new(conditions::environment);

pub fn default_mutating(configuration: &mut Value) {
    default_validating(configuration);
    for webhook in each_mut(configuration, "webhooks") {
        fill(webhook, &[("reinvocationPolicy", Fill::Text("Never"))]);
    }
}

pub fn default_validating(configuration: &mut Value) {
    for webhook in each_mut(configuration, "webhooks") {
        let fields = [
            ("failurePolicy", Fill::Text("Fail")),
            ("matchPolicy", Fill::Text("Equivalent")),
            ("namespaceSelector", Fill::Object),
            ("objectSelector", Fill::Object),
            ("timeoutSeconds", Fill::Int(10)),
        ];
        fill(webhook, &fields);
        for rule in each_mut(webhook, "rules") {
            fill(rule, &[("scope", Fill::Text("*"))]);
        }
        if let Some(service) = webhook.pointer_mut("/clientConfig/service") {
            fill(service, &[("port", Fill::Int(443))]);
        }
    }
}

pub fn validate_mutating(configuration: &Value, e: &mut Errors) {
    validate(configuration, true, e);
}

pub fn validate_validating(configuration: &Value, e: &mut Errors) {
    validate(configuration, false, e);
}

fn validate(configuration: &Value, mutating: bool, e: &mut Errors) {
    let root = At::root(configuration);
    let mut names = BTreeSet::new();
    for webhook in root.get("webhooks").items() {
        one(&webhook, mutating, e);
        review_versions(&webhook.get("admissionReviewVersions"), e);
        let name = webhook.get("name");
        if !name.is_empty() && !names.insert(name.text()) {
            name.duplicate(e);
        }
    }
}

fn one(webhook: &At, mutating: bool, e: &mut Errors) {
    qualified(&webhook.get("name"), e);
    for item in webhook.get("rules").items() {
        rule::validate(&item, e);
    }
    check::one_of(&webhook.get("failurePolicy"), &["Fail", "Ignore"], e);
    check::one_of(&webhook.get("matchPolicy"), &["Equivalent", "Exact"], e);
    let effects = webhook.get("sideEffects");
    if !effects.is_set() {
        effects.required(e, &format!("must specify one of {}", HARMLESS.join(", ")));
    } else if !HARMLESS.contains(&effects.text()) {
        effects.not_supported(e, &HARMLESS);
    }
    let timeout = webhook.get("timeoutSeconds");
    if timeout.int().is_some_and(|seconds| !(1..=30).contains(&seconds)) {
        timeout.invalid(e, "the timeout value must be between 1 and 30 seconds");
    }
    check::label_selector(&webhook.get("namespaceSelector"), e);
    check::label_selector(&webhook.get("objectSelector"), e);
    if mutating {
        check::one_of(&webhook.get("reinvocationPolicy"), &["IfNeeded", "Never"], e);
    }
    client(&webhook.get("clientConfig"), e);
    match_conditions(&webhook.get("matchConditions"), e);
}

/// A name of at least three segments.
fn qualified(name: &At, e: &mut Errors) {
    if !name.must_be_set(e) {
        return;
    }
    let wrong = names::is_dns1123_subdomain(name.text());
    if !wrong.is_empty() {
        name.invalid(e, wrong.join(","));
    } else if name.text().split('.').count() < 3 {
        name.invalid(e, "should be a domain with at least three segments separated by dots");
    }
}

fn review_versions(versions: &At, e: &mut Errors) {
    if versions.is_empty() {
        return versions.required(e, &format!("must specify one of {REVIEWS_TEXT}"));
    }
    let mut seen = BTreeSet::new();
    for version in versions.items() {
        if seen.insert(version.text()) {
            version.all_invalid(e, names::is_dns1035_label(version.text()));
        } else {
            version.invalid(e, "duplicate version");
        }
    }
    if !REVIEWS.iter().any(|known| seen.contains(known)) {
        versions.invalid(e, format!("must include at least one of {REVIEWS_TEXT}"));
    }
}

/// Where requests go: a URL or a Service.
pub fn client(client: &At, e: &mut Errors) {
    let (url, service) = (client.get("url"), client.get("service"));
    match (url.is_set(), service.is_set()) {
        (true, false) => validate_url(&url, e),
        (false, true) => validate_service(&service, e),
        _ => client.required(e, "exactly one of url or service is required"),
    }
}

/// The parts of a URL as Go's parser sees them.
#[derive(Default)]
struct Parts<'a> {
    scheme: &'a str,
    host: &'a str,
    user: Option<&'a str>,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Parts<'a> {
    fn of(url: &'a str) -> Result<Parts<'a>, String> {
        let bad = |why: &str| Err(format!("parse {}: {why}", api_machinery::field::go_quote(url)));
        if url.chars().any(|letter| letter.is_ascii_control()) {
            return bad("net/url: invalid control character in URL");
        }
        let (rest, fragment) = url.split_once('#').unwrap_or((url, ""));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (scheme, rest) = match rest.split_once(':') {
            Some(("", _)) => return bad("missing protocol scheme"),
            Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
            Some((scheme, _)) if !scheme.contains('/') => {
                return bad("first path segment in URL cannot contain colon");
            }
            _ => ("", rest),
        };
        let Some(rest) = rest.strip_prefix("//") else {
            return Ok(Parts { scheme, query, fragment, ..Parts::default() });
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let port = host.rsplit_once(']').map_or(host, |(_, port)| port).split_once(':');
        if let Some((_, port)) = port
            && !port.bytes().all(|digit| digit.is_ascii_digit())
        {
            return bad(&format!("invalid port \":{port}\" after host"));
        }
        if host.contains([' ', '<', '>', '"', '\\', '^', '`', '{', '|', '}']) {
            return bad("invalid character in host name");
        }
        Ok(Parts { scheme, host, user, query, fragment })
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '+' | '-' | '.'))
}

fn validate_url(url: &At, e: &mut Errors) {
    let parts = match Parts::of(url.text()) {
        Ok(parts) => parts,
        Err(why) => return url.required(e, &format!("url must be a valid URL: {why}{FORM}")),
    };
    if !parts.scheme.eq_ignore_ascii_case("https") {
        url.invalid_as(e, parts.scheme, format!("'https' is the only allowed URL scheme{FORM}"));
    }
    if parts.host.is_empty() {
        url.invalid_as(e, "", format!("host must be specified{FORM}"));
    }
    if let Some(user) = parts.user {
        url.invalid_as(e, user, "user information is not permitted in the URL");
    }
    if !parts.fragment.is_empty() {
        url.invalid_as(e, parts.fragment, "fragments are not permitted in the URL");
    }
    if !parts.query.is_empty() {
        url.invalid_as(e, parts.query, "query parameters are not permitted in the URL");
    }
}

fn validate_service(service: &At, e: &mut Errors) {
    for (field, detail) in
        [("name", "service name is required"), ("namespace", "service namespace is required")]
    {
        let part = service.get(field);
        if part.is_empty() {
            part.required(e, detail);
        }
    }
    let port = service.get("port");
    let number = port.int().unwrap_or(443);
    let wrong = names::is_valid_port_num(number);
    if !wrong.is_empty() {
        port.invalid_as(e, number, format!("port is not valid: {}", wrong.join(", ")));
    }
    service_path(&service.get("path"), e);
}

fn service_path(path: &At, e: &mut Errors) {
    let text = path.text();
    if matches!(text, "" | "/") {
        return;
    }
    if text == "//" {
        return path.invalid(e, "segment[0] may not be empty");
    }
    if !text.starts_with('/') {
        path.invalid(e, "must start with a '/'");
    }
    // As upstream does, whatever the first character is.
    let mut below = text.chars();
    below.next();
    let below = below.as_str();
    for (index, segment) in below.strip_suffix('/').unwrap_or(below).split('/').enumerate() {
        if segment.is_empty() {
            path.invalid(e, format!("segment[{index}] may not be empty"));
            continue;
        }
        for wrong in names::is_dns1123_subdomain(segment) {
            path.invalid(e, format!("segment[{index}]: {wrong}"));
        }
    }
}

/// Named expressions that are true or false.
fn match_conditions(list: &At, e: &mut Errors) {
    if list.len() <= MOST_CONDITIONS
        && let Some(value) = list.value()
    {
        Conditions::compile(value, &CONDITIONS, &Path::new(&list.path()), e);
    }
    condition_names(list, e);
}

/// The names of conditions; the expressions are looked at elsewhere.
pub fn condition_names(list: &At, e: &mut Errors) {
    if list.len() > MOST_CONDITIONS {
        return list.too_many(e, list.len(), MOST_CONDITIONS);
    }
    let mut seen = BTreeSet::new();
    for condition in list.items() {
        let name = condition.get("name");
        if name.must_be_set(e) {
            name.all_invalid(e, names::is_qualified_name(name.text()));
            if !seen.insert(name.text()) {
                name.duplicate(e);
            }
        }
    }
}
