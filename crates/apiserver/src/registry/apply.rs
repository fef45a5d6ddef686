//! Server-side apply: PATCH with the fields that a manager wants, of an object that exists or is to be made.
//!
//! Merging and ownership are `api_machinery::apply`'s; from there on the object goes the way of every other create or change.

use std::borrow::Cow;

use api_machinery::apply::fits;
use api_machinery::decode as format;
use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::status::{ApiError, Reason};
use api_machinery::structural::FieldValidation;
use serde_json::Value;

use super::current;
use super::lens::Lens;
use super::owner::Owner;
use super::update::{self, Change, Wanted};
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;

/// The media type of an applied object. JSON is YAML.
pub const MEDIA: &str = "application/apply-patch+yaml";

/// Rounds of an apply to an object that comes and goes.
const ATTEMPTS: usize = 16;

/// Applies the body to the object that the path names.
pub async fn apply(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse_patch(&call.query, true)?;
    let lens = Lens::of(&call.stored, &call.info.subresource)?;
    let mut warnings = Vec::new();
    let applied = read(call, &lens, body, options.field_validation, &mut warnings)?;
    let owner = Owner::of(server, call, &lens, &options.manager);
    let told = warnings.len();
    for _ in 0..ATTEMPTS {
        warnings.truncate(told);
        let changed = to_existing(server, call, &lens, &owner, &applied, &options, &mut warnings).await;
        match changed {
            Err(error)
                if error.code() == 404 && lens == Lens::Main && current(server, call).await?.is_none() => {}
            changed => return Ok(changed?.with_warnings(warnings)),
        }
        match to_new(server, call, &owner, &applied, &options, &mut warnings).await {
            // Somebody made it meanwhile.
            Err(error) if error.reason() == Reason::AlreadyExists => {}
            made => return Ok(made?.with_warnings(warnings)),
        }
    }
    let (group, plural) = call.names();
    Err(ApiError::stale(group, plural, &call.info.name))
}

async fn to_existing(
    server: &ApiServer,
    call: &ResourceCall,
    lens: &Lens,
    owner: &Owner<'_>,
    applied: &Value,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Answer, ApiError> {
    let change = Change {
        call,
        lens,
        dry_run: options.dry_run,
        options: options.to_value("PatchOptions"),
        admit: true,
        owner: Some(owner),
    };
    let wanted = |old: &Value| wanted(call, owner, Some(old), applied, options.forced());
    let changed = change.run(server, warnings, &wanted).await?;
    update::answer(server, call, lens, changed.into_object()).await
}

async fn to_new(
    server: &ApiServer,
    call: &ResourceCall,
    owner: &Owner<'_>,
    applied: &Value,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Answer, ApiError> {
    let wanted = wanted(call, owner, None, applied, options.forced())?;
    update::create_instead(server, call, wanted, options, warnings).await
}

/// The object with what is applied to it, and its owners.
fn wanted(
    call: &ResourceCall,
    owner: &Owner<'_>,
    live: Option<&Value>,
    applied: &Value,
    force: bool,
) -> Result<Wanted, ApiError> {
    let done = owner.apply(live, applied, force)?;
    let object = decode::structured(&call.stored, done.object, FieldValidation::Ignore, &mut Vec::new())?;
    Ok(Wanted { object, owners: Some(done.tracked) })
}

/// Reads the applied object, in the form in which it would be stored.
fn read(
    call: &ResourceCall,
    lens: &Lens,
    body: &Body,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let decoded = match format::yaml(&body.bytes, None) {
        Err(format::DecodeError::Malformed(why)) => {
            return Err(ApiError::bad_request(format!("error decoding YAML: {why}")));
        }
        other => other?,
    };
    let resource = &*call.resource;
    warnings.extend(validation.judge(decoded.findings, &resource.kind, &resource.version)?);
    let mut applied = decoded.value;
    decode::must_be_object(&applied)?;
    check_names(call, lens, &applied)?;
    meta::set_name(&mut applied, &call.info.name);
    if let Lens::Scale(_) = lens {
        return Ok(lens.applied(&applied, &call.stored));
    }
    if resource.view_of.is_some() {
        fits(&applied, resource.schema.view(), &resource.api_version())?;
    }
    Ok(call.to_stored(applied))
}

/// The applied object must say that it is what the path is about.
fn check_names(call: &ResourceCall, lens: &Lens, applied: &Value) -> Result<(), ApiError> {
    let (version, kind) = expected(lens, &call.resource);
    let (sent, sent_kind) = (meta::api_version(applied), meta::kind(applied));
    if sent != version {
        return Err(ApiError::bad_request(format!(
            "Incorrect version specified in apply patch. Specified patch version: {sent}, expected: {version}"
        )));
    }
    if sent_kind != kind {
        return Err(ApiError::bad_request(format!(
            "failed to create typed patch object: no corresponding type for {sent}, Kind={sent_kind}: {kind} is expected"
        )));
    }
    let (name, asked) = (meta::name(applied), &call.info.name);
    if !name.is_empty() && name != asked {
        return Err(update::other_name(name, asked));
    }
    Ok(())
}

fn expected<'a>(lens: &Lens, resource: &'a Resource) -> (String, Cow<'a, str>) {
    match lens {
        Lens::Scale(_) => ("autoscaling/v1".to_owned(), "Scale".into()),
        _ => (resource.api_version(), Cow::Borrowed(&*resource.kind)),
    }
}
