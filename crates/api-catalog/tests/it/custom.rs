//! Custom resources from outside: what holds for any schema and any object, what definitions cost in memory, and what
//! OpenAPI documents say of them.

use std::collections::BTreeSet;

use api_catalog::custom::{Definition, define, define_stored};
use api_machinery::field::Errors;
use api_machinery::openapi::Documents;
use api_machinery::resource::Resource;
use api_machinery::schema::Descriptions;
use api_machinery::structural::{apply_defaults, prune};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::HEAP;

fn definition(group: &str, schema: Value) -> Value {
    json!({"metadata": {"name": format!("widgets.{group}")}, "spec": {
        "group": group, "scope": "Namespaced", "names": {"kind": "Widget", "plural": "widgets"},
        "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
    }})
}

fn of_spec(spec: &Value) -> Definition {
    let schema = json!({"type": "object", "properties": {"spec": spec}});
    define(&definition("example.com", schema)).expect("is a definition")
}

fn said(resource: &Resource, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut errors = Errors::new();
    resource.defined.as_ref().expect("is custom").validate(new, old, &mut errors);
    errors.iter().map(ToString::to_string).collect()
}

/// Whether a value is what a schema says: JSON schema as it is in the book, without any messages.
fn is_valid(schema: &Value, value: &Value) -> bool {
    let all = |name: &str| schema[name].as_array().into_iter().flatten();
    let number = value.as_f64();
    let whole = number.is_some_and(|number| number.fract() == 0.0);
    let type_fits = match (schema["type"].as_str(), value) {
        (_, Value::Null) if schema["nullable"] == true => true,
        _ if schema["x-kubernetes-int-or-string"] == true => whole || value.is_string(),
        (None, _) => true,
        (Some(_), Value::Null) => false,
        (Some("string"), value) => value.is_string(),
        (Some("integer"), _) => whole,
        (Some("boolean"), value) => value.is_boolean(),
        (Some("array"), value) => value.is_array(),
        (Some(_), value) => value.is_object(),
    };
    let enumerated = schema["enum"].is_null() || all("enum").any(|allowed| allowed == value);
    let bounded = |name: &str, size: Option<f64>, sign: f64| {
        let limit = schema[name].as_f64();
        limit.zip(size).is_none_or(|(limit, size)| (limit - size) * sign >= 0.0)
    };
    let letters = value.as_str().map(|text| text.chars().count() as f64);
    let items = value.as_array().map(|items| items.len() as f64);
    let fields = value.as_object().map(|fields| fields.len() as f64);
    let sizes = [
        ("maximum", "minimum", number),
        ("maxLength", "minLength", letters),
        ("maxItems", "minItems", items),
        ("maxProperties", "minProperties", fields),
    ];
    let within =
        sizes.iter().all(|(most, least, size)| bounded(most, *size, 1.0) && bounded(least, *size, -1.0));
    let combined = all("allOf").all(|schema| is_valid(schema, value))
        && (schema["anyOf"].is_null() || all("anyOf").any(|schema| is_valid(schema, value)))
        && (schema["oneOf"].is_null() || all("oneOf").filter(|schema| is_valid(schema, value)).count() == 1)
        && (schema["not"].is_null() || !is_valid(&schema["not"], value));
    type_fits && enumerated && within && (value.is_null() || (combined && is_valid_inside(schema, value)))
}

fn is_valid_inside(schema: &Value, value: &Value) -> bool {
    match value {
        Value::Array(items) => {
            let unique: BTreeSet<String> = items.iter().map(Value::to_string).collect();
            let set = schema["x-kubernetes-list-type"] == "set";
            (!set || unique.len() == items.len())
                && (schema["items"].is_null() || items.iter().all(|item| is_valid(&schema["items"], item)))
        }
        Value::Object(fields) => {
            let known = |(name, value): (&String, &Value)| {
                let property = &schema["properties"][name];
                let schema = if property.is_null() { &schema["additionalProperties"] } else { property };
                !schema.is_object() || is_valid(schema, value)
            };
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            fields.iter().all(known) && required.into_iter().all(|name| fields.contains_key(name))
        }
        _ => true,
    }
}

