//! Scenarios of several managers, as data.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::*;
use crate::schema::{Arena, Field, Format, Kind, ListType, Node, NodeId, SchemaRef};

/// A schema with everything that is owned in its own way.
pub(super) static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let mut arena = Arena::new();
    let root = thing(&mut arena);
    SchemaRef { arena: arena.into(), root }
});

fn object(arena: &mut Arena, fields: &[(&str, NodeId, bool)]) -> NodeId {
    let fields = fields
        .iter()
        .map(|(name, node, required)| Field { name: (*name).to_owned(), node: *node, required: *required })
        .collect();
    arena.add(Node::of(Kind::Object(fields)))
}

fn list(arena: &mut Arena, items: NodeId, list_type: ListType, keys: &[&str]) -> NodeId {
    let mut node = Node::of(Kind::Array(items));
    node.extra_mut().list_type = list_type;
    node.extra_mut().map_keys = keys.iter().map(|key| (*key).to_owned()).collect();
    arena.add(node)
}

fn always(arena: &mut Arena, id: NodeId) -> NodeId {
    let mut node = Node::of(Kind::Ref(id));
    node.extra_mut().always = true;
    arena.add(node)
}

fn thing(arena: &mut Arena) -> NodeId {
    let text = arena.add(Node::of(Kind::String));
    let number = arena.add(Node { format: Format::Int32, ..Node::of(Kind::Integer) });
    let map = arena.add(Node::of(Kind::Map(text)));
    let mut atomic = Node::of(Kind::Map(text));
    atomic.extra_mut().map_atomic = true;
    let atomic = arena.add(atomic);
    let mut protocol = Node::of(Kind::String);
    protocol.extra_mut().default = Some("TCP".into());
    let protocol = arena.add(protocol);
    let port = object(arena, &[("port", number, true), ("protocol", protocol, false), ("name", text, false)]);
    let ports = list(arena, port, ListType::Map, &["port", "protocol"]);
    let env = object(arena, &[("name", text, true), ("value", text, false)]);
    let env = list(arena, env, ListType::Map, &["name"]);
    let words = list(arena, text, ListType::Atomic, &[]);
    let item = object(
        arena,
        &[
            ("name", text, true),
            ("image", text, false),
            ("env", env, false),
            ("ports", ports, false),
            ("args", words, false),
        ],
    );
    let items = list(arena, item, ListType::Map, &["name"]);
    let set = list(arena, text, ListType::Set, &[]);
    let managed = arena.add(Node::of(Kind::Any));
    let managed = list(arena, managed, ListType::Atomic, &[]);
    let strategy = object(arena, &[("surge", number, false)]);
    let spec = object(
        arena,
        &[
            ("replicas", number, false),
            ("items", items, true),
            ("selector", atomic, false),
            ("words", words, false),
            ("strategy", strategy, false),
        ],
    );
    let (spec, status) = (always(arena, spec), object(arena, &[("phase", text, false)]));
    let status = always(arena, status);
    let meta = object(
        arena,
        &[
            ("name", text, false),
            ("namespace", text, false),
            ("resourceVersion", text, false),
            ("uid", text, false),
            ("labels", map, false),
            ("annotations", map, false),
            ("finalizers", set, false),
            ("managedFields", managed, false),
        ],
    );
    let meta = always(arena, meta);
    let kind = [("apiVersion", text, false), ("kind", text, false)];
    let rest = [("metadata", meta, false), ("spec", spec, false), ("status", status, false)];
    object(arena, &[&kind[..], &rest[..]].concat())
}

/// A write by `manager`, in the `second`th second.
pub(super) fn write(manager: &str, second: i64) -> Write<'_> {
    static VERSIONS: LazyLock<Vec<String>> = LazyLock::new(|| vec!["apps/v1".to_owned()]);
    Write {
        schema: SCHEMA.view(),
        manager,
        subresource: "",
        api_version: "apps/v1",
        versions: &VERSIONS,
        part: Part::ButStatus,
        now: jiff::Timestamp::from_second(second).expect("a time"),
    }
}

