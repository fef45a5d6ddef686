//! Admission of CertificateSigningRequests: who asks is written into the request, and approving and signing need a right
//! for the signer (CertificateApproval, CertificateSigning), as has a bundle of certificates to trust for one
//! (ClusterTrustBundleAttest). Nobody asks for `system:masters` (CertificateSubjectRestriction).

use api_machinery::clock::{Clock, rfc3339};
use api_machinery::status::ApiError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use super::forbidden;
use crate::authz::{Authorizer, MASTERS};
use crate::references::text;
use crate::types::{AdmissionRequest, Operation, RequestInfo};

const GROUP: &str = "certificates.k8s.io";
const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";

fn is_request(request: &AdmissionRequest<'_>) -> bool {
    request.resource.group == GROUP && request.resource.plural == "certificatesigningrequests"
}

/// Writes down who asks, and when a condition was added.
pub fn admit(clock: &Clock, request: &mut AdmissionRequest<'_>) {
    if !is_request(request) {
        return;
    }
    let user = request.user;
    match (request.operation, request.info.subresource.as_str()) {
        (Operation::Create, "") => {
            let Some(spec) = request.object.as_deref_mut().and_then(|object| object.get_mut("spec")) else {
                return;
            };
            let Some(spec) = spec.as_object_mut() else { return };
            for field in ["username", "uid", "groups", "extra"] {
                spec.remove(field);
            }
            spec.insert("username".to_owned(), user.name.as_str().into());
            if !user.uid.is_empty() {
                spec.insert("uid".to_owned(), user.uid.as_str().into());
            }
            if !user.groups.is_empty() {
                spec.insert("groups".to_owned(), json!(user.groups));
            }
            if !user.extra.is_empty() {
                spec.insert("extra".to_owned(), json!(user.extra));
            }
        }
        (Operation::Update, "approval" | "status") => {
            let now = rfc3339(clock.now());
            let object = request.object.as_deref_mut();
            let list = object.and_then(|object| object.pointer_mut("/status/conditions"));
            for condition in list.and_then(Value::as_array_mut).into_iter().flatten() {
                for field in ["lastUpdateTime", "lastTransitionTime"] {
                    if condition.is_object() && condition.get(field).is_none_or(Value::is_null) {
                        condition[field] = now.as_str().into();
                    }
                }
            }
        }
        _ => {}
    }
}

/// Whether the user may ask for, approve, sign or attest this.
pub async fn check(authorizer: &Authorizer, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    if request.resource.group == GROUP && request.resource.plural == "clustertrustbundles" {
        return attest(authorizer, request).await;
    }
    let Some(object) = request.object.as_deref().filter(|_| is_request(request)) else { return Ok(()) };
    match (request.operation, request.info.subresource.as_str()) {
        (Operation::Create, "") => subject(request, object),
        (Operation::Update, "approval") => may(authorizer, request, "approve").await,
        (Operation::Update, "status") if signs(object, request.old) => may(authorizer, request, "sign").await,
        _ => Ok(()),
    }
}

/// Whether a change of the status is a signer's: the certificate, or that there will be none.
fn signs(new: &Value, old: Option<&Value>) -> bool {
    let of = |object: &Value| {
        let failed = object.pointer("/status/conditions").and_then(Value::as_array).map(|list| {
            list.iter().filter(|condition| condition["type"] == "Failed").cloned().collect::<Vec<_>>()
        });
        (text(object, "/status/certificate").to_owned(), failed.unwrap_or_default())
    };
    old.is_none_or(|old| of(new) != of(old))
}

/// A bundle for a signer is written by who speaks for it; what changes nothing in it is nobody's word.
async fn attest(authorizer: &Authorizer, request: &AdmissionRequest<'_>) -> Result<(), ApiError> {
    let Some(object) = request.object.as_deref() else { return Ok(()) };
    let signer = text(object, "/spec/signerName");
    if let Some(old) = request.old {
        if text(old, "/spec/signerName") != signer {
            return Err(forbidden(request, "changing signerName is forbidden"));
        }
        if old.get("spec") == object.get("spec") {
            return Ok(());
        }
    }
    if signer.is_empty() || allowed(authorizer, request, "attest", signer).await? {
        return Ok(());
    }
    Err(forbidden(request, format_args!("user not permitted to attest for signerName {signer:?}")))
}

async fn may(authorizer: &Authorizer, request: &AdmissionRequest<'_>, verb: &str) -> Result<(), ApiError> {
    // The stored one: nobody picks the signer that he has a right for.
    let object = request.old.or(request.object.as_deref());
    let signer = object.map(|object| text(object, "/spec/signerName")).unwrap_or_default();
    if allowed(authorizer, request, verb, signer).await? {
        return Ok(());
    }
    Err(forbidden(request, format_args!("user not permitted to {verb} requests with signerName {signer:?}")))
}

/// Whether the user has a right for a signer, or for all of its domain.
async fn allowed(
    authorizer: &Authorizer,
    request: &AdmissionRequest<'_>,
    verb: &str,
    signer: &str,
) -> Result<bool, ApiError> {
    let domain = signer.split_once('/').map_or(signer, |(domain, _)| domain);
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let info = RequestInfo {
            verb: verb.to_owned(),
            api_group: GROUP.to_owned(),
            api_version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            is_resource: true,
            ..RequestInfo::default()
        };
        if authorizer.allows(request.user, &info).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn subject(request: &AdmissionRequest<'_>, object: &Value) -> Result<(), ApiError> {
    if text(object, "/spec/signerName") != API_CLIENT {
        return Ok(());
    }
    let bytes = STANDARD.decode(text(object, "/spec/request")).unwrap_or_default();
    let block = pem::parse(&bytes);
    let parsed = block.as_ref().ok().and_then(|block| {
        X509CertificationRequest::from_der(block.contents()).ok().map(|(_, parsed)| parsed)
    });
    let Some(parsed) = parsed else {
        return Err(forbidden(request, "failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"));
    };
    let subject = &parsed.certification_request_info.subject;
    let masters = subject.iter_organization().any(|group| group.as_str().is_ok_and(|group| group == MASTERS));
    if masters {
        let why = format!("use of {API_CLIENT} signer with {MASTERS} group is not allowed");
        return Err(forbidden(request, why));
    }
    Ok(())
}
