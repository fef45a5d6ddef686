//! `exec`, `attach` and `portforward` of pods: which stream of which kubelet is asked for. What is spoken over it (SPDY or
//! WebSocket, and which version of what is inside) is between the client and whoever runs the pod; nothing is looked into.

use api_machinery::meta;
use api_machinery::status::ApiError;
use serde_json::{Value, json};

use super::kubelet::of_pod;
use super::log::{container, encode, query_of};
use super::target::{Request, Target};
use crate::request::authorize;
use crate::request::route::ResourceCall;
use crate::server::ApiServer;
use crate::types::{Lookup, RequestInfo};

/// Whether a subresource is a stream to a pod.
pub fn is_stream(subresource: &str) -> bool {
    matches!(subresource, "exec" | "attach" | "portforward")
}

/// Whoever opens a stream changes something, whatever method he asks with: WebSockets begin with GET.
pub async fn authorize(server: &ApiServer, call: &ResourceCall) -> Result<(), ApiError> {
    if call.info.verb == "create" {
        return Ok(());
    }
    let info = RequestInfo { verb: "create".to_owned(), ..call.info.clone() };
    authorize::check(server, &call.user, &info).await
}

/// The options of a call as admission sees them.
///
/// # Errors
/// A port is no number.
pub fn options(call: &ResourceCall, kind: &str) -> Result<Value, ApiError> {
    let query = &call.query;
    let mut options = json!({"kind": kind, "apiVersion": "v1"});
    if call.info.subresource == "portforward" {
        let ports = query.integers("ports")?;
        if !ports.is_empty() {
            options["ports"] = ports.into();
        }
        return Ok(options);
    }
    for field in ["stdin", "stdout", "stderr", "tty"] {
        if query.flag(field) {
            options[field] = true.into();
        }
    }
    if let Some(name) = query.get("container").filter(|name| !name.is_empty()) {
        options["container"] = name.into();
    }
    if call.info.subresource == "exec" {
        options["command"] = query.all("command").collect::<Vec<_>>().into();
    }
    Ok(options)
}

/// What a call comes to.
pub async fn of(server: &ApiServer, call: &ResourceCall) -> Result<Request, ApiError> {
    let name = &call.info.name;
    let pod = server.cache().get("", "pods", &call.namespace, name).await?;
    let pod = pod.ok_or_else(|| ApiError::not_found("", "pods", name))?;
    let (namespace, name) = (encode(meta::namespace(&pod)), encode(meta::name(&pod)));
    let (query, mut pairs): (_, Vec<(&str, String)>) = (&call.query, Vec::new());
    let path = if call.info.subresource == "portforward" {
        pairs.extend(query.integers("ports")?.iter().map(|port| ("port", port.to_string())));
        format!("/portForward/{namespace}/{name}")
    } else {
        let container = encode(&container(call, &pod)?);
        for (field, asked) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
        {
            if query.flag(field) {
                pairs.push((asked, "1".to_owned()));
            }
        }
        if call.info.subresource == "exec" {
            pairs.extend(query.all("command").map(|word| ("command", word.to_owned())));
        }
        format!("/{}/{namespace}/{name}/{container}", call.info.subresource)
    };
    let kubelet = of_pod(server, &pod).await?;
    Ok(Request { target: Target::Kubelet(kubelet), path_and_query: format!("{path}{}", query_of(&pairs)) })
}
