//! DELETE of one object and of a collection: grace, preconditions, finalizers and propagation.
//!
//! Whether a kind waits before it goes is its catalogue entry's to say; dependents are the garbage collector's.

use api_machinery::clock::rfc3339;
use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::resource::Propagation;
use api_machinery::status::ApiError;
use http::StatusCode;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{current, not_found};
use crate::allocation;
use crate::custom::convert;
use crate::request::admit::Admission;
use crate::request::commit::{self, Committed};
use crate::request::decode::{self, Body};
use crate::request::query;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::Operation;
use crate::watch::Cached;

/// Rounds of a deletion that others keep getting in the way of.
const ATTEMPTS: usize = 16;
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// `DeleteOptions`, from the body or the query.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// `gracePeriodSeconds`.
    pub grace: Option<i64>,
    /// `propagationPolicy`, or what `orphanDependents` means.
    pub policy: Option<Policy>,
    /// `preconditions.uid`.
    pub uid: Option<String>,
    /// `preconditions.resourceVersion`.
    pub resource_version: Option<String>,
    /// Delete nothing.
    pub dry_run: bool,
    /// The deletion was admitted as something else: the eviction that it is part of.
    pub admitted: bool,
    /// Whether the request asked for dependents to go too in a way whose answer is 202 and not 200.
    cascades: bool,
    /// The options as admission sees them.
    value: Value,
}

/// What happens to dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// They lose their owner.
    Orphan,
    /// They go after the object.
    Background,
    /// They go before the object.
    Foreground,
}

impl DeleteOptions {
    /// Reads the options of a request. Those in a body win over the query.
    pub fn parse(call: &ResourceCall, body: &Body) -> Result<DeleteOptions, ApiError> {
        if body.bytes.is_empty() {
            return DeleteOptions::of(&from_query(call)?);
        }
        let value = decode::untyped(body)?;
        if !matches!(meta::kind(&value), "" | "DeleteOptions") {
            return Err(ApiError::bad_request(format!(
                "expected DeleteOptions, found {}",
                meta::kind(&value)
            )));
        }
        DeleteOptions::of(&value)
    }

    /// Reads the options of a `DeleteOptions` object.
    pub fn of(value: &Value) -> Result<DeleteOptions, ApiError> {
        let mut errors = Errors::new();
        let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let grace = value.get("gracePeriodSeconds").filter(|grace| !grace.is_null());
        if grace.is_some_and(|grace| grace.as_i64().is_none()) {
            return Err(ApiError::bad_request("gracePeriodSeconds must be an integer"));
        }
        let orphan = value.get("orphanDependents").and_then(Value::as_bool);
        let policy = policy(text("/propagationPolicy"), orphan, &mut errors);
        let dry =
            value.get("dryRun").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let dry_run = query::dry_run(dry, &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid("meta.k8s.io", "DeleteOptions", "", errors));
        }
        Ok(DeleteOptions {
            grace: grace.and_then(Value::as_i64),
            policy,
            uid: text("/preconditions/uid"),
            resource_version: text("/preconditions/resourceVersion"),
            dry_run,
            admitted: false,
            cascades: policy == Some(Policy::Foreground) || orphan == Some(false),
            value: value.clone(),
        })
    }

    fn check(&self, call: &ResourceCall, object: &Value) -> Result<(), ApiError> {
        let (group, plural) = call.names();
        let conflict = |what: &str, wanted: &str, found: &str| {
            let why = format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            );
            Err(ApiError::conflict(group, plural, meta::name(object), why))
        };
        match (&self.uid, &self.resource_version) {
            (Some(uid), _) if uid != meta::uid(object) => conflict("UID", uid, meta::uid(object)),
            (_, Some(version)) if version != meta::resource_version(object) => {
                conflict("ResourceVersion", version, meta::resource_version(object))
            }
            _ => Ok(()),
        }
    }
}

fn policy(text: Option<String>, orphan: Option<bool>, errors: &mut Errors) -> Option<Policy> {
    let path = Path::new("propagationPolicy");
    if text.is_some() && orphan.is_some() {
        errors.invalid(&path, text.clone(), "orphanDependents and deletionPropagation cannot be both set");
    }
    match text.as_deref() {
        None => orphan.map(|orphan| if orphan { Policy::Orphan } else { Policy::Background }),
        Some("Orphan") => Some(Policy::Orphan),
        Some("Background") => Some(Policy::Background),
        Some("Foreground") => Some(Policy::Foreground),
        Some(other) => {
            errors.not_supported(&path, other, &["Background", "Foreground", "Orphan"]);
            None
        }
    }
}