fn with_list(mut object: Value, tracked: &Tracked) -> Value {
    let metadata = crate::meta::metadata_mut(&mut object);
    metadata.remove("managedFields");
    if !tracked.json.is_empty() {
        let list = serde_json::from_str(&tracked.json).expect("the list is JSON");
        metadata.insert("managedFields".to_owned(), list);
    }
    object
}

/// The object after a write that is no apply.
pub(super) fn put(live: Option<&Value>, new: Value, write: &Write<'_>) -> Value {
    let tracked = track(live, &new, write);
    with_list(new, &tracked)
}

/// The object after an apply.
pub(super) fn put_applied(
    live: Option<&Value>,
    applied: &Value,
    write: &Write<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let done = apply(live, applied, write, force)?;
    Ok(with_list(done.object, &done.tracked))
}

pub(super) fn thing_of(spec: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "n"}, "spec": spec})
}

fn fields_of(object: &Value, manager: &str) -> Value {
    let list = list_of(Some(object));
    list.iter()
        .find(|entry| entry["manager"] == manager)
        .map_or(Value::Null, |entry| entry["fieldsV1"].clone())
}

fn spec_of(object: &Value) -> Value {
    object["spec"].clone()
}

#[test]
fn a_new_object_belongs_to_its_maker() {
    let mut new = thing_of(json!({
        "replicas": 2, "selector": {"a": "b"}, "words": ["x"], "strategy": {"surge": 1},
        "items": [{"name": "c", "image": "i", "ports": [{"port": 80}]}],
    }));
    new["metadata"]["labels"] = json!({"app": "a"});
    new["metadata"]["finalizers"] = json!(["x/y"]);
    new["status"] = json!({"phase": "Ready"});
    let made = put(None, new, &write("kubectl-create", 5));
    assert_eq!(
        made["metadata"]["managedFields"],
        json!([{
            "manager": "kubectl-create", "operation": "Update", "apiVersion": "apps/v1",
            "time": "1970-01-01T00:00:05Z", "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:metadata": {
                    "f:labels": {".": {}, "f:app": {}},
                    "f:finalizers": {".": {}, "v:\"x/y\"": {}},
                },
                "f:spec": {
                    "f:replicas": {}, "f:selector": {}, "f:words": {},
                    "f:strategy": {".": {}, "f:surge": {}},
                    "f:items": {"k:{\"name\":\"c\"}": {
                        ".": {}, "f:name": {}, "f:image": {},
                        "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}},
                    }},
                },
            },
        }])
    );
}

#[test]
fn an_applied_object_is_owned_as_it_is_stated() {
    let applied = json!({
        "apiVersion": "apps/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "n", "labels": {"app": "a"}},
        "spec": {"replicas": 2, "items": [{"name": "c", "image": "i"}]}, "status": {"phase": "x"},
    });
    let made = put_applied(None, &applied, &write("me", 5), false).expect("free");
    assert_eq!(
        fields_of(&made, "me"),
        json!({
            "f:metadata": {"f:labels": {"f:app": {}}},
            "f:spec": {"f:replicas": {}, "f:items": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}},
        })
    );
    let again = apply(Some(&made), &applied, &write("me", 9), false).expect("mine");
    assert!(!again.tracked.changed);
    assert_eq!(again.object, made);
    assert_eq!(with_list(again.object, &again.tracked), made, "not even the time is another");
}

