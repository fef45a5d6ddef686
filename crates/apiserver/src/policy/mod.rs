//! The policy that every cluster starts with: default roles and bindings, and the two system priority classes.
//!
//! Roles are tables of text beside this file. The sums `admin`, `edit` and `view` are filled in here; what users add
//! to them with labels is the aggregation controller's to do, which reads the same labels.

mod join;
mod table;

use api_machinery::meta;
use serde_json::{Value, json};

use self::table::{Entry, Subject};
use crate::authz::rbac::GROUP;
use crate::authz::rules::Rule;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
/// The role of everything that controllers do, for a process that runs them all under one name.
const ALL_CONTROLLERS: &str = "skiff:controllers";
/// The user of the controller manager.
pub const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

/// The rules of the role `system:node`, which the Node authorizer narrows.
pub fn node_rules() -> Vec<Rule> {
    table::cluster_roles()
        .into_iter()
        .find(|entry| entry.name == "system:node")
        .map_or_else(Vec::new, |entry| entry.rules)
}

/// Everything that must exist before the first request is served.
pub fn objects() -> Vec<Value> {
    let mut objects = Vec::new();
    let mut entries = table::cluster_roles();
    aggregate(&mut entries);
    let controllers = table::controller_roles();
    let all = Entry {
        name: ALL_CONTROLLERS.to_owned(),
        subjects: Some(vec![Subject::User(CONTROLLER_MANAGER.to_owned())]),
        rules: union(controllers.iter().flat_map(|entry| &entry.rules)),
        ..Entry::default()
    };
    for entry in entries.iter().chain(&controllers).chain([&all]).chain(&table::namespace_roles()) {
        objects.push(role(entry));
        objects.extend(entry.subjects.as_ref().map(|subjects| binding(entry, subjects)));
    }
    objects.extend(join::objects());
    objects.extend(priority_classes());
    objects
}

fn union<'a>(rules: impl Iterator<Item = &'a Rule>) -> Vec<Rule> {
    let mut union: Vec<Rule> = Vec::new();
    for rule in rules {
        if !union.contains(rule) {
            union.push(rule.clone());
        }
    }
    union
}

/// Gives the roles that are sums the rules of their parts, innermost sum first.
fn aggregate(entries: &mut [Entry]) {
    for sum in ["view", "edit", "admin"] {
        let parts = entries.iter().filter(|entry| entry.into.as_deref() == Some(sum));
        let rules = union(parts.flat_map(|entry| &entry.rules));
        if let Some(entry) = entries.iter_mut().find(|entry| entry.of.as_deref() == Some(sum)) {
            entry.rules = rules;
        }
    }
}

fn label(sum: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{sum}")
}

fn metadata(entry: &Entry, name: &str) -> Value {
    let mut metadata = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {AUTOUPDATE: "true"},
    });
    if let Some(namespace) = &entry.namespace {
        metadata["namespace"] = namespace.as_str().into();
    }
    metadata
}

fn role(entry: &Entry) -> Value {
    let kind = if entry.namespace.is_some() { "Role" } else { "ClusterRole" };
    let rules: Vec<Value> = entry.rules.iter().map(Rule::to_value).collect();
    let mut role = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": kind, "metadata": metadata(entry, &entry.name), "rules": rules,
    });
    if let Some(sum) = &entry.of {
        role["aggregationRule"] = json!({"clusterRoleSelectors": [{"matchLabels": {label(sum): "true"}}]});
    }
    if let Some(sum) = &entry.into {
        role["metadata"]["labels"][label(sum)] = "true".into();
    }
    role
}

fn binding(entry: &Entry, subjects: &[Subject]) -> Value {
    let prefix = if entry.namespace.is_some() { "" } else { "Cluster" };
    let subjects: Vec<Value> = subjects.iter().map(Subject::to_value).collect();
    let name = entry.binding.as_ref().unwrap_or(&entry.name);
    let mut binding = json!({
        "apiVersion": format!("{GROUP}/v1"), "kind": format!("{prefix}RoleBinding"), "metadata": metadata(entry, name),
        "roleRef": {"apiGroup": GROUP, "kind": format!("{prefix}Role"), "name": entry.name},
    });
    if !subjects.is_empty() {
        binding["subjects"] = subjects.into();
    }
    binding
}

fn priority_classes() -> [Value; 2] {
    let class = |name: &str, value: i64, description: &str| {
        json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        })
    };
    let cluster = "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.";
    let node = "Used for system critical pods that must not be moved from their current node.";
    [
        class("system-cluster-critical", 2_000_000_000, cluster),
        class("system-node-critical", 2_000_001_000, node),
    ]
}