fn from_query(call: &ResourceCall) -> Result<Value, ApiError> {
    let mut value = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
    if let Some(grace) = call.query.integer("gracePeriodSeconds")? {
        value["gracePeriodSeconds"] = grace.into();
    }
    if let Some(policy) = call.query.get("propagationPolicy").filter(|policy| !policy.is_empty()) {
        value["propagationPolicy"] = policy.into();
    }
    if let Some(orphan) = call.query.optional_flag("orphanDependents") {
        value["orphanDependents"] = orphan.into();
    }
    let dry: Vec<&str> = call.query.all("dryRun").collect();
    if !dry.is_empty() {
        value["dryRun"] = dry.into();
    }
    Ok(value)
}

/// DELETE of one object.
pub async fn delete(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = DeleteOptions::parse(call, body)?;
    let mut warnings = Vec::new();
    let (removed, object) = delete_object(server, call, &options, &mut warnings).await?;
    if removed && call.stored.rules.graceful_delete.is_none() {
        let value = object.value().ok_or_else(|| ApiError::internal("the stored object does not decode"))?;
        return Ok(Answer::value(success(call, &value)).with_warnings(warnings));
    }
    let accepted = !removed && options.cascades;
    let code = if accepted { StatusCode::ACCEPTED } else { StatusCode::OK };
    Ok(Answer::object(object.into()).with_code(code).with_warnings(warnings))
}

fn success(call: &ResourceCall, object: &Value) -> Value {
    let (group, plural) = call.names();
    let mut details = json!({"name": meta::name(object), "kind": plural, "uid": meta::uid(object)});
    if !group.is_empty() {
        details["group"] = group.into();
    }
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
}

/// Deletes the object of a call, or starts to; the flag says whether it is gone.
pub async fn delete_object(
    server: &ApiServer,
    call: &ResourceCall,
    options: &DeleteOptions,
    warnings: &mut Vec<String>,
) -> Result<(bool, Cached), ApiError> {
    let (key, store_key) = (call.key(), call.store_key());
    let before = warnings.len();
    for _ in 0..ATTEMPTS {
        warnings.truncate(before);
        let stored = current(server, call).await?.ok_or_else(|| not_found(call))?;
        let old = stored.value().ok_or_else(|| ApiError::internal("the stored object does not decode"))?;
        options.check(call, &old)?;
        // It goes in the version in which it is stored; others have their say about the one that is spoken of.
        let shown = convert::of_call(server, call, &stored, old.clone()).await?;
        let admission = Admission {
            call,
            operation: Operation::Delete,
            old: Some(&shown),
            dry_run: options.dry_run,
            options: &options.value,
        };
        if !options.admitted {
            admission.mutate(server, None, warnings).await?;
            admission.check(server, None, warnings).await?;
        }
        let step = plan(call, &old, options, server.clock().now());
        let (new, gone) = match step {
            Step::Nothing => return Ok((false, stored)),
            Step::Mark(new) => (new, false),
            Step::Remove(last) => (last, true),
        };
        let bytes = commit::encode(&new)?;
        if options.dry_run {
            return Ok((gone, Cached::new(&key, bytes, stored.revision)));
        }
        let txn = if gone {
            allocation::plan(server, call, Some(&old), None)
                .await?
                .join(commit::removal(&store_key, stored.revision))
        } else {
            commit::replacement(&store_key, stored.revision, bytes.clone())
        };
        if let Committed::Done(revision) = commit::commit(server, txn).await? {
            return Ok((gone, Cached::new(&key, bytes, revision)));
        }
    }
    let (group, plural) = call.names();
    Err(ApiError::stale(group, plural, &call.info.name))
}

/// What a deletion does to an object.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    /// It is on its way already.
    Nothing,
    /// It stays for now, marked.
    Mark(Value),
    /// It goes, this being its last state.
    Remove(Value),
}

