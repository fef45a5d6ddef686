//! `AdmissionReview`: what a webhook is sent, and what its answer says. Bytes from outside are read here, and nothing that
//! they hold is believed before it was looked at.

use api_machinery::decode;
use api_machinery::field::go_quote;
use api_machinery::patch::json::Patch;
use api_machinery::resource::group_version;
use api_machinery::status::{ApiError, Cause, Details, Reason};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const GROUP: &str = "admission.k8s.io";

/// The versions that are spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// As it is.
    V1,
    /// As it was: answers need neither their uid nor the type of their patch.
    V1Beta1,
}

impl Version {
    /// The first of a list that is known.
    pub fn first_of<'a>(mut versions: impl Iterator<Item = &'a str>) -> Option<Version> {
        versions.find_map(|version| match version {
            "v1" => Some(Version::V1),
            "v1beta1" => Some(Version::V1Beta1),
            _ => None,
        })
    }

    fn as_str(self) -> &'static str {
        match self {
            Version::V1 => "v1",
            Version::V1Beta1 => "v1beta1",
        }
    }
}

#[derive(Serialize)]
struct Sent<'a> {
    kind: &'static str,
    #[serde(rename = "apiVersion")]
    api_version: String,
    request: Request<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    #[serde(flatten)]
    about: &'a Map<String, Value>,
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
}

/// The body of a request to a webhook.
pub fn body(
    version: Version,
    uid: &str,
    about: &Map<String, Value>,
    object: Option<&Value>,
    old_object: Option<&Value>,
) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Sent {
        kind: "AdmissionReview",
        api_version: group_version(GROUP, version.as_str()),
        request: Request { uid, about, object, old_object },
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Received {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    response: Option<Response>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    #[serde(default)]
    uid: Option<String>,
    #[serde(default)]
    allowed: Option<bool>,
    #[serde(default)]
    status: Option<Said>,
    #[serde(default)]
    patch: Option<String>,
    #[serde(default)]
    patch_type: Option<String>,
    #[serde(default)]
    audit_annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    warnings: Option<Vec<String>>,
}

/// The `Status` with which a webhook explains itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Said {
    message: Option<String>,
    reason: Option<String>,
    code: Option<i64>,
    details: Option<Value>,
}

/// What a webhook says.
#[derive(Debug)]
pub struct Answer {
    /// What goes into the audit log.
    pub audit_annotations: BTreeMap<String, String>,
    /// What the client is told.
    pub warnings: Vec<String>,
    /// Go on, with these changes, or not.
    pub verdict: Result<Vec<u8>, ApiError>,
}

/// Why an answer is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// It is no review.
    #[error("failed to call webhook: {0}")]
    Malformed(String),
    /// It is not an answer to what was asked.
    #[error("received invalid webhook response: {0}")]
    Invalid(String),
    /// It changes the object in a way that nobody knows.
    #[error("unsupported patch type {}", go_quote(.0))]
    PatchType(String),
}

fn invalid<T>(why: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable::Invalid(why.into()))
}

/// Reads the answer of the webhook `name` to the review `uid`.
pub fn read(
    bytes: &[u8],
    version: Version,
    uid: &str,
    name: &str,
    mutating: bool,
) -> Result<Answer, Unreadable> {
    let malformed = |why: &dyn std::fmt::Display| {
        Unreadable::Malformed(format!("couldn't get version/kind; json parse error: {why}"))
    };
    let value = decode::json(bytes, None).map_err(|error| malformed(&error))?.value;
    let received: Received = serde_json::from_value(value).map_err(|error| malformed(&error))?;
    let Some(response) = received.response else { return invalid("webhook response was absent") };
    let expected = group_version(GROUP, version.as_str());
    if version == Version::V1 {
        let answered = response.uid.as_deref().unwrap_or_default();
        if answered != uid {
            return invalid(format!("expected response.uid={}, got {}", go_quote(uid), go_quote(answered)));
        }
        if received.api_version != expected || received.kind != "AdmissionReview" {
            return invalid(format!(
                "expected webhook response of {expected}, Kind=AdmissionReview, got {}, Kind={}",
                received.api_version, received.kind
            ));
        }
    }
    let patch = patch(&response, version, mutating)?;
    let allowed = response.allowed.unwrap_or(false);
    Ok(Answer {
        audit_annotations: response.audit_annotations.unwrap_or_default(),
        warnings: response.warnings.unwrap_or_default(),
        verdict: if allowed { Ok(patch) } else { Err(denial(name, response.status.unwrap_or_default())) },
    })
}