/// What an existing role or binding should become: what is missing is added, what was added by others stays, and the
/// annotation `autoupdate: "false"` keeps it as it is.
pub fn reconcile(wanted: &Value, existing: &Value) -> Option<Value> {
    if !meta::api_version(wanted).starts_with(GROUP)
        || meta::annotation(existing, AUTOUPDATE) == Some("false")
    {
        return None;
    }
    let mut updated = existing.clone();
    for (key, value) in meta::labels(wanted).into_iter().flatten() {
        meta::set_label(&mut updated, key, value.as_str().unwrap_or_default());
    }
    for (key, value) in meta::annotations(wanted).into_iter().flatten() {
        if meta::annotation(existing, key).is_none() {
            meta::set_annotation(&mut updated, key, value.as_str().unwrap_or_default());
        }
    }
    if wanted.get("roleRef").is_some() {
        // A binding that somebody made for another role is not ours to change.
        if ["kind", "name"].iter().any(|field| wanted["roleRef"][*field] != existing["roleRef"][*field]) {
            return None;
        }
        add_missing(&mut updated, wanted, "subjects", |have, want| have == want);
    } else {
        let held = Rule::of_role(existing);
        add_missing(&mut updated, wanted, "rules", |_, want| {
            crate::authz::rules::missing(held.iter(), &[Rule::from_value(want)]).is_empty()
        });
    }
    (updated != *existing).then_some(updated)
}

/// Appends the wanted items that no existing one stands for.
fn add_missing(updated: &mut Value, wanted: &Value, field: &str, same: impl Fn(&Value, &Value) -> bool) {
    let list = |object: &Value| object.get(field).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut items = list(updated);
    let before = items.clone();
    items.extend(list(wanted).into_iter().filter(|want| !before.iter().any(|have| same(have, want))));
    if items != before {
        updated[field] = items.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::RequestInfo;

    fn find<'a>(objects: &'a [Value], kind: &str, name: &str) -> &'a Value {
        let found = objects.iter().find(|object| meta::kind(object) == kind && meta::name(object) == name);
        found.unwrap_or_else(|| panic!("{kind} {name} is missing"))
    }

    #[test]
    fn names_are_unique_and_the_roles_of_bindings_exist() {
        let objects = objects();
        let mut seen = std::collections::BTreeSet::new();
        for object in &objects {
            let key = (meta::kind(object), meta::namespace(object), meta::name(object));
            assert!(seen.insert(key), "{key:?} twice");
            if let Some(role) = object.get("roleRef") {
                find(
                    &objects,
                    role["kind"].as_str().unwrap_or_default(),
                    role["name"].as_str().unwrap_or_default(),
                );
            }
        }
        for name in ["cluster-admin", "system:node-proxier", "system:controller:deployment-controller"] {
            find(&objects, "ClusterRole", name);
            find(&objects, "ClusterRoleBinding", name);
        }
        find(&objects, "RoleBinding", "system::extension-apiserver-authentication-reader");
        assert!(find(&objects, "ClusterRoleBinding", "system:node").get("subjects").is_none());
        assert_eq!(find(&objects, "PriorityClass", "system-node-critical")["value"], 2_000_001_000);
    }

    #[test]
    fn sums_hold_their_parts() {
        let objects = objects();
        let allows = |role: &str, verb: &str, group: &str, resource: &str| {
            let info = RequestInfo {
                verb: verb.into(),
                api_group: group.into(),
                resource: resource.into(),
                is_resource: true,
                ..RequestInfo::default()
            };
            Rule::of_role(find(&objects, "ClusterRole", role)).iter().any(|rule| rule.allows(&info))
        };
        assert!(allows("view", "list", "", "pods") && !allows("view", "get", "", "secrets"));
        assert!(allows("edit", "list", "", "pods") && allows("edit", "get", "", "secrets"));
        assert!(allows("admin", "list", "", "pods") && allows("admin", "create", GROUP, "roles"));
        assert!(!allows("edit", "create", GROUP, "roles") && !allows("admin", "create", "", "namespaces"));
        // The one that sums up roles writes what it does not have.
        let controllers = |verb: &str, resource: &str| allows("skiff:controllers", verb, GROUP, resource);
        assert!(allows("skiff:controllers", "create", "", "pods") && controllers("escalate", "clusterroles"));
        assert!(!controllers("bind", "clusterroles") && !controllers("escalate", "roles"));
        assert!(allows("system:controller:job-controller", "patch", "events.k8s.io", "events"));
    }

    #[test]
    fn existing_roles_are_completed() {
        let objects = objects();
        let wanted = find(&objects, "ClusterRole", "system:basic-user");
        assert_eq!(reconcile(wanted, wanted), None);
        let mut less = wanted.clone();
        less["rules"] =
            json!([{"verbs": ["get"], "apiGroups": ["x"], "resources": ["y"]}, wanted["rules"][0]]);
        let updated = reconcile(wanted, &less).expect("a rule is missing");
        assert_eq!(updated["rules"].as_array().map(Vec::len), Some(3));
        less["metadata"]["annotations"][AUTOUPDATE] = "false".into();
        assert_eq!(reconcile(wanted, &less), None);
        let wanted = find(&objects, "ClusterRoleBinding", "cluster-admin");
        let mut other = wanted.clone();
        other["subjects"] = json!([]);
        let updated = reconcile(wanted, &other).expect("the subject is missing");
        assert_eq!(updated["subjects"], wanted["subjects"]);
        other["roleRef"]["name"] = "view".into();
        assert_eq!(reconcile(wanted, &other), None);
        assert_eq!(reconcile(find(&objects, "PriorityClass", "system-node-critical"), &json!({})), None);
    }
}
