//! Documents of one small kind, in all three forms.

use std::collections::BTreeMap;

use super::*;
use crate::resource::{Rules, ScalePaths, Scope, Storage, Subresource, Subresources, Verb, Verbs};
use crate::schema::{Arena, Field, Kind, Node, NodeId, PatchStrategy, SchemaRef};

const DEFINITION: &str = "io.k8s.api.apps.v1.Widget";

fn widget() -> (Resource, Descriptions) {
    let mut arena = Arena::new();
    let field = |name: &str, node: NodeId, required: bool| Field { name: name.to_owned(), node, required };
    let string = arena.add(Node::of(Kind::String));
    let port = arena.add(Node::of(Kind::IntOrString));
    let part =
        arena.add(Node::of(Kind::Object(vec![field("name", string, true), field("port", port, false)])));
    arena.define("io.k8s.api.apps.v1.Part", part);
    let item = arena.add(Node::of(Kind::Ref(part)));
    let mut parts = Node::of(Kind::Array(item));
    parts.extra_mut().patch =
        Some(PatchStrategy { merge: true, retain_keys: true, merge_key: "name".to_owned() });
    let parts = arena.add(parts);
    let mut main = Node::of(Kind::Ref(part));
    main.extra_mut().default = Some(json!({}));
    let main = arena.add(main);
    let labels = arena.add(Node::of(Kind::Map(string)));
    let root = arena.add(Node::of(Kind::Object(vec![
        field("apiVersion", string, false),
        field("parts", parts, false),
        field("main", main, false),
        field("labels", labels, false),
    ])));
    arena.define(DEFINITION, root);
    let free = arena.add(Node::of(Kind::Any));
    for name in ["Status", "DeleteOptions", "Patch", "ListMeta"] {
        arena.define(format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"), free);
    }
    let descriptions = Descriptions([(root, "A widget.".into()), (main, "The main part.".into())].into());
    let log = Subresource {
        name: "log".into(),
        group: "".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        verbs: Verbs::of(&[Verb::Get]),
    };
    let scale = ScalePaths { spec_replicas: "/a".into(), status_replicas: "/b".into(), selector: None };
    let resource = Resource {
        group: "apps".into(),
        version: "v1".into(),
        kind: "Widget".into(),
        list_kind: "WidgetList".into(),
        plural: "widgets".into(),
        singular: "widget".into(),
        short_names: Vec::new(),
        categories: Vec::new(),
        scope: Scope::Namespaced,
        verbs: Verbs::ALL,
        storage: Storage::Stored,
        subresources: Subresources { status: true, scale: Some(scale), others: vec![log] },
        has_generation: true,
        columns: Vec::new(),
        selectable: Vec::new(),
        schema: SchemaRef { arena: arena.into(), root },
        definition: DEFINITION.into(),
        rules: Rules::default(),
        priority: 0,
        view_of: None,
        defined: None,
    };
    (resource, descriptions)
}

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn version_three() {
    let (resource, descriptions) = widget();
    let documents = Documents::new([&resource], &descriptions, "v1.37.0");
    let document: Value = serde_json::from_slice(&documents.v3("apps", "v1")).expect("is JSON");
    assert_eq!(document["info"], json!({"title": "Kubernetes", "version": "v1.37.0"}));
    let paths: Vec<&String> = document["paths"].as_object().expect("has paths").keys().collect();
    assert_eq!(
        paths,
        [
            "/apis/apps/v1/namespaces/{namespace}/widgets",
            "/apis/apps/v1/namespaces/{namespace}/widgets/{name}",
            "/apis/apps/v1/namespaces/{namespace}/widgets/{name}/log",
            "/apis/apps/v1/namespaces/{namespace}/widgets/{name}/scale",
            "/apis/apps/v1/namespaces/{namespace}/widgets/{name}/status",
            "/apis/apps/v1/widgets",
        ]
    );
    let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/widgets/{name}"]["patch"];
    assert_eq!(patch["operationId"], "patchAppsV1NamespacedWidget");
    assert_eq!(
        patch["x-kubernetes-group-version-kind"],
        json!({"group": "apps", "version": "v1", "kind": "Widget"})
    );
    let parameters = patch["parameters"].as_array().expect("has parameters");
    assert!(parameters.iter().any(|parameter| parameter["name"] == "fieldValidation"));
    let all = &document["paths"]["/apis/apps/v1/widgets"]["get"];
    assert_eq!(all["operationId"], "listAppsV1WidgetForAllNamespaces");
    let schemas = &document["components"]["schemas"];
    assert_eq!(
        schemas[DEFINITION],
        json!({
            "type": "object", "description": "A widget.",
            "x-kubernetes-group-version-kind": [{"group": "apps", "version": "v1", "kind": "Widget"}],
            "properties": {
                "apiVersion": {"type": "string"},
                "labels": {"type": "object", "additionalProperties": {"type": "string"}},
                "main": {
                    "allOf": [{"$ref": "#/components/schemas/io.k8s.api.apps.v1.Part"}],
                    "default": {}, "description": "The main part.",
                },
                "parts": {
                    "type": "array", "items": {"$ref": "#/components/schemas/io.k8s.api.apps.v1.Part"},
                    "x-kubernetes-patch-strategy": "merge,retainKeys", "x-kubernetes-patch-merge-key": "name",
                },
            },
        })
    );
    assert_eq!(
        schemas["io.k8s.api.apps.v1.WidgetList"]["x-kubernetes-group-version-kind"][0]["kind"],
        "WidgetList"
    );
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let name = reference.strip_prefix("#/components/schemas/").expect("refers to a schema");
        assert!(schemas.get(name).is_some(), "{name}");
    }
    let empty: Value = serde_json::from_slice(&documents.v3("other", "v1")).expect("is JSON");
    assert_eq!(empty["paths"], json!({}));
}

