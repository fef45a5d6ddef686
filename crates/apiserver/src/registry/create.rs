//! POST: a new object.

use api_machinery::apply::Tracked;
use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::status::{ApiError, Reason};
use http::StatusCode;
use serde_json::Value;

use super::lens::Lens;
use super::owner::Owner;
use super::quota;
use super::update::Wanted;
use crate::allocation;
use crate::custom::convert;
use crate::request::admit::Admission;
use crate::request::commit::{self, Committed};
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::request::validate;
use crate::server::ApiServer;
use crate::types::Operation;
use crate::watch::Cached;

/// Names that are tried for one `generateName`.
const NAMES: usize = 8;
/// Attempts when something else than the name collided.
const ATTEMPTS: usize = 16;
/// The longest prefix that leaves room for a suffix in 63 characters.
const PREFIX: usize = 58;
/// The characters that are added to a prefix.
const SUFFIX: usize = 5;

/// Creates an object from a body.
pub async fn create(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse(&call.query, "CreateOptions")?;
    let mut warnings = Vec::new();
    let object = decode::object(call, body, options.field_validation, &mut warnings)?;
    let made = create_object(server, call, object.into(), &options, &mut warnings).await?;
    Ok(Answer::object(made.into()).with_code(StatusCode::CREATED).with_warnings(warnings))
}

/// Creates a decoded object; also what apply and, where that is allowed, PUT to a new name do.
pub async fn create_object(
    server: &ApiServer,
    call: &ResourceCall,
    wanted: Wanted,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Cached, ApiError> {
    let (group, plural) = call.names();
    if server.catalog().custom(group, plural).is_some_and(|custom| custom.terminating) {
        let message = "create not allowed while custom resource definition is terminating";
        return Err(ApiError::new(Reason::MethodNotAllowed, message));
    }
    let Wanted { mut object, owners } = wanted;
    let admission = Admission {
        call,
        operation: Operation::Create,
        old: None,
        dry_run: options.dry_run,
        options: &options.to_value("CreateOptions"),
    };
    prepare(call, &mut object)?;
    // What admission sets belongs to nobody.
    let owners =
        owners.unwrap_or_else(|| Owner::of(server, call, &Lens::Main, &options.manager).track(None, &object));
    meta::metadata_mut(&mut object).remove("managedFields");
    if admission.mutate(server, Some(&mut object), warnings).await? {
        prepare(call, &mut object)?;
        meta::metadata_mut(&mut object).remove("managedFields");
    }
    let generated = meta::name(&object).is_empty() && !meta::generate_name(&object).is_empty();
    let tries = if generated { NAMES } else { 1 };
    let (mut taken, before) = (String::new(), warnings.len());
    for _ in 0..tries {
        warnings.truncate(before);
        let mut attempt = object.clone();
        identify(server, &mut attempt);
        // The state of a new object follows from what admission filled in, as a pod's class does from limits, and from
        // its uid, as a job's selector does.
        (call.stored.rules.prepare_create)(&mut attempt);
        decode::default(&call.stored, &mut attempt);
        date_conditions(&mut attempt);
        taken = meta::name(&attempt).to_owned();
        match create_named(server, &admission, attempt, &owners, warnings).await? {
            Some(made) => return Ok(made),
            None => continue,
        }
    }
    let (group, plural) = call.names();
    Err(if generated {
        ApiError::generate_name_conflict(group, plural, &taken, 1)
    } else {
        ApiError::already_exists(group, plural, &taken)
    })
}

/// Takes out of an object what clients may not set, before admission and again after webhooks have changed it there.
fn prepare(call: &ResourceCall, object: &mut Value) -> Result<(), ApiError> {
    let resource = &*call.stored;
    if !meta::resource_version(object).is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    place(resource, &call.namespace, object)?;
    let metadata = meta::metadata_mut(object);
    for field in [
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "generation",
        "selfLink",
        "uid",
    ] {
        metadata.remove(field);
    }
    if resource.has_generation {
        meta::set_generation(object, 1);
    }
    (resource.rules.prepare_create)(object);
    decode::default(resource, object);
    Ok(())
}

/// Gives an object what tells it from all others.
fn identify(server: &ApiServer, object: &mut Value) {
    let prefix = meta::generate_name(object);
    if meta::name(object).is_empty() && !prefix.is_empty() {
        let cut = prefix.char_indices().map(|(at, _)| at).take_while(|at| *at <= PREFIX).last().unwrap_or(0);
        let cut = if prefix.len() <= PREFIX { prefix.len() } else { cut };
        let name = format!("{}{}", &prefix[..cut], server.entropy().suffix(SUFFIX));
        meta::set_name(object, &name);
    }
    meta::set_uid(object, &server.entropy().uuid());
    let now = server.clock().now_rfc3339();
    meta::set_text(object, "creationTimestamp", &now);
}

/// What the rules of a kind say of the state of a new object holds from its creation on.
fn date_conditions(object: &mut Value) {
    let now = object["metadata"]["creationTimestamp"].clone();
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if condition.get("lastTransitionTime").is_none() {
            condition["lastTransitionTime"] = now.clone();
        }
    }
}

