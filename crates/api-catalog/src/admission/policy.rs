//! Admission policies, validating and mutating ones, and the bindings that put them to use.

use std::collections::BTreeSet;

use api_machinery::field::{Errors, Path};
use api_machinery::names;
use cel::policy::Policy;
use serde_json::Value;

use super::{rule, webhook};
use crate::at::At;
use crate::check;
use crate::fill::{Fill, each_mut, fill};

const REASONS: [&str; 4] = ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"];
const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
/// What mutating policies may be about.
const MUTABLE: [&str; 4] = ["*", "CONNECT", "CREATE", "UPDATE"];
const MOST_ANNOTATIONS: usize = 20;
const MOST_BYTES: usize = 5 << 10;
const NOTHING_TO_DO: &str = "validations or auditAnnotations must be non-empty";

pub fn default_policy(policy: &mut Value) {
    let Some(spec) = policy.get_mut("spec") else { return };
    fill(spec, &[("failurePolicy", Fill::Text("Fail"))]);
    default_resources(spec.get_mut("matchConstraints"));
}

pub fn default_binding(binding: &mut Value) {
    default_resources(binding.pointer_mut("/spec/matchResources"));
}

fn default_resources(resources: Option<&mut Value>) {
    let Some(resources) = resources else { return };
    let fields = [
        ("matchPolicy", Fill::Text("Equivalent")),
        ("namespaceSelector", Fill::Object),
        ("objectSelector", Fill::Object),
    ];
    fill(resources, &fields);
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in each_mut(resources, list) {
            fill(rule, &[("scope", Fill::Text("*"))]);
        }
    }
}

pub fn validate_policy(policy: &Value, e: &mut Errors) {
    let root = At::root(policy);
    let spec = root.get("spec");
    constraints(&spec, e);
    let (validations, annotations) = (spec.get("validations"), spec.get("auditAnnotations"));
    if validations.is_empty() && annotations.is_empty() {
        validations.required(e, NOTHING_TO_DO);
        annotations.required(e, NOTHING_TO_DO);
    }
    validations.items().for_each(|one| validation(&one, e));
    audit_annotations(root.get("metadata").get("name").text(), &annotations, e);
    compile(&spec, e);
}

pub fn validate_mutating_policy(policy: &Value, e: &mut Errors) {
    let root = At::root(policy);
    let spec = root.get("spec");
    constraints(&spec, e);
    operations(&spec.get("matchConstraints").get("resourceRules"), e);
    let mutations = spec.get("mutations");
    if mutations.is_empty() {
        mutations.required(e, "mutations must contain at least one item");
    }
    mutations.items().for_each(|one| mutation(&one, e));
    check::required_one_of(&spec.get("reinvocationPolicy"), &["IfNeeded", "Never"], e);
    compile(&spec, e);
}

fn compile(spec: &At, e: &mut Errors) {
    if let Some(value) = spec.value() {
        Policy::compile(value, &Path::new("spec"), e);
    }
}

/// What is deleted is not changed. Upstream names the field of no rule in particular.
fn operations(rules: &At, e: &mut Errors) {
    let place = rules.get("operations");
    for rule in rules.items() {
        for operation in rule.get("operations").texts().filter(|word| !MUTABLE.contains(word)) {
            place.not_supported_as(e, operation, &MUTABLE);
        }
    }
}

fn mutation(one: &At, e: &mut Errors) {
    let kind = one.get("patchType");
    let (own, other) = match kind.text() {
        "JSONPatch" => ("jsonPatch", "applyConfiguration"),
        "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
        "" => return kind.required(e, ""),
        _ => return kind.not_supported(e, &["ApplyConfiguration", "JSONPatch"]),
    };
    let (wanted, unwanted) = (one.get(own), one.get(other));
    if !wanted.is_set() {
        wanted.required(e, &format!("must be specified when patchType is {}", kind.text()));
    } else if wanted.get("expression").text().trim().is_empty() {
        wanted.get("expression").required(e, "");
    }
    if unwanted.is_set() {
        let why = format!("must not be specified when patchType is {}", kind.text());
        unwanted.invalid_as(e, format!("{{{other}}}"), why);
    }
}

