//! PUT, and the loop that every change of an existing object goes through.

use api_machinery::apply::Tracked;
use api_machinery::meta;
use api_machinery::resource::Resource;
use api_machinery::status::ApiError;
use http::StatusCode;
use serde_json::Value;

use super::lens::Lens;
use super::owner::Owner;
use super::quota::{self, Charge};
use super::{create, current, not_found};
use crate::allocation;
use crate::custom::convert;
use crate::request::admit::Admission;
use crate::request::authorize;
use crate::request::commit::{self, Committed};
use crate::request::decode::{self, Body};
use crate::request::query::WriteOptions;
use crate::request::respond::Answer;
use crate::request::route::ResourceCall;
use crate::request::validate;
use crate::server::ApiServer;
use crate::types::{Operation, RequestInfo};
use crate::watch::Cached;

/// Rounds of a change that does not insist on a revision.
const ATTEMPTS: usize = 16;

/// A change of an existing object, whoever asks for it.
pub struct Change<'a> {
    /// What was asked for.
    pub call: &'a ResourceCall,
    /// Which part of the object it is about.
    pub lens: &'a Lens,
    /// Store nothing.
    pub dry_run: bool,
    /// The options as admission sees them.
    pub options: Value,
    /// Whether the user's admission applies. The server's own steps (binding) have been admitted as what they are.
    pub admit: bool,
    /// Who owns what changes; without one, owners stay as they are.
    pub owner: Option<&'a Owner<'a>>,
}

/// What a request makes of an object, in the form in which it is stored.
#[derive(Debug)]
pub struct Wanted {
    /// The object.
    pub object: Value,
    /// Its owners, where the request itself says.
    pub owners: Option<Tracked>,
}

impl From<Value> for Wanted {
    fn from(object: Value) -> Wanted {
        Wanted { object, owners: None }
    }
}

/// What became of a change.
#[derive(Debug)]
pub enum Changed {
    /// The object as it is now.
    Stored(Cached),
    /// The change took away the last reason to keep an object that was being deleted; this was its last state.
    Removed(Cached),
}

impl Changed {
    /// The object, wherever it is now.
    pub fn into_object(self) -> Cached {
        match self {
            Changed::Stored(object) | Changed::Removed(object) => object,
        }
    }
}

/// PUT.
pub async fn replace(server: &ApiServer, call: &ResourceCall, body: &Body) -> Result<Answer, ApiError> {
    let options = WriteOptions::parse(&call.query, "UpdateOptions")?;
    let lens = Lens::of(&call.stored, &call.info.subresource)?;
    let mut warnings = Vec::new();
    let sent = match lens {
        Lens::Scale(_) => decode::untyped(body)?,
        _ => decode::object(call, body, options.field_validation, &mut warnings)?,
    };
    check_name(call, &sent)?;
    if lens == Lens::Main
        && call.stored.rules.allow_create_on_update
        && current(server, call).await?.is_none()
    {
        let made = create_instead(server, call, sent.into(), &options, &mut warnings).await?;
        return Ok(made.with_warnings(warnings));
    }
    let owner = Owner::of(server, call, &lens, &options.manager);
    let change = Change {
        call,
        lens: &lens,
        dry_run: options.dry_run,
        options: options.to_value("UpdateOptions"),
        admit: true,
        owner: Some(&owner),
    };
    let wanted = |old: &Value| lens.put(sent.clone(), old).map(Wanted::from);
    let object = change.run(server, &mut warnings, &wanted).await?.into_object();
    answer(server, call, &lens, object).await.map(|answer| answer.with_warnings(warnings))
}

/// What the client gets to see of a changed object.
pub async fn answer(
    server: &ApiServer,
    call: &ResourceCall,
    lens: &Lens,
    object: Cached,
) -> Result<Answer, ApiError> {
    if lens.is_whole() {
        return Ok(Answer::object(object.into()));
    }
    Ok(Answer::value(lens.view(&*convert::value(server, call, &object).await?)))
}

/// Makes the object that a PUT or an apply is about and that does not exist: to that its sender needs another right.
pub async fn create_instead(
    server: &ApiServer,
    call: &ResourceCall,
    wanted: Wanted,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Answer, ApiError> {
    let Wanted { mut object, owners } = wanted;
    if !meta::resource_version(&object).is_empty() {
        return Err(not_found(call));
    }
    if !meta::uid(&object).is_empty() {
        let (group, plural) = call.names();
        let why =
            format!("Precondition failed: UID in precondition: {}, UID in object meta: ", meta::uid(&object));
        return Err(ApiError::conflict(group, plural, &call.info.name, why));
    }
    let create = RequestInfo { verb: "create".to_owned(), ..call.info.clone() };
    authorize::check(server, &call.user, &create).await?;
    meta::set_name(&mut object, &call.info.name);
    let wanted = Wanted { object, owners };
    let made = create::create_object(server, call, wanted, options, warnings).await?;
    Ok(Answer::object(made.into()).with_code(StatusCode::CREATED))
}

/// The name in the body must be the one in the path.
fn check_name(call: &ResourceCall, object: &Value) -> Result<(), ApiError> {
    let (sent, asked) = (meta::name(object), &call.info.name);
    if sent.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({asked} based on URL) was undeterminable: name must be provided"
        )));
    }
    if sent != asked {
        return Err(other_name(sent, asked));
    }
    Ok(())
}

