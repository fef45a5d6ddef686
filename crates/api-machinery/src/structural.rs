//! A value against its schema: unknown fields, defaults and types.
//!
//! Structure only. What values must be beyond their type (names, ranges, what goes with what) is in the rules of each
//! kind. Walkers recurse as deep as the value, which decoding and patching keep within
//! [`crate::decode::MAX_DEPTH`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use crate::decode::{Findings, is_closed, null_is_absence};
use crate::field::{Errors, Path};
use crate::quantity::Quantity;
use crate::schema::{Format, Kind, View};
use crate::status::ApiError;

/// What is done about unknown and duplicate fields: the `fieldValidation` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    /// Refused.
    Strict,
    /// Told in `Warning` headers; what a request that does not say gets.
    #[default]
    Warn,
    /// Dropped without a word.
    Ignore,
}

impl FieldValidation {
    /// Reads the query parameter; empty is the default.
    pub fn parse(text: &str) -> Option<FieldValidation> {
        match text {
            "" | "Warn" => Some(FieldValidation::Warn),
            "Strict" => Some(FieldValidation::Strict),
            "Ignore" => Some(FieldValidation::Ignore),
            _ => None,
        }
    }

    /// The warnings to send with the answer, or the refusal. `kind` and `version` are the object's.
    pub fn judge(self, findings: Vec<String>, kind: &str, version: &str) -> Result<Vec<String>, ApiError> {
        match self {
            FieldValidation::Strict if !findings.is_empty() => Err(strict_error(&findings, kind, version)),
            FieldValidation::Strict | FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Warn => Ok(findings),
        }
    }
}

/// 400, as upstream words what a strict decoder found in a body.
pub fn strict_error(findings: &[String], kind: &str, version: &str) -> ApiError {
    ApiError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: strict decoding error: {}",
        findings.join(", ")
    ))
}

/// Removes what the schema does not know and fields that are null, as decoding does; tells of the unknown.
pub fn prune(value: &mut Value, schema: View<'_>) -> Vec<String> {
    let mut findings = Findings::default();
    prune_at(value, schema, &Path::root(), &mut findings);
    findings.list
}