/// The namespace of the path is the object's; another one in the body is an error.
pub fn place(resource: &Resource, namespace: &str, object: &mut Value) -> Result<(), ApiError> {
    if !resource.namespaced() {
        meta::set_namespace(object, "");
        return Ok(());
    }
    match meta::namespace(object) {
        "" => meta::set_namespace(object, namespace),
        own if own == namespace => {}
        _ => {
            return Err(ApiError::bad_request(
                "the namespace of the provided object does not match the namespace sent on the request",
            ));
        }
    }
    Ok(())
}

/// The name is taken by an object that is on its way out.
fn being_deleted(call: &ResourceCall, name: &str) -> ApiError {
    let (group, plural) = call.names();
    let taken = ApiError::already_exists(group, plural, name);
    let error = ApiError::new(taken.reason(), format!("object is being deleted: {taken}"));
    error.with_details(taken.details().cloned().unwrap_or_default())
}

/// Validation and commit for an admitted object with its final name; `None` when the name is taken.
async fn create_named(
    server: &ApiServer,
    admission: &Admission<'_>,
    object: Value,
    owners: &Tracked,
    warnings: &mut Vec<String>,
) -> Result<Option<Cached>, ApiError> {
    let call = admission.call;
    validate::created(call, &object)?;
    warnings.extend((call.stored.rules.warnings)(&object, None));
    let name = meta::name(&object).to_owned();
    let key = crate::catalog::key(&call.namespace, &name);
    let store_key = format!("{}{key}", call.prefix());
    let before = warnings.len();
    for _ in 0..ATTEMPTS {
        warnings.truncate(before);
        let mut attempt = object.clone();
        let claims = allocation::plan(server, call, None, Some(&mut attempt)).await?;
        admission.check(server, Some(&mut attempt), warnings).await?;
        let charge = quota::charge(server, admission, &attempt).await?;
        let bytes = commit::encode_with(&*convert::storable(server, call, &attempt).await?, owners)?;
        if let Some(taken) = server.store().get(&store_key).await.map_err(commit::store_error)? {
            let taken = Cached::new(&key, taken.value, taken.mod_revision);
            let leaving = taken.value().is_some_and(|value| meta::is_deleting(&value));
            return if leaving { Err(being_deleted(call, &name)) } else { Ok(None) };
        }
        if admission.dry_run {
            return Ok(Some(Cached::new(&key, bytes, 0)));
        }
        let txn = claims.join(commit::creation(&store_key, bytes.clone()));
        if let Committed::Done(revision) = charge.commit(server, txn).await? {
            return Ok(Some(Cached::new(&key, bytes, revision)));
        }
        // Somebody took the name, or the address that was to be claimed; the next round tells which.
    }
    let (group, plural) = call.names();
    Err(ApiError::server_timeout(group, plural, "create", 1))
}
