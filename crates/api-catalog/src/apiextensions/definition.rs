//! A definition as a whole: its names, its versions together, and what may change.
//!
//! Upstream says what all versions have alike once, at the top of `spec`; so are errors about it.

use std::collections::BTreeSet;

use api_machinery::field::Errors;
use api_machinery::names;
use serde_json::Value;

use super::{conversion, version};
use crate::at::At;
use crate::check;

const APPROVAL: &str = "api-approved.kubernetes.io";
const REVIEW: &str = "see https://github.com/kubernetes/enhancements/pull/1111";

pub fn validate_create(definition: &Value, e: &mut Errors) {
    let root = At::root(definition);
    let (metadata, spec) = (root.get("metadata"), root.get("spec"));
    let (names, name) = (spec.get("names"), metadata.get("name"));
    if name.text() != format!("{}.{}", names.get("plural").text(), spec.get("group").text()) {
        name.invalid(e, "must be spec.names.plural+\".\"+spec.group");
    }
    validate(definition, None, e);
    approval(&root, None, e);
}

pub fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    validate(new, Some(old), e);
    let (root, before) = (At::root(new), At::root(old));
    let (spec, was) = (root.get("spec"), before.get("spec"));
    let (names, named) = (spec.get("names"), was.get("names"));
    if is_established(old) {
        check::immutable(&spec.get("scope"), &was.get("scope"), e);
        check::immutable(&names.get("kind"), &named.get("kind"), e);
    }
    check::immutable(&spec.get("group"), &was.get("group"), e);
    check::immutable(&names.get("plural"), &named.get("plural"), e);
    accepted(&root, e);
    approval(&root, Some(&before), e);
}

pub fn validate_status_update(new: &Value, _: &Value, e: &mut Errors) {
    accepted(&At::root(new), e);
}

fn accepted(definition: &At, e: &mut Errors) {
    let status = definition.get("status");
    kind_names(&status.get("acceptedNames"), e);
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition["status"]["conditions"].as_array().into_iter().flatten();
    conditions.filter(|one| one["type"] == "Established").any(|one| one["status"] == "True")
}

fn validate(definition: &Value, old: Option<&Value>, e: &mut Errors) {
    let root = At::root(definition);
    let spec = root.get("spec");
    group(&spec.get("group"), e);
    let scope = spec.get("scope");
    if scope.must_be_set(e) {
        check::one_of(&scope, &["Cluster", "Namespaced"], e);
    }
    let versions = spec.get("versions");
    version::validate(&versions, old.map(|old| &old["spec"]["versions"]), e);
    let names = spec.get("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        names.get(field).must_be_set(e);
    }
    kind_names(&names, e);
    let was = old.map(|old| &old["spec"]);
    conversion::validate(&definition["spec"]["conversion"], was.map(|was| &was["conversion"]), e);
    stored_versions(&root, e);
    let unknown = spec.get("preserveUnknownFields");
    if unknown.flag() && was.is_none_or(|was| was["preserveUnknownFields"] != true) {
        let instead = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema \
                       instead";
        unknown.invalid(e, instead);
    }
}

fn group(group: &At, e: &mut Errors) {
    if !group.must_be_set(e) {
        return;
    }
    let wrong = names::is_dns1123_subdomain(group.text());
    if !wrong.is_empty() {
        group.invalid(e, wrong.join(","));
    } else if !group.text().contains('.') {
        group.invalid(e, "should be a domain with at least one dot");
    }
}

fn kind_names(names: &At, e: &mut Errors) {
    let label = |at: &At, shown: &str, intro: &str, e: &mut Errors| {
        let wrong = names::is_dns1035_label(shown);
        if !at.is_empty() && !wrong.is_empty() {
            at.invalid(e, format!("{intro}{}", wrong.join(",")));
        }
    };
    for field in ["plural", "singular"] {
        label(&names.get(field), names.get(field).text(), "", e);
    }
    for field in ["kind", "listKind"] {
        let intro = "may have mixed case, but should otherwise match: ";
        label(&names.get(field), &names.get(field).text().to_lowercase(), intro, e);
    }
    let list = names.get("listKind");
    for (index, field) in ["shortNames", "categories"].into_iter().enumerate() {
        let list_of_names = names.get(field);
        for name in list_of_names.items() {
            let wrong = names::is_dns1035_label(name.text());
            if !wrong.is_empty() {
                name.invalid(e, wrong.join(","));
            }
        }
        // Upstream has it between the two.
        if index == 0 && !list.is_empty() && list.text() == names.get("kind").text() {
            list.invalid(e, "kind and listKind may not be the same");
        }
    }
}

fn stored_versions(definition: &At, e: &mut Errors) {
    let (spec, status) = (definition.get("spec"), definition.get("status"));
    let (versions, stored) = (spec.get("versions"), status.get("storedVersions"));
    if stored.is_empty() {
        return stored.invalid(e, "must have at least one stored version");
    }
    let mut known: BTreeSet<&str> = BTreeSet::new();
    for version in versions.items() {
        let name = version.get("name").text();
        known.insert(name);
        if version.get("storage").flag() && !stored.texts().any(|stored| stored == name) {
            stored.invalid(e, format!("must have the storage version {name}"));
        }
    }
    for version in stored.items().filter(|version| !known.contains(version.text())) {
        let name = version.text();
        version.invalid(
            e,
            format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            ),
        );
    }
}

/// Whether groups of the community's own say that they were approved.
#[derive(PartialEq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

impl Approval {
    fn of(text: &str) -> Approval {
        let is_url = || {
            let host = text.split_once("://").filter(|(scheme, _)| !scheme.is_empty()).map(|(_, rest)| rest);
            host.is_some_and(|host| !host.is_empty() && !host.starts_with('/'))
        };
        match text {
            "" => Approval::Missing,
            text if text.starts_with("unapproved") => Approval::Bypassed,
            _ if is_url() => Approval::Approved,
            _ => Approval::Invalid,
        }
    }
}

fn approval(definition: &At, old: Option<&At>, e: &mut Errors) {
    let (spec, metadata) = (definition.get("spec"), definition.get("metadata"));
    let group = spec.get("group").text();
    let is_protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|owner| group.strip_suffix(owner).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')));
    let annotations = metadata.get("annotations");
    let annotation = annotations.key(APPROVAL);
    let state = Approval::of(annotation.text());
    let before = old.map(|old| {
        let metadata = old.get("metadata");
        Approval::of(metadata.get("annotations").key(APPROVAL).text())
    });
    if !is_protected || before.as_ref() == Some(&state) {
        return;
    }
    let wanted = format!("protected groups must have approval annotation \"{APPROVAL}\"");
    match state {
        Approval::Missing => annotation.required(e, &format!("{wanted}, {REVIEW}")),
        Approval::Invalid => {
            let detail =
                format!("{wanted} with either a URL or a reason starting with \"unapproved\", {REVIEW}");
            annotation.invalid(e, detail);
        }
        Approval::Bypassed | Approval::Approved => {}
    }
}
