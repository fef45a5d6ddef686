//! Rules that say which requests a webhook is asked about.

use std::collections::BTreeSet;

use api_machinery::field::Errors;

use crate::at::At;
use crate::check;

const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

/// A rule with its operations.
pub fn validate(rule: &At, e: &mut Errors) {
    let operations = rule.get("operations");
    alone(&operations, "operations", e);
    for operation in operations.items().filter(|operation| !OPERATIONS.contains(&operation.text())) {
        operation.not_supported(e, &OPERATIONS);
    }
    alone(&rule.get("apiGroups"), "API groups", e);
    let versions = rule.get("apiVersions");
    alone(&versions, "API versions", e);
    for version in versions.items() {
        version.must_be_set(e);
    }
    resources(&rule.get("resources"), e);
    check::one_of(&rule.get("scope"), &SCOPES, e);
}

/// A list is not empty, and `*` is its only element if it is one.
fn alone(list: &At, what: &str, e: &mut Errors) {
    list.must_be_set(e);
    if list.len() > 1 && list.texts().any(|text| text == "*") {
        list.invalid(e, format!("if '*' is present, must not specify other {what}"));
    }
}

/// Resources and subresources: none that another one covers already.
fn resources(list: &At, e: &mut Errors) {
    list.must_be_set(e);
    let (mut all_of, mut of_all) = (BTreeSet::new(), BTreeSet::new());
    // As upstream does, only the last one without a slash counts.
    let mut plain = false;
    for item in list.items() {
        if !item.must_be_set(e) {
            continue;
        }
        let text = item.text();
        let Some((resource, subresource)) = text.split_once('/') else {
            plain = text != "*";
            continue;
        };
        if all_of.contains(resource) {
            item.invalid(e, format!("if '{resource}/*' is present, must not specify {text}"));
        }
        if of_all.contains(subresource) {
            item.invalid(e, format!("if '*/{subresource}' is present, must not specify {text}"));
        }
        if subresource == "*" {
            all_of.insert(resource);
        }
        if resource == "*" {
            of_all.insert(subresource);
        }
    }
    let has = |wanted: &str| list.texts().any(|text| text == wanted);
    if list.len() > 1 && has("*/*") {
        list.invalid(e, "if '*/*' is present, must not specify other resources");
    }
    if has("*") && plain {
        list.invalid(e, "if '*' is present, must not specify other resources without subresources");
    }
}
