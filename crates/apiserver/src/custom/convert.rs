//! Objects of custom resources in the version in which somebody speaks of them: brought up to what their definition says now,
//! renamed, or converted by its webhook.
//!
//! Everything between decoding and storing sees the version of the request, as upstream has it; here are the two ways across.
//! Whatever a webhook answers, an object stays the same object: of its metadata only labels and annotations may change.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use api_machinery::field::{Errors, Path, go_quote};
use api_machinery::resource::Resource;
use api_machinery::status::{ApiError, Reason};
use api_machinery::{decode, encode, meta, structural};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Custom;
use crate::request::commit;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::watch::Cached;
use crate::webhooks::call;
use crate::webhooks::endpoint::Endpoint;

const REVIEW: &str = "ConversionReview";
/// How long a webhook may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Objects that are converted at a time.
const CHUNK: usize = 64;

/// How objects come from one version into another.
#[derive(Debug)]
pub enum Conversion {
    /// Only the version's name changes.
    Rename,
    /// Somebody else is asked.
    Webhook(Webhook),
}

/// Whom to ask, and in which version of the question.
#[derive(Debug)]
pub struct Webhook {
    endpoint: Result<Endpoint, String>,
    review: Option<&'static str>,
}

impl Conversion {
    /// Reads `spec.conversion`.
    pub fn of(conversion: &Value) -> Conversion {
        if conversion["strategy"] != "Webhook" {
            return Conversion::Rename;
        }
        let webhook = &conversion["webhook"];
        let versions = webhook["conversionReviewVersions"].as_array();
        let review = versions.into_iter().flatten().find_map(|version| match version.as_str()? {
            "v1" => Some("apiextensions.k8s.io/v1"),
            "v1beta1" => Some("apiextensions.k8s.io/v1beta1"),
            _ => None,
        });
        Conversion::Webhook(Webhook { endpoint: Endpoint::of(&webhook["clientConfig"], ""), review })
    }
}

/// A stored object in the version of the call.
pub async fn value(server: &ApiServer, call: &ResourceCall, object: &Cached) -> Result<Arc<Value>, ApiError> {
    let value = object.value().ok_or_else(|| ApiError::internal("the stored object does not decode"))?;
    of_call(server, call, object, value).await
}

/// The same of one whose value is known.
pub async fn of_call(
    server: &ApiServer,
    call: &ResourceCall,
    object: &Cached,
    value: Arc<Value>,
) -> Result<Arc<Value>, ApiError> {
    let Some(custom) = &call.custom else { return Ok(value) };
    let mut value = Arc::unwrap_or_clone(value);
    custom.bring_up(object, &mut value);
    let mut converted = convert(server, call, custom, vec![value], &call.resource).await?;
    Ok(Arc::new(converted.pop().unwrap_or_default()))
}

/// Stored objects as they would be stored if the version of the call were the stored one.
pub async fn shown(
    server: &ApiServer,
    call: &ResourceCall,
    mut objects: Vec<Arc<Cached>>,
) -> Result<Vec<Arc<Cached>>, ApiError> {
    let Some(custom) = &call.custom else { return Ok(objects) };
    let wanted = call.resource.api_version();
    let others: Vec<usize> =
        (0..objects.len()).filter(|at| !custom.is_current(&objects[*at], &wanted)).collect();
    for chunk in others.chunks(CHUNK) {
        let mut values = Vec::with_capacity(chunk.len());
        for object in chunk.iter().map(|at| &objects[*at]) {
            let value =
                object.value().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
            let mut value = Arc::unwrap_or_clone(value);
            custom.bring_up(object, &mut value);
            values.push(value);
        }
        let converted = convert(server, call, custom, values, &call.resource).await?;
        for (at, value) in chunk.iter().zip(converted) {
            let object = &objects[*at];
            objects[*at] = Arc::new(Cached::new(&object.key, commit::encode(&value)?, object.revision));
        }
    }
    Ok(objects)
}

/// An object of the call in the version in which it is to be stored.
pub async fn storable<'a>(
    server: &ApiServer,
    call: &ResourceCall,
    object: &'a Value,
) -> Result<Cow<'a, Value>, ApiError> {
    match &call.custom {
        Some(custom) => form(server, call, custom.definition.storage().resource.as_ref(), object).await,
        None => Ok(Cow::Borrowed(object)),
    }
}

