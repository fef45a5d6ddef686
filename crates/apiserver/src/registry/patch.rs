//! PATCH: JSON patch, merge patch and strategic merge patch of an object or of a subresource's view of it.
//!
//! Server-side apply has a module of its own.

use api_machinery::meta;
use api_machinery::schema::SchemaRef;
use api_machinery::status::ApiError;
use api_machinery::structural::FieldValidation;
use serde_json::Value;

use super::apply;
use super::lens::Lens;
use super::owner::Owner;
use super::update::{Change, Wanted, answer};
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

/// A patch that was read.
enum Patch {
    Json(api_machinery::patch::json::Patch),
    Merge(Value),
    Strategic(Value),
}

/// PATCH.
pub async fn patch(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    if body.media == apply::MEDIA {
        return apply::apply(server, call, body).await;
    }
    let options = WriteOptions::parse_patch(&call.query, false)?;
    let lens = Lens::of(&call.stored, &call.info.subresource)?;
    let mut warnings = Vec::new();
    let patch = Patch::read(call, body, options.field_validation, &mut warnings)?;
    let owner = Owner::of(server, call, &lens, &options.manager);
    let change = Change {
        call,
        lens: &lens,
        dry_run: options.dry_run,
        options: options.to_value("PatchOptions"),
        admit: true,
        owner: Some(&owner),
    };
    let unknown = std::sync::Mutex::new(Vec::new());
    let patched = |old: &Value| {
        let mut found = Vec::new();
        let view = patched(call, &lens, &patch, lens.view(old), options.field_validation, &mut found)?;
        *unknown.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
        lens.put(view, old).map(Wanted::from)
    };
    let changed = change.run(server, &mut warnings, &patched).await?;
    warnings.extend(unknown.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
    answer(server, call, &lens, changed.into_object()).await.map(|answer| answer.with_warnings(warnings))
}

impl Patch {
    fn read(
        call: &ResourceCall,
        body: &Body,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> Result<Patch, ApiError> {
        match body.media.as_str() {
            JSON => Ok(Patch::Json(api_machinery::patch::json::Patch::parse(&body.bytes)?)),
            MERGE => Ok(Patch::Merge(decode::patch_object(call, body, validation, warnings)?)),
            // How lists of custom resources merge, strategies do not say.
            STRATEGIC if call.resource.defined.is_some() => {
                Err(ApiError::unsupported_media_type(&[JSON, MERGE, apply::MEDIA]))
            }
            STRATEGIC => Ok(Patch::Strategic(decode::patch_object(call, body, validation, warnings)?)),
            _ => Err(ApiError::unsupported_media_type(&[JSON, MERGE, STRATEGIC, apply::MEDIA])),
        }
    }

    fn apply(&self, current: &Value, schema: &SchemaRef) -> Result<Value, ApiError> {
        match self {
            Patch::Json(patch) => patch.apply(current),
            Patch::Merge(patch) => Ok(api_machinery::patch::merge::apply(current, patch)),
            Patch::Strategic(patch) => api_machinery::patch::strategic::apply(current, patch, schema.view()),
        }
    }
}

/// The client's view of an object after a patch, in the version that the client speaks.
fn patched(
    call: &ResourceCall,
    lens: &Lens,
    patch: &Patch,
    view: Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    if let Lens::Scale(_) = lens {
        return patch.apply(&view, &SchemaRef::any());
    }
    let shown = call.to_view(view);
    let patched = patch.apply(&shown, &call.resource.schema)?;
    if meta::kind(&patched) != meta::kind(&shown) || meta::api_version(&patched) != meta::api_version(&shown)
    {
        return Err(ApiError::bad_request("a patch may not change apiVersion or kind"));
    }
    let checked = decode::structured(&call.resource, patched, validation, warnings)?;
    Ok(call.to_stored(checked))
}