/// The refusal of an object that is not the one of the path.
pub fn other_name(sent: &str, asked: &str) -> ApiError {
    ApiError::bad_request(format!(
        "the name of the object ({sent}) does not match the name on the URL ({asked})"
    ))
}

impl Change<'_> {
    /// Reads, changes, admits, validates and commits, again if somebody else was faster and the client did not insist on
    /// a revision. `change` maps the stored object to the wanted one.
    pub async fn run(
        &self,
        server: &ApiServer,
        warnings: &mut Vec<String>,
        change: &(dyn Fn(&Value) -> Result<Wanted, ApiError> + Send + Sync),
    ) -> Result<Changed, ApiError> {
        let before = warnings.len();
        for _ in 0..ATTEMPTS {
            warnings.truncate(before);
            let stored = current(server, self.call).await?.ok_or_else(|| not_found(self.call))?;
            let old = convert::value(server, self.call, &stored).await?;
            let Wanted { object: mut new, owners } = change(&old)?;
            let insists = self.revision_matches(&new, &old)?;
            self.prepare(&mut new, &old)?;
            let owners = owners.unwrap_or_else(|| self.owners(&new, &old));
            meta::metadata_mut(&mut new).remove("managedFields");
            match self.finish(server, warnings, (&stored, &old), new, &owners).await? {
                Some(changed) => return Ok(changed),
                None if insists => break,
                None => {}
            }
        }
        let (group, plural) = self.call.names();
        Err(ApiError::stale(group, plural, &self.call.info.name))
    }

    /// Whether the client insists on a revision; another one than the stored is a conflict.
    fn revision_matches(&self, new: &Value, old: &Value) -> Result<bool, ApiError> {
        let call = self.call;
        let (group, plural) = call.names();
        let sent = meta::resource_version(new);
        if sent.is_empty() || sent == "0" {
            if *self.lens == Lens::Main && !call.stored.rules.allow_unconditional_update {
                let mut errors = api_machinery::field::Errors::new();
                let path = api_machinery::field::Path::new("metadata");
                errors.invalid(&path.child("resourceVersion"), 0, "must be specified for an update");
                return Err(ApiError::invalid(group, &call.resource.kind, &call.info.name, errors));
            }
            return Ok(false);
        }
        let uid = meta::uid(new);
        if !uid.is_empty() && uid != meta::uid(old) {
            let why = format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                meta::uid(old)
            );
            return Err(ApiError::conflict(group, plural, &call.info.name, why));
        }
        if sent != meta::resource_version(old) {
            return Err(ApiError::stale(group, plural, &call.info.name));
        }
        // A patch that does not mention the revision carries the stored one; it was based on it, not sent with it.
        Ok(self.call.info.verb != "patch")
    }

    /// Who owns what after the change.
    fn owners(&self, new: &Value, old: &Value) -> Tracked {
        match self.owner {
            Some(owner) => owner.track(Some(old), new),
            None => Tracked::as_stored(old),
        }
    }

    /// Puts back what this request may not change.
    fn prepare(&self, new: &mut Value, old: &Value) -> Result<(), ApiError> {
        let resource = &*self.call.stored;
        create::place(resource, &self.call.namespace, new)?;
        keep_metadata(new, old);
        match self.lens {
            Lens::Status => (resource.rules.prepare_status)(new, old),
            Lens::Main | Lens::Scale(_) => (resource.rules.prepare_update)(new, old),
            Lens::Part(name) => {
                if let Some(part) = resource.part(name) {
                    (part.prepare)(new, old);
                }
            }
            Lens::Bind | Lens::Finalize => {}
        }
        decode::default(resource, new);
        let counted = resource.has_generation && !matches!(self.lens, Lens::Status | Lens::Bind);
        if counted && spec_changed(resource, new, old) {
            // The kind's own rules may have counted this change already.
            meta::set_generation(new, meta::generation(new).max(meta::generation(old) + 1));
        }
        Ok(())
    }

    /// Admission, validation and commit; `None` when the stored object has changed meanwhile.
    async fn finish(
        &self,
        server: &ApiServer,
        warnings: &mut Vec<String>,
        (stored, old): (&Cached, &Value),
        mut new: Value,
        owners: &Tracked,
    ) -> Result<Option<Changed>, ApiError> {
        let call = self.call;
        let admission = Admission {
            call,
            operation: Operation::Update,
            old: Some(old),
            dry_run: self.dry_run,
            options: &self.options,
        };
        if self.admit {
            if admission.mutate(server, Some(&mut new), warnings).await? {
                self.prepare(&mut new, old)?;
                meta::metadata_mut(&mut new).remove("managedFields");
            }
            decode::default(&call.stored, &mut new);
        }
        validate::updated(call, self.lens, &new, old)?;
        warnings.extend((call.stored.rules.warnings)(&new, Some(old)));
        let claims = allocation::plan(server, call, Some(old), Some(&mut new)).await?;
        let mut charge = Charge::nothing();
        if self.admit {
            admission.check(server, Some(&mut new), warnings).await?;
            charge = quota::charge(server, &admission, &new).await?;
        }
        let key = call.key();
        let store_key = call.store_key();
        let bytes = commit::encode_with(&*convert::storable(server, call, &new).await?, owners)?;
        // What was stored in another version is stored anew, which is how migrations go on.
        let current = call.custom.is_none() || bytes == stored.bytes;
        if !owners.changed && is_same(&new, old) && current {
            return Ok(Some(Changed::Stored(Cached::new(&key, stored.bytes.clone(), stored.revision))));
        }
        if self.dry_run {
            return Ok(Some(Changed::Stored(Cached::new(&key, bytes, stored.revision))));
        }
        let done = super::delete::is_done(&new);
        let txn = if done {
            allocation::plan(server, call, Some(old), None)
                .await?
                .join(commit::removal(&store_key, stored.revision))
        } else {
            claims.join(commit::replacement(&store_key, stored.revision, bytes.clone()))
        };
        Ok(match charge.commit(server, txn).await? {
            Committed::Done(revision) if done => Some(Changed::Removed(Cached::new(&key, bytes, revision))),
            Committed::Done(revision) => Some(Changed::Stored(Cached::new(&key, bytes, revision))),
            Committed::Conflict => None,
        })
    }
}

