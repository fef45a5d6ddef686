//! A walk over every entry: what one entry promises, its schema and the others must keep.

use std::collections::BTreeSet;

use api_catalog::catalog;
use api_machinery::resource::{Cell, Storage, Verb};
use api_machinery::schema::{Kind, ListType, NodeId, View};
use api_machinery::table;
use jiff::Timestamp;
use serde_json::{Value, json};

#[test]
fn every_entry_is_found_by_what_names_it() {
    let mut seen = BTreeSet::new();
    for resource in catalog().iter() {
        let (group, version) = (&*resource.group, &*resource.version);
        assert!(seen.insert((group, version, &*resource.plural)), "{} twice", resource.plural);
        let by_plural = catalog().get(group, version, &resource.plural).expect("by plural");
        assert_eq!(by_plural.kind, resource.kind);
        let by_kind = catalog().get_kind(group, version, &resource.kind).expect("by kind");
        assert_eq!(by_kind.plural, resource.plural);
        assert_eq!(resource.storage == Storage::Review, !resource.verbs.contains(Verb::Get));
    }
    assert!(catalog().get("apps", "v1", "pods").is_none());
}

#[test]
fn short_names_mean_one_kind() {
    let mut seen = std::collections::BTreeMap::new();
    for resource in catalog().iter().filter(|r| r.view_of.is_none()) {
        for short in &resource.short_names {
            let other = seen.insert(short.to_string(), resource.plural.to_string());
            assert_eq!(other, None, "{short} is also {}", resource.plural);
        }
    }
}

#[test]
fn groups_are_in_discoverys_order() {
    let groups: Vec<&str> = catalog().groups().into_iter().map(|(group, _)| group).collect();
    assert_eq!(groups[..3], ["", "apiregistration.k8s.io", "apps"]);
    for (group, versions) in catalog().groups() {
        let expected: &[&str] = if group == "autoscaling" { &["v2", "v1"] } else { &["v1"] };
        assert_eq!(versions, expected, "{group}");
    }
}

#[test]
fn the_arena_is_sound_and_lists_by_key_have_their_keys() {
    let arena = catalog().arena();
    assert!(arena.is_sound());
    let (mut maps, mut merges) = (0, 0);
    for id in (0..arena.len()).map(|index| NodeId(u32::try_from(index).expect("small"))) {
        let view = arena.view(id);
        if view.list_type() == ListType::Map {
            maps += 1;
            assert!(!view.map_keys().is_empty());
            view.map_keys().iter().for_each(|key| assert_has(view, key));
        }
        if let Some(patch) = view.patch().filter(|p| !p.merge_key.is_empty()) {
            merges += 1;
            assert_has(view, &patch.merge_key);
        }
    }
    assert!(maps > 30 && merges > 30, "{maps} keyed lists, {merges} merged ones");
}

fn assert_has(list: View, key: &str) {
    let items = list.items().expect("a list");
    assert!(items.fields().iter().any(|field| field.name == *key), "items have no {key}");
}

#[test]
fn schemas_know_their_types() {
    let pod = catalog().get("", "v1", "pods").expect("pods").schema.view();
    let at = |way: &[&str]| {
        way.iter().fold(pod, |view, step| match *step {
            "*" => view.items().expect("items"),
            field => view.field(field).unwrap_or_else(|| panic!("no {field}")),
        })
    };
    assert!(matches!(at(&["spec", "containers", "*", "resources", "limits", "cpu"]).kind(), Kind::Quantity));
    let port = at(&["spec", "containers", "*", "livenessProbe", "httpGet", "port"]);
    assert!(matches!(port.kind(), Kind::IntOrString));
    assert_eq!(at(&["spec", "containers"]).map_keys(), ["name"]);
    let patch = at(&["spec", "volumes"]).patch().expect("volumes are merged");
    assert!(patch.merge && patch.retain_keys && patch.merge_key == "name");
    assert_eq!(at(&["spec", "containers", "*", "ports", "*", "protocol"]).default(), Some(&json!("TCP")));
}

#[test]
fn descriptions_are_there_for_kinds_and_fields() {
    let descriptions = catalog().descriptions();
    for resource in catalog().iter() {
        let root = resource.schema.view();
        assert!(!descriptions.get(root.id).is_empty(), "{}", resource.kind);
        for field in root.fields() {
            assert!(!descriptions.get(field.node).is_empty(), "{}.{}", resource.kind, field.name);
        }
    }
}

/// A JSON pointer leads somewhere in a schema.
fn leads_somewhere(view: View, pointer: &str) -> bool {
    let mut view = view;
    for step in pointer.split('/').skip(1) {
        match view.field(step) {
            Some(next) => view = next,
            None => return false,
        }
    }
    true
}

#[test]
fn pointers_of_selectors_scale_and_columns_exist() {
    for resource in catalog().iter() {
        let stored = match resource.view_of {
            Some(view) => {
                catalog().get(view.group, view.version, view.plural).expect("a view has its resource")
            }
            None => resource,
        };
        let root = stored.schema.view();
        for pointer in resource.selectable.iter().flat_map(|s| &s.pointers) {
            // The API has this one although jobs have no such field.
            let known = leads_somewhere(root, pointer) || pointer == "/status/successful";
            assert!(known, "{}: {pointer}", resource.plural);
        }
        if let Some(scale) = &resource.subresources.scale {
            for pointer in [Some(&scale.spec_replicas), Some(&scale.status_replicas), scale.selector.as_ref()]
            {
                assert!(leads_somewhere(root, pointer.expect("built-ins have all three")));
            }
        }
        for column in &resource.columns {
            if let Cell::Path(path) = &column.cell {
                let pointer = path.replace('.', "/");
                assert!(leads_somewhere(root, &pointer), "{}: {path}", resource.plural);
            }
        }
    }
}

#[test]
fn tables_show_objects_that_hold_nothing() {
    let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("time");
    for resource in catalog().iter() {
        for object in [json!({}), json!({"metadata": {"name": "a"}, "spec": {}, "status": {}}), Value::Null] {
            for column in &resource.columns {
                let cell = table::cell(column, &object, now);
                assert!(!cell.is_object(), "{} {}", resource.plural, column.name);
            }
        }
    }
}
