//! The answer to a request that fails: a `Status` object with upstream's reasons, codes and wording.
//!
//! Only the shape and the words; which error applies is decided by who constructs it.

use std::fmt;

use serde_json::{Map, Value, json};

use crate::field::{self, FieldError, go_quote};

/// `status.reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum Reason {
    Unknown,
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
}

impl Reason {
    const ALL: [Reason; 19] = [
        Reason::Unknown,
        Reason::Unauthorized,
        Reason::Forbidden,
        Reason::NotFound,
        Reason::AlreadyExists,
        Reason::Conflict,
        Reason::Gone,
        Reason::Invalid,
        Reason::ServerTimeout,
        Reason::Timeout,
        Reason::TooManyRequests,
        Reason::BadRequest,
        Reason::MethodNotAllowed,
        Reason::NotAcceptable,
        Reason::RequestEntityTooLarge,
        Reason::UnsupportedMediaType,
        Reason::InternalError,
        Reason::Expired,
        Reason::ServiceUnavailable,
    ];

    /// The word on the wire; empty for `Unknown`.
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unknown => "",
            Reason::Unauthorized => "Unauthorized",
            Reason::Forbidden => "Forbidden",
            Reason::NotFound => "NotFound",
            Reason::AlreadyExists => "AlreadyExists",
            Reason::Conflict => "Conflict",
            Reason::Gone => "Gone",
            Reason::Invalid => "Invalid",
            Reason::ServerTimeout => "ServerTimeout",
            Reason::Timeout => "Timeout",
            Reason::TooManyRequests => "TooManyRequests",
            Reason::BadRequest => "BadRequest",
            Reason::MethodNotAllowed => "MethodNotAllowed",
            Reason::NotAcceptable => "NotAcceptable",
            Reason::RequestEntityTooLarge => "RequestEntityTooLarge",
            Reason::UnsupportedMediaType => "UnsupportedMediaType",
            Reason::InternalError => "InternalError",
            Reason::Expired => "Expired",
            Reason::ServiceUnavailable => "ServiceUnavailable",
        }
    }

    /// The reason with a word on the wire, if it is one of these.
    pub fn of(word: &str) -> Option<Reason> {
        Reason::ALL.into_iter().find(|reason| reason.as_str() == word)
    }

    fn code(self) -> u16 {
        match self {
            Reason::BadRequest => 400,
            Reason::Unauthorized => 401,
            Reason::Forbidden => 403,
            Reason::NotFound => 404,
            Reason::MethodNotAllowed => 405,
            Reason::NotAcceptable => 406,
            Reason::AlreadyExists | Reason::Conflict => 409,
            Reason::Gone | Reason::Expired => 410,
            Reason::RequestEntityTooLarge => 413,
            Reason::UnsupportedMediaType => 415,
            Reason::Invalid => 422,
            Reason::TooManyRequests => 429,
            Reason::Unknown | Reason::ServerTimeout | Reason::InternalError => 500,
            Reason::ServiceUnavailable => 503,
            Reason::Timeout => 504,
        }
    }
}

/// One entry of `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueInvalid`; may be empty.
    pub reason: String,
    /// What is wrong.
    pub message: String,
    /// The field, or empty.
    pub field: String,
}

/// `status.details`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details {
    /// The object's name, or empty.
    pub name: String,
    /// The group, or empty.
    pub group: String,
    /// The kind or, as upstream does for most reasons, the plural resource name.
    pub kind: String,
    /// The object's uid, or empty.
    pub uid: String,
    /// One by one.
    pub causes: Vec<Cause>,
    /// 0 when there is no point in telling.
    pub retry_after_seconds: u32,
}

/// A failed request. `Display` is the message.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.0.message)]
pub struct ApiError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    reason: Reason,
    code: u16,
    message: String,
    details: Option<Details>,
}

impl fmt::Debug for ApiError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "ApiError({} {}: {})", self.0.code, self.0.reason.as_str(), self.0.message)
    }
}