/// Metadata that belongs to the server stays as it is; what a client leaves out is filled in.
fn keep_metadata(new: &mut Value, old: &Value) {
    let stored = meta::metadata(old).cloned().unwrap_or_default();
    let metadata = meta::metadata_mut(new);
    metadata.remove("selfLink");
    // Fixed once set; a different value in the body is found by validation, an absent one is filled in.
    for field in ["name", "uid", "creationTimestamp"] {
        if metadata.get(field).is_none_or(serde_json::Value::is_null)
            && let Some(value) = stored.get(field)
        {
            metadata.insert(field.to_owned(), value.clone());
        }
    }
    for field in
        ["generation", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName", "resourceVersion"]
    {
        match stored.get(field) {
            Some(value) => metadata.insert(field.to_owned(), value.clone()),
            None => metadata.remove(field),
        };
    }
}

/// Whether two objects are the same, apart from who owns what.
fn is_same(new: &Value, old: &Value) -> bool {
    let rest = |object| {
        let fields = Value::as_object(object).into_iter().flatten();
        fields.filter(|(key, _)| *key != "metadata")
    };
    let metadata = |object| {
        let fields = meta::metadata(object).into_iter().flatten();
        fields.filter(|(key, _)| *key != "managedFields")
    };
    rest(new).eq(rest(old)) && metadata(new).eq(metadata(old))
}

/// Whether anything but metadata and status differs. A definition that does not set status apart has none to speak of.
fn spec_changed(resource: &Resource, new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new != old };
    let status_counts = resource.defined.is_some() && !resource.subresources.status;
    let relevant = |key: &str| match key {
        "metadata" | "apiVersion" | "kind" => false,
        key => key != "status" || status_counts,
    };
    let of = |fields: &serde_json::Map<String, Value>| {
        fields
            .iter()
            .filter(|(key, _)| relevant(key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect::<Vec<_>>()
    };
    of(new) != of(old)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn status_that_is_not_set_apart_counts() {
        let definition = |subresources: Value| {
            json!({"spec": {"group": "example.com", "names": {"kind": "Widget", "plural": "widgets"}, "versions": [
                {"name": "v1", "served": true, "storage": true, "subresources": subresources}]}})
        };
        let old = json!({"metadata": {"name": "a"}, "spec": {"x": 1}, "status": {"s": 1}});
        for (subresources, status_counts) in [(json!({}), true), (json!({"status": {}}), false)] {
            let defined =
                api_catalog::custom::define(&definition(subresources)).expect("has the form of a definition");
            let changed = |field: &str| {
                let mut new = old.clone();
                new[field] = json!({"other": 1});
                spec_changed(&defined.storage().resource, &new, &old)
            };
            assert_eq!(
                (changed("metadata"), changed("spec"), changed("status")),
                (false, true, status_counts)
            );
        }
    }
}