/// The patch, which is empty if there is none.
fn patch(response: &Response, version: Version, mutating: bool) -> Result<Vec<u8>, Unreadable> {
    let patch = response.patch.as_deref().unwrap_or_default();
    let patch = match STANDARD.decode(patch) {
        Ok(patch) => patch,
        Err(error) => return Err(Unreadable::Malformed(format!("response.patch is no base64: {error}"))),
    };
    match (mutating, version, response.patch_type.as_deref()) {
        (true, Version::V1, None) if !patch.is_empty() => {
            invalid("webhook returned response.patch but not response.patchType")
        }
        (true, Version::V1, Some(_)) if patch.is_empty() => {
            invalid("webhook returned response.patchType but not response.patch")
        }
        (true, Version::V1, Some("")) => invalid("webhook returned invalid response.patchType of \"\""),
        (true, Version::V1, Some(kind)) if kind != "JSONPatch" => Err(Unreadable::PatchType(kind.to_owned())),
        (true, _, _) => Ok(patch),
        (false, Version::V1, _) if !patch.is_empty() => {
            invalid("validating webhook may not return response.patch")
        }
        (false, Version::V1, Some(_)) => invalid("validating webhook may not return response.patchType"),
        (false, _, _) => Ok(Vec::new()),
    }
}

/// What the client gets to read of a refusal.
fn denial(name: &str, said: Said) -> ApiError {
    let text = |text: Option<String>| text.filter(|text| !text.is_empty());
    let (message, reason) = (text(said.message), text(said.reason));
    let denied = format!("admission webhook {} denied the request", go_quote(name));
    let message = match message.or_else(|| reason.clone()) {
        Some(why) => format!("{denied}: {why}"),
        None => format!("{denied} without explanation"),
    };
    let reason = reason.as_deref().and_then(Reason::of).unwrap_or(Reason::Unknown);
    let code = said.code.unwrap_or(0).max(400);
    let code = u16::try_from(code).ok().filter(|code| *code < 1000).unwrap_or(500);
    let error = ApiError::new(reason, message).with_code(code);
    match said.details.as_ref().and_then(Value::as_object) {
        Some(said) => error.with_details(details(said)),
        None => error,
    }
}

