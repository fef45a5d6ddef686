//! What expressions of mutating policies make: `Object{spec: Object.spec{replicas: 3}}`, of which only what is said counts,
//! and `JSONPatch{op: "add", path: "/a", value: 1}`.
//!
//! Which fields an object has is not known here: its types are named after the path of their fields, which is checked when a
//! value has been made. What is made of it, the caller decides.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map as JsonMap, Value as Json};

use crate::cost::Charge::Text as Walked;
use crate::eval::MAX_VALUE_DEPTH;
use crate::library::{Line, text};
use crate::types::{Field, Object, Schema, Type};
use crate::value::{Key, Map, Text, Value};

/// The type of what an object is to have.
pub const OBJECT: &str = "Object";
/// The type of one step of a patch.
pub const PATCH: &str = "JSONPatch";
/// What only such expressions may call.
pub(crate) const ESCAPE: &str = "jsonpatch.escapeKey";

pub(crate) const LINES: &[Line] = &[(ESCAPE, "(string) -> string", Walked(0), |_, args| {
    Ok(Value::text(text(&args[0])?.replace('~', "~0").replace('/', "~1")))
})];

/// A value that was made of named fields.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// Its type.
    pub ty: Arc<Object>,
    /// What was said of it.
    pub fields: BTreeMap<Key<'a>, Value<'a>>,
}

static STEP: LazyLock<Arc<Object>> = LazyLock::new(|| {
    let field =
        |name: &str, ty| (name.to_owned(), Field { json: name.to_owned(), schema: Arc::new(Schema::of(ty)) });
    let fields = [
        field("op", Type::String),
        field("path", Type::String),
        field("from", Type::String),
        field("value", Type::Dyn),
    ];
    Arc::new(Object { name: PATCH.to_owned(), fields: fields.into() })
});

/// The type of this name that values can be made of.
pub(crate) fn named(name: &str) -> Option<Arc<Object>> {
    if name == PATCH {
        return Some(Arc::clone(&STEP));
    }
    is_open(name).then(|| Arc::new(Object { name: name.to_owned(), fields: BTreeMap::new() }))
}

/// Whether a type may have any field.
pub(crate) fn is_open(name: &str) -> bool {
    name.strip_prefix(OBJECT).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The type that an expression of this kind must have.
pub fn object_type() -> Type {
    Type::Object(Arc::new(Object { name: OBJECT.to_owned(), fields: BTreeMap::new() }))
}

/// The same for patches.
pub fn patch_type() -> Type {
    Type::list(Type::Object(Arc::clone(&STEP)))
}

/// What is wrong with the names of types: what is made for a field is called after the way to it.
pub fn misnamed(value: &Value<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let Value::Map(Map::Message(message)) = value else { return wrong };
    if is_open(&message.ty.name) {
        check(value, &mut vec![message.ty.name.clone()], &mut wrong);
    }
    wrong
}

fn check(value: &Value<'_>, path: &mut Vec<String>, wrong: &mut Vec<String>) {
    match value {
        Value::Map(Map::Message(message)) => {
            let (name, expected) = (&message.ty.name, path.join("."));
            if *name != expected {
                wrong.push(format!(
                    "unexpected type name {name:?}, expected {expected:?}, which matches field name path from root Object type"
                ));
            }
            for (key, value) in &message.fields {
                if let Key::String(field) = key {
                    path.push(field.as_str().to_owned());
                    check(value, path, wrong);
                    path.pop();
                }
            }
        }
        Value::List(list) => list.iter().for_each(|item| check(&item, path, wrong)),
        Value::Map(Map::Owned(map)) => map.values().for_each(|value| check(value, path, wrong)),
        _ => {}
    }
}

/// A value as JSON.
///
/// # Errors
/// There is none for it.
pub fn to_json(value: &Value<'_>) -> Result<Json, String> {
    json_at(value, 0)
}

fn json_at(value: &Value<'_>, depth: usize) -> Result<Json, String> {
    if depth > MAX_VALUE_DEPTH {
        return Err("exceeded max depth".to_owned());
    }
    Ok(match value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => (*value).into(),
        Value::Uint(value) => (*value).into(),
        Value::Double(value) => serde_json::Number::from_f64(*value)
            .map(Json::Number)
            .ok_or_else(|| format!("unsupported value: {value}"))?,
        Value::String(text) => text.as_str().into(),
        Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
        Value::Timestamp(at) => at.to_string().into(),
        Value::Duration(of) => of.to_string().into(),
        Value::List(list) => {
            Json::Array(list.iter().map(|item| json_at(&item, depth + 1)).collect::<Result<_, _>>()?)
        }
        Value::Map(map) => {
            let mut fields = JsonMap::new();
            for (key, value) in map.iter() {
                let Key::String(key) = &key else {
                    return Err(format!("map key {:?} is not a string", key.value()));
                };
                fields.insert(key.as_str().to_owned(), json_at(&value, depth + 1)?);
            }
            Json::Object(fields)
        }
        Value::Optional(Some(inner)) => json_at(inner, depth + 1)?,
        Value::Optional(None) => Json::Null,
        Value::Type(_) | Value::Opaque(_) => {
            return Err(format!("unsupported conversion from {} to JSON", value.ty()));
        }
    })
}

