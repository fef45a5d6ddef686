//! `serviceaccounts/NAME/token`: a token for a service account, bound to what the request names.

use std::sync::Arc;

use api_machinery::clock::{Clock, rfc3339};
use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::status::ApiError;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::references::{node_name, text};
use crate::tokens::{Bound, Claims, Reference, Tokens};
use crate::types::Lookup;

const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// More audiences than anybody has.
const MAX_AUDIENCES: usize = 64;

/// Fills in the status of a `TokenRequest`.
pub async fn request(
    lookup: &dyn Lookup,
    tokens: &Tokens,
    clock: &Clock,
    account: &Value,
    request: &mut Value,
) -> Result<(), ApiError> {
    let seconds = seconds(request)?;
    let audiences = audiences(request)?;
    let audiences = if audiences.is_empty() { tokens.audiences().to_vec() } else { audiences };
    let kubernetes = bound(lookup, account, request).await?;
    let now = clock.now();
    let expiry = now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX);
    let token = tokens.sign(Claims {
        aud: audiences.clone(),
        exp: expiry.as_second(),
        iat: now.as_second(),
        nbf: now.as_second(),
        sub: format!("system:serviceaccount:{}:{}", meta::namespace(account), meta::name(account)),
        kubernetes,
        ..Claims::default()
    });
    let token =
        token.map_err(|error| ApiError::internal(format_args!("failed to generate token: {error}")))?;
    if !request["spec"].is_object() {
        request["spec"] = json!({});
    }
    request["spec"]["audiences"] = audiences.into();
    request["spec"]["expirationSeconds"] = seconds.into();
    request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(expiry)});
    Ok(())
}

fn seconds(request: &Value) -> Result<i64, ApiError> {
    let Some(given) = request.pointer("/spec/expirationSeconds").filter(|given| !given.is_null()) else {
        return Ok(DEFAULT_SECONDS);
    };
    let seconds =
        given.as_i64().ok_or_else(|| ApiError::bad_request("spec.expirationSeconds must be an integer"))?;
    let spec = Path::new("spec");
    let mut errors = Errors::new();
    if seconds < MIN_SECONDS {
        errors.invalid(
            &spec.child("expirationSeconds"),
            seconds,
            "may not specify a duration less than 10 minutes",
        );
    }
    if seconds > MAX_SECONDS {
        errors.invalid(
            &spec.child("expirationSeconds"),
            seconds,
            "may not specify a duration larger than 2^32 seconds",
        );
    }
    if errors.is_empty() {
        Ok(seconds)
    } else {
        Err(ApiError::invalid("authentication.k8s.io", "TokenRequest", "", errors))
    }
}

fn audiences(request: &Value) -> Result<Vec<String>, ApiError> {
    let list = match request.pointer("/spec/audiences") {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list) => list.as_array().filter(|list| list.len() <= MAX_AUDIENCES),
    };
    let texts = list.and_then(|list| list.iter().map(|item| item.as_str().map(str::to_owned)).collect());
    texts.ok_or_else(|| {
        ApiError::bad_request(format!("spec.audiences must be a list of at most {MAX_AUDIENCES} strings"))
    })
}

fn reference(object: &Value) -> Reference {
    Reference { name: meta::name(object).to_owned(), uid: meta::uid(object).to_owned() }
}

/// What the token will be bound to: the account always, and what the request refers to.
async fn bound(lookup: &dyn Lookup, account: &Value, request: &Value) -> Result<Bound, ApiError> {
    let namespace = meta::namespace(account);
    let mut bound =
        Bound { namespace: namespace.to_owned(), serviceaccount: reference(account), ..Bound::default() };
    let Some(wanted) = request.pointer("/spec/boundObjectRef").filter(|wanted| !wanted.is_null()) else {
        return Ok(bound);
    };
    let (version, kind, name) = (text(wanted, "/apiVersion"), text(wanted, "/kind"), text(wanted, "/name"));
    let find = async |plural: &str, namespace: &str| -> Result<Arc<Value>, ApiError> {
        let found = lookup.get("", plural, namespace, name).await?;
        found.ok_or_else(|| ApiError::not_found("", plural, name))
    };
    let object = match (version, kind) {
        ("v1", "Pod") => {
            let pod = find("pods", namespace).await?;
            let runs_as = text(&pod, "/spec/serviceAccountName");
            if runs_as != meta::name(account) {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    meta::name(account)
                )));
            }
            bound.pod = Some(reference(&pod));
            let node = node_name(&pod);
            if !node.is_empty() {
                let found = lookup.get("", "nodes", "", node).await?;
                let unknown = Reference { name: node.to_owned(), uid: String::new() };
                bound.node = Some(found.map_or(unknown, |node| reference(&node)));
            }
            pod
        }
        ("v1", "Secret") => {
            let secret = find("secrets", namespace).await?;
            bound.secret = Some(reference(&secret));
            secret
        }
        ("v1", "Node") => {
            let node = find("nodes", "").await?;
            bound.node = Some(reference(&node));
            node
        }
        _ => {
            let what = if version.is_empty() { kind.to_owned() } else { format!("{version}, Kind={kind}") };
            return Err(ApiError::bad_request(format!("cannot bind token to object of type {what}")));
        }
    };
    let uid = text(wanted, "/uid");
    if !uid.is_empty() && uid != meta::uid(&object) {
        let why = format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(ApiError::conflict("", kind, name, why));
    }
    Ok(bound)
}