#[test]
fn conflicts_are_told_and_can_be_overruled() {
    let live = put(
        None,
        thing_of(json!({"replicas": 1, "items": [{"name": "c", "image": "i"}]})),
        &write("kubectl-client-side-apply", 1),
    );
    let error = put_applied(Some(&live), &thing_of(json!({"replicas": 2})), &write("me", 2), false)
        .expect_err("owned");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl-client-side-apply\" using apps/v1: .spec.replicas"
    );
    let status = ApiError::from(error).to_value();
    assert_eq!((&status["code"], &status["reason"]), (&json!(409), &json!("Conflict")));
    assert_eq!(
        status["details"],
        json!({"causes": [{"reason": "FieldManagerConflict", "field": ".spec.replicas",
            "message": "conflict with \"kubectl-client-side-apply\" using apps/v1"}]})
    );
    let both = thing_of(json!({"replicas": 2, "items": [{"name": "c", "image": "j"}]}));
    assert_eq!(
        put_applied(Some(&live), &both, &write("me", 2), false).expect_err("owned").to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-client-side-apply\" using apps/v1:\n\
         - .spec.replicas\n- .spec.items[name=\"c\"].image"
    );
    let forced = put_applied(Some(&live), &both, &write("me", 2), true).expect("forced");
    assert_eq!(spec_of(&forced), json!({"replicas": 2, "items": [{"name": "c", "image": "j"}]}));
    assert_eq!(
        fields_of(&forced, "kubectl-client-side-apply"),
        json!({"f:spec": {"f:items": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}}})
    );
    // The same value is no conflict but ownership in common.
    let shared =
        put_applied(Some(&live), &thing_of(json!({"replicas": 1})), &write("me", 2), false).expect("equal");
    assert_eq!(fields_of(&shared, "me"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(fields_of(&shared, "kubectl-client-side-apply")["f:spec"].get("f:replicas").is_some());
}

#[test]
fn what_is_left_out_goes_unless_somebody_else_has_it() {
    let first = thing_of(
        json!({"replicas": 1, "items": [{"name": "c", "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}, {"name": "d"}]}),
    );
    let live = put_applied(None, &first, &write("one", 1), false).expect("free");
    let live = put_applied(
        Some(&live),
        &thing_of(json!({"items": [{"name": "d", "image": "x"}]})),
        &write("two", 2),
        false,
    )
    .expect("co-owned");
    let less = thing_of(json!({"items": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}));
    let live = put_applied(Some(&live), &less, &write("one", 3), false).expect("mine");
    assert_eq!(
        spec_of(&live),
        json!({"items": [{"name": "c", "env": [{"name": "B", "value": "2"}]}, {"name": "d", "image": "x"}]})
    );
    let live =
        put_applied(Some(&live), &thing_of(json!({"items": []})), &write("two", 4), false).expect("mine");
    assert_eq!(spec_of(&live), json!({"items": [{"name": "c", "env": [{"name": "B", "value": "2"}]}]}));
    assert_eq!(fields_of(&live, "two"), Value::Null, "who owns nothing is not listed");
    let gone = put_applied(
        Some(&live),
        &json!({"apiVersion": "apps/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "n"}}),
        &write("one", 5),
        false,
    )
    .expect("mine");
    assert_eq!(gone.get("spec"), None);
}

#[test]
fn lists_and_maps_of_each_kind() {
    let table = [
        // Several keys, one of them by default.
        (
            json!({"items": [{"name": "c", "ports": [{"port": 1, "name": "a"}, {"port": 1, "protocol": "UDP"}]}]}),
            json!({"items": [{"name": "c", "ports": [{"port": 1, "protocol": "TCP", "name": "a"}]}]}),
            json!({"items": [{"name": "c", "ports": [{"port": 1, "protocol": "TCP", "name": "a"}, {"port": 1, "protocol": "UDP"}]}]}),
        ),
        // Where a key has several fields, one that is left out tells apart too.
        (
            json!({"items": [{"name": "c", "ports": [{"port": 1}]}]}),
            json!({"items": [{"name": "c", "ports": [{"protocol": "TCP", "name": "a"}]}]}),
            json!({"items": [{"name": "c", "ports": [{"port": 1}, {"protocol": "TCP", "name": "a"}]}]}),
        ),
        // Atomic ones are replaced.
        (
            json!({"words": ["a", "b"], "items": []}),
            json!({"words": ["c"]}),
            json!({"words": ["c"], "items": []}),
        ),
        (json!({"selector": {"a": "b"}}), json!({"selector": {"c": "d"}}), json!({"selector": {"c": "d"}})),
        // The applied order counts, and the rest stays where it was.
        (
            json!({"items": [{"name": "x"}, {"name": "a"}, {"name": "y"}, {"name": "b"}]}),
            json!({"items": [{"name": "b"}, {"name": "new"}, {"name": "a"}]}),
            json!({"items": [{"name": "x"}, {"name": "b"}, {"name": "new"}, {"name": "a"}, {"name": "y"}]}),
        ),
    ];
    for (live, applied, wanted) in table {
        let live = put(None, thing_of(live), &write("other", 1));
        let done = put_applied(Some(&live), &thing_of(applied), &write("me", 2), true).expect("forced");
        assert_eq!(spec_of(&done), wanted);
    }
}

#[test]
fn bad_objects_are_refused_in_upstreams_words() {
    let table = [
        (json!({"replica": 1}), ".spec.replica: field not declared in schema"),
        (json!({"replicas": "1"}), ".spec.replicas: expected numeric (int or float), got string"),
        (
            json!({"items": [{"name": "c"}, {"name": "c"}]}),
            ".spec.items: duplicate entries for key [name=\"c\"]",
        ),
        (
            json!({"items": [{"image": "c"}]}),
            ".spec.items: element 0: associative list with keys has an element that omits all key fields [\"name\"] (and doesn't have default values for any key fields)",
        ),
        (json!({"items": {}}), ".spec.items: expected list, got &{{}}"),
        (
            json!({"items": [{"name": "c", "ports": [{"port": 1}, {"port": 1, "protocol": "TCP"}]}]}),
            ".spec.items[name=\"c\"].ports: duplicate entries for key [port=1,protocol=\"TCP\"]",
        ),
    ];
    for (spec, why) in table {
        let error = put_applied(None, &thing_of(spec), &write("me", 1), false).expect_err("refused");
        assert_eq!(
            error.to_string(),
            format!("failed to create typed patch object (n/a; apps/v1, Kind=Thing): {why}")
        );
        assert_eq!(ApiError::from(error).code(), 500);
    }
    let mut own = thing_of(json!({}));
    own["metadata"]["managedFields"] = json!([]);
    let error = put_applied(None, &own, &write("me", 1), false).expect_err("refused");
    assert_eq!(error, ApplyError::HasManagedFields);
}

#[test]
fn updates_take_what_they_change_and_keep_times_otherwise() {
    let live = put_applied(None, &thing_of(json!({"replicas": 1, "words": ["a"]})), &write("me", 1), false)
        .expect("free");
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(3);
    let scaled = put(Some(&live), new, &Write { subresource: "scale", part: Part::Whole, ..write("hpa", 2) });
    assert_eq!(fields_of(&scaled, "me"), json!({"f:spec": {"f:words": {}}}));
    assert_eq!(fields_of(&scaled, "hpa"), json!({"f:spec": {"f:replicas": {}}}));
    assert_eq!(list_of(Some(&scaled))[1]["subresource"], "scale");
    let error =
        put_applied(Some(&scaled), &thing_of(json!({"replicas": 1, "words": ["a"]})), &write("me", 3), false)
            .expect_err("taken");
    assert!(
        error
            .to_string()
            .ends_with("conflict with \"hpa\" with subresource \"scale\" using apps/v1: .spec.replicas"),
        "{error}"
    );
    let nothing = track(Some(&scaled), &scaled, &write("hpa", 9));
    assert_eq!((nothing.changed, with_list(scaled.clone(), &nothing)), (false, scaled.clone()));
    // What is removed belongs to nobody; who owned only that is gone.
    let mut less = scaled.clone();
    less["spec"].as_object_mut().expect("an object").remove("words");
    let less = put(Some(&scaled), less, &write("x", 4));
    assert_eq!(list_of(Some(&less)).len(), 1);
}

#[test]
fn lists_that_clients_send() {
    let live = put(None, thing_of(json!({"replicas": 1})), &write("one", 1));
    let send = |list: Value| {
        let mut new = live.clone();
        new["metadata"]["managedFields"] = list;
        put(Some(&live), new, &write("two", 2))
    };
    for ignored in [
        json!([]),
        json!(null),
        json!([{"manager": "x"}]),
        json!([{"operation": "Update", "apiVersion": "apps/v1", "fieldsType": "V2"}]),
        json!([{"operation": "Update", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"x": {}}}]),
        json!([{"manager": "x".repeat(129), "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}]),
        vec![json!({"operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1"}); 1001].into(),
    ] {
        assert_eq!(send(ignored), live);
    }
    let other = json!([{"manager": "z", "operation": "Apply", "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {"f:replicas": {}}}}]);
    assert_eq!(send(other.clone())["metadata"]["managedFields"], other);
    let reset = send(json!([{}]));
    assert_eq!(reset["metadata"].get("managedFields"), None);
    // Once reset, nothing is tracked until somebody applies.
    let mut new = reset.clone();
    new["spec"]["replicas"] = json!(4);
    let untracked = put(Some(&reset), new, &write("two", 3));
    assert_eq!(list_of(Some(&untracked)).len(), 0);
    let error = put_applied(Some(&untracked), &thing_of(json!({"replicas": 5})), &write("me", 4), false)
        .expect_err("owned");
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

/// In the order that costs most: what grows with the square of the size does not end in time.
#[test]
fn large_lists_take_no_long_time() {
    let items: Vec<Value> = (0..20_000).rev().map(|at| json!({"name": format!("n{at:06}")})).collect();
    let applied = thing_of(json!({"items": items}));
    let made = put_applied(None, &applied, &write("me", 1), false).expect("free");
    let again = put_applied(Some(&made), &applied, &write("you", 2), false).expect("equal");
    let less =
        put_applied(Some(&again), &thing_of(json!({"items": []})), &write("me", 3), false).expect("mine");
    assert_eq!(spec_of(&less)["items"].as_array().map(Vec::len), Some(20_000));
}

#[test]
fn old_updaters_become_one_and_old_versions_none() {
    let mut live = put(None, thing_of(json!({"replicas": 1})), &write("w0", 1));
    for at in 1..15 {
        let mut new = live.clone();
        new["metadata"]["labels"][format!("l{at}")] = "x".into();
        let name = format!("w{at}");
        live = put(Some(&live), new, &write(&name, 1 + at));
    }
    let names: Vec<&str> =
        list_of(Some(&live)).iter().filter_map(|entry| entry["manager"].as_str()).collect();
    assert_eq!(names, ["ancient-changes", "w6", "w7", "w8", "w9", "w10", "w11", "w12", "w13", "w14"]);
    assert_eq!(fields_of(&live, "ancient-changes")["f:spec"], json!({"f:replicas": {}}));
    let later = vec!["apps/v2".to_owned()];
    let forgotten = put(Some(&live), live.clone(), &Write { versions: &later, ..write("x", 99) });
    assert_eq!(list_of(Some(&forgotten)).len(), 0);
}

#[test]
fn from_kubectls_own_apply_to_the_servers() {
    let config = thing_of(json!({"replicas": 1, "words": ["a"]}));
    let mut first = config.clone();
    first["metadata"]["annotations"] =
        json!({"kubectl.kubernetes.io/last-applied-configuration": config.to_string()});
    let live = put(None, first, &write("kubectl-client-side-apply", 1));
    let next = thing_of(json!({"replicas": 2, "words": ["a"]}));
    assert!(put_applied(Some(&live), &next, &write("other", 2), false).is_err());
    let live = put_applied(Some(&live), &next, &write("kubectl", 2), false).expect("kubectl's own");
    assert_eq!(spec_of(&live)["replicas"], 2);
    let remembered = &live["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(*remembered, format!("{next}\n"));
    let mut new = live.clone();
    new["spec"]["replicas"] = json!(7);
    let live = put(Some(&live), new, &write("hpa", 3));
    assert!(
        put_applied(Some(&live), &next, &write("kubectl", 4), false).is_err(),
        "that is not what kubectl wrote"
    );
}
