//! Resources that are answered and forgotten: reviews, and tokens for service accounts.
//!
//! What the answer is, the gate knows.

use api_machinery::field::Errors;
use api_machinery::meta;
use api_machinery::status::ApiError;
use http::StatusCode;

use super::{create, current, not_found};
use crate::request::admit::Admission;
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;

/// POST of a review.
pub async fn review(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    if call.resource.group.is_empty() && call.resource.plural == "bindings" {
        return super::binding::bind(server, call, body).await;
    }
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut warnings = Vec::new();
    let mut object = decode::object(call, body, options.field_validation, &mut warnings)?;
    create::place(&call.resource, &call.namespace, &mut object)?;
    decode::default(&call.resource, &mut object);
    let value = options.to_value("CreateOptions");
    let admission = Admission::creating(call, options.dry_run, &value);
    admission.mutate(server, Some(&mut object), &mut warnings).await?;
    let mut errors = Errors::new();
    (call.resource.rules.validate)(&object, &mut errors);
    if !errors.is_empty() {
        return Err(ApiError::invalid(
            &call.resource.group,
            &call.resource.kind,
            meta::name(&object),
            errors,
        ));
    }
    admission.check(server, Some(&mut object), &mut warnings).await?;
    server.gate().review(&call.user, &call.resource, &call.namespace, &mut object).await?;
    Ok(Answer::value(object).with_code(StatusCode::CREATED).with_warnings(warnings))
}

/// POST of a `TokenRequest` for a service account.
pub async fn token(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut request = decode::untyped(body)?;
    let kind = (meta::api_version(&request), meta::kind(&request));
    if !matches!(kind, ("authentication.k8s.io/v1" | "", "TokenRequest" | "")) {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({}) does not match the expected API version (authentication.k8s.io/v1)",
            kind.0
        )));
    }
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    let value = options.to_value("CreateOptions");
    let admission = Admission::creating(call, options.dry_run, &value);
    let mut warnings = Vec::new();
    let stored = current(server, call).await?.ok_or_else(|| not_found(call))?;
    let account = stored.value().ok_or_else(|| ApiError::internal("the stored object does not decode"))?;
    admission.mutate(server, Some(&mut request), &mut warnings).await?;
    admission.check(server, Some(&mut request), &mut warnings).await?;
    server.gate().token(&call.user, &account, &mut request).await?;
    meta::set_name(&mut request, meta::name(&account));
    meta::set_namespace(&mut request, meta::namespace(&account));
    let now = server.clock().now_rfc3339();
    meta::set_text(&mut request, "creationTimestamp", &now);
    Ok(Answer::value(request).with_code(StatusCode::CREATED).with_warnings(warnings))
}