/// What policies of both kinds say of the requests that they are about.
fn constraints(spec: &At, e: &mut Errors) {
    check::required_one_of(&spec.get("failurePolicy"), &["Fail", "Ignore"], e);
    let kind = spec.get("paramKind");
    if kind.is_set() {
        param_kind(&kind, e);
    }
    let constraints = spec.get("matchConstraints");
    if constraints.is_set() {
        match_resources(&constraints, e);
        constraints.get("resourceRules").must_be_set(e);
    } else {
        constraints.required(e, "");
    }
    webhook::condition_names(&spec.get("matchConditions"), e);
    for variable in spec.get("variables").items() {
        let name = variable.get("name");
        if name.text().trim().is_empty() {
            name.required(e, "name is not specified");
        } else if !is_identifier(name.text()) {
            name.invalid(e, "name is not a valid CEL identifier");
        }
        said(&variable.get("expression"), "expression", e);
    }
}

/// An expression is there.
fn said(expression: &At, field: &str, e: &mut Errors) {
    if expression.text().trim().is_empty() {
        expression.required(e, &format!("{field} is not specified"));
    }
}

fn is_identifier(name: &str) -> bool {
    let begins = |first: char| first.is_ascii_alphabetic() || first == '_';
    name.starts_with(begins) && name.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
}

fn param_kind(kind: &At, e: &mut Errors) {
    let version = kind.get("apiVersion");
    if version.must_be_set(e) {
        let (group, word) = version.text().rsplit_once('/').unwrap_or(("", version.text()));
        if group.contains('/') {
            version.invalid(e, format!("unexpected GroupVersion string: {}", version.text()));
        } else {
            let wrong = if group.is_empty() { Vec::new() } else { names::is_dns1123_subdomain(group) };
            if !wrong.is_empty() {
                version.invalid_as(e, group, wrong.join(","));
            }
            let wrong = names::is_dns1035_label(word);
            if word.is_empty() {
                version.invalid(e, "version must be specified");
            } else if !wrong.is_empty() {
                version.invalid_as(e, word, wrong.join(","));
            }
        }
    }
    let name = kind.get("kind");
    if name.must_be_set(e) {
        let wrong = names::is_dns1035_label(&name.text().to_lowercase());
        if !wrong.is_empty() {
            name.invalid(e, format!("may have mixed case, but should otherwise match: {}", wrong.join(",")));
        }
    }
}

