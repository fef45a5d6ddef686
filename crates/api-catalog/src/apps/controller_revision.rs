//! ControllerRevisions: what a controller's template was, kept unchanged.

use api_machinery::field::Errors;
use api_machinery::resource::{Cell, Column};
use serde_json::Value;

use crate::at::At;
use crate::check;
use crate::entry::{columns, computed};
use crate::fill::text;
use crate::print::NONE;

pub(crate) fn table() -> Vec<Column> {
    columns(&[
        ("Controller", "string", 0, computed(|r, _| controller(r))),
        ("Revision", "string", 0, Cell::Path(".revision".into())),
        ("Age", "string", 0, Cell::Age),
    ])
}

fn controller(revision: &Value) -> Value {
    let Some(owner) = api_machinery::meta::controller(revision) else { return Value::from(NONE) };
    let kind = text(owner, "kind").to_lowercase();
    // The kind with its group, as kubectl names it: `statefulset.apps/web`.
    match text(owner, "apiVersion").split_once('/') {
        Some((group, _)) => Value::from(format!("{kind}.{group}/{}", text(owner, "name"))),
        None => Value::from(format!("{kind}/{}", text(owner, "name"))),
    }
}

pub(crate) fn validate(revision: &Value, e: &mut Errors) {
    let root = At::root(revision);
    let data = root.get("data");
    if !data.is_set() {
        data.required(e, "data is mandatory");
    }
    check::not_negative(&root.get("revision"), e);
}

pub(crate) fn validate_update(new: &Value, old: &Value, e: &mut Errors) {
    let (new, old) = (At::root(new), At::root(old));
    check::immutable(&new.get("data"), &old.get("data"), e);
}