/// Decides on a deletion.
fn plan(call: &ResourceCall, old: &Value, options: &DeleteOptions, now: Timestamp) -> Step {
    let rules = &call.stored.rules;
    let mut new = old.clone();
    set_propagation(&mut new, options.policy, rules.propagation);
    let waits = !meta::finalizers(&new).is_empty() || has_spec_finalizers(&new);
    let grace = rules.graceful_delete.map_or(0, |grace| grace(old, options.grace)).max(0);
    match meta::deletion_timestamp(old) {
        Some(deadline) => {
            let before = meta::deletion_grace_period_seconds(old).unwrap_or(0);
            // A grace period can only be made shorter, and only by asking for it.
            let shorter = options.grace.is_some() && grace < before;
            if shorter {
                let earlier = SignedDuration::from_secs(before - grace);
                mark(&mut new, deadline.checked_sub(earlier).unwrap_or(deadline), grace);
            }
            let left = if shorter { grace } else { before };
            match (left == 0 && !waits, new == *old) {
                (true, _) => Step::Remove(new),
                (false, true) => Step::Nothing,
                (false, false) => Step::Mark(new),
            }
        }
        None if grace == 0 && !waits && rules.cleanup.is_none() => Step::Remove(new),
        None => {
            let deadline = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(Timestamp::MAX);
            mark(&mut new, deadline, grace);
            clean_up_first(&mut new, rules.cleanup);
            if meta::generation(old) > 0 {
                meta::set_generation(&mut new, meta::generation(old) + 1);
            }
            if has_spec_finalizers(&new) {
                new["status"]["phase"] = "Terminating".into();
            }
            Step::Mark(new)
        }
    }
}

fn mark(object: &mut Value, deadline: Timestamp, grace: i64) {
    let metadata = meta::metadata_mut(object);
    metadata.insert("deletionTimestamp".to_owned(), rfc3339(deadline).into());
    metadata.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
}

/// What an object leaves behind goes before it.
fn clean_up_first(object: &mut Value, cleanup: Option<&str>) {
    let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    if let Some(cleanup) = cleanup.filter(|cleanup| !finalizers.iter().any(|known| known == cleanup)) {
        finalizers.push(cleanup.to_owned());
        meta::set_finalizers(object, finalizers);
    }
}

/// The two finalizers of the garbage collector say what happens to dependents.
fn set_propagation(object: &mut Value, asked: Option<Policy>, default: Propagation) {
    let mut finalizers: Vec<String> = meta::finalizers(object).into_iter().map(str::to_owned).collect();
    let has = |finalizers: &[String], name: &str| finalizers.iter().any(|finalizer| finalizer == name);
    let policy = asked.unwrap_or_else(|| match default {
        _ if has(&finalizers, ORPHAN) => Policy::Orphan,
        _ if has(&finalizers, FOREGROUND) => Policy::Foreground,
        Propagation::Orphan => Policy::Orphan,
        Propagation::Background => Policy::Background,
    });
    let wanted = match policy {
        Policy::Orphan => Some(ORPHAN),
        Policy::Foreground => Some(FOREGROUND),
        Policy::Background => None,
    };
    let before = finalizers.clone();
    finalizers.retain(|finalizer| {
        (finalizer != ORPHAN && finalizer != FOREGROUND) || wanted == Some(finalizer.as_str())
    });
    if let Some(wanted) = wanted
        && !has(&finalizers, wanted)
    {
        finalizers.push(wanted.to_owned());
    }
    if finalizers != before {
        meta::set_finalizers(object, finalizers);
    }
}

/// Namespaces have finalizers of their own in their spec.
fn has_spec_finalizers(object: &Value) -> bool {
    object.pointer("/spec/finalizers").and_then(Value::as_array).is_some_and(|list| !list.is_empty())
}

/// Whether nothing keeps an object that is being deleted any longer.
pub fn is_done(object: &Value) -> bool {
    meta::is_deleting(object)
        && meta::deletion_grace_period_seconds(object).unwrap_or(0) == 0
        && meta::finalizers(object).is_empty()
        && !has_spec_finalizers(object)
}

/// DELETE of a collection: every selected object by itself, and the list of them as the answer.
pub async fn delete_collection(
    server: &ApiServer,
    call: &ResourceCall,
    body: &Body,
) -> Result<Answer, ApiError> {
    let options = DeleteOptions::parse(call, body)?;
    let cache = server.cache().resource(&call.stored).ok_or_else(ApiError::no_such_path)?;
    let selection = super::list::selection(call)?;
    server.cache().catch_up().await?;
    let (objects, revision) = server.cache().snapshot(&cache, &selection).await?;
    let mut warnings = Vec::new();
    let mut deleted = Vec::new();
    for object in objects {
        let one = call.about(object.namespace(), object.name());
        match delete_object(server, &one, &options, &mut warnings).await {
            Ok((_, object)) => deleted.push(object.into()),
            // Somebody else was faster, which is what was wanted.
            Err(error) if error.code() == 404 => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Answer::list(super::Page::whole(deleted, revision)))
}
