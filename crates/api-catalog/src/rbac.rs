//! `rbac.authorization.k8s.io/v1`: roles and their bindings.
//!
//! Who may write a role that grants more than they have is decided by the API server, not here.

use std::sync::Arc;

use api_machinery::field::Errors;
use api_machinery::names;
use api_machinery::resource::{Cell, Column, Resource, Rules, Scope};
use api_machinery::schema::Arena;
use jiff::Timestamp;
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{Family, columns, computed};
use crate::fill::{Fill, each_mut, fill, text};

const GROUP: &str = "rbac.authorization.k8s.io";

pub(crate) fn entries(arena: &Arc<Arena>) -> Vec<Resource> {
    let rbac = Family { arena, group: GROUP, version: "v1", package: "io.k8s.api.rbac.v1" };
    let binding = |kind, plural, scope| Resource {
        scope,
        columns: binding_table(),
        rules: Rules {
            default: binding_defaults,
            validate: if scope == Scope::Cluster { validate_cluster_binding } else { validate_binding },
            validate_update: validate_binding_update,
            name: names::path_segment_name,
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..rbac.kind(kind, plural)
    };
    let role = |kind, plural, scope| Resource {
        scope,
        columns: columns(&[("Created At", "date", 0, Cell::Path(".metadata.creationTimestamp".into()))]),
        rules: Rules {
            validate: if scope == Scope::Cluster { validate_cluster_role } else { validate_role },
            name: names::path_segment_name,
            allow_create_on_update: true,
            ..Rules::default()
        },
        ..rbac.kind(kind, plural)
    };
    vec![
        binding("ClusterRoleBinding", "clusterrolebindings", Scope::Cluster),
        role("ClusterRole", "clusterroles", Scope::Cluster),
        binding("RoleBinding", "rolebindings", Scope::Namespaced),
        role("Role", "roles", Scope::Namespaced),
    ]
}

fn binding_table() -> Vec<Column> {
    columns(&[
        ("Role", "string", 0, computed(role_of)),
        ("Age", "string", 0, Cell::Age),
        ("Users", "string", 1, computed(|b, _| subjects(b, "User"))),
        ("Groups", "string", 1, computed(|b, _| subjects(b, "Group"))),
        ("ServiceAccounts", "string", 1, computed(|b, _| subjects(b, "ServiceAccount"))),
    ])
}

fn role_of(binding: &Value, _: Timestamp) -> Value {
    let role = &binding["roleRef"];
    Value::from(format!("{}/{}", text(role, "kind"), text(role, "name")))
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let all = binding["subjects"].as_array().into_iter().flatten().filter(|s| text(s, "kind") == kind);
    let names: Vec<String> = all
        .map(|s| match kind {
            "ServiceAccount" => format!("{}/{}", text(s, "namespace"), text(s, "name")),
            _ => text(s, "name").to_owned(),
        })
        .collect();
    Value::from(names.join(", "))
}

fn binding_defaults(binding: &mut Value) {
    if let Some(role) = binding.get_mut("roleRef") {
        fill(role, &[("apiGroup", Fill::Text(GROUP))]);
    }
    for subject in each_mut(binding, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            fill(subject, &[("apiGroup", Fill::Text(GROUP))]);
        }
    }
}

fn validate_role(role: &Value, e: &mut Errors) {
    rules(role, true, e);
}

fn validate_cluster_role(role: &Value, e: &mut Errors) {
    rules(role, false, e);
    let root = At::root(role);
    let aggregation = root.get("aggregationRule");
    if aggregation.is_set() {
        let selectors = aggregation.get("clusterRoleSelectors");
        if selectors.is_empty() {
            selectors.required(e, "at least one clusterRoleSelector required if aggregationRule is non-nil");
        }
        for selector in selectors.items() {
            check::label_selector(&selector, e);
        }
    }
}

fn rules(role: &Value, namespaced: bool, e: &mut Errors) {
    let root = At::root(role);
    for rule in root.get("rules").items() {
        if rule.get("verbs").is_empty() {
            rule.get("verbs").required(e, "verbs must contain at least one value");
        }
        let urls = rule.get("nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                urls.invalid(e, "namespaced rules cannot apply to non-resource URLs");
            }
            if ["apiGroups", "resources", "resourceNames"].iter().any(|f| !rule.get(f).is_empty()) {
                urls.invalid(e, "rules cannot apply to both regular resources and non-resource URLs");
            }
            continue;
        }
        if rule.get("apiGroups").is_empty() {
            rule.get("apiGroups").required(e, "resource rules must supply at least one api group");
        }
        if rule.get("resources").is_empty() {
            rule.get("resources").required(e, "resource rules must supply at least one resource");
        }
    }
}

fn validate_binding(binding: &Value, e: &mut Errors) {
    role_ref(binding, &["ClusterRole", "Role"], e);
    validate_subjects(binding, true, e);
}

fn validate_cluster_binding(binding: &Value, e: &mut Errors) {
    role_ref(binding, &["ClusterRole"], e);
    validate_subjects(binding, false, e);
}

fn role_ref(binding: &Value, kinds: &[&str], e: &mut Errors) {
    let root = At::root(binding);
    let role = root.get("roleRef");
    if role.get("apiGroup").text() != GROUP {
        role.get("apiGroup").not_supported(e, &[GROUP]);
    }
    if !kinds.contains(&role.get("kind").text()) {
        role.get("kind").not_supported(e, kinds);
    }
    check::required_name(&role.get("name"), names::is_path_segment, e);
}

/// A service account without a namespace is one of the binding's own, if that has one.
fn validate_subjects(binding: &Value, namespaced: bool, e: &mut Errors) {
    let root = At::root(binding);
    for subject in root.get("subjects").items() {
        let (group, name, namespace) =
            (subject.get("apiGroup"), subject.get("name"), subject.get("namespace"));
        name.must_be_set(e);
        match subject.get("kind").text() {
            "ServiceAccount" => {
                check::name(&name, names::is_dns1123_subdomain, e);
                if !group.is_empty() {
                    group.not_supported(e, &[""]);
                }
                if !namespaced && namespace.is_empty() {
                    namespace.required(e, "");
                }
            }
            "User" | "Group" => {
                if group.text() != GROUP {
                    group.not_supported(e, &[GROUP]);
                }
            }
            _ => subject.get("kind").not_supported(e, &["Group", "ServiceAccount", "User"]),
        }
    }
}

/// A binding is to one role for good.
fn validate_binding_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    let (role, before) = (new.get("roleRef"), old.get("roleRef"));
    if !check::same(role.value(), before.value()) {
        role.invalid(e, "cannot change roleRef");
    }
}
