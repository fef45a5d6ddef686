//! The v2 document in protobuf: gnostic's `openapi.v2.Document`, encoded from its published field numbers.
//!
//! Only what our own v2 JSON holds has a place here; the tests read a document back.

use serde_json::{Map, Value};

/// A message that is being written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value as u8) | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(field, text.as_bytes());
        }
    }

    fn flag(&mut self, field: u32, flag: bool) {
        if flag {
            self.varint(u64::from(field) << 3);
            self.varint(1);
        }
    }

    fn message(&mut self, field: u32, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.bytes(field, &inner.0);
    }

    /// `NamedSomething`: a name and a value.
    fn named(&mut self, field: u32, name: &str, write: impl FnOnce(&mut Message)) {
        self.message(field, |named| {
            named.text(1, name);
            named.message(2, write);
        });
    }

    /// `Any`, whose text is YAML, and so may be JSON.
    fn any(&mut self, field: u32, value: &Value) {
        self.message(field, |any| any.text(2, &value.to_string()));
    }

    fn extensions(&mut self, field: u32, fields: &Map<String, Value>) {
        for (name, value) in fields.iter().filter(|(name, _)| name.starts_with("x-")) {
            self.message(field, |named| {
                named.text(1, name);
                named.any(2, value);
            });
        }
    }

    fn texts(&mut self, field: u32, list: Option<&Value>) {
        for text in list.and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
            self.bytes(field, text.as_bytes());
        }
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or("")
}

fn is_true(value: &Value, field: &str) -> bool {
    value.get(field) == Some(&Value::Bool(true))
}

/// The whole document, path by path and definition by definition.
pub(super) struct Document {
    version: String,
    paths: Message,
    definitions: Message,
}

impl Document {
    pub(super) fn new(version: &str) -> Document {
        Document { version: version.to_owned(), paths: Message::default(), definitions: Message::default() }
    }

    pub(super) fn path(&mut self, path: &str, item: &Value) {
        self.paths.named(2, path, |out| path_item(out, item));
    }

    pub(super) fn definition(&mut self, name: &str, schema: &Value) {
        self.definitions.named(1, name, |out| write_schema(out, schema));
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let mut out = Message::default();
        out.text(1, "2.0");
        out.message(2, |info| {
            info.text(1, super::TITLE);
            info.text(2, &self.version);
        });
        out.bytes(8, &self.paths.0);
        out.bytes(9, &self.definitions.0);
        out.message(12, |requirement| requirement.named(1, "BearerToken", |_| {}));
        out.message(13, |definitions| {
            definitions.named(1, "BearerToken", |item| {
                item.message(2, |key| {
                    key.text(1, "apiKey");
                    key.text(2, "authorization");
                    key.text(3, "header");
                    key.text(4, "Bearer Token authentication");
                });
            });
        });
        out.0
    }
}

fn path_item(out: &mut Message, item: &Value) {
    let methods =
        [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("options", 6), ("head", 7), ("patch", 8)];
    for (method, field) in methods {
        if let Some(operation) = item.get(method) {
            out.message(field, |out| write_operation(out, operation));
        }
    }
    parameters(out, 9, item);
}

fn parameters(out: &mut Message, field: u32, owner: &Value) {
    for parameter in owner.get("parameters").and_then(Value::as_array).into_iter().flatten() {
        out.message(field, |item| item.message(1, |out| write_parameter(out, parameter)));
    }
}

fn write_operation(out: &mut Message, operation: &Value) {
    out.texts(1, operation.get("tags"));
    out.text(3, text(operation, "description"));
    out.text(5, text(operation, "operationId"));
    out.texts(6, operation.get("produces"));
    out.texts(7, operation.get("consumes"));
    parameters(out, 8, operation);
    out.message(9, |responses| {
        for (code, response) in operation.get("responses").and_then(Value::as_object).into_iter().flatten() {
            responses.named(1, code, |value| {
                value.message(1, |out| {
                    out.text(1, text(response, "description"));
                    if let Some(schema) = response.get("schema") {
                        out.message(2, |item| item.message(1, |out| write_schema(out, schema)));
                    }
                });
            });
        }
    });
    out.texts(10, operation.get("schemes"));
    if let Some(fields) = operation.as_object() {
        out.extensions(13, fields);
    }
}

fn write_parameter(out: &mut Message, parameter: &Value) {
    match text(parameter, "in") {
        "body" => out.message(1, |out| {
            out.text(2, text(parameter, "name"));
            out.text(3, "body");
            out.flag(4, is_true(parameter, "required"));
            if let Some(schema) = parameter.get("schema") {
                out.message(5, |out| write_schema(out, schema));
            }
        }),
        place => out.message(2, |out| {
            // Query and path parameters differ in the numbers of what follows the name.
            let (choice, kind, unique) = if place == "path" { (4, 5, 19) } else { (3, 6, 20) };
            out.message(choice, |out| {
                out.flag(1, is_true(parameter, "required"));
                out.text(2, place);
                out.text(3, text(parameter, "description"));
                out.text(4, text(parameter, "name"));
                out.text(kind, text(parameter, "type"));
                out.flag(unique, is_true(parameter, "uniqueItems"));
            });
        }),
    }
}

fn write_schema(out: &mut Message, schema: &Value) {
    let Some(fields) = schema.as_object() else { return };
    out.text(1, text(schema, "$ref"));
    out.text(2, text(schema, "format"));
    out.text(4, text(schema, "description"));
    if let Some(default) = fields.get("default") {
        out.any(5, default);
    }
    out.texts(19, fields.get("required"));
    for value in fields.get("enum").and_then(Value::as_array).into_iter().flatten() {
        out.any(20, value);
    }
    if let Some(values) = fields.get("additionalProperties") {
        out.message(21, |item| item.message(1, |out| write_schema(out, values)));
    }
    if let Some(kind) = fields.get("type").and_then(Value::as_str) {
        out.message(22, |out| out.text(1, kind));
    }
    if let Some(items) = fields.get("items") {
        out.message(23, |item| item.message(1, |out| write_schema(out, items)));
    }
    if let Some(properties) = fields.get("properties").and_then(Value::as_object) {
        out.message(25, |out| {
            for (name, property) in properties {
                out.named(1, name, |out| write_schema(out, property));
            }
        });
    }
    out.extensions(31, fields);
}