/// An object of the call in another version of its resource.
pub async fn form<'a>(
    server: &ApiServer,
    call: &ResourceCall,
    into: &Resource,
    object: &'a Value,
) -> Result<Cow<'a, Value>, ApiError> {
    let Some(custom) = &call.custom else { return Ok(Cow::Borrowed(object)) };
    if meta::api_version(object) == into.api_version() {
        return Ok(Cow::Borrowed(object));
    }
    let mut converted = convert(server, call, custom, vec![object.clone()], into).await?;
    Ok(Cow::Owned(converted.pop().unwrap_or_default()))
}

impl Custom {
    /// Whether an object is stored as it is to be shown.
    fn is_current(&self, object: &Cached, api_version: &str) -> bool {
        object.revision >= self.since && encode::api_version(&object.bytes) == Some(api_version)
    }

    /// What was stored before the definition said what it says now loses what is not defined any longer, and gets defaults.
    fn bring_up(&self, object: &Cached, value: &mut Value) {
        if object.revision >= self.since {
            return;
        }
        let version = meta::api_version(value).to_owned();
        let mut versions = self.definition.versions.iter().map(|version| &version.resource);
        if let Some(resource) = versions.find(|resource| resource.api_version() == version) {
            prune(value, resource);
            structural::apply_defaults(value, resource.schema.view());
        }
    }
}

/// Nobody is there to be told of fields that are not defined.
fn prune(value: &mut Value, resource: &Resource) {
    drop(structural::prune(value, resource.schema.view()));
}

/// The objects in another version, in the same order.
async fn convert(
    server: &ApiServer,
    call: &ResourceCall,
    custom: &Custom,
    mut objects: Vec<Value>,
    into: &Resource,
) -> Result<Vec<Value>, ApiError> {
    let wanted = into.api_version();
    let others: Vec<usize> =
        (0..objects.len()).filter(|at| meta::api_version(&objects[*at]) != wanted).collect();
    if others.is_empty() {
        return Ok(objects);
    }
    match &*custom.conversion {
        Conversion::Rename => {
            for at in &others {
                objects[*at]["apiVersion"] = wanted.as_str().into();
            }
        }
        Conversion::Webhook(webhook) => {
            let asked: Vec<&Value> = others.iter().map(|at| &objects[*at]).collect();
            let from = format!("{}, Kind={}", meta::api_version(asked[0]), into.kind);
            let converted = webhook.ask(server, call, &asked, &wanted).await;
            let converted = converted.map_err(|why| {
                ApiError::new(Reason::Unknown, format!("conversion webhook for {from} {why}")).with_code(500)
            })?;
            for (at, object) in others.iter().zip(converted) {
                objects[*at] = object;
            }
        }
    }
    others.iter().for_each(|at| prune(&mut objects[*at], into));
    Ok(objects)
}

impl Webhook {
    /// Asks; whatever is wrong with the answer is said in the words that follow the webhook's name.
    async fn ask(
        &self,
        server: &ApiServer,
        call: &ResourceCall,
        objects: &[&Value],
        wanted: &str,
    ) -> Result<Vec<Value>, String> {
        let failed = |why: &dyn std::fmt::Display| format!("failed: {why}");
        let endpoint = self.endpoint.as_ref().map_err(|why| failed(why))?;
        let review = self.review.ok_or_else(|| failed(&"no supported conversion review versions"))?;
        let uid = server.entropy().uuid();
        let body = json!({"kind": REVIEW, "apiVersion": review,
            "request": {"uid": uid, "desiredAPIVersion": wanted, "objects": objects}});
        // A watch lasts for longer than any request.
        let left = call.deadline.saturating_duration_since(Instant::now());
        let patience = if call.info.verb == "watch" { PATIENCE } else { PATIENCE.min(left) };
        let answer = call::post(server, endpoint, body.to_string().into_bytes(), patience).await;
        let answer = answer.map_err(|error| failed(&error))?;
        let converted = read(&answer, review, &uid).map_err(|why| failed(&why))?;
        if converted.len() != objects.len() {
            return Err(format!("returned {} objects, expected {}", converted.len(), objects.len()));
        }
        let pairs = objects.iter().zip(converted).enumerate();
        pairs.map(|(at, (before, after))| same(before, after, wanted).map_err(|why| why.at(at))).collect()
    }
}