#[test]
fn version_two() {
    let (resource, descriptions) = widget();
    let documents = Documents::new([&resource], &descriptions, "v1.37.0");
    let document: Value = serde_json::from_slice(&documents.v2()).expect("is JSON");
    let definitions = &document["definitions"];
    assert_eq!(
        definitions[DEFINITION]["properties"]["main"],
        json!({"$ref": "#/definitions/io.k8s.api.apps.v1.Part", "default": {}, "description": "The main part."})
    );
    assert_eq!(
        definitions["io.k8s.api.apps.v1.Part"],
        json!({
            "type": "object", "required": ["name"],
            "properties": {"name": {"type": "string"}, "port": {"type": "string", "format": "int-or-string"}},
        })
    );
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let name = reference.strip_prefix("#/definitions/").expect("refers to a definition");
        assert!(definitions.get(name).is_some(), "{name}");
    }
}

/// A decoded message: values by field number, in order. Strings stay bytes.
type Fields = BTreeMap<u64, Vec<Vec<u8>>>;

fn read(mut bytes: &[u8]) -> Fields {
    fn varint(bytes: &mut &[u8]) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let (byte, rest) = bytes.split_first().expect("a varint ends");
            *bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                return value;
            }
        }
    }
    let mut fields = Fields::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes);
        let value = match tag & 7 {
            0 => varint(&mut bytes).to_le_bytes().to_vec(),
            2 => {
                let len = usize::try_from(varint(&mut bytes)).expect("a length");
                let (value, rest) = bytes.split_at(len);
                bytes = rest;
                value.to_vec()
            }
            other => panic!("wire type {other}"),
        };
        fields.entry(tag >> 3).or_default().push(value);
    }
    fields
}

/// The values of `NamedSomething` by name.
fn named(list: &[Vec<u8>]) -> BTreeMap<String, Vec<u8>> {
    let pair = |bytes: &Vec<u8>| {
        let fields = read(bytes);
        (String::from_utf8(fields[&1][0].clone()).expect("a name"), fields[&2][0].clone())
    };
    list.iter().map(pair).collect()
}

#[test]
fn version_two_in_protobuf_says_the_same() {
    let (resource, descriptions) = widget();
    let documents = Documents::new([&resource], &descriptions, "v1.37.0");
    let json: Value = serde_json::from_slice(&documents.v2()).expect("is JSON");
    let document = read(&documents.v2_protobuf());
    assert_eq!(document[&1], [b"2.0"]);
    let paths = named(&read(&document[&8][0])[&2]);
    assert!(paths.keys().eq(json["paths"].as_object().expect("has paths").keys()));
    let patch = read(&read(&paths["/apis/apps/v1/namespaces/{namespace}/widgets/{name}"])[&8][0]);
    assert_eq!(patch[&5], [b"patchAppsV1NamespacedWidget"]);
    // ParametersItem, Parameter, NonBodyParameter, QueryParameterSubSchema, name.
    let names: Vec<Vec<u8>> = patch[&8]
        .iter()
        .filter_map(|item| {
            read(&read(item)[&1][0]).get(&2).map(|parameter| read(&read(&parameter[0])[&3][0])[&4][0].clone())
        })
        .collect();
    assert!(names.contains(&b"fieldValidation".to_vec()));
    let extensions = named(&patch[&13]);
    let kind = read(&extensions["x-kubernetes-group-version-kind"])[&2][0].clone();
    assert_eq!(serde_json::from_slice::<Value>(&kind).expect("is JSON")["kind"], "Widget");
    let definitions = named(&read(&document[&9][0])[&1]);
    assert!(definitions.keys().eq(json["definitions"].as_object().expect("has definitions").keys()));
    let widget = read(&definitions[DEFINITION]);
    assert_eq!(widget[&4], [b"A widget."]);
    assert_eq!(read(&widget[&22][0])[&1], [b"object"]);
    let properties = named(&read(&widget[&25][0])[&1]);
    assert_eq!(read(&properties["main"])[&1], [b"#/definitions/io.k8s.api.apps.v1.Part"]);
    let items = read(&read(&properties["parts"])[&23][0])[&1][0].clone();
    assert_eq!(read(&items)[&1], [b"#/definitions/io.k8s.api.apps.v1.Part"]);
    assert_eq!(
        named(&read(&properties["parts"])[&31]).into_keys().collect::<Vec<_>>(),
        ["x-kubernetes-patch-merge-key", "x-kubernetes-patch-strategy"]
    );
}
