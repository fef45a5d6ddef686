//! Who owns which field of an object, and server-side apply.
//!
//! Two questions are answered, both purely: what a write does to `metadata.managedFields` ([`track`]), and what an applied
//! object makes of the stored one ([`apply`]). The list comes out as JSON that is written into the stored bytes as it is,
//! so that no write makes a second tree of its object.
//!
//! All owners of an object name fields as its stored version does: where a group has several versions, they share names.
//! Nothing here knows a kind, reads a clock or stores anything.

mod check;
mod fields_v1;
mod last_applied;
mod managed;
mod merge;
mod set;
mod typed;

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

pub use self::fields_v1::FieldsError;
pub use self::managed::ManagedError;
use self::managed::{Entry, Managed, Operation, list_of};
use self::set::{Element, FieldSet};
use self::typed::difference;
use crate::schema::View;
use crate::status::{ApiError, Cause, Reason};

/// The owner of what nobody owned when an object was first applied.
const BEFORE_FIRST: &str = "before-first-apply";

/// Metadata that is the server's or says which object it is: nobody owns it.
const UNOWNED_METADATA: [&str; 8] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The part of an object that a path writes; what else is sent is not owned by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// All but `status`, which is another path's.
    ButStatus,
    /// `status` and metadata.
    Status,
}

impl Part {
    fn has(self, field: &str) -> bool {
        match self {
            Part::Whole => true,
            Part::ButStatus => field != "status",
            Part::Status => field == "status",
        }
    }
}

/// A write as far as ownership is concerned.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// What the object looks like.
    pub schema: View<'a>,
    /// Who writes.
    pub manager: &'a str,
    /// Through which subresource, or empty.
    pub subresource: &'a str,
    /// The version of the object, such as `apps/v1`.
    pub api_version: &'a str,
    /// All versions that are served. Owners in others are forgotten.
    pub versions: &'a [String],
    /// What the path writes.
    pub part: Part,
    /// When.
    pub now: Timestamp,
}

/// What a write comes to for `managedFields`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tracked {
    /// The list as JSON; empty when there is none.
    pub json: String,
    /// Whether anybody owns something else than before, times apart.
    pub changed: bool,
}

impl Tracked {
    /// The owners of an object as they are.
    pub fn as_stored(object: &Value) -> Tracked {
        let list = object.pointer("/metadata/managedFields").filter(|list| !list.is_null());
        Tracked { json: list.map_or_else(String::new, Value::to_string), changed: false }
    }
}

/// Why an object cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The applied object does not fit the schema.
    #[error("failed to create typed patch object ({object}): {why}")]
    NotTyped {
        /// `NAMESPACE/NAME; GROUP/VERSION, Kind=KIND`.
        object: String,
        /// What does not fit.
        why: String,
    },
    /// Ownership is not the client's to state.
    #[error("metadata.managedFields must be nil")]
    HasManagedFields,
    /// The stored list does not read.
    #[error("failed to decode managed fields: {0}")]
    Managed(#[from] ManagedError),
    /// Others own what would change, each with the paths of it.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<(String, Vec<String>)>),
}

fn conflict_message(conflicts: &[(String, Vec<String>)]) -> String {
    let count: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    if let [(manager, paths)] = conflicts
        && let [path] = paths.as_slice()
    {
        return format!("Apply failed with 1 conflict: conflict with {manager}: {path}");
    }
    let mut lines = Vec::new();
    for (manager, paths) in conflicts {
        lines.push(format!("conflicts with {manager}:"));
        lines.extend(paths.iter().map(|path| format!("- {path}")));
    }
    format!("Apply failed with {count} conflicts: {}", lines.join("\n"))
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> ApiError {
        let text = error.to_string();
        match error {
            ApplyError::NotTyped { .. } | ApplyError::Managed(_) => {
                ApiError::new(Reason::Unknown, text).with_code(500)
            }
            ApplyError::HasManagedFields => ApiError::bad_request(text),
            ApplyError::Conflicts(conflicts) => {
                let mut answer = ApiError::new(Reason::Conflict, text);
                for (manager, paths) in conflicts {
                    for field in paths {
                        let message = format!("conflict with {manager}");
                        answer = answer.with_cause(Cause {
                            reason: "FieldManagerConflict".to_owned(),
                            message,
                            field,
                        });
                    }
                }
                answer
            }
        }
    }
}