/// The converted objects in an answer.
fn read(bytes: &[u8], review: &str, uid: &str) -> Result<Vec<Value>, String> {
    let mut answer = decode::json(bytes, None).map_err(|error| error.to_string())?.value;
    if review.ends_with("/v1") {
        let (version, kind) = (meta::api_version(&answer), meta::kind(&answer));
        if (version, kind) != (review, REVIEW) {
            return Err(format!(
                "expected webhook response of {review}, Kind={REVIEW}, got {version}, Kind={kind}"
            ));
        }
    }
    let response = &mut answer["response"];
    if !response.is_object() {
        return Err("no response provided".to_owned());
    }
    let answered = response["uid"].as_str().unwrap_or_default();
    if review.ends_with("/v1") && answered != uid {
        return Err(format!("expected response.uid={}, got {}", go_quote(uid), go_quote(answered)));
    }
    let text = |field: &str| response["result"][field].as_str().unwrap_or_default();
    match (text("status"), text("message")) {
        ("Success", _) => {}
        (status, "") => return Err(format!("response.result.status was '{status}', not 'Success'")),
        (_, message) => return Err(message.to_owned()),
    }
    match response["convertedObjects"].take() {
        Value::Array(objects) => Ok(objects),
        Value::Null => Ok(Vec::new()),
        _ => Err("response.convertedObjects is no list".to_owned()),
    }
}

/// Why a converted object is none.
#[derive(Debug, PartialEq, Eq)]
enum Wrong {
    Object(String),
    Metadata(String),
}

impl Wrong {
    fn at(self, index: usize) -> String {
        match self {
            Wrong::Object(why) => format!("returned invalid converted object at index {index}: {why}"),
            Wrong::Metadata(why) => format!("returned invalid metadata in object at index {index}: {why}"),
        }
    }
}

/// A converted object with the metadata that it had, but for its labels and annotations; refused if it is another object.
fn same(before: &Value, mut after: Value, wanted: &str) -> Result<Value, Wrong> {
    let not = |why: String| Err(Wrong::Object(why));
    if !after.is_object() {
        return not("it is not an object".to_owned());
    }
    let version = meta::api_version(&after);
    if version != wanted {
        return not(format!("invalid groupVersion (expected {wanted}, received {version})"));
    }
    let (expected, kind) = (meta::kind(before), meta::kind(&after));
    if kind != expected {
        return not(format!("invalid kind (expected {expected}, received {kind})"));
    }
    for (what, of) in
        [("name", meta::name as fn(&Value) -> &str), ("namespace", meta::namespace), ("UID", meta::uid)]
    {
        if of(before) != of(&after) {
            return not(format!("must have the same {what}: {} != {}", of(before), of(&after)));
        }
    }
    let mut metadata = meta::metadata(before).cloned().unwrap_or_default();
    match after.get_mut("metadata").map(Value::take) {
        Some(Value::Object(mut new)) => {
            for field in ["labels", "annotations"] {
                let new = new.remove(field).unwrap_or_default();
                take_over(&mut metadata, field, new).map_err(Wrong::Metadata)?;
            }
        }
        Some(_) => return Err(Wrong::Metadata("invalid metadata in converted object".to_owned())),
        None => return Err(Wrong::Metadata("missing metadata in converted object".to_owned())),
    }
    after["metadata"] = Value::Object(metadata);
    Ok(after)
}

/// Labels or annotations as the webhook wants them.
fn take_over(metadata: &mut Map<String, Value>, field: &str, new: Value) -> Result<(), String> {
    let new = match new {
        Value::Null => {
            metadata.remove(field);
            return Ok(());
        }
        Value::Object(new) => new,
        _ => return Err(format!("invalid metadata.{field} in converted object")),
    };
    if let Some((key, _)) = new.iter().find(|(_, value)| !value.is_string()) {
        return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
    }
    if metadata.get(field).and_then(Value::as_object) != Some(&new) {
        let (mut errors, path) = (Errors::new(), Path::new("metadata"));
        match field {
            "labels" => meta::validate_labels(&new, &path.child(field), &mut errors),
            _ => meta::validate_annotations(&new, &path.child(field), &mut errors),
        }
        let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
        if !errors.is_empty() {
            return Err(api_machinery::field::aggregate(&errors));
        }
    }
    metadata.insert(field.to_owned(), Value::Object(new));
    Ok(())
}
