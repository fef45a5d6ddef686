//! Whether a policy's expressions fit the kinds that it is about: what its status says.
//!
//! Upstream has a controller for that. Nothing but the policy and the schemas of built-in kinds is needed, so here the status
//! is there as soon as the policy is. Kinds that are not built in are not looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api_machinery::meta;
use api_machinery::resource::{Resource, keep_status};
use api_machinery::schema::{Format, Kind, NodeId, View};
use cel::types::{Field, Object, Schema, Type, escape};
use serde_json::{Value, json};

use super::policy;

/// The most kinds of one rule that are looked at, as upstream does.
const MOST_KINDS: usize = 10;
/// The most expressions times kinds; a policy with more is not checked to its end.
const MOST_CHECKS: usize = 1000;
/// Where schemas that hold themselves end.
const MAX_DEPTH: usize = 32;

pub fn prepare_create(policy: &mut Value) {
    if policy.is_object() {
        policy["status"] = json!({"observedGeneration": 1, "typeChecking": checked(policy)});
    }
}

pub fn prepare_update(new: &mut Value, old: &Value) {
    keep_status(new, old);
    policy::default_policy(new);
    if !new.is_object() || new["spec"] == old["spec"] {
        return;
    }
    let checking = checked(new);
    if !new["status"].is_object() {
        new["status"] = json!({});
    }
    new["status"]["typeChecking"] = checking;
    new["status"]["observedGeneration"] = meta::generation(old).saturating_add(1).into();
}

/// `TypeChecking` of a policy.
fn checked(policy: &Value) -> Value {
    let spec = &policy["spec"];
    let expressions = spec["validations"].as_array().map_or(0, Vec::len).max(1);
    let mut warnings: BTreeMap<(usize, String), Vec<String>> = BTreeMap::new();
    for resource in kinds(spec).into_iter().take(MOST_CHECKS / expressions) {
        let schema = Types::default().at(resource.schema.view(), &resource.kind, 0);
        let Resource { group, version, kind, .. } = &*resource;
        for (place, (field, why)) in cel::policy::check(spec, &schema).into_iter().enumerate() {
            let of = warnings.entry((place, field)).or_default();
            of.push(format!("{group}/{version}, Kind={kind}: {why}"));
        }
    }
    let mut by_field: Vec<(String, Vec<String>)> = Vec::new();
    for ((_, field), texts) in warnings {
        match by_field.iter_mut().find(|(known, _)| *known == field) {
            Some((_, known)) => known.extend(texts),
            None => by_field.push((field, texts)),
        }
    }
    if by_field.is_empty() {
        return json!({});
    }
    let shown =
        by_field.into_iter().map(|(field, texts)| json!({"fieldRef": field, "warning": texts.join("\n")}));
    json!({"expressionWarnings": shown.collect::<Vec<_>>()})
}

/// The built-in kinds that a policy names, without those that it has by a wildcard only.
fn kinds(spec: &Value) -> Vec<Arc<Resource>> {
    let mut found: BTreeMap<(String, String, String), Arc<Resource>> = BTreeMap::new();
    let rules = spec.pointer("/matchConstraints/resourceRules").and_then(Value::as_array);
    for rule in rules.into_iter().flatten() {
        let words = |field: &str| -> BTreeSet<&str> {
            rule[field].as_array().into_iter().flatten().filter_map(Value::as_str).collect()
        };
        let (groups, versions, plurals) = (words("apiGroups"), words("apiVersions"), words("resources"));
        let named = groups.iter().flat_map(|group| {
            versions.iter().flat_map(|version| plurals.iter().map(|plural| (*group, *version, *plural)))
        });
        for (group, version, plural) in named.take(MOST_KINDS) {
            if let Some(resource) = crate::catalog().get(group, version, plural) {
                let key = (group.to_owned(), version.to_owned(), resource.kind.to_string());
                found.insert(key, resource.clone());
            }
        }
    }
    found.into_values().take(MOST_KINDS).collect()
}

/// The types of schemas, each made once.
#[derive(Default)]
struct Types(BTreeMap<NodeId, Arc<Schema>>);

impl Types {
    fn at(&mut self, view: View<'_>, name: &str, depth: usize) -> Arc<Schema> {
        if depth > MAX_DEPTH {
            return Arc::new(Schema::of(Type::Dyn));
        }
        if let Some(known) = self.0.get(&view.id) {
            return known.clone();
        }
        let schema = Arc::new(self.make(view, name, depth));
        self.0.insert(view.id, schema.clone());
        schema
    }

