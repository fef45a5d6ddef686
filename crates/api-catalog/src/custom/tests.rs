//! What a definition's names, versions and subresources become.

use super::*;
use serde_json::json;

fn widget() -> Value {
    json!({"spec": {
        "group": "example.com", "scope": "Namespaced",
        "names": {"kind": "Widget", "plural": "widgets", "listKind": "WidgetList", "singular": "widget",
            "shortNames": ["wd"], "categories": ["all"]},
        "versions": [
            {"name": "v1beta1", "served": true, "storage": false, "deprecated": true},
            {"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas",
                    "statusReplicasPath": ".status.replicas", "labelSelectorPath": ".status.selector"}},
                "additionalPrinterColumns": [
                    {"name": "Size", "type": "integer", "jsonPath": ".spec.size", "priority": 1, "description": "How large"}],
                "selectableFields": [{"jsonPath": ".spec.colour"}]},
            {"name": "v1alpha1", "served": false, "storage": false},
        ],
    }})
}

#[test]
fn entries_are_what_the_definition_says() {
    let defined = define(&widget()).expect("is a definition");
    let names: Vec<(&str, bool)> =
        defined.versions.iter().map(|version| (&*version.resource.version, version.served)).collect();
    assert_eq!(names, [("v1", true), ("v1beta1", true), ("v1alpha1", false)]);
    assert_eq!((&*defined.storage().resource.version, defined.served().count()), ("v1", 2));
    let v1 = &defined.versions[0].resource;
    assert_eq!(
        (v1.api_version(), &*v1.qualified_plural()),
        ("example.com/v1".to_owned(), "widgets.example.com")
    );
    assert_eq!(v1.definition, "com.example.v1.Widget");
    assert_eq!(
        (&*v1.short_names, &*v1.categories),
        (&[Text::Borrowed("wd")][..], &[Text::Borrowed("all")][..])
    );
    let scale = v1.subresources.scale.clone().expect("is declared");
    assert_eq!(scale.selector.as_deref(), Some("/status/selector"));
    assert_eq!((&*scale.spec_replicas, &*scale.status_replicas), ("/spec/replicas", "/status/replicas"));
    let columns: Vec<(&str, i32)> =
        v1.columns.iter().map(|column| (&*column.name, column.priority)).collect();
    assert_eq!(columns, [("Name", 0), ("Size", 1)]);
    let object = json!({"metadata": {"name": "a"}, "spec": {"colour": "red"}});
    assert_eq!(v1.selectable_value(&object, "spec.colour").as_deref(), Some("red"));
    let beta = &defined.versions[1];
    assert_eq!(beta.resource.columns[1].name, "Age");
    assert!(!beta.resource.subresources.status && v1.subresources.status);
    assert_eq!(
        beta.deprecation.as_deref(),
        Some("example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget")
    );
}

#[test]
fn what_has_not_the_form_of_a_definition() {
    assert_eq!(define(&json!({})).map(|_| ()), Err(Error::Missing("spec.versions")));
    let mut nameless = widget();
    nameless["spec"]["names"]["kind"] = Value::Null;
    assert_eq!(define(&nameless).map(|_| ()), Err(Error::Missing("spec.names.kind")));
    let mut twice = widget();
    twice["spec"]["versions"][0]["storage"] = true.into();
    assert_eq!(define(&twice).map(|_| ()), Err(Error::Storage));
}

#[test]
fn status_is_changed_through_its_subresource_only() {
    let defined = define(&widget()).expect("is a definition");
    let (with, without) = (&defined.versions[0].resource.rules, &defined.versions[1].resource.rules);
    let old = json!({"metadata": {"name": "a", "labels": {"a": "b"}}, "spec": {"x": 1}, "status": {"s": 1}});
    let new =
        json!({"metadata": {"name": "a", "resourceVersion": "3"}, "spec": {"x": 2}, "status": {"s": 2}});
    let changed = |change: fn(&mut Value, &Value)| {
        let mut new = new.clone();
        change(&mut new, &old);
        new
    };
    assert_eq!(changed(with.prepare_update)["status"], json!({"s": 1}));
    assert_eq!(changed(without.prepare_update), new);
    let expected = json!({"metadata": {"name": "a", "labels": {"a": "b"}, "resourceVersion": "3"},
        "spec": {"x": 1}, "status": {"s": 2}});
    assert_eq!(changed(with.prepare_status), expected);
}
