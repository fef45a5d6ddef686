//! The validation stage: metadata for every kind, then the kind's own rules.
//!
//! Types were checked when the object was decoded.

use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::Value;

use super::route::ResourceCall;
use crate::registry::Lens;

/// Checks an object that is about to be created.
pub fn created(call: &ResourceCall, object: &Value) -> Result<(), ApiError> {
    let resource = &*call.stored;
    let mut errors = Errors::new();
    meta::validate_meta(object, resource.namespaced(), resource.rules.name, &mut errors);
    (resource.rules.validate)(object, &mut errors);
    (resource.rules.validate_create)(object, &mut errors);
    // What a version says of its objects holds for those who speak it.
    if let Some(defined) = &call.resource.defined {
        defined.validate(object, None, &mut errors);
    }
    verdict(call, object, errors)
}

/// Checks a change.
pub fn updated(call: &ResourceCall, lens: &Lens, new: &Value, old: &Value) -> Result<(), ApiError> {
    let rules = &call.stored.rules;
    let mut errors = Errors::new();
    meta::validate_meta_update(new, old, &mut errors);
    match lens {
        Lens::Main | Lens::Scale(_) => {
            (rules.validate)(new, &mut errors);
            (rules.validate_update)(new, old, &mut errors);
        }
        Lens::Status => (rules.validate_status_update)(new, old, &mut errors),
        Lens::Part(name) => {
            if let Some(part) = call.stored.part(name) {
                (part.validate)(new, old, &mut errors);
            }
        }
        Lens::Bind | Lens::Finalize => {}
    }
    if let Some(defined) = &call.resource.defined {
        defined.validate(new, Some(old), &mut errors);
    }
    verdict(call, new, errors)
}

fn verdict(call: &ResourceCall, object: &Value, errors: Errors) -> Result<(), ApiError> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&call.resource.group, &call.resource.kind, meta::name(object), errors))
}
