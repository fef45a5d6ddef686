//! `pods/NAME/log`: the log of a container, from its kubelet.
//!
//! What a kubelet answers is passed on only when it is an answer: never a redirect.

use std::sync::Arc;
use std::time::Duration;

use api_machinery::field::{Errors, Path};
use api_machinery::meta;
use api_machinery::status::{ApiError, Details, Reason};
use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;

use super::kubelet::{KubeletAddress, of_pod};
use crate::registry::current;
use crate::request::respond::{Answer, full};
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::Body;

/// How much of a kubelet's explanation is passed on, and how long it may take to give it.
const EXPLANATION: usize = 10 << 10;
const EXPLANATION_TIME: Duration = Duration::from_secs(5);

/// `pods/NAME/log`.
pub async fn log(server: &Arc<ApiServer>, call: &ResourceCall) -> Result<Answer, ApiError> {
    let options = log_options(call)?;
    let pod = current(server, call).await?.and_then(|pod| pod.value());
    let pod = pod.ok_or_else(|| crate::registry::not_found(call))?;
    let container = container(call, &pod)?;
    let kubelet = of_pod(server, &pod).await?;
    let path = format!(
        "/containerLogs/{}/{}/{}{options}",
        encode(meta::namespace(&pod)),
        encode(meta::name(&pod)),
        encode(&container)
    );
    let request = Request::get(&path).header(HOST, &kubelet.node).header(ACCEPT, "*/*");
    let request = request.body(full(Bytes::new())).map_err(ApiError::internal)?;
    let answer = server.kubelets().send(server.routes(), &kubelet, request).await.map_err(|error| {
        let text = format!("Get \"https://{}{path}\": {error}", kubelet.socket());
        ApiError::new(Reason::Unknown, text).with_code(StatusCode::INTERNAL_SERVER_ERROR.as_u16())
    })?;
    pass_on(&kubelet, &call.info.name, answer.response).await.map(Answer::whole)
}

/// What a kubelet said, unless it tries to send the server elsewhere; what it refuses becomes a `Status`.
async fn pass_on(
    kubelet: &KubeletAddress,
    pod: &str,
    answer: Response<Body>,
) -> Result<Response<Body>, ApiError> {
    let (parts, body) = answer.into_parts();
    if parts.status.is_redirection() || parts.status.is_informational() {
        return Err(kubelet.redirected(parts.status));
    }
    if !parts.status.is_success() {
        return Err(refusal(pod, parts.status, &explanation(body).await));
    }
    let mut response = Response::new(body);
    let plain = HeaderValue::from_static("text/plain");
    let media = parts.headers.get(CONTENT_TYPE).cloned().unwrap_or(plain);
    response.headers_mut().insert(CONTENT_TYPE, media);
    Ok(response)
}

fn refusal(pod: &str, code: StatusCode, text: &str) -> ApiError {
    match code {
        StatusCode::BAD_REQUEST => ApiError::bad_request(text),
        StatusCode::NOT_FOUND => {
            let error = ApiError::new(
                Reason::NotFound,
                format!("the server could not find the requested resource ({text})"),
            );
            error.with_details(Details {
                name: pod.to_owned(),
                kind: "pods".to_owned(),
                ..Details::default()
            })
        }
        StatusCode::INTERNAL_SERVER_ERROR => ApiError::internal(text),
        other => ApiError::new(Reason::Unknown, format!("the kubelet answered {other}: {text}"))
            .with_code(other.as_u16()),
    }
}

/// The beginning of a body that says why, within bounds.
async fn explanation(mut body: Body) -> String {
    let mut text = Vec::new();
    let reading = tokio::time::timeout(EXPLANATION_TIME, async {
        while let Some(Ok(frame)) = body.frame().await {
            text.extend_from_slice(&frame.into_data().unwrap_or_default());
            if text.len() > EXPLANATION {
                break;
            }
        }
    });
    if reading.await.is_err() {
        tracing::debug!("a kubelet did not finish its explanation");
    }
    text.truncate(EXPLANATION);
    String::from_utf8_lossy(&text).trim().to_owned()
}

/// The query for the kubelet, from `PodLogOptions`.
fn log_options(call: &ResourceCall) -> Result<String, ApiError> {
    let query = &call.query;
    let mut errors = Errors::new();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for flag in ["follow", "previous", "timestamps"] {
        if query.flag(flag) {
            pairs.push((flag, "true".to_owned()));
        }
    }
    for (field, least) in [("tailLines", 0), ("limitBytes", 1), ("sinceSeconds", 1)] {
        let Some(number) = query.integer(field)? else { continue };
        if number < least {
            let detail =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            errors.invalid(&Path::new(field), number, detail);
        }
        pairs.push((field, number.to_string()));
    }
    if let Some(time) = query.get("sinceTime").filter(|time| !time.is_empty()) {
        if api_machinery::clock::parse(time).is_none() {
            return Err(ApiError::bad_request(format!("sinceTime: {time:?} is not a time in RFC 3339 form")));
        }
        if pairs.iter().any(|(field, _)| *field == "sinceSeconds") {
            let detail = "at most one of `sinceTime` or `sinceSeconds` may be specified";
            errors.forbidden(&Path::new("sinceSeconds"), detail);
        }
        pairs.push(("sinceTime", time.to_owned()));
    }
    if let Some(stream) = query.get("stream").filter(|stream| !stream.is_empty()) {
        if !matches!(stream, "All" | "Stdout" | "Stderr") {
            errors.not_supported(&Path::new("stream"), stream, &["All", "Stderr", "Stdout"]);
        }
        pairs.push(("stream", stream.to_owned()));
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", &call.info.name, errors));
    }
    Ok(query_of(&pairs))
}

/// Text in a path or a query.
pub fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A query with its question mark, or nothing.
pub fn query_of(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<String> =
        pairs.iter().map(|(field, value)| format!("{field}={}", encode(value))).collect();
    if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) }
}

fn names<'a>(pod: &'a Value, field: &str) -> Vec<&'a str> {
    let list = pod.get("spec").and_then(|spec| spec.get(field)).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|container| container.get("name")?.as_str()).collect()
}

/// The container that is asked for, or the only one.
pub fn container(call: &ResourceCall, pod: &Value) -> Result<String, ApiError> {
    let containers = names(pod, "containers");
    let (init, ephemeral) = (names(pod, "initContainers"), names(pod, "ephemeralContainers"));
    let pod_name = meta::name(pod);
    match call.query.get("container").filter(|name| !name.is_empty()) {
        Some(name) => {
            let known = containers.iter().chain(&init).chain(&ephemeral).any(|other| *other == name);
            if known {
                return Ok(name.to_owned());
            }
            Err(ApiError::bad_request(format!("container {name} is not valid for pod {pod_name}")))
        }
        None => match containers.as_slice() {
            [only] => Ok((*only).to_owned()),
            several => {
                let mut text = format!(
                    "a container name must be specified for pod {pod_name}, choose one of: [{}]",
                    several.join(" ")
                );
                if !init.is_empty() {
                    text.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                if !ephemeral.is_empty() {
                    text.push_str(&format!(" or one of the ephemeral containers: [{}]", ephemeral.join(" ")));
                }
                Err(ApiError::bad_request(text))
            }
        },
    }
}
