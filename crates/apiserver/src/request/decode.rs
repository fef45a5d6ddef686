//! The decoding stage: a bounded body becomes a value under the resource's schema.
//!
//! Unknown and duplicate fields and wrong types are found here, before any rule of a kind sees the object.

use api_machinery::decode::{self, Decoded, Format};
use api_machinery::field::Errors;
use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use api_machinery::structural::{self, Checks, FieldValidation};
use api_machinery::{meta, resource};
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderMap, HeaderName};
use http_body_util::BodyExt;
use serde_json::Value;

use super::route::ResourceCall;
use crate::protobuf;
use crate::types::RequestBody;

/// Warnings that are sent at most.
pub const MAX_WARNINGS: usize = 50;

/// A body that was read whole.
#[derive(Clone, Debug)]
pub struct Body {
    /// The bytes.
    pub bytes: Bytes,
    /// The media type in lower case without parameters, or empty.
    pub media: String,
}

/// Reads a body up to a limit.
pub async fn read(headers: &HeaderMap, mut body: RequestBody, limit: usize) -> Result<Body, ApiError> {
    let announced = header(headers, &CONTENT_LENGTH).parse::<usize>().unwrap_or(0);
    if announced > limit {
        return Err(ApiError::body_too_large(limit));
    }
    let media = header(headers, &CONTENT_TYPE).split(';').next().unwrap_or_default();
    let media = media.trim().to_ascii_lowercase();
    let mut bytes = BytesMut::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > limit {
            return Err(ApiError::body_too_large(limit));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(Body { bytes: bytes.freeze(), media })
}

fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> &'a str {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn format(body: &Body) -> Result<Format, ApiError> {
    api_machinery::negotiate::content_type(Some(&body.media))
}

/// An object of the call's resource, in the form in which it is stored.
pub fn object(
    call: &ResourceCall,
    body: &Body,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let resource = &*call.resource;
    let decoded = match body.media.as_str() {
        protobuf::MEDIA => Decoded { value: protobuf::object(&body.bytes, resource)?, findings: Vec::new() },
        _ => decode::decode(format(body)?, &body.bytes, Some(resource.schema.view()))?,
    };
    let mut value = decoded.value;
    must_be_object(&value)?;
    check_kind(resource, &mut value)?;
    warnings.extend(validation.judge(decoded.findings, &resource.kind, &resource.version)?);
    types(resource, &value)?;
    meta::drop_empty(&mut value);
    meta::whole_seconds(&mut value);
    Ok(call.to_stored(value))
}

/// A patched object: pruned and checked as a decoded one is.
pub fn structured(
    resource: &Resource,
    mut value: Value,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    must_be_object(&value)?;
    if decode::is_too_deep(&value) {
        return Err(ApiError::bad_request(decode::DecodeError::TooDeep.to_string()));
    }
    let findings = structural::prune(&mut value, resource.schema.view());
    warnings.extend(validation.judge(findings, &resource.kind, &resource.version)?);
    types(resource, &value)?;
    meta::drop_empty(&mut value);
    meta::whole_seconds(&mut value);
    Ok(value)
}

/// An object of some other kind than the resource's, such as `DeleteOptions`.
pub fn untyped(body: &Body) -> Result<Value, ApiError> {
    if body.media == protobuf::MEDIA {
        return protobuf::any(&body.bytes);
    }
    let decoded = decode::decode(format(body)?, &body.bytes, None)?;
    must_be_object(&decoded.value)?;
    Ok(decoded.value)
}

/// A merge patch or strategic merge patch, in which `null` means something.
pub fn patch_object(
    call: &ResourceCall,
    body: &Body,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let decoded = decode::json(&body.bytes, None)?;
    must_be_object(&decoded.value)?;
    warnings.extend(validation.judge(decoded.findings, &call.resource.kind, &call.resource.version)?);
    Ok(decoded.value)
}

/// Refuses anything but an object.
pub fn must_be_object(value: &Value) -> Result<(), ApiError> {
    if value.is_object() {
        return Ok(());
    }
    Err(ApiError::bad_request("the body of the request must be an object"))
}

/// The body must be of the path's kind; what it does not say is filled in.
fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), ApiError> {
    let expected = resource.api_version();
    let (version, kind) = (meta::api_version(value), meta::kind(value));
    if !version.is_empty() && version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({version}) does not match the expected API version ({expected})"
        )));
    }
    if !kind.is_empty() && kind != resource.kind {
        return Err(ApiError::bad_request(format!(
            "{kind} in version {:?} cannot be handled as a {}: the path is for another kind",
            resource.version, resource.kind
        )));
    }
    value["apiVersion"] = expected.into();
    value["kind"] = resource.kind.as_ref().into();
    Ok(())
}

fn types(resource: &Resource, value: &Value) -> Result<(), ApiError> {
    let (schema, mut errors) = (resource.schema.view(), Errors::new());
    match resource.defined {
        // Of a custom resource everything else is judged with its values, when admission has had its say.
        Some(_) => structural::validate_field(value, schema, "metadata", Checks::BUILT_IN, &mut errors),
        None => structural::validate(value, schema, Checks::BUILT_IN, &mut errors),
    }
    if errors.is_empty() {
        return Ok(());
    }
    Err(ApiError::invalid(&resource.group, &resource.kind, meta::name(value), errors))
}

/// Fills in what the schema and then the kind's own rule say.
pub fn default(resource: &resource::Resource, object: &mut Value) {
    structural::apply_defaults(object, resource.schema.view());
    (resource.rules.default)(object);
}
