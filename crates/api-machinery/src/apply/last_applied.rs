//! Moving from `kubectl apply` on the client's side: the annotation in which it remembers what it applied.
//!
//! Only the manager `kubectl` has it; whoever wants none of this uses another name.

use serde_json::Value;

use super::set::FieldSet;
use super::typed::{difference, stated};
use super::{Write, check};
use crate::meta;

const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
const KUBECTL: &str = "kubectl";

/// What kubectl applied last on the client's side, if `kubectl` is who applies now.
pub(super) fn of_live(live: Option<&Value>, write: &Write<'_>) -> Option<Value> {
    if write.manager != KUBECTL {
        return None;
    }
    let applied: Value = serde_json::from_str(meta::annotation(live?, ANNOTATION)?).ok()?;
    let fits =
        meta::api_version(&applied) == write.api_version && check::check(&applied, write.schema).is_none();
    fits.then_some(applied)
}

/// What of it the live object still holds as it was applied: that is kubectl's to take over.
pub(super) fn still_true<'a>(applied: &'a Value, live: Option<&Value>, write: &Write<'a>) -> FieldSet<'a> {
    let mut fields = stated(applied, Some(write.schema));
    let found = difference(Some(applied), live, write.schema);
    for gone in [&found.modified, &found.added, &found.removed] {
        fields.subtract(gone);
    }
    fields
}

/// Brings the annotation up to date where there is one, so that going back to the client's side works.
pub(super) fn keep_up(object: &mut Value, applied: &Value, write: &Write<'_>) {
    if write.manager != KUBECTL || meta::annotation(object, ANNOTATION).is_none_or(str::is_empty) {
        return;
    }
    let mut applied = applied.clone();
    if let Some(annotations) = applied.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(ANNOTATION);
    }
    let text = format!("{applied}\n");
    let rest: usize = meta::annotations(object)
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != ANNOTATION)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if rest + ANNOTATION.len() + text.len() <= meta::ANNOTATIONS_MAX_BYTES {
        meta::set_annotation(object, ANNOTATION, &text);
    } else if let Some(annotations) =
        object.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
}
