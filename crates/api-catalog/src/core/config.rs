//! ConfigMaps, Secrets and ServiceAccounts.

use api_machinery::field::Errors;
use api_machinery::names;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::at::At;
use crate::check::{immutable, same};
use crate::fill::{Fill, fill, get, remove, set, text};
use crate::print;

/// What all data of one object may hold.
const MAX_BYTES: usize = 1024 * 1024;

pub(crate) fn config_map_size(object: &Value, _: Timestamp) -> Value {
    Value::from(print::entries([&object["data"], &object["binaryData"]]))
}

pub(crate) fn secret_size(object: &Value, _: Timestamp) -> Value {
    Value::from(print::entries([&object["data"]]))
}

pub(crate) fn service_account_secrets(object: &Value, _: Timestamp) -> Value {
    Value::from(object["secrets"].as_array().map_or(0, Vec::len))
}

pub(crate) fn validate_config_map(object: &Value, e: &mut Errors) {
    let root = At::root(object);
    let (data, binary) = (root.get("data"), root.get("binaryData"));
    let mut total = 0;
    for (name, value) in data.entries() {
        value_key(&value, name, e);
        if binary.key(name).is_set() {
            value.invalid_as(e, name, "duplicate of key present in binaryData");
        }
        total += value.text().len();
    }
    for (name, value) in binary.entries() {
        value_key(&value, name, e);
        if data.key(name).is_set() {
            value.invalid_as(e, name, "duplicate of key present in data");
        }
        total += decoded_len(value.text());
    }
    if total > MAX_BYTES {
        At::root(object).too_long(e, MAX_BYTES);
    }
}

fn value_key(at: &At, name: &str, e: &mut Errors) {
    for message in names::is_config_map_key(name) {
        at.invalid_as(e, name, message);
    }
}

/// How many bytes base64 text stands for.
fn decoded_len(text: &str) -> usize {
    let padding = text.bytes().rev().take_while(|b| *b == b'=').count();
    (text.len() / 4 * 3).saturating_sub(padding)
}

pub(crate) fn validate_config_map_update(new: &Value, old: &Value, e: &mut Errors) {
    frozen(new, old, &["data", "binaryData"], e);
}

/// What was marked immutable stays as it is, the mark too.
fn frozen(new: &Value, old: &Value, fields: &[&str], e: &mut Errors) {
    if get(old, "immutable") != Some(&Value::Bool(true)) {
        return;
    }
    let new = At::root(new);
    if !new.get("immutable").flag() {
        new.get("immutable").forbidden(e, "field is immutable when `immutable` is set");
    }
    for field in fields {
        if !same(new.get(field).value(), get(old, field)) {
            new.get(field).forbidden(e, "field is immutable when `immutable` is set");
        }
    }
}

/// `stringData` is for writing only: it ends up in `data`.
pub(crate) fn secret_defaults(object: &mut Value) {
    fill(object, &[("type", Fill::Text("Opaque"))]);
    let Some(Value::Object(plain)) = remove(object, "stringData") else { return };
    if plain.is_empty() {
        return;
    }
    if get(object, "data").is_none() {
        set(object, "data", Map::new());
    }
    let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) else { return };
    for (key, value) in plain {
        let bytes = value.as_str().unwrap_or("").as_bytes();
        data.insert(key, Value::from(base64(bytes)));
    }
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// Fields of `data` that a type of secret must have: one of each inner list.
const NEEDED: [(&str, &[&[&str]]); 5] = [
    ("kubernetes.io/dockercfg", &[&[".dockercfg"]]),
    ("kubernetes.io/dockerconfigjson", &[&[".dockerconfigjson"]]),
    ("kubernetes.io/basic-auth", &[&["username", "password"]]),
    ("kubernetes.io/ssh-auth", &[&["ssh-privatekey"]]),
    ("kubernetes.io/tls", &[&["tls.crt"], &["tls.key"]]),
];

const SERVICE_ACCOUNT: &str = "kubernetes.io/service-account.name";

pub(crate) fn validate_secret(object: &Value, e: &mut Errors) {
    let root = At::root(object);
    let data = root.get("data");
    let mut total = 0;
    for (name, value) in data.entries() {
        value_key(&value, name, e);
        total += decoded_len(value.text());
    }
    if total > MAX_BYTES {
        data.too_long(e, MAX_BYTES);
    }
    let kind = root.get("type");
    if kind.text() == "kubernetes.io/service-account-token" {
        let metadata = root.get("metadata");
        let annotations = metadata.get("annotations");
        annotations.key(SERVICE_ACCOUNT).must_be_set(e);
    }
    let needed = NEEDED.iter().find(|(name, _)| *name == kind.text());
    for alternatives in needed.map(|(_, all)| *all).unwrap_or(&[]) {
        if alternatives.iter().all(|key| !data.key(key).is_set()) {
            for key in *alternatives {
                data.key(key).required(e, "");
            }
        }
    }
    if matches!(kind.text(), "kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson") {
        docker_config(&data, needed.map(|(_, all)| all[0][0]).unwrap_or(""), e);
    }
}

fn docker_config(data: &At, key: &str, e: &mut Errors) {
    use base64::Engine as _;
    let at = data.key(key);
    if !at.is_set() {
        return;
    }
    let bytes = base64::engine::general_purpose::STANDARD.decode(at.text()).unwrap_or_default();
    // The content is secret and is never shown.
    if let Err(problem) = serde_json::from_slice::<Map<String, Value>>(&bytes) {
        let detail = if problem.is_eof() { "unexpected end of JSON input" } else { "invalid JSON" };
        at.invalid_as(e, "<secret contents redacted>", detail);
    }
}

pub(crate) fn validate_secret_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new_at, old_at) = (At::root(new), At::root(old));
    immutable(&new_at.get("type"), &old_at.get("type"), e);
    frozen(new, old, &["data"], e);
}

/// An update without a type keeps the type.
pub(crate) fn prepare_secret_update(new: &mut Value, old: &Value) {
    if text(new, "type").is_empty() {
        set(new, "type", text(old, "type"));
    }
}
