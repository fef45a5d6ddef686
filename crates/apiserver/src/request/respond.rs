//! The last stage: an answer becomes bytes in the shape and format that the client asked for.
//!
//! Plain JSON goes out as it is stored, with the revision spliced in; only tables, metadata and YAML are made from
//! values.

use std::sync::Arc;

use api_machinery::decode::Format;
use api_machinery::negotiate::Transform;
use api_machinery::status::ApiError;
use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::negotiate::Accept;
use super::pieces::{self, Gzip};
use super::route::ResourceCall;
use crate::custom::convert;
use crate::registry::Page;
use crate::server::ApiServer;
use crate::table;
use crate::types::{Body, Permit};
use crate::watch::{Cached, WatchPlan, watch_body};

/// Bodies from this size on are compressed for clients that can read it.
pub const COMPRESS_FROM: usize = 128 << 10;

/// What a verb comes to.
pub struct Answer {
    code: StatusCode,
    warnings: Vec<String>,
    what: What,
}

enum What {
    Object(Arc<Cached>),
    Value(Value),
    List(Page),
    Watch(Box<WatchPlan>),
    Whole(Response<Body>),
}

impl Answer {
    fn new(what: What) -> Answer {
        Answer { code: StatusCode::OK, warnings: Vec::new(), what }
    }

    /// A stored object.
    pub fn object(object: Arc<Cached>) -> Answer {
        Answer::new(What::Object(object))
    }

    /// Something computed.
    pub fn value(value: Value) -> Answer {
        Answer::new(What::Value(value))
    }

    /// A list.
    pub fn list(page: Page) -> Answer {
        Answer::new(What::List(page))
    }

    /// A watch.
    pub fn watch(plan: WatchPlan) -> Answer {
        Answer::new(What::Watch(Box::new(plan)))
    }

    /// A response that is finished already, such as a stream from elsewhere.
    pub fn whole(response: Response<Body>) -> Answer {
        Answer::new(What::Whole(response))
    }

    /// Another code than 200.
    pub fn with_code(mut self, code: StatusCode) -> Answer {
        self.code = code;
        self
    }

    /// Adds `Warning` headers.
    pub fn with_warnings(mut self, warnings: Vec<String>) -> Answer {
        self.warnings.extend(warnings);
        self
    }
}

/// Writes an answer. The permit is given back when the head of the response is ready: bodies are pulled by the client
/// at its own pace and must not keep others out. What streams from elsewhere keeps its permit, which is one for streams, and
/// long lists have places of their own.
pub async fn send(
    server: &Arc<ApiServer>,
    call: &ResourceCall,
    answer: Answer,
    permit: Permit,
) -> Result<Response<Body>, ApiError> {
    let Answer { code, warnings, what } = answer;
    let mut permit = Some(permit);
    let mut response = match what {
        What::Object(object) => {
            let shown = convert::shown(server, call, vec![object]).await?;
            one(server, call, &shown[0])?
        }
        What::Value(value) => value_response(&value, call.accept),
        What::List(mut page) => {
            page.objects = convert::shown(server, call, page.objects).await?;
            pieces::list(server, call, page)?
        }
        What::Watch(plan) => watch(server, call, *plan)?,
        What::Whole(response) => match permit.take() {
            Some(permit) => response.map(|body| held(body, permit)),
            None => response,
        },
    };
    if code != StatusCode::OK {
        *response.status_mut() = code;
    }
    warn(&mut response, call.deprecation.as_slice());
    warn(&mut response, &warnings);
    drop(permit);
    Ok(response)
}

/// Adds `Warning` headers.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for warning in warnings.iter().take(super::decode::MAX_WARNINGS) {
        if let Some(value) = warning_header(warning) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

/// A body that keeps something, such as its permit, until it ends or nobody reads it any more.
pub fn held(body: Body, kept: impl Send + 'static) -> Body {
    let hold = move |frame| {
        let _held = &kept;
        frame
    };
    body.map_frame(hold).boxed_unsync()
}