/// A value of named fields.
pub(crate) fn made<'a>(ty: Arc<Object>, fields: BTreeMap<Key<'a>, Value<'a>>) -> Value<'a> {
    Value::Map(Map::Message(Rc::new(Message { ty, fields })))
}

/// A field's name as the key that it is held under.
pub(crate) fn key<'a>(name: &'a str) -> Key<'a> {
    Key::String(Text::Borrowed(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Environment, PER_CALL_LIMIT, Variables};
    use serde_json::json;

    fn environment() -> Environment {
        Environment::new().with_type("object", Type::Dyn).making_objects()
    }

    fn evaluate(source: &str) -> Result<(Json, Vec<String>), String> {
        let program = environment().compile(source).map_err(|error| error.to_string())?;
        let object = json!({"metadata": {"labels": {"a/b": "c~d"}}, "spec": {"replicas": 2}});
        let variables = Variables(vec![("object", Value::from_json(&object, None))]);
        let value = program.evaluate(&variables, PER_CALL_LIMIT).result.map_err(|error| error.to_string())?;
        Ok((to_json(&value)?, misnamed(&value)))
    }

    fn fine(source: &str) -> Json {
        let (json, wrong) = evaluate(source).unwrap_or_else(|error| panic!("{source}: {error}"));
        assert_eq!(wrong, Vec::<String>::new(), "{source}");
        json
    }

    #[test]
    fn objects_are_made() {
        assert_eq!(fine("Object{}"), json!({}));
        let labels = "Object{metadata: Object.metadata{labels: {'x': 'y'}}, spec: Object.spec{replicas: object.spec.replicas + 1}}";
        assert_eq!(fine(labels), json!({"metadata": {"labels": {"x": "y"}}, "spec": {"replicas": 3}}));
        let list = "Object{spec: Object.spec{containers: object.spec.replicas > 1 ? [Object.spec.containers{name: 'c', ready: true,}] : []}}";
        assert_eq!(fine(list), json!({"spec": {"containers": [{"name": "c", "ready": true}]}}));
        let optional = "Object{?a: object.?none, ?b: object.?spec.replicas, c: null}";
        assert_eq!(fine(optional), json!({"b": 2, "c": null}));
        assert_eq!(fine("Object{spec: Object.spec{a: 1}} == Object{spec: Object.spec{a: 1}}"), json!(true));
        assert_eq!(fine("has(Object{a: 1}.a) && Object{a: 1}.a == 1 && !has(Object{}.b)"), json!(true));
    }

    #[test]
    fn patches_are_made() {
        let patch = "[JSONPatch{op: 'add', path: '/metadata/labels/' + jsonpatch.escapeKey('a/b~c'), value: [1.5, 2.0]}]";
        assert_eq!(
            fine(patch),
            json!([{"op": "add", "path": "/metadata/labels/a~1b~0c", "value": [1.5, 2.0]}])
        );
        assert_eq!(environment().compile(patch).expect("it compiles").result(), &patch_type());
        assert_eq!(environment().compile("Object{}").expect("it compiles").result(), &object_type());
        assert_ne!(environment().compile("Object.spec{}").expect("it compiles").result(), &object_type());
    }

    #[test]
    fn names_follow_fields() {
        let (_, wrong) =
            evaluate("Object{spec: Object.status{template: [Object.spec.wrong{}]}}").expect("a value");
        let named = |is: &str, expected: &str| {
            format!(
                "unexpected type name {is:?}, expected {expected:?}, which matches field name path from root Object type"
            )
        };
        assert_eq!(
            wrong,
            [named("Object.status", "Object.spec"), named("Object.spec.wrong", "Object.spec.template")]
        );
    }

    #[test]
    fn what_cannot_be_made() {
        for (source, wanted) in [
            ("Thing{}", "undeclared reference to 'Thing' (in container '')"),
            ("Objects{}", "undeclared reference to 'Objects'"),
            ("JSONPatch{op: 1}", "expected type of field 'op' is 'string' but provided type is 'int'"),
            ("JSONPatch{what: 1}", "undefined field 'what'"),
            ("Object{?a: 1}", "expected type 'optional_type(int)' but found 'int'"),
            ("Object{a 1}", "Syntax error: mismatched input '1' expecting ':'"),
            ("Object{'a': 1}", "expecting IDENTIFIER"),
            ("object{}", "undeclared reference to 'object'"),
        ] {
            let error = evaluate(source).expect_err(source);
            assert!(error.contains(wanted), "{source}: {error}");
        }
        assert_eq!(evaluate("Object{a: {1: 2}}"), Err("map key Int(1) is not a string".to_owned()));
        // Elsewhere there is none of this.
        let plain = Environment::new().with_type("object", Type::Dyn);
        for source in ["Object{}", "JSONPatch{}", "jsonpatch.escapeKey('a')"] {
            let error = plain.compile(source).expect_err(source).to_string();
            assert!(error.contains("undeclared reference to"), "{source}: {error}");
        }
    }
}