    fn make(&mut self, view: View<'_>, name: &str, depth: usize) -> Schema {
        match (view.kind(), view.format()) {
            (Kind::Object(fields), _) if !fields.is_empty() => {
                let mut object = Object { name: name.to_owned(), fields: BTreeMap::new() };
                for field in fields {
                    let inner = view.arena.view(field.node);
                    let schema = self.at(inner, &format!("{name}.{}", field.name), depth + 1);
                    if let Some(escaped) = escape(&field.name) {
                        object.fields.insert(escaped, Field { json: field.name.clone(), schema });
                    }
                }
                Schema::of(Type::Object(Arc::new(object)))
            }
            (Kind::Map(values), _) => {
                let inner = self.at(view.arena.view(*values), &format!("{name}.@values"), depth + 1);
                Schema { inner: Some(inner.clone()), ..Schema::of(Type::map(Type::String, inner.ty.clone())) }
            }
            (Kind::Array(items), _) => {
                let inner = self.at(view.arena.view(*items), &format!("{name}.@items"), depth + 1);
                Schema { inner: Some(inner.clone()), ..Schema::of(Type::list(inner.ty.clone())) }
            }
            (Kind::String, Format::DateTime | Format::MicroTime) => Schema::of(Type::Timestamp),
            (Kind::String, Format::Byte) => Schema::of(Type::Bytes),
            (Kind::String, Format::Duration) => Schema::of(Type::Duration),
            (Kind::String, _) => Schema::of(Type::String),
            (Kind::Integer, _) => Schema::of(Type::Int),
            (Kind::Number, _) => Schema::of(Type::Double),
            (Kind::Boolean, _) => Schema::of(Type::Bool),
            _ => Schema::of(Type::Dyn),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(resources: Value, validations: Value) -> Value {
        let rule = json!({"apiGroups": ["apps", ""], "apiVersions": ["v1"], "operations": ["*"], "resources": resources});
        let spec = json!({"matchConstraints": {"resourceRules": [rule]}, "validations": validations,
            "variables": [{"name": "replicas", "expression": "object.spec.replicas"}]});
        json!({"metadata": {"name": "p", "generation": 1}, "spec": spec})
    }

    #[test]
    fn what_does_not_fit_the_kinds_that_are_named() {
        let validations = json!([
            {"expression": "object.spec.replicas > 1 && object.metadata.labels.all(k, k != 'a')"},
            {"expression": "object.spec.replicas > '1'", "messageExpression": "'at most ' + object.spec.nothing"},
            {"expression": "variables.replicas < 5 && object.metadata.creationTimestamp < timestamp('2030-01-01T00:00:00Z')"},
            {"expression": "object.spec.template.spec.containers.all(c, c.image.size() < 100)"},
        ]);
        let mut made = policy(json!(["deployments", "deployments/scale", "*"]), validations.clone());
        prepare_create(&mut made);
        let warnings = made["status"]["typeChecking"]["expressionWarnings"].as_array().expect("warnings");
        let fields: Vec<&Value> = warnings.iter().map(|warning| &warning["fieldRef"]).collect();
        assert_eq!(fields, ["spec.validations[1].expression", "spec.validations[1].messageExpression"]);
        let text = warnings[0]["warning"].as_str().expect("text");
        let begins = "apps/v1, Kind=Deployment: compilation failed: ERROR: <input>:1:22: found no matching overload for '_>_'";
        assert!(text.starts_with(begins), "{text}");
        assert!(
            warnings[1]["warning"].as_str().is_some_and(|text| text.contains("undefined field 'nothing'"))
        );
        // Of several kinds each is named.
        let mut made =
            policy(json!(["pods", "deployments"]), json!([{"expression": "object.spec.nothing == 1"}]));
        prepare_create(&mut made);
        let warning = &made["status"]["typeChecking"]["expressionWarnings"][0]["warning"];
        let lines: Vec<&str> =
            warning.as_str().expect("text").lines().filter(|line| line.contains("Kind=")).collect();
        assert!(
            lines[0].starts_with("/v1, Kind=Pod: ") && lines[1].starts_with("apps/v1, Kind=Deployment: "),
            "{lines:?}"
        );
    }

    #[test]
    fn the_status_is_that_of_the_newest_spec() {
        let mut old = policy(json!(["deployments"]), json!([{"expression": "object.spec.replicas > 1"}]));
        policy::default_policy(&mut old);
        prepare_create(&mut old);
        assert_eq!(old["status"], json!({"observedGeneration": 1, "typeChecking": {}}));
        let mut same = old.clone();
        same["status"] = json!({"observedGeneration": 9});
        prepare_update(&mut same, &old);
        assert_eq!(same["status"], old["status"]);
        let mut new = old.clone();
        new["spec"]["validations"][0]["expression"] = "object.spec.size > 1".into();
        prepare_update(&mut new, &old);
        assert_eq!(new["status"]["observedGeneration"], 2);
        assert_eq!(new["status"]["typeChecking"]["expressionWarnings"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn every_built_in_kind_has_a_type() {
        for resource in crate::catalog().iter() {
            let schema = Types::default().at(resource.schema.view(), &resource.kind, 0);
            assert!(matches!(schema.ty, Type::Object(_)), "{}", resource.kind);
        }
    }
}