/// RFC 7234: code 299, no agent, a quoted text.
fn warning_header(text: &str) -> Option<HeaderValue> {
    let clean: String = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect();
    let quoted = clean.replace('\\', "\\\\").replace('"', "\\\"");
    HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()).ok()
}

fn one(server: &ApiServer, call: &ResourceCall, object: &Arc<Cached>) -> Result<Response<Body>, ApiError> {
    let plain = call.accept.transform == Transform::None && !call.is_view();
    if plain && call.accept.format == Format::Json {
        let mut out = BytesMut::with_capacity(object.bytes.len() + 64);
        object.write_json(&mut out);
        return Ok(whole(out.freeze(), call.accept));
    }
    let value = shown(call, object)?;
    let value = match call.accept.transform {
        Transform::None => value,
        Transform::Table => table::table(server, call, std::slice::from_ref(&value), None),
        Transform::PartialObjectMetadata | Transform::PartialObjectMetadataList => table::metadata_of(&value),
    };
    Ok(value_response(&value, call.accept))
}

/// An object as a value in the version of the path.
pub fn shown(call: &ResourceCall, object: &Cached) -> Result<Value, ApiError> {
    let value = object.value().ok_or_else(|| ApiError::internal("a stored object does not decode"))?;
    Ok(call.to_view(Arc::unwrap_or_clone(value)))
}

fn watch(server: &Arc<ApiServer>, call: &ResourceCall, plan: WatchPlan) -> Result<Response<Body>, ApiError> {
    if call.accept.format != Format::Json {
        return Err(ApiError::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let render = table::render(server, call);
    let request = plan.with(server.cache().clone(), render, server.shutdown().clone());
    Ok(head(Format::Json, watch_body(request)))
}

/// An answer that is a value.
pub fn value_response(value: &Value, accept: Accept) -> Response<Body> {
    let bytes = match accept.format {
        Format::Json => value.to_string().into_bytes(),
        Format::Yaml => crate::yaml::to_string(value).into_bytes(),
    };
    whole(bytes.into(), accept)
}

/// A body in one piece, compressed when that pays.
pub fn whole(bytes: Bytes, accept: Accept) -> Response<Body> {
    if accept.gzip && bytes.len() >= COMPRESS_FROM {
        let mut response = head(accept.format, pieces::streamed(Gzip::new(std::iter::once(bytes))));
        response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        return response;
    }
    head(accept.format, full(bytes))
}

/// A body of these bytes.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A response with this body, and nothing else decided.
pub fn head(format: Format, body: Body) -> Response<Body> {
    let media = match format {
        Format::Json => "application/json",
        Format::Yaml => "application/yaml",
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// Plain text, for health checks and the like.
pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(text));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A `Status` for what went wrong. Always JSON, which every client reads.
pub fn error(error: &ApiError) -> Response<Body> {
    let mut response = head(Format::Json, full(error.to_bytes()));
    *response.status_mut() = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if let Some(seconds) = error.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    response
}

/// The same response without its body, as HEAD wants it.
pub fn without_body(response: Response<Body>) -> Response<Body> {
    let (parts, _) = response.into_parts();
    Response::from_parts(parts, full(Bytes::new()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_kept_for_as_long_as_the_body_is() {
        let place = Arc::new(());
        let body = held(full(Bytes::from_static(b"a")), Permit::holding(place.clone()));
        assert_eq!(Arc::strong_count(&place), 2);
        drop(body);
        assert_eq!(Arc::strong_count(&place), 1);
    }

    #[test]
    fn warnings_stay_in_their_header() {
        let value = warning_header("unknown field \"a\"\r\nX: y").expect("a value");
        assert_eq!(value.as_bytes(), b"299 - \"unknown field \\\"a\\\"  X: y\"");
    }
}