/// What a write other than apply does to the owners of an object: the writer owns what it added or changed, and nobody else
/// does. Without a live object it is about to be made. The new object may bring a list of its own, except through a
/// subresource; a list of one empty entry resets ownership, after which writes are not tracked until somebody applies.
pub fn track(live: Option<&Value>, new: &Value, write: &Write<'_>) -> Tracked {
    let (mut managed, mut changed) = owners(live, new, write);
    if managed.0.is_empty() && live.is_some() {
        return Tracked { json: String::new(), changed };
    }
    changed |= updated(&mut managed, live, new, write);
    managed.cap();
    Tracked { json: managed.encode(), changed }
}

/// The owners to begin with, and whether they are others than the stored.
fn owners<'a>(live: Option<&'a Value>, new: &'a Value, write: &Write<'_>) -> (Managed<'a>, bool) {
    let (stored, sent) = (list_of(live), list_of(Some(new)));
    if write.subresource.is_empty() {
        if let [only] = sent
            && only.as_object().is_some_and(serde_json::Map::is_empty)
        {
            return (Managed::default(), !stored.is_empty());
        }
        // Clients that do not understand the list must not lose it by accident.
        if let Ok(managed) = Managed::decode(sent)
            && !managed.0.is_empty()
        {
            return (managed, sent != stored);
        }
    }
    match Managed::decode(stored) {
        Ok(managed) => (managed, false),
        Err(_) => (Managed::default(), true),
    }
}

/// Gives what a write added or changed to its writer; says whether any owner owns something else now.
fn updated<'a>(
    managed: &mut Managed<'a>,
    live: Option<&'a Value>,
    new: &'a Value,
    write: &Write<'a>,
) -> bool {
    let mut found = difference(live, Some(new), write.schema);
    found.added.add(found.modified);
    let mut taken = found.added;
    strip(&mut taken, write.part);
    strip(&mut found.removed, write.part);
    let me = entry(write, Operation::Update);
    let mut changed = forget_versions(managed, write);
    for other in &mut managed.0 {
        if !other.is_same(&me) {
            changed |= other.fields.subtract(&taken);
        }
        changed |= other.fields.subtract(&found.removed);
    }
    managed.0.retain(|entry| !entry.fields.is_empty());
    if taken.is_empty() {
        return changed;
    }
    match managed.0.iter_mut().find(|entry| entry.is_same(&me)) {
        Some(mine) => {
            changed |= mine.fields.add(taken);
            mine.time = Some(write.now);
        }
        None => {
            changed = true;
            managed.0.push(Entry { fields: taken, ..me });
        }
    }
    changed
}

fn entry<'a>(write: &Write<'a>, operation: Operation) -> Entry<'a> {
    Entry {
        manager: Cow::Borrowed(write.manager),
        operation,
        api_version: Cow::Borrowed(write.api_version),
        time: Some(write.now),
        subresource: Cow::Borrowed(write.subresource),
        fields: FieldSet::default(),
    }
}

fn forget_versions(managed: &mut Managed<'_>, write: &Write<'_>) -> bool {
    let before = managed.0.len();
    managed.0.retain(|entry| write.versions.iter().any(|version| *version == entry.api_version));
    managed.0.len() != before
}

/// Leaves out what nobody owns.
fn strip(set: &mut FieldSet<'_>, part: Part) {
    set.member = false;
    set.inner.retain_mut(|(element, inner)| {
        let Element::Field(name) = element else { return true };
        match &**name {
            "apiVersion" | "kind" => false,
            "metadata" => {
                inner.member = false;
                inner.inner.retain(|(element, _)| match element {
                    Element::Field(name) => !UNOWNED_METADATA.contains(&&**name),
                    _ => true,
                });
                !inner.is_empty()
            }
            name => part.has(name),
        }
    });
}

/// What applying comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Applied {
    /// The object as it is to be, with the list of the live one if that has one.
    pub object: Value,
    /// Who owns it.
    pub tracked: Tracked,
}