/// `deployments.apps`, or `pods` for the core group; kinds likewise.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

fn about(group: &str, kind: &str, name: &str) -> Details {
    Details { group: group.to_owned(), kind: kind.to_owned(), name: name.to_owned(), ..Details::default() }
}

impl ApiError {
    /// Any reason with its usual code and no details.
    pub fn new(reason: Reason, message: impl Into<String>) -> ApiError {
        ApiError(Box::new(Inner { reason, code: reason.code(), message: message.into(), details: None }))
    }

    /// Adds or replaces the details.
    pub fn with_details(mut self, details: Details) -> ApiError {
        self.0.details = Some(details);
        self
    }

    /// Adds one cause.
    pub fn with_cause(mut self, cause: Cause) -> ApiError {
        self.0.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// Replaces the HTTP code.
    pub fn with_code(mut self, code: u16) -> ApiError {
        self.0.code = code;
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(group: &str, plural: &str, name: &str) -> ApiError {
        let message = format!("{} {} not found", qualified(group, plural), go_quote(name));
        ApiError::new(Reason::NotFound, message).with_details(about(group, plural, name))
    }

    /// 404 for a path that leads nowhere.
    pub fn no_such_path() -> ApiError {
        ApiError::new(Reason::NotFound, "the server could not find the requested resource")
            .with_details(Details::default())
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(group: &str, plural: &str, name: &str) -> ApiError {
        let message = format!("{} {} already exists", qualified(group, plural), go_quote(name));
        ApiError::new(Reason::AlreadyExists, message).with_details(about(group, plural, name))
    }

    /// 409 when names made from `generateName` keep colliding.
    pub fn generate_name_conflict(group: &str, plural: &str, name: &str, retry_after: u32) -> ApiError {
        let message = format!(
            "{} {} already exists, the server was not able to generate a unique name for the object",
            qualified(group, plural),
            go_quote(name)
        );
        let details = Details { retry_after_seconds: retry_after, ..about(group, plural, name) };
        ApiError::new(Reason::AlreadyExists, message).with_details(details)
    }

    /// 409: `Operation cannot be fulfilled on pods "x": WHY`.
    pub fn conflict(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> ApiError {
        let resource = qualified(group, plural);
        let message = format!("Operation cannot be fulfilled on {resource} {}: {why}", go_quote(name));
        ApiError::new(Reason::Conflict, message).with_details(about(group, plural, name))
    }

    /// 409 for a stale `resourceVersion`.
    pub fn stale(group: &str, plural: &str, name: &str) -> ApiError {
        let why =
            "the object has been modified; please apply your changes to the latest version and try again";
        ApiError::conflict(group, plural, name, why)
    }

    /// 422: `Deployment.apps "x" is invalid: …` with one cause for each field error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: impl Into<Vec<FieldError>>) -> ApiError {
        let errors: Vec<FieldError> = errors.into();
        let mut message = format!("{} {} is invalid", qualified(group, kind), go_quote(name));
        if !errors.is_empty() {
            message.push_str(": ");
            message.push_str(&field::aggregate(&errors));
        }
        let causes = errors
            .into_iter()
            .map(|error| Cause {
                reason: error.kind.reason().to_owned(),
                message: error.body(),
                field: error.field,
            })
            .collect();
        ApiError::new(Reason::Invalid, message).with_details(Details { causes, ..about(group, kind, name) })
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> ApiError {
        ApiError::new(Reason::BadRequest, message)
    }

    /// 403: `pods "x" is forbidden: WHY`; without a name `pods is forbidden: WHY`.
    pub fn forbidden(group: &str, plural: &str, name: &str, why: impl fmt::Display) -> ApiError {
        let message = match (plural, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{} is forbidden: {why}", qualified(group, plural)),
            _ => format!("{} {} is forbidden: {why}", qualified(group, plural), go_quote(name)),
        };
        ApiError::new(Reason::Forbidden, message).with_details(about(group, plural, name))
    }

    /// 401. Says no more than that, so that nothing is learned from it.
    pub fn unauthorized() -> ApiError {
        ApiError::new(Reason::Unauthorized, "Unauthorized")
    }

    /// 405: `create is not supported on resources of kind "pods"`.
    pub fn method_not_supported(group: &str, plural: &str, verb: &str) -> ApiError {
        let resource = go_quote(&qualified(group, plural));
        let message = format!("{verb} is not supported on resources of kind {resource}");
        ApiError::new(Reason::MethodNotAllowed, message).with_details(about(group, plural, ""))
    }

    /// 405 for a method that a path does not know at all.
    pub fn method_not_allowed() -> ApiError {
        let message = "the server does not allow this method on the requested resource";
        ApiError::new(Reason::MethodNotAllowed, message).with_details(Details::default())
    }

    /// 406 with the media types that would do.
    pub fn not_acceptable(accepted: &[&str]) -> ApiError {
        let list = accepted.join(", ");
        ApiError::new(Reason::NotAcceptable, format!("only the following media types are accepted: {list}"))
    }

    /// 410: a continue token or `resourceVersion` that is too old.
    pub fn expired(message: impl Into<String>) -> ApiError {
        ApiError::new(Reason::Expired, message)
    }

    /// 410 in the words of a watch or list that starts too far back.
    pub fn too_old_resource_version(asked: u64, oldest: u64) -> ApiError {
        ApiError::expired(format!("too old resource version: {asked} ({oldest})"))
    }

    /// 410: what is asked for is gone and will not come back.
    pub fn gone(message: impl Into<String>) -> ApiError {
        ApiError::new(Reason::Gone, message)
    }

    /// 413: `Request entity too large: WHY`.
    pub fn too_large(why: impl fmt::Display) -> ApiError {
        ApiError::new(Reason::RequestEntityTooLarge, format!("Request entity too large: {why}"))
    }

    /// 413 for a body over the limit, in upstream's words.
    pub fn body_too_large(limit: usize) -> ApiError {
        ApiError::too_large(format_args!("limit is {limit}"))
    }

    /// 415 with the media types that would do.
    pub fn unsupported_media_type(accepted: &[&str]) -> ApiError {
        let list = accepted.join(", ");
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {list}"
        );
        ApiError::new(Reason::UnsupportedMediaType, message)
    }

    /// 429; the caller also sets the `Retry-After` header from `retry_after_seconds`.
    pub fn too_many_requests(message: impl Into<String>, retry_after: u32) -> ApiError {
        ApiError::new(Reason::TooManyRequests, message)
            .with_details(Details { retry_after_seconds: retry_after, ..Details::default() })
    }

    /// 500: `Internal error occurred: WHY`.
    pub fn internal(why: impl fmt::Display) -> ApiError {
        let cause = Cause { message: why.to_string(), ..Cause::default() };
        ApiError::new(Reason::InternalError, format!("Internal error occurred: {why}")).with_cause(cause)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> ApiError {
        ApiError::new(Reason::ServiceUnavailable, message)
    }

    /// 504: `Timeout: WHY`.
    pub fn timeout(why: impl fmt::Display, retry_after: u32) -> ApiError {
        ApiError::new(Reason::Timeout, format!("Timeout: {why}"))
            .with_details(Details { retry_after_seconds: retry_after, ..Details::default() })
    }

    /// 500 that is worth trying again.
    pub fn server_timeout(group: &str, plural: &str, verb: &str, retry_after: u32) -> ApiError {
        let resource = qualified(group, plural);
        let message = format!(
            "The {verb} operation against {resource} could not be completed at this time, please try again."
        );
        let details = Details { retry_after_seconds: retry_after, ..about(group, plural, "") };
        ApiError::new(Reason::ServerTimeout, message).with_details(details)
    }

    /// The HTTP code.
    pub fn code(&self) -> u16 {
        self.0.code
    }

    /// The reason.
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The message.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The details, if any.
    pub fn details(&self) -> Option<&Details> {
        self.0.details.as_ref()
    }

    /// Seconds for the `Retry-After` header, if the client should come again.
    pub fn retry_after(&self) -> Option<u32> {
        self.details().map(|details| details.retry_after_seconds).filter(|seconds| *seconds > 0)
    }

    /// The whole `Status` object.
    pub fn to_value(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.0.message, "code": self.0.code,
        });
        if self.0.reason != Reason::Unknown {
            status["reason"] = self.0.reason.as_str().into();
        }
        if let Some(details) = &self.0.details {
            status["details"] = details.to_value();
        }
        status
    }

    /// The whole `Status` object as JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.to_value().to_string().into_bytes()
    }
}

impl Details {
    /// As JSON, without what is empty.
    pub fn to_value(&self) -> Value {
        let mut details = Map::new();
        let texts = [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)];
        for (key, text) in texts {
            if !text.is_empty() {
                details.insert(key.to_owned(), text.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            details.insert("causes".to_owned(), self.causes.iter().map(Cause::to_value).collect());
        }
        if self.retry_after_seconds > 0 {
            details.insert("retryAfterSeconds".to_owned(), self.retry_after_seconds.into());
        }
        Value::Object(details)
    }
}

impl Cause {
    fn to_value(&self) -> Value {
        let mut cause = Map::new();
        for (key, text) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !text.is_empty() {
                cause.insert(key.to_owned(), text.as_str().into());
            }
        }
        Value::Object(cause)
    }
}

/// The `Status` that answers a successful deletion or other request without an object of its own.
pub fn success(details: Option<&Details>) -> Value {
    let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"});
    if let Some(details) = details {
        status["details"] = details.to_value();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Errors, Path};

    #[test]
    fn invalid_has_causes() {
        let mut errors = Errors::new();
        errors.invalid(&Path::new("spec").child("replicas"), -1, "must be greater than or equal to 0");
        let one = ApiError::invalid("apps", "Deployment", "x", errors.clone());
        assert_eq!(
            one.message(),
            "Deployment.apps \"x\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        assert_eq!(
            one.to_value(),
            json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "code": 422,
                "reason": "Invalid", "message": one.message(),
                "details": {"name": "x", "group": "apps", "kind": "Deployment", "causes": [{
                    "reason": "FieldValueInvalid", "field": "spec.replicas",
                    "message": "Invalid value: -1: must be greater than or equal to 0",
                }]},
            })
        );
        errors.required(&Path::new("spec").child("selector"), "");
        let two = ApiError::invalid("", "Pod", "", errors);
        assert_eq!(
            two.message(),
            "Pod \"\" is invalid: [spec.replicas: Invalid value: -1: must be greater than or equal to 0, \
             spec.selector: Required value]"
        );
    }

    #[test]
    fn wording() {
        let cases = [
            (ApiError::not_found("apps", "deployments", "x"), 404, "deployments.apps \"x\" not found"),
            (ApiError::already_exists("", "pods", "x"), 409, "pods \"x\" already exists"),
            (ApiError::forbidden("", "pods", "", "no"), 403, "pods is forbidden: no"),
            (ApiError::forbidden("", "pods", "x", "no"), 403, "pods \"x\" is forbidden: no"),
            (
                ApiError::method_not_supported("", "pods", "create"),
                405,
                "create is not supported on resources of kind \"pods\"",
            ),
            (ApiError::body_too_large(3145728), 413, "Request entity too large: limit is 3145728"),
            (ApiError::internal("x"), 500, "Internal error occurred: x"),
        ];
        for (error, code, message) in cases {
            assert_eq!((error.code(), error.message()), (code, message));
            assert_eq!(error.to_value()["code"], code);
        }
        assert_eq!(ApiError::too_many_requests("later", 3).retry_after(), Some(3));
    }
}