fn details(said: &Map<String, Value>) -> Details {
    let text = |of: &Map<String, Value>, field: &str| {
        of.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let causes = said.get("causes").and_then(Value::as_array).into_iter().flatten();
    let retry = said.get("retryAfterSeconds").and_then(Value::as_u64).unwrap_or(0);
    Details {
        name: text(said, "name"),
        group: text(said, "group"),
        kind: text(said, "kind"),
        uid: text(said, "uid"),
        causes: causes
            .filter_map(Value::as_object)
            .map(|cause| Cause {
                reason: text(cause, "reason"),
                message: text(cause, "message"),
                field: text(cause, "field"),
            })
            .collect(),
        retry_after_seconds: u32::try_from(retry).unwrap_or(u32::MAX),
    }
}

/// The object after a webhook's patch; `None` if that changes nothing.
pub fn patched(name: &str, patch: &[u8], object: Option<&Value>) -> Result<Option<Value>, ApiError> {
    if patch.is_empty() {
        return Ok(None);
    }
    let patch = Patch::parse(patch).map_err(|error| ApiError::internal(error.message()))?;
    if patch.is_empty() {
        return Ok(None);
    }
    let Some(object) = object else {
        return Err(ApiError::internal(format_args!(
            "admission webhook {} attempted to modify the object, which is not supported for this operation",
            go_quote(name)
        )));
    };
    let new = patch.try_apply(object).map_err(ApiError::internal)?;
    let kept = ["apiVersion", "kind"].iter().all(|field| new.get(field) == object.get(field));
    if !new.is_object() || !kept {
        return Err(ApiError::internal(format_args!(
            "admission webhook {} made something else of the object",
            go_quote(name)
        )));
    }
    Ok((new != *object).then_some(new))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer(response: Value, mutating: bool) -> Result<Answer, String> {
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        read(review.to_string().as_bytes(), Version::V1, "u", "w", mutating)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn answers_that_are_none() {
        let patch = STANDARD.encode("[]");
        let invalid = |why: &str| format!("received invalid webhook response: {why}");
        for (response, mutating, want) in [
            (Value::Null, true, invalid("webhook response was absent")),
            (json!({}), true, invalid("expected response.uid=\"u\", got \"\"")),
            (json!({"uid": "x", "allowed": true}), false, invalid("expected response.uid=\"u\", got \"x\"")),
            (
                json!({"uid": "u", "patch": patch}),
                true,
                invalid("webhook returned response.patch but not response.patchType"),
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                true,
                invalid("webhook returned response.patchType but not response.patch"),
            ),
            (
                json!({"uid": "u", "patch": patch}),
                false,
                invalid("validating webhook may not return response.patch"),
            ),
            (
                json!({"uid": "u", "patchType": "JSONPatch"}),
                false,
                invalid("validating webhook may not return response.patchType"),
            ),
            (
                json!({"uid": "u", "patch": patch, "patchType": "Merge"}),
                true,
                "unsupported patch type \"Merge\"".to_owned(),
            ),
        ] {
            assert_eq!(answer(response.clone(), mutating).expect_err("none"), want, "{response}");
        }
        for bytes in
            ["", "[]", "{", "1", "null", "{\"response\": 1}", "{\"response\": {\"allowed\": \"yes\"}}"]
        {
            let error = read(bytes.as_bytes(), Version::V1, "u", "w", true).expect_err("none").to_string();
            assert!(error.contains("failed to call") || error.contains("absent"), "{bytes}: {error}");
        }
        let other = json!({"kind": "Pod", "apiVersion": "v1", "response": {"uid": "u"}}).to_string();
        let error = read(other.as_bytes(), Version::V1, "u", "w", true).expect_err("none").to_string();
        let want = "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got v1, Kind=Pod";
        assert_eq!(error, invalid(want));
    }

    #[test]
    fn refusals_are_passed_on_as_errors_whatever_they_say() {
        let denied = "admission webhook \"w\" denied the request";
        for (status, code, reason, message) in [
            (Value::Null, 400, "", format!("{denied} without explanation")),
            (
                json!({"message": "no", "reason": "Forbidden", "code": 403}),
                403,
                "Forbidden",
                format!("{denied}: no"),
            ),
            (json!({"reason": "Conflict", "code": 200}), 400, "Conflict", format!("{denied}: Conflict")),
            (json!({"status": "Success", "code": 70_000}), 500, "", format!("{denied} without explanation")),
            (json!({"code": -1, "message": ""}), 400, "", format!("{denied} without explanation")),
        ] {
            let answer = answer(json!({"uid": "u", "allowed": false, "status": status}), true).expect("read");
            let error = answer.verdict.expect_err("denied");
            assert_eq!((error.code(), error.reason().as_str(), error.message()), (code, reason, &*message));
        }
        let causes = json!([{"field": "spec.a", "message": "bad", "reason": "FieldValueInvalid"}]);
        let status = json!({"message": "no", "details": {"causes": causes, "retryAfterSeconds": 3}});
        let error =
            answer(json!({"uid": "u", "status": status}), false).expect("read").verdict.expect_err("denied");
        assert_eq!(error.to_value()["details"]["causes"], causes);
        assert_eq!(error.retry_after(), Some(3));
    }

    #[test]
    fn patches() {
        let object = json!({"apiVersion": "v1", "kind": "Pod", "a": 1});
        let apply = |patch: &str, object: Option<&Value>| patched("w", patch.as_bytes(), object);
        assert_eq!(apply("", Some(&object)), Ok(None));
        assert_eq!(apply("[]", None), Ok(None));
        let same = r#"[{"op": "replace", "path": "/a", "value": 1}]"#;
        assert_eq!(apply(same, Some(&object)), Ok(None));
        let add = r#"[{"op": "add", "path": "/b", "value": 2}]"#;
        assert_eq!(apply(add, Some(&object)).expect("applies").expect("changes")["b"], 2);
        for (patch, object, part) in [
            (add, None, "attempted to modify the object, which is not supported for this operation"),
            (r#"[{"op": "remove", "path": "/x"}]"#, Some(&object), "remove operation does not apply"),
            (r#"[{"op": "replace", "path": "", "value": 1}]"#, Some(&object), "made something else"),
            (
                r#"[{"op": "replace", "path": "/kind", "value": "Node"}]"#,
                Some(&object),
                "made something else",
            ),
            ("{}", Some(&object), "patch"),
            ("[{}]", Some(&object), "patch"),
        ] {
            let error = apply(patch, object).expect_err(patch);
            assert!(error.code() == 500 && error.message().contains(part), "{patch}: {error:?}");
        }
    }

    #[test]
    fn whatever_comes_is_read_or_refused() {
        let patch = STANDARD.encode(r#"[{"op": "add", "path": "/a/-", "value": [1]}]"#);
        let status = json!({"code": 403, "details": {"causes": [{"field": "a"}], "retryAfterSeconds": 1}});
        let response = json!({"uid": "u", "allowed": true, "patch": patch, "patchType": "JSONPatch", "status": status,
            "warnings": ["w"], "auditAnnotations": {"a": "b"}});
        let review =
            json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        let whole = review.to_string().into_bytes();
        let object = json!({"apiVersion": "v1", "kind": "Pod", "a": []});
        let mut read_well = 0;
        for at in 0..whole.len() {
            for byte in [0, b'"', b'{', b'[', b'9', b'-', b'\\', 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = byte;
                let answer = read(&bytes, Version::V1, "u", "w", true);
                read_well += usize::from(answer.is_ok());
                if let Ok(Answer { verdict: Ok(patch), .. }) = answer {
                    drop(patched("w", &patch, Some(&object)));
                }
            }
            assert!(read(&whole[..at], Version::V1, "u", "w", true).is_err(), "it is cut off at {at}");
        }
        assert!(read_well > 100);
    }

    #[test]
    fn what_is_sent() {
        let about = json!({"operation": "CREATE"}).as_object().cloned().expect("an object");
        let object = json!({"a": 1});
        let body = body(Version::V1Beta1, "u", &about, Some(&object), None).expect("JSON");
        let want = json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1beta1", "request": {
            "uid": "u", "operation": "CREATE", "object": {"a": 1}, "oldObject": null}});
        assert_eq!(serde_json::from_slice::<Value>(&body).expect("JSON"), want);
    }
}