/// Applies an object to the live one; without one it is about to be made. What the manager applied last and leaves out now
/// goes, unless somebody else owns it. What others own and this changes is a conflict, unless `force` takes it over.
pub fn apply(
    live: Option<&Value>,
    applied: &Value,
    write: &Write<'_>,
    force: bool,
) -> Result<Applied, ApplyError> {
    if applied.pointer("/metadata/managedFields").is_some_and(|list| !list.is_null()) {
        return Err(ApplyError::HasManagedFields);
    }
    fits(applied, write.schema, write.api_version)?;
    let mut managed = Managed::decode(list_of(live))?;
    let mut changed = forget_versions(&mut managed, write);
    if managed.0.is_empty() && live.is_some() {
        let first = Write { manager: BEFORE_FIRST, ..*write };
        changed |= live.is_some_and(|live| updated(&mut managed, None, live, &first));
    }
    let mut stated = typed::stated(applied, Some(write.schema));
    strip(&mut stated, write.part);
    let me = entry(write, Operation::Apply);
    let last = managed.0.iter().position(|entry| entry.is_same(&me)).map(|at| managed.0.remove(at));
    let nothing = Value::Object(serde_json::Map::new());
    let before = live.unwrap_or(&nothing);
    let mut object = merge::merge(before, applied, Some(write.schema));
    if let Some(last) = &last {
        let mut owned = stated.clone();
        for other in &managed.0 {
            owned.add(other.fields.clone());
        }
        merge::prune(&mut object, &last.fields, &owned, Some(write.schema));
    }
    let mut found = difference(Some(before), Some(&object), write.schema);
    found.added.add(found.modified);
    strip(&mut found.added, write.part);
    strip(&mut found.removed, write.part);
    let differs = !found.added.is_empty() || !found.removed.is_empty();
    let conflicts = conflicts(&managed, &found.added);
    if !force && !conflicts.is_empty() {
        refuse(conflicts, live, write)?;
    }
    for other in &mut managed.0 {
        changed |= other.fields.subtract(&found.added);
        changed |= other.fields.subtract(&found.removed);
    }
    managed.0.retain(|entry| !entry.fields.is_empty());
    let same = last.as_ref().map_or(stated.is_empty(), |last| last.fields == stated);
    changed |= !same;
    if !stated.is_empty() {
        let kept = last.and_then(|last| last.time).filter(|_| same && !differs);
        managed.0.push(Entry { fields: stated, time: kept.or(me.time), ..me });
    }
    let json = managed.encode();
    last_applied::keep_up(&mut object, applied, write);
    Ok(Applied { object, tracked: Tracked { json, changed } })
}

/// Why something is not merged into an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergeError {
    /// It does not fit the schema.
    #[error("failed to convert patch object to typed object: {0}")]
    NotTyped(ApplyError),
    /// It would replace what is there as a whole, where only parts are said.
    #[error("invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: {}", .0.join(", "))]
    Atomic(Vec<String>),
}

/// An object with everything that another one states, where nobody owns anything.
pub fn merged(
    live: &Value,
    applied: &Value,
    schema: View<'_>,
    api_version: &str,
) -> Result<Value, MergeError> {
    fits(applied, schema, api_version).map_err(MergeError::NotTyped)?;
    let mut atomic = Vec::new();
    typed::atomics(applied, schema, &mut String::new(), &mut atomic);
    if !atomic.is_empty() {
        return Err(MergeError::Atomic(atomic));
    }
    Ok(merge::merge(live, applied, Some(schema)))
}

/// Whether an applied object fits the schema of the version in which it was sent.
pub fn fits(applied: &Value, schema: View<'_>, api_version: &str) -> Result<(), ApplyError> {
    match check::check(applied, schema) {
        None => Ok(()),
        Some(why) => Err(ApplyError::NotTyped { object: named(applied, api_version), why }),
    }
}

type Conflict<'a, 'b> = (&'b Entry<'a>, FieldSet<'a>);

fn conflicts<'a, 'b>(managed: &'b Managed<'a>, changes: &FieldSet<'_>) -> Vec<Conflict<'a, 'b>> {
    let with = |entry: &'b Entry<'a>| (entry, entry.fields.intersection(changes));
    let mut found: Vec<_> = managed.0.iter().map(with).filter(|(_, fields)| !fields.is_empty()).collect();
    found.sort_by(|(a, _), (b, _)| a.order(b));
    found
}

/// Refuses, unless all that is in the way is what kubectl wrote there by applying on the client's side.
fn refuse(
    mut conflicts: Vec<Conflict<'_, '_>>,
    live: Option<&Value>,
    write: &Write<'_>,
) -> Result<(), ApplyError> {
    if let Some(text) = last_applied::of_live(live, write) {
        let allowed = last_applied::still_true(&text, live, write);
        for (_, fields) in &mut conflicts {
            fields.subtract(&allowed);
        }
        conflicts.retain(|(_, fields)| !fields.is_empty());
        if conflicts.is_empty() {
            return Ok(());
        }
    }
    let told = conflicts.into_iter().map(|(entry, fields)| (entry.shown(), fields.paths()));
    Err(ApplyError::Conflicts(told.collect()))
}

/// An object as errors name it.
fn named(object: &Value, api_version: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let (namespace, name) = (crate::meta::namespace(object), crate::meta::name(object));
    format!("{namespace}/{name}; {group}/{version}, Kind={}", crate::meta::kind(object))
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod properties;