fn match_resources(resources: &At, e: &mut Errors) {
    check::required_one_of(&resources.get("matchPolicy"), &["Equivalent", "Exact"], e);
    for field in ["namespaceSelector", "objectSelector"] {
        let selector = resources.get(field);
        if selector.is_set() {
            check::label_selector(&selector, e);
        } else {
            selector.required(e, "");
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for one in resources.get(field).items() {
            let mut seen = BTreeSet::new();
            for name in one.get("resourceNames").items() {
                name.all_invalid(e, names::path_segment_name(name.text(), false));
                if !seen.insert(name.text()) {
                    name.duplicate(e);
                }
            }
            rule::validate(&one, e);
        }
    }
}

fn validation(one: &At, e: &mut Errors) {
    said(&one.get("expression"), "expression", e);
    let (expression, message) = (one.get("messageExpression"), one.get("message"));
    if !expression.is_empty() && expression.text().trim().is_empty() {
        expression.invalid(e, "must be non-empty if specified");
    }
    let text = message.text().trim();
    if !message.is_empty() && text.is_empty() {
        message.invalid(e, "message must be non-empty if specified");
    } else if text.contains(['\n', '\r']) {
        message.invalid(e, "message must not contain line breaks");
    }
    check::one_of(&one.get("reason"), &REASONS, e);
}

fn audit_annotations(policy: &str, list: &At, e: &mut Errors) {
    if list.len() > MOST_ANNOTATIONS {
        list.invalid(e, format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations"));
    }
    let mut seen = BTreeSet::new();
    for one in list.items() {
        let (key, value) = (one.get("key"), one.get("valueExpression"));
        let full = if policy.is_empty() { key.text().to_owned() } else { format!("{policy}/{}", key.text()) };
        for wrong in names::is_qualified_name(&full) {
            key.invalid_as(e, full.as_str(), wrong);
        }
        if value.text().len() > MOST_BYTES {
            value.required(e, &format!("must not exceed {MOST_BYTES} bytes in length"));
        }
        said(&value, "valueExpression", e);
        if !seen.insert(key.text()) {
            key.duplicate(e);
        }
    }
}

pub fn validate_binding(binding: &Value, e: &mut Errors) {
    bound(binding, e);
    let root = At::root(binding);
    let spec = root.get("spec");
    validation_actions(&spec.get("validationActions"), e);
}

pub fn validate_mutating_binding(binding: &Value, e: &mut Errors) {
    bound(binding, e);
    let root = At::root(binding);
    let spec = root.get("spec");
    operations(&spec.get("matchResources").get("resourceRules"), e);
}

/// What bindings of both kinds say.
fn bound(binding: &Value, e: &mut Errors) {
    let root = At::root(binding);
    let spec = root.get("spec");
    check::required_name(&spec.get("policyName"), names::is_dns1123_subdomain, e);
    let reference = spec.get("paramRef");
    if reference.is_set() {
        param_ref(&reference, e);
    }
    let resources = spec.get("matchResources");
    if resources.is_set() {
        match_resources(&resources, e);
    }
}

fn param_ref(reference: &At, e: &mut Errors) {
    let (name, selector) = (reference.get("name"), reference.get("selector"));
    let exclusive = "name and selector are mutually exclusive";
    if !name.is_empty() {
        name.all_invalid(e, names::path_segment_name(name.text(), false));
        if selector.is_set() {
            name.forbidden(e, exclusive);
        }
    }
    check::label_selector(&selector, e);
    if selector.is_set() && !name.is_empty() {
        selector.forbidden(e, exclusive);
    }
    if !selector.is_set() && name.is_empty() {
        reference.required(e, "one of name or selector must be specified");
    }
    check::required_one_of(&reference.get("parameterNotFoundAction"), &["Allow", "Deny"], e);
}

fn validation_actions(actions: &At, e: &mut Errors) {
    let mut seen = BTreeSet::new();
    for action in actions.items() {
        if !ACTIONS.contains(&action.text()) {
            action.not_supported(e, &ACTIONS);
        }
        if !seen.insert(action.text()) {
            action.duplicate(e);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        actions.invalid(e, why);
    }
    if seen.is_empty() {
        actions.required(e, "at least one validation action is required");
    }
}

/// The kind of a policy's parameters.
pub fn shown_kind(policy: &Value) -> Value {
    let kind = &policy["spec"]["paramKind"];
    if !kind.is_object() {
        return "<unset>".into();
    }
    let text = |field: &str| kind[field].as_str().unwrap_or_default();
    format!("{}/{}", text("apiVersion"), text("kind")).into()
}

/// Where a binding's parameters are.
pub fn shown_ref(binding: &Value) -> Value {
    let reference = &binding["spec"]["paramRef"];
    let text = |field: &str| reference[field].as_str().unwrap_or_default();
    let selector = reference.get("selector").filter(|selector| selector.is_object());
    match (text("namespace"), text("name"), selector) {
        ("", "", None) => "<unset>".into(),
        (_, "", Some(selector)) => api_machinery::selector::LabelSelector::from_object(Some(selector))
            .map_or_else(|_| "<unset>".into(), |selector| selector.to_string().into()),
        ("", name, _) => name.into(),
        (namespace, name, _) => format!("{namespace}/{name}").into(),
    }
}
