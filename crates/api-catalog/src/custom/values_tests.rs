//! What is said of values, in upstream's words: a table of schemas of one field and what becomes of values there.

use super::*;
use serde_json::json;

/// A resource whose `spec` has this schema.
fn resource(spec: Value) -> Arc<Resource> {
    let definition = json!({"spec": {
        "group": "example.com", "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
            "subresources": {"scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
                "labelSelectorPath": ".status.selector"}}}],
    }});
    Arc::clone(&define(&definition).expect("is a definition").storage().resource)
}

fn said(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors = Errors::new();
    resource.defined.as_ref().expect("is a custom resource").validate(new, old, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

fn of_spec(schema: Value, spec: Value) -> Vec<String> {
    said(&resource(schema), &json!({"spec": spec}), None)
}

#[test]
fn values_and_what_is_said_of_them() {
    let table = include_str!("../../tests/fixtures/custom/values.txt");
    let mut cases = 0;
    for block in table.split("\n\n").skip(1) {
        let mut lines = block.lines().peekable();
        let schema: Value =
            serde_json::from_str(lines.next().expect("a schema")).expect("the schema is JSON");
        let resource = resource(schema);
        while let Some(text) = lines.next() {
            let value: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let mut expected = Vec::new();
            while let Some(line) = lines.next_if(|line| line.starts_with("  ")) {
                expected.push(line.trim_start());
            }
            assert_eq!(said(&resource, &json!({"spec": value}), None), expected, "{block}");
            cases += 1;
        }
    }
    assert!(cases > 40, "the table was read");
}

#[test]
fn what_has_not_changed_is_not_held_against_anybody() {
    let resource = resource(json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
            "type": "object", "required": ["v"], "properties": {"k": {"type": "string"}, "v": {"type": "integer", "minimum": 5}}}},
        "atomic": {"type": "array", "items": {"type": "integer", "minimum": 5}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "integer"}},
    }, "x-kubernetes-validations": [{"rule": "!has(self.a) || self.a != 'no'"}]}));
    let old = json!({"spec": {"a": "no", "b": "b", "list": [{"k": "x", "v": 1}, {"k": "y", "v": 2}], "atomic": [1],
        "set": [1, 1]}});
    let none = Vec::<String>::new();
    assert_eq!(said(&resource, &old, Some(&old)), none);
    assert_eq!(said(&resource, &old, None).len(), 6);
    let mut new = old.clone();
    new["spec"]["b"] = json!("c");
    new["spec"]["list"] = json!([{"k": "y", "v": 2}, {"k": "z", "v": 3}, {"k": "x", "v": 1}]);
    new["spec"]["atomic"] = json!([1, 6]);
    assert_eq!(
        said(&resource, &new, Some(&old)),
        [
            "spec.atomic[0]: Invalid value: 1: spec.atomic[0] in body should be greater than or equal to 5",
            "spec.list[1].v: Invalid value: 3: spec.list[1].v in body should be greater than or equal to 5",
            r#"spec: Invalid value: "object": failed rule: !has(self.a) || self.a != 'no'"#,
        ]
    );
}

#[test]
fn rules_are_not_evaluated_over_what_they_do_not_expect() {
    let resource =
        resource(json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.a > 1", "message": "too small"}]}));
    assert_eq!(
        said(&resource, &json!({"spec": {"a": 1}}), None),
        [r#"spec: Invalid value: "object": too small"#]
    );
    assert_eq!(
        said(&resource, &json!({"spec": {}}), None),
        [
            "spec.a: Required value",
            r#"<nil>: Invalid value: "null": some validation rules were not checked because the object was invalid; correct the existing errors to complete validation"#,
        ]
    );
}

#[test]
fn objects_inside_of_objects() {
    let embedded = json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true});
    let fine = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {"a": "b"}}});
    assert_eq!(of_spec(embedded.clone(), fine), Vec::<String>::new());
    let wrong = json!({"apiVersion": "a/b/c", "metadata": {"name": "a/b", "labels": {"a": "-"}}});
    let said = of_spec(embedded, wrong);
    assert_eq!(said[0], "spec.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c");
    assert_eq!(said[1], "spec.kind: Required value");
    assert_eq!(said[2], "spec.metadata.name: Invalid value: \"a/b\": may not contain '/'");
    assert!(said[3].starts_with("spec.metadata.labels: Invalid value: \"-\""), "{}", said[3]);
}

#[test]
fn what_a_scale_reads() {
    let resource = resource(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true}));
    let wrong = json!({"spec": {"replicas": -1}, "status": {"replicas": 4294967296i64, "selector": 1}});
    assert_eq!(
        said(&resource, &wrong, None),
        [
            ".spec.replicas: Invalid value: -1: should be a non-negative integer",
            ".status.replicas: Invalid value: 4294967296: should be less than or equal to 2147483647",
            ".status.selector: Invalid value: \"\": .status.selector accessor error: 1 is of the type int64, expected string",
        ]
    );
}