fn prune_at(value: &mut Value, schema: View<'_>, path: &Path<'_>, findings: &mut Findings) {
    match value {
        Value::Object(fields) => {
            let closed = is_closed(schema);
            fields.retain(|key, value| match schema.field(key) {
                Some(inner) if value.is_null() => !null_is_absence(inner),
                Some(inner) => {
                    prune_at(value, inner, &path.child(key), findings);
                    true
                }
                None => {
                    if closed {
                        findings.unknown(&path.child(key));
                    }
                    !closed
                }
            });
        }
        Value::Array(items) => {
            if let Some(inner) = schema.items() {
                for (index, item) in items.iter_mut().enumerate() {
                    prune_at(item, inner, &path.index(index), findings);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults, outermost first, so that a default object gets its own fields' defaults.
pub fn apply_defaults(value: &mut Value, schema: View<'_>) {
    match (value, schema.kind()) {
        (Value::Object(object), Kind::Object(fields)) => {
            for field in fields {
                let inner = schema.arena.view(field.node);
                match object.get_mut(&field.name) {
                    Some(value) => apply_defaults(value, inner),
                    None => {
                        if let Some(default) = inner.default() {
                            let mut default = default.clone();
                            apply_defaults(&mut default, inner);
                            object.insert(field.name.clone(), default);
                        }
                    }
                }
            }
        }
        (Value::Object(object), Kind::Map(values)) => {
            for value in object.values_mut() {
                apply_defaults(value, schema.arena.view(*values));
            }
        }
        (Value::Array(items), Kind::Array(inner)) => {
            for item in items {
                apply_defaults(item, schema.arena.view(*inner));
            }
        }
        _ => {}
    }
}

/// Which checks [`validate`] makes beyond types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Required fields must be there.
    pub required: bool,
    /// Enumerated values must be among those listed; the empty string counts as absent.
    pub enumerations: bool,
}

impl Checks {
    /// Types and enumerations. Upstream's built-in kinds check presence in their rules.
    pub const BUILT_IN: Checks = Checks { required: false, enumerations: true };
    /// Everything that a schema can say, as for custom resources.
    pub const ALL: Checks = Checks { required: true, enumerations: true };
}

/// Checks that values have the types of the schema; quantities, times and encoded bytes too.
pub fn validate(value: &Value, schema: View<'_>, checks: Checks, errors: &mut Errors) {
    Validator { checks, errors }.at(value, schema, &Path::root());
}

/// The same for one field of the object and what is in it.
pub fn validate_field(value: &Value, schema: View<'_>, field: &str, checks: Checks, errors: &mut Errors) {
    if let (Some(value), Some(schema)) = (value.get(field), schema.field(field)) {
        Validator { checks, errors }.at(value, schema, &Path::new(field));
    }
}

struct Validator<'a> {
    checks: Checks,
    errors: &'a mut Errors,
}

impl Validator<'_> {
    fn at(&mut self, value: &Value, schema: View<'_>, path: &Path<'_>) {
        if value.is_null() && schema.nullable() {
            return;
        }
        match (schema.kind(), value) {
            (Kind::Any, _) | (Kind::Boolean, Value::Bool(_)) => {}
            (Kind::Object(fields), Value::Object(object)) => {
                if self.checks.required {
                    for field in fields.iter().filter(|field| field.required) {
                        if !object.contains_key(&field.name) {
                            self.errors.required(&path.child(&field.name), "");
                        }
                    }
                }
                self.members(object, schema, |key| path.child(key));
            }
            (Kind::Map(_), Value::Object(object)) => self.members(object, schema, |key| path.child(key)),
            (Kind::Array(items), Value::Array(list)) => {
                for (index, item) in list.iter().enumerate() {
                    self.at(item, schema.arena.view(*items), &path.index(index));
                }
            }
            (Kind::String, Value::String(text)) => self.text(text, schema, path),
            (Kind::Integer | Kind::IntOrString, Value::Number(number)) => self.integer(number, schema, path),
            (Kind::Number, Value::Number(_)) | (Kind::IntOrString, Value::String(_)) => {}
            (Kind::Quantity, Value::String(text)) => self.quantity(text, path),
            (Kind::Quantity, Value::Number(number)) => self.quantity(&number.to_string(), path),
            (kind, _) => self.wrong_type(value, type_name(kind), path),
        }
        self.enumeration(value, schema, path);
    }

    fn members<'p>(
        &mut self,
        object: &'p Map<String, Value>,
        schema: View<'_>,
        path: impl Fn(&'p str) -> Path<'p>,
    ) {
        for (key, value) in object {
            if let Some(inner) = schema.field(key) {
                self.at(value, inner, &path(key));
            }
        }
    }

    fn wrong_type(&mut self, value: &Value, expected: &str, path: &Path<'_>) {
        let actual = match value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let detail = format!("{path} in body must be of type {expected}: {actual:?}");
        self.errors.type_invalid(path, actual, detail);
    }

    fn wrong_format(&mut self, shown: Value, expected: &str, path: &Path<'_>) {
        let detail = format!("{path} in body must be of type {expected}: {shown}");
        self.errors.type_invalid(path, shown, detail);
    }

    fn text(&mut self, text: &str, schema: View<'_>, path: &Path<'_>) {
        let (fine, expected) = match schema.format() {
            Format::Byte => (STANDARD.decode(text).is_ok(), "byte"),
            Format::DateTime | Format::MicroTime => (crate::clock::parse(text).is_some(), "date-time"),
            _ => return,
        };
        if !fine {
            self.wrong_format(text.into(), expected, path);
        }
    }

    fn integer(&mut self, number: &serde_json::Number, schema: View<'_>, path: &Path<'_>) {
        let whole = number.as_i64();
        let int32 = *schema.kind() == Kind::IntOrString || schema.format() == Format::Int32;
        match whole {
            _ if number.is_f64() => self.wrong_type(&Value::Number(number.clone()), "integer", path),
            Some(whole) if int32 && i32::try_from(whole).is_err() => {
                self.wrong_format(whole.into(), "int32", path);
            }
            Some(_) => {}
            None => self.wrong_format(Value::Number(number.clone()), "int64", path),
        }
    }

    fn quantity(&mut self, text: &str, path: &Path<'_>) {
        if let Err(error) = Quantity::parse(text) {
            self.errors.invalid(path, text, error.to_string());
        }
    }

    fn enumeration(&mut self, value: &Value, schema: View<'_>, path: &Path<'_>) {
        let allowed = schema.enumeration();
        let unset = value.as_str() == Some("");
        if !self.checks.enumerations || allowed.is_empty() || unset || allowed.contains(value) {
            return;
        }
        // A value of the wrong type has its error already.
        if value.is_string() {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            self.errors.not_supported(path, value.clone(), &names);
        }
    }
}

fn type_name(kind: &Kind) -> &'static str {
    match kind {
        Kind::Object(_) | Kind::Map(_) => "object",
        Kind::Array(_) => "array",
        Kind::String => "string",
        Kind::Integer => "integer",
        Kind::Number => "number",
        Kind::Boolean => "boolean",
        Kind::IntOrString => "integer,string",
        Kind::Quantity => "string",
        Kind::Any | Kind::Ref(_) => "any",
    }
}

#[cfg(test)]
mod properties;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Arena, Field, Node, NodeId, SchemaRef};
    use serde_json::json;

    fn schema() -> SchemaRef {
        let mut arena = Arena::new();
        let field =
            |name: &str, node: NodeId| Field { name: name.to_owned(), node, required: name == "name" };
        let string = arena.add(Node::of(Kind::String));
        let int32 = arena.add(Node { format: Format::Int32, ..Node::of(Kind::Integer) });
        let mut one = Node { format: Format::Int32, ..Node::of(Kind::Integer) };
        one.extra_mut().default = Some(json!(1));
        let one = arena.add(one);
        let mut policy = Node::of(Kind::String);
        policy.extra_mut().default = Some(json!("Always"));
        policy.extra_mut().enumeration = vec![json!("Always"), json!("Never")];
        let policy = arena.add(policy);
        let port = arena.add(Node::of(Kind::IntOrString));
        let quantity = arena.add(Node::of(Kind::Quantity));
        let limits = arena.add(Node::of(Kind::Map(quantity)));
        let bytes = arena.add(Node { format: Format::Byte, ..Node::of(Kind::String) });
        let time = arena.add(Node { format: Format::DateTime, ..Node::of(Kind::String) });
        let item = arena.add(Node::of(Kind::Object(vec![
            field("name", string),
            field("port", port),
            field("policy", policy),
            field("limits", limits),
        ])));
        let mut strategy = Node::of(Kind::Ref(item));
        strategy.extra_mut().default = Some(json!({}));
        let strategy = arena.add(strategy);
        let items = arena.add(Node::of(Kind::Array(item)));
        let spec = arena.add(Node::of(Kind::Object(vec![
            field("count", int32),
            field("one", one),
            field("items", items),
            field("strategy", strategy),
            field("data", bytes),
            field("at", time),
        ])));
        let root = arena.add(Node::of(Kind::Object(vec![field("spec", spec)])));
        SchemaRef { arena: arena.into(), root }
    }

    fn errors(value: &Value, checks: Checks) -> Vec<String> {
        let mut errors = Errors::new();
        validate(value, schema().view(), checks, &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn defaults_fill_what_is_absent() {
        let mut value = json!({"spec": {"items": [{"policy": "Never"}, {}]}});
        apply_defaults(&mut value, schema().view());
        let expected = json!({"spec": {
            "one": 1, "strategy": {"policy": "Always"},
            "items": [{"policy": "Never"}, {"policy": "Always"}],
        }});
        assert_eq!(value, expected);
        let again = value.clone();
        apply_defaults(&mut value, schema().view());
        assert_eq!(value, again);
    }

    #[test]
    fn pruning_tells_what_it_removes() {
        let mut value =
            json!({"spec": {"count": 1, "at": null, "x": null, "items": [{"name": "a", "y": 1}]}});
        let findings = prune(&mut value, schema().view());
        assert_eq!(findings, ["unknown field \"spec.items[0].y\"", "unknown field \"spec.x\""]);
        assert_eq!(value, json!({"spec": {"count": 1, "items": [{"name": "a"}]}}));
        assert_eq!(prune(&mut value, schema().view()), Vec::<String>::new());
    }

    #[test]
    fn types() {
        let fine = json!({"spec": {
            "count": -5, "data": "YWI=", "at": "2026-01-01T00:00:00Z",
            "items": [{"name": "a", "port": "http", "limits": {"cpu": 1, "memory": "1Gi"}}, {"port": 80}],
        }});
        assert_eq!(errors(&fine, Checks::BUILT_IN), Vec::<String>::new());
        let wrong = json!({"spec": {
            "count": "three", "one": 4294967296i64, "data": "*", "at": "noon", "strategy": [],
            "items": [{"name": 1, "port": 1.5, "policy": "Sometimes", "limits": {"cpu": "1 Gi", "memory": true}}],
        }});
        assert_eq!(
            errors(&wrong, Checks::BUILT_IN),
            [
                "spec.at: Invalid value: \"noon\": spec.at in body must be of type date-time: \"noon\"",
                "spec.count: Invalid value: \"string\": spec.count in body must be of type integer: \"string\"",
                "spec.data: Invalid value: \"*\": spec.data in body must be of type byte: \"*\"",
                "spec.items[0].limits.cpu: Invalid value: \"1 Gi\": quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                "spec.items[0].limits.memory: Invalid value: \"boolean\": spec.items[0].limits.memory in body must \
                 be of type string: \"boolean\"",
                "spec.items[0].name: Invalid value: \"integer\": spec.items[0].name in body must be of type string: \
                 \"integer\"",
                "spec.items[0].policy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"Never\"",
                "spec.items[0].port: Invalid value: \"number\": spec.items[0].port in body must be of type integer: \
                 \"number\"",
                "spec.one: Invalid value: 4294967296: spec.one in body must be of type int32: 4294967296",
                "spec.strategy: Invalid value: \"array\": spec.strategy in body must be of type object: \"array\"",
            ]
        );
    }

    #[test]
    fn one_field_and_no_other() {
        let (value, mut errors) = (json!({"spec": {"count": "x"}, "other": 1}), Errors::new());
        validate_field(&value, schema().view(), "spec", Checks::BUILT_IN, &mut errors);
        validate_field(&value, schema().view(), "absent", Checks::BUILT_IN, &mut errors);
        let paths: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(paths, ["spec.count"]);
    }

    #[test]
    fn required_only_when_asked_for() {
        let value = json!({"spec": {"items": [{}]}});
        assert_eq!(errors(&value, Checks::BUILT_IN), Vec::<String>::new());
        assert_eq!(errors(&value, Checks::ALL), ["spec.items[0].name: Required value"]);
    }

    #[test]
    fn what_is_done_about_findings() {
        let findings = vec!["unknown field \"a\"".to_owned(), "duplicate field \"b\"".to_owned()];
        let refused = FieldValidation::Strict.judge(findings.clone(), "Pod", "v1").expect_err("is strict");
        assert_eq!(
            (refused.code(), refused.message()),
            (
                400,
                "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: \
                 unknown field \"a\", duplicate field \"b\""
            )
        );
        assert_eq!(FieldValidation::Warn.judge(findings.clone(), "Pod", "v1"), Ok(findings.clone()));
        assert_eq!(FieldValidation::Ignore.judge(findings, "Pod", "v1"), Ok(Vec::new()));
        assert_eq!(FieldValidation::parse("strict"), None);
    }
}