/// Objects without what structural schemas do not specify.
fn pruned(schema: &Value, value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut kept = Map::new();
            for (name, value) in fields {
                let property = &schema["properties"][name];
                let inner = if property.is_null() { &schema["additionalProperties"] } else { property };
                let open =
                    schema["x-kubernetes-preserve-unknown-fields"] == true || schema["type"] != "object";
                match inner {
                    Value::Null if open => drop(kept.insert(name.clone(), value.clone())),
                    Value::Null => {}
                    inner if value.is_null() && inner["nullable"] != true => {}
                    inner => drop(kept.insert(name.clone(), pruned(inner, value))),
                }
            }
            Value::Object(kept)
        }
        Value::Array(items) if schema["items"].is_object() => {
            items.iter().map(|item| pruned(&schema["items"], item)).collect()
        }
        other => other.clone(),
    }
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        3 => (-2..3i64).prop_map(Value::from),
        1 => Just(json!(1.5)),
        3 => "[x-zé]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => prop::collection::btree_map("[a-d]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// What may be said of any value, with the type or without it.
fn validations() -> impl Strategy<Value = Map<String, Value>> {
    let one = prop_oneof![
        (prop::sample::select(vec!["maximum", "minimum"]), -1..2i64).prop_map(|(name, at)| (name, json!(at))),
        (
            prop::sample::select(vec![
                "maxLength",
                "minLength",
                "maxItems",
                "minItems",
                "maxProperties",
                "minProperties"
            ]),
            0..3i64
        )
            .prop_map(|(name, at)| (name, json!(at))),
        prop::collection::vec("[x-z]{0,2}", 1..3).prop_map(|words| ("enum", json!(words))),
        prop::collection::vec("[a-c]", 1..3).prop_map(|names| ("required", json!(names))),
    ];
    let all = prop::collection::vec(one, 0..3);
    all.prop_map(|all| all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        5 => prop::sample::select(vec!["string", "integer", "boolean"]).prop_map(|ty| json!({"type": ty})),
        1 => Just(json!({"x-kubernetes-int-or-string": true})),
        1 => Just(json!({"x-kubernetes-preserve-unknown-fields": true})),
    ];
    let said = |structure: BoxedStrategy<Value>| {
        let junctor = prop::sample::select(vec!["allOf", "anyOf", "oneOf"]);
        let nested = prop::option::weighted(0.3, (junctor, prop::collection::vec(validations(), 1..3)));
        let not = prop::option::weighted(0.1, validations());
        (structure, validations(), nested, not, prop::bool::weighted(0.2)).prop_map(
            |(mut structure, says, nested, not, nullable)| {
                let fields = structure.as_object_mut().expect("a schema is an object");
                fields.extend(says);
                fields.extend(nested.map(|(name, all)| (name.to_owned(), json!(all))));
                fields.extend(not.map(|not| ("not".to_owned(), Value::Object(not))));
                fields.insert("nullable".to_owned(), nullable.into());
                structure
            },
        )
    };
    said(leaf.boxed()).prop_recursive(3, 16, 3, move |inner| {
        let object = (prop::collection::btree_map("[a-c]", inner.clone(), 0..4), prop::bool::weighted(0.2));
        let object = object.prop_map(|(properties, open)| {
            json!({"type": "object", "properties": properties, "x-kubernetes-preserve-unknown-fields": open})
        });
        let map = inner.clone().prop_map(|inner| json!({"type": "object", "additionalProperties": inner}));
        let list = inner.clone().prop_map(|inner| json!({"type": "array", "items": inner}));
        let set =
            inner.prop_map(|inner| json!({"type": "array", "items": inner, "x-kubernetes-list-type": "set"}));
        said(prop_oneof![4 => object, 1 => map, 1 => list, 1 => set].boxed())
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1024, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn values_are_judged_as_the_book_says(schema in schema(), value in value()) {
        let definition = of_spec(&schema);
        let wrong = said(&definition.storage().resource, &json!({"spec": value}), None);
        prop_assert_eq!(wrong.is_empty(), is_valid(&schema, &value), "{:?}", wrong);
    }

    #[test]
    fn what_was_there_may_stay(schema in schema(), value in value()) {
        let definition = of_spec(&schema);
        let object = json!({"spec": value});
        let wrong = said(&definition.storage().resource, &object, Some(&object));
        prop_assert_eq!(wrong, Vec::<String>::new());
    }

    #[test]
    fn pruning_and_defaulting_follow_the_schema_and_are_needed_once(schema in schema(), value in value()) {
        let definition = of_spec(&schema);
        let view = definition.storage().resource.schema.view();
        let mut object = json!({"spec": value});
        prune(&mut object, view);
        let root = json!({"type": "object", "properties": {"spec": schema}});
        prop_assert_eq!(&object, &pruned(&root, &json!({"spec": value})));
        apply_defaults(&mut object, view);
        let mut again = object.clone();
        prop_assert_eq!(prune(&mut again, view), Vec::<String>::new());
        apply_defaults(&mut again, view);
        prop_assert_eq!(again, object);
    }
}

/// A schema such as tools write: mostly descriptions, some limits, a rule now and then.
fn made_up(bytes: usize) -> Value {
    let mut groups = Map::new();
    let mut size = 0;
    for group in 0.. {
        let mut fields = Map::new();
        for field in 0..8 {
            let text = format!(
                "Field {field} says how the widget treats what it is given, and what it does when it is not. "
            );
            let value = match field % 4 {
                0 => {
                    json!({"type": "string", "maxLength": 63, "pattern": "^[a-z]+$", "description": text.repeat(2)})
                }
                1 => {
                    json!({"type": "integer", "format": "int32", "minimum": 0, "default": 1, "description": text.repeat(2)})
                }
                2 => {
                    json!({"type": "array", "items": {"type": "string"}, "maxItems": 8, "description": text.repeat(2)})
                }
                _ => {
                    json!({"type": "object", "additionalProperties": {"type": "string"}, "description": text.repeat(2)})
                }
            };
            size += value.to_string().len() + 12;
            fields.insert(format!("field{field}"), value);
        }
        let rule = json!([{"rule": "!has(self.field1) || self.field1 < 100", "message": "too many"}]);
        let mut value = json!({"type": "object", "properties": fields});
        if group % 4 == 0 {
            value["x-kubernetes-validations"] = rule;
        }
        groups.insert(format!("group{group}"), value);
        if size > bytes {
            break;
        }
    }
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": groups}}})
}

/// Bytes that each of some definitions holds beyond its text: as they are, and when their resources have been used.
fn held(count: usize, bytes: usize) -> (usize, usize) {
    let texts: Vec<(Value, bytes::Bytes)> = (0..count)
        .map(|index| {
            let definition = definition(&format!("g{index}.example.com"), made_up(bytes));
            let text = definition.to_string().into();
            let mut names = definition;
            names["spec"]["versions"][0]["schema"] = Value::Null;
            (names, text)
        })
        .collect();
    let start = HEAP.current_usage();
    let definitions: Vec<Definition> =
        texts.iter().map(|(names, text)| define_stored(names, text).expect("is a definition")).collect();
    let unused = (HEAP.current_usage() - start) / count;
    for definition in &definitions {
        let resource = &definition.storage().resource;
        assert!(!resource.schema.arena.is_built());
        let object = json!({"spec": {"group0": {"field1": 7}}});
        assert_eq!(said(resource, &object, None), Vec::<String>::new());
        assert!(resource.schema.view().field("spec").is_some());
    }
    (unused, (HEAP.current_usage() - start) / count)
}

#[test]
fn a_thousand_definitions_take_little_memory() {
    let (unused, used) = held(64, 30_000);
    println!("30 kB: {unused} bytes each, {used} when used");
    assert!(unused < 4 << 10, "{unused}");
    assert!(used < 100 << 10, "{used}");
    let (unused, used) = held(4, 300_000);
    println!("300 kB: {unused} bytes each, {used} when used");
    assert!(unused < 4 << 10, "{unused}");
    assert!(used < 1000 << 10, "{used}");
}

#[test]
fn documents_show_custom_resources_and_build_nothing() {
    let defined = define(&definition("example.com", made_up(1000))).expect("is a definition");
    let resource = &defined.storage().resource;
    let built_in = api_catalog::catalog().iter().map(|resource| &**resource);
    let none = Descriptions::default();
    let documents = Documents::new(built_in.chain([&**resource]), &none, "v1.37.0");
    let document: Value = serde_json::from_slice(&documents.v3("example.com", "v1")).expect("is JSON");
    let schemas = &document["components"]["schemas"];
    let widget = &schemas["com.example.v1.Widget"];
    assert_eq!(
        widget["x-kubernetes-group-version-kind"],
        json!([{"group": "example.com", "version": "v1", "kind": "Widget"}])
    );
    let meta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
    assert_eq!(widget["properties"]["metadata"], json!({"$ref": format!("#/components/schemas/{meta}")}));
    assert_eq!(schemas[meta]["type"], "object");
    assert_eq!(schemas["com.example.v1.WidgetList"]["type"], "object");
    assert!(document["paths"]["/apis/example.com/v1/namespaces/{namespace}/widgets/{name}"].is_object());
    assert!(!resource.schema.arena.is_built());
}
